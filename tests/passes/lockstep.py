"""Runs lists of thread-level ops in NumPy, all threads of a role at once, one op after another.

Registers are arrays [threads, count], shared memory is what lies in it physically (one row, in the
order of its layout), and matrix instructions follow the vendors' manuals, not tilec's layouts: PTX
ISA 9.7.14 and 9.7.15, CDNA3 ISA chapter 7. Memory starts as NaN, so that what nobody wrote spoils a
result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilec.ir.core import Constant, Op, Value
from tilec.ir.layout import SharedLayout
from tilec.ir.ops import amd, arith, nvidia, thread, wgmma
from tilec.ir.ops.control import For, If, ThreadId, WarpUniform, Yield
from tilec.ir.ops.memory import Alloc, Load, Slot, Store, memory_type
from tilec.ir.types import MemoryType, Space

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Descriptor:
    """A wgmma matrix descriptor: memory, byte address of every thread's, and its fields."""

    memory: Value
    address: Array
    swizzle: int
    lbo: int
    sbo: int


@dataclass(frozen=True)
class SlotOf:
    ring: Value
    index: Array


class Machine:
    """One role of `threads` threads in warps of `warp_size`."""

    def __init__(self, threads: int, warp_size: int) -> None:
        self.threads, self.warp_size = threads, warp_size
        self.thread = np.arange(threads)
        self.env: dict[Value, Any] = {}
        self.memory: dict[Value, Array] = {}
        self.mask = np.ones(threads, bool)
        self.executed: list[Op] = []
        self.inflight: set[Value] = set()
        self.stored = 0  # elements that vector stores wrote

    # Memory -------------------------------------------------------------------------------------

    def allocate(self, handle: Value) -> Array:
        type_ = handle.type
        assert isinstance(type_, MemoryType)
        shape = tuple(int(d) for d in type_.shape)
        if type_.space is Space.LOCAL:
            size: tuple[int, ...] = (self.threads, int(np.prod(shape)))
        else:
            size = (layout_of(handle).size if type_.space is Space.SHARED else int(np.prod(shape)),)
        start = np.nan if type_.dtype.is_float else 0
        self.memory[handle] = np.full(size, start, type_.dtype.numpy)
        return self.memory[handle]

    def fill(self, handle: Value, contents: Array) -> None:
        """Puts a matrix into shared memory where its layout has it."""
        self.allocate(handle)[layout_of(handle).offsets()] = contents

    def place(self, handle: Value, indices: Sequence[Value]) -> tuple[Value, Array]:
        """The memory and each thread's element of it."""
        at = [np.broadcast_to(self.get(i), self.threads) for i in indices]
        slot = self.env.get(handle)
        if isinstance(slot, SlotOf):
            handle, at = slot.ring, [np.broadcast_to(slot.index, self.threads), *at]
        if handle.type.space is not Space.SHARED:  # type: ignore[attr-defined]
            shape = tuple(int(d) for d in handle.type.shape)  # type: ignore[attr-defined]
            return handle, np.ravel_multi_index(tuple(at), shape)
        return handle, layout_of(handle).offsets()[tuple(at)]

    def get(self, value: Value) -> Any:
        return value.value if isinstance(value, Constant) else self.env[value]

    def all(self, value: Value) -> Array:
        return np.broadcast_to(np.asarray(self.get(value)), self.threads)

    def uniform(self, value: Value, group: int) -> Array:
        """A value that all threads of a group have in common: one entry a group."""
        found = self.all(value).reshape(-1, group)
        assert (found == found[:, :1]).all(), "threads of one instruction disagree"
        return found[:, 0]

    # Running ------------------------------------------------------------------------------------

    def run(self, ops: Sequence[Op]) -> None:
        for op in ops:
            self.executed.append(op)
            rule = RULES.get(type(op))
            if rule is not None:
                rule(self, op)
            elif isinstance(op, arith.Elementwise):
                dtypes = [v.type.dtype.numpy for v in op.inputs]  # type: ignore[attr-defined]
                inputs = [
                    np.asarray(self.get(v)).astype(d)
                    for v, d in zip(op.inputs, dtypes, strict=True)
                ]
                self.env[op.result] = op.evaluate(*inputs)
            else:
                raise AssertionError(f"{op.name} is not run in lockstep")

    def count(self, cls: type[Op]) -> int:
        return sum(isinstance(op, cls) for op in self.executed)

    def read(self, registers: Value, offset: Value, count: int) -> Array:
        """[threads, count] registers of each thread."""
        assert registers not in self.inflight, "registers of an instruction in flight are read"
        at = self.all(offset)[:, None] + np.arange(count)
        assert at.min() >= 0 and at.max() < self.memory[registers].shape[1], (
            "outside of the registers"
        )
        return np.take_along_axis(self.memory[registers], at, 1)

    def write(self, registers: Value, offset: Value, values: Array) -> None:
        at = self.all(offset)[:, None] + np.arange(values.shape[1])
        assert at.min() >= 0 and at.max() < self.memory[registers].shape[1], (
            "outside of the registers"
        )
        rows = np.flatnonzero(self.mask)
        self.memory[registers][rows[:, None], at[rows]] = values[rows]


def layout_of(handle: Value) -> SharedLayout:
    type_ = handle.type
    assert isinstance(type_, MemoryType)
    return type_.layout or SharedLayout.row_major(tuple(int(d) for d in type_.shape))


def _for(m: Machine, op: For) -> None:
    start, stop, step = (int(m.get(v)) for v in (op.start, op.stop, op.step))
    for index in range(start, stop, step):
        m.env[op.body.params[0]] = index
        m.run([o for o in op.body.ops if not isinstance(o, Yield)])


def _if(m: Machine, op: If) -> None:
    outer, condition = m.mask, m.all(op.condition).astype(bool)
    for block, chosen in ((op.then, condition), (op.orelse, ~condition)):
        m.mask = outer & chosen
        if m.mask.any():
            m.run([o for o in block.ops if not isinstance(o, Yield)])
    m.mask = outer


def _element(m: Machine, op: Load | Store) -> tuple[Array, Any]:
    handle, at = m.place(op.memory, op.indices)
    memory = m.memory[handle]
    return memory, (np.arange(m.threads), at) if memory.ndim == 2 else (at,)


def _load(m: Machine, op: Load) -> None:
    memory, at = _element(m, op)
    m.env[op.result] = memory[at]


def _store(m: Machine, op: Store) -> None:
    memory, at = _element(m, op)
    memory[tuple(i[m.mask] for i in at)] = m.all(op.value)[m.mask]


def _vector(m: Machine, op: thread.VectorLoad | thread.VectorStore) -> tuple[Array, Array]:
    handle, at = m.place(op.memory, op.indices)
    size = op.count * handle.type.dtype.bytes  # type: ignore[attr-defined]
    assert size in (1, 2, 4, 8, 16), f"an access of {size} bytes"
    assert (at[m.mask] % op.count == 0).all(), "an access that is not aligned"
    return m.memory[handle], np.minimum(
        at[:, None] + np.arange(op.count), m.memory[handle].size - 1
    )


def _vector_load(m: Machine, op: thread.VectorLoad) -> None:
    memory, at = _vector(m, op)
    m.write(op.registers, op.offset, memory[at])


def _load_transposed(m: Machine, op: amd.LoadTransposed) -> None:
    """Of 16 lanes, four a row of 16, each receives a column of four (CDNA4 ISA, 11.4)."""
    assert m.mask.all(), "a wave reads with all its lanes"
    handle, at = m.place(op.memory, op.indices)
    assert (at % 4 == 0).all(), "an access that is not aligned"
    rows = m.memory[handle][at[:, None] + np.arange(4)].reshape(-1, 4, 16)
    m.write(op.registers, op.offset, rows.swapaxes(1, 2).reshape(-1, 4))


def _vector_store(m: Machine, op: thread.VectorStore) -> None:
    memory, at = _vector(m, op)
    m.stored += int(m.mask.sum()) * op.count
    memory[at[m.mask]] = m.read(op.registers, op.offset, op.count)[m.mask]


def _convert(m: Machine, op: thread.ConvertRegisters) -> None:
    values = m.read(op.source, op.source_offset, op.count)
    m.write(op.destination, op.destination_offset, values.astype(m.memory[op.destination].dtype))


def _fill(m: Machine, op: thread.FillRegisters) -> None:
    m.write(
        op.registers, op.offset, np.broadcast_to(m.all(op.value)[:, None], (m.threads, op.count))
    )


def _shuffle(m: Machine, op: thread.Shuffle) -> None:
    assert m.mask.all(), "a shuffle that not all lanes take part in"
    lane = m.all(op.lane)
    assert lane.min() >= 0 and lane.max() < m.warp_size, "a lane outside of the warp"
    m.env[op.result] = m.all(op.x)[m.thread // m.warp_size * m.warp_size + lane]


def _shuffle_xor(m: Machine, op: thread.ShuffleXor) -> None:
    assert m.mask.all(), "a shuffle that not all lanes take part in"
    assert 0 < op.mask < m.warp_size and (m.thread ^ op.mask).max() < m.threads
    m.env[op.result] = m.all(op.x)[m.thread ^ op.mask]


# Matrix instructions ------------------------------------------------------------------------------


def _ldmatrix(m: Machine, op: nvidia.LdMatrix) -> None:
    handle, at = m.place(op.memory, op.indices)
    used = m.thread % 32 < 8 * op.matrices
    each = 4 // m.memory[handle].itemsize  # elements of a register
    assert each <= 2 or not op.transposed, "only elements of 16 bits are transposed"
    assert (at[used] % (4 * each) == 0).all(), "a row of a matrix that is not aligned"
    rows = m.memory[handle][np.where(used, at, 0)[:, None] + np.arange(4 * each)]
    lane, warp = m.thread % 32, m.thread // 32 * 32
    parts = []
    for number in range(op.matrices):
        first = warp + 8 * number
        for part in range(each):
            row, column = lane // 4, each * (lane % 4) + part
            if op.transposed:
                row, column = column, row
            parts.append(rows[first + row, column])
    m.write(op.registers, op.offset, np.stack(parts, 1))


def _product(m: Machine, op: nvidia.Mma | amd.Mfma, group: int, places: Callable[..., Any]) -> None:
    """D += A B of every group of threads: `places` gives row and column of [lane, register] of "a",
    "b" (k, n), "c".
    """
    counts = {"a": op.m * op.k // group, "b": op.k * op.n // group, "c": op.m * op.n // group}
    values = {
        "a": m.read(op.a, op.a_offset, counts["a"]),
        "b": m.read(op.b, op.b_offset, counts["b"]),
        "c": m.read(op.accumulator, op.accumulator_offset, counts["c"]),
    }
    shapes = {"a": (op.m, op.k), "b": (op.k, op.n), "c": (op.m, op.n)}
    for first in range(0, m.threads, group):
        full = {}
        for name, value in values.items():
            lane, register = np.indices((group, counts[name]))
            full[name] = np.full(shapes[name], np.nan)
            full[name][places(name, lane, register, op)] = value[first : first + group]
        total = full["c"] + full["a"] @ full["b"]
        lane, register = np.indices((group, counts["c"]))
        values["c"][first : first + group] = total[places("c", lane, register, op)]
    m.write(op.accumulator, op.accumulator_offset, values["c"])


def _mma_places(name: str, lane: Array, register: Array, op: nvidia.Mma) -> tuple[Array, Array]:
    """PTX ISA, "Matrix fragments for mma": registers of 32 bits, the upper eight rows, the lower
    eight, then the next k.
    """
    if name == "c":
        return lane // 4 + 8 * (register // 2), 2 * (lane % 4) + register % 2
    each = max(1, 32 // memory_type(op.a).dtype.bits)
    if name == "b":
        row, k = _a_places(lane, register, each, 1)
        return k, row
    return _a_places(lane, register, each, op.m // 8)


def _a_places(lane: Array, register: Array, each: int, halves: int) -> tuple[Array, Array]:
    """Row and k of A with `each` elements in 32 bits, and one or two halves of eight rows."""
    word, inside = register // each, each * (lane % 4) + register % each
    return lane // 4 + 8 * (word % halves), inside + 4 * each * (word // halves)


def _mfma_places(name: str, lane: Array, register: Array, op: amd.Mfma) -> tuple[Array, Array]:
    """CDNA3 ISA: each lane holds consecutive k of row lane % m; 16x16 and 32x32 results by
    quadruples of rows, those of f64 by every fourth row.
    """
    each = register.shape[1]
    if name == "a":
        return lane % op.m, each * (lane // op.m) + register
    if name == "b":
        return each * (lane // op.n) + register, lane % op.n
    if memory_type(op.accumulator).dtype.bits == 64:
        return 4 * register + lane // 16, lane % 16
    if op.m == 16:
        return 4 * (lane // 16) + register, lane % 16
    return 8 * (register // 4) + 4 * (lane // 32) + register % 4, lane % 32


def _make_descriptor(m: Machine, op: wgmma.MakeDescriptor) -> None:
    handle, at = m.place(op.memory, op.indices)
    size = handle.type.dtype.bytes  # type: ignore[attr-defined]
    m.env[op.result] = Descriptor(handle, at * size, op.swizzle, op.lbo, op.sbo)


def _advance(m: Machine, op: wgmma.AdvanceDescriptor) -> None:
    d = m.env[op.descriptor]
    m.env[op.result] = Descriptor(
        d.memory, d.address + 16 * m.all(op.units), d.swizzle, d.lbo, d.sbo
    )


def _described(m: Machine, d: Descriptor, first: int, mn: int, k: int, transposed: bool) -> Array:
    """The matrix [mn, k] of 16-bit elements that a descriptor describes for the warpgroup from
    thread `first` on.
    """
    group = d.address[first : first + 128]
    assert (group == group[0]).all() and group[0] % 16 == 0
    i, j = np.indices((mn, k))
    span = d.swizzle
    if transposed:
        i, j = np.indices((mn, k))
        width = span // 2
        assert span, "MN-major without a swizzle is not modelled here"
        at = (i % width) * 2 + (i // width) * d.lbo + (j % 8) * span + (j // 8) * d.sbo
    elif span:
        at = (i % 8) * span + (i // 8) * d.sbo + j * 2
    else:
        at = (i % 8) * 16 + (i // 8) * d.sbo + (j // 8) * d.lbo + (j % 8) * 2
    at = at + group[0]
    bits = {128: 7, 64: 3, 32: 1, 0: 0}[span]
    at = at ^ ((at >> 7 & bits) << 4)
    return m.memory[d.memory].astype(np.float64)[at // 2]


def _wgmma(m: Machine, op: wgmma.Wgmma | wgmma.WgmmaRegisters) -> None:
    in_registers = isinstance(op, wgmma.WgmmaRegisters)
    for first in range(0, m.threads, 128):
        own = slice(first, first + 128)
        t = np.arange(128)
        if in_registers:
            lane, register = np.indices((128, 8))
            row, column = _a_places(lane % 32, register, 2, 2)
            a = np.full((64, 16), np.nan)
            a[row + 16 * (lane // 32), column] = m.read(op.a, op.a_offset, 8)[own]
        else:
            a = _described(m, m.env[op.a], first, 64, 16, op.transpose_a)
        b = _described(m, m.env[op.b], first, op.n, 16, op.transpose_b)
        register = np.arange(op.n // 2)[None, :]
        row = 16 * (t[:, None] // 32) + t[:, None] % 32 // 4 + 8 * (register // 2 % 2)
        column = 8 * (register // 4) + 2 * (t[:, None] % 4) + register % 2
        at = m.all(op.offset)[own][:, None] + register
        total = (a @ b.T)[row, column]
        adds = m.all(op.accumulate)[own][:, None].astype(bool)
        old = m.memory[op.accumulator][np.arange(first, first + 128)[:, None], at]
        m.memory[op.accumulator][np.arange(first, first + 128)[:, None], at] = np.where(
            adds, old + total, total
        )
    m.inflight.add(op.accumulator)


def _wgmma_wait(m: Machine, op: wgmma.WgmmaWait) -> None:
    if op.pending == 0:
        m.inflight -= set(op.registers)


def _set(value: Callable[[Machine, Any], Any]) -> Callable[[Machine, Any], None]:
    def rule(m: Machine, op: Any) -> None:
        m.env[op.result] = value(m, op)

    return rule


def _nothing(m: Machine, op: Op) -> None:
    """Threads that run in step need no barrier."""


RULES: dict[type[Op], Callable[[Machine, Any], None]] = {
    Alloc: lambda m, op: m.allocate(op.result) if op.result not in m.memory else None,
    ThreadId: _set(lambda m, op: m.thread),
    WarpUniform: _set(lambda m, op: np.repeat(m.uniform(op.x, m.warp_size), m.warp_size)),
    Slot: _set(lambda m, op: SlotOf(op.ring, m.get(op.index))),
    For: _for,
    If: _if,
    Load: _load,
    Store: _store,
    thread.VectorLoad: _vector_load,
    thread.VectorStore: _vector_store,
    amd.LoadTransposed: _load_transposed,
    thread.ConvertRegisters: _convert,
    thread.FillRegisters: _fill,
    thread.HoldRegisters: _nothing,
    thread.Shuffle: _shuffle,
    thread.ShuffleXor: _shuffle_xor,
    thread.Barrier: _nothing,
    nvidia.LdMatrix: _ldmatrix,
    nvidia.Mma: lambda m, op: _product(m, op, 32, _mma_places),
    amd.Mfma: lambda m, op: _product(m, op, 64, _mfma_places),
    wgmma.MakeDescriptor: _make_descriptor,
    wgmma.AdvanceDescriptor: _advance,
    wgmma.WgmmaFence: _nothing,
    wgmma.WgmmaCommit: _nothing,
    wgmma.WgmmaWait: _wgmma_wait,
    wgmma.Wgmma: _wgmma,
    wgmma.WgmmaRegisters: _wgmma,
}
