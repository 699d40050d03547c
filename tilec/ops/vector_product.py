"""The kernel of a product with one row or one column: a matrix, contiguous along K, times a vector.

Nothing is used twice, so that no matrix instruction helps. A block streams some rows of the matrix
through shared memory, a kilobyte of each at a time and several ahead, and threads multiply and add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, no_type_check

from .. import language as T
from ..ir.dtypes import find_dtype
from ..language.heuristic import heuristic
from ..language.kernel import Kernel, kernel
from ..target import Target
from .forms import Form

_CHUNK_BYTES = 1024  # of a row, in one step
_STAGES = 6
_THREADS = 128
_ROWS = (8, 4, 2, 1)
_BLOCKS = 4  # that are to be resident on a multiprocessor


def _chosen(form: Form, target: Target, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The most rows a block with which every multiprocessor has its blocks."""
    wanted = _BLOCKS * target.multiprocessors
    rows = next((n for n in _ROWS if -(-shapes["W"][0] // n) >= wanted), _ROWS[-1])
    return {"rows": rows, **form.unused()}


@lru_cache(maxsize=256)
def vector_product(form: Form, along: str) -> Kernel:
    """The kernel Y = epilogue(W @ X) of W [L, K], X [K] and Y [L]. `along` says what L is of the
    result: its "rows" (X is B) or its "columns" (X is A)."""
    matrix, vector = form.dtypes if along == "rows" else form.dtypes[::-1]
    chunk = _CHUNK_BYTES // find_dtype(matrix).bytes
    out, sums = form.out, form.sums

    @no_type_check
    def matvec(W, X, Y, X0, X1, X2, X3, X4, X5, X6, X7, rows):
        extras = (X0, X1, X2, X3, X4, X5, X6, X7)[: len(form.extras)]
        lines, K = W.shape
        with T.Kernel(T.ceildiv(lines, rows), threads=_THREADS) as block:
            W_s = T.alloc_shared((rows, chunk), matrix)
            X_s = T.alloc_shared((chunk,), vector)
            parts = T.alloc_fragment((rows, chunk), sums)
            totals = T.alloc_fragment((rows,), sums)
            result = T.alloc_fragment((rows,), out)
            T.clear(parts)
            for step in T.Pipelined(T.ceildiv(K, chunk), num_stages=_STAGES):
                T.copy(W[block * rows, step * chunk], W_s)
                T.copy(X[step * chunk], X_s)
                for i, k in T.Parallel(rows, chunk):
                    parts[i, k] += T.cast(W_s[i, k], sums) * T.cast(X_s[k], sums)
            T.reduce_sum(parts, totals, dim=1)
            for i in T.Parallel(rows):
                line = block * rows + i
                value = totals[i]
                if form.epilogue is not None:
                    index = (line, 0) if along == "rows" else (0, line)
                    index = (0, *index) if form.folded else index
                    value = form.epilogue.apply(value, index, extras)
                result[i] = T.cast(value, out)
            T.copy(result, Y[block * rows])

    matvec.__annotations__["W"] = T.StridedTensor(("L", "K"), ("W_stride", 1), matrix)
    matvec.__annotations__["X"] = T.StridedTensor(("K",), (1,), vector)
    matvec.__annotations__["Y"] = T.StridedTensor(("L",), ("Y_step",), out)
    matvec.__annotations__.update(form.extra_annotations())
    found: Kernel = heuristic(partial(_chosen, form))(kernel(matvec))
    return found
