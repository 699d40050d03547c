"""One array for two parameters, of which one is written: right where a kernel's own accesses are in
order, found where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import DEVICES
from tilec.errors import TilecError

pytestmark = pytest.mark.emulator


@tilec.kernel
def by_elements(
    X: T.Tensor(("M", 64), "float16"), Y: T.Tensor(("M", 64), "float16"), back: bool = False
):  # fmt: skip
    M = X.shape[0]
    with T.Kernel(M, threads=32) as b:
        for j in T.Parallel(64):
            Y[b, j] = X[b, 63 - j if back else j] * 2


@tilec.kernel
def by_tiles(X: T.Tensor(("M", 64), "float16"), Y: T.Tensor(("M", 64), "float16")):
    with T.Kernel(T.ceildiv(X.shape[0], 64), threads=128) as b:
        S = T.alloc_shared((64, 32), "float16")
        for k in T.Pipelined(2, num_stages=2):
            T.copy(X[b * 64, k * 32], S)
            for i, j in T.Parallel(64, 32):
                Y[b * 64 + i, k * 32 + j] = S[i, j] * 2


@pytest.mark.parametrize("kernel", [by_elements, by_tiles], ids=["elements", "tiles"])
@pytest.mark.parametrize("device", DEVICES)
def test_each_element_is_read_before_it_is_written(device: str, kernel: Any) -> None:
    for rows in (1, 64, 67):
        x = np.arange(64 * rows, dtype=np.float16).reshape(rows, 64) % 100
        doubled = 2 * x
        kernel(x, x, device=device)
        assert np.array_equal(x, doubled), rows


@pytest.mark.parametrize("device", DEVICES)
def test_elements_that_others_write_are_found(device: str) -> None:
    x = np.ones((3, 64), np.float16)
    with pytest.raises(TilecError, match=r"with no order between them|data race") as caught:
        by_elements(x, x, back=True, device=device)
    assert caught.value.code in ("TLC0744", "TLC0780")


@tilec.kernel
def by_turns(
    X: T.Tensor((64,), "int32"),
    Y: T.Tensor((64,), "int32"),
    Z: T.Tensor((64,), "int32"),
    how: str = "tiles",
):
    """Y = 7, Z = X: of one array, what is read was written by another name."""
    with T.Kernel(1, threads=64):
        seen = T.alloc_fragment((64,), "int32")
        if how == "atomics":
            T.atomic_add(Y[T.get_thread_binding()], 1)
        elif how == "tiles":
            T.fill(Y, 7)
        else:
            for i in T.Parallel(64):
                Y[i] = 7
        if how == "written":
            for i in T.Parallel(64):
                X[63 - i] = i
        else:
            T.copy(X, seen)
            T.copy(seen, Z)


@tilec.kernel
def moved(X: T.Tensor((64,), "int32"), Y: T.Tensor((64,), "int32"), by: int = 8):
    with T.Kernel(1, threads=64):
        T.copy(X[0:32], Y[by : by + 32])


def test_regions_that_overlap_are_found() -> None:
    x = np.arange(64, dtype=np.int32)
    for by in (0, 32):
        moved(x, x, by=by, device="interpreter")
    with pytest.raises(TilecError, match="a region of X is copied to one of Y that overlaps it"):
        moved(x, x, by=8, device="interpreter")


@pytest.mark.parametrize("how", ["tiles", "elements", "atomics", "written"])
def test_what_was_written_by_another_name_is_not_read_or_written(how: str) -> None:
    """The compiler orders nothing between names, and may read what is only read by another way."""
    x, z = np.ones((2, 64), np.int32)
    by_turns(x, x.copy(), z, how=how, device="interpreter")
    with pytest.raises(TilecError, match=r"was written as Y\[\d+\]") as caught:
        by_turns(x, x, z, how=how, device="interpreter")
    assert caught.value.code == "TLC0744"
