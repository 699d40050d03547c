"""y = A @ x, written for single threads: 16-byte loads, and partial sums that meet in shared memory.

`tilec run examples/gemv.py` compiles it, runs it and checks it, on a GPU or in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T


@tilec.kernel
def gemv(
    A: T.Tensor(("M", "K"), "float16"),
    X: T.Tensor(("K",), "float16"),
    Y: T.Tensor(("M",), "float32"),
    rows: int = 4,
    lanes: int = 32,
    width: int = 8,
):
    """`lanes` threads share a row, `rows` rows a block; `width` elements are one load."""
    M, K = A.shape
    with T.Kernel(T.ceildiv(M, rows), threads=(lanes, rows)) as block:
        lane, line = T.get_thread_bindings()
        row = block * rows + line
        partial = T.alloc_shared((rows, lanes), "float32")
        a = T.alloc_local((width,), "float16")
        x = T.alloc_local((width,), "float16")
        total = T.alloc_var("float32", 0)
        for step in T.serial(T.ceildiv(K, lanes * width)):
            k = (step * lanes + lane) * width
            for v in T.vectorized(width):
                a[v] = A[row, k + v]
                x[v] = X[k + v]
            for v in T.unroll(width):
                total = total + T.cast(a[v], "float32") * T.cast(x[v], "float32")
        partial[line, lane] = total
        reach = lanes // 2
        while reach:  # in Python, so each halving is a statement of its own
            if lane < reach:
                partial[line, lane] = partial[line, lane] + partial[line, lane + reach]
            reach //= 2
        if lane == 0:
            Y[row] = partial[line, 0]


def reference(A: np.ndarray, X: np.ndarray) -> np.ndarray:
    """In 64-bit floats."""
    return A.astype(np.float64) @ X.astype(np.float64)


def check(A: np.ndarray, X: np.ndarray, Y: np.ndarray) -> float:
    """Compares Y [M] with A [M, K] @ X [K]; the largest error as a share of its bound.

    The bound: K roundings of 32-bit sums of the magnitude |A| @ |X|. AssertionError if it is off.
    """
    bound = A.shape[1] * np.finfo(np.float32).eps * reference(np.abs(A), np.abs(X))
    error = np.abs(Y.astype(np.float64) - reference(A, X))
    assert np.all(error <= bound), f"{np.sum(~(error <= bound))} elements are off"
    return float(np.max(error / np.maximum(bound, np.finfo(np.float64).tiny), initial=0.0))


def main(xp: Any = np) -> None:
    """Runs and checks a product whose extents are no multiples of anything.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (the GPU).
    """
    M, K = 333, 1001
    rng = np.random.default_rng(0)
    A = rng.standard_normal((M, K)).astype(np.float16)
    X = rng.standard_normal(K).astype(np.float16)
    Y = xp.zeros(M, dtype=xp.float32)
    gemv(xp.asarray(A), xp.asarray(X), Y)
    share = check(A, X, Y if xp is np else xp.asnumpy(Y))
    print(f"gemv [{M}, {K}]: {M} elements checked, largest error {share:.0%} of its bound")


if __name__ == "__main__":
    main()
