"""infer_layouts: everything has a layout, layouts fit each other, and what cannot is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.passes import planned_kernels as kernels
from tests.passes.planning import Planned, keeps_meaning, line_of, plan, refused, specialised
from tilec.errors import LayoutConflict, TilecError
from tilec.ir.core import Block, Op, Value, walk
from tilec.ir.ops.arith import Elementwise
from tilec.ir.ops.control import Launch, Parallel, Role
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.pipeline import Channel, Pipeline
from tilec.ir.ops.tile import ConvertLayout, Splat
from tilec.ir.types import InflightType, MemoryType, Space, TileType
from tilec.layout import make_swizzle_layout
from tilec.passes.variants import accumulator_layout
from tilec.target import find_target

TARGETS = ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942")


def inferred(kernel: Any, target: str = "cuda:sm_80", **constants: Any) -> Planned:
    return plan(specialised(kernel, **constants), "infer_layouts", target)


def tile_type(value: Value) -> TileType | None:
    type_ = value.type.tile if isinstance(value.type, InflightType) else value.type
    return type_ if isinstance(type_, TileType) else None


def tiles(block: Block) -> list[TileType]:
    """The types of all tiles in a block, those that loops carry included."""
    values = [*block.params]
    for op in walk(block):
        values += op.results
        values += [p for region in op.regions for p in region.params]
    return [t for v in values if (t := tile_type(v)) is not None]


def programs_of(result: Planned) -> list[tuple[Block, int]]:
    """The bodies that threads run, with how many do."""
    roles = result.all(Role)
    launch = result.one(Launch)
    return [(r.body, r.threads) for r in roles] or [(launch.body, launch.threads)]


def check(result: Planned) -> None:
    """Every tile has a layout over the threads that run it, and every element an owner."""
    for block, threads in programs_of(result):
        for tile in tiles(block):
            assert tile.layout is not None, tile
            assert tile.layout.shape == tile.shape and tile.layout.threads == threads
            seen = np.zeros(tile.shape, bool)
            seen[tuple(np.moveaxis(tile.layout.coords(), -1, 0))] = True
            assert seen.all(), tile
    for op in result.all(Elementwise):
        layouts = {t.layout for v in (*op.inputs, *op.results) if (t := tile_type(v)) is not None}
        assert len(layouts) <= 1, f"{op} mixes layouts"
    for gemm in result.all(Gemm):
        tile = tile_type(gemm.result)
        assert tile is not None and tile.layout is not None
        layout = accumulator_layout(gemm.variant, *tile.shape, tile.layout.replication)  # type: ignore[arg-type]
        assert tile.layout == layout
        accumulator = tile_type(gemm.accumulator)
        assert accumulator is not None and accumulator.layout == tile.layout
    for memory in shared(result).values():
        assert memory.layout is not None and memory.layout.is_injective


def shared(result: Planned) -> dict[str, MemoryType]:
    found: dict[str, MemoryType] = {}
    for op in result.all(Alloc):
        if op.type.space is Space.SHARED:
            found[op.result.hint] = op.type
    for channel in result.all(Channel):
        if isinstance(channel.type.memory, MemoryType):
            found[channel.label] = channel.type.memory
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", kernels.ALL, ids=lambda k: k.name)
def test_every_tile_and_buffer_has_a_layout(kernel: Any, target: str) -> None:
    check(inferred(kernel, target))


# Products
# -------------------------------------------------------------------------------------------------

SHAPES = [
    (m, n, k, threads)
    for m, n in ((16, 8), (32, 32), (64, 64), (64, 96), (128, 64), (96, 160), (128, 256))
    for k in (16, 32)
    for threads in (32, 64, 128, 256)
]


def allowed(target: str, m: int, n: int, k: int, threads: int) -> bool:
    """Whether the tile divides over the warps with some instruction, from the target's table."""
    machine = find_target(target)
    if threads % machine.warp_size:
        return False
    units = threads // machine.warp_size
    return any(
        m % (i.m * rows) == 0 and n % (i.n * (units // rows)) == 0 and k % i.k == 0
        for i in machine.matrix
        if i.family != "wgmma" and i.operand == "f16"
        for rows in range(1, units + 1)
        if units % rows == 0
    )


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_products_divide_over_warps_or_over_threads(target: str) -> None:
    outcomes = []
    for m, n, k, threads in SHAPES:
        constants = {"bm": m, "bn": n, "bk": k, "threads": threads, "stages": 2}
        outcomes.append(allowed(target, m, n, k, threads))
        if not outcomes[-1] and m * n // threads > find_target(target).max_registers - 64:
            error = refused("TLC0402", lambda c=constants: inferred(kernels.gemm_nt, target, **c))
            assert f"{m} x {n} x {k}" in error.message and "T.gemm" in line_of(error.loc)
            continue
        planned = inferred(kernels.gemm_nt, target, **constants)
        check(planned)
        (gemm,) = planned.all(Gemm)
        assert (gemm.instruction != "fma") == outcomes[-1]
    assert 10 < sum(outcomes) < len(outcomes)


def test_a_product_whose_accumulators_fit_no_registers_is_refused() -> None:
    """Three warps divide 128 x 128 in no way; 32 threads would hold 512 accumulators each."""
    constants = {"bm": 128, "bn": 128, "bk": 16, "threads": 96, "stages": 2}
    error = refused("TLC0402", lambda: inferred(kernels.gemm_nt, "cuda:sm_80", **constants))
    assert "128 x 128 x 16" in error.message and "T.gemm" in line_of(error.loc)


@pytest.mark.parametrize(
    ("bm", "bn", "threads", "variant"),
    [
        (64, 64, 128, ("wgmma", 64, 64, 16, 1, 1)),
        (128, 256, 256, ("wgmma", 64, 256, 16, 2, 1)),
        (64, 256, 256, ("wgmma", 64, 128, 16, 1, 2)),
    ],
)
def test_warpgroups_take_rows_or_columns(
    bm: int, bn: int, threads: int, variant: tuple[object, ...]
) -> None:
    result = inferred(kernels.gemm_nt, "cuda:sm_90a", bm=bm, bn=bn, bk=64, threads=threads)
    check(result)
    assert result.one(Gemm).variant == variant


@tilec.kernel
def with_policy(A: kernels.IN, C: kernels.OUT, policy: int = 0):
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        T.copy(A[0, 0], A_s)
        names = (T.GemmWarpPolicy.Square, T.GemmWarpPolicy.FullRow, T.GemmWarpPolicy.FullCol)
        T.gemm(A_s, A_s, acc, transpose_B=True, policy=names[policy])
        T.copy(acc, C[0, 0])


def test_the_users_policy_decides() -> None:
    splits = [inferred(with_policy, policy=p).one(Gemm).variant[-2:] for p in range(3)]
    assert splits == [(2, 2), (4, 1), (1, 4)]


# Nests beside products
# -------------------------------------------------------------------------------------------------


@tilec.kernel
def epilogue(A: kernels.IN, bias: T.Tensor((64,), "float32"), scale: T.Tensor((64,), "float32"),
             C: kernels.OUT):  # fmt: skip
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        rows = T.alloc_fragment((64,), "float32")
        T.clear(acc)
        T.copy(scale, rows)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=2):
            T.copy(A[bx * 64, k * 32], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        for i, j in T.Parallel(64, 64):
            acc[i, j] = acc[i, j] * 2 + bias[j] + rows[i]
        T.copy(acc, C[bx * 64, 0])


@pytest.mark.parametrize("target", TARGETS)
def test_an_epilogue_runs_where_the_product_lies(target: str) -> None:
    result = inferred(epilogue, target)
    check(result)
    (nest,) = result.all(Parallel)
    product = tile_type(result.one(Gemm).result)
    assert product is not None and nest.layout == product.layout
    # a row's scale is held by every thread that has an element of the row
    scale = next(t for v in nest.reads if (t := tile_type(v)) is not None and t.shape == (64,))
    assert scale.layout is not None and nest.layout is not None
    held = scale.layout.coords()[..., 0]
    for thread in range(0, 128, 17):
        rows = set(nest.layout.coords()[thread, :, 0].tolist())
        assert rows <= set(held[thread].tolist())
    keeps_meaning(epilogue.lower_to_ir(), result.program, (0,))


@tilec.kernel
def two_products(A: kernels.IN, C: kernels.OUT, D: T.Tensor(("M", 128), "float32")):
    """Two accumulators whose layouts differ meet in a nest: one is converted."""
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        c = T.alloc_fragment((64, 64), "float32")
        d = T.alloc_fragment((64, 64), "float32")
        T.clear(c)
        T.clear(d)
        T.copy(A[0, 0], A_s)
        T.gemm(A_s, A_s, c, transpose_B=True, policy=T.GemmWarpPolicy.FullRow)
        T.gemm(A_s, A_s, d, transpose_B=True, policy=T.GemmWarpPolicy.FullCol)
        for i, j in T.Parallel(64, 64):
            c[i, j] = c[i, j] + d[i, j]
        T.copy(c, C[0, 0])


def test_a_disagreement_is_converted_and_remarked() -> None:
    result = inferred(two_products)
    check(result)
    (convert,) = result.all(ConvertLayout)
    assert tile_type(convert.result) != tile_type(convert.tile)
    remark = result.remark("TLC0410")
    assert "d changes layout" in remark.message and "T.Parallel" in line_of(remark.loc)
    keeps_meaning(two_products.lower_to_ir(), result.program, (0,))


@tilec.kernel
def gated(A: kernels.IN, W: T.Tensor((64, 64), "float16"), C: T.Tensor(("M", 64), "float32")):
    """The second product may lie in any way, but what it is multiplied with has to lie in rows."""
    with T.Kernel(T.ceildiv(A.shape[0], 128), threads=256) as b:
        A_s = T.alloc_shared((128, 64), "float16")
        W_s = T.alloc_shared((64, 64), "float16")
        c = T.alloc_fragment((128, 64), "float32")
        d = T.alloc_fragment((128, 64), "float32")
        both = T.alloc_fragment((128, 64), "float16")
        T.copy(A[b * 128, 0], A_s)
        T.copy(W, W_s)
        T.gemm(A_s, W_s, c, transpose_B=True, clear_accum=True)
        T.gemm(A_s, W_s, d, clear_accum=True)
        for i, j in T.Parallel(128, 64):
            both[i, j] = c[i, j] * d[i, j]
        T.gemm(both, W_s, c)
        T.copy(c, C[b * 128, 0])


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_products_read_more_rather_than_go_through_shared_memory(target: str) -> None:
    """By eight warps in rows a product of 128 x 64 reads a quarter more than by four times two."""
    result = inferred(gated, target)
    check(result)
    assert not result.all(ConvertLayout)
    keeps_meaning(gated.lower_to_ir(), result.program, (0,))


# Shared memory
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_operands_of_products_are_swizzled(target: str) -> None:
    for bk in (16, 32, 64):
        found = shared(inferred(kernels.gemm_nt, target, bk=bk, bm=128, bn=128))
        for memory in found.values():
            assert memory.layout is not None and memory.layout.swizzle, bk
            # eight rows of a column of 16-byte blocks lie in eight groups of banks
            offsets = memory.layout.offsets()[:8, 0] * 2 // 16 % 8
            assert len(set(offsets.tolist())) == 8


def test_other_buffers_are_row_major() -> None:
    found = shared(inferred(kernels.made_by_threads))
    a, d = found["A_s"].layout, found["D_s"].layout
    assert a is not None and d is not None
    assert np.array_equal(a.offsets(), np.arange(64 * 32).reshape(64, 32))
    assert not np.array_equal(d.offsets(), np.arange(64 * 32).reshape(64, 32))


@tilec.kernel
def annotated(A: kernels.IN, C: kernels.OUT):
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.annotate_layout({A_s: make_swizzle_layout(A_s)})
        T.clear(acc)
        for k in T.Pipelined(4, num_stages=2):
            T.copy(A[0, k * 32], A_s)
            T.copy(A[64, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[0, 0])


def test_the_users_annotation_is_kept() -> None:
    (handle,) = [
        op.type for op in plan(annotated.lower_to_ir(), "canonicalize").all(Channel)
        if op.label == "A_s"
    ]  # fmt: skip
    stated = handle.memory.layout  # type: ignore[union-attr]
    assert stated is not None
    assert shared(inferred(annotated))["A_s"].layout == stated


# Refusals
# -------------------------------------------------------------------------------------------------


@tilec.kernel
def other_index(A: T.Tensor((16, 16), "float32")):
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((16, 16), "float32")
        T.copy(A, F)
        for i, j in T.Parallel(16, 16):
            F[i, j] = F[i, 15 - j]  # HERE
        T.copy(F, A)


@tilec.kernel
def two_ways(A: T.Tensor((16, 16), "float32")):
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((16, 16), "float32")
        G = T.alloc_fragment((16, 16), "float32")
        T.copy(A, F)
        T.copy(A, G)
        for i, j in T.Parallel(16, 16):  # HERE
            F[i, j] = G[i, j] + F[j, i]
        T.copy(F, A)


@tilec.kernel
def part(A: T.Tensor((16, 16), "float32")):
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((16, 16), "float32")
        T.copy(A, F)
        for i, j, k in T.Parallel(8, 16, 2):  # HERE
            F[i, j] = k
        T.copy(F, A)


@tilec.kernel
def diagonal(A: T.Tensor((16, 16), "float32")):
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((16, 16), "float32")
        T.copy(A, F)
        for i, k in T.Parallel(16, 2):  # HERE
            F[i, i] = k
        T.copy(F, A)


@tilec.kernel
def summed(A: T.Tensor((16, 16), "float32"), B: T.Tensor((16,), "float32")):
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((16, 16), "float32")
        R = T.alloc_fragment((16,), "float32")
        T.copy(A, F)
        T.clear(R)
        for i, j in T.Parallel(16, 16):  # HERE
            R[i] = R[i] + F[i, j]
        T.copy(R, B)


@tilec.kernel
def transposed_sum(A: T.Tensor((16, 16), "float32")):
    """The first nest has the fragment's dimensions in another order."""
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((16, 16), "float32")
        T.copy(A, F)
        for i, j in T.Parallel(16, 16):
            F[j, i] = F[j, i] + 1
        for i, j in T.Parallel(16, 16):
            F[i, j] = F[i, j] + 1
        T.copy(F, A)


def test_a_nest_in_any_order_of_dimensions_is_laid_out() -> None:
    result = inferred(transposed_sum)
    check(result)
    first, second = (nest.layout for nest in result.all(Parallel))
    assert first is not None and second is not None and first == second.transpose((1, 0))


@pytest.mark.parametrize(
    ("kernel", "code"),
    [
        (other_index, "TLC0403"), (two_ways, "TLC0404"), (part, "TLC0405"),
        (diagonal, "TLC0407"), (summed, "TLC0411"),
    ],
    ids=lambda x: getattr(x, "name", x),
)  # fmt: skip
def test_what_cannot_be_laid_out_is_refused_at_its_line(kernel: Any, code: str) -> None:
    error: TilecError = refused(code, lambda: inferred(kernel))
    assert line_of(error.loc).endswith("# HERE"), error
    assert error.hint or isinstance(error, LayoutConflict)


def test_constants_do_not_tie_layouts() -> None:
    """Both accumulators start from what canonicalize made one splat."""
    before = plan(two_products.lower_to_ir(), "schedule_stages")
    assert len(before.all(Splat)) == 1
    gemms = inferred(two_products).all(Gemm)
    assert [g.variant[-2:] for g in gemms] == [(4, 1), (1, 4)]


def test_conversions_stand_before_their_use() -> None:
    result = inferred(two_products)
    block = result.one(Launch).body
    names: list[type[Op]] = [type(op) for op in block.ops]
    assert names.index(ConvertLayout) == names.index(Parallel) - 1


@tilec.kernel
def two_levels(A: T.Tensor((64, "K"), "float16"), C: T.Tensor((64, 64), "float32")):
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        total = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        T.clear(total)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=2):
            T.copy(A[0, k * 32], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
            for i, j in T.Parallel(64, 64):
                total[i, j] += acc[i, j]
            T.clear(acc)
        T.copy(total, C)


@pytest.mark.parametrize("target", TARGETS)
def test_a_constant_that_a_pipeline_carries_on_is_made_in_a_stage(target: str) -> None:
    result = inferred(two_levels, target)
    check(result)
    made = [p for p in result.all(Pipeline) if any(isinstance(op, Splat) for op in walk(p.body))]
    assert len(made) == 1
    keeps_meaning(two_levels.lower_to_ir(), result.program)


@tilec.kernel
def cubes(X: T.Tensor((7, 7, 7), "float32"), Y: T.Tensor((7, 7, 7), "float32"), threads: int = 128):
    with T.Kernel(1, threads=threads):
        for i, j, k in T.Parallel(7, 7, 7):
            Y[i, k, j] = X[i, j, k] * 2


@pytest.mark.parametrize(("threads", "laid_out"), [(128, False), (7, True)])
def test_nests_whose_layout_would_leave_threads_idle_have_none(
    threads: int, laid_out: bool
) -> None:
    nest = inferred(cubes, threads=threads).one(Parallel)
    assert (nest.layout is not None) == laid_out
