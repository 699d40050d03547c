"""O = softmax(scale Q K^T) V, forward, without the scores ever leaving the chip.

The scheme is that of FlashAttention-2 (Dao, "FlashAttention-2: Faster Attention with Better
Parallelism and Work Partitioning", 2023): a block of queries passes over the keys once and keeps,
for each query, the largest score so far, the sum of its weights and the unnormalised output; when
the largest score rises, the latter two are scaled down (online softmax, Milakov & Gimelshein 2018).

`tilec run examples/flash_attention.py` compiles it, runs it and checks it, on a GPU or in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

import tilec
import tilec.language as T

LOG2_E = math.log2(math.e)
LOWEST = -1e30  # below every score, and finite: a query that sees no key keeps it, and gets zeros


def choose_tiles(target: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Rows of queries and keys a block, slots of keys and values, and threads.

    Accumulators of `block_M` x `D` and of `block_M` x `block_N` are in registers together, so that
    wide heads take fewer queries; the tiles of queries, keys and values share the fast memory.
    """
    D = shapes["Q"][-1]
    if target.warp_size == 64:  # AMD: 64 KiB of LDS, and loads pass through registers
        rows = 64 if D > 128 else 128
        return {"block_M": rows, "block_N": 32 if D > 64 else 64, "threads": 256}
    if target.warp_roles:  # sm_90a: a warpgroup takes 64 rows, and two small blocks run at a time
        if D <= 64:
            return {"block_M": 64, "block_N": 128, "threads": 128}
        keys = 128 if D <= 128 else 96 if D <= 192 else 64
        return {"block_M": 128, "block_N": keys, "threads": 256}
    if not target.async_copy and D > 64:  # sm_75: keys and values on their way are in registers too
        return {"block_M": 64, "block_N": 16 if D > 128 else 32}
    if D > 128:
        return {"block_M": 64, "block_N": 64 if target.shared_bytes > 150_000 else 32}
    # as many keys as ptxas keeps in 255 registers; for Blackwell it needs some more
    blackwell = target.arch in ("sm_100a", "sm_120a")
    keys = (32 if D > 96 else 48) if blackwell else (48 if D > 96 else 64)
    return {"block_M": 128, "block_N": keys}


@tilec.macro
def mask(scores, start, limit, end, causal):
    """Hides the keys that a query does not see: those from `end` on, and with `causal` those from
    `limit` on, which is one more for each further query. `start` is the key of the first column.
    """
    rows, columns = scores.shape
    if start + columns > limit:  # across the diagonal or the end: the other blocks are whole
        for i, j in T.Parallel(rows, columns):
            last = T.min(limit + i, end) if causal else end
            scores[i, j] = T.if_then_else(start + j < last, scores[i, j], -math.inf)


@tilec.macro
def weigh(scores, out, peak, before, total, scale):
    """Scores become weights relative to the largest score so far; `total`, their sum, and `out`
    are brought to the same scale.
    """
    rows, columns = scores.shape
    T.copy(peak, before)
    T.reduce_max(scores, peak, dim=1, clear=False)
    for i, j in T.Parallel(rows, columns):
        scores[i, j] = T.exp2(scores[i, j] * scale - peak[i] * scale)
    for i in T.Parallel(rows):
        before[i] = T.exp2((before[i] - peak[i]) * scale)
        total[i] = total[i] * before[i]
    T.reduce_sum(scores, total, dim=1, clear=False)
    for i, j in T.Parallel(rows, out.shape[1]):
        out[i, j] = out[i, j] * before[i]


@tilec.heuristic(choose_tiles)
@tilec.kernel
def attention(Q, K, V, Out, causal: bool = False, heads_first: bool = True, dtype: str = "float16",
              block_M: int = 128, block_N: int = 64, stages: int = 2,
              threads: int = 128):  # fmt: skip
    """Q and Out are (B, H, N, D), K and V (B, H, S, D); (B, N, H, D) without `heads_first`.

    With `causal` the last query sees all keys, the one before it all but the last, and so on.
    """
    D = T.const("D")
    Q: T.Tensor(("B", "H", "N", D) if heads_first else ("B", "N", "H", D), dtype)
    K: T.Tensor(("B", "H", "S", D) if heads_first else ("B", "S", "H", D), dtype)
    V: T.Tensor(("B", "H", "S", D) if heads_first else ("B", "S", "H", D), dtype)
    Out: T.Tensor(("B", "H", "N", D) if heads_first else ("B", "N", "H", D), dtype)
    rows = 2 if heads_first else 1  # the dimension of queries, or keys
    B, H, N, S = Q.shape[0], Q.shape[3 - rows], Q.shape[rows], K.shape[rows]
    scale = LOG2_E / math.sqrt(D)  # exp(x / sqrt(D)) == exp2(scale * x)
    by_rows = T.GemmWarpPolicy.FullRow

    with T.Kernel(T.ceildiv(N, block_M), H, B, threads=threads) as (block, h, b):

        def part(X, start, count):
            """`count` rows of this head, from `start` on."""
            area = slice(start, start + count)
            return X[b, h, area, 0:D] if heads_first else X[b, area, h, 0:D]

        Q_s = T.alloc_shared((block_M, D), dtype)
        K_s = T.alloc_shared((block_N, D), dtype)
        V_s = T.alloc_shared((block_N, D), dtype)
        scores = T.alloc_fragment((block_M, block_N), "float32")
        weights = T.alloc_fragment((block_M, block_N), dtype)
        out = T.alloc_fragment((block_M, D), "float32")
        peak = T.alloc_fragment((block_M,), "float32")  # the largest score so far
        before = T.alloc_fragment((block_M,), "float32")  # the same, one block of keys ago
        total = T.alloc_fragment((block_M,), "float32")  # the sum of weights, relative to peak

        # long rows first, so that the short ones fill up the end
        first = (T.ceildiv(N, block_M) - 1 - block if causal else block) * block_M
        limit = first + 1 + S - N if causal else S  # of the keys that the first query sees
        seen = T.max(T.min(S, limit + block_M - 1), 0) if causal else S
        T.copy(part(Q, first, block_M), Q_s)
        T.clear(out)
        T.clear(total)
        T.fill(peak, LOWEST)
        for k in T.Pipelined(T.ceildiv(seen, block_N), num_stages=stages):
            T.copy(part(K, k * block_N, block_N), K_s)
            T.copy(part(V, k * block_N, block_N), V_s)
            T.gemm(Q_s, K_s, scores, transpose_B=True, clear_accum=True, policy=by_rows)
            mask(scores, k * block_N, limit, S, causal)
            weigh(scores, out, peak, before, total, scale)
            T.copy(scores, weights)
            T.gemm(weights, V_s, out, policy=by_rows)
        for i in T.Parallel(block_M):
            total[i] = 1 / T.max(total[i], 1e-30)
        for i, j in T.Parallel(block_M, D):
            out[i, j] = out[i, j] * total[i]
        T.copy(out, part(Out, first, block_M))


def reference(
    Q: np.ndarray, K: np.ndarray, V: np.ndarray, causal: bool = False, heads_first: bool = True
) -> np.ndarray:
    """The same in 64-bit floats, with all scores at once: what the kernel's Out is compared with."""
    order = (0, 1, 2, 3) if heads_first else (0, 2, 1, 3)
    q, k, v = (x.astype(np.float64).transpose(order) for x in (Q, K, V))
    scores = q @ k.swapaxes(2, 3) / math.sqrt(q.shape[3])
    N, S = scores.shape[2:]
    if causal:
        hidden = np.arange(S)[None, :] > np.arange(N)[:, None] + S - N
        scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - np.maximum(scores.max(axis=3, keepdims=True, initial=LOWEST), LOWEST))
    total = np.maximum(weights.sum(axis=3, keepdims=True), 1e-30)
    return (weights / total @ v).transpose(order)


def check(Out: np.ndarray, expected: np.ndarray, V: np.ndarray) -> float:
    """Compare Out with the reference; AssertionError if it is off. Returns the largest error.

    An element is a mean of values that weights of 16 bits make: each weight is off by half a
    rounding of its dtype, the sum of 32 bits by far less, and the result is rounded once more.
    """
    rounding = 2.0**-10 if Out.dtype == np.float16 else 2.0**-7
    bound = rounding * (np.abs(expected) + np.abs(V.astype(np.float64)).max(initial=0.0))
    error = np.abs(Out.astype(np.float64) - expected)
    if not np.all(error <= bound):
        wrong = int(np.sum(~(error <= bound)))
        raise AssertionError(f"{wrong} of {error.size} elements are outside the tolerance")
    return float(error.max(initial=0.0))


def main(xp: Any = np) -> None:
    """Run and check two heads whose lengths are no multiples of the tiles.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (the GPU).
    """
    B, H, N, D = 1, 2, 200, 64
    rng = np.random.default_rng(0)
    Q, K, V = (rng.standard_normal((B, H, N, D)).astype(np.float16) for _ in range(3))
    for causal in (False, True):
        Out = xp.zeros((B, H, N, D), dtype=xp.float16)
        attention(xp.asarray(Q), xp.asarray(K), xp.asarray(V), Out, causal=causal)
        error = check(Out if xp is np else xp.asnumpy(Out), reference(Q, K, V, causal), V)
        print(
            f"attention [{B}, {H}, {N}, {D}]{' causal' if causal else ''}: {Out.size} elements "
            f"checked against 64-bit floats, largest error {error:.2e}"
        )


if __name__ == "__main__":
    main()
