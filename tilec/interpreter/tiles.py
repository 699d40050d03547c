"""The collective ops: copies, fills, tiles, matrix products."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.conversion import convert_array, pack_pairs, unpack_pairs
from ..ir.core import Op, Value
from ..ir.dtypes import ELEMENTS, DType, tf32
from ..ir.ops.arith import Select
from ..ir.ops.gemm import SCALED, SIDES, Gemm, Matrix
from ..ir.ops.pipeline import InFlight, Wait, WaitGemms
from ..ir.ops.tile import (
    ConvertLayout,
    Copy,
    ExtractTile,
    Fill,
    InsertTile,
    LoadTile,
    PackTile,
    RegroupTile,
    ReshapeTile,
    Splat,
    StoreTile,
    Undefined,
    UnpackTile,
)
from ..ir.types import InflightType, MemoryType, Space, TileType
from .channels import RingGuard
from .clocks import Clock
from .frame import Frame
from .mbarriers import start_load, start_store
from .memory import Memory, Storage
from .numbers import Array, Bits, as_tf32, bits_of, garbage_value, product, widened
from .regions import Region, read_region, region, whole, write_region
from .shared_bytes import meet_in_bytes, same_elements


def _if_all(frame: Frame, predicate: tuple[Value, ...], source: Region) -> Region:
    """The region; where the predicate is false, one that lies outside its memory."""
    holds = all(frame.value(p) for p in predicate)
    return source if holds else source._replace(inside=False, empty=True)


def run_copy(frame: Frame, op: Op) -> None:
    """Moves a region. An asynchronous one into a slot of a ring lands when that slot is got."""
    assert isinstance(op, Copy)
    collective(frame, op)
    source = region(frame, op.source, op.source_indices, op.source_dims, op.shape)
    target = region(frame, op.destination, op.destination_indices, op.destination_dims, op.shape)
    source = _if_all(frame, op.predicate, source)
    guard = target.memory.guard
    if op.asynchronous and isinstance(guard, RingGuard) and guard.writes:
        guard.check(frame, target.memory, True)
        target.memory.storage.write(
            target.part, garbage_value(target.memory.dtype.numpy), np.True_, target.entire
        )
        clock = frame.clock.copy() if frame.clock is not None else None
        guard.defer(lambda: _land(frame, op, clock, source, target))
        return
    if op.barrier:
        size = math.prod(op.shape) * target.memory.dtype.bits // 8
        start_load(frame, op, target, size, lambda: _move(frame, source, target, op.safe_value))
        return
    if op.instruction == "tma" and target.memory.space is Space.GLOBAL:
        start_store(frame, op, source, target)
        return
    _check_apart(frame, source, target)
    _move(frame, source, target, op.safe_value)


def _check_apart(frame: Frame, source: Region, target: Region) -> None:
    """Refuses regions that overlap in one array which is passed for two parameters: by one name all
    would be read before any is written, but the compiler knows parameters apart.
    """
    names = source.memory.name, target.memory.name
    if names[0] == names[1] or source.memory.storage.identity != target.memory.storage.identity:
        return
    read, written = (r.memory.storage.data[r.part] for r in (source, target))
    if meet_in_bytes(read, written) and not same_elements(read, written):
        raise frame.fault(
            "TLC0744",
            f"a region of {names[0]} is copied to one of {names[1]} that overlaps it, with no order "
            "between elements: one array is passed for both",
            hint="pass a copy; or write and read it by one name",
        )


def _land(frame: Frame, op: Copy, clock: Clock | None, source: Region, target: Region) -> None:
    """Does an asynchronous copy, as of the time when it was issued in the order between roles."""
    held = frame.op, frame.clock
    frame.op, frame.clock = op, clock
    _move(frame, source, target, op.safe_value)
    frame.op, frame.clock = held


def _move(frame: Frame, source: Region, target: Region, safe_value: float) -> None:
    data, bad = read_region(frame, source, safe_value)
    write_region(frame, target, convert_array(data, target.memory.dtype), bad)
    if target.entire and source.inside and bad is None and source.memory.storage.settled:
        if source.memory.dtype == target.memory.dtype and len(source.shape) == len(
            target.memory.shape
        ):
            target.memory.storage.came_from(source.memory.storage, source.part)


def collective(frame: Frame, op: Op) -> None:
    if frame.lanes is not None:
        raise frame.fault(
            "TLC0748",
            f"{op.name} is done by the whole block, and stands in one {frame.lanes.kind}'s code",
            hint="move it out of the code of single threads",
        )


def run_load_tile(frame: Frame, op: Op) -> None:
    assert isinstance(op, LoadTile)
    collective(frame, op)
    place = region(frame, op.source, op.indices, op.dims, op.region)
    data, bad = read_region(frame, _if_all(frame, op.predicate, place), op.safe_value)
    if op.within:
        pad = [(0, n - m) for n, m in zip(op.shape, op.within, strict=True)]
        data = np.pad(data, pad)
        bad = np.pad(np.broadcast_to(bad is not None and bad, op.within), pad, constant_values=True)
    frame.define(op.result, np.array(data), bad)


def run_store_tile(frame: Frame, op: Op) -> None:
    assert isinstance(op, StoreTile)
    collective(frame, op)
    tile = frame.tile(op.tile)
    place = region(frame, op.destination, op.indices, op.dims, op.region)
    bad = frame.shadow.get(op.tile)
    if op.within:
        part = tuple(slice(0, n) for n in op.within)
        bad = None if bad is None else np.broadcast_to(bad, tile.shape)[part]
        tile = tile[part]
    write_region(frame, place, tile, bad)


def run_fill(frame: Frame, op: Op) -> None:
    assert isinstance(op, Fill)
    collective(frame, op)
    memory = frame.memory(op.memory)
    if memory.guard is not None:
        memory.guard.check(frame, memory, True)
    value, bad = frame.pair(op.value)
    write_region(frame, whole(memory), value, bad)


def run_splat(frame: Frame, op: Op) -> None:
    assert isinstance(op, Splat)
    value, bad = frame.pair(op.value)
    frame.define(op.result, np.full(op.shape, value, np.asarray(value).dtype), _over(bad, op.shape))


def run_undefined(frame: Frame, op: Op) -> None:
    assert isinstance(op, Undefined)
    tile = op.type.tile if isinstance(op.type, InflightType) else op.type
    dtype = tile.dtype.numpy
    data = np.full(tile.shape, garbage_value(dtype), dtype)
    if isinstance(op.type, InflightType):
        frame.define(op.result, Inflight(frame, None, data, data, None, data, undefined=True))
        return
    frame.define(op.result, data, np.ones(tile.shape, np.bool_))


def run_insert(frame: Frame, op: Op) -> None:
    assert isinstance(op, InsertTile)
    tile, into = frame.tile(op.tile), np.array(frame.tile(op.into))
    window = tuple(slice(o, o + n) for o, n in zip(op.offsets, tile.shape, strict=True))
    into[window] = tile
    inner, outer = frame.shadow.get(op.tile), frame.shadow.get(op.into)
    bad: Bits | None = None
    if inner is not None or outer is not None:
        bad = (
            np.zeros(into.shape, np.bool_) if outer is None else np.array(_over(outer, into.shape))
        )
        bad[window] = False if inner is None else inner
        bad = bad if bad.any() else None
    frame.define(op.result, into, bad)


def run_extract(frame: Frame, op: Op) -> None:
    assert isinstance(op, ExtractTile)
    tile, bad = frame.tile(op.tile), frame.shadow.get(op.tile)
    window = tuple(slice(o, o + n) for o, n in zip(op.offsets, op.shape, strict=True))
    part = None if bad is None else _over(bad, tile.shape)
    if part is not None:
        part = part[window] if part[window].any() else None
    frame.define(op.result, tile[window], part)


def run_reshape(frame: Frame, op: Op) -> None:
    assert isinstance(op, ReshapeTile)
    tile, bad = frame.tile(op.tile), frame.shadow.get(op.tile)
    bits = None if bad is None else np.broadcast_to(bad, tile.shape).reshape(op.shape)
    frame.define(op.result, tile.reshape(op.shape), bits)


def run_regroup(frame: Frame, op: Op) -> None:
    assert isinstance(op, RegroupTile)
    tile, bad = frame.tile(op.tile), frame.shadow.get(op.tile)
    bits: Bits | None = None
    if bad is not None:
        whole = np.broadcast_to(bad, tile.shape)
        cut = whole.reshape(*whole.shape[:-1], -1, op.parts) if op.joins else whole
        bits = np.any(cut, axis=-1) if op.joins else np.repeat(whole, op.parts, axis=-1)
    frame.define(op.result, np.ascontiguousarray(tile).view(op.dtype.numpy), bits)


def run_unpack(frame: Frame, op: Op) -> None:
    assert isinstance(op, UnpackTile)
    pairs, bad = frame.tile(op.tile), frame.shadow.get(op.tile)
    assert isinstance(op.tile.type, TileType)
    dtype = ELEMENTS[op.tile.type.dtype]
    both = None if bad is None else np.repeat(np.broadcast_to(bad, pairs.shape), 2, axis=-1)
    frame.define(op.result, unpack_pairs(pairs, dtype), both)


def run_pack(frame: Frame, op: Op) -> None:
    assert isinstance(op, PackTile)
    elements, bad = frame.tile(op.tile), frame.shadow.get(op.tile)
    either = None if bad is None else np.broadcast_to(bad, elements.shape)
    if either is not None:
        either = either[..., 0::2] | either[..., 1::2]
    frame.define(op.result, pack_pairs(elements), either)


def run_convert_layout(frame: Frame, op: Op) -> None:
    assert isinstance(op, ConvertLayout)
    frame.define(op.result, frame.tile(op.tile), frame.shadow.get(op.tile))


def run_select(frame: Frame, op: Op) -> None:
    """Select passes on the shadow bits of the side it takes."""
    assert isinstance(op, Select)
    condition, unknown = frame.pair(op.condition)
    (x, bad_x), (y, bad_y) = frame.pair(op.x), frame.pair(op.y)
    bad: Any = None
    if unknown is not None or bad_x is not None or bad_y is not None:
        no = np.False_
        bad = np.where(condition, no if bad_x is None else bad_x, no if bad_y is None else bad_y)
        bad = bad if unknown is None else bad | unknown
    frame.define(op.result, np.where(condition, x, y), bad)


def _over(bad: Any, shape: tuple[int, ...]) -> Bits | None:
    return None if bad is None else np.broadcast_to(bad, shape)


# Matrix products ------------------------------------------------------------------------------


@dataclass(eq=False)
class Inflight:
    """A tile that an asynchronous gemm writes. Its operands are read when it lands: as late as a
    wait allows.
    """

    frame: Frame
    op: Gemm | None
    a: Region | Array
    b: Region | Array
    before: Inflight | Array | None
    result: Array | None = field(default=None)
    undefined: bool = False
    into: Storage | None = None  # the fragment that it writes, which holds nothing till then
    seen: tuple[Array | None, ...] = ()  # what a and b held in memory when it was issued

    def reads(self, memory: Memory) -> bool:
        """Whether it has still to read what this handle stands for."""
        return self.result is None and any(
            isinstance(v, Region) and v.memory.storage is memory.storage for v in (self.a, self.b)
        )

    def land(self) -> None:
        """Reads the operands and computes."""
        if self.result is not None:
            return
        assert self.op is not None
        before = self.before
        if isinstance(before, Inflight):
            before.land()
            if before.undefined:
                raise self.frame.fault(
                    "TLC0743",
                    "an uninitialised value reaches the accumulator of a gemm",
                    hint="T.clear it before, or give T.gemm clear_accum=True",
                )
            before = before.result
        held, self.frame.op = self.frame.op, self.op
        for operand, seen in zip((self.a, self.b), self.seen, strict=False):
            if isinstance(operand, Region) and seen is not None:
                self._need_same(operand, seen)
        a, b = (_operand(self.frame, v, self.op) for v in (self.a, self.b))
        self.frame.op = held
        self.result = _multiply(self.op, a, b, before, _accumulator_dtype(self.op))
        self.before = None
        if self.into is not None and not any(g.into is self.into for g in self.frame.groups):
            everything = (slice(None),) * self.into.data.ndim
            self.into.write(everything, self.result.reshape(self.into.shape), None, True)

    def _need_same(self, operand: Region, seen: Array) -> None:
        data, _ = read_region(self.frame, operand, 0.0)
        if np.any(bits_of(data) != bits_of(seen)):
            raise self.frame.fault(
                "TLC0767",
                f"shared {operand.memory.name} is written while this product may still read it",
                hint="T.wait_wgmma before the write",
            )


def run_gemm(frame: Frame, op: Op) -> None:
    """accumulator + a @ b, into a fragment, as a new tile, or in flight."""
    assert isinstance(op, Gemm)
    collective(frame, op)
    starts_at_zero = op.clear or (
        bool(op.accumulate) and not frame.number(op.accumulate[0], "the condition of a gemm")
    )
    if op.asynchronous:
        _start(frame, op, starts_at_zero)
        return
    a, b = (_operand(frame, _held(frame, op.matrix(side)), op) for side in SIDES)
    if op.scales:
        a, b = _scaled(frame, op, a, b)
    if not isinstance(op.accumulator.type, MemoryType):
        before = None if starts_at_zero else frame.tile(op.accumulator)
        if before is not None:
            frame.arrive(frame.shadow.get(op.accumulator), "the accumulator of a gemm")
        frame.define(op.result, _multiply(op, a, b, before, _accumulator_dtype(op)))
        return
    memory = frame.memory(op.accumulator)
    place = whole(memory)
    shape = place.shape
    before = None
    if not starts_at_zero:
        before, bad = read_region(frame, place, 0.0)
        frame.arrive(bad, f"the accumulator {memory.name!r} of a gemm")
    flat = None if before is None else before.reshape(_matrix_shape(shape))
    write_region(frame, place, _multiply(op, a, b, flat, memory.dtype).reshape(shape), None)


def _start(frame: Frame, op: Gemm, starts_at_zero: bool) -> None:
    into: Storage | None = None
    if isinstance(op.accumulator.type, MemoryType):
        into = frame.memory(op.accumulator).storage
    before = None if starts_at_zero else _before(frame, op, into)
    a, b = (_read_now(frame, _held(frame, op.matrix(side))) for side in SIDES)
    seen = () if into is None else tuple(_seen(frame, held) for held in (a, b))
    group = Inflight(frame, op, a, b, before, into=into, seen=seen)
    for v in (op.a, op.b):  # tiles are read when the instruction starts, memory later
        frame.arrive(frame.shadow.get(v), "a gemm")
    frame.groups.append(group)
    if into is None:
        frame.define(op.result, group)
    else:
        into.forget()


def _read_now(frame: Frame, held: Region | Array) -> Region | Array:
    """An operand in registers as it is now; one in memory is read later."""
    if not isinstance(held, Region) or held.memory.space is not Space.FRAGMENT:
        return held
    seen = _seen(frame, held)
    assert seen is not None
    return seen


def _seen(frame: Frame, held: Region | Array) -> Array | None:
    """What an operand in memory holds now, which may be when it is read."""
    if not isinstance(held, Region):
        return None
    data, bad = read_region(frame, held, 0.0)
    frame.arrive(bad, f"a gemm, from {held.memory.name!r}")
    return np.array(data)


def _before(frame: Frame, op: Gemm, into: Storage | None) -> Inflight | Array:
    """What an asynchronous product adds to: what is there, or what an earlier one will give."""
    if into is None:
        found = frame.value(op.accumulator)
        frame.arrive(frame.shadow.get(op.accumulator), "the accumulator of a gemm")
        return found if isinstance(found, Inflight) else frame.tile(op.accumulator)
    for group in reversed(frame.groups):
        if group.into is into:
            return group  # type: ignore[no-any-return]
    memory = frame.memory(op.accumulator)
    data, bad = read_region(frame, whole(memory), 0.0)
    frame.arrive(bad, f"the accumulator {memory.name!r} of a gemm")
    return np.array(data.reshape(_matrix_shape(memory.shape)))


def run_wait_gemms(frame: Frame, op: Op) -> None:
    """Lets all but the last `pending` asynchronous products land in their fragments."""
    assert isinstance(op, WaitGemms)
    while len(frame.groups) > op.pending:
        frame.groups.pop(0).land()


def run_in_flight(frame: Frame, op: Op) -> None:
    """A tile that counts as in flight, with nothing under way."""
    assert isinstance(op, InFlight)
    data = frame.tile(op.tile)
    held = Inflight(frame, None, data, data, None, data)
    frame.define(op.result, held, frame.shadow.get(op.tile))


def run_wait(frame: Frame, op: Op) -> None:
    """Lets all but the last `pending` asynchronous products land."""
    assert isinstance(op, Wait)
    group = frame.value(op.inflight)
    assert isinstance(group, Inflight)
    while len(frame.groups) > op.pending:
        frame.groups.pop(0).land()
    bad = frame.shadow.get(op.inflight)
    if not op.completes:
        frame.define(op.result, group, bad)
        return
    assert group.result is not None
    if group.undefined:
        bad = np.ones(group.result.shape, np.bool_)
    frame.define(op.result, group.result, bad)


def _held(frame: Frame, matrix: Matrix) -> Region | Array:
    value = matrix.value
    if not isinstance(value.type, MemoryType):
        return frame.tile(value)
    if not matrix.indices:
        return whole(frame.memory(value))
    dims, shape = (matrix.mn_dim, matrix.k_dim), (matrix.mn, matrix.k // matrix.per)
    if not matrix.k_major:
        dims, shape = dims[::-1], shape[::-1]
    return region(frame, value, matrix.indices, dims, shape)


def _operand(frame: Frame, held: Region | Array, op: Gemm) -> Array:
    """A matrix operand, widened."""
    if not isinstance(held, Region):
        for v in (op.a, op.b):
            if frame.env.get(v) is held:
                frame.arrive(frame.shadow.get(v), "a gemm")
        return _matrix(widened(held))
    data, bad = read_region(frame, held, 0.0)
    if bad is not None:
        frame.arrive(bad, f"a gemm, from {held.memory.name!r}")
    if held.memory.dtype in ELEMENTS:
        return _matrix(widened(unpack_pairs(data, ELEMENTS[held.memory.dtype])))
    return _matrix(held.memory.storage.widened() if held.entire else widened(data))


def _scaled(frame: Frame, op: Gemm, a: Array, b: Array) -> tuple[Array, Array]:
    """Operands times their scales: 2^(s - 127) for 32 elements along k, NaN where s is 255."""
    found = []
    for side, matrix, scale in zip(SIDES, (a, b), op.scales, strict=True):
        data, bad = read_region(frame, whole(frame.memory(scale)), 0.0)
        if bad is not None:
            frame.arrive(bad, f"the scales of {side.upper()} of a gemm")
        exponents = np.repeat(data.astype(np.int32) - 127, SCALED, axis=1)
        factors = np.where(exponents == 128, np.nan, np.ldexp(1.0, exponents))
        k_first = op.transpose_a if side == "a" else not op.transpose_b
        found.append(matrix.astype(np.float64) * (factors.T if k_first else factors))
    return found[0], found[1]


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1) if len(shape) > 2 else shape


def _matrix(x: Array) -> Array:
    return x.reshape(_matrix_shape(x.shape))


def _accumulator_dtype(op: Gemm) -> DType:
    type_ = op.accumulator.type
    tile = type_.tile if isinstance(type_, InflightType) else type_
    assert isinstance(tile, (TileType, MemoryType))
    return tile.dtype


def _multiply(op: Gemm, a: Array, b: Array, before: Array | None, dtype: DType) -> Array:
    if op.dtype_of("a") == tf32:
        a, b = as_tf32(a), as_tf32(b)
    return product(a.T if op.transpose_a else a, b.T if op.transpose_b else b, before, dtype)
