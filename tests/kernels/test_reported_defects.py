"""What users of other tile compilers reported as wrong code, a race or a hang in barriers, pipelines
and tails, as small programs of one class each, on every machine. The numbers are those of threads
of tile-ai/tilelang."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg

pytestmark = pytest.mark.emulator
STAGES = (0, 1, 3)
TRIPS = (1, 2, 3, 4)


def small(*shape: int, seed: int = 0) -> np.ndarray:
    """Integers that every sum of products of them holds exactly."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float16)


def agree(
    kernel: Any, arrays: tuple[np.ndarray, ...], expected: np.ndarray, **constants: Any
) -> None:
    """The last array is as expected on every leg."""
    for device, found in every_leg(kernel, *arrays, **constants):
        np.testing.assert_array_equal(found[-1], expected, err_msg=f"{device} {constants}")


def multiplies(kernel: Any, m: int, n: int, k: int, **constants: Any) -> None:
    """C = A @ B.T of these extents is exact on every leg."""
    a, b = small(m, k), small(n, k, seed=1)
    exact = a.astype(np.float32) @ b.astype(np.float32).T
    agree(kernel, (a, b, np.zeros_like(exact)), exact, **constants)


@tilec.kernel
def product(
    A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
    block_N: int = 64, block_K: int = 32, stages: int = 2, threads: int = 128,
):  # fmt: skip
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, block_N), T.ceildiv(M, 64), threads=threads) as (bx, by):
        A_s = T.alloc_shared((64, block_K), "float16")
        B_s = T.alloc_shared((block_N, block_K), "float16")
        acc = T.alloc_fragment((64, block_N), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, block_K), num_stages=stages):
            T.copy(A[by * 64, k * block_K], A_s)
            T.copy(B[bx * block_N, k * block_K], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * block_N])


@pytest.mark.parametrize("block_N", [8, 24, 40, 104])
def test_widths_that_are_8_modulo_16(block_N: int) -> None:
    """#2593: most elements of such a wgmma were wrong."""
    multiplies(product, 65, block_N + 3, 48, block_N=block_N)


@pytest.mark.parametrize("block_K", [8, 24, 40])
def test_steps_that_no_instruction_divides(block_K: int) -> None:
    """#2381: what a step had beyond 16 was dropped."""
    multiplies(product, 33, 40, 100, block_K=block_K)


@pytest.mark.parametrize("stages", [0, 1, 2, 3, 5])
def test_few_trips(stages: int) -> None:
    """#2566: one trip of a loop with a producer's warps hung; none, and one more than the stages."""
    for k in {0, 1, 32, 32 * max(stages - 1, 0), 32 * stages, 32 * stages + 1}:
        multiplies(product, 40, 24, k, stages=stages)


@tilec.kernel
def last_tile(X: T.Tensor(("R", 64), "float16"), Y: T.Tensor((32, 64), "float16"), stages: int = 2):
    """The loop's last tile, and the sum of all, after the loop."""
    with T.Kernel(1, threads=128) as _:
        S = T.alloc_shared((32, 64), "float16")
        total = T.alloc_fragment((32, 64), "float16")
        T.clear(total)
        for k in T.Pipelined(X.shape[0] // 32, num_stages=stages):
            T.copy(X[k * 32, 0], S)
            for i, j in T.Parallel(32, 64):
                total[i, j] += S[i, j]
        for i, j in T.Parallel(32, 64):
            total[i, j] += S[31 - i, j] * 8
        T.copy(total, Y)


@pytest.mark.parametrize("stages", STAGES)
def test_a_tile_is_read_after_its_loop(stages: int) -> None:
    """#3039: a crash; the slot of the last trip is meant."""
    for trips in TRIPS:
        x = small(32 * trips, 64)
        tiles = x.reshape(trips, 32, 64)
        agree(
            last_tile, (x, np.zeros_like(x[:32])), tiles.sum(0) + 8 * tiles[-1, ::-1], stages=stages
        )


@tilec.kernel
def used_again(
    X: T.Tensor(("R", 64), "float16"), Z: T.Tensor((32, 64), "float16"),
    Y: T.Tensor((32, 64), "float16"), stages: int = 2,
):  # fmt: skip
    """A pipeline's buffer, filled once more after it, and by threads after that."""
    with T.Kernel(1, threads=128) as _:
        S = T.alloc_shared((32, 64), "float16")
        total = T.alloc_fragment((32, 64), "float16")
        T.clear(total)
        for k in T.Pipelined(X.shape[0] // 32, num_stages=stages):
            T.copy(X[k * 32, 0], S)
            for i, j in T.Parallel(32, 64):
                total[i, j] += S[31 - i, j]
        T.copy(Z, S)
        for i, j in T.Parallel(32, 64):
            total[i, j] += S[i, 63 - j]
        for i, j in T.Parallel(32, 64):
            S[i, j] = total[i, j]
        for i, j in T.Parallel(32, 64):
            Y[i, j] = S[31 - i, j]


@pytest.mark.parametrize("stages", STAGES)
def test_a_buffer_is_used_again_after_its_loop(stages: int) -> None:
    """#3031: refused; and barriers that were missing there (#2556, #2612, #2698)."""
    for trips in (0, *TRIPS):
        x, z = small(32 * trips, 64), small(32, 64, seed=1)
        total = x.reshape(trips, 32, 64).sum(0, dtype=np.float16)[::-1] + z[:, ::-1]
        agree(used_again, (x, z, np.zeros_like(z)), total[::-1], stages=stages)


@tilec.kernel
def rewritten(X: T.Tensor(("R", 64), "float16"), Y: T.Tensor((32, 64), "float16"), stages: int = 2):
    """Each trip reads what was copied, overwrites it, and reads it again."""
    with T.Kernel(1, threads=128) as _:
        S = T.alloc_shared((32, 64), "float16")
        total = T.alloc_fragment((32, 64), "float16")
        half = T.alloc_fragment((32, 64), "float16")
        T.clear(total)
        for k in T.Pipelined(X.shape[0] // 32, num_stages=stages):
            T.copy(X[k * 32, 0], S)
            for i, j in T.Parallel(32, 64):
                half[i, j] = S[31 - i, j] + S[i, 63 - j]
            T.copy(half, S)
            for i, j in T.Parallel(32, 64):
                total[i, j] += S[i, 63 - j]
        T.copy(total, Y)


@pytest.mark.parametrize("stages", STAGES)
def test_a_trip_overwrites_what_it_has_read(stages: int) -> None:
    """#2668: a write after a read was moved before it."""
    for trips in TRIPS:
        x = small(32 * trips, 64).reshape(trips, 32, 64)
        total = sum((t[::-1] + t[:, ::-1])[:, ::-1] for t in x)
        agree(rewritten, (x.reshape(-1, 64), np.zeros_like(x[0])), total, stages=stages)


@tilec.kernel
def chosen_rows(
    X: T.Tensor(("R", 64), "float16"), wanted: T.Tensor(("B",), "int32"),
    Y: T.Tensor((32, 64), "float16"), stages: int = 2,
):  # fmt: skip
    """A value in memory decides whether a trip counts, and where it reads."""
    with T.Kernel(1, threads=128) as _:
        S = T.alloc_shared((32, 64), "float16")
        total = T.alloc_fragment((32, 64), "float16")
        T.clear(total)
        for k in T.Pipelined(wanted.shape[0], num_stages=stages):
            row = wanted[k]
            T.copy(X[T.max(row, 0) * 32, 0], S)
            if row >= 0:
                for i, j in T.Parallel(32, 64):
                    total[i, j] += S[31 - i, j]
        T.copy(total, Y)


@pytest.mark.parametrize("stages", STAGES)
def test_a_loaded_value_decides(stages: int) -> None:
    """#2876: an `if` on a loaded value in a pipelined body."""
    x = small(32 * 3, 64)
    for wanted in ([0], [-1], [2, -1, 0, 0, -1, 1], []):
        tiles = [x[32 * w : 32 * w + 32] for w in wanted if w >= 0]
        total = sum(tiles, np.zeros((32, 64), np.float16))[::-1]
        arrays = (x, np.array(wanted, np.int32), np.zeros_like(total))
        agree(chosen_rows, arrays, total, stages=stages)


@tilec.kernel
def tiles_in_turn(
    A: T.Tensor(("M", "K"), "float16"), B: T.Tensor((64, "K"), "float16"),
    C: T.Tensor(("M", 64), "float32"), stages: int = 2,
):  # fmt: skip
    """A block multiplies one tile after the other: the slots' phases go on from loop to loop."""
    with T.Kernel(1, threads=128) as _:
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        tile = T.alloc_var("int32", init=0)
        while tile * 64 < A.shape[0]:
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
                T.copy(A[tile * 64, k * 32], A_s)
                T.copy(B[0, k * 32], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[tile * 64, 0])
            tile = tile + 1


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_one_tile_after_the_other(stages: int) -> None:
    """PR #2674: a wrong phase in a persistent loop whose trips are no multiple of the slots; #2548:
    a while loop around it."""
    for m, k in ((64, 32), (130, 32), (200, 96), (129, 0)):
        multiplies(tiles_in_turn, m, 64, k, stages=stages)


@tilec.kernel
def shifted(X: T.Tensor(("M", "N"), "float16"), Y: T.Tensor(("M", "N"), "float16"), by: int = 3):
    """Tiles that begin before the tensor and end behind it, read and written."""
    M, N = X.shape
    with T.Kernel(T.ceildiv(N, 64) + 1, T.ceildiv(M, 32) + 1, threads=128) as (bx, by_):
        S = T.alloc_shared((32, 64), "float16")
        T.copy(X[by_ * 32 - by, bx * 64 - by], S)
        T.copy(S, Y[by_ * 32 - by, bx * 64 - by])


@pytest.mark.parametrize("shape", [(1, 1), (31, 63), (33, 65), (40, 72)], ids=str)
def test_tiles_that_lie_in_part_outside(shape: tuple[int, int]) -> None:
    """#2979, #2527: slices out of bounds, and stores whose start no engine takes."""
    x = small(*shape)
    for by in (0, 3, 8):
        agree(shifted, (x, np.zeros_like(x)), x, by=by)
