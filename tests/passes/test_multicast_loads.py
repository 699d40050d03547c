"""multicast_loads and what becomes of it: tiles that blocks of a cluster share are found by their
indices, every block of the grid still runs once, and every form keeps its meaning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.passes.planning import (
    PLANNING,
    REGISTRY,
    Planned,
    found,
    keeps_meaning,
    line_of,
    plan,
    refused,
    specialised,
)
from tilec.errors import TilecError
from tilec.interpreter import run_program
from tilec.ir.ops.control import If, Launch
from tilec.ir.ops.pipeline import Pipeline
from tilec.ir.ops.tile import Copy

HALF = "float16"
SM_90A = "cuda:sm_90a"


@tilec.kernel
def gemm(A: T.Tensor(("M", "K"), HALF), B: T.Tensor(("N", "K"), HALF),
         C: T.Tensor(("M", "N"), "float32"), cluster: Any = (2, 1), persistent: bool = True,
         threads: int = 128):  # fmt: skip
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=threads, persistent=persistent,
                  cluster=cluster) as (bx, by):  # fmt: skip
        A_s = T.alloc_shared((64, 32), HALF)
        B_s = T.alloc_shared((64, 32), HALF)
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
            T.copy(A[by * 64, k * 32], A_s)
            T.copy(B[bx * 64, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


@tilec.kernel
def batched(A: T.Tensor((4, "M", "K"), HALF), B: T.Tensor(("N", "K"), HALF), tables: T.Tensor(("L",), "int32"),
            C: T.Tensor((4, "M", "N"), "float32"), rows: str = "table"):  # fmt: skip
    """B, of which a table says the rows, is the same for all batches."""
    M, N, K = C.shape[1], C.shape[2], A.shape[2]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), 4, threads=128, cluster=(1, 2, 2)) as (
        bx,
        by,
        bz,
    ):
        A_s = T.alloc_shared((64, 32), HALF)
        B_s = T.alloc_shared((64, 32), HALF)
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
            T.copy(A[bz, by * 64, k * 32], A_s)
            if rows == "table":
                T.copy(B[tables[bx] * 64, k * 32], B_s)
            else:
                T.copy(B[T.if_then_else(by % 2 == 1, bx * 64, 0), k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[bz, by * 64, bx * 64])


@tilec.kernel
def causal(A: T.Tensor(("M", "K"), HALF), B: T.Tensor(("N", "K"), HALF),
           C: T.Tensor(("M", "N"), "float32"), cluster: Any = (1, 2), when: bool = False):  # fmt: skip
    """A block's trips follow its row of the grid."""
    M, N = C.shape[0], C.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128, cluster=cluster) as (bx, by):
        A_s = T.alloc_shared((64, 32), HALF)
        B_s = T.alloc_shared((64, 32), HALF)
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        if when:
            if by > 0:
                for k in T.Pipelined(2, num_stages=3):
                    T.copy(A[by * 64, k * 32], A_s)
                    T.copy(B[bx * 64, k * 32], B_s)
                    T.gemm(A_s, B_s, acc, transpose_B=True)
        else:
            for k in T.Pipelined(2 * by + 2, num_stages=3):
                T.copy(A[by * 64, k * 32], A_s)
                T.copy(B[bx * 64, k * 32], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


@tilec.kernel
def in_place(A: T.Tensor(("M", 64), HALF), B: T.Tensor(("N", 64), HALF),
             C: T.Tensor(("M", "N"), "float32"), count: T.Tensor(("Y", "X"), "int32"),
             how: str = "atomic"):  # fmt: skip
    """Adds to what is there, by atomics or by hand, or 1 to nothing; and counts each block."""
    M, N = C.shape[0], C.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128, cluster=(2, 2)) as (bx, by):
        A_s = T.alloc_shared((64, 32), HALF)
        B_s = T.alloc_shared((64, 32), HALF)
        acc = T.alloc_fragment((64, 64), "float32")
        if how == "read":
            T.copy(C[by * 64, bx * 64], acc)
        else:
            T.clear(acc)
        for k in T.Pipelined(2, num_stages=3):
            T.copy(A[by * 64, k * 32], A_s)
            T.copy(B[bx * 64, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        for i, j in T.Parallel(64, 64):
            if how == "atomic":
                T.atomic_add(C[by * 64 + i, bx * 64 + j], acc[i, j])
            elif how == "nest":
                acc[i, j] = acc[i, j] + 1
                C[by * 64 + i, bx * 64 + j] = acc[i, j]
        if how == "read":
            T.copy(acc, C[by * 64, bx * 64])
        for _ in T.Parallel(1):
            count[by, bx] = count[by, bx] + 1 + by


@tilec.kernel
def in_steps(A: T.Tensor(("M", "K"), HALF), B: T.Tensor(("N", "K"), HALF),
             C: T.Tensor(("S", "M", "N"), "float32"), D: T.Tensor(("S", "X", "M", 32), HALF),
             count: T.Tensor((1,), "int32")):  # fmt: skip
    """The sums after every step of the pipeline, stored by it, what each block had of A, and how
    many steps there were."""
    M, N = C.shape[1], C.shape[2]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128, cluster=(2, 2)) as (bx, by):
        A_s = T.alloc_shared((64, 32), HALF)
        B_s = T.alloc_shared((64, 32), HALF)
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(C.shape[0], num_stages=3):
            T.copy(A[by * 64, k * 32], A_s)
            T.copy(B[bx * 64, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[k, by * 64, bx * 64])
            T.copy(A_s, D[k, bx, by * 64, 0])
            for _ in T.Parallel(1):
                T.atomic_add(count[0], 1)


def marked(kernel: Any, after: str = "multicast_loads", **constants: Any) -> Planned:
    return plan(specialised(kernel, **constants), after, SM_90A)


def shared_axes(result: Planned) -> dict[str, tuple[int, ...]]:
    loads = [op for p in result.all(Pipeline) for op in p.walk() if isinstance(op, Copy)]
    return {op.source.hint: op.multicast for op in loads}


@pytest.mark.parametrize(
    ("cluster", "axes"),
    [
        (1, {"A": (), "B": ()}),
        (2, {"A": (0,), "B": ()}),
        ((4, 1), {"A": (0,), "B": ()}),
        ((1, 2), {"A": (), "B": (1,)}),
        ((2, 2), {"A": (0,), "B": (1,)}),
    ],
)
def test_a_tile_is_shared_along_the_dimensions_that_its_place_does_not_follow(
    cluster: Any, axes: dict[str, tuple[int, ...]]
) -> None:
    result = marked(gemm, cluster=cluster)
    assert shared_axes(result) == axes and "TLC0331" not in result.codes


def test_a_place_that_a_table_tells_is_followed() -> None:
    result = marked(batched)
    assert shared_axes(result) == {"A": (), "B": (1, 2)}
    assert shared_axes(marked(batched, rows="selected")) == {"A": (), "B": (2,)}


@pytest.mark.parametrize(
    ("kernel", "constants", "reason"),
    [
        (gemm, {"persistent": False}, "the program forbids resident blocks"),
        (gemm, {"threads": 96}, "no load by TMA is the same for neighbouring blocks"),
        (causal, {}, "how often the pipeline at"),
        (causal, {"when": True}, "how often the if at"),
        (in_place, {"how": "read"}, "C is read and written, and the grid may be no multiple"),
    ],
)
def test_where_blocks_cannot_load_for_each_other_there_is_no_cluster(
    kernel: Any, constants: dict[str, Any], reason: str
) -> None:
    result = marked(kernel, **constants)
    remark = result.remark("TLC0331")
    assert reason in remark.message and "T.Kernel" in line_of(remark.loc)
    assert result.one(Launch).cluster == (1, 1, 1)
    assert all(axes == () for axes in shared_axes(result).values())


def test_loops_that_differ_along_another_dimension_do_no_harm() -> None:
    assert shared_axes(marked(causal, cluster=(2, 1))) == {"A": (0,), "B": ()}


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_a_target_without_clusters_refuses_the_launch(target: str) -> None:
    error = refused("TLC0526", lambda: plan(specialised(gemm), "multicast_loads", target))
    assert "T.Kernel" in line_of(error.loc) and target in error.message


# What it means ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        (gemm, {"cluster": 2}), (gemm, {"cluster": (1, 4)}), (gemm, {"cluster": (2, 2)}),
        (batched, {"rows": "selected"}), (causal, {"cluster": (2, 1)}),
    ],
    ids=lambda x: getattr(x, "name", None) or str(x),
)  # fmt: skip
def test_every_form_keeps_the_meaning(kernel: Any, constants: dict[str, Any]) -> None:
    program = specialised(kernel, **constants)
    for last in ("make_persistent", "assign_roles", PLANNING[-1].__name__):
        keeps_meaning(program, plan(program, last, SM_90A).program, (0, 1))


@pytest.mark.parametrize("how", ["atomic", "nest"])
@pytest.mark.parametrize(("M", "N"), [(1, 1), (64, 65), (65, 64), (129, 130), (128, 128), (0, 64)])
def test_blocks_beyond_the_grid_leave_nothing_behind(M: int, N: int, how: str) -> None:
    result = marked(in_place, PLANNING[-1].__name__, how=how)
    assert result.one(Launch).cluster == (2, 2, 1)
    rng = np.random.default_rng(M + N)
    a, b = (rng.integers(-3, 4, (n, 64)).astype(np.float16) for n in (M, N))
    c = rng.integers(-3, 4, (M, N)).astype(np.float32)
    count = np.zeros((-(-M // 64), -(-N // 64)), np.int32)
    expected = (c if how == "atomic" else 1) + a.astype(np.float32) @ b.astype(np.float32).T
    run_program(result.program, {"A": a, "B": b, "C": c, "count": count}, registry=REGISTRY)
    assert np.array_equal(c, expected)
    assert np.array_equal(count, 1 + np.indices(count.shape)[0])


@pytest.mark.parametrize(("M", "N"), [(1, 1), (65, 130), (130, 65)])
def test_a_pipeline_whose_stages_act_stays_whole(M: int, N: int) -> None:
    result = marked(in_steps, PLANNING[-1].__name__)
    assert result.one(Launch).cluster == (2, 2, 1)
    rng = np.random.default_rng(M + N)
    a, b = (rng.integers(-3, 4, (n, 96)).astype(np.float16) for n in (M, N))
    c, count = np.zeros((3, M, N), np.float32), np.zeros(1, np.int32)
    d = np.zeros((3, -(-N // 64), M, 32), np.float16)
    given = {"A": a, "B": b, "C": c, "D": d, "count": count}
    run_program(result.program, given, registry=REGISTRY)
    wide_a, wide_b = a.astype(np.float32), b.astype(np.float32)
    for step in range(3):
        k = 32 * (step + 1)
        assert np.array_equal(c[step], wide_a[:, :k] @ wide_b[:, :k].T)
        assert (d[step] == a[:, k - 32 : k]).all()
    assert count[0] == 3 * -(-M // 64) * -(-N // 64)


def test_a_grid_of_whole_clusters_needs_no_guard() -> None:
    @tilec.kernel
    def whole(A: T.Tensor((256, 64), HALF), B: T.Tensor((128, 64), HALF),
              C: T.Tensor((256, 128), "float32"), cluster: Any = (2, 2)):  # fmt: skip
        with T.Kernel(2, 4, threads=128, cluster=cluster) as (bx, by):
            A_s = T.alloc_shared((64, 32), HALF)
            B_s = T.alloc_shared((64, 32), HALF)
            acc = T.alloc_fragment((64, 64), "float32")
            T.clear(acc)
            for k in T.Pipelined(2, num_stages=3):
                T.copy(A[by * 64, k * 32], A_s)
                T.copy(B[bx * 64, k * 32], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[by * 64, bx * 64])

    assert not marked(whole, "make_persistent").all(If)
    assert len(marked(whole, "make_persistent", cluster=(1, 3)).all(If)) == 1


def test_golden(golden: Any) -> None:
    """Tiles by twos and twos: what is shared, who takes which, and what the last of them leave out."""
    assert marked(gemm, "make_persistent", cluster=(2, 2)).text == golden("tir")


# What the language takes --------------------------------------------------------------------------


def test_the_name_of_tilelang_means_the_same() -> None:
    def kernel(A: T.Tensor(("M",), "float32")):
        with T.ClusterKernel(T.ceildiv(A.shape[0], 128), cluster_dims=(2,), threads=128) as bx:
            A[bx * 128 + T.get_thread_binding()] = 0.0

    (launch,) = found(specialised(tilec.kernel(kernel)), Launch)
    assert launch.cluster == (2, 1, 1) and "T.ClusterKernel" in line_of(launch.loc)


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        (0, "an extent is 1 or more"), ((2, -1), "an extent is 1 or more"),
        ((4, 4), "a cluster has at most 8 blocks"), ((1, 1, 2), "the grid has 2 dimensions"),
        (2.0, "no compile-time int"), (True, "no compile-time int"), ("two", "no compile-time int"),
        ((), "an extent is 1 or more"),
    ],
)  # fmt: skip
def test_extents_that_are_no_cluster_are_refused(cluster: Any, why: str) -> None:
    with pytest.raises(TilecError) as caught:
        specialised(gemm, cluster=cluster)
    assert caught.value.code == "TLC0118" and why in caught.value.message
    assert "T.Kernel" in line_of(caught.value.loc)
