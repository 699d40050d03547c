from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from tests.interpreter.programs import tensor
from tests.passes.lowering import FULL, SHORT, Bench, Lowered, random
from tilec.errors import LayoutConflict
from tilec.ir.build import Builder
from tilec.ir.core import Program, Value, constant
from tilec.ir.dtypes import DType, bf16, f16, f32, i8, mbarrier
from tilec.ir.layout import SharedLayout
from tilec.ir.ops.amd import BufferCopy, BufferLoad, BufferStore
from tilec.ir.ops.control import For
from tilec.ir.ops.memory import Alloc, Load, Slot, Store
from tilec.ir.ops.nvidia import CpAsync, TensorMap, TmaLoad, TmaStore
from tilec.ir.ops.thread import VectorLoad, VectorStore
from tilec.ir.ops.tile import Copy, Fill
from tilec.ir.print import print_program
from tilec.ir.types import MemoryType, Space

ROW_MAJOR = SharedLayout.row_major


def there_and_back(
    layout: SharedLayout,
    dims: tuple[int | str, int | str] = ("M", "N"),
    dtype: DType = f16,
    out: DType | None = None,
    instruction: str = "cp_async",
    threads: int = 128,
) -> Program:
    """C = A, tile by tile through shared memory."""
    a, c = tensor("A", dtype, *dims), tensor("C", out or dtype, *dims)
    s = Bench()
    m, n = (s.symbol(d) if isinstance(d, str) else s.value(d) for d in dims)
    rows, columns = layout.shape
    with s.launch(s.ceildiv(n, columns), s.ceildiv(m, rows), threads=threads) as (bx, by, _):
        tile = s.laid_out("S", dtype, layout)
        corner = (s.mul(by, rows), s.mul(bx, columns))
        s.copy(a, corner, tile, (0, 0), layout.shape, instruction=instruction)
        s.barrier()
        s.copy(tile, (0, 0), c, corner, layout.shape)
    return s.program(a, c)


def check(lowered: Lowered, shape: tuple[int, int], dtype: DType, out: DType | None = None) -> None:
    a = random(dtype, *shape)
    c = np.full(shape, 99, (out or dtype).numpy)
    machine = lowered.run(A=a, C=c)
    assert np.array_equal(c, a.astype(c.dtype))
    assert (machine.stored["C"] == 1).all()


LAYOUTS = [
    SharedLayout.swizzled((64, 64), 16, 128),
    SharedLayout.swizzled((64, 32), 16, 64),
    ROW_MAJOR((32, 128)),
    ROW_MAJOR((64, 64), pad=8),
    ROW_MAJOR((1, 64)),
    ROW_MAJOR((3, 24)),
    ROW_MAJOR((16, 20), pad=1),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: "x".join(map(str, x.shape)))
@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
@pytest.mark.parametrize("passes", [SHORT, FULL], ids=["short", "full"])
def test_every_layout_on_ragged_tensors(layout: SharedLayout, target: str, passes: object) -> None:
    check(Lowered(there_and_back(layout), target, passes), (70, 136), f16)  # type: ignore[arg-type]


@pytest.mark.parametrize("passes", [SHORT, FULL], ids=["short", "full"])
@pytest.mark.parametrize(
    ("layout", "threads"),
    [
        (SharedLayout.swizzled((64, 64), 16, 128), 256), (SharedLayout.swizzled((64, 32), 16, 64), 128),
        (SharedLayout.swizzled((32, 128), 16, 128), 64), (SharedLayout.swizzled((64, 16), 16, 32), 64),
        (ROW_MAJOR((16, 40)), 64), (ROW_MAJOR((1, 512)), 64), (ROW_MAJOR((24, 64)), 64),
    ],
)  # fmt: skip
def test_waves_copy_what_the_layout_puts_at_their_places(
    layout: SharedLayout, threads: int, passes: object
) -> None:
    program = there_and_back(layout, threads=threads, instruction="buffer_copy")
    if threads * 8 > layout.size or layout.size % (threads * 8):
        with pytest.raises(AssertionError, match="whole copies"):
            Lowered(program, "hip:gfx950", passes)  # type: ignore[arg-type]
        return
    lowered = Lowered(program, "hip:gfx950", passes)  # type: ignore[arg-type]
    assert lowered.count(BufferCopy) and not lowered.count(VectorStore)
    check(lowered, (70, 136), f16)


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
@pytest.mark.parametrize("shape", [(64, 64), (70, 73), (1, 1)])
def test_unaligned_tensors_are_copied_by_elements(target: str, shape: tuple[int, int]) -> None:
    lowered = Lowered(there_and_back(LAYOUTS[0]), target, assume=False)
    assert not lowered.count(CpAsync) and not lowered.count(VectorLoad)
    check(lowered, shape, f16)


def test_facts_are_asked_once_a_tensor_and_only_where_they_decide() -> None:
    asked = Lowered(there_and_back(LAYOUTS[0])).facts.taken
    limit = 1 << 31
    assert set(asked) == {
        ("aligned", "A", 16),
        ("below", "A", limit),
        ("aligned", "C", 16),
        ("below", "C", limit),
    }
    # 100 elements of 2 bytes: rows are multiples of 8 bytes whatever the array; sizes are known.
    asked = Lowered(there_and_back(LAYOUTS[0], (128, 100))).facts.taken
    assert set(asked) == {("aligned", "A", 8), ("aligned", "C", 8)}
    assert not Lowered(there_and_back(LAYOUTS[0], (128, 99))).facts.taken


def test_rows_of_eight_bytes_use_narrower_instructions() -> None:
    lowered = Lowered(there_and_back(LAYOUTS[0], (128, 100)), "cuda:sm_80")
    assert {op.size for op in lowered.ops if isinstance(op, CpAsync)} == {8}
    assert {op.count for op in lowered.ops if isinstance(op, VectorStore)} == {4}
    check(lowered, (128, 100), f16)


def test_no_predicates_where_tiles_divide_the_tensor() -> None:
    lowered = Lowered(there_and_back(LAYOUTS[0], (128, 192)), "cuda:sm_80")
    moves = [op for op in lowered.ops if isinstance(op, (CpAsync, VectorStore))]
    assert moves and not any(op.predicate for op in moves)
    check(lowered, (128, 192), f16)


def test_one_dimension_that_divides_needs_no_check_of_its_own() -> None:
    lowered = Lowered(there_and_back(LAYOUTS[0], ("M", 128)), "cuda:sm_80", FULL)
    text = print_program(lowered.program)
    assert len(re.findall(r"compare", text)) == 2  # of the row alone, in each of the copies
    check(lowered, (70, 128), f16)


@pytest.mark.parametrize("threads", [32, 96, 128, 256])
def test_threads_that_do_not_divide_the_tile(threads: int) -> None:
    for layout in (LAYOUTS[0], LAYOUTS[5]):
        lowered = Lowered(there_and_back(layout, threads=threads), "cuda:sm_80", FULL)
        check(lowered, (65, 72), f16)


@pytest.mark.parametrize(
    ("dtype", "out"), [(f32, f16), (f16, f32), (bf16, f32), (i8, f16), (f32, i8)]
)
@pytest.mark.parametrize("target", ["cuda:sm_90a", "hip:gfx942"])
def test_copies_convert(dtype: DType, out: DType, target: str) -> None:
    layout = ROW_MAJOR((32, 64))
    check(Lowered(there_and_back(layout, dtype=dtype, out=out), target, FULL), (40, 80), dtype, out)


def test_buffers_are_made_once() -> None:
    lowered = Lowered(there_and_back(LAYOUTS[0]), "hip:gfx942", FULL)
    assert lowered.count(BufferLoad) == lowered.count(BufferStore) == 1
    assert sum(op.name == "make_buffer" for op in lowered.ops) == 2


@pytest.mark.parametrize("safe", [0.0, -7.0])
@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_outside_the_tensor_is_the_safe_value(safe: float, target: str) -> None:
    a, c = tensor("A", f16, "M", "N"), tensor("C", f16, 64, 64)
    s = Bench()
    with s.launch(1, threads=128):
        tile = s.laid_out("S", f16, LAYOUTS[0])
        s.copy(a, (8, 16), tile, (0, 0), (64, 64), safe_value=safe, instruction="cp_async")
        s.barrier()
        s.copy(tile, (0, 0), c, (0, 0), (64, 64))
    source, result = random(f16, 40, 48), random(f16, 64, 64)
    Lowered(s.program(a, c), target, FULL).run(A=source, C=result)
    expected = np.full((64, 64), safe, np.float16)
    expected[:32, :32] = source[8:, 16:]
    assert np.array_equal(result, expected)


def test_negative_corners_are_outside() -> None:
    a, c = tensor("A", f16, "M", "N"), tensor("C", f16, 32, 64)
    s = Bench()
    with s.launch(1, threads=64):
        tile = s.laid_out("S", f16, ROW_MAJOR((32, 64)))
        s.copy(a, (-3, -8), tile, (0, 0), (32, 64), instruction="cp_async")
        s.barrier()
        s.copy(tile, (0, 0), c, (0, 0), (32, 64))
    source, result = random(f16, 40, 48), random(f16, 32, 64)
    Lowered(s.program(a, c), "cuda:sm_80", FULL).run(A=source, C=result)
    expected = np.zeros((32, 64), np.float16)
    expected[3:, 8:56] = source[:29]
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("extent", [64, 61, 1024, 1027])
@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
@pytest.mark.parametrize("assume", [True, False])
def test_vectors_may_cross_the_end_of_a_row_of_elements(
    extent: int, target: str, assume: bool
) -> None:
    a, c = tensor("A", f16, "N"), tensor("C", f16, "N")
    s = Bench()
    with s.launch(s.ceildiv(s.symbol("N"), 512), threads=64) as (bx, _, _):
        tile = s.laid_out("S", f16, ROW_MAJOR((512,)))
        s.copy(a, (s.mul(bx, 512),), tile, (0,), (512,))
        s.barrier()
        s.copy(tile, (0,), c, (s.mul(bx, 512),), (512,))
    source, result = random(f16, extent), random(f16, extent, seed=1)
    Lowered(s.program(a, c), target, FULL, assume).run(A=source, C=result)
    assert np.array_equal(source, result)


def test_regions_of_other_ranks() -> None:
    """A[b, h, :, :] is a region of two dimensions of four."""
    a, c = tensor("A", f16, 2, 3, "M", 64), tensor("C", f16, 2, 3, "M", 64)
    s = Bench()
    with s.launch(3, 2, threads=64) as (h, batch, _):
        tile, zero = s.laid_out("S", f16, SharedLayout.swizzled((32, 64), 16, 128)), s.value(0)
        s.emit(
            Copy(
                a,
                (batch, h, zero, zero),
                tile,
                (zero, zero),
                shape=(32, 64),
                source_dims=(2, 3),
                destination_dims=(0, 1),
                instruction="cp_async",
            )
        )
        s.barrier()
        s.emit(
            Copy(
                tile,
                (zero, zero),
                c,
                (batch, h, zero, zero),
                shape=(32, 64),
                source_dims=(0, 1),
                destination_dims=(2, 3),
            )
        )
    source, result = random(f16, 2, 3, 30, 64), random(f16, 2, 3, 30, 64, seed=1)
    Lowered(s.program(a, c), "cuda:sm_80", FULL).run(A=source, C=result)
    assert np.array_equal(source, result)


def test_a_column_is_copied_by_elements() -> None:
    a, c = tensor("A", f16, "M", 40), tensor("C", f16, 64)
    s = Bench()
    with s.launch(1, threads=32):
        tile = s.laid_out("S", f16, ROW_MAJOR((64,)))
        s.emit(
            Copy(
                a,
                (s.value(0), s.value(7)),
                tile,
                (s.value(0),),
                shape=(64,),
                source_dims=(0,),
                destination_dims=(0,),
            )
        )
        s.barrier()
        s.copy(tile, (0,), c, (0,), (64,))
    source, result = random(f16, 50, 40), random(f16, 64)
    Lowered(s.program(a, c), passes=FULL).run(A=source, C=result)
    assert np.array_equal(result[:50], source[:, 7]) and not result[50:].any()


def test_every_thread_fills_its_own_array() -> None:
    a, c = tensor("A", f16, "M", "N"), tensor("C", f32, 32, 2, 6)
    s = Bench()
    with s.launch(1, threads=32):
        own = s.local("own", f32, 2, 6)
        s.copy(a, (3, 1), own, (0, 0), (2, 6))
        with s.simt(32) as t:
            for i, j in itertools.product(range(2), range(6)):
                s.store(s.load(own, i, j), c, t, i, j)
    source, result = random(f16, 9, 5), np.zeros((32, 2, 6), np.float32)
    Lowered(s.program(a, c), passes=FULL).run(A=source, C=result)
    expected = np.zeros((2, 6), np.float32)
    expected[:, :4] = source[3:5, 1:]
    assert np.array_equal(result, np.broadcast_to(expected, (32, 2, 6)))


def test_indices_of_64_bits() -> None:
    """A tensor that may take 2^31 bytes or more; an index that is 64 bits wide itself."""
    lowered = Lowered(there_and_back(LAYOUTS[0]), assume=False)
    wide = [op.indices[0] for op in lowered.ops if isinstance(op, Store) and op.memory.hint == "C"]
    assert wide and {str(v.type) for v in wide} == {"i64"}
    big = Lowered(there_and_back(LAYOUTS[0], (1 << 20, 2048)))
    moves = [op for op in big.ops if isinstance(op, VectorStore) and op.memory.hint == "C"]
    assert {str(op.indices[0].type) for op in moves} == {"i64"}


# The copy engine ----------------------------------------------------------------------------------


def by_engine(layout: SharedLayout, slots: int = 2) -> Program:
    """C = A through one slot of a ring, both ways by TMA, fed by thread 0."""
    a, c = tensor("A", f16, "M", "N"), tensor("C", f16, "M", "N")
    s = Bench()
    rows, columns = layout.shape
    period = 512
    stride = -(-layout.size // period) * period
    ring_layout = SharedLayout(
        (slots, *layout.shape),
        ((slots,), *layout.modes),
        ((stride,), *layout.strides),
        layout.swizzle,
    )
    grid = s.ceildiv(s.symbol("N"), columns), s.ceildiv(s.symbol("M"), rows)
    with s.launch(*grid, threads=64) as (bx, by, _):
        ring = s.laid_out("ring", f16, ring_layout)
        barriers = s.emit(
            Alloc(type=MemoryType(mbarrier, (slots,), Space.SHARED, ROW_MAJOR((slots,))))
        ).result
        index = s.floormod(s.add(bx, by), slots)
        slot = s.emit(Slot(ring, index, layout_of_slot=layout)).result
        corner = (s.mul(by, rows), s.mul(bx, columns))
        first = s.compare("eq", thread_number(s), 0)
        with s.when(first):
            options = {"shape": layout.shape, "instruction": "tma"}
            zero = (s.value(0), s.value(0))
            dims = {"source_dims": (0, 1), "destination_dims": (0, 1)}
            s.emit(Copy(a, corner, slot, zero, (barriers, index), **dims, **options))
            s.emit(Copy(slot, zero, c, corner, **dims, **options))
    return s.program(a, c)


def thread_number(s: Builder) -> Value:
    from tilec.ir.ops.control import ThreadId

    return s.emit(ThreadId()).result


@pytest.mark.parametrize(
    ("layout", "boxes", "span"),
    [
        (SharedLayout.swizzled((64, 64), 16, 128), 1, 128),
        (SharedLayout.swizzled((64, 256), 16, 128), 4, 128),
        (SharedLayout.swizzled((32, 64), 16, 64), 2, 64),
        (ROW_MAJOR((32, 64)), 1, 0),
    ],
)
def test_tma_boxes(layout: SharedLayout, boxes: int, span: int) -> None:
    for passes in (SHORT, FULL):
        lowered = Lowered(by_engine(layout), passes=passes)
        assert lowered.count(TmaLoad) == lowered.count(TmaStore) == 1
        maps = [op for op in lowered.ops if isinstance(op, TensorMap)]
        assert {(op.box, op.swizzle) for op in maps} == {
            ((layout.shape[0], layout.shape[1] // boxes), span)
        }
        a, c = random(f16, 100, 320), np.zeros((100, 320), np.float16)
        lowered.run(A=a, C=c)
        assert np.array_equal(a, c)


def test_a_layout_without_boxes_is_refused() -> None:
    with pytest.raises(LayoutConflict, match="copy engine"):
        Lowered(by_engine(ROW_MAJOR((32, 64), pad=8)))


def test_the_engine_is_given_unswizzled_places_and_threads_swizzled_ones() -> None:
    text = print_program(Lowered(by_engine(LAYOUTS[0]), passes=FULL).program)
    assert "bit_xor" not in text
    assert "bit_xor" in print_program(Lowered(there_and_back(LAYOUTS[0]), passes=FULL).program)


# Fill ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [*LAYOUTS, ROW_MAJOR((5,)), ROW_MAJOR((2, 3, 8))])
def test_fill_shared(layout: SharedLayout) -> None:
    c = tensor("C", f16, *layout.shape)
    s = Bench()
    origin = (0,) * layout.rank
    with s.launch(1, threads=64):
        tile = s.laid_out("S", f16, layout)
        s.fill(tile, 3.0)
        s.barrier()
        s.copy(tile, origin, c, origin, layout.shape)
    result = random(f16, *layout.shape)
    Lowered(s.program(c), passes=FULL).run(C=result)
    assert (result == 3).all()


@pytest.mark.parametrize("shape", [(4,), (2, 3), (5, 8)])
def test_fill_local_and_tensor(shape: tuple[int, ...]) -> None:
    c = tensor("C", f32, 64, "N")
    s = Bench()
    with s.launch(1, threads=64):
        own = s.local("own", f32, *shape)
        s.fill(own, 2.0)
        s.emit(Fill(c, constant(5.0, f32)))
        s.barrier()
        with s.simt(64) as t:
            for n, place in enumerate(itertools.product(*(range(d) for d in shape))):
                s.store(s.load(own, *place), c, t, n)
    result = random(f32, 64, 50)
    Lowered(s.program(c), passes=FULL).run(C=result)
    count = int(np.prod(shape))
    assert (result[:, :count] == 2).all() and (result[:, count:] == 5).all()


def test_gemm_operand_copy_as_text() -> None:
    """The mainloop's copy: rows over threads, the swizzle of the thread's part, one predicate."""
    lowered = Lowered(there_and_back(LAYOUTS[0]), "cuda:sm_80", FULL)
    text = print_program(lowered.program)
    loop = text[text.index("for 0, 4, 1") : text.index("  barrier")]
    assert [line.strip() for line in loop.splitlines()] == [
        "for 0, 4, 1 <unroll = 0> (%i: i32) {",
        "%8 = mul %i, 16 : i32",
        "%9 = shift_right %t, 3 : i32",
        "%10 = add %8, %9 : i32",
        "%11 = bit_and %t, 7 : i32",
        "%12 = mul %11, 8 : i32",
        "%13 = add %6, %10 : i32",
        "%14 = add %7, %12 : i32",
        '%15 = compare %13, %0 <predicate = "lt"> : bool',
        '%16 = compare %14, %1 <predicate = "lt"> : bool',
        "%17 = bit_and %15, %16 : bool",
        "%18 = mul %i, 1024 : i32",
        "%19 = mul %t, 8 : i32",
        "%20 = bit_and %t, 56 : i32",
        "%21 = bit_xor %19, %20 : i32",
        "%22 = add %18, %21 : i32",
        "%A_1 = flatten %A : global f16[*]",
        "%23 = mul %13, %1 : i32",
        "%24 = add %23, %14 : i32",
        "cp_async %S[%22], %A_1[%24], [%17] <size = 16>",
        "yield",
        "}",
        "",
    ]
    assert all(op.unroll == 0 for op in lowered.ops if isinstance(op, For))
    assert not lowered.count(Load)
