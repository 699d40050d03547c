"""Loops, jumps and thread bindings: every machine does what Python would."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import DEVICES, every_leg
from tilec.errors import HazardError, TilecError
from tilec.runtime.driver import lower

pytestmark = pytest.mark.emulator


@tilec.kernel
def jumps(X: T.Tensor(("N", "M"), "int32"), Y: T.Tensor((4, "N"), "int32")):
    N, M = X.shape
    with T.Kernel(T.ceildiv(N, 64), threads=64) as bx:
        i = bx * 64 + T.get_thread_binding()
        total = T.alloc_var("int32", 0)
        for j in T.serial(M):
            if X[i, j] < 0:
                break
            if X[i, j] % 2 == 1:
                continue
            value = X[i, j]
            total = total + value
        Y[0, i] = total
        count = T.alloc_var("int32", 0)
        for a, b in T.grid(3, 4):
            if a * 4 + b > i:
                break
            count = count + 1
        Y[1, i] = count
        count = 0
        for a in T.unroll(6):
            if a == i:
                break
            elif a == 3:
                continue
            count = count + 1
        Y[2, i] = count
        n = T.alloc_var("int32", 0)
        count = 0
        while n < 100:
            n = n + 1
            if n % 2 == 0:
                continue
            if n > i:
                break
            for k in T.serial(1, 8, 3):
                if k > n:
                    break
                count = count + k
        Y[3, i] = count


def jumped(row: Any, i: int) -> tuple[int, int, int, int]:
    """A row of `jumps`, by Python."""
    found = [0, 0, 0, 0]
    for x in row:
        if x < 0:
            break
        if x % 2 == 1:
            continue
        found[0] += int(x)
    for a, b in itertools.product(range(3), range(4)):
        if a * 4 + b > i:
            break
        found[1] += 1
    for a in range(6):
        if a == i:
            break
        if a == 3:
            continue
        found[2] += 1
    n = 0
    while n < 100:
        n += 1
        if n % 2 == 0:
            continue
        if n > i:
            break
        for k in range(1, 8, 3):
            if k > n:
                break
            found[3] += k
    return found[0], found[1], found[2], found[3]


@pytest.mark.parametrize("rows", [1, 63, 65])
def test_jumps(rows: int) -> None:
    x = np.random.default_rng(rows).integers(-1, 9, (rows, 9)).astype(np.int32)
    exact = np.array([jumped(row, i) for i, row in enumerate(x)]).T
    for device, (_, y) in every_leg(jumps, x, np.zeros((4, rows), np.int32)):
        assert np.array_equal(y, exact), device


@tilec.kernel
def strides(
    X: T.Tensor((32,), "int32"), Y: T.Tensor((32,), "int32"), step: T.int32, way: str = "loop"
):
    """The sum of 0, step, 2 step ... below 10: with steps of threads, in a loop that may be left."""
    with T.Kernel(1, threads=32):
        t = T.get_thread_binding()
        total = T.alloc_var("int32", 0)
        for i in range(0, 10, step if way == "loop" else X[t]):
            if way == "left":
                if i > 20:
                    break
            total = total + i
        Y[t] = total


@pytest.mark.parametrize("way", ["loop", "threads", "left"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_that_is_known_when_the_kernel_runs(device: str, way: str) -> None:
    x, y = np.full(32, 3, np.int32), np.zeros(32, np.int32)
    strides(x, y, 3, way=way, device=device)
    assert (y == 18).all()
    line = strides.__wrapped__.__code__.co_firstlineno + 8
    for step in (0, -1):
        x[7] = step
        with pytest.raises(TilecError, match=rf"\.py:{line}.*step of a loop is not positive"):
            strides(x, y, step, way=way, device=device)


@tilec.kernel
def until_the_mark(
    X: T.Tensor(("N", 64, 64), "float16"),
    W: T.Tensor((64, 64), "float16"),
    F: T.Tensor(("N",), "int32"),
    Y: T.Tensor((64, 64), "float32"),
):
    """Horner's rule over the matrices X[j] @ W, those skipped that F marks, up to the end mark."""
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        total = T.alloc_fragment((64, 64), "float32")
        product = T.alloc_fragment((64, 64), "float32")
        T.clear(total)
        T.copy(W, B_s)
        for j in T.serial(X.shape[0]):
            if F[j] < 0:
                break
            if F[j] == 0:
                continue
            T.copy(X[j, 0, 0], A_s)
            T.gemm(A_s, B_s, product, clear_accum=True)
            for i, k in T.Parallel(64, 64):
                total[i, k] = total[i, k] * 2.0 + product[i, k]
        T.copy(total, Y)


@pytest.mark.parametrize("marks", [(1, 0, 1, 1, -1, 1), (-1,), (0,), (1, 1)])
def test_the_whole_block_leaves_a_loop(marks: tuple[int, ...]) -> None:
    random = np.random.default_rng(len(marks))
    x = random.integers(-2, 3, (len(marks), 64, 64)).astype(np.float16)
    w = random.integers(-2, 3, (64, 64)).astype(np.float16)
    exact = np.zeros((64, 64))
    for mark, matrix in zip(marks, x.astype(np.float64), strict=True):
        if mark < 0:
            break
        if mark:
            exact = exact * 2 + matrix @ w.astype(np.float64)
    flags = np.array(marks, np.int32)
    for device, (*_, y) in every_leg(until_the_mark, x, w, flags, np.zeros((64, 64), np.float32)):
        assert np.array_equal(y, exact), device


@tilec.kernel
def halvings(Y: T.Tensor((2, 32), "float32")):
    """A fragment that a while loop carries."""
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((32,), "float32")
        G = T.alloc_fragment((32,), "float32")
        n = T.alloc_var("int32", 3)
        T.fill(F, 8.0)
        T.fill(G, 1.0)
        while n > 0:
            for i in T.Parallel(32):
                F[i] = F[i] / 2.0
                G[i] = G[i] + F[i]
            n = n - 1
        T.copy(F, Y[0, 0:32])
        T.copy(G, Y[1, 0:32])


def test_a_while_loop_carries_fragments() -> None:
    for device, (y,) in every_leg(halvings, np.zeros((2, 32), np.float32)):
        assert (y[0] == 1).all() and (y[1] == 8).all(), device


@tilec.kernel
def transposed_threads(X: T.Tensor((2, 4, 8), "int32"), Y: T.Tensor((2, 4, 8), "int32")):
    with T.Kernel(1, threads=(8, 4, 2)):
        x, y, z = T.get_thread_bindings()
        width, height, depth = T.get_thread_extents()
        for k in T.thread_binding(3, thread="threadIdx.y"):
            Y[z, k, x] = X[z, y, x] * 1000 + width * 100 + height * 10 + depth
        if T.thread_binding(4, thread="threadIdx.y") == 3:
            Y[z, y, x] = T.get_thread_binding(2)


def test_three_dimensions_of_threads() -> None:
    x = np.arange(64, dtype=np.int32).reshape(2, 4, 8)
    exact = x * 1000 + 842
    exact[:, 3] = np.arange(2)[:, None]
    for device, (_, y) in every_leg(transposed_threads, x, np.zeros_like(x)):
        assert np.array_equal(y, exact), device


@tilec.kernel
def three_dimensions(Y: T.Tensor((2, 3, 5, 4), "int32")):
    with T.Kernel(5, 3, 2, threads=32) as (bx, by, bz):
        t = T.get_thread_binding()
        if t == 0:
            Y[bz, by, bx, 0] = T.get_block_extent(0) + T.get_block_extents()[2]
            Y[bz, by, bx, 1], Y[bz, by, bx, 2], Y[bz, by, bx, 3] = bx, by, bz


def test_three_dimensions_of_blocks() -> None:
    z, y, x = np.meshgrid(range(2), range(3), range(5), indexing="ij")
    exact = np.stack([np.full_like(x, 7), x, y, z], axis=-1)
    for device, (found,) in every_leg(three_dimensions, np.zeros((2, 3, 5, 4), np.int32)):
        assert np.array_equal(found, exact), device


@tilec.kernel
def parted(X: T.Tensor((64,), "float32")):
    with T.Kernel(1, threads=64):
        F = T.alloc_fragment((64,), "float32")
        n = T.alloc_var("int32", 0)
        n = T.get_thread_binding() % 3
        T.clear(F)
        while n > 0:
            T.copy(X, F)
            n = n - 1
        T.copy(F, X)


@tilec.kernel
def parted_around_a_barrier(X: T.Tensor((64,), "float32")):
    with T.Kernel(1, threads=64):
        S = T.alloc_shared((64,), "float32")
        t = T.get_thread_binding()
        for k in T.serial(4):
            S[t] = X[t] + k
            if X[t] > 2.0:
                break
            X[t] = S[63 - t]


@pytest.mark.parametrize(
    ("kernel", "code"), [(parted, "TLC0341"), (parted_around_a_barrier, "TLC0340")]
)
def test_threads_that_part_do_nothing_together(kernel: Any, code: str) -> None:
    with pytest.raises(HazardError, match=code) as caught:
        lower(kernel, (), "cuda:sm_80", {})
    assert caught.value.loc.line and caught.value.hint
    with pytest.raises(TilecError):  # and so the interpreter says
        kernel(np.eye(1, 64, dtype=np.float32)[0] * 3, device="interpreter")


@tilec.kernel
def quotients(X: T.Tensor((32,), "int32"), Y: T.Tensor((32,), "int32")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(32):
            x = X[i]
            Y[i] = (100 // x) * (100 // x) + (100 // x) if x != 0 else -1
            if x != 0 and (100 // x > 20 or 100 // x < 15):
                Y[i] += 20000


def test_divisions_by_zero_that_nobody_asked_for_are_not_done() -> None:
    """C's compilers may conclude from one that its divisor is no zero."""
    x = np.arange(32, dtype=np.int32) % 9
    q = 100 // np.where(x == 0, 1, x)
    expected = np.where(x == 0, -1, q * q + q + np.where((q > 20) | (q < 15), 20000, 0))
    for device, (_, y) in every_leg(quotients, x, np.zeros(32, np.int32)):
        assert np.array_equal(y, expected), device


@tilec.kernel
def choices(X: T.Tensor((32,), "int32"), Y: T.Tensor((4, 32), "int32"), n: T.int32):
    with T.Kernel(1, threads=32):
        S = T.alloc_shared((32,), "int32")
        T.copy(X, S)
        for i in T.Parallel(32):
            x = X[i]
            Y[0, i] = T.if_then_else(i >= 3, S[i - 3], -1)
            Y[1, i] = T.if_then_else(x == 0, -1, (100 // x) * (100 // x) + 100 % x)
            Y[2, i] = T.if_then_else(x > 6, X[i + 1000], S[x * 4])
            Y[3, i] = T.if_then_else(n > 31, 5, S[n])


def test_the_arm_that_does_not_count_is_not_at_fault() -> None:
    x = np.arange(32, dtype=np.int32) % 9
    some = np.where(x == 0, 1, x)
    expected = [
        np.concatenate([[-1] * 3, x[:-3]]),
        np.where(x == 0, -1, (100 // some) ** 2 + 100 % some),
        np.where(x > 6, 0, x[np.minimum(x, 6) * 4]),
    ]
    for n in (4, 1 << 20):
        for device, (_, y, _) in every_leg(choices, x, np.zeros((4, 32), np.int32), n):
            assert np.array_equal(y[:3], expected), device
            assert (y[3] == (5 if n > 31 else x[n])).all(), device


@tilec.kernel
def rounded_up(X: T.Tensor((32,), "int32"), Y: T.Tensor((2, 32), "int32"), n: T.int32):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(32):
            Y[0, i] = T.ceildiv(X[i], n)
            Y[1, i] = T.ceildiv(T.cast(X[i], "int64") * n, T.cast(n, "int64"))


def test_ceildiv_by_negative_numbers() -> None:
    x = np.array([0, 1, -1, 7, -7, 8, 100, 2**31 - 1] * 4, np.int32)
    for n in (-1, -3, -8, 1, 3, 8):
        for device, (_, y, _) in every_leg(rounded_up, x, np.zeros((2, 32), np.int32), n):
            assert y[0].tolist() == [-(int(v) // -n) for v in x], (device, n)
            assert np.array_equal(y[1], x), (device, n)


@tilec.kernel
def descended(Y: T.Tensor((3, 64), "int64"), a: T.int32, b: T.int64, u: T.uint32):
    with T.Kernel(1, threads=32):
        n = T.alloc_var("int32", init=0)
        for i in T.serial(a, -1, -1):
            for j in range(i, b, -3):
                if j == 4:
                    continue
                Y[0, n] = 100 * i + j
                n += 1
        n = 0
        for k in T.serial(b, a, -2):
            if n == 5:
                break
            Y[1, n] = k
            n = n + 1
        n = 0
        for m in T.unroll(u, u - 10, -4):
            Y[2, n] = m
            n = n + 1


@pytest.mark.parametrize("bounds", [(7, -1, 10), (-2, 6, 2**32 - 1), (4, 4, 11), (2, 2**31, 10)])
def test_loops_that_count_down(bounds: tuple[int, int, int]) -> None:
    a, b, u = bounds
    pairs = [100 * i + j for i in range(a, -1, -1) for j in range(i, b, -3) if j != 4]
    rows = [pairs, [*range(b, max(a, b - 10), -2)][:5], [*range(u, u - 10, -4)]]
    for device, (y, *_) in every_leg(descended, np.zeros((3, 64), np.int64), a, b, u):
        for row, expected in zip(y, rows, strict=True):
            assert row.tolist() == expected + [0] * (64 - len(expected)), device


@tilec.kernel
def neighbours(X: T.Tensor((32,), "int32"), Y: T.Tensor((32,), "int32"), every: bool = False):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(32):
            Y[i] = T.if_then_else(every or i > 0, X[i - 1], -1)


def test_nor_where_accesses_outside_of_tensors_are_errors() -> None:
    x, y = np.arange(32, dtype=np.int32), np.zeros(32, np.int32)
    for check in ("", "bounds"):
        neighbours(x, y, device="interpreter", check=check)
        assert y.tolist() == [-1, *range(31)]
    with pytest.raises(TilecError, match="TLC0742"):
        neighbours(x, y, every=True, device="interpreter", check="bounds")
