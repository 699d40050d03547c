"""T.shfl_*: values of other threads of the warp, on every kind of machine."""

from __future__ import annotations

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.language.refusals import refused
from tilec.errors import ExecutionError


@tilec.kernel
def shuffled(
    A: T.Tensor((2, 96), "float32"),
    H: T.Tensor((96,), "float16"),
    B: T.Tensor((6, 96), "float32"),
    G: T.Tensor((96,), "float16"),
):
    with T.Kernel(1, threads=96):
        t = T.get_thread_binding()
        x = A[0, t]
        B[0, t] = T.shfl_xor(x, 5)
        B[1, t] = T.shfl_down(x, 3)
        B[2, t] = T.shfl_up(x, 2, 16)
        B[3, t] = T.shfl_sync(x, 31)
        B[4, t] = T.shfl_sync(x, t + 1, 8)
        total = T.alloc_var("float32")
        total = A[1, t]
        for i in T.unroll(5):
            total = total + T.shfl_xor(total, 1 << i)
        B[5, t] = total
        G[t] = T.shfl_xor(H[t], 1)


@pytest.mark.emulator
@pytest.mark.parametrize(
    "device",
    ["interpreter", "emulator:cuda:sm_75", "emulator:cuda:sm_90a", "emulator:hip:gfx942"],
)
def test_each_thread_gets_the_value_of_another(device: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(-9, 9, (2, 96)).astype(np.float32)
    h = rng.integers(-9, 9, 96).astype(np.float16)
    b, g = np.full((6, 96), np.nan, np.float32), np.full(96, np.nan, np.float16)
    with tilec.device(device):
        shuffled(a, h, b, g)
    t = np.arange(96)
    sources = (
        t ^ 5,
        np.where(t % 32 + 3 < 32, t + 3, t),
        np.where(t % 16 >= 2, t - 2, t),
        t // 32 * 32 + 31,
        t // 8 * 8 + (t + 1) % 8,
    )
    for row, source in enumerate(sources):
        assert np.array_equal(b[row], a[0][source]), row
    assert np.array_equal(b[5], a[1].reshape(3, 32).sum(1).repeat(32))
    assert np.array_equal(g, h[t ^ 1])


@tilec.kernel
def of_any_width(
    X: T.Tensor((64,), "float64"), P: T.Tensor((64,), "int8"), L: T.Tensor((64,), "int64"),
    Y: T.Tensor((64,), "float64"), Q: T.Tensor((64,), "int8"), K: T.Tensor((64,), "int64"),
):  # fmt: skip
    with T.Kernel(1, threads=64):
        t = T.get_thread_binding()
        Y[t] = T.shfl_xor(X[t], 4)
        Q[t] = T.shfl_down(P[t], 1)
        K[t] = T.shfl_sync(L[t], 0)


@pytest.mark.emulator
@pytest.mark.parametrize("device", ["interpreter", "emulator:cuda:sm_80", "emulator:hip:gfx90a"])
def test_values_of_8_to_64_bits(device: str) -> None:
    rng = np.random.default_rng(0)
    x, long = rng.standard_normal(64), rng.integers(-(2**62), 2**62, 64)
    byte = rng.integers(-128, 128, 64).astype(np.int8)
    y, q, k = np.zeros(64), np.zeros(64, np.int8), np.zeros(64, np.int64)
    with tilec.device(device):
        of_any_width(x, byte, long, y, q, k)
    t = np.arange(64)
    assert np.array_equal(y, x[t ^ 4]) and np.array_equal(k, long[t // 32 * 32])
    assert np.array_equal(q, byte[np.where(t % 32 < 31, t + 1, t)])


@tilec.kernel
def parted(A: T.Tensor((64,), "float32")):
    with T.Kernel(1, threads=64):
        t = T.get_thread_binding()
        if t < 16:
            A[t] = T.shfl_xor(A[t], 1)


def test_all_threads_of_a_warp_come() -> None:
    with tilec.device("interpreter"), pytest.raises(ExecutionError, match="only some threads") as e:
        parted(np.ones(64, np.float32))
    assert e.value.code == "TLC0749" and e.value.loc.line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"srcLane": 32}, "T.shfl_sync by 32 in a group of 32"),
        ({"srcLane": -1}, "T.shfl_sync by -1 in a group of 32"),
        ({"srcLane": 8, "width": 8}, "T.shfl_sync by 8 in a group of 8"),
        ({"srcLane": 0, "width": 12}, "T.shfl_sync in groups of 12"),
        ({"srcLane": 0, "mask": 0xFFFF}, "T.shfl_sync by a part of a warp"),
    ],
)
def test_lanes_that_are_not_there_are_refused(given: dict[str, int], message: str) -> None:
    def kernel(A: T.Tensor((32,), "float32")):
        with T.Kernel(1, threads=32):
            A[T.get_thread_binding()] = T.shfl_sync(A[0], **given)

    assert refused(kernel).startswith(message)
