"""What the threads of a warp find out together, on machines of 32 and of 64 lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tests.language.refusals import refused
from tilec.errors import ExecutionError


@tilec.kernel
def votes(
    A: T.Tensor((96,), "int32"),
    F: T.Tensor((96,), "float32"),
    S: T.Tensor((96,), "float32"),
    R: T.Tensor((4, 96), "int32"),
    B: T.Tensor((2, 96), "uint64"),
    V: T.Tensor((5, 96), "int32"),
):
    with T.Kernel(1, threads=96):
        t = T.get_thread_binding()
        S[t] = T.warp_reduce_sum(F[t])
        R[0, t] = T.warp_reduce_max(A[t])
        R[1, t] = T.warp_reduce_min(A[t])
        R[2, t] = T.warp_reduce_bitand(A[t])
        R[3, t] = T.warp_reduce_bitor(A[t])
        B[0, t] = T.ballot(A[t] > 0)
        B[1, t] = T.activemask()
        V[0, t] = T.any_sync(A[t] == 7)
        V[1, t] = T.all_sync(A[t])
        V[2, t] = T.get_lane_idx()
        V[3, t] = T.get_warp_idx()
        V[4, t] = T.get_warp_group_idx(warps_per_group=2)


@pytest.mark.emulator
def test_threads_of_a_warp_reduce_and_vote() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(-50, 50, 96).astype(np.int32)
    a[:32], a[33], a[40] = np.where(a[:32] == 0, 1, a[:32]), 7, 0
    f = rng.standard_normal(96).astype(np.float32)
    warps, bits = a.reshape(3, 32), np.uint64(1) << np.arange(32, dtype=np.uint64)
    reductions = (np.max, np.min, np.bitwise_and.reduce, np.bitwise_or.reduce)
    unset: list[Any] = [np.zeros(96, np.float32), np.zeros((4, 96), np.int32)]
    unset += [np.zeros((2, 96), np.uint64), np.zeros((5, 96), np.int32)]
    sums = set()
    for leg, (_, _, s, r, b, v) in every_leg(votes, a, f, *unset):
        np.testing.assert_allclose(s, f.reshape(3, 32).sum(1).repeat(32), 0, 1e-5, err_msg=leg)
        sums.add(s.tobytes())
        for row, reduction in zip(r, reductions, strict=True):
            assert np.array_equal(row, reduction(warps, axis=1).repeat(32)), (leg, reduction)
        assert np.array_equal(b[0], np.where(warps > 0, bits, 0).sum(1).repeat(32)), leg
        assert np.array_equal(b[1], np.full(96, 2**32 - 1)), leg
        assert np.array_equal(v[0], (warps == 7).any(1).repeat(32)), leg
        assert np.array_equal(v[1], (warps != 0).all(1).repeat(32)), leg
        t = np.arange(96)
        assert np.array_equal(v[2:], [t % 32, t // 32, t // 64]), leg
    assert len(sums) == 1, "the order of a sum is the same on every machine"


def test_compilers_take_votes() -> None:
    texts = compile_texts(votes)
    assert all("ballot(" in text for text in texts.values())


@tilec.kernel
def short(X: T.Tensor((40,), "int32"), Y: T.Tensor((40,), "uint64"), Z: T.Tensor((40,), "int32")):
    with T.Kernel(1, threads=40):
        t = T.get_thread_binding()
        Y[t] = T.ballot(X[t])
        Z[t] = T.all_sync(X[t] > 0)


@pytest.mark.emulator
def test_a_last_warp_that_is_not_whole_votes() -> None:
    x = np.arange(40, dtype=np.int32)
    for leg, (_, y, z) in every_leg(short, x, np.zeros(40, np.uint64), np.zeros(40, np.int32)):
        assert np.array_equal(y, [2**32 - 2] * 32 + [255] * 8), leg
        assert np.array_equal(z, [0] * 32 + [1] * 8), leg


def test_a_vote_of_a_part_of_a_warp_is_refused() -> None:
    @tilec.kernel
    def parted(Y: T.Tensor((32,), "uint64")):
        with T.Kernel(1, threads=32):
            t = T.get_thread_binding()
            if t < 8:
                Y[t] = T.ballot(t > 1)

    @tilec.kernel
    def unwritten(Y: T.Tensor((32,), "uint64")):
        with T.Kernel(1, threads=32):
            x = T.alloc_var("int32")
            Y[T.get_thread_binding()] = T.ballot(x)

    with pytest.raises(ExecutionError, match="where only some threads of a warp come"):
        parted(np.zeros(32, np.uint64))
    with pytest.raises(ExecutionError, match="uninitialised"):
        unwritten(np.zeros(32, np.uint64))


def test_what_is_refused() -> None:
    def not_whole(A: T.Tensor((40,), "int32")):
        with T.Kernel(1, threads=40):
            T.warp_reduce_sum(A[0])

    def masked(A: T.Tensor((32,), "int32")):
        with T.Kernel(1, threads=32):
            T.any_sync(A[0], 0xFF)

    def in_a_nest(A: T.Tensor((32,), "int32")):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(32):
                A[i] = T.get_lane_idx()

    assert "whose last warp is not whole" in refused(not_whole)
    assert "of a part of a warp" in refused(masked)
    assert "names a thread" in refused(in_a_nest)
