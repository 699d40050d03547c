"""Every access gets one index: the number of an element in memory, through the layout.

Needs: thread level. Leaves: shared and local allocs as rows of elements, tensors seen through
`flatten`, no `slot`; each access with exactly one index, in elements. Tensors are row-major
(indices of 64 bits where 2^31 bytes may not do); shared memory follows its layout. A swizzle is
applied to the part that does not vary in unrolled loops, where the rest cannot carry into it:
swizzle(x + y) = swizzle(x) ^ swizzle(y) for x, y of different bits, + whole periods.

    ldmatrix %s[%row, %k * 16 + %c]    ->    %x = %row * 64 + %c
                                             ldmatrix %s[(%x ^ (%x >> 3 & 56)) ^ %k * 16]
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.core import Constant, Level, Op, Program, Value
from ..ir.dtypes import i32, i64
from ..ir.layout import SharedLayout, Swizzle
from ..ir.ops.arith import Elementwise, element_dtype
from ..ir.ops.control import Assume, For, If, Launch, Role, map_launches
from ..ir.ops.memory import Alloc, Flatten, Slot, memory_type
from ..ir.ops.nvidia import TensorMap, TmaLoad, TmaStore
from ..ir.ops.wgmma import MakeDescriptor
from ..ir.types import MemoryType, Space
from .context import PassContext
from .coordinates import add_up, extent_value
from .index_builder import IndexBuilder
from .linear_forms import Linear
from .rebuilder import Rebuilder
from .vector_access import is_below

WALKED_BY_HARDWARE = (TmaLoad, TmaStore, MakeDescriptor)
"""Ops that are given where a tile starts before the swizzle, which the hardware applies by itself.
"""


def flatten_memory(program: Program, context: PassContext) -> Program:
    """Flattens all accesses of every launch."""
    assert program.level is Level.THREAD, "flatten_memory works on threads' programs"
    return map_launches(program, lambda launch: _launch(launch, context))


def _launch(launch: Launch, context: PassContext) -> Launch:
    b = IndexBuilder()
    with b.inside(launch):
        body = _Flattening(b, context).block(launch.body)
    return launch.replace(body=body)  # type: ignore[return-value]


@dataclass(frozen=True)
class _Place:
    """Where a handle's elements are: a flat memory, its layout, a slot's first element."""

    memory: Value
    type: MemoryType
    root: Value  # the alloc or tensor
    slot: Value | None = None
    stride: int = 0


class _Flattening(Rebuilder):
    def __init__(self, b: IndexBuilder, context: PassContext) -> None:
        super().__init__(b, context)
        self._places: dict[Value, _Place] = {}
        self._unrolled: set[Value] = set()  # indices of loops that are unrolled in full

    def op(self, op: Op) -> None:
        match op:
            case Alloc() if op.type.space in (Space.SHARED, Space.LOCAL):
                self._alloc(op)
            case Slot():
                self._slot(op)
            case Flatten():
                self._flatten(op)
            case Assume():
                pass  # whoever asks about indices has asked
            case TensorMap():
                self.emit(op, op)  # of the tensor itself, whose shape the host reads
            case For() | If() | Role():
                if isinstance(op, For) and op.unroll == 0:
                    self._unrolled.add(op.body.params[0])
                super().op(op)
            case _:
                self._access(op)

    # Memory ---------------------------------------------------------------------------------------

    def _alloc(self, op: Alloc) -> None:
        type_ = op.type
        if not type_.shape:  # a variable
            self.b.emit(op)
            return
        size = math.prod(int(d) for d in type_.shape)
        if type_.layout is not None:
            size = type_.layout.size
        flat = MemoryType(type_.dtype, (size,), type_.space)
        new = op if flat == type_ else op.replace(type=flat)
        self.emit(op, new)
        self._places[op.result] = _Place(new.result, type_, op.result)

    def _slot(self, op: Slot) -> None:
        ring = self._place(op.ring)
        type_ = memory_type(op.result)
        layout = memory_type(op.ring).layout
        stride = math.prod(int(d) for d in type_.shape)
        if layout is not None:
            stride = layout.strides[0][0] if layout.strides[0] else 0
        index = self.value(op.index)
        if ring.slot is not None:  # a slot of a slot
            index = self.b.add(self.b.mul(ring.slot, ring.stride), self.b.mul(index, stride))
            stride = 1
        self._places[op.result] = _Place(ring.memory, type_, ring.root, index, stride)

    def _flatten(self, op: Flatten) -> None:
        """The user's own view of memory as a row."""
        place = self._place(op.memory)
        self.names[op.result] = place.memory
        type_ = memory_type(op.result)
        self._places[op.result] = _Place(place.memory, type_, place.root, place.slot, place.stride)

    def _place(self, handle: Value) -> _Place:
        if handle in self._places:
            return self._places[handle]
        memory = self.value(handle)
        type_ = memory_type(memory)
        if type_.space is Space.GLOBAL and (len(type_.shape) > 1 or type_.strides is not None):
            memory = self.b.emit(Flatten(memory)).result  # at each use: it costs nothing
            memory.hint = handle.hint
        return _Place(memory, memory_type(handle), handle)

    # Accesses -------------------------------------------------------------------------------------

    def _access(self, op: Op) -> None:
        """An op with its memories flat and one index for each; all other operands by name."""
        changes: dict[str, object] = {}
        for memory_field, indices_field in memory_fields(op):
            handle = getattr(op, memory_field)
            indices = tuple(self.value(v) for v in getattr(op, indices_field))
            if not memory_type(handle).shape:
                continue
            place = self._place(handle)
            changes[memory_field] = place.memory
            changes[indices_field] = (self._linear(place, indices, op),)
        for name, kind in op.fields:
            old = getattr(op, name)
            if name in changes:
                continue
            if kind == "operand":
                changes[name] = self._operand(old)
            elif kind == "operands":
                changes[name] = tuple(self._operand(v) for v in old)
            elif kind == "region":
                changes[name] = self.block(old)
        same = all(_same(getattr(op, name), new) for name, new in changes.items())
        self.emit(op, op if same else op.replace(**changes))
        if op.results and isinstance(op.results[0].type, MemoryType):
            self._view(op)

    def _view(self, op: Op) -> None:
        """A handle that `op` makes of another is indexed as that one is."""
        handles = [v for v in op.inputs if isinstance(v.type, MemoryType)]
        root = self._place(handles[0]).root if handles else op.results[0]
        memory = self.value(op.results[0])
        self._places[op.results[0]] = _Place(memory, memory_type(op.results[0]), root)

    def _operand(self, value: Value) -> Value:
        """A handle that is not indexed, as the flat memory; other values by name."""
        if isinstance(value.type, MemoryType) and (
            value in self._places or value.type.space is Space.GLOBAL
        ):
            return self._place(value).memory if value.type.shape else self.value(value)
        return self.value(value)

    def _linear(self, place: _Place, indices: Sequence[Value], op: Op) -> Value:
        type_ = place.type
        if type_.space is Space.GLOBAL:
            return self._row_major(place, indices)
        extents = [int(extent) for extent in type_.shape]
        indices = [
            self._narrowed(index, math.prod(extents[: d + 1])) for d, index in enumerate(indices)
        ]
        if type_.layout is None:
            offset: Value = self.b.const(0)
            for index, extent in zip(indices, type_.shape, strict=True):
                offset = self.b.add(self.b.mul(offset, int(extent)), index)
            return self._in_slot(place, offset)
        layout = type_.layout.linear() if isinstance(op, WALKED_BY_HARDWARE) else type_.layout
        return self._laid_out(place, layout, indices)

    def _narrowed(self, index: Value, limit: int) -> Value:
        """An index in 32 bits. Cut off, one of 64 bits that is outside could seem to be inside: it becomes
        one of `limit`, as far as memory goes along it and the dimensions around.
        """
        b, known = self.b, self.b.range_of(index)
        if element_dtype(index).bits > 32 and not -(2**31) <= known.low <= known.high < 2**31:
            index = b.max(b.min(index, limit), -limit)
        return b.cast(index, i32)

    def _in_slot(self, place: _Place, offset: Value) -> Value:
        if place.slot is None:
            return offset
        return self.b.add(self.b.mul(place.slot, place.stride), offset)

    def _row_major(self, place: _Place, indices: Sequence[Value]) -> Value:
        b = self.b
        dims, strides = place.type.shape, place.type.strides
        if len(indices) == 1 and place.type.unit_stride:
            return indices[0]
        dtype = i32 if is_below(place.root, self.context) else i64
        if strides is not None:
            steps = [b.cast(extent_value(b, stride), dtype) for stride in strides]
            terms = [b.mul(b.cast(i, dtype), s) for i, s in zip(indices, steps, strict=True)]
            return functools.reduce(b.add, terms)
        total = b.cast(indices[0], dtype)
        for index, dim in zip(indices[1:], dims[1:], strict=True):
            extent = b.cast(extent_value(b, dim), dtype)
            total = b.add(b.mul(total, extent), b.cast(index, dtype))
        return total

    # Swizzles -------------------------------------------------------------------------------------

    def _laid_out(self, place: _Place, layout: SharedLayout, indices: Sequence[Value]) -> Value:
        """The offset of an element of shared memory, the swizzle where it varies least."""
        b = self.b
        linear = add_up(b, layout.offset_terms(), dict(enumerate(indices)))
        swizzle = layout.swizzle
        if swizzle.bits == 0:
            return self._in_slot(place, linear)
        form = b.form(linear)
        if place.slot is not None:
            form = form.plus(b.form(b.mul(place.slot, place.stride)))
        periods = form.where(swizzle.period, divides=True)
        rest = form.where(swizzle.period, divides=False)
        whole = form.constant // swizzle.period * swizzle.period
        inside = Linear(rest.terms, form.constant - whole)
        mixed = self._swizzled(inside, swizzle)
        return b.add(b.build(Linear(periods.terms, whole)), mixed)

    def _swizzled(self, form: Linear, swizzle: Swizzle) -> Value:
        b = self.b
        fixed = Linear(tuple(t for t in form.terms if not self._is_unrolled(t[0])), 0)
        moving = Linear(tuple(t for t in form.terms if self._is_unrolled(t[0])), form.constant)
        if (
            not fixed.terms
            or (not moving.terms and not moving.constant)
            or not self._disjoint(form)
        ):
            return self._exchange(b.build(form), swizzle)
        moved = b.build(moving)
        return b.bit_xor(self._exchange(b.build(fixed), swizzle), self._exchange(moved, swizzle))

    def _is_unrolled(self, value: Value) -> bool:
        """Whether a value is known once loops are unrolled: the index of one, or made of such."""
        if value in self._unrolled or isinstance(value, Constant):
            return True
        op = self.b.definitions.get(value)
        return isinstance(op, Elementwise) and all(self._is_unrolled(v) for v in op.inputs)

    def _exchange(self, offset: Value, swizzle: Swizzle) -> Value:
        b = self.b
        known = b.range_of(offset)
        if known.low >= 0 and known.high < 1 << (swizzle.base + swizzle.shift):
            return offset  # no bit is set that another is exchanged by
        moved = b.bit_and(b.shift_right(offset, swizzle.shift), swizzle.mask)
        return b.bit_xor(offset, moved)

    def _disjoint(self, form: Linear) -> bool:
        """Whether no two terms have a bit in common, so that their sum is their exclusive or."""
        taken = form.constant
        if taken < 0:
            return False
        for value, factor in form.terms:
            known = self.b.range_of(value)
            if known.low < 0 or factor < 0:
                return False
            step = factor & -factor
            high = known.high * factor
            bits = (1 << high.bit_length()) - 1 & ~(step - 1)
            if bits & taken:
                return False
            taken |= bits
        return True


def memory_fields(op: Op) -> list[tuple[str, str]]:
    """(memory, indices) fields of an access: `x` with `x_indices`, `memory` or `buffer` with
    `indices`.
    """
    names = {name for name, kind in op.fields if kind == "operand"}
    found = []
    for name, kind in op.fields:
        if kind != "operands":
            continue
        if name.endswith("_indices") and name.removesuffix("_indices") in names:
            found.append((name.removesuffix("_indices"), name))
        elif name == "indices":
            found.append(("memory" if "memory" in names else "buffer", name))
    return found


def _same(old: object, new: object) -> bool:
    if isinstance(old, tuple) and isinstance(new, tuple):
        return len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))
    return old is new
