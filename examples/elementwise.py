"""Elementwise kernels: an addition with broadcasting, relu, and a chain of functions.

`tilec run examples/elementwise.py` compiles them, runs them and checks them, on a GPU or in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T


@tilec.kernel
def add(
    A: T.Tensor(("M", "N"), "float16"),
    B: T.Tensor(("M", "N"), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
    block_M: int = 4,
    block_N: int = 1024,
    threads: int = 256,
):
    """C = A + B."""
    M, N = C.shape
    with T.Kernel(T.ceildiv(N, block_N), T.ceildiv(M, block_M), threads=threads) as (bx, by):
        for i, j in T.Parallel(block_M, block_N):
            m, n = by * block_M + i, bx * block_N + j
            C[m, n] = A[m, n] + B[m, n]


@tilec.kernel
def add_bias(
    A: T.Tensor(("M", "N"), "float16"),
    bias: T.Tensor(("N",), "float16"),
    scale: T.Tensor(("M", 1), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
    block_M: int = 4,
    block_N: int = 1024,
    threads: int = 256,
):
    """C = relu(scale * A + bias): a column and a row, broadcast."""
    M, N = C.shape
    with T.Kernel(T.ceildiv(N, block_N), T.ceildiv(M, block_M), threads=threads) as (bx, by):
        for i, j in T.Parallel(block_M, block_N):
            m, n = by * block_M + i, bx * block_N + j
            wide = T.cast(scale[m, 0], "float32") * T.cast(A[m, n], "float32")
            C[m, n] = T.max(wide + T.cast(bias[n], "float32"), 0.0)


@tilec.kernel
def gelu_chain(
    X: T.Tensor(("M", "N"), "float16"),
    Y: T.Tensor(("M", "N"), "float16"),
    block_M: int = 4,
    block_N: int = 1024,
    threads: int = 256,
):
    """Y = tanh(gelu(X)), gelu by the error function."""
    M, N = Y.shape
    with T.Kernel(T.ceildiv(N, block_N), T.ceildiv(M, block_M), threads=threads) as (bx, by):
        for i, j in T.Parallel(block_M, block_N):
            m, n = by * block_M + i, bx * block_N + j
            x = T.cast(X[m, n], "float32")
            Y[m, n] = T.tanh(0.5 * x * (1.0 + T.erf(x * 0.70710678)))


def reference_add(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """In 64-bit floats."""
    return A.astype(np.float64) + B


def reference_add_bias(A: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """In 64-bit floats."""
    return np.maximum(scale.astype(np.float64) * A + bias, 0)


def reference_gelu_chain(X: np.ndarray) -> np.ndarray:
    """In 64-bit floats."""
    from math import erf

    wide = X.astype(np.float64)
    return np.tanh(0.5 * wide * (1 + np.vectorize(erf, otypes=[float])(wide / np.sqrt(2))))


def check(found: np.ndarray, exact: np.ndarray) -> None:
    """One rounding to 16 bits, and 8 of 32 on numbers of the size of the inputs."""
    allowed = np.finfo(np.float16).eps * np.abs(exact) + 64 * np.finfo(np.float32).eps
    error = np.abs(found.astype(np.float64) - exact)
    assert np.all(error <= allowed), f"{np.sum(~(error <= allowed))} elements are off"


def main(xp: Any = np) -> None:
    """Runs and checks all three at extents that are no multiples of the tiles.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (the GPU).
    """
    M, N = 33, 1500
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal((M, N)).astype(np.float16) for _ in range(2))
    bias, scale = (rng.standard_normal(s).astype(np.float16) for s in ((N,), (M, 1)))
    for kernel, exact, inputs in (
        (add, reference_add, (A, B)),
        (add_bias, reference_add_bias, (A, bias, scale)),
        (gelu_chain, reference_gelu_chain, (A,)),
    ):
        C = xp.zeros((M, N), dtype=xp.float16)
        kernel(*(xp.asarray(x) for x in inputs), C)
        check(C if xp is np else xp.asnumpy(C), exact(*inputs))
        print(f"{kernel.name} [{M}, {N}]: {C.size} elements checked against 64-bit floats")


if __name__ == "__main__":
    main()
