"""cluster_gains: in which clusters blocks load for each other by themselves, by the sizes of a call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import tilec
import tilec.language as T
from examples.flash_attention import attention
from examples.gemm import matmul
from tests.passes.planning import found, plan, specialised
from tilec.ir.core import Program
from tilec.ir.ops.control import IF_POSSIBLE, NO_CLUSTER, Launch
from tilec.passes.size_choices import for_sizes, sizes_matter
from tilec.target import Target, find_target

HERE = replace(find_target("cuda:sm_90a"), present=True)
ALONG_X, ALONG_Y = (2, 1, 1), (1, 2, 1)


def chosen(program: Program, target: Target = HERE, **sizes: int) -> tuple[int, ...]:
    """The cluster of the only launch, which then shares no last wave."""
    (launch,) = found(for_sizes(program, sizes, target), Launch)
    assert launch.cluster == NO_CLUSTER or launch.stream_k is None
    return launch.cluster


def example(block_M: int = 128, block_N: int = 256) -> Program:
    threads = 128 if block_M == 64 else 256
    return specialised(matmul, block_M=block_M, block_N=block_N, stages=4, threads=threads)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (
            (4000, 5000, 3000),
            ALONG_Y,
        ),  # rows of 187.5 sectors; B's 256 lines are halved, not A's 128
        ((4096, 4096, 4104), ALONG_Y),
        ((100, 33000, 4104), ALONG_X),  # no second row of blocks: what is shared is A
        ((100, 200, 4104), NO_CLUSTER),  # one block
        ((4096, 4096, 4096), NO_CLUSTER),  # whole sectors: products take longer than loads
        ((4096, 4096, 4112), NO_CLUSTER),
        ((4096, 4096, 4100), NO_CLUSTER),  # TMA cannot load these
        ((0, 4096, 4104), NO_CLUSTER),
    ],
)
def test_lines_that_start_within_sectors_are_shared(
    sizes: tuple[int, int, int], expected: tuple[int, ...]
) -> None:
    M, N, K = sizes
    assert chosen(example(), M=M, N=N, K=K) == expected


def test_a_block_beyond_the_grid_may_cost_more_than_sharing_gains() -> None:
    """21 x 25 tiles are four waves of 132, 22 x 25 five."""
    program = specialised(matmul, block_M=192, block_N=200, stages=4, threads=384)
    assert chosen(program, M=4000, N=5000, K=3000) == NO_CLUSTER
    assert chosen(program, M=4200, N=4400, K=3000) != NO_CLUSTER  # 22 x 22


@pytest.mark.parametrize("eights", [None, 15, 9])
def test_larger_ones_where_they_all_run_at_once(eights: int | None) -> None:
    """11 x 10 tiles: two waves where fewer than 14 clusters of eight run at once."""
    clusters = None if eights is None else lambda n: eights if n == 8 else 0
    cluster = chosen(
        example(64, 96), replace(HERE, resident_clusters=clusters), M=704, N=928, K=3112
    )
    assert cluster == ((2, 4, 1) if eights != 9 else ALONG_Y)


@pytest.mark.parametrize(("M", "expected"), [(3, NO_CLUSTER), (32, NO_CLUSTER), (64, ALONG_X)])
def test_rows_that_the_first_block_has_all_are_not_shared(
    M: int, expected: tuple[int, ...]
) -> None:
    """One H200, 3 x 5000 x 5000 by 64 x 32: 39 us in clusters of two along N, 28 without; 64 rows 32
    and 40."""
    program = specialised(matmul, block_M=64, block_N=32, block_K=128, stages=9, threads=128)
    assert chosen(program, M=M, N=5000, K=5000) == expected


def test_a_last_wave_is_shared_where_that_gains_more() -> None:
    """Two tiles for 132 multiprocessors."""
    (launch,) = found(for_sizes(example(), {"M": 150, "N": 250, "K": 8200}, HERE), Launch)
    assert launch.stream_k == IF_POSSIBLE and launch.cluster == NO_CLUSTER


def test_who_makes_the_call_knows_the_gpu() -> None:
    sizes = {"M": 4000, "N": 5000, "K": 3000}
    nowhere, ampere = find_target("cuda:sm_90a"), replace(find_target("cuda:sm_80"), present=True)
    assert chosen(example(), **sizes) == ALONG_Y
    assert chosen(example(), nowhere, **sizes) == chosen(example(), ampere, **sizes) == NO_CLUSTER
    assert chosen(example(), M=4000, N=5000) == NO_CLUSTER  # K is not known


@tilec.kernel
def product(A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("K", "N"), "float16"),
            C: T.Tensor(("M", "N"), "float32"), at: T.Tensor((1,), "int32"), cluster: Any = None,
            kind: str = ""):  # fmt: skip
    """A product whose B lies along N; by `kind` what its blocks load differs, or who says when."""
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    persistent = False if kind == "pinned" else None
    with T.Kernel(T.ceildiv(N, 128), T.ceildiv(M, 128), threads=256, cluster=cluster,
                  persistent=persistent) as (bx, by):  # fmt: skip
        A_s, B_s = T.alloc_shared((128, 64), "float16"), T.alloc_shared((64, 128), "float16")
        acc = T.alloc_fragment((128, 128), "float32")
        T.clear(acc)
        steps = T.ceildiv(K, 64)
        if kind == "causal":
            steps = T.min(steps, by + bx + 1)
        for k in T.Pipelined(steps, num_stages=3):
            T.copy(A[by * 128, k * 64], A_s)
            T.copy(B[k * 64, bx * 128 + (by if kind == "both" else at[0])], B_s)
            if kind == "sums":
                for i, j in T.Parallel(128, 128):
                    acc[i, j] += T.cast(A_s[i, j // 2], "float32")
            else:
                T.gemm(A_s, B_s, acc)
        T.copy(acc, C[by * 128, bx * 128])


SIZES = {"M": 4000, "N": 5000, "K": 3000}  # A's rows and B's start within sectors


@pytest.mark.parametrize(
    ("kind", "cluster", "expected"),
    [
        ("", None, ALONG_X),  # A's 128 lines a step, B's 128 too: the first of equal gains
        ("both", None, ALONG_X),  # each block has a B of its own
        ("", 1, NO_CLUSTER),
        ("", (4, 1), (4, 1, 1)),
        ("pinned", None, NO_CLUSTER),
        ("sums", None, NO_CLUSTER),  # nobody knows how long these take
        ("causal", None, NO_CLUSTER),  # blocks take different numbers of steps
    ],
)
def test_what_the_program_says_and_shares(
    kind: str, cluster: Any, expected: tuple[int, ...]
) -> None:
    assert chosen(specialised(product, kind=kind, cluster=cluster), **SIZES) == expected


def test_where_no_size_matters() -> None:
    assert not sizes_matter(specialised(product, kind="pinned"), HERE)
    defaults = {p.name: p.default for p in attention.parameters if p.kind == "constant"}
    program = attention.trace(defaults, {"D": 128})
    assert sizes_matter(program, HERE)
    assert not sizes_matter(program, find_target("cuda:sm_80"))  # no sums that blocks could share


def test_blocks_bring_what_they_share() -> None:
    """The choice is what the passes make of it: half of the larger tile a block."""
    result = plan(for_sizes(example(), SIZES, HERE), "multicast_loads", "cuda:sm_90a")
    assert result.remark("TLC0332").message == "blocks of a cluster load for others: B to 2"


def test_the_same_choice_is_the_same_program() -> None:
    program = example()
    first = for_sizes(program, SIZES, HERE)
    assert for_sizes(program, {**SIZES, "K": 3016}, HERE) is first is not program
    assert for_sizes(program, {**SIZES, "K": 3008}, HERE) is program


def test_heads_of_attention_are_whole_sectors() -> None:
    defaults = {p.name: p.default for p in attention.parameters if p.kind == "constant"}
    program = attention.trace(defaults, {"D": 128})
    sizes = {"B": 4, "H": 32, "S": 4096, "S_kv": 4096, "H_kv": 32}
    assert all(op.cluster == NO_CLUSTER for op in found(for_sizes(program, sizes, HERE), Launch))
