"""One GEMM for every dtype: C = A @ B.T in f16, bf16, tf32, f32, f64, 8-bit floats and integers.

`tilec run examples/gemm_dtypes.py` runs and checks all of them. A factory makes the kernel of a
dtype; what multiplies is the target's choice: the widest matrix instruction that takes the dtype,
one of the next wider dtype (8-bit floats on machines before sm_89), or multiply-adds of threads
(float32 on NVIDIA's). `tilec build` says which, in remarks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import tilec
import tilec.language as T

# Operands: the dtype of the sums, and of C.
RESULTS = {
    "float16": ("float32", "float16"),
    "bfloat16": ("float32", "bfloat16"),
    "tfloat32": ("float32", "float32"),
    "float32": ("float32", "float32"),
    "float64": ("float64", "float64"),
    "float8_e4m3fn": ("float32", "float16"),
    "float8_e5m2": ("float32", "float16"),
    "int8": ("int32", "int32"),
    "uint8": ("int32", "int32"),
}
ROW_BYTES = 64  # of a tile of A or B along k


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """How NumPy holds it: tf32 in f32, those that it has not as ml_dtypes adds them."""
    if dtype == "tfloat32":
        return np.dtype(np.float32)
    try:
        return np.dtype(dtype)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, dtype))


def itemsize(dtype: str) -> int:
    """Bytes of an element."""
    return numpy_dtype(dtype).itemsize


@cache
def matmul(dtype: str) -> Any:
    """The kernel for operands of `dtype`: A [M, K], B [N, K], C [M, N] of RESULTS[dtype]."""
    total, out = RESULTS[dtype]

    def gemm(
        A: T.Tensor(("M", "K"), dtype),
        B: T.Tensor(("N", "K"), dtype),
        C: T.Tensor(("M", "N"), out),
        block_M: int = 64,
        block_N: int = 64,
        block_K: int = ROW_BYTES // itemsize(dtype),
        stages: int = 2,
        threads: int = 128,
    ):
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(T.ceildiv(N, block_N), T.ceildiv(M, block_M), threads=threads) as (bx, by):
            A_s = T.alloc_shared((block_M, block_K), dtype)
            B_s = T.alloc_shared((block_N, block_K), dtype)
            sums = T.alloc_fragment((block_M, block_N), total)
            T.clear(sums)
            for k in T.Pipelined(T.ceildiv(K, block_K), num_stages=stages):
                T.copy(A[by * block_M, k * block_K], A_s)
                T.copy(B[bx * block_N, k * block_K], B_s)
                T.gemm(A_s, B_s, sums, transpose_B=True)
            T.copy(sums, C[by * block_M, bx * block_N])

    gemm.__name__ = f"gemm_{dtype}"  # one file each for `tilec build`
    return tilec.heuristic(lambda target, shapes: tile(target, dtype))(tilec.kernel(gemm))


def tile(target: Any, dtype: str) -> dict[str, int]:
    """What suits a target: Hopper multiplies by the warpgroup, of operands in rows of 128 bytes, as
    f64 has them everywhere."""
    stages = 4 if target.asynchronous else 2
    if dtype == "float64":
        return {"block_K": 16, "stages": stages}
    if not target.warp_roles or dtype == "float32":
        return {"stages": stages}
    groups = 1 if dtype.startswith("float8") else 2  # unaligned, mma converts them in registers
    shape = {"block_M": 64 * groups, "block_N": 128 * groups, "block_K": 128 // itemsize(dtype)}
    return {**shape, "stages": stages, "threads": 128 * groups}


(
    gemm_float16, gemm_bfloat16, gemm_tfloat32, gemm_float32, gemm_float64,
    gemm_float8_e4m3fn, gemm_float8_e5m2, gemm_int8, gemm_uint8,
) = map(matmul, RESULTS)  # fmt: skip


def operands(dtype: str, M: int, N: int, K: int) -> tuple[np.ndarray, np.ndarray]:
    """Random A [M, K] and B [N, K]: all 256 integers, or normal floats."""
    rng = np.random.default_rng(0)
    if dtype in ("int8", "uint8"):
        return tuple(rng.integers(0, 256, s).astype(dtype) for s in ((M, K), (N, K)))
    floats = (rng.standard_normal(s).astype(np.float32) for s in ((M, K), (N, K)))
    return tuple(x.astype(numpy_dtype(dtype)) for x in floats)


def reference(dtype: str, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The product in 64-bit floats of what a gemm reads: of tf32 not the low 13 bits."""
    if dtype == "tfloat32":
        A, B = ((x.view(np.uint32) & 0xFFFFE000).view(np.float32) for x in (A, B))
    return A.astype(np.float64) @ B.astype(np.float64).T


def check(dtype: str, A: np.ndarray, B: np.ndarray, C: np.ndarray) -> float:
    """Compare C [M, N] with the product; AssertionError if it is off. Gives the largest error.

    Integers are exact. Of floats the bound is one rounding of the result to its own dtype, and K
    roundings of partial sums of the magnitude |A| @ |B|. Of 8-bit floats Hopper's wgmma keeps 13
    bits behind the point of a sum, rounded once in 32 products. NaN never passes.
    """
    expected = reference(dtype, A, B)
    error = np.abs(C.astype(np.float64) - expected)
    bound = np.zeros_like(error)
    if C.dtype.kind != "i":
        partial = np.finfo(RESULTS[dtype][0]).eps
        magnitude = reference(dtype, np.abs(A), np.abs(B))
        rounding = 2.0**-8 if C.dtype.name == "bfloat16" else np.finfo(C.dtype).eps
        steps, dropped = A.shape[1], partial
        if dtype.startswith("float8"):
            steps, dropped = -(-A.shape[1] // 32), 2.0**-13
        bound = rounding * np.abs(expected) + steps * dropped * magnitude
    if not np.all(error <= bound):
        wrong = int(np.sum(~(error <= bound)))
        raise AssertionError(f"{dtype}: {wrong} of {error.size} elements are outside the tolerance")
    return float(error.max(initial=0.0))


def main(xp: Any = np) -> None:
    """Run and check every dtype at extents that are no multiples of the tiles.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (the GPU). cupy has
    no dtype for some: those go as bytes or, bfloat16, as uint16.
    """
    M, N, K = 200, 136, 176
    for dtype in RESULTS:
        A, B = operands(dtype, M, N, K)
        C = np.zeros((M, N), numpy_dtype(RESULTS[dtype][1]))
        arrays = [A, B, C] if xp is np else [xp.asarray(_bits(x)) for x in (A, B, C)]
        matmul(dtype)(*arrays)
        result = C if xp is np else xp.asnumpy(arrays[2]).view(C.dtype)
        print(f"{dtype:14} largest error {check(dtype, A, B, result):.2e}")


def _bits(x: np.ndarray) -> np.ndarray:
    """The same bytes in a dtype that every library has."""
    plain = x.dtype.kind in "iu" or x.dtype.name in ("float16", "float32", "float64")
    return x if plain else x.view(f"u{x.dtype.itemsize}")


if __name__ == "__main__":
    main()
