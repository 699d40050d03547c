"""split_loads: loads through registers are fetched one iteration and deposited another."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.passes import planned_kernels as kernels
from tests.passes.planning import Planned, keeps_meaning, plan, specialised
from tilec.ir.ops.memory import Load
from tilec.ir.ops.pipeline import Channel, Put, Receive, Send, Stage
from tilec.ir.ops.tile import Copy, LoadTile, StoreTile
from tilec.ir.types import TileType


def split(kernel: Any, target: str, *, assume: bool = True, **constants: Any) -> Planned:
    return plan(specialised(kernel, **constants), "split_loads", target, assume=assume)


def labels(result: Planned) -> list[str]:
    return [s.label for s in result.all(Stage)]


def stage(result: Planned, label: str) -> list[str]:
    (found,) = [s for s in result.all(Stage) if s.label == label]
    return [op.name for op in found.body.ops if not op.pure and op.name != "yield"]


def test_a_load_through_registers_is_two_stages() -> None:
    result = split(kernels.gemm_nt, "hip:gfx942")
    assert labels(result) == ["fetch", "deposit", "mma"]
    assert stage(result, "fetch") == ["load_tile", "send"] * 2
    assert stage(result, "deposit") == ["put", "receive", "store_tile", "commit"] * 2
    assert not result.all(Copy)
    tiles = [c for c in result.all(Channel) if isinstance(c.type.memory, TileType)]
    assert [(c.label, c.type.slots) for c in tiles] == [("A_registers", 1), ("B_registers", 1)]
    for sent, received in zip(result.all(Send), result.all(Receive), strict=True):
        assert sent.channel is received.channel


def test_what_is_copied_asynchronously_stays_a_load() -> None:
    result = split(kernels.mixed, "cuda:sm_80")
    assert labels(result) == ["fetch", "deposit", "load", "mma"]
    assert stage(result, "load").count("copy") == 1
    assert stage(result, "fetch") == ["load", "load_tile", "send"]
    assert stage(result, "deposit") == ["put", "receive", "store_tile", "commit"]
    assert len(result.all(LoadTile)) == len(result.all(StoreTile)) - 1 == 1


def test_a_conversion_happens_on_deposit() -> None:
    result = split(kernels.mixed, "cuda:sm_80")
    (load,) = result.all(LoadTile)
    assert isinstance(load.result.type, TileType) and load.result.type.dtype.name == "i8"
    (deposit,) = [s for s in result.all(Stage) if s.label == "deposit"]
    assert [op.name for op in deposit.body.ops if op.name in ("cast", "receive")] == [
        "receive",
        "cast",
    ]


def test_nothing_is_split_that_needs_no_registers() -> None:
    for target in ("cuda:sm_80", "cuda:sm_90a"):
        assert labels(split(kernels.gemm_nt, target)).count("load") == 1
        assert not split(kernels.gemm_nt, target).all(Send)


def test_a_copy_among_other_statements_is_left_to_its_stage() -> None:
    result = split(kernels.used_after, "hip:gfx942")
    assert labels(result) == ["fetch", "deposit", "mma"]
    assert stage(result, "mma")[0] == "copy"


def test_what_registers_cannot_hold_beside_the_accumulators_loads_when_it_deposits() -> None:
    wide = {"bm": 128, "bn": 256, "bk": 64, "threads": 256}
    result = split(kernels.gemm_nt, "cuda:sm_80", assume=False, **wide)
    assert labels(result) == ["fetch", "deposit", "mma"]
    # 255 - 128 accumulators - 32 of fragments - 48 for addresses hold the 32 elements of A and their
    # 4 addresses of 64 bits, not the 64 and 8 of B too.
    assert (
        "B is not loaded ahead: 80 registers a thread, 47 left" in result.remark("TLC0325").message
    )
    assert stage(result, "fetch") == ["load_tile", "send"]
    both = ["put", "receive", "store_tile", "commit"]
    assert stage(result, "deposit") == [*both, "put", "copy", "commit"]
    (channel,) = [c for c in result.all(Channel) if isinstance(c.type.memory, TileType)]
    assert channel.label == "A_registers"
    keeps_meaning(specialised(kernels.gemm_nt, **wide), result.program)
    assert split(kernels.gemm_nt, "cuda:sm_80", assume=False, threads=256).codes == []
    # Of 512 threads each has 128 registers: 64 + 24 + 48 leave none.
    result = split(kernels.gemm_nt, "cuda:sm_80", assume=False, **{**wide, "threads": 512})
    assert labels(result) == ["deposit", "mma"]
    assert {r.message for r in result.remarks if r.code == "TLC0325"} == {
        "A is not loaded ahead: 20 registers a thread, 0 left",
        "B is not loaded ahead: 40 registers a thread, 0 left",
    }
    assert "TLC0325" not in split(kernels.gemm_nt, "hip:gfx942", **wide).codes


@pytest.mark.parametrize(
    "kernel",
    [kernels.gemm_nt, kernels.mixed, kernels.used_after, kernels.from_table],
    ids=lambda k: k.name,
)
@pytest.mark.parametrize(("target", "assume"), [("hip:gfx942", True), ("cuda:sm_80", False)])
def test_the_meaning_stays(kernel: Any, target: str, assume: bool) -> None:
    result = split(kernel, target, assume=assume)
    keeps_meaning(kernel.lower_to_ir(), result.program)
    for one in result.all(Stage):
        puts = [op for op in one.body.ops if isinstance(op, Put)]
        assert not puts or one.label in ("deposit", "load", "make")


def test_an_address_is_read_where_it_is_needed_and_nowhere_else() -> None:
    for target in ("hip:gfx942", "cuda:sm_80"):
        result = split(kernels.mixed, target)
        readers = [
            s.label for s in result.all(Stage) if any(isinstance(op, Load) for op in s.walk())
        ]
        assert readers == ["fetch"], target


@tilec.kernel
def gathered(
    X: T.Tensor(("R", "K"), "float32"),
    rows: T.Tensor(("M",), "int32"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
    kind: str = "rows",
    bm: int = 64,
):
    """Rows of X that a table names, as 16-bit floats, times B^T."""
    M, K = C.shape[0], X.shape[1]
    with T.Kernel(T.ceildiv(C.shape[1], 64), T.ceildiv(M, bm), threads=128) as (bx, by):
        X_s = T.alloc_shared((bm, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((bm, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
            T.copy(B[bx * 64, k * 32], B_s)
            if kind == "rows":
                for i, j in T.Parallel(bm, 32):
                    at = rows[by * bm + i]
                    X_s[i, j] = T.if_then_else(at >= 0, X[at, k * 32 + j], 0)
            elif kind == "swapped":
                for j, i in T.Parallel(32, bm):
                    X_s[i, j] = X[rows[by * bm + i], k * 32 + j]
            elif kind == "part":
                for i, j in T.Parallel(bm - 1, 32):
                    X_s[i, j] = X[rows[by * bm + i], k * 32 + j]
            elif kind == "made":
                for i, j in T.Parallel(bm, 32):
                    X_s[i, j] = by * bm + i + k * 32 + j
            T.gemm(X_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * bm, bx * 64])


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a", "hip:gfx942"])
def test_what_a_nest_gathers_is_fetched_an_iteration_before_it_is_stored(target: str) -> None:
    result = split(gathered, target)
    assert stage(result, "fetch to make") == ["parallel", "send"]
    assert stage(result, "make") == ["put", "receive", "store_tile", "commit"]
    (tile,) = [c for c in result.all(Channel) if c.label == "X_s_registers"]
    assert str(tile.type.memory) == "tile f16[64, 32]", "converted on its way"
    keeps_meaning(specialised(gathered), result.program)


@pytest.mark.parametrize("kind", ["swapped", "part", "made"])
def test_other_nests_are_one_stage(kind: str) -> None:
    result = split(gathered, "cuda:sm_80", kind=kind)
    assert "make" in labels(result) and "fetch to make" not in labels(result)
    assert stage(result, "make") == ["put", "parallel", "commit"]


def test_what_is_gathered_needs_registers() -> None:
    """320 x 64 sums are 160 registers of each of 128 threads, and 320 x 32 halves 40 more."""
    assert "fetch to make" in labels(split(gathered, "cuda:sm_80", bm=192))
    result = split(gathered, "cuda:sm_80", bm=320)
    assert "fetch to make" not in labels(result)
    assert "40 registers a thread" in result.remark("TLC0325").message
