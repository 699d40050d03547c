"""T.fill of a part of a fragment or of shared memory, and elements of a fragment that are assigned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tests.language.refusals import refused

PARTS = (
    (slice(2, 3), slice(None), 7), (5, slice(None), 9), (slice(0, 4), slice(8, 16), -128),
    (slice(3, 5), 31, 1), (slice(None), 2, -5),
)  # fmt: skip


@tilec.kernel
def filled(Y: T.Tensor((2, 16, 32), "int8")):
    with T.Kernel(1, threads=64):
        F = T.alloc_fragment((16, 32), "int8")
        S = T.alloc_shared((16, 32), "int8")
        for place, buffer in enumerate((F, S)):
            T.clear(buffer)
            for rows, columns, value in PARTS:
                T.fill(buffer[rows, columns], value)
            T.copy(buffer, Y[place, 0, 0])


@pytest.mark.emulator
def test_parts_of_buffers_are_filled() -> None:
    exact: Any = np.zeros((16, 32), np.int8)
    for rows, columns, value in PARTS:
        exact[rows, columns] = value
    for device, (y,) in every_leg(filled, np.ones((2, 16, 32), np.int8)):
        assert (y == exact).all(), device


def test_the_compilers_take_it() -> None:
    compile_texts(filled)


@tilec.kernel
def assigned(X: T.Tensor((16, 32), "float32"), Y: T.Tensor((16, 32), "float32"), n: T.int32):
    """A sum that is kept in a fragment of one element, and elements of a larger one."""
    with T.Kernel(1, threads=64):
        F, most = T.alloc_fragment((16, 32), "float32"), T.alloc_fragment((16,), "float32")
        total = T.alloc_fragment((1,), "float32")
        T.copy(X, F)
        T.reduce_max(F, most, dim=1)
        total[0] = n
        for k in T.serial(n):
            total[0] += most[3] * k
            if k > 1:
                F[2, 31] = total[0]
                most[15] = most[2] - F[0, 0]
        F[15, 0] = most[15]
        T.copy(F, Y)


@pytest.mark.emulator
@pytest.mark.parametrize("n", [0, 1, 4])
def test_elements_of_fragments_are_assigned(n: int) -> None:
    x = np.random.default_rng(0).integers(-9, 9, (16, 32)).astype(np.float32)
    y, total, last = x.copy(), float(n), x[15].max()
    for k in range(n):
        total += x[3].max() * k
        if k > 1:
            y[2, 31], last = total, x[2].max() - x[0, 0]
    y[15, 0] = last
    for device, (_, found, _) in every_leg(assigned, x, 0 * x, n):
        np.testing.assert_array_equal(found, y, err_msg=device)


def test_elements_that_threads_would_assign_apart_are_refused() -> None:
    def of_the_thread(A: T.Tensor((16,), "int32")):
        with T.Kernel(1, threads=16):
            F = T.alloc_fragment((16,), "int32")
            T.clear(F)
            F[0] = T.get_thread_binding()
            T.copy(F, A)

    def at_run_time(A: T.Tensor((16,), "int32")):
        with T.Kernel(1, threads=16) as bx:
            F = T.alloc_fragment((16,), "int32")
            F[bx] = 1

    assert "depends on the thread" in refused(of_the_thread)
    assert "elements are at compile-time indices" in refused(at_run_time)
