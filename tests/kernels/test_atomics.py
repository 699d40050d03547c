"""Atomics: every machine does each of them once, and keeps them in order with all else."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tilec.errors import ExecutionError, LanguageError
from tilec.interpreter import run_program
from tilec.runtime.driver import lower
from tilec.runtime.lowering import standard_registry

pytestmark = pytest.mark.emulator
DTYPES: dict[str, Any] = {
    "int16": np.int16, "int32": np.int32, "uint32": np.uint32, "int64": np.int64,
    "uint64": np.uint64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32, "float64": np.float64,
}  # fmt: skip


@cache
def make_histogram(dtype: str) -> Any:
    @tilec.kernel
    def histogram(
        X: T.Tensor(("N",), "int32"), H: T.Tensor((3, 8), dtype), P: T.Tensor(("N",), dtype)
    ):
        """Row 0: twice the counts, once by shared memory; rows 1 and 2: last and first place."""
        N = X.shape[0]
        with T.Kernel(T.ceildiv(N, 64), threads=64) as bx:
            t = T.get_thread_binding()
            i = bx * 64 + t
            S = T.alloc_shared((8,), dtype)
            if t < 8:
                S[t] = 0
            if i < N:
                T.atomic_add(S[X[i]], 1)
                P[i] = T.atomic_add(H[0, X[i]], 1, return_prev=True)
                T.atomic_max(H[1, X[i]], i)
                T.atomic_min(H[2, X[i]], i, memory_order="relaxed")
            if t < 8:
                T.atomic_add(H[0, t], S[t])

    return histogram


@pytest.mark.parametrize("dtype", DTYPES)
def test_histogram(dtype: str) -> None:
    kernel, kind = make_histogram(dtype), DTYPES[dtype]
    x = np.random.default_rng(1).integers(0, 8, 100).astype(np.int32)
    start = np.zeros((3, 8), kind)
    start[2] = 100
    places = [np.flatnonzero(x == value) for value in range(8)]
    exact = np.array([[2 * p.size, p[-1], p[0]] for p in places]).T
    for device, (_, h, previous) in every_leg(kernel, x, start, np.zeros(100, kind)):
        assert np.array_equal(h.astype(int), exact), device
        for place in places:  # each saw another value, and none what the launch leaves
            seen = sorted(previous[place].astype(int))
            assert len(set(seen)) == len(seen) and seen[-1] < 2 * place.size, device
    texts = compile_texts(kernel)
    # The only barriers: between clearing and counting, and between counting and reading.
    assert texts["cuda:sm_80"].count("  barrier();") == 2


@cache
def make_split_k(dtype: str, kind: str) -> Any:
    change = {"add": T.atomic_add, "max": T.atomic_max}[kind]

    @tilec.kernel
    def split_k(
        A: T.Tensor(("M", "K"), "float16"),
        B: T.Tensor(("K", "N"), "float16"),
        C: T.Tensor(("M", "N"), dtype),
        split: int = 3,
    ):
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), split, threads=128) as (bx, by, bz):
            A_s = T.alloc_shared((64, 32), "float16")
            B_s = T.alloc_shared((32, 64), "float16")
            acc = T.alloc_fragment((64, 64), "float32")
            T.clear(acc)
            steps = T.ceildiv(K, 32)
            for k in T.Pipelined(T.ceildiv(steps - bz, split), num_stages=2):
                T.copy(A[by * 64, (bz + k * split) * 32], A_s)
                T.copy(B[(bz + k * split) * 32, bx * 64], B_s)
                T.gemm(A_s, B_s, acc)
            change(C[by * 64, bx * 64], acc)

    return split_k


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size", [(64, 64, 96), (65, 72, 200), (3, 1, 5), (63, 127, 31)])
def test_a_fragment_into_a_region(dtype: str, size: tuple[int, int, int]) -> None:
    m, n, k = size
    random = np.random.default_rng(sum(size))
    a = random.integers(-1, 2, (m, k)).astype(np.float16)
    b = random.integers(-1, 2, (k, n)).astype(np.float16)
    exact = 5 + a.astype(np.float64) @ b.astype(np.float64)
    start = np.full((m, n), 5, DTYPES[dtype])
    for device, (*_, c) in every_leg(make_split_k(dtype, "add"), a, b, start):
        assert np.array_equal(c.astype(np.float64), exact), device


def test_the_greatest_part() -> None:
    random = np.random.default_rng(5)
    a = random.integers(-1, 2, (70, 96)).astype(np.float16)
    b = random.integers(-1, 2, (96, 66)).astype(np.float16)
    parts = [
        a[:, i : i + 32].astype(np.float64) @ b[i : i + 32].astype(np.float64) for i in (0, 32, 64)
    ]
    start = np.full((70, 66), np.nan, np.float32)  # which gives way
    for device, (*_, c) in every_leg(make_split_k("float32", "max"), a, b, start):
        assert np.array_equal(c, np.max(parts, axis=0)), device


def test_pairs_and_fours_where_the_machine_has_them() -> None:
    calls = {
        dtype: {
            target: text.partition("__global__")[2]
            for target, text in compile_texts(make_split_k(dtype, "add")).items()
        }
        for dtype in ("float32", "float16", "bfloat16")
    }
    assert "atomic_add_global<2>(C" in calls["float32"]["cuda:sm_90a"]
    assert "atomic_add(C" in calls["float32"]["cuda:sm_80"]
    assert "atomic_add_global<2>(C" in calls["float16"]["cuda:sm_80"]
    assert "atomic_add_global<2>(C" in calls["bfloat16"]["cuda:sm_90a"]
    assert "atomic_add(C" in calls["bfloat16"]["cuda:sm_80"]


@tilec.kernel
def shared_tiles(X: T.Tensor(("N", 32), "float32"), Y: T.Tensor((16, 32), "float32")):
    """Tiles of rows, added from shared memory and from a region of a fragment's own."""
    with T.Kernel(T.ceildiv(X.shape[0], 16), threads=64) as bx:
        S = T.alloc_shared((16, 32), "float32")
        F = T.alloc_fragment((16, 32), "float32")
        T.copy(X[bx * 16, 0], S)
        T.atomic_add(Y, S)
        T.copy(S, F)
        T.atomic_add(Y[8, 4], F)  # half of it is outside


@pytest.mark.parametrize("rows", [1, 16, 33])
def test_shared_tiles_and_what_lies_outside(rows: int) -> None:
    x = np.random.default_rng(rows).integers(-4, 5, (rows, 32)).astype(np.float32)
    padded = np.zeros((-(-rows // 16) * 16, 32), np.float32)
    padded[:rows] = x
    total = padded.reshape(-1, 16, 32).sum(axis=0)
    exact = total.copy()
    exact[8:, 4:] += total[:8, :28]
    for device, (_, y) in every_leg(shared_tiles, x, np.zeros((16, 32), np.float32)):
        assert np.array_equal(y, exact), device


@tilec.kernel
def replicated(
    X: T.Tensor((64, 64), "float32"),
    Y: T.Tensor((2, 64), "float32"),
    Z: T.Tensor((64, 64), "float32"),
):
    """The threads of a row all hold its element of `rows`; it is added once."""
    with T.Kernel(1, threads=128):
        F = T.alloc_fragment((64, 64), "float32")
        rows = T.alloc_fragment((64,), "float32")
        T.copy(X, F)
        T.copy(X[0, 0:64], rows)
        for i, j in T.Parallel(64, 64):
            F[i, j] = F[i, j] * rows[i]
        for i in T.Parallel(64):
            T.atomic_add(Y[0, i], rows[i])
        for i in T.Parallel(33):
            T.atomic_add(Y[1, i], 1.0)
        T.atomic_add(Y[1, 63], 1.0)  # by every thread
        T.copy(F, Z)


def test_replicas_add_once() -> None:
    x = np.random.default_rng(2).integers(-4, 5, (64, 64)).astype(np.float32)
    exact = np.zeros((2, 64))
    exact[0], exact[1, :33], exact[1, 63] = x[0], 1, 128
    empty = np.zeros((2, 64), np.float32), np.zeros_like(x)
    for device, (_, y, scaled) in every_leg(replicated, x, *empty):
        assert np.array_equal(y, exact) and np.array_equal(scaled, x * x[0][:, None]), device


@tilec.kernel
def ticket(A: T.Tensor((64,), "int32"), Y: T.Tensor((64,), "int32")):
    """A barrier between an atomic on shared memory and a plain read of it, in a loop."""
    with T.Kernel(1, threads=64):
        t = T.get_thread_binding()
        S = T.alloc_shared((1,), "int32")
        if t == 0:
            S[0] = 0
        for _ in T.serial(3):
            T.atomic_add(S[0], A[t])
            Y[t] = S[0]


def test_reads_come_after_all_atomics() -> None:
    a = np.arange(64, dtype=np.int32)
    for device, (_, y) in every_leg(ticket, a, np.zeros(64, np.int32)):
        assert (y == 3 * a.sum()).all(), device


@tilec.kernel
def mixed(Y: T.Tensor((4,), "int32"), Z: T.Tensor(("N", 64), "float32"), x: T.int32):
    """Atomics of several kinds, and plain accesses, change the same elements in turn."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((1,), "int32")
        F = T.alloc_fragment((64, 64), "float32")
        T.clear(S)
        for _ in T.Parallel(128):
            T.atomic_add(S[0], 1)
        for _ in T.Parallel(128):
            T.atomic_max(S[0], 100)
        Y[0] = S[0]
        for _ in T.Parallel(128):
            T.atomic_add(Y[1], 1)
        for _ in T.Parallel(128):
            T.atomic_max(Y[1], 100)
        for _ in T.Parallel(128):
            T.atomic_add(Y[2], 1)
        Y[3] = Y[2]
        T.fill(F, 1.0)
        T.atomic_add(Z[x : x + 64, 0:64], F)
        for i in T.Parallel(64):
            Z[x + i, 3] = 7


def test_atomics_are_in_order_with_those_of_other_kinds_and_with_plain_accesses() -> None:
    z = np.zeros((100, 64), np.float32)
    for device, (y, found, _) in every_leg(mixed, np.zeros(4, np.int32), z, 3):
        assert y.tolist() == [128, 128, 128, 128], device
        assert (found[3:67, 3] == 7).all() and found.sum() == 64 * 63 + 64 * 7, device


# Refusals
# -------------------------------------------------------------------------------------------------


@tilec.kernel
def read_beside(X: T.Tensor((64,), "int32"), Y: T.Tensor((2,), "int32")):
    with T.Kernel(2, threads=64):
        T.atomic_add(Y[0], X[T.get_thread_binding()])
        T.sync_threads()
        Y[1] = Y[0]


@tilec.kernel
def read_by_others(X: T.Tensor((64,), "int32"), Y: T.Tensor((64,), "int32")):
    with T.Kernel(1, threads=64):
        n = T.get_thread_binding()
        T.atomic_add(Y[(n + 1) % 64], 1)
        X[n] = Y[n]


@tilec.kernel
def written_in_a_nest(X: T.Tensor((64,), "int32"), Y: T.Tensor((2,), "int32")):
    with T.Kernel(1, threads=64):
        for i in T.Parallel(64):
            T.atomic_add(Y[0], X[i])
            if X[i] == 5:
                Y[0] = 1


@pytest.mark.parametrize(
    ("kernel", "code"),
    [(read_beside, "TLC0747"), (read_by_others, "TLC0744"), (written_in_a_nest, "TLC0744")],
)
def test_atomics_and_plain_accesses_conflict(kernel: Any, code: str) -> None:
    y = np.zeros(64 if kernel is read_by_others else 2, np.int32)
    with pytest.raises(ExecutionError, match=code):
        kernel(np.arange(64, dtype=np.int32), y, device="interpreter")


@tilec.kernel
def turns(X: T.Tensor((64, 64), "float16"), N: T.Tensor((1,), "int32")):
    with T.Kernel(1, threads=64):
        S = T.alloc_shared((64,), "float16")
        mine = T.atomic_add(N[0], 1, return_prev=True)
        T.copy(X[mine, 0], S)
        T.copy(S, X[mine, 0:64])


def test_what_an_atomic_gives_is_the_threads_own() -> None:
    with pytest.raises(LanguageError, match="TLC0120"):
        lower(turns, (), "cuda:sm_80", {})


def test_a_random_order_of_lanes() -> None:
    """The interpreter's lanes find each other's results: all orders occur."""

    @tilec.kernel
    def order(Y: T.Tensor((3,), "int32"), N: T.Tensor((1,), "int32")):
        with T.Kernel(1, threads=3):
            Y[T.get_thread_binding()] = T.atomic_add(N[0], 1, return_prev=True)

    lowered = lower(order, (), "cuda:sm_80", {})
    found = set()
    for seed in range(40):
        y, n = np.zeros(3, np.int32), np.zeros(1, np.int32)
        arrays = {"Y": y, "N": n}
        run_program(lowered.program, arrays, registry=standard_registry(), seed=seed)
        found.add(tuple(int(i) for i in y))
    assert found == set(itertools.permutations(range(3)))


@cache
def make_ordered(dtype: str) -> Any:
    @tilec.kernel
    def ordered(X: T.Tensor((64,), dtype), Y: T.Tensor((4, 64), dtype)):
        """Row 0: X by stores and loads of shared memory; 1: by global memory; 2: sums and extrema
        in every order; 3: bits."""
        with T.Kernel(1, threads=64):
            t = T.get_thread_binding()
            S = T.alloc_shared((64,), dtype)
            T.atomic_store(S[t], X[t], "release")
            Y[0, t] = T.atomic_load(S[t], "acquire")
            T.atomic_store(Y[1, t], T.atomic_load(X[t], "relaxed"))
            for order in ("relaxed", "acquire", "release", "acq_rel", "seq_cst", "consume"):
                T.atomic_add(Y[2, t], X[t], memory_order=order)
            T.atomic_max(Y[2, t], T.atomic_load(Y[1, t]), "acq_rel")
            T.atomic_min(Y[2, t], 100, "seq_cst")
            if dtype.startswith(("int", "uint")):
                T.atomic_or(Y[3, t], X[t], "acq_rel")
                T.atomic_or(Y[3, (t + 1) % 64], 64)

    return ordered


@pytest.mark.parametrize("dtype", DTYPES)
def test_orders_loads_stores_and_bits(dtype: str) -> None:
    kernel, kind = make_ordered(dtype), DTYPES[dtype]
    x = np.arange(64).astype(kind)
    is_integer = dtype.startswith(("int", "uint"))
    expected = [x, x, np.minimum(6 * np.arange(64), 100), (np.arange(64) | 64) * is_integer]
    for device, (_, y) in every_leg(kernel, x, np.zeros((4, 64), kind)):
        assert np.array_equal(y.astype(float), np.array(expected, float)), device
    compile_texts(kernel)
