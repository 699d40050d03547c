"""The kernel of a product, in the language that every user writes: one function for all forms.

A form (dtypes, where the unit strides are, batches, the epilogue) is traced once; tiles, threads,
stages and the parts of K are compile-time parameters, which `choose_schedule` fills from the shapes.
With K in parts the partial sums go to a workspace, and a second launch adds them in the order of
the parts: equal inputs give equal bits. Swapped, the transposed product is computed: B's columns are
the rows of the tiles, which are stored transposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from math import gcd
from typing import Any, no_type_check

from .. import language as T
from ..ir.dtypes import find_dtype
from ..language.heuristic import heuristic
from ..language.kernel import Kernel, kernel
from ..locks import one_at_a_time
from ..passes.cluster_gains import LINE_BYTES
from ..target import Target
from .forms import Form
from .schedules import TILE_UNIT, choose_schedule

# The tile of the launch that adds parts: 16 bytes a thread and part. Swapped, its columns are few.
_REDUCE = {False: (4, 128), True: (32, 16)}
_REDUCE_THREADS = 128
_MOVE = (16, 128)  # the tile of a launch that packs an operand
_MOVE_THREADS = 128


def chosen(form: Form, target: Target, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The compile-time parameters of the kernel of a form for arrays of these shapes."""
    return {**asdict(choose_schedule(target, form.problem(shapes))), **form.unused()}


@one_at_a_time
@lru_cache(maxsize=1024)
def product(form: Form) -> Kernel:
    """The kernel C = epilogue(A @ B) of a form; the same object for the same form."""
    in_tiles = {swapped: _in_tiles(form, swapped) for swapped in (False, True)}
    rows_of, move = _rows_of(form), _move(form)

    @no_type_check
    def matmul(A, B, C, X0, X1, X2, X3, X4, X5, X6, X7, block_M, block_N, block_K, stages, threads,
               split, cluster_M, cluster_N, workers, swapped):  # fmt: skip
        extras = (X0, X1, X2, X3, X4, X5, X6, X7)[: len(form.extras)]
        M, N = C.shape[-2], C.shape[-1]
        batch = C.shape[0] if "C" in form.batched else 1
        K = A.shape[-2] if form.a == "columns" else A.shape[-1]
        left, right, result = rows_of("A", A), rows_of("B", B), rows_of("C", C)
        if "A" in form.packed:
            move("A", A, left)
        if "B" in form.packed:
            move("B", B, right)
        if swapped:
            left, right, M, N = right, left, N, M
        in_tiles[swapped](left, right, result, M, N, K, batch, extras, block_M, block_N, block_K,
                          stages, threads, split, cluster_M, cluster_N, workers)  # fmt: skip
        if "C" in form.packed:
            move("C", result, C)

    matmul.__annotations__.update({name: form.annotation(name) for name in "ABC"})
    matmul.__annotations__.update(form.extra_annotations())
    found: Kernel = heuristic(partial(chosen, form))(kernel(matmul))
    return found


def _in_tiles(form: Form, swapped: bool) -> Any:
    """A macro: a launch with a block for each tile, or for each of `split` parts of it along K, and
    a second one that adds those."""
    sum_up, finish = summing(form, swapped), _finish(form, swapped)
    add_parts = _add_parts(form, finish, _REDUCE[swapped])

    @T.macro
    @no_type_check
    def in_tiles(A, B, C, M, N, K, batch, extras, block_M, block_N, block_K, stages, threads, split,
                 cluster_M, cluster_N, workers):  # fmt: skip
        grid = (T.ceildiv(N, block_N), T.ceildiv(M, block_M))
        if split > 1:
            # Rows up to where tiles end: they are stored in vectors, whatever N is.
            parts = T.alloc_global((batch * split, M, _up_to_units(N, block_N)), form.sums)
        if split > 1 or "C" in form.batched:
            grid = (*grid, batch * split)
        cluster = (1, 1) if form.in_place else (cluster_N, cluster_M)
        blocks = {"cluster": cluster, "persistent": True, "stream_k": workers}
        with T.Kernel(*grid, threads=threads, **blocks) as block:
            m, n = block[1] * block_M, block[0] * block_N
            if not (form.in_place or workers):
                m, n = _within(m, block_M, M), _within(n, block_N, N)
            z, part = (block[2] // split, block[2] % split) if len(grid) > 2 else (0, 0)
            sums = T.alloc_fragment((block_M, block_N), form.sums)
            T.clear(sums)
            # The parts take the steps in turn, so that none has more than one beyond another.
            steps = T.ceildiv(T.ceildiv(K, block_K) - part, split)
            sum_up(A, B, sums, block_K, stages, z, m, n, steps, part, split)
            if split > 1:
                T.copy(sums, parts[block[2], m, n])
            else:
                finish(sums, C, extras, z, m, n)
        if split > 1:
            add_parts(parts, C, M, N, extras, split)

    return in_tiles


@no_type_check
def _within(start, size, extent):
    """Where the tile of `size` begins that would begin at `start`: the last one ends with the matrix, or
    less than a unit behind it, for TMA takes long to fill what is outside. Elements that are in two
    tiles get equal bits from both."""
    return T.max(T.min(start, _up_to_units(extent - size, size)), 0)


@no_type_check
def _up_to_units(extent, size):
    """An extent up to the next multiple of the units in which tiles of `size` begin."""
    unit = gcd(size, TILE_UNIT)
    return T.ceildiv(extent, unit) * unit


def _rows_of(form: Form) -> Any:
    """A function: the memory of A, B or C that tiles are copied from and to."""

    def rows_of(name: str, x: Any) -> Any:
        if name not in form.packed:
            return x
        dtype = form.dtype_of(name)
        line = LINE_BYTES // find_dtype(dtype).bytes
        *batch, rows, columns = x.shape
        width = T.ceildiv(columns, line) * line
        return T.alloc_global((*batch, rows, width), dtype)

    return rows_of


def _move(form: Form) -> Any:
    """A macro: a launch that copies all matrices of an operand."""

    @T.macro
    @no_type_check
    def move(name, source, target):
        rows, columns = _MOVE
        grid = (T.ceildiv(target.shape[-1], columns), T.ceildiv(target.shape[-2], rows))
        if name in form.batched:
            grid = (*grid, target.shape[0])
        with T.Kernel(*grid, threads=_MOVE_THREADS) as block:
            z = block[2] if len(grid) > 2 else 0
            for i, j in T.Parallel(rows, columns):
                index = form.at(name, z, block[1] * rows + i, block[0] * columns + j)
                target[index] = source[index]

    return move


def summing(form: Form, swapped: bool = False) -> Any:
    """A macro: adds to `sums` `steps` steps along K, every `stride`-th from the step `first` on, of
    the tile at m, n of product z. Swapped, its A is the form's B as it arrives, and its B the A."""
    names, dtypes = "AB", form.dtypes
    a_columns, b_columns = form.a == "columns", form.b == "columns"
    if swapped:
        names, dtypes = "BA", dtypes[::-1]
        a_columns, b_columns = not b_columns, not a_columns

    @T.macro
    @no_type_check
    def sum_up(A, B, sums, block_K, stages, z, m, n, steps, first, stride):
        block_M, block_N = sums.shape
        A_shape = (block_K, block_M) if a_columns else (block_M, block_K)
        B_shape = (block_N, block_K) if b_columns else (block_K, block_N)
        A_s = T.alloc_shared(A_shape, dtypes[0])
        B_s = T.alloc_shared(B_shape, dtypes[1])
        if form.exact:
            one = T.alloc_fragment(sums.shape, form.sums)
        for step in T.Pipelined(steps, num_stages=stages):
            k = (step * stride + first) * block_K
            T.copy(A[form.at(names[0], z, *((k, m) if a_columns else (m, k)))], A_s)
            T.copy(B[form.at(names[1], z, *((n, k) if b_columns else (k, n)))], B_s)
            if form.exact:
                T.gemm(A_s, B_s, one, a_columns, b_columns, clear_accum=True)
                for i, j in T.Parallel(block_M, block_N):
                    sums[i, j] += one[i, j]
            else:
                T.gemm(A_s, B_s, sums, a_columns, b_columns)

    return sum_up


def _finish(form: Form, swapped: bool = False) -> Any:
    """A macro: stores the tile at m, n of product z, through the epilogue if there is one."""

    @T.macro
    @no_type_check
    def finish(sums, C, extras, z, m, n):
        if form.epilogue is None and not swapped:
            T.copy(sums, C[form.at("C", z, m, n)])
        else:
            result = T.alloc_fragment(sums.shape[::-1] if swapped else sums.shape, form.out)
            for i, j in T.Parallel(*sums.shape):
                index = (n + j, m + i) if swapped else (m + i, n + j)
                if form.folded:
                    index = (index[0] // extras[-1], index[0] % extras[-1], index[1])
                elif "C" in form.batched:
                    index = (z, *index)
                value = sums[i, j]
                if form.epilogue is not None:
                    value = form.epilogue.apply(value, index, extras)
                place = (j, i) if swapped else (i, j)
                result[place] = T.cast(value, form.out)
            T.copy(result, C[form.at("C", z, *((n, m) if swapped else (m, n)))])

    return finish


def _add_parts(form: Form, finish: Any, tile: tuple[int, int]) -> Any:
    """A macro: the launch that adds the parts of every element in their order."""

    @T.macro
    @no_type_check
    def add_parts(parts, C, M, N, extras, split):
        rows, columns = tile
        batch = C.shape[0] if "C" in form.batched else 1
        grid = (T.ceildiv(N, columns), T.ceildiv(M, rows), batch)
        with T.Kernel(*grid, threads=_REDUCE_THREADS) as (bx, by, z):
            sums = T.alloc_fragment(tile, form.sums)
            one = T.alloc_fragment(tile, form.sums)
            T.clear(sums)
            for part in T.unroll(split):
                T.copy(parts[z * split + part, by * rows, bx * columns], one)
                for i, j in T.Parallel(rows, columns):
                    sums[i, j] += one[i, j]
            finish(sums, C, extras, z, by * rows, bx * columns)

    return add_parts
