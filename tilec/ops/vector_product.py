"""The kernel of a product with one row or one column: a matrix, contiguous along K, times a vector.

Nothing is used twice, so that no matrix instruction helps, nor shared memory. A block multiplies a
row; each thread has several vectors of it on their way, and adds what they give in registers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, no_type_check

from .. import language as T
from ..ir.dtypes import find_dtype
from ..language.heuristic import heuristic
from ..language.kernel import Kernel, kernel
from ..locks import one_at_a_time
from ..target import Target
from .forms import Form

_VECTOR_BYTES = 16  # of sums, whose elements a thread multiplies together
_CHUNK_BYTES = 16  # of the row, that a thread loads in a chunk
_CHUNKS = 2  # in a step without bounds; the rest of a row comes chunk by chunk
_THREADS = (64, 128, 256, 512)
_WANTED = 1024  # threads a multiprocessor that have loads on their way


def _chosen(form: Form, target: Target, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """As few threads a row as fill the machine, or load the row at once: it ends with sums across
    them.
    """
    lines, columns = shapes["W"]
    row = columns * find_dtype(form.dtypes[0]).bytes
    wanted = _WANTED * target.multiprocessors
    fit = (n for n in _THREADS if lines * n >= wanted or n * _CHUNK_BYTES >= row)
    return {"threads": next(fit, _THREADS[-1]), **form.unused()}


@one_at_a_time
@lru_cache(maxsize=256)
def vector_product(form: Form, along: str) -> Kernel:
    """The kernel Y = epilogue(W @ X) of W [L, K], X [K] and Y [L]. `along` says what L is of the
    result: its "rows" (X is B) or its "columns" (X is A)."""
    matrix, vector = form.dtypes if along == "rows" else form.dtypes[::-1]
    out, sums = form.out, form.sums
    together = _VECTOR_BYTES // find_dtype(sums).bytes

    @T.macro
    @no_type_check
    def add_chunk(W, X, parts, line, start):
        groups = parts.shape[0]
        products = T.alloc_fragment((groups, together), sums)
        for i, e in T.Parallel(groups, together):
            k = start + i * together + e
            products[i, e] = T.cast(W[line, k], sums) * T.cast(X[k], sums)
        T.reduce_sum(products, parts, dim=1, clear=False)

    @no_type_check
    def matvec(W, X, Y, X0, X1, X2, X3, X4, X5, X6, X7, threads):
        extras = (X0, X1, X2, X3, X4, X5, X6, X7)[: len(form.extras)]
        lines, K = W.shape
        chunk = threads * _CHUNK_BYTES // find_dtype(matrix).bytes
        with T.Kernel(lines, threads=threads) as line:
            parts = T.alloc_fragment((chunk // together,), sums)
            total = T.alloc_fragment((1,), sums)
            T.clear(parts)
            steps = K // (chunk * _CHUNKS)
            for step in T.serial(steps):
                for c in T.unroll(_CHUNKS):
                    add_chunk(W, X, parts, line, (step * _CHUNKS + c) * chunk)
            rest = steps * (chunk * _CHUNKS)
            for c in T.serial(T.ceildiv(K - rest, chunk)):
                add_chunk(W, X, parts, line, rest + c * chunk)
            T.reduce_sum(parts, total)
            for i in T.Parallel(1):
                value = total[i]
                if form.epilogue is not None:
                    index = (line, 0) if along == "rows" else (0, line)
                    index = (0, *index) if form.folded else index
                    value = form.epilogue.apply(value, index, extras)
                Y[line] = T.cast(value, out)

    matvec.__annotations__["W"] = T.StridedTensor(("L", "K"), ("W_stride", 1), matrix)
    matvec.__annotations__["X"] = T.StridedTensor(("K",), (1,), vector)
    matvec.__annotations__["Y"] = T.StridedTensor(("L",), ("Y_step",), out)
    matvec.__annotations__.update(form.extra_annotations())
    found: Kernel = heuristic(partial(_chosen, form))(kernel(matvec))
    return found
