"""A program's interface: what its caller passes and gets, what a call allocates, and how all of it
is named and measured."""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.core import Access, Block, Level, Op, Program, Value, walk
from ..ir.dtypes import PAIRS
from ..ir.ops.control import Define, Launch, Return
from ..ir.ops.memory import Alloc, memory_type
from ..ir.ops.nvidia import TensorMap, TmaStore
from ..ir.types import Dim, MemoryType, ScalarType, Space
from .dimension_steps import dimension_steps
from .grids import HostScalars, grid_expr
from .manifest import (
    MANIFEST_VERSION,
    Expr,
    Manifest,
    Param,
    ScalarParam,
    TensorParam,
    Variant,
)


class Interface:
    """Parameters, outputs, workspaces and symbols of a program, at either level.

    `allocated` is the global memory that a call makes: `outputs` of it are returned, workspaces
    last as long as the call. `derived` are the symbols that no shape tells, from those that one
    does.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.definitions: dict[Value, Op] = {r: op for op in program.body.ops for r in op.results}
        self.allocated = tuple(
            op.result
            for op in program.body.ops
            if isinstance(op, Alloc) and op.type.space is Space.GLOBAL
        )
        end = program.body.terminator
        self.outputs = end.values if isinstance(end, Return) else ()
        self.names = self._names()
        scalars = {v: self.names[v] for v in program.params if isinstance(v.type, ScalarType)}
        self.derived: dict[str, Expr] = {}
        self.host = HostScalars(self.definitions, scalars, self.derived)
        for op in program.body.ops:
            if isinstance(op, Define):
                self.derived[op.label] = grid_expr(op.value, self.host)
        bodies = [op.body for op in program.body.ops if isinstance(op, Launch)]
        self._written = frozenset().union(*(written_memory(b, self.definitions) for b in bodies))
        self._read = frozenset().union(
            *(_accessed(b, Access.READ, self.definitions) for b in bodies)
        )

    def _names(self) -> dict[Value, str]:
        # What the caller knows first: it is called the same before and after the passes.
        names: dict[Value, str] = {}
        taken = set(self.program.symbols)
        for value in dict.fromkeys((*self.program.params, *self.outputs, *self.allocated)):
            name = base = value.hint or "arg"
            count = 0
            while name in taken:
                count += 1
                name = f"{base}{count}"
            taken.add(name)
            names[value] = name
        return names

    def manifest(self, target: str, variants: tuple[Variant, ...] = ()) -> Manifest:
        """The program as its launcher sees it. Of a lowered one the steps are not told, since passes
        have added their own to the program's."""
        program = self.program
        return Manifest(
            MANIFEST_VERSION,
            program.name,
            target,
            tuple(self._param(value) for value in (*program.params, *self.outputs)),
            tuple(s for s in program.symbols if s not in self.derived),
            variants,
            tuple(self.names[value] for value in self.outputs),
            tuple(self.derived.items()),
            tuple((s, n) for s, n in program.multiples.items() if s not in self.derived),
            dimension_steps(program, self.host) if program.level is Level.TILE else (),
        )

    def workspaces(self) -> tuple[TensorParam, ...]:
        """The global memory of a call that is not returned."""
        return tuple(self._tensor(value) for value in self.allocated if value not in self.outputs)

    def _param(self, value: Value) -> Param:
        if isinstance(value.type, ScalarType):
            return ScalarParam(self.names[value], value.type.dtype.name)
        return self._tensor(value)

    def _tensor(self, value: Value) -> TensorParam:
        type_ = memory_type(value)
        written, read = value in self._written, value in self._read
        access = "rw" if written and read else "w" if written else "r"
        shape = tuple(self._extent(dim) for dim in type_.shape)
        if type_.dtype in PAIRS:
            shape = (*shape[:-1], _half(shape[-1]))
        strides = None if type_.strides is None else tuple(map(self._extent, type_.strides))
        dtype = type_.dtype.name.removesuffix("x2")
        return TensorParam(self.names[value], dtype, shape, access, strides)  # type: ignore[arg-type]

    def _extent(self, dim: Dim) -> Expr:
        return self.derived.get(dim, dim) if isinstance(dim, str) else dim


def _half(extent: Expr) -> Expr:
    """The bytes of a row of 4-bit elements."""
    return extent // 2 if isinstance(extent, int) else ("floordiv", extent, 2)


def root_memory(value: Value, definitions: Mapping[Value, Op]) -> Value:
    """The memory that a view is of."""
    while isinstance(value.type, MemoryType) and value in definitions:
        op = definitions[value]
        if not op.pure or not op.inputs:
            break
        value = op.inputs[0]
    return value


def written_memory(block: Block, outer: Mapping[Value, Op]) -> frozenset[Value]:
    """The memories that ops of a block write, by thread or by a bulk copy."""
    return _accessed(block, Access.WRITE, outer)


def _accessed(block: Block, access: Access, outer: Mapping[Value, Op]) -> frozenset[Value]:
    """The memories that ops of a block access so; views count for what they view."""
    definitions = dict(outer) | {r: op for op in walk(block) for r in op.results}
    found: set[Value] = set()
    for op in walk(block):
        touched = [e.memory for e in op.effects() if e.access is access and e.memory is not None]
        map_access = Access.WRITE if isinstance(op, TmaStore) else Access.READ
        if access is map_access:
            maps = (definitions.get(v) for v in op.inputs)
            touched += [m.memory for m in maps if isinstance(m, TensorMap)]
        found.update(root_memory(value, definitions) for value in touched)
    return frozenset(found)
