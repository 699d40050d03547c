"""T.assume, T.device_assert, T.sync_threads."""

from __future__ import annotations

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import DEVICES, compile_texts, every_leg
from tilec.errors import ExecutionError, HazardError, TilecError
from tilec.runtime.driver import lower

pytestmark = pytest.mark.emulator


@tilec.kernel
def checked(X: T.Tensor(("N",), "int32"), Y: T.Tensor(("N",), "int32")):
    N = X.shape[0]
    with T.Kernel(T.ceildiv(N, 64), threads=64) as bx:
        i = bx * 64 + T.get_thread_binding()
        if i < N:
            T.device_assert(X[i] >= 0, 'below 0: "max" of // 100 % \N{DEGREE SIGN}')
            Y[i] = X[i] * 2


def test_an_assertion_that_holds() -> None:
    x = np.arange(70, dtype=np.int32)
    for device, (_, y) in every_leg(checked, x, np.zeros_like(x)):
        assert np.array_equal(y, 2 * x), device
    texts = compile_texts(checked)
    assert r"below 0: \042max\042" in texts["cuda:sm_80"]
    assert '"test_checks.py", 23)' in texts["cuda:sm_80"]


@pytest.mark.parametrize("device", DEVICES)
def test_an_assertion_that_fails(device: str) -> None:
    x = np.arange(70, dtype=np.int32)
    x[66] = -1
    with pytest.raises(TilecError, match="below 0") as caught:
        checked(x, np.zeros_like(x), device=device)
    if device == "interpreter":
        assert caught.value.code == "TLC0764" and caught.value.loc.line == 23
        assert "thread 2" in str(caught.value) and "block (1" in str(caught.value)
    else:
        assert "test_checks.py:23" in str(caught.value)


@tilec.kernel
def assumed(X: T.Tensor(("N",), "float32"), Y: T.Tensor((64,), "float32"), start: T.int32):
    with T.Kernel(1, threads=64):
        t = T.get_thread_binding()
        T.assume(start >= 0)
        T.assume(start + 64 <= 4096)
        T.assume(start % 4 == 0)
        S = T.alloc_shared((4096,), "float32")
        S[start + t] = X[t]
        Y[t] = S[start + (63 - t)] + T.cast(start // 4 * 4 - start, "float32")


def test_what_is_assumed_is_used_and_checked() -> None:
    x = np.arange(64, dtype=np.float32)
    for device, (_, y, _) in every_leg(assumed, x, np.zeros_like(x), 128):
        assert np.array_equal(y, x[::-1]), device
    text = compile_texts(assumed)["cuda:sm_80"].partition("__global__")[2]
    assert "/ 4" not in text and "floordiv" not in text  # a multiple of 4: nothing is left over
    with pytest.raises(ExecutionError, match="TLC0765") as caught:
        assumed(x, np.zeros_like(x), 130, device="interpreter")
    assert caught.value.loc.line == 55


@tilec.kernel
def exchanged(X: T.Tensor((64,), "float32"), Y: T.Tensor((64,), "float32")):
    """Through global memory of the block, which only T.sync_threads orders."""
    with T.Kernel(1, threads=64):
        t = T.get_thread_binding()
        Y[t] = X[t]
        T.sync_threads()
        value = Y[63 - t]
        T.sync_threads()
        Y[t] = value


def test_threads_meet() -> None:
    x = np.arange(64, dtype=np.float32)
    for device, (_, y) in every_leg(exchanged, x, np.zeros_like(x)):
        assert np.array_equal(y, x[::-1]), device
    assert compile_texts(exchanged)["cuda:sm_90a"].count("  barrier();") == 2


@tilec.kernel
def fed(
    A: T.Tensor(("M", 64), "float16"),
    B: T.Tensor((64, 64), "float16"),
    C: T.Tensor(("M", 64), "float32"),
):
    """With roles on sm_90a the program's own threads meet, not the producer's."""
    with T.Kernel(T.ceildiv(A.shape[0], 128), threads=256) as bx:
        A_s = T.alloc_shared((128, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((128, 64), "float32")
        T.clear(acc)
        for _ in T.Pipelined(3, num_stages=2):
            T.copy(A[bx * 128, 0], A_s)
            T.copy(B, B_s)
            T.gemm(A_s, B_s, acc)
        T.sync_threads()
        T.copy(acc, C[bx * 128, 0])


def test_a_role_meets_alone() -> None:
    random = np.random.default_rng(3)
    a = random.integers(-2, 3, (200, 64)).astype(np.float16)
    b = random.integers(-2, 3, (64, 64)).astype(np.float16)
    exact = 3 * a.astype(np.float32) @ b.astype(np.float32)
    for device, (*_, c) in every_leg(fed, a, b, np.zeros((200, 64), np.float32)):
        assert np.array_equal(c, exact), device


@tilec.kernel
def parted(Y: T.Tensor((64,), "float32")):
    with T.Kernel(1, threads=64):
        t = T.get_thread_binding()
        if t < 32:
            T.sync_threads()
            Y[t] = 1


def test_a_barrier_where_threads_part() -> None:
    with pytest.raises(HazardError, match="TLC0341"):
        lower(parted, (), "cuda:sm_80", {})
    with pytest.raises(ExecutionError, match="TLC0749"):
        parted(np.zeros(64, np.float32), device="interpreter")


@tilec.kernel
def unreachable(Y: T.Tensor((32,), "int32"), n: T.int32):
    with T.Kernel(1, threads=32):
        if n > 3:
            T.device_assert(False, "more than 3")
        for i in T.Parallel(32):
            Y[i] = n


@pytest.mark.parametrize("device", DEVICES)
def test_an_assertion_that_fails_where_nobody_comes(device: str) -> None:
    y = np.zeros(32, np.int32)
    unreachable(y, 3, device=device)
    assert y.tolist() == [3] * 32
    with pytest.raises(TilecError, match="more than 3"):
        unreachable(y, 4, device=device)
