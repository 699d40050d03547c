"""The data model: values, operations declared as dataclasses, blocks, programs.

An operation is one class. Its fields say what they are (`operand`, `operands`, `attribute`,
`region`), and everything generic is derived from them: construction with inferred result types,
printing, parsing, walking, cloning, comparison. Ops and blocks are frozen; passes rebuild them. A
value is its object: identity, a type, a name hint.

    class Splat(Op, name="splat", level=Level.TILE, pure=True):
        '''A tile whose elements are all `value`.'''
        value: Value = operand()
        type: TileType = attribute()

        def infer(self) -> tuple[Type, ...]:
            return (self.type,)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from operator import is_
from typing import Any, ClassVar, dataclass_transform

import numpy as np

from ..errors import UNKNOWN, IRError, Loc
from .conversion import convert_array
from .dtypes import DType
from .types import ScalarType, Type, refines


class Level(Enum):
    """At which level of the pipeline an op may stand. `ANY` for scalars and control flow."""

    TILE = "tile"
    THREAD = "thread"
    ANY = "any"


class Value:
    """An SSA value. Two values are equal only if they are the same object."""

    __slots__ = ("hint", "type")

    def __init__(self, type: Type, hint: str = "") -> None:
        self.type = type
        self.hint = hint

    def __repr__(self) -> str:
        return f"%{self.hint or '?'}: {self.type}"


class Constant(Value):
    """A scalar known at compile time. It needs no op that defines it."""

    __slots__ = ("value",)

    def __init__(self, value: bool | int | float, type: ScalarType) -> None:
        super().__init__(type)
        self.value = value

    def __repr__(self) -> str:
        return f"{self.value}: {self.type}"


class Access(Enum):
    """What an op does to memory."""

    READ = "read"
    WRITE = "write"
    ALLOCATE = "allocate"
    SYNCHRONISE = "synchronise"  # orders memory: barriers, waits, fences


@dataclass(frozen=True)
class Effect:
    """What an op does to memory: `memory` is the operand touched (None: all memory of the block).

    `proxy` is "generic" for a thread's own loads and stores, "async" for engines (TMA, wgmma
    reading shared memory). `atomic` effects of one kind need no order between themselves.
    """

    access: Access
    memory: Value | None = None
    proxy: str = "generic"
    atomic: str = ""


_FIELD_KIND = "tilec.kind"


def operand() -> Any:
    """A field that holds one Value."""
    return field(metadata={_FIELD_KIND: "operand"})


def operands(**options: Any) -> Any:
    """A field that holds a tuple of Values, printed in brackets. With `default=()` (the last field)
    it may be left out.
    """
    return field(metadata={_FIELD_KIND: "operands"}, **options)


def attribute(**options: Any) -> Any:
    """A field that holds compile-time data: numbers, strings, enums, dtypes, types, layouts,
    tuples. Given by keyword.
    """
    return field(metadata={_FIELD_KIND: "attribute"}, kw_only=True, **options)


def region() -> Any:
    """A field that holds a Block."""
    return field(metadata={_FIELD_KIND: "region"})


@dataclass(frozen=True, eq=False)
class Block:
    """A straight list of ops with parameters. Its last op may be a terminator (yield)."""

    params: tuple[Value, ...] = ()
    ops: tuple[Op, ...] = ()

    @property
    def terminator(self) -> Op | None:
        return self.ops[-1] if self.ops and self.ops[-1].terminator else None

    def with_ops(self, ops: Sequence[Op]) -> Block:
        """The block with other ops; itself where they are the same."""
        if len(ops) == len(self.ops) and all(map(is_, ops, self.ops)):
            return self
        return Block(self.params, tuple(ops))


_location: ContextVar[Loc] = ContextVar("tilec_location", default=UNKNOWN)


class at:
    """Context: ops built inside get this location unless they are given one."""

    def __init__(self, loc: Loc) -> None:
        self.loc = loc

    def __enter__(self) -> None:
        self._token = _location.set(self.loc)

    def __exit__(self, *_: object) -> None:
        _location.reset(self._token)


@dataclass_transform(
    field_specifiers=(operand, operands, attribute, region),
    kw_only_default=False,
    frozen_default=True,
)
class Op:
    """Base of all operations. Subclass with `name=`; the subclass becomes a frozen dataclass of its
    fields.
    """

    name: ClassVar[str] = ""
    level: ClassVar[Level] = Level.ANY
    pure: ClassVar[bool] = False  # no effects: may be removed, merged, reordered
    terminator: ClassVar[bool] = False
    fields: ClassVar[tuple[tuple[str, str], ...]] = ()  # (field name, kind) in order
    links: ClassVar[tuple[tuple[str, str], ...]] = ()  # those that hold values or blocks
    defaults: ClassVar[dict[str, Any]] = {}

    # Set by __post_init__, not by the constructor of a subclass:
    loc: Loc
    inputs: tuple[Value, ...]  # all operand values, flat, in order of the fields
    regions: tuple[Block, ...]
    results: tuple[Value, ...]

    def __init_subclass__(
        cls,
        *,
        name: str = "",
        level: Level = Level.ANY,
        pure: bool = False,
        terminator: bool = False,
    ) -> None:
        super().__init_subclass__()
        if not name:
            return  # an abstract family
        cls.name, cls.level, cls.pure, cls.terminator = name, level, pure, terminator
        dataclass(frozen=True, eq=False, repr=False)(cls)
        own = [f for f in dataclasses.fields(cls) if _FIELD_KIND in f.metadata]  # type: ignore[arg-type]
        cls.fields = tuple((f.name, f.metadata[_FIELD_KIND]) for f in own)
        cls.links = links_among(cls.fields)
        cls.defaults = {f.name: f.default for f in own if f.default is not dataclasses.MISSING}

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "loc", _location.get())
        inputs: list[Value] = []
        regions: list[Block] = []
        for name, kind in self.links:
            held = getattr(self, name)
            if kind == "operand":
                inputs.append(held)
            elif kind == "operands":
                inputs.extend(held)
            else:
                regions.append(held)
        set_(self, "inputs", tuple(inputs))
        set_(self, "regions", tuple(regions))
        types = self.infer()
        set_(self, "results", tuple(Value(t) for t in types))

    # What a subclass says about itself

    def infer(self) -> tuple[Type, ...]:
        """Types of the results from operands and attributes. Raises TypeMismatch for what does not
        fit.
        """
        return ()

    def effects(self) -> tuple[Effect, ...]:
        """What it does to memory, not counting its regions."""
        return ()

    def evaluate(self, *inputs: Any) -> Any:
        """The meaning in NumPy, for ops without effects or regions: arrays or NumPy scalars in, the
        result out.
        """
        raise IRError("TLC0209", f"{self.name} has no meaning of its own in NumPy", loc=self.loc)

    # Derived

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    @property
    def attributes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name, kind in self.fields if kind == "attribute"}

    def replace(self, **changes: Any) -> Op:
        """The same op with fields changed. Keeps its result objects where their inferred types are
        unchanged.
        """
        values = {name: getattr(self, name) for name, _ in self.fields}
        values.update(changes)
        with at(self.loc):
            new = type(self).build(values, self)
        return _keep_results(self, new)

    @classmethod
    def build(cls, values: Mapping[str, Any], like: Op | None = None) -> Op:
        """An op from a mapping of field names. `like` is the op it stands for, if any (opaque ops
        copy its name).
        """
        return cls(**values)

    def map(
        self, value: Callable[[Value], Value], block: Callable[[Block], Block] | None = None
    ) -> Op:
        """The same op with every operand passed through `value` and every region through `block`."""
        changes: dict[str, Any] = {}
        for name, kind in self.links:
            old = new = getattr(self, name)
            if kind == "operand":
                new = value(old)
            elif kind == "operands":
                new = tuple(map(value, old))
                new = old if all(map(is_, old, new)) else new
            elif block is not None:
                new = block(old)
            if new is not old:
                changes[name] = new
        return self.replace(**changes) if changes else self

    def map_regions(self, block: Callable[[Block], Block]) -> Op:
        """The op with its regions replaced; itself where none changes."""
        return self.map(lambda value: value, block) if self.regions else self

    def walk(self) -> Iterator[Op]:
        """This op and all in its regions, outer before inner, in order."""
        yield self
        for region in self.regions:
            yield from walk(region)

    def __repr__(self) -> str:
        return f"<{self.name} at {self.loc}>"


def links_among(fields: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The fields that hold values or blocks."""
    return tuple((name, kind) for name, kind in fields if kind != "attribute")


def _keep_results(old: Op, new: Op) -> Op:
    """`new` with `old`'s result objects where the types agree but for a layout that a pass has
    refined.
    """
    if len(old.results) == len(new.results):
        kept = tuple(
            a if refines(a.type, b.type) else _named(b, a.hint)
            for a, b in zip(old.results, new.results, strict=True)
        )
        object.__setattr__(new, "results", kept)
    return new


def _named(value: Value, hint: str) -> Value:
    value.hint = value.hint or hint
    return value


def with_results(op: Op, results: Sequence[Value]) -> Op:
    """`op` defining the given values (their types must be its own, or refine them by a layout)."""
    object.__setattr__(op, "results", tuple(results))
    return op


def walk(block: Block) -> Iterator[Op]:
    """All ops of a block and of the regions in it, outer before inner, in order."""
    rest = list(block.ops[::-1])
    while rest:
        op = rest.pop()
        yield op
        for inner in op.regions[::-1]:
            rest += inner.ops[::-1]


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled function: parameters (memory handles and scalars), symbols bound at launch, and a
    body of launches.

    `symbols` names run-time values of i32; `multiples` says of some of them what they are promised to
    be multiples of (2 or more: the launch checks it). `level` says which ops may stand in it. `made` is
    what others made of it, by keys of theirs, and goes when it goes; no copy has it.
    """

    name: str
    params: tuple[Value, ...]
    body: Block
    symbols: tuple[str, ...] = ()
    level: Level = Level.TILE
    loc: Loc = UNKNOWN
    multiples: Mapping[str, int] = field(default_factory=dict)
    made: dict[object, Any] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "made": {}}

    def with_body(self, body: Block, level: Level | None = None) -> Program:
        return dataclasses.replace(self, body=body, level=level or self.level)


def constant(value: bool | int | float, dtype: DType) -> Constant:
    """A Constant, its value wrapped to what the dtype can hold."""
    if dtype.kind == "bool":
        value = bool(value)
    elif dtype.is_integer:
        value = _wrap(int(value), dtype)
    else:
        value = float(value)
        if not math.isinf(value) or not dtype.has_infinity:
            value = float(convert_array(np.asarray(value), dtype))
    return Constant(value, ScalarType(dtype))


def _wrap(value: int, dtype: DType) -> int:
    value &= (1 << dtype.bits) - 1
    if dtype.kind == "int" and value >> (dtype.bits - 1):
        value -= 1 << dtype.bits
    return value


def constant_of(value: Value) -> bool | int | float | None:
    """The number of a Constant, else None."""
    return value.value if isinstance(value, Constant) else None
