from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interpreter.programs import tensor
from tests.passes.lowering import FULL, SHORT, Bench, Lowered, random
from tests.passes.thread_machine import Machine
from tilec.ir.core import Program, Value, walk
from tilec.ir.dtypes import f16, f32, i32, i64, u8
from tilec.ir.layout import SharedLayout, Swizzle
from tilec.ir.ops.arith import BitXor
from tilec.ir.ops.control import For
from tilec.ir.ops.memory import Alloc, Flatten, Load, Slot, Store, memory_type
from tilec.ir.ops.nvidia import LdMatrix
from tilec.ir.ops.wgmma import MakeDescriptor
from tilec.ir.types import MemoryType, Space
from tilec.passes.flatten_memory import memory_fields
from tilec.passes.index_builder import IndexBuilder
from tilec.passes.ranges import Range

SWIZZLED = SharedLayout.swizzled((16, 64), 16, 128)


def write_all(layout: SharedLayout, threads: int = 32) -> Program:
    """C[offset in shared memory] = number of the element there, through a view as a row."""
    c = tensor("C", f32, layout.size)
    s = Bench()
    count = int(np.prod(layout.shape))
    with s.launch(1, threads=threads):
        tile = s.laid_out("S", f32, layout)
        s.fill(tile, 0.0)
        s.barrier()
        with s.simt(threads) as t:
            with s.loop(t, count, threads) as n:
                rest, place = n, []
                for extent in reversed(layout.shape):
                    place.insert(0, s.floormod(rest, extent))
                    rest = s.floordiv(rest, extent)
                s.store(s.cast(s.add(n, 1), f32), tile, *place)
            s.barrier()
            row = s.emit(Flatten(tile)).result
            with s.loop(t, layout.size, threads) as n:
                s.store(s.load(row, n), c, n)
    return s.program(c)


LAYOUTS = [
    SWIZZLED,
    SharedLayout.swizzled((8, 128), 16, 64),
    SharedLayout.row_major((6, 10), pad=3),
    SharedLayout.row_major((2, 3, 4)),
    SharedLayout.swizzled((3, 8, 32), 32, 128),
    SharedLayout.row_major((5, 7)).transpose((1, 0)),
    SharedLayout((16, 32), ((4, 4), (2, 16)), ((256, 16), (64, 1)), Swizzle(2, 2, 2)),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: "x".join(map(str, x.shape)))
def test_elements_are_where_the_layout_has_them(layout: SharedLayout) -> None:
    expected = np.zeros(layout.size, np.float32)
    expected[layout.offsets().reshape(-1)] = 1 + np.arange(layout.offsets().size)
    for passes in (SHORT, FULL):
        result = random(f32, layout.size)
        lowered = Lowered(write_all(layout), passes=passes)
        lowered.run(C=result)
        # What the fill leaves alone, between rows of a padded layout, is never written.
        padding = np.setdiff1d(np.arange(layout.size), layout.offsets())
        result[padding] = 0
        assert np.array_equal(result, expected)


def test_every_access_has_one_index_and_every_alloc_one_row() -> None:
    lowered = Lowered(write_all(SWIZZLED), passes=FULL)
    for op in lowered.ops:
        assert not isinstance(op, Slot)
        if isinstance(op, Alloc):
            assert len(op.type.shape) <= 1 and op.type.layout is None
        for memory, indices in memory_fields(op):
            assert len(getattr(op, indices)) == len(memory_type(getattr(op, memory)).shape) <= 1


@pytest.mark.parametrize("slots", [1, 3, 4])
@pytest.mark.parametrize("stride", [1024, 2048])
def test_slots_are_strides_of_their_ring(slots: int, stride: int) -> None:
    c = tensor("C", f16, slots, 16, 64)
    s = Bench()
    with s.launch(1, threads=32):
        whole = SharedLayout(
            (slots, *SWIZZLED.shape), ((slots,), *SWIZZLED.modes), ((stride,), *SWIZZLED.strides),
            SWIZZLED.swizzle,
        )  # fmt: skip
        buffer = s.laid_out("ring", f16, whole)
        with s.loop(0, slots) as k:
            slot = s.emit(Slot(buffer, k, layout_of_slot=SWIZZLED)).result
            with s.simt(32) as t, s.loop(0, 16) as row:
                s.store(s.cast(s.add(s.mul(k, 100), row), f16), slot, row, t)
                s.store(s.cast(s.sub(row, s.mul(k, 100)), f16), slot, row, s.add(t, 32))
        s.barrier()
        with s.simt(32) as t, s.loop(0, slots) as k, s.loop(0, 16) as row:
            for column in (t, s.add(t, 32)):
                s.store(s.load(buffer, k, row, column), c, k, row, column)
    program = s.program(c)
    for passes in (SHORT, FULL):
        result = random(f16, slots, 16, 64)
        lowered = Lowered(program, passes=passes)
        lowered.run(C=result)
        (alloc,) = (op for op in lowered.ops if isinstance(op, Alloc))
        assert alloc.type.shape == (1024 if slots == 1 else whole.size,)
        k, row, column = np.indices(result.shape)
        assert np.array_equal(result, np.where(column < 32, 100 * k + row, row - 100 * k))


def test_variables_stay_and_arrays_become_rows() -> None:
    c = tensor("C", i32, 32)
    s = Bench()
    with s.launch(1, threads=32), s.simt(32) as t:
        variable, table = s.local("n", i32), s.local("table", i32, 2, 3)
        s.store(t, variable)
        for i, j in itertools.product(range(2), range(3)):
            s.store(s.add(s.load(variable), 10 * i + j), table, i, j)
        s.store(s.load(table, 1, 2), c, t)
    lowered = Lowered(s.program(c))
    shapes = {op.result.hint: op.type.shape for op in lowered.ops if isinstance(op, Alloc)}
    assert shapes == {"n": (), "table": (6,)}
    result = np.zeros(32, np.int32)
    lowered.run(C=result)
    assert np.array_equal(result, np.arange(32) + 12)


@pytest.mark.parametrize("dtype", [u8, i32, i64], ids=str)
def test_indices_of_any_integer_type(dtype: object) -> None:
    c, a = tensor("C", f32, "M", 32), tensor("A", f32, "M", 32)
    s = Bench()
    with s.launch(1, threads=32):
        tile = s.laid_out("S", f32, SharedLayout.row_major((4, 32)))
        with s.simt(32) as t, s.loop(0, 4) as k:
            row, column = s.cast(k, dtype), s.cast(t, dtype)  # type: ignore[arg-type]
            s.store(s.load(a, row, column), tile, row, column)
            s.store(s.load(tile, row, column), c, row, column)
    x, y = random(f32, 3, 32), np.zeros((3, 32), np.float32)
    Lowered(s.program(a, c), passes=FULL).run(A=x, C=y)
    assert np.array_equal(x, y)


# Swizzles -----------------------------------------------------------------------------------------


def swizzled_reads(step: int, rounds: int = 1) -> Lowered:
    """ldmatrix of rows by lane, along the columns of a tile in an unrolled loop, `rounds` times."""
    s = Bench()
    with s.launch(1, threads=32):
        tile = s.laid_out("S", f16, SWIZZLED)
        with s.simt(32) as t:
            registers = s.local("r", f16, 8)
            row, column = s.floormod(t, 16), s.mul(s.floordiv(t, 16), 8)
            with s.loop(0, rounds * 64 // step, unroll=0) as k:
                k = s.floormod(k, 64 // step) if rounds > 1 else k
                at = (row, s.add(column, s.mul(k, step)))
                s.emit(LdMatrix(registers, s.value(0), tile, at, matrices=4))
    return Lowered(s.program(), "cuda:sm_80", SHORT)


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_swizzle_of_the_thread_is_taken_once(rounds: int) -> None:
    """Columns by 16 and lanes' columns of 8 share no bit: the loop's part is one exclusive or, be
    it the index or a remainder of it.
    """
    lowered = swizzled_reads(16, rounds)
    (loop,) = (op for op in lowered.ops if isinstance(op, For))
    dependent = {loop.body.params[0]}
    mixed = 0
    for op in walk(loop.body):
        if not dependent.isdisjoint(op.inputs):
            dependent |= set(op.results)
            mixed += isinstance(op, BitXor)
    assert mixed == 1


def test_where_bits_meet_the_swizzle_is_of_the_sum() -> None:
    lowered = swizzled_reads(8)
    (loop,) = (op for op in lowered.ops if isinstance(op, For))
    assert sum(isinstance(op, BitXor) for op in walk(loop.body)) == 1


@pytest.mark.parametrize("step", [8, 16, 32])
def test_swizzled_addresses(step: int) -> None:
    lowered = swizzled_reads(step)
    machine = _Addresses(lowered.program, {}, {})
    machine.run()
    t = np.arange(32)
    offsets = SWIZZLED.offsets()
    expected = []
    for k in range(64 // step):
        column = t // 16 * 8 + k * step
        if column.max() < 64:
            expected.append(offsets[t % 16, column])
    assert len(machine.found) == 64 // step
    assert all(np.array_equal(a, b) for a, b in zip(expected, machine.found, strict=False))


class _Addresses(Machine):
    """Notes the addresses that ldmatrix is given."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.found: list[np.ndarray] = []

    def _ldmatrix(self, op: LdMatrix, mask: np.ndarray) -> None:
        self.found.append(self.get(op.indices[0], mask).copy())


def test_descriptors_start_before_the_swizzle() -> None:
    s = Bench()
    with s.launch(1, threads=128):
        tile = s.laid_out("S", f16, SWIZZLED)
        with s.simt(128):
            at = (s.value(9), s.value(16))
            s.emit(MakeDescriptor(tile, at, swizzle=128, lbo=16, sbo=1024))
            s.store(s.const(1.0, f16), tile, *at)
    lowered = Lowered(s.program())
    (made,) = (op for op in lowered.ops if isinstance(op, MakeDescriptor))
    (stored,) = (op for op in lowered.ops if isinstance(op, Store))
    assert [v.value for v in made.indices] == [9 * 64 + 16]  # type: ignore[attr-defined]
    assert [v.value for v in stored.indices] == [int(SWIZZLED.offsets()[9, 16])]  # type: ignore[attr-defined]


# Index arithmetic ---------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-40, 40), st.integers(1, 33)), min_size=1, max_size=3),
    st.integers(-50, 50),
    st.sampled_from([2, 3, 8, 12, 64]),
)
def test_divisions_taken_apart_mean_the_same(
    terms: list[tuple[int, int]], offset: int, divisor: int
) -> None:
    """sum(factor * x) + offset divided by a number, for all x in their ranges."""
    b = IndexBuilder()
    variables = []
    total: Value = b.const(offset)
    for factor, extent in terms:
        variable = Value(b.const(0).type)
        b.assume(variable, Range.between(0, extent - 1))
        variables.append((variable, extent))
        total = b.add(b.mul(variable, factor), total)
    quotient, rest = b.floordiv(total, divisor), b.floormod(total, divisor)
    grids = np.meshgrid(*(np.arange(n, dtype=np.int32) for _, n in variables), indexing="ij")
    values: dict[Value, np.ndarray] = {v: g for (v, _), g in zip(variables, grids, strict=True)}
    for op in b.ops:
        operands = [values[v] if v in values else np.int32(v.value) for v in op.inputs]  # type: ignore[attr-defined]
        values[op.result] = np.asarray(op.evaluate(*operands))
    get = lambda v: values[v] if v in values else np.int32(v.value)  # noqa: E731
    exact = sum(
        (f * g for (f, _), g in zip(terms, grids, strict=True)), np.full_like(grids[0], offset)
    )
    assert np.array_equal(np.broadcast_to(get(quotient), exact.shape), exact // divisor)
    assert np.array_equal(np.broadcast_to(get(rest), exact.shape), exact % divisor)
    for value in (quotient, rest):
        known = b.range_of(value)
        assert known.low <= get(value).min() and get(value).max() <= known.high


def test_typical_divisions_leave_no_trace_of_the_loop() -> None:
    b = IndexBuilder()
    t, v, i = (Value(b.const(0).type, name) for name in "tvi")
    for value, extent in ((t, 128), (v, 8), (i, 4)):
        b.assume(value, Range.between(0, extent - 1))
    linear = b.add(b.add(b.mul(i, 1024), b.mul(t, 8)), v)
    row, column = b.form(b.floordiv(linear, 64)), b.form(b.floormod(linear, 64))
    assert row.factor_of(i) == 16 and row.factor_of(v) == 0
    assert column.factor_of(v) == 1 and column.factor_of(i) == 0
    assert b.is_multiple(b.sub(b.floormod(linear, 64), v), 8)


def test_loads_after_flattening_keep_predicates() -> None:
    a, c = tensor("A", f32, "M", "N"), tensor("C", f32, 4, 32)
    s = Bench()
    with s.launch(1, threads=32), s.simt(32) as t, s.loop(0, 4) as k:
        s.store(s.load(a, k, t, safe_value=-1.0), c, k, t)
    lowered = Lowered(s.program(a, c), passes=FULL)
    (load,) = (op for op in lowered.ops if isinstance(op, Load))
    assert load.predicate and load.in_bounds
    assert isinstance(load.memory.type, MemoryType) and load.memory.type.space is Space.GLOBAL
    x, y = random(f32, 3, 20), np.zeros((4, 32), np.float32)
    lowered.run(A=x, C=y)
    expected = np.full((4, 32), -1, np.float32)
    expected[:3, :20] = x
    assert np.array_equal(y, expected)
