"""C = A @ W.T with weights in MXFP4 or MXFP6: floats of 4 or 6 bits, and one scale for 32 of them along K; A in 16-bit
floats.

The formats are those of "OCP Microscaling Formats (MX) Specification" 1.0: elements are E2M1, E2M3 or E3M2, a scale s
is a byte and stands for 2^(s - 127). Two elements of 4 bits share a byte, one of 6 has its own. Weights become 16-bit
floats in registers, so that every machine multiplies them; gfx950 can multiply them as they are, by `T.gemm_scaled`,
where A is quantised too.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

import tilec
import tilec.language as T
from tilec.quantize import pack, unpack

GROUP = 32  # elements along K that share a scale
LARGEST_EXPONENTS = {"float4_e2m1fn": 2, "float6_e2m3fn": 2, "float6_e3m2fn": 4}
"""By the dtype of the elements: the largest numbers are 1.5 * 2^2, 1.875 * 2^2 and 1.75 * 2^4."""


@tilec.kernel
def mx_gemm(
    A: T.Tensor(("M", "K"), "float16"),
    W,
    S: T.Tensor(("N", "G"), "uint8"),
    C: T.Tensor(("M", "N"), "float16"),
    elements: str = "float4_e2m1fn",
    block_M: int = 128,
    block_N: int = 128,
    block_K: int = 64,
    stages: int = 3,
    threads: int = 256,
):
    W: T.Tensor(("N", "K"), elements)
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    groups = block_K // GROUP
    with T.Kernel(T.ceildiv(N, block_N), T.ceildiv(M, block_M), threads=threads) as (bx, by):
        A_s = T.alloc_shared((block_M, block_K), "float16")
        stored = T.alloc_shared((block_N, block_K), elements)
        weights = T.alloc_fragment((block_N, block_K), "float16")
        W_s = T.alloc_shared((block_N, block_K), "float16")
        acc = T.alloc_fragment((block_M, block_N), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, block_K), num_stages=stages):
            T.copy(A[by * block_M, k * block_K], A_s)
            T.copy(W[bx * block_N, k * block_K], stored)
            T.copy(stored, weights)
            for i, j in T.Parallel(block_N, block_K):
                # An f32 with this exponent; 2^-127 becomes 0, as all that small does in 16 bits.
                scale = T.cast(S[bx * block_N + i, k * groups + j // GROUP], "uint32") << 23
                weights[i, j] = T.cast(weights[i, j], "float32") * T.reinterpret(scale, "float32")
            T.copy(weights, W_s)
            T.gemm(A_s, W_s, acc, transpose_B=True)
        T.copy(acc, C[by * block_M, bx * block_N])


def quantize(weights: np.ndarray, elements: str = "float4_e2m1fn") -> tuple[np.ndarray, np.ndarray]:
    """Weights [N, K] as elements [N, K], or bytes of two of 4 bits [N, K / 2], K even, and scales [N, ceil(K / 32)], by
    section 6.3 of the specification: the largest element of a group gets the largest exponent.
    """
    dtype = getattr(ml_dtypes, elements)
    limit = float(ml_dtypes.finfo(dtype).max)
    N, K = weights.shape
    G = -(-K // GROUP)
    groups = np.zeros((N, G * GROUP), np.float32)
    groups[:, :K] = weights
    groups = groups.reshape(N, G, GROUP)
    largest = np.abs(groups).max(axis=2, initial=0.0)
    exponent = np.frexp(largest)[1] - 1 - LARGEST_EXPONENTS[elements]  # of 0: any
    scales = np.clip(exponent + 127, 0, 254).astype(np.uint8)
    shared = np.ldexp(np.float32(1.0), scales.astype(np.int32) - 127)[:, :, None]
    rounded = np.clip(groups / shared, -limit, limit).astype(dtype).reshape(N, -1)[:, :K].copy()
    return pack(rounded) if elements == "float4_e2m1fn" else rounded, scales


def dequantize(W: np.ndarray, S: np.ndarray) -> np.ndarray:
    """The weights [N, K] that elements, or bytes of two, and scales stand for, in 64-bit floats."""
    packed = W.dtype == np.int8
    elements = (unpack(W).view(ml_dtypes.float4_e2m1fn) if packed else W).astype(np.float64)
    scales = np.ldexp(1.0, np.repeat(S.astype(np.int32) - 127, GROUP, axis=1))
    return elements * scales[:, : elements.shape[1]]


def reference(A: np.ndarray, W: np.ndarray, S: np.ndarray) -> np.ndarray:
    """The product [M, N] in 64-bit floats, of weights as they are stored."""
    return A.astype(np.float64) @ dequantize(W, S).T


def check(A: np.ndarray, W: np.ndarray, S: np.ndarray, C: np.ndarray) -> float:
    """Compare C with the reference; AssertionError where an element is further off than a rounding of the result
    and K roundings of 32-bit partial sums. Returns the largest error.
    """
    expected = reference(A, W, S)
    magnitude = np.abs(A.astype(np.float64)) @ np.abs(dequantize(W, S)).T
    bound = np.finfo(C.dtype).eps * np.abs(expected) + np.finfo(C.dtype).smallest_subnormal
    bound += A.shape[1] * np.finfo(np.float32).eps * magnitude
    error = np.abs(C.astype(np.float64) - expected)
    assert np.all(error <= bound), f"{int(np.sum(~(error <= bound)))} of {error.size} are wrong"
    return float(error.max(initial=0.0))


def main(xp: Any = np) -> None:
    """Quantise weights, multiply, and check; extents are no multiples of the tiles. `xp` holds the arrays: numpy (the
    interpreter) or cupy (the GPU).
    """
    M, N, K = 200, 300, 328
    rng = np.random.default_rng(0)
    A = rng.standard_normal((M, K)).astype(np.float16)
    dense = rng.standard_normal((N, K)).astype(np.float32) / 16
    for elements in LARGEST_EXPONENTS:
        W, S = quantize(dense, elements)
        C = xp.zeros((M, N), dtype=xp.float16)
        mx_gemm(xp.asarray(A), xp.asarray(W.view(np.int8)), xp.asarray(S), C, elements=elements)
        error = check(A, W, S, C if xp is np else xp.asnumpy(C))
        lost = np.abs(dequantize(W, S) - dense).mean() / np.abs(dense).mean()
        print(
            f"mx_gemm [{M}, {K}] x [{N}, {K}], {elements}: {C.size} elements checked against 64-bit floats, "
            f"largest error {error:.2e}; quantising changed the weights by {lost:.1%}"
        )


if __name__ == "__main__":
    main()
