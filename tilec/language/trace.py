"""The tracing context: which kernel is being built, its open regions, and the cursor of its IR."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CodeType, TracebackType
from typing import Any

from ..errors import LanguageError, Loc
from ..ir.build import Builder
from ..ir.core import Op, Value, at
from ..ir.ops.arith import Elementwise
from ..ir.ops.control import Define, Symbol
from ..ir.types import MemoryType
from .places import locate


@dataclass(eq=False)
class Region:
    """A region of IR that is being filled. A value belongs to the region it was made in, and is
    gone when that closes."""

    kind: str  # "program", "launch", "ws", "parallel", "for", "while", "if", "expression"
    loc: Loc
    open: bool = True
    ops: list[Op] = field(default_factory=list)
    leave: Callable[[], None] | None = None


@dataclass
class LaunchState:
    """What statements say of the launch that is open."""

    thread_shape: tuple[int, ...]  # extents, the first dimension fastest
    bindings: dict[str, Any] = field(default_factory=dict)
    safe_values: dict[Value, float | int] = field(default_factory=dict)  # by global tensor
    panel: int = 0
    order: str = "row"
    persistent: bool | None = None
    group: tuple[int, int] | None = None  # first thread and count of the T.ws that is open

    @property
    def threads(self) -> int:
        """How many the program has in a block."""
        return math.prod(self.thread_shape)

    @property
    def first_thread(self) -> int:
        """The first of the threads that run what stands here."""
        return 0 if self.group is None else self.group[0]

    @property
    def group_threads(self) -> int:
        """How many threads run what stands here: those of the T.ws around, or all."""
        return self.threads if self.group is None else self.group[1]


class Trace:
    """One run of a kernel's function that builds its program."""

    def __init__(self, name: str, constants: Mapping[str, int]) -> None:
        self.name = name
        self.const_dims = dict(constants)
        self.builder = Builder()
        self.regions: list[Region] = [Region("program", Loc())]
        self.launch: LaunchState | None = None
        self.launches = 0
        self.symbols: dict[str, Value | None] = {}  # declared by a tensor; the value once asked for
        self.multiples: dict[str, int] = {}  # what symbols are promised to be multiples of
        self.symbol_ops: list[Op] = []
        self.definitions: dict[Value, Op] = {}  # pure ops by their results
        self.scalars: set[Value] = set()  # the scalar parameters
        self.allocated: list[Value] = []  # global memory that the call allocates
        self.shown: set[Value] = set()  # where threads find elements of fragments
        self.extents: dict[Value, int] = {}  # of loops' indices that count from 0 to a number
        self.active: list[object] = []  # macros being expanded, outermost first
        self.until: CodeType | None = None
        self.left: Loc | None = None  # where the kernel returned a value
        self.annotate: Callable[[str, Any], Any] | None = None

    # Places -----------------------------------------------------------------------------------

    def here(self, loc: Loc | None = None) -> Here:
        """Context: ops built in it, and errors out of it, get the user's present place."""
        return Here(loc or locate(self.until))

    # Regions ----------------------------------------------------------------------------------

    @property
    def region(self) -> Region:
        return self.regions[-1]

    def inside(self, kind: str) -> bool:
        return any(region.kind == kind for region in self.regions)

    def open_region(self, kind: str, loc: Loc) -> Region:
        """Starts collecting into a region of its own."""
        context = self.builder.region()
        region = Region(kind, loc, ops=context.__enter__())

        def leave() -> None:
            context.__exit__(None, None, None)

        region.leave = leave
        self.regions.append(region)
        return region

    def close_region(self, region: Region) -> list[Op]:
        """Stops collecting; what was collected."""
        assert self.regions[-1] is region and region.leave is not None
        region.leave()
        region.open = False
        self.regions.pop()
        return region.ops

    # Ops --------------------------------------------------------------------------------------

    def pure(self, op: Elementwise) -> Value:
        """Appends a pure scalar op, or gives what it is known to be."""
        value = self.builder.pure(op)
        if op.results and value is op.results[0]:
            self.definitions[value] = op
        return value

    def symbol(self, name: str) -> Value:
        """The run-time value of a declared symbol, i32."""
        if name not in self.symbols:
            known = ", ".join(sorted(self.symbols)) or "none"
            raise LanguageError(
                "TLC0126",
                f"no tensor of {self.name} has a dimension {name!r}",
                hint=f"its symbols are: {known}",
            )
        value = self.symbols[name]
        if value is None:
            op = Symbol(label=name)
            self.symbol_ops.append(op)
            value = op.result
            value.hint = name
            self.symbols[name] = value
        return value

    def define(self, label: str, value: Value) -> None:
        """Makes a symbol of a value that is computed before the launches."""
        self.symbols[label] = value  # asked for, it is what it was computed from
        self.builder.emit_outside(Define(value, label=label))

    def promise(self, name: str, multiple: int) -> None:
        """Takes in that a symbol is a multiple of a number, beside what was said before."""
        if multiple > 1:
            self.multiples[name] = math.lcm(multiple, self.multiples.get(name, 1))

    def declare(self, type_: MemoryType) -> None:
        """Makes the symbols of a tensor's shape known, in order."""
        for dim in (*type_.shape, *(type_.strides or ())):
            if isinstance(dim, str):
                self.symbols.setdefault(dim, None)

    def host_values(self) -> set[Value]:
        """What is known before the launches: symbols, scalar parameters, sums and products."""
        ops = (*self.symbol_ops, *self.builder.outermost)
        return self.scalars.union(*(op.results for op in ops if op.pure))

    # Rules ------------------------------------------------------------------------------------

    def need_launch(self, what: str) -> LaunchState:
        """The open launch. Raises LanguageError outside `with T.Kernel`."""
        if self.launch is None:
            raise LanguageError(
                "TLC0118",
                f"{what} stands outside of `with T.Kernel(...)`",
                hint="put it inside",
                loc=locate(self.until),
            )
        return self.launch

    def safe_value(self, memory: Value) -> float | int:
        """What an element outside of a global tensor reads as."""
        return self.launch.safe_values.get(memory, 0.0) if self.launch is not None else 0.0

    def need_tile_level(self, what: str) -> LaunchState:
        """The open launch, where tile ops may stand: not within T.Parallel."""
        launch = self.need_launch(what)
        if self.inside("parallel"):
            raise LanguageError(
                "TLC0120",
                f"{what} is done by the whole block, so it cannot stand in T.Parallel",
                loc=locate(self.until),
                hint="move it out of the nest, or index elements in the nest",
            )
        return launch


class Here:
    """Ops built inside get `loc`, and so do errors that have no place of their own."""

    def __init__(self, loc: Loc) -> None:
        self.loc = loc
        self._at = at(loc)

    def __enter__(self) -> Loc:
        self._at.__enter__()
        return self.loc

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._at.__exit__()
        self.loc.__exit__(kind, error, traceback)


_current: ContextVar[Trace | None] = ContextVar("tilec_trace", default=None)


tracing: Callable[[], Trace | None] = _current.get
"""The trace that runs now, if one does."""


IN_A_KERNEL = "call it in a function decorated with tilec.kernel, or in a T.macro"


def current(what: str, hint: str = IN_A_KERNEL) -> Trace:
    """The trace that runs now. Raises LanguageError where `what` is used outside a kernel."""
    trace = _current.get()
    if trace is None:
        raise LanguageError(
            "TLC0102",
            f"{what} has a meaning only while a kernel is compiled",
            loc=locate(),
            hint=hint,
        )
    return trace


class activate:
    """Context: `trace` is the one that runs."""

    def __init__(self, trace: Trace | None) -> None:
        self.trace = trace

    def __enter__(self) -> None:
        self._token = _current.set(self.trace)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def refuse(code: str, message: str, *, hint: str = "", loc: Loc | None = None) -> LanguageError:
    """A LanguageError at the user's present place, to be raised."""
    trace = _current.get()
    at_ = loc or locate(trace.until if trace is not None else None)
    return LanguageError(code, message, loc=at_, hint=hint)


def close_matches(name: str, names: Iterable[str], prefix: str = "") -> str:
    """A hint that names what was perhaps meant, or nothing."""
    found = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(prefix + one for one in found)}?" if found else ""
