"""A frame of execution: the values of one block (or of one role of it), and how ops are run on
them.

Values are NumPy scalars (one for the whole block: uniform), arrays over the lanes of a simt region
or a Parallel, tiles, `Memory` handles and the objects of pipelines. Regions run as generators, so
that a role can wait for another: whatever a region yields is a `Waiting`, and it is resumed once
that is ready.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UNKNOWN, ExecutionError, Loc
from ..ir.core import Block, Constant, Op, Value, constant_of
from ..ir.ops.arith import DIVISIONS
from ..ir.ops.control import Role
from ..ir.registry import Registry
from ..ir.types import ScalarType, TileType
from .lanes import Lanes, Lasting
from .memory import Memory
from .numbers import Array, Bits

if TYPE_CHECKING:
    from .blocks import BlockOrder
    from .clocks import Clock

ONE_VALUE = "let it be the same for all threads: compute it from the block's indices and its loops"
"""What to do where one value is needed and threads have several."""

Pair = tuple[Any, Bits | None]
"""A value with the shadow bits of its uninitialised elements (None: it has none)."""

Rule = Callable[["Frame", Op], "Generator[Waiting, None, None] | None"]
"""What an op does: sets its results with `frame.define`. A generator function if it has regions or
may wait.
"""


@dataclass(frozen=True)
class Finding:
    """Something that is not an error but worth knowing: a code, a sentence and a place."""

    code: str
    message: str
    loc: Loc = UNKNOWN


@dataclass(frozen=True, eq=False)
class Waiting:
    """A role or block that can go on once `ready` says so; `what` says for what, in the user's names,
    and `state` how things stand there when it is asked. One that `polls` may try again earlier.
    """

    frame: Frame
    what: str
    ready: Callable[[], bool]
    loc: Loc
    state: Callable[[], str] = str
    polls: bool = False


Steps = Generator[Waiting, None, Any]


@dataclass(eq=False)
class Run:
    """What all frames of one execution share."""

    registry: Registry
    random: np.random.Generator
    check_bounds: bool
    remark: Callable[[Finding], None]
    symbols: dict[str, int]
    globals_: dict[Value, Memory] = field(default_factory=dict)
    roles: tuple[Role, ...] = ()  # of the launch that runs
    smallest: dict[Value, int] = field(default_factory=dict)  # bits of elements seen by views
    episode: int = 0
    told: set[tuple[str, Op]] = field(default_factory=set)
    plans: dict[Block, tuple[tuple[Rule, Op], ...]] = field(default_factory=dict)
    lasting: Lasting = field(default_factory=Lasting)
    accesses: dict[Any, Any] = field(default_factory=dict)  # by the ids of lasting indices
    regions: dict[Any, tuple[Any, ...]] = field(default_factory=dict)
    writes: dict[Block, frozenset[Value]] = field(default_factory=dict)
    divided: Loc | None = None  # where an integer was divided by zero last
    mbarriers: list[Any] = field(default_factory=list)  # of the block that runs
    order: BlockOrder | None = None  # of the launch's blocks, where they meet
    changes: int = 0  # of global memory, where blocks meet

    def next_episode(self) -> int:
        self.episode += 1
        return self.episode


@dataclass(frozen=True)
class Place:
    """A block of the grid: its indices, its number and how many there are."""

    index: tuple[int, int, int]
    number: int
    count: int

    def __str__(self) -> str:
        return f"block ({', '.join(map(str, self.index))})"


class Frame:
    """The state of one block or role while its program runs."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.env: dict[Value, Any] = {}
        self.shadow: dict[Value, Bits] = {}
        self.lanes: Lanes | None = None
        self.mask: Bits | None = None  # lanes that are active; None: all
        self.threads = 1
        self.first_thread = 0
        self.place: Place | None = None
        self.launch = 0  # its number, the episode of accesses between blocks
        self.role = ""
        self.clock: Clock | None = None  # present where roles run
        self.written: frozenset[int] | None = (
            None  # identities of storages that the nest or region writes
        )
        self.stretch = 0  # the episode of accesses between threads that have not met
        self.groups: list[Any] = []  # asynchronous matrix products in flight, oldest first
        self.stores: list[list[Any]] = []  # groups of stores by the engine, oldest first
        self.open_stores: list[Any] = []  # of no group yet
        self.meetings: dict[Any, Any] = {}  # hardware barriers shared by the roles of a block
        self.op: Op | None = None
        self.polls: dict[Op, int] = {}  # what had changed when an atomic last ran

    def fork(self) -> Frame:
        """A frame that starts with what this one knows, for a role; private memory is each role's
        own.
        """
        other = Frame(self.run)
        other.env, other.shadow = dict(self.env), dict(self.shadow)
        for v, held in self.env.items():
            if isinstance(held, Memory) and held.storage.lanes:
                other.env[v] = held.with_own_storage()
        other.place, other.launch = self.place, self.launch
        return other

    @contextmanager
    def engine(self, op: Op) -> Iterator[None]:
        """What the copy engine does by itself, for `op`, whatever thread comes meanwhile."""
        held = self.op, self.lanes, self.mask
        self.op, self.lanes, self.mask = op, None, None
        yield
        self.op, self.lanes, self.mask = held

    # Values ------------------------------------------------------------------------------------

    def value(self, v: Value) -> Any:
        """What v holds. Scalars and elements are NumPy data, handles are Memory."""
        try:
            return self.env[v]
        except KeyError:
            return self._absent(v)

    def _absent(self, v: Value) -> Any:
        if isinstance(v, Constant):
            assert isinstance(v.type, ScalarType)
            kind = v.type.dtype.numpy.type
            number = v.value
            self.env[v] = (
                self.run.lasting.scalar(kind, number) if isinstance(number, int) else kind(number)
            )
            return self.env[v]
        raise self.fault(
            "TLC0757",
            f"{v.hint or 'a value'!r} is used before the stage that gives it has run",
            hint="the leads of the stages do not respect what they read from each other",
        )

    def pair(self, v: Value) -> Pair:
        return self.value(v), self.shadow.get(v)

    def define(self, v: Value, data: Any, bad: Bits | None = None) -> None:
        """Sets a value. `bad` marks its uninitialised elements."""
        self.env[v] = data
        if bad is not None:
            self.shadow[v] = bad
        elif self.shadow:
            self.shadow.pop(v, None)

    def define_all(self, values: Sequence[Value], pairs: Sequence[Pair]) -> None:
        for v, (data, bad) in zip(values, pairs, strict=True):
            self.define(v, data, bad)

    def memory(self, v: Value) -> Memory:
        """The handle v holds."""
        found = self.value(v)
        assert isinstance(found, Memory), f"{v!r} is not memory"
        return found

    def tile(self, v: Value) -> Array:
        """A tile's elements. Raises ExecutionError for one that is still in flight."""
        found = self.value(v)
        if not isinstance(found, (np.ndarray, np.generic)):
            raise self.fault(
                "TLC0755",
                f"tile {v.hint or '?'!r} is used while a gemm is still writing it",
                hint="only the next asynchronous gemm on it, or wait, may use it",
            )
        return np.asarray(found)

    def number(self, v: Value, use: str) -> int:
        """A scalar that is the same for the whole block, as a Python number."""
        env = self.env
        data = env[v] if v in env else self.value(v)
        if self.shadow and v in self.shadow:
            self.refuse_bad(self.shadow[v], use)
        if data.ndim:
            raise self.fault(
                "TLC0746",
                f"{use} differs between {self.lanes.kind if self.lanes else 'thread'}s here",
                hint=ONE_VALUE,
            )
        return int(data)

    def arrive(self, bad: Bits | None, use: str) -> None:
        """Raises ExecutionError if an active lane's value with shadow bits `bad` reaches `use`."""
        if bad is not None:
            self.refuse_bad(bad, use)

    def refuse_bad(self, bad: Any, use: str) -> None:
        if self.mask is not None:
            bad = np.logical_and(bad, self.mask)
        if not np.any(bad):
            return
        where = ""
        if self.lanes is not None:
            full = np.broadcast_to(bad, self.lanes.shape)
            where = f" in {self.lanes.describe(int(np.flatnonzero(full)[0]))}"
        elif np.ndim(bad):
            where = f" at element {element(np.argwhere(bad)[0])}"
        hint = (
            "give every element a value first: T.clear, T.fill, T.copy, or the loop that assigns it"
        )
        if self.run.divided is not None:
            hint = f"a division by zero, which gives no value, was made at {self.run.divided}"
        raise self.fault("TLC0743", f"an uninitialised value reaches {use}{where}", hint=hint)

    def meet(self) -> None:
        """Threads meet, or something else orders what they do."""
        self.stretch = self.run.next_episode()

    # Running -----------------------------------------------------------------------------------

    def execute(self, block: Block) -> Generator[Waiting, None, list[Pair]]:
        """Runs a block; gives the values of its terminator."""
        plans = self.run.plans
        plan = plans.get(block)
        if plan is None:
            plan = plans[block] = prepare(block, self.run.registry)
        for rule, op in plan:
            self.op = op
            outcome = rule(self, op)
            if outcome is not None:
                yield from outcome
        end = block.terminator
        return [self.pair(v) for v in end.inputs] if end is not None else []

    def execute_op(self, op: Op) -> Steps:
        """Runs one op that stands in a block which is not run from top to bottom."""
        self.op = op
        outcome = (self.run.registry.lookup("interpret", type(op)) or evaluator(op))(self, op)
        if outcome is not None:
            yield from outcome

    def fault(self, code: str, message: str, *, hint: str = "") -> ExecutionError:
        """An error at the op that runs."""
        where = (
            f" ({self.role}, {self.place})"
            if self.role
            else f" ({self.place})"
            if self.place
            else ""
        )
        loc = self.op.loc if self.op is not None else UNKNOWN
        return ExecutionError(code, message + where, loc=loc, hint=hint)

    def remark(self, code: str, message: str) -> None:
        """Tells of something at the op that runs, once for each op."""
        assert self.op is not None
        if (code, self.op) not in self.run.told:
            self.run.told.add((code, self.op))
            self.run.remark(Finding(code, message, self.op.loc))


def element(index: Any) -> str:
    """An index in brackets."""
    return "[" + ", ".join(str(int(i)) for i in np.atleast_1d(index)) + "]"


def prepare(block: Block, registry: Registry) -> tuple[tuple[Rule, Op], ...]:
    """The rule of every op of a block but its terminator; roles that stand side by side are one
    step.
    """
    from .roles import run_roles

    found: list[tuple[Rule, Op]] = []
    roles: list[Role] = []
    for op in block.ops:
        if op.terminator:
            continue
        if isinstance(op, Role):
            if not roles:
                found.append((run_roles(roles), op))
            roles.append(op)
            continue
        found.append((registry.lookup("interpret", type(op)) or evaluator(op), op))
    return tuple(found)


def evaluator(op: Op) -> Rule:
    """The rule of an op without effects or regions that has no rule of its own: its `evaluate`,
    shadow bits beside it.
    """
    if (
        op.regions
        or op.effects()
        or not op.results
        or not all(map(_is_data, (*op.inputs, *op.results)))
    ):
        return _no_meaning
    inputs, results = op.inputs, op.results
    dtypes = [v.type.dtype.numpy for v in results]  # type: ignore[attr-defined]
    scalars = [isinstance(v.type, ScalarType) for v in results]
    if isinstance(op, DIVISIONS) and not constant_of(op.y):
        return _dividing(op)
    if len(results) == 1 and all(map(_is_integer, (*inputs, *results))):
        return _remembering(op, dtypes[0].type)

    def run(frame: Frame, op: Op) -> None:
        env = frame.env
        data = [env[v] if v in env else frame.value(v) for v in inputs]
        found = op.evaluate(*data)
        bad = _union(frame, op) if frame.shadow else None
        outcome = found if len(results) > 1 else (found,)
        for v, dtype, is_scalar, x in zip(results, dtypes, scalars, outcome, strict=True):
            array = x if isinstance(x, (np.generic, np.ndarray)) else np.asarray(x, dtype)
            if array.dtype != dtype:
                array = array.astype(dtype)
            if is_scalar and array.ndim and not any(d.ndim for d in data):
                array = array.reshape(())
            frame.define(v, array, bad)

    return run


def _remembering(op: Op, kind: type[np.generic]) -> Rule:
    """The rule of an op on integers: index arithmetic meets the same operands in every block."""
    inputs, result = op.inputs, op.results[0]
    known: dict[tuple[int, ...], Any] = {}

    def run(frame: Frame, op: Op) -> None:
        env = frame.env
        data = [env[v] if v in env else frame.value(v) for v in inputs]
        key = tuple(map(id, data))
        found = known.get(key)
        if found is None:
            found = op.evaluate(*data)
            lasting = frame.run.lasting
            if all([d in lasting for d in data]):
                if not any([d.ndim for d in data]):
                    found = lasting.scalar(kind, int(found))
                if lasting.keep(found):
                    known[key] = found
            elif not any([d.ndim for d in data]):
                found = kind(found)
        frame.define(result, found, _union(frame, op) if frame.shadow else None)

    return run


def _dividing(op: Op) -> Rule:
    """The rule of a division of integers: a quotient by zero is as uninitialised as memory that was
    never written.
    """
    assert isinstance(op, DIVISIONS)
    divisor, result = op.y, op.result
    kind = result.type.dtype.numpy.type  # type: ignore[attr-defined]

    def run(frame: Frame, op: Op) -> None:
        data = [frame.value(v) for v in op.inputs]
        found = op.evaluate(*data)
        if isinstance(result.type, ScalarType) and not any(np.ndim(d) for d in data):
            found = kind(found)
        bad = _union(frame, op) if frame.shadow else None
        zero = np.equal(frame.value(divisor), 0)
        if np.any(zero):
            zero = np.broadcast_to(zero, np.shape(found))
            bad = zero if bad is None else zero | bad
            frame.run.divided = op.loc
        frame.define(result, found, bad)

    return run


def _is_integer(v: Value) -> bool:
    return isinstance(v.type, ScalarType) and v.type.dtype.kind in ("int", "uint", "bool")


def _is_data(v: Value) -> bool:
    return isinstance(v.type, (ScalarType, TileType))


def _no_meaning(frame: Frame, op: Op) -> None:
    raise frame.fault(
        "TLC0740",
        f"{op.name} has no meaning at the tile level",
        hint='a plugin adds one to registry.table("interpret")',
    )


def _union(frame: Frame, op: Op) -> Bits | None:
    bad: Bits | None = None
    for v in op.inputs:
        mine = frame.shadow.get(v)
        if mine is not None:
            bad = mine if bad is None else np.asarray(np.logical_or(bad, mine))
    return bad
