from __future__ import annotations

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.interpreter.programs import number, tensor
from tests.kernels.legs import every_leg
from tests.passes.lowering import FULL, SHORT, Bench, Lowered, random
from tilec.errors import LayoutConflict
from tilec.ir.core import Block, Program, Value
from tilec.ir.dtypes import DType, bf16, f16, f32, i8, i32
from tilec.ir.layout import RegisterLayout, SharedLayout, blocked, mma_m16n8, wgmma_accumulator
from tilec.ir.ops.control import For, If, Parallel, Yield
from tilec.ir.ops.memory import Load, Store
from tilec.ir.ops.thread import VectorLoad, VectorStore
from tilec.ir.types import MemoryType, Space, TileType
from tilec.passes.lower_nests import register_map

ACCUMULATOR = wgmma_accumulator(64)
MMA = mma_m16n8("c", 16, 16).repeat((2, 2), "thread").repeat((1, 2), "register")


class Nest(Bench):
    """A bench with nests over tiles."""

    def nest(
        self,
        layout: RegisterLayout,
        reads: tuple[Value, ...],
        updates: tuple[Value, ...],
        body: object,
    ) -> tuple[Value, ...]:
        indices = tuple(number("ijk"[d]) for d in range(layout.rank))
        handles = []
        for value in (*reads, *updates):
            assert isinstance(value.type, TileType)
            type_ = MemoryType(value.type.dtype, value.type.shape, Space.FRAGMENT)
            handles.append(Value(type_, value.hint))
        with self.region() as ops:
            body(indices, *handles)  # type: ignore[operator]
            self.emit(Yield(()))
        block = Block((*indices, *handles), tuple(ops))
        op = Parallel(reads, updates, block, extents=layout.shape, layout=layout)
        return self.emit(op).results  # type: ignore[no-any-return]


def scaled(
    layout: RegisterLayout, dtype: DType, sizes: tuple[str | int, str | int] = ("M", "N")
) -> Program:
    """C[i, j] = acc[i, j] * bias[j] + row[i], with fragments of one dimension."""
    a, c = tensor("A", f32, *layout.shape), tensor("C", dtype, *sizes)
    bias, row = tensor("bias", f32, layout.shape[1]), tensor("row", f32, layout.shape[0])
    s = Nest()
    with s.launch(1, threads=layout.threads):
        acc = s.load_tile(a, (0, 0), layout)
        columns = s.load_tile(bias, (0,), layout.reduce(0))
        rows = s.load_tile(row, (0,), layout.reduce(1))

        def body(place: tuple[Value, Value], columns: Value, rows: Value, acc: Value) -> None:
            i, j = place
            product = s.mul(s.load(acc, i, j), s.load(columns, j))
            s.store(s.add(product, s.load(rows, i)), acc, i, j)

        (updated,) = s.nest(layout, (columns, rows), (acc,), body)

        def write(place: tuple[Value, Value], tile: Value) -> None:
            s.store(s.cast(s.load(tile, *place), dtype), c, *place)

        s.nest(layout, (updated,), (), write)
    return s.program(a, bias, row, c)


@pytest.mark.parametrize(
    "layout", [ACCUMULATOR, MMA, blocked((32, 64), 64, 4), blocked((6, 20), 32, 2)]
)
@pytest.mark.parametrize("target", ["cuda:sm_90a", "hip:gfx942"])
@pytest.mark.parametrize("assume", [True, False])
def test_fragments_and_their_projections(layout: RegisterLayout, target: str, assume: bool) -> None:
    for passes in (SHORT, FULL):
        lowered = Lowered(scaled(layout, f16), target, passes, assume)
        a, bias, row = (
            random(f32, *shape) for shape in (layout.shape, layout.shape[1:], layout.shape[:1])
        )
        m, n = layout.shape[0] - 1, -(-(layout.shape[1] - 6) // 8) * 8
        c = random(f16, m, n)
        machine = lowered.run(A=a, bias=bias, row=row, C=c)
        assert np.array_equal(c, (a * bias + row[:, None])[:m, :n].astype(np.float16))
        assert (machine.stored["C"] == 1).all()


def test_stores_of_consecutive_elements_are_vectors() -> None:
    lowered = Lowered(scaled(blocked((32, 64), 64, 8), f16), passes=FULL)
    assert [op.count for op in lowered.ops if isinstance(op, VectorStore)] == [8]
    lowered = Lowered(scaled(ACCUMULATOR, f32), passes=FULL)
    assert [op.count for op in lowered.ops if isinstance(op, VectorStore)] == [2]
    assert not lowered.remarks


def test_register_maps_are_enumerated() -> None:
    assert register_map(ACCUMULATOR, ACCUMULATOR, (0, 1)) == tuple(range(ACCUMULATOR.registers))
    columns = ACCUMULATOR.reduce(0)
    numbers = register_map(ACCUMULATOR, columns, (1,))
    assert sorted(set(numbers)) == list(range(columns.registers))
    with pytest.raises(AssertionError, match=r"does not hold|different registers"):
        register_map(ACCUMULATOR, blocked((64, 64), 128, 2), (0, 1))


def move(
    extents: tuple[int, int],
    layout: RegisterLayout | None,
    threads: int,
    dtype: DType = f16,
    shared: SharedLayout | None = None,
    transposed: bool = False,
) -> Program:
    """C[i, j] (or C[j, i]) = A[i, j] + 1 in nests without fragments, through shared memory."""
    a, c = (
        tensor("A", dtype, "M", "N"),
        tensor("C", dtype, *(("N", "M") if transposed else ("M", "N"))),
    )
    s = Bench()

    def nest(body: object) -> None:
        indices = (number("i"), number("j"))
        with s.region() as ops:
            body(*indices)  # type: ignore[operator]
            s.emit(Yield(()))
        s.emit(Parallel((), (), Block(indices, tuple(ops)), extents=extents, layout=layout))

    one = s.const(1, dtype)
    grid = s.ceildiv(s.symbol("N"), extents[1]), s.ceildiv(s.symbol("M"), extents[0])
    with s.launch(*grid, threads=threads) as (bx, by, _):
        row, column = s.mul(by, extents[0]), s.mul(bx, extents[1])

        def target(i: Value, j: Value) -> tuple[Value, Value]:
            at = s.add(row, i), s.add(column, j)
            return (at[1], at[0]) if transposed else at

        if shared is None:
            nest(
                lambda i, j: s.store(
                    s.add(s.load(a, s.add(row, i), s.add(column, j)), one), c, *target(i, j)
                )
            )
        else:
            tile = s.laid_out("S", dtype, shared)
            nest(lambda i, j: s.store(s.load(a, s.add(row, i), s.add(column, j)), tile, i, j))
            s.barrier()
            nest(lambda i, j: s.store(s.add(s.load(tile, i, j), one), c, *target(i, j)))
    return s.program(a, c)


def check(lowered: Lowered, dtype: DType, shape: tuple[int, int], transposed: bool = False) -> None:
    a = random(dtype, *shape)
    c = np.full(a.T.shape if transposed else a.shape, 99, a.dtype)
    machine = lowered.run(A=a, C=c)
    assert np.array_equal(c, (a.T if transposed else a) + 1)
    assert (machine.stored["C"] == 1).all()


@pytest.mark.parametrize("dtype", [f16, bf16, f32, i8, i32], ids=str)
@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
@pytest.mark.parametrize("swizzled", [False, True])
def test_nests_through_shared_memory(dtype: DType, target: str, swizzled: bool) -> None:
    span = 128 if swizzled else 0
    shared = SharedLayout.swizzled((16, 128), dtype.bits, span)
    layout = blocked((16, 128), 64, 128 // dtype.bits)
    lowered = Lowered(move((16, 128), layout, 64, dtype, shared), target, FULL)
    assert lowered.count(VectorLoad) == lowered.count(VectorStore) == 2
    assert not lowered.remarks
    check(lowered, dtype, (21, 144))


@pytest.mark.parametrize(
    ("extents", "threads"), [((8, 8), 128), ((1, 3), 32), ((7, 11), 64), ((40, 6), 96)]
)
def test_extents_that_do_not_fill_the_threads(extents: tuple[int, int], threads: int) -> None:
    for layout in (None, blocked(extents, threads)):
        check(Lowered(move(extents, layout, threads), passes=FULL), f16, (17, 16))


def test_a_transposed_store_keeps_its_load_a_vector() -> None:
    lowered = Lowered(move((16, 64), blocked((16, 64), 64, 8), 64, transposed=True), passes=FULL)
    assert lowered.count(VectorLoad) == 1 and not lowered.count(VectorStore)
    check(lowered, f16, (20, 72), transposed=True)


def test_unaligned_nests_are_unrolled_without_a_remark() -> None:
    lowered = Lowered(move((16, 64), blocked((16, 64), 64, 8), 64), passes=FULL, assume=False)
    assert not lowered.remarks and not lowered.count(VectorLoad)
    check(lowered, f16, (19, 67))


def test_control_flow_in_a_nest_of_copies() -> None:
    """A nest of more threads than elements: a store under a condition in a loop, once."""
    layout = blocked((4, 8), 64)
    a, c = tensor("A", f32, 4, 8), tensor("C", f32, 4, 8)
    s = Nest()
    with s.launch(1, threads=64):
        tile = s.load_tile(a, (0, 0), layout)

        def body(place: tuple[Value, Value], tile: Value) -> None:
            i, j = place
            with s.loop(0, 3) as k:
                even = s.compare("eq", s.floormod(s.add(j, k), 2), 0)
                with s.when(even):
                    s.store(s.add(s.load(tile, i, j), s.cast(k, f32)), c, i, j)
                    s.store(s.add(s.load(tile, i, j), s.const(1.0, f32)), tile, i, j)

        s.nest(layout, (), (tile,), body)
    x, y = random(f32, 4, 8), np.zeros((4, 8), np.float32)
    machine = Lowered(s.program(a, c), passes=FULL).run(A=x, C=y)
    even = np.arange(8) % 2 == 0
    assert np.array_equal(y, np.where(even, x + 3, x + 1))
    assert np.array_equal(
        machine.stored["C"].reshape(4, 8), np.broadcast_to(np.where(even, 2, 1), (4, 8))
    )


@pytest.mark.parametrize("passes", [SHORT, FULL], ids=["short", "full"])
def test_copies_of_a_nest_store_to_shared_memory_once(passes: object) -> None:
    """Vectors to shared memory from one of several threads that hold the same elements."""
    layout = blocked((4, 64), 128, 8)
    assert layout.replication > 1
    a, c = tensor("A", f16, 4, 64), tensor("C", f16, 4, 64)
    s = Nest()
    with s.launch(1, threads=128):
        tile = s.load_tile(a, (0, 0), layout)
        buffer = s.laid_out("S", f16, SharedLayout.row_major((4, 64)))

        def write(place: tuple[Value, Value], tile: Value) -> None:
            s.store(s.load(tile, *place), buffer, *place)

        s.nest(layout, (tile,), (), write)
        s.barrier()
        s.copy(buffer, (0, 0), c, (0, 0), (4, 64))
    x, y = random(f16, 4, 64), np.zeros((4, 64), np.float16)
    lowered = Lowered(s.program(a, c), passes=passes)  # type: ignore[arg-type]
    assert all(op.count == 8 for op in lowered.ops if isinstance(op, VectorStore))
    lowered.run(A=x, C=y)
    assert np.array_equal(x, y)


# Thread-level code --------------------------------------------------------------------------------


def vectorized(s: Bench, count: int, body: object, start: int = 0) -> None:
    index = number("v")
    with s.region() as ops:
        body(index)  # type: ignore[operator]
        s.emit(Yield(()))
    s.emit(
        For(
            s.value(start),
            s.value(count),
            s.value(1),
            (),
            Block((index,), tuple(ops)),
            kind="vectorized",
        )
    )


def unpack(threads: int = 32, width: int = 8) -> Program:
    """Pairs of nibbles in memory order, as thread-level code with divisions of the linear index."""
    a, c = tensor("A", i8, 16, 32), tensor("C", i32, 16, 64)
    s = Bench()
    with s.launch(1, threads=threads):
        packed = s.laid_out("P", i8, SharedLayout.swizzled((16, 32), 8, 32))
        s.copy(a, (0, 0), packed, (0, 0), (16, 32))
        s.barrier()
        with s.simt(threads) as t:
            own, wide = s.local("own", i8, width // 2), s.local("wide", i32, width)
            with s.loop(0, 1024 // (threads * width)) as i:

                def place(v: Value, n: int, row: int) -> tuple[Value, Value]:
                    linear = s.add(s.add(s.mul(i, threads * n), s.mul(t, n)), v)
                    return s.floordiv(linear, row), s.floormod(linear, row)

                def load(v: Value) -> None:
                    s.store(s.load(packed, *place(v, width // 2, 32)), own, v)

                vectorized(s, width // 2, load)
                with s.loop(0, width) as v:
                    byte = s.cast(s.load(own, s.floordiv(v, 2)), i32)
                    shift = s.mul(s.floormod(v, 2), 4)
                    s.store(s.bit_and(s.shift_right(byte, shift), 15), wide, v)
                vectorized(s, width, lambda v: s.store(s.load(wide, v), c, *place(v, width, 64)))
    return s.program(a, c)


def test_thread_level_loops_vectorise_through_divisions() -> None:
    a = np.random.default_rng(0).integers(-128, 128, (16, 32)).astype(np.int8)
    expected = np.stack([a & 15, (a >> 4) & 15], axis=-1).reshape(16, 64)
    for passes in (SHORT, FULL):
        lowered = Lowered(unpack(), passes=passes)
        assert not lowered.remarks
        c = np.zeros((16, 64), np.int32)
        lowered.run(A=a, C=c)
        assert np.array_equal(c, expected)
        loads = [op.count for op in lowered.ops if isinstance(op, VectorLoad)]
        assert 4 in loads and {op.count for op in lowered.ops if isinstance(op, VectorStore)} >= {4}


def test_loops_over_registers_are_unrolled() -> None:
    lowered = Lowered(unpack(), passes=FULL)
    over_registers = [
        op for op in lowered.ops
        if isinstance(op, For) and any(isinstance(i, Load) for i in op.body.ops)
    ]  # fmt: skip
    assert over_registers and all(op.unroll == 0 for op in over_registers)
    assert any(op.unroll == 1 for op in lowered.ops if isinstance(op, For))


@pytest.mark.parametrize("case", ["start", "stride", "reverse", "barrier", "store first", "twice"])
def test_what_does_not_vectorise_is_unrolled(case: str) -> None:
    a, c = tensor("A", f32, 256), tensor("C", f32, 256)
    s = Bench()
    with s.launch(1, threads=32):
        tile = s.laid_out("S", f32, SharedLayout.row_major((512,)))
        s.fill(tile, 0.0)
        s.barrier()
        with s.simt(32) as t:
            base = s.mul(t, 8)

            def body(v: Value) -> None:
                at = s.add(base, v)
                if case == "stride":
                    at = s.add(base, s.mul(v, 2))
                if case == "reverse":
                    at = s.sub(s.add(base, 7), v)
                if case == "store first":
                    s.store(s.const(1.0, f32), tile, at)
                if case == "barrier":
                    s.barrier()
                s.store(s.add(s.load(a, at), s.load(tile, at)), c, at)
                if case == "twice":
                    s.store(s.load(a, at), c, at)

            vectorized(s, 8, body, start=4 if case == "start" else 0)
    x = random(f32, 256)
    y, z = np.zeros_like(x), np.zeros_like(x)
    lowered = Lowered(s.program(a, c), passes=FULL)
    lowered.run(A=x, C=y)
    Lowered(s.program(a, c), passes=SHORT).run(A=x, C=z)
    assert np.array_equal(y, z)
    assert lowered.count(VectorStore) == 1  # of the fill
    assert {r.code for r in lowered.remarks} == ({"TLC0434"} if case != "twice" else set())
    expected = {"start": np.where(np.arange(256) % 8 < 4, 0, x), "store first": x + 1}.get(case, x)
    if case == "stride":
        written = np.unique((np.arange(32)[:, None] * 8 + np.arange(8) * 2).ravel())
        expected = np.where(np.isin(np.arange(256), written), x, 0)
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("extent", [512, 500, 3])
@pytest.mark.parametrize("assume", [True, False])
def test_thread_level_accesses_are_guarded(extent: int, assume: bool) -> None:
    """Element accesses and vectors of a tensor whose length is not known."""
    a, c = tensor("A", f32, "N"), tensor("C", f32, "N")
    s = Bench()
    with s.launch(1, threads=64), s.simt(64) as t:
        at = s.mul(t, 8)
        vectorized(
            s,
            8,
            lambda v: s.store(s.add(s.load(a, s.add(at, v)), s.const(1.0, f32)), c, s.add(at, v)),
        )
        before = s.sub(t, 40)
        s.store(s.load(a, before), c, before)
    x = random(f32, extent)
    y = np.zeros_like(x)
    lowered = Lowered(s.program(a, c), passes=FULL, assume=assume)
    lowered.run(A=x, C=y)
    expected = x + 1
    expected[:24] = x[:24]
    assert np.array_equal(y, expected)
    tensors = [
        op for op in lowered.ops
        if isinstance(op, (Load, Store)) and op.memory.type.space is Space.GLOBAL  # type: ignore[attr-defined]
    ]  # fmt: skip
    assert all(op.in_bounds for op in tensors)
    assert assume == bool(lowered.count(VectorLoad))


def test_conditions_prove_bounds() -> None:
    """Under `if k < 4` no check is needed of what is inside for all such k."""
    a, c = tensor("A", f32, 4, 32), tensor("C", f32, 8, 32)
    s = Bench()
    with s.launch(1, threads=32), s.simt(32) as t, s.loop(0, 8) as k:
        below = s.compare("lt", k, 4)
        with s.when(below):
            s.store(s.load(a, k, t), c, k, t)
    lowered = Lowered(s.program(a, c))
    assert not any(op.predicate for op in lowered.ops if isinstance(op, (Load, Store)))
    assert lowered.count(If) == 1
    x, y = random(f32, 4, 32), np.zeros((8, 32), np.float32)
    lowered.run(A=x, C=y)
    assert np.array_equal(y[:4], x) and not y[4:].any()


# Copies of one iteration ---------------------------------------------------------------------------


@tilec.kernel
def scanned(A: T.Tensor((7, 12), "float16"), C: T.Tensor((7, 12), "float16")):
    """84 elements for 256 threads: what a nest reads and writes has one thread for each."""
    with T.Kernel(1, threads=256):
        S = T.alloc_shared((7, 12), "float16")
        T.copy(A, S)
        T.cumsum(S, dim=1)
        for i, j in T.Parallel(7, 12):
            S[i, j] = T.min(S[i, j], 32)
        T.copy(S, C)


@tilec.kernel
def counted(A: T.Tensor((32,), "float32"), C: T.Tensor((32, 64), "float32")):
    """R lies alike in several threads, since F is spread over them."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((32,), "float32")
        R = T.alloc_fragment((32,), "float32")
        F = T.alloc_fragment((32, 64), "float32")
        T.copy(A, S)
        T.clear(F)
        for i in T.Parallel(32):
            before = S[i] + 0
            S[i] = before + 1
            R[i] = S[i] + before
        for i, j in T.Parallel(32, 64):
            F[i, j] = F[i, j] + R[i]
        T.copy(F, C)


@pytest.mark.emulator
def test_a_nest_that_fills_no_fragment_runs_once() -> None:
    """A copy of it would read what the first has written already."""
    a = np.random.default_rng(0).integers(-4, 9, (7, 12)).astype(np.float16)
    for device, (_, c) in every_leg(scanned, a, np.zeros_like(a)):
        assert np.array_equal(c, np.minimum(np.cumsum(a, 1), 32)), device


def test_a_fragment_filled_from_memory_before_and_after_a_write_is_refused() -> None:
    for target in ("cuda:sm_80", "hip:gfx942"):
        with pytest.raises(LayoutConflict, match="one of them writes S, and the others") as caught:
            counted.lower(target=target)
        assert caught.value.code == "TLC0412" and "a nest of its own" in caught.value.hint
