"""fit_resources: what fits, what falls and is remarked, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.passes import planned_kernels as kernels
from tests.passes.planning import Planned, keeps_meaning, line_of, plan, refused, specialised
from tilec.errors import OutOfResources
from tilec.ir.core import Program
from tilec.ir.ops.control import Launch, Role
from tilec.ir.ops.pipeline import Channel
from tilec.ir.ops.tile import StoreTile
from tilec.ir.types import MemoryType
from tilec.passes.context import Assume, Facts, PassContext, Remark
from tilec.passes.fit_resources import shared_bytes
from tilec.passes.pipeline import run_pipeline
from tilec.runtime.lowering import standard_registry
from tilec.target import TARGETS, find_target

BIG = {"bm": 128, "bn": 256, "bk": 64, "threads": 256}


def fitted(kernel: Any, target: str, *, assume: bool = True, **constants: Any) -> Planned:
    return plan(specialised(kernel, **constants), "fit_resources", target, assume=assume)


def slots(result: Planned) -> set[int]:
    return {c.type.slots for c in result.all(Channel) if isinstance(c.type.memory, MemoryType)}


@pytest.mark.parametrize(
    ("target", "asked", "kept"),
    [
        # a stage of 128 x 64 and 256 x 64 f16 takes 48 KiB; sm_80 has 163, sm_90a 227 with staging
        ("cuda:sm_80", 3, 3), ("cuda:sm_80", 4, 3), ("cuda:sm_80", 6, 3), ("cuda:sm_80", 10**7, 3),
        ("cuda:sm_90a", 3, 3), ("cuda:sm_90a", 4, 4), ("cuda:sm_90a", 6, 4), ("cuda:sm_90a", 10**7, 4),
        ("hip:gfx942", 2, 1),
    ],
)  # fmt: skip
def test_slots_fall_to_what_shared_memory_holds(target: str, asked: int, kept: int) -> None:
    result = fitted(kernels.gemm_nt, target, stages=asked, **BIG)
    assert slots(result) == {kept}
    if kept < asked:
        remark = result.remark("TLC0324")
        assert f"num_stages falls from {asked} to {kept}: shared memory is full" in remark.message
        assert "T.Kernel" in line_of(remark.loc)
    else:
        assert "TLC0324" not in result.codes
    assert shared_bytes(result.one(Launch)) <= find_target(target).shared_bytes


@pytest.mark.parametrize(
    ("bm", "bn", "asked", "kept", "slab"),
    [(192, 192, 4, 4, 64), (192, 192, 3, 3, 128), (192, 192, 5, 4, 64), (192, 128, 5, 5, 64),
     (192, 176, 4, 4, 64), (256, 160, 4, 4, 32), (256, 160, 5, 4, 32), (256, 160, 3, 3, 128)],
)  # fmt: skip
def test_stores_are_narrower_where_that_saves_a_slot(
    bm: int, bn: int, asked: int, kept: int, slab: int
) -> None:
    """192 rows by three warpgroups: two slabs of 128 bytes take 48 KiB, which a stage does too. 256 rows
    leave 18 KiB beside four stages."""
    constants = {
        "bm": bm,
        "bn": bn,
        "bk": 64,
        "threads": 256 if bm == 256 else 384,
        "stages": asked,
    }
    result = fitted(kernels.gemm_nt, "cuda:sm_90a", **constants)
    assert slots(result) == {kept} and result.one(StoreTile).slab == slab
    program = specialised(kernels.gemm_nt, **constants)
    assert _allocated(program, "cuda:sm_90a", True) <= shared_bytes(result.one(Launch))


@tilec.kernel
def chained(X: T.Tensor(("M", 128), "float16"), V: T.Tensor(("H", 128), "float16"),
            G: T.Tensor(("H", 128), "float16"), W: T.Tensor((96, "H"), "float16"),
            Y: T.Tensor(("M", 96), "float16"), stages: int = 3):  # fmt: skip
    """Between the products and behind them layouts change, which takes shared memory too."""
    by_columns = T.GemmWarpPolicy.FullCol
    with T.Kernel(T.ceildiv(X.shape[0], 64), threads=256) as b:
        X_s = T.alloc_shared((64, 128), "float16")
        V_s = T.alloc_shared((32, 128), "float16")
        G_s = T.alloc_shared((32, 128), "float16")
        W_s = T.alloc_shared((96, 32), "float16")
        h = T.alloc_fragment((64, 32), "float32")
        g = T.alloc_fragment((64, 32), "float32")
        gated = T.alloc_fragment((64, 32), "float16")
        y = T.alloc_fragment((64, 96), "float32")
        T.copy(X[b * 64, 0], X_s)
        T.clear(y)
        for k in T.Pipelined(T.ceildiv(V.shape[0], 32), num_stages=stages):
            T.copy(V[k * 32, 0], V_s)
            T.copy(G[k * 32, 0], G_s)
            T.copy(W[0, k * 32], W_s)
            T.gemm(X_s, V_s, h, transpose_B=True, clear_accum=True, policy=by_columns)
            T.gemm(X_s, G_s, g, transpose_B=True, clear_accum=True, policy=by_columns)
            for i, j in T.Parallel(64, 32):
                gated[i, j] = h[i, j] * g[i, j]
            T.gemm(gated, W_s, y, transpose_B=True)
        T.copy(y, Y[b * 64, 0])


def test_slots_fall_for_what_later_passes_take() -> None:
    remarks: list[Remark] = []
    target = find_target("hip:gfx942")
    context = PassContext(target, standard_registry(), Facts(), remarks.append)
    lowered = run_pipeline(chained.lower_to_ir(), context)
    (launch,) = [op for op in lowered.body.ops if isinstance(op, Launch)]
    assert launch.shared_bytes <= target.shared_bytes
    fallen = [r.message for r in remarks if r.code == "TLC0324"]
    assert fallen == ["num_stages falls from 3 to 1: shared memory is full"]
    first = plan(chained.lower_to_ir(), "fit_resources", target.name)
    assert slots(first) == {2}  # as it seemed before layouts were chosen


@tilec.kernel
def in_turns(A: T.Tensor((160, 128), "float16"), B: T.Tensor((160, 128), "float16")):
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((160, 128), "float16")
        R = T.alloc_shared((160, 128), "float16")
        T.copy(A, S)
        T.copy(S, B)
        T.copy(A, R)
        T.copy(R, B)


def test_buffers_whose_lives_are_apart_need_not_fit_together() -> None:
    """Each takes 40 KiB of 64."""
    lowered = run_pipeline(
        in_turns.lower_to_ir(), PassContext(find_target("hip:gfx942"), standard_registry(), Facts())
    )
    (launch,) = [op for op in lowered.body.ops if isinstance(op, Launch)]
    assert launch.shared_bytes == 160 * 128 * 2


@tilec.kernel
def in_branches(A: T.Tensor((160, 128), "float16"), B: T.Tensor((160, 128), "float16")):
    with T.Kernel(2, threads=128) as block:
        S = T.alloc_shared((160, 128), "float16")
        R = T.alloc_shared((160, 128), "float16")
        if block == 0:
            T.copy(A, S)
            for i, j in T.Parallel(80, 128):
                B[i, j] = S[159 - i, 127 - j]
        else:
            T.copy(A, R)
            for i, j in T.Parallel(80, 128):
                B[80 + i, j] = R[i, j]


def test_buffers_of_two_branches_need_not_fit_together() -> None:
    """Each takes 40 KiB of 64."""
    a = np.random.default_rng(0).integers(-9, 10, (160, 128)).astype(np.float16)
    for target in ("hip:gfx942", "cuda:sm_80"):
        made = in_branches.compile(a, a, target=target)
        assert made.launches[0].shared_bytes == 160 * 128 * 2
        b = np.zeros_like(a)
        in_branches(a, b, device=f"emulator:{target}")
        assert np.array_equal(b, np.concatenate([a[:79:-1, ::-1], a[:80]]))


def test_loads_through_registers_fill_no_more_than_two_slots() -> None:
    result = fitted(kernels.gemm_nt, "hip:gfx942", stages=5)
    assert slots(result) == {2}
    assert "from 5 to 2: the loads pass through registers" in result.remark("TLC0324").message


def test_nothing_is_raised() -> None:
    for depth in (1, 2, 3):
        assert slots(fitted(kernels.gemm_nt, "cuda:sm_80", stages=depth)) == {depth}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_tile_that_never_fits_is_refused(target: str) -> None:
    constants = {"bm": 512, "bn": 512, "bk": 128, "threads": 512, "stages": 3}
    error = refused("TLC0510", lambda: fitted(kernels.gemm_nt, target, **constants))
    assert isinstance(error, OutOfResources)
    assert str(find_target(target).shared_bytes) in error.message and target in error.message
    assert "A_s takes 131072, B_s takes 131072" in error.message
    assert "A_s = T.alloc_shared" in line_of(error.loc) and error.hint


@pytest.mark.parametrize("threads", [128, 256, 384, 512])
@pytest.mark.parametrize("bk", [16, 32, 64])
@pytest.mark.parametrize("bn", [64, 96, 128])
def test_roles_hold_what_the_block_started_with(threads: int, bk: int, bn: int) -> None:
    """setmaxnreg waits for ever for more: 128 x 96 with 256 threads and two resident blocks did."""
    groups = threads // 128
    result = fitted(
        kernels.gemm_nt, "cuda:sm_90a", bm=64 * groups, bn=bn, bk=bk, threads=threads, stages=3
    )
    consumer, producer = result.all(Role)
    blocks = result.one(Launch).resident
    total = consumer.registers * threads + producer.registers * 128
    started = threads + 128
    at_start = find_target("cuda:sm_90a").registers // (blocks * started) // 8 * 8
    assert blocks in (1, 2) and total <= at_start * started
    for role in (consumer, producer):
        assert role.registers % 8 == 0 and 24 <= role.registers <= 240  # what setmaxnreg takes
    assert consumer.registers >= 64 * bn * groups // threads + 24, "room for the accumulators"


@pytest.mark.parametrize(
    ("target", "threads", "takes"),
    [("cuda:sm_80", 32, True), ("cuda:sm_80", 128, False), ("cuda:sm_90a", 128, True),
     ("cuda:sm_90a", 256, False), ("hip:gfx942", 64, True), ("hip:gfx942", 256, False)],
)  # fmt: skip
def test_tiles_that_no_registers_hold_are_told(target: str, threads: int, takes: bool) -> None:
    """256 x 128 sums of 32 bits are 1024 registers of 32 threads; a wave's thread of AMD has 512."""
    size = {"bm": 256 if target != "cuda:sm_80" or takes else 128, "bn": 128, "bk": 32}
    result = fitted(kernels.gemm_nt, target, threads=threads, **size)
    found = [remark for remark in result.remarks if remark.code == "TLC0336"]
    assert [remark.warning for remark in found] == [True] * takes
    if target == "cuda:sm_80" and takes:
        assert "of each of 32 threads, and one has 255" in found[0].message


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_without_roles_registers_are_the_compilers(target: str) -> None:
    result = fitted(kernels.gemm_nt, target)
    assert not result.all(Role) and not result.one(Launch).in_turn


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_meaning_stays(target: str) -> None:
    for kernel in (kernels.gemm_nt, kernels.mixed):
        program = specialised(kernel, stages=5)
        keeps_meaning(program, plan(program, "fit_resources", target).program, (1,))


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("assume", [True, False])
def test_the_estimate_is_not_below_what_is_allocated(target: str, assume: bool) -> None:
    """Else the pipeline would run twice, the second time with fewer slots."""
    for kernel in (kernels.gemm_nt, kernels.made_by_threads, kernels.used_after, kernels.mixed):
        for constants in ({"stages": 1}, {"stages": 4}):
            program = specialised(kernel, **constants)
            estimate = shared_bytes(
                plan(program, "fit_resources", target, assume=assume).one(Launch)
            )
            assert _allocated(program, target, assume) <= estimate, (kernel.name, constants)


def _allocated(program: Program, target: str, assume: bool) -> int:
    context = PassContext(
        find_target(target), standard_registry(), Facts(Assume.ALL if assume else Assume.NOTHING)
    )
    lowered = run_pipeline(program, context, checked=False)
    (launch,) = [op for op in lowered.body.ops if isinstance(op, Launch)]
    return launch.shared_bytes
