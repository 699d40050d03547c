"""Kernels between cupy calls: on two streams, in a CUDA graph, on a second device.

`python examples/cupy_pipeline.py` needs cupy and no torch. Outputs come from cupy's memory pool,
launches go to its current stream, and nothing waits on the host. Where there is no GPU it says so
and takes the same steps on NumPy arrays, whose kernels the interpreter runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T

ROWS, COLUMNS, OUTPUTS = 300, 256, 100


@tilec.kernel
def normalise(X: T.Tensor(("M", COLUMNS), "float32"), eps: T.float32, rows: int = 4):
    """Rows divided by the root of the mean of their squares, as a new array of float16."""
    M = X.shape[0]
    Y = T.empty((M, COLUMNS), "float16")
    with T.Kernel(T.ceildiv(M, rows), threads=128) as block:
        x = T.alloc_fragment((rows, COLUMNS), "float32")
        squares = T.alloc_fragment((rows, COLUMNS), "float32")
        total = T.alloc_fragment((rows,), "float32")
        T.copy(X[block * rows, 0], x)
        for i, j in T.Parallel(rows, COLUMNS):
            squares[i, j] = x[i, j] * x[i, j]
        T.reduce_sum(squares, total, dim=1)
        for i, j in T.Parallel(rows, COLUMNS):
            x[i, j] = x[i, j] * T.rsqrt(total[i] / COLUMNS + eps)
        T.copy(x, Y[block * rows, 0])
    return Y


@tilec.kernel
def project(
    X: T.Tensor(("M", "K"), "float16"),
    W: T.StridedTensor(("N", "K"), ("ldw", 1), "float16"),
    Y: T.Tensor(("M", "N"), "float32"),
    tile: int = 64,
):
    """Y = X @ W.T, of a W that may be a slice of a wider array."""
    M, N, K = X.shape[0], W.shape[0], X.shape[1]
    with T.Kernel(T.ceildiv(N, tile), T.ceildiv(M, tile), threads=128) as (bx, by):
        x = T.alloc_shared((tile, 32), "float16")
        w = T.alloc_shared((tile, 32), "float16")
        total = T.alloc_fragment((tile, tile), "float32")
        T.clear(total)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
            T.copy(X[by * tile, k * 32], x)
            T.copy(W[bx * tile, k * 32], w)
            T.gemm(x, w, total, transpose_B=True)
        T.copy(total, Y[by * tile, bx * tile])


def steps(xp: Any, x: Any, weights: Any) -> Any:
    """The pipeline in NumPy (`xp` is numpy) or cupy: a call of the library, a kernel that makes its
    output, another call, a kernel that writes into an array."""
    centred = x - x.mean(axis=1, keepdims=True)
    y = normalise(centred, 1e-6)
    squashed = xp.tanh(y.astype(xp.float32)).astype(xp.float16)
    scores = xp.empty((len(x), len(weights)), xp.float32)
    project(squashed, weights[:, :COLUMNS], scores)
    return scores


def reference(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same in float64, and how far each element may be off: y and its tanh are rounded to
    float16, which the products carry on; that float32 rounds too is small beside it."""
    centred = x.astype(np.float64) - x.mean(axis=1, keepdims=True, dtype=np.float64)
    y = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
    used = weights[:, :COLUMNS].astype(np.float64)
    allowed = 2.0**-11 * (np.abs(y) + np.abs(np.tanh(y)) + 2.0**-8) @ np.abs(used).T
    return np.tanh(y) @ used.T, allowed


def inputs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and weights whose rows are longer than what is used of them."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    return x, random.standard_normal((OUTPUTS, COLUMNS + 8)).astype(np.float16)


def check(what: str, found: np.ndarray, x: np.ndarray, weights: np.ndarray) -> None:
    """Compares with float64."""
    exact, allowed = reference(x, weights)
    error = np.abs(found - exact)
    if not (error <= allowed).all():
        raise SystemExit(f"{what}: off by {(error / allowed).max():.2g} times what is allowed")
    print(f"{what}: right to {error.max():.1e}")


def on_two_streams(cupy: Any) -> None:
    """Two batches side by side; what a kernel returns lies in cupy's pool."""
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    batches = [inputs(seed) for seed in range(2)]
    there = [tuple(map(cupy.asarray, batch)) for batch in batches]
    cupy.cuda.Device().synchronize()
    found = []
    for stream, (x, weights) in zip(streams, there, strict=True):
        with stream:
            found.append(steps(cupy, x, weights))
    for stream in streams:
        stream.synchronize()
    for number, (scores, (x, weights)) in enumerate(zip(found, batches, strict=True)):
        check(f"stream {number}", cupy.asnumpy(scores), x, weights)
    pool = cupy.get_default_memory_pool()
    made = normalise(there[0][0], 1e-6)
    before = pool.used_bytes()
    size = made.nbytes
    del made
    if before - pool.used_bytes() < size:
        raise SystemExit("an output did not go back to cupy's memory pool")
    print("outputs: cupy arrays of its memory pool")


def in_a_graph(cupy: Any) -> None:
    """The second half as a graph: prepared once, captured, launched again on new numbers."""
    stream = cupy.cuda.Stream(non_blocking=True)
    (x, weights), (other, _) = inputs(2), inputs(3)
    with stream:
        there, wide = cupy.asarray(x), cupy.asarray(weights)
        steps(cupy, there, wide)  # the warm-up: compiles, loads, and fills cupy's own caches
        centred = there - there.mean(axis=1, keepdims=True)
        y = normalise(centred, 1e-6)
        squashed = cupy.tanh(y.astype(cupy.float32)).astype(cupy.float16)
        scores = cupy.empty((ROWS, OUTPUTS), cupy.float32)
        run = project.compile(squashed, wide[:, :COLUMNS], scores).prepare(
            squashed, wide[:, :COLUMNS], scores
        )
        stream.synchronize()
        stream.begin_capture()
        run()
        graph = stream.end_capture()
        for batch in (x, other):
            there.set(batch)
            y = normalise(there - there.mean(axis=1, keepdims=True), 1e-6)
            squashed[...] = cupy.tanh(y.astype(cupy.float32))
            graph.launch(stream=stream)
            stream.synchronize()
            check("graph", cupy.asnumpy(scores), batch, weights)


def main() -> None:
    """Takes the steps on every device that is there."""
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except (ImportError, RuntimeError) as reason:  # no cupy, or no driver for it
        print(f"no GPU here ({str(reason).splitlines()[0]}): the same steps on NumPy arrays")
        x, weights = inputs(0)
        check("NumPy", steps(np, x, weights), x, weights)
        return
    on_two_streams(cupy)
    in_a_graph(cupy)
    for device in range(1, min(count, 2)):
        with cupy.cuda.Device(device):
            x, weights = inputs(4)
            found = steps(cupy, cupy.asarray(x), cupy.asarray(weights))
            if found.device.id != device:
                raise SystemExit(f"the result is on device {found.device.id}, not {device}")
            check(f"device {device}", cupy.asnumpy(found), x, weights)


if __name__ == "__main__":
    main()
