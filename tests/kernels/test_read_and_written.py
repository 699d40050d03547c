"""Tensors that a launch reads and writes: what a block wrote in one statement it finds in the next, and
what it has read is not overwritten before, on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import DEVICES, compile_texts
from tilec.errors import TilecError
from tilec.runtime import emulator
from tilec.runtime.devices import open_device
from tilec.runtime.emulator_device import EmulatorDevice

pytestmark = pytest.mark.emulator


@tilec.kernel
def transposed(
    X: T.Tensor(("M", "N"), "float16"),
    W: T.Tensor(("M", "N"), "float16"),
    Y: T.Tensor(("N", "M"), "float16"),
):
    """Y = 2 X.T by way of W, which other threads fill than read."""
    M, N = X.shape
    with T.Kernel(T.ceildiv(M, 64), threads=128) as b:
        for k in T.serial(T.ceildiv(N, 64)):
            for i, j in T.Parallel(64, 64):
                W[b * 64 + i, k * 64 + j] = X[b * 64 + i, k * 64 + j] * 2
            for j, i in T.Parallel(64, 64):
                Y[k * 64 + j, b * 64 + i] = W[b * 64 + i, k * 64 + j]


@tilec.kernel
def rotated(X: T.Tensor((256,), "float32"), times: int = 3):
    """X[i] = X[i + times], modulo 256: a step reads what another thread overwrites."""
    with T.Kernel(1, threads=128):
        moved = T.alloc_fragment((256,), "float32")
        for _ in T.serial(times):
            for i in T.Parallel(256):
                moved[i] = X[(i + 1) % 256]
            T.copy(moved, X)


@tilec.kernel
def accumulated(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
    threads: int = 128,
):
    """C += A @ B.T, where C is read in another order than it is written."""
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=threads) as (bx, by):
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        before = T.alloc_fragment((64, 64), "float32")
        sums = T.alloc_fragment((64, 64), "float32")
        T.copy(C[by * 64, bx * 64], before)
        T.clear(sums)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
            T.copy(A[by * 64, k * 32], A_s)
            T.copy(B[bx * 64, k * 32], B_s)
            T.gemm(A_s, B_s, sums, transpose_B=True)
        for i, j in T.Parallel(64, 64):
            sums[i, j] += before[i, j]
        T.copy(sums, C[by * 64, bx * 64])


@tilec.kernel
def framed(X: T.Tensor(("M", 64), "float16"), Y: T.Tensor(("R", 64), "float16")):
    """Of each 64 rows of Y the middle 32 are X's, the others -1."""
    with T.Kernel(T.ceildiv(X.shape[0], 32), threads=128) as b:
        rows = T.alloc_fragment((32, 64), "float16")
        T.copy(X[b * 32, 0], rows)
        for i, j in T.Parallel(64, 64):
            Y[b * 64 + i, j] = -1
        T.copy(rows, Y[b * 64 + 16, 0])


@pytest.mark.parametrize("device", DEVICES)
def test_the_later_of_two_writes_stays(device: str) -> None:
    x = np.random.default_rng(0).standard_normal((96, 64)).astype(np.float16)
    y = np.full((192, 64), np.nan, np.float16)
    with tilec.device(device):
        framed(x, y)
    expected = np.full((3, 64, 64), -1, np.float16)
    expected[:, 16:48] = x.reshape(3, 32, 64)
    assert np.array_equal(y, expected.reshape(192, 64))


@pytest.mark.parametrize("device", DEVICES)
def test_what_one_statement_writes_the_next_one_reads(device: str) -> None:
    for m, n in ((64, 64), (65, 63), (1, 130), (0, 5)):
        x = np.random.default_rng(m).integers(-9, 10, (m, n)).astype(np.float16)
        w, y = np.full_like(x, np.nan), np.full((n, m), np.nan, np.float16)
        with tilec.device(device):
            transposed(x, w, y)
        assert np.array_equal(y, 2 * x.T), (m, n)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_read_is_not_overwritten_before(device: str) -> None:
    for times in (0, 1, 3):
        x = np.arange(256, dtype=np.float32)
        with tilec.device(device):
            rotated(x, times=times)
        assert np.array_equal(x, np.roll(np.arange(256), -times)), times


@pytest.mark.parametrize("device", DEVICES)
def test_a_product_added_to_what_was_there(device: str) -> None:
    for m, n, k in ((64, 64, 96), (65, 136, 8), (1, 1, 1), (130, 72, 0)):
        rng = np.random.default_rng(k)
        a, b = (rng.integers(-3, 4, (rows, k)).astype(np.float16) for rows in (m, n))
        c = rng.integers(-9, 10, (m, n)).astype(np.float32)
        expected = a.astype(np.float32) @ b.astype(np.float32).T + c
        with tilec.device(device):
            accumulated(a, b, c)
        assert np.array_equal(c, expected), (m, n, k)


@tilec.kernel
def stepped(X: T.Tensor((8,), "float32"), N: T.Tensor((2,), "int32")):
    """Statements that all threads run alike: X[0] is doubled while it is below 100, every other one
    that is above 0 becomes 2 x - 3, N counts both, and what one thread of a few writes all find."""
    with T.Kernel(1, threads=128):
        while X[0] < 100:
            X[0] = X[0] * 2
            N[0] = N[0] + 1
        for i in T.serial(1, 8):
            if X[i] > 0:
                X[i] = X[i] * 2 - 3
                N[1] += 1
        if T.get_thread_binding() == 77:
            X[1] = X[2] - 8
        X[2] = X[1]


@pytest.mark.parametrize("device", DEVICES)
def test_what_all_threads_do_alike_is_done_once(device: str) -> None:
    x, n = np.array([3, 1, 1, -2, 5, 0, 2, 2], np.float32), np.zeros(2, np.int32)
    with tilec.device(device):
        stepped(x, n)
    np.testing.assert_array_equal(x, [192, -9, -9, -2, 7, 0, 1, 1])
    np.testing.assert_array_equal(n, [6, 5])


def test_a_statement_alone_meets_nobody() -> None:
    """In place, each element by one thread: no barrier."""

    @tilec.kernel
    def doubled(X: T.Tensor(("N",), "float32")):
        with T.Kernel(T.ceildiv(X.shape[0], 128), threads=128) as b:
            for i in T.Parallel(128):
                X[b * 128 + i] = X[b * 128 + i] * 2

    for target in ("cuda:sm_80", "hip:gfx942"):
        text = doubled.lower(target=target).source
        assert "barrier" not in text[text.index('extern "C"') :]
        text = rotated.lower(target=target).source
        assert text.count("barrier_for_stores();") == 2, "before the reads, and before the stores"
    text = accumulated.lower(target="cuda:sm_90a", threads=128).source
    _, between, _ = text[text.index('extern "C"') :].split("tma_store")
    assert "bulk_wait<0>" not in between, "parts of a store go side by side"


@tilec.kernel
def windows(
    X: T.Tensor(("K", 64), "float16"),
    Y: T.Tensor(("L", 64), "float16"),
    step: int = 8,
    how: str = "serial",
):
    """Y[k step + i] = X[k] + i for i below 16, for k = 0, 1, ...: the last one that comes stays."""
    K = X.shape[0]
    with T.Kernel(1, threads=128):
        made = T.alloc_shared((16, 64), "float16")
        k = T.alloc_var("int32", 0)
        if how == "serial":
            for n in T.serial(K):
                for i, j in T.Parallel(16, 64):
                    Y[n * step + i, j] = X[n, j] + i
        elif how == "unrolled":
            for n in range(3):
                for i, j in T.Parallel(16, 64):
                    made[i, j] = X[n, j] + i
                T.copy(made, Y[n * step, 0])
        elif how == "nested":
            for n in T.serial(K):
                for m in T.serial(2):
                    for i, j in T.Parallel(8, 64):
                        Y[n * step + m * 8 + i, j] = X[n, j] + (m * 8 + i)
        else:
            while k < K:
                for i, j in T.Parallel(16, 64):
                    Y[k * step + i, j] = X[k, j] + i
                k = k + 1


@tilec.kernel
def windows_in_arms(
    X: T.Tensor(("K", 64), "float16"), Y: T.Tensor(("L", 64), "float16"), step: int = 8
):
    """The same, by two statements in turn, whose threads hold other elements."""
    with T.Kernel(1, threads=128):
        for n in T.serial(X.shape[0]):
            if n % 2 == 0:
                for i, j in T.Parallel(16, 64):
                    Y[n * step + i, j] = X[n, j] + i
            else:
                for j, i in T.Parallel(64, 16):
                    Y[n * step + i, j] = X[n, j] + i


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ["serial", "unrolled", "nested", "arms", "while"])
def test_the_last_of_several_writes_stays(device: str, how: str) -> None:
    for step in (8, 3, 16):
        x = np.random.default_rng(step).integers(-9, 9, (3, 64)).astype(np.float16)
        expected = np.zeros((2 * step + 16, 64), np.float16)
        for k in range(3):
            expected[k * step : k * step + 16] = x[k] + np.arange(16)[:, None]
        y = np.zeros_like(expected)
        with tilec.device(device):
            if how == "arms":
                windows_in_arms(x, y, step=step)
            else:
                windows(x, y, step=step, how=how)
        assert np.array_equal(y, expected), step


def test_trips_that_are_apart_do_not_meet() -> None:
    for how, step, meets in (
        ("serial", 16, 0), ("nested", 16, 0), ("nested", 24, 0), ("serial", 15, 1), ("nested", 15, 1),
        ("while", 16, 1),
    ):  # fmt: skip
        text = windows.lower(target="cuda:sm_80", step=step, how=how).source
        assert text.count("  barrier_for_stores();") == meets, (how, step)
    for step, meets in ((16, 0), (15, 2)):
        text = windows_in_arms.lower(target="cuda:sm_80", step=step).source
        assert text.count("  barrier_for_stores();") == meets, step


@tilec.kernel
def some_rows(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    bounds: T.Tensor(("G",), "int32"),
    C: T.Tensor(("M", "N"), "float16"),
):
    """Rows bounds[g] to bounds[g + 1] of A @ B.T, 64 at most, for each g: stored whole where they are 64."""
    N, K = B.shape
    with T.Kernel(T.ceildiv(N, 64), bounds.shape[0] - 1, threads=128, persistent=True) as (bx, g):
        start, stop = T.max(bounds[g], 0), bounds[g + 1]
        A_s = T.alloc_shared((64, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        sums = T.alloc_fragment((64, 64), "float32")
        T.clear(sums)
        for k in T.Pipelined(T.ceildiv(K, 64), num_stages=3):
            T.copy(A[start, k * 64], A_s)
            T.copy(B[bx * 64, k * 64], B_s)
            T.gemm(A_s, B_s, sums, transpose_B=True)
        if start + 64 <= stop:
            T.copy(sums, C[start, bx * 64])
        else:
            for i, j in T.Parallel(64, 64):
                if start + i < stop:
                    C[start + i, bx * 64 + j] = sums[i, j]


@pytest.mark.parametrize("device", DEVICES)
def test_tiles_that_are_stored_whole_or_in_part(device: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-3, 4, (rows, 72)).astype(np.float16) for rows in (200, 136))
    c = np.full((200, 136), np.nan, np.float16)
    with tilec.device(device):
        some_rows(a, b, np.array([0, 64, 64, 65, 128, 192], np.int32), c)
    assert np.array_equal(c[:192], a[:192].astype(np.float32) @ b.astype(np.float32).T)
    assert np.isnan(c[192:]).all()


def test_a_block_waits_for_no_stores_of_another_arm() -> None:
    text = some_rows.lower(target="cuda:sm_90a").source
    text = text[text.index('extern "C"') :]
    assert "tma_store" in text and text.count("bulk_wait<0>") == 1, "the last, of the role"


def test_texts_compile() -> None:
    for kernel in (transposed, rotated, some_rows, stepped):
        compile_texts(kernel)


@tilec.kernel
def stored_again(X: T.Tensor((4,), "int32"), N: T.Tensor((1,), "int32")):
    """Every thread stores the same again and again: what comes last stays."""
    with T.Kernel(1, threads=128):
        X[0] = 1
        X[0] = 2
        X[1] = 7
        for i in T.serial(N[0]):
            X[2] = i
        if N[0] > 2:
            X[1] = 8
        if T.get_thread_binding() < 40:
            X[3] = 5
        X[3] = 6


@pytest.mark.parametrize("device", DEVICES)
def test_the_last_of_several_stores_by_all_threads_stays(device: str) -> None:
    for n in (0, 1, 3):
        x = np.full(4, -1, np.int32)
        stored_again(x, np.array([n], np.int32), device=device)
        assert x.tolist() == [2, 8 if n > 2 else 7, n - 1, 6]


@tilec.kernel
def met(X: T.Tensor((64,), "int32"), Y: T.Tensor((64,), "int32"), how: str = "nothing"):
    """Y[n] is what another thread has written to X."""
    with T.Kernel(1, threads=64):
        n = T.get_thread_binding()
        if how == "divergent":
            if n < 60:
                X[n] = n
                Y[n] = X[63 - n]
        elif how == "loop":
            for _ in T.serial(2):
                Y[n] = X[63 - n]
                X[n] = n
        elif how == "alike":
            X[n] = n
            Y[n] = X[3]
        else:
            X[n] = n
            if how == "barrier":
                T.sync_threads()
            if how == "warp":
                T.sync_warp()
            Y[n] = X[n ^ 1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ["nothing", "divergent", "loop", "alike"])
def test_threads_that_meet_in_a_tensor_without_a_barrier_are_found(device: str, how: str) -> None:
    with pytest.raises(TilecError, match=r"with no order between them|data race") as caught:
        met(*np.zeros((2, 64), np.int32), device=device, how=how)
    assert caught.value.code in ("TLC0744", "TLC0780")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ["barrier", "warp"])
def test_threads_that_wait_for_each_other_may_meet_in_a_tensor(device: str, how: str) -> None:
    x, y = np.zeros((2, 64), np.int32)
    met(x, y, device=device, how=how)
    assert y.tolist() == [n ^ 1 for n in range(64)]


@tilec.kernel
def agreed(A: T.Tensor((32,), "int32"), X: T.Tensor((32,), "int32"), how: str = "all"):
    """Each element gets A and then 6 from its own thread, and 6 from its neighbour."""
    with T.Kernel(1, threads=32):
        t = T.get_thread_binding()
        if how == "half":
            if t % 2 == 0:
                X[t] = A[t]
                X[t] = 6
            else:
                X[t - 1] = 6
        else:
            X[t] = A[t]
            X[t] = 6
            if how == "met":
                T.sync_threads()
            X[t ^ 1] = 6


@tilec.kernel
def agreed_by_blocks(A: T.Tensor((1,), "int32"), X: T.Tensor((1,), "int32")):
    with T.Kernel(8, threads=32) as b:
        if b == 3:
            T.copy(A, X)
            T.fill(X, 6)
        else:
            T.fill(X, 6)


def in_any_order() -> list[tuple[str, Any]]:
    orders = [(order, EmulatorDevice("cuda:sm_80", "", order=order)) for order in emulator.ORDERS]
    return [("interpreter", open_device("interpreter")), *orders]


@pytest.mark.parametrize("how", ["all", "half"])
def test_who_agrees_only_in_the_end_does_race(how: str) -> None:
    """What is written last is 6 in any order; what is there meanwhile is not."""
    for name, device in in_any_order():
        a, x = np.arange(32, dtype=np.int32), np.zeros(32, np.int32)
        with pytest.raises(TilecError, match=r"with no order between them|data race") as caught:
            agreed.compile(a, x, how=how, target="cuda:sm_80").run_on(device, (a, x))
        assert caught.value.code in ("TLC0744", "TLC0780"), name
        met = agreed.compile(a, x, how="met", target="cuda:sm_80")
        met.run_on(device, (a, x))
        assert (x == 6).all(), name


def test_blocks_that_agree_only_in_the_end_do_race() -> None:
    for name, device in in_any_order():
        a, x = np.ones(1, np.int32), np.zeros(1, np.int32)
        compiled = agreed_by_blocks.compile(a, x, target="cuda:sm_80")
        with pytest.raises(TilecError, match=r"with no order between them|data race") as caught:
            compiled.run_on(device, (a, x))
        assert caught.value.code in ("TLC0747", "TLC0780"), name


@tilec.kernel
def overlapping(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor((64, "K"), "float16"),
    C: T.Tensor(("M", 64), "float32"),
    differ: bool = False,
):
    """Tiles of 64 rows, of which each begins in the middle of the one before."""
    M, K = A.shape
    with T.Kernel(M // 32 - 1, threads=128) as b:
        A_s = T.alloc_shared((64, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 64), num_stages=2):
            T.copy(A[b * 32, k * 64], A_s)
            T.copy(B[0, k * 64], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        if differ:
            for i, j in T.Parallel(64, 64):
                acc[i, j] += T.if_then_else((i == 40) & (j == 5), b, 0)
        T.copy(acc, C[b * 32, 0])


def test_tiles_that_overlap_agree_or_race() -> None:
    """By TMA, whose boxes agree in a part of their rows with what another block wrote."""
    assert "tma_store<" in overlapping.lower(target="cuda:sm_90a").source
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, 72)).astype(np.float16) for n in (160, 64))
    for order in emulator.ORDERS:
        device = EmulatorDevice("cuda:sm_90a", "", order=order)
        c = np.zeros((160, 64), np.float32)
        overlapping.compile(a, b, c, target="cuda:sm_90a").run_on(device, (a, b, c))
        assert np.allclose(c, a.astype(np.float64) @ b.astype(np.float64).T, atol=1e-3), order
        torn = overlapping.compile(a, b, c, differ=True, target="cuda:sm_90a")
        with pytest.raises(TilecError, match=r"data race: writes C_map byte \d+, which") as caught:
            torn.run_on(device, (a, b, c))
        assert caught.value.code == "TLC0780", order
