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


# Views of one memory ---------------------------------------------------------------------------


@tilec.kernel
def by_views(
    X: T.StridedTensor(("M",), ("s",), "int32"),
    Y: T.Tensor((16, 2), "int16"),
    Z: T.Tensor((16, 2), "int16"),
    how: str = "launches",
    at: int = 0,
):
    """X = 7 ..., then Z = Y: in a launch of its own, in one block, in other blocks; or X = Y."""
    with T.Kernel(1, threads=32) as b:
        if how == "atomics":
            for i in T.Parallel(8):
                T.atomic_add(X[i], 1)
        elif how == "reads":
            for i in T.Parallel(8):
                X[7 - i] = Y[i, 0]
        else:
            for i in T.Parallel(8):
                X[i] = 7 + i
        if how not in ("launches", "reads"):
            for i, j in T.Parallel(8, 2):
                Z[at + i, j] = Y[at + i, j]
    if how == "launches":
        with T.Kernel(2, threads=32) as b:
            for i, j in T.Parallel(8, 2):
                Z[b * 8 + i, j] = Y[b * 8 + i, j]


def _views(n: int, step: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = np.arange(100, 100 + n, dtype=np.int32)
    return x[::step], x.view(np.int16).reshape(n, 2), np.zeros((n, 2), np.int16)


@pytest.mark.parametrize("device", DEVICES)
def test_a_launch_reads_what_the_one_before_wrote_through_another_view(device: str) -> None:
    x, y, z = _views(16, 2)
    by_views(x, y, z, how="launches", device=device)
    assert np.array_equal(x, np.arange(7, 15)) and np.array_equal(z, y)


@pytest.mark.parametrize("device", DEVICES)
def test_elements_that_no_two_views_share_are_nobodys_fault(device: str) -> None:
    x, y, z = _views(16)
    by_views(x, y, z, how="elements", at=8, device=device)
    assert np.array_equal(z[8:].view(np.int32)[:, 0], np.arange(108, 116))


@pytest.mark.parametrize("how", ["elements", "atomics", "reads"])
def test_what_another_view_of_the_memory_wrote_is_not_read(how: str) -> None:
    found = r"was written as part of X" if how != "reads" else r"which another iteration reads"
    for step in (1, 2):
        x, y, z = _views(16, step)
        with pytest.raises(TilecError, match=found) as caught:
            by_views(x, y, z, how=how, device="interpreter")
        assert caught.value.code == "TLC0744"
        by_views(x, y.copy(), z, how=how, device="interpreter")


@tilec.kernel
def in_blocks(X: T.Tensor((64,), "int32"), Y: T.Tensor((8, 8), "int32"), across: bool = False):
    with T.Kernel(8, threads=8) as b:
        for i in T.Parallel(8):
            X[b * 8 + i] = Y[i if across else b, b if across else i] + 1


@pytest.mark.parametrize("device", DEVICES)
def test_blocks_that_meet_in_two_shapes_of_one_array(device: str) -> None:
    x = np.arange(64, dtype=np.int32)
    in_blocks(x, x.reshape(8, 8), device=device)
    assert np.array_equal(x, np.arange(1, 65))
    with pytest.raises(TilecError, match=r"with no order between them|data race"):
        in_blocks(x, x.reshape(8, 8), across=True, device=device)


@tilec.kernel
def of_nibbles(X: T.Tensor((64,), "int4"), Y: T.Tensor((32,), "int8")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(64):
            X[i] = T.cast(i & 7, "int4")
        T.copy(Y, Y)


def test_nibbles_in_the_memory_of_another_array_are_refused_by_the_interpreter() -> None:
    x = np.zeros(32, np.int8)
    with pytest.raises(TilecError, match="X shares memory with Y") as caught:
        of_nibbles(x, x, device="interpreter")
    assert caught.value.code == "TLC0736"
