"""`tilec.ops.grouped_matmul`: consecutive rows by matrices of their own, as of a mixture of experts.

Groups have as many rows as the device's memory says, so that the grid covers the most tiles there
can be: one for each `block_M` rows, and one more a group. A first launch finds each tile's group and
rows; a tile that is one too many has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from typing import Any, no_type_check

from .. import language as T
from ..language.heuristic import heuristic
from ..language.kernel import Kernel, kernel
from ..locks import one_at_a_time
from ..runtime.streams import stream_handle
from ..target import Target
from .calls import Call
from .forms import SHORT_SUMS, Form
from .matmul import form_of, is_tiled, laid_out, matmul, remembered
from .operands import (
    AtTheCall,
    Options,
    as_number,
    check_apart,
    check_place,
    make_result,
    read_array,
    read_dtypes,
    read_epilogue,
    read_extras,
    read_matrix,
    refuse,
)
from .product import summing
from .schedules import Schedule, choose_schedule

_THREADS = 128  # of the launch that finds the tiles
_SHORT = 64
"""Rows of a group that are read in one tile, however few there are on average."""


def grouped_matmul(
    a: Any,
    b: Any,
    offsets: Any = None,
    *,
    out: Any = None,
    out_dtype: object = None,
    in_dtype: object = None,
    epilogue: Callable[..., Any] | None = None,
    exact: bool = False,
    schedule: Schedule | None = None,
    stream: Any = None,
    device: str | None = None,
    **operands: Any,
) -> Any:
    """Rows offsets[g] to offsets[g + 1] of `a`, times b[g], for every g, in one launch.

    Args:
        a: [M, K], of the dtypes and strides that `matmul` takes; or, without offsets, a sequence of
            arrays.
        b: [G, K, N]; or a sequence of as many arrays, of any shapes that fit those of `a`. Its dtype
            is that of `a`, or another of the 8-bit floats of OCP.
        offsets: int32 [G + 1] where `a` is, not falling, from 0 to M. It is read by the device; rows
            of no group are not written. Without it each pair of the sequences is a `matmul`.
        out: [M, N]; or a sequence.
        epilogue: called as `epilogue(x, g, i, j, **operands)`, i being a row of `a`; without offsets
            as of `matmul`.
        out_dtype, in_dtype, exact, schedule, stream, device, operands: as of `matmul`.

    Returns:
        `out`, or the array that was made; without offsets a list of those.

    Raises:
        ArgumentError: what does not fit, at the call.
        TilecError: what the epilogue says has no meaning, at its place.
    """
    with AtTheCall("grouped_matmul", epilogue, operands):
        if offsets is None:
            given = {
                "out_dtype": out_dtype, "in_dtype": in_dtype, "epilogue": epilogue, "exact": exact,
                "schedule": schedule, "stream": stream, "device": device, **operands,
            }  # fmt: skip
            return _each(a, b, out, given)
        handle = None if stream is None else stream_handle(stream)
        options = Options(out, out_dtype, in_dtype, epilogue, exact, operands, handle)
        if is_tiled(schedule) and schedule is not None:
            if (schedule.split, schedule.workers) != (1, 0):
                cut = f"split={schedule.split} and workers={schedule.workers}"
                raise refuse(f"{cut}, and K of groups is not cut", "split=1, workers=0")
        if device is not None:
            return _check(a, b, offsets, options).run(schedule, stream, device)
        beside = (offsets, *map(as_number, operands.values()))
        return remembered.run(_check, (a, b, out), beside, options, schedule, stream)


def _each(a: Any, b: Any, out: Any, given: Mapping[str, Any]) -> list[Any]:
    for name, value in (("a", a), ("b", b), ("out", out)):
        if value is not None and not isinstance(value, list | tuple):
            raise refuse(
                f"{name} is {type(value).__name__}, expected a list of arrays",
                "with offsets a is one array, without them a and b are lists",
            )
    outs = [None] * len(a) if out is None else out
    if not len(a) == len(b) == len(outs):
        raise refuse(f"{len(a)} arrays in a, {len(b)} in b, {len(outs)} in out")
    return [matmul(x, y, out=z, **given) for x, y, z in zip(a, b, outs, strict=True)]


def _check(a: Any, b: Any, offsets: Any, options: Options) -> Call:
    left, right = read_matrix("a", a), read_matrix("b", b)
    check_place(right.view, left, "b")
    dtypes = read_dtypes(left, right, options.in_dtype)
    if len(left.view.shape) != 2 or len(right.view.shape) != 3 or left.columns != right.rows:
        raise refuse(
            f"a has shape {left.view.shape}, b {right.view.shape}, expected (M, K) and (G, K, N)"
        )
    bounds = read_array("offsets", offsets)
    check_place(bounds, left, "offsets")
    wanted = (right.view.shape[0] + 1,)
    if bounds.shape != wanted or bounds.dtype != "i32":
        raise refuse(
            f"offsets has shape {bounds.shape} and dtype {bounds.dtype}, expected {wanted} and i32",
            "the rows before each group, and of all: int32, one more than b has matrices",
        )
    epilogue = read_epilogue(options, "gij")
    extras, values = read_extras(options.operands, left)
    shape = (left.rows, right.columns)
    result, made, out_dtype = make_result(left, shape, dtypes[0], options)
    check_apart(made, a=left.view, b=right.view, offsets=bounds)
    exact = options.exact and dtypes[0] in SHORT_SUMS
    form = Form(dtypes, out_dtype, exact=exact, epilogue=epilogue, extras=extras)
    form = form_of(form, left, right, made, pack=False)
    form = replace(form, c="rows" if made.layout == "rows" else "any")
    empty = 0 in (*shape, right.view.shape[0])
    launches = [] if empty else [laid_out(left, right, made)]
    return Call(_grouped_product(form), launches, result, (offsets, *values))


def _chosen(form: Form, target: Target, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The compile-time parameters for groups of the same number of rows; as if they had 64 where they
    are shorter, for some are longer than others, and a group of several tiles reads its matrix as often."""
    groups = max(1, shapes["B"][0])
    problem = form.problem(shapes)
    rows = max(-(-problem.M // groups), min(problem.M, _SHORT))
    even = replace(problem, M=rows, batch=groups, whole=True)
    return {**asdict(choose_schedule(target, even)), **form.unused()}


@one_at_a_time
@lru_cache(maxsize=256)
def _grouped_product(form: Form) -> Kernel:
    find_tiles, finish = _finding(), _finishing(form)
    sum_up = {swapped: summing(form, swapped) for swapped in (False, True)}

    @no_type_check
    def grouped_matmul(A, B, C, offsets, X0, X1, X2, X3, X4, X5, X6, X7, block_M, block_N, block_K,
                       stages, threads, split, cluster_M, cluster_N, workers, swapped):  # fmt: skip
        extras = (X0, X1, X2, X3, X4, X5, X6, X7)[: len(form.extras)]
        M, N, groups = C.shape[0], C.shape[1], B.shape[0]
        K = A.shape[0] if form.a == "columns" else A.shape[1]
        rows, columns, cluster = block_M, block_N, (cluster_N, cluster_M)
        if swapped:
            rows, columns, cluster = block_N, block_M, (cluster_M, cluster_N)
        tiles = T.ceildiv(M, rows) + groups
        table = T.alloc_global((tiles, 3), "int32")
        find_tiles(offsets, table, groups, M, rows)
        grid = (T.ceildiv(N, columns), tiles)
        blocks = {"cluster": cluster, "persistent": True, "stream_k": False}
        with T.Kernel(*grid, threads=threads, **blocks) as (bx, by):
            # What comes from memory could be negative, for all that TMA knows.
            group, start, stop = table[by, 0], T.max(table[by, 1], 0), table[by, 2]
            n = bx * columns
            sums = T.alloc_fragment((block_M, block_N), form.sums)
            T.clear(sums)
            depth = T.if_then_else(start < stop, K, 0)
            steps = T.ceildiv(depth, block_K)
            tile = (B, A, sums, block_K, stages, group, n, start)
            if not swapped:
                tile = (A, B, sums, block_K, stages, group, start, n)
            sum_up[swapped](*tile, steps, 0, 1)
            finish(sums, C, extras, group, start, stop, n, swapped)

    grouped_matmul.__annotations__.update({name: form.annotation(name) for name in "ABC"})
    grouped_matmul.__annotations__["offsets"] = T.Tensor(("bounds",), "int32")
    grouped_matmul.__annotations__.update(form.extra_annotations())
    found: Kernel = heuristic(partial(_chosen, form))(kernel(grouped_matmul))
    return found


def _finding() -> Any:
    """A macro: the launch that writes each tile's group, its first row and the group's end."""

    @T.macro
    @no_type_check
    def find_tiles(offsets, table, groups, M, rows):
        with T.Kernel(T.ceildiv(table.shape[0], _THREADS), threads=_THREADS) as block:
            tile = block * _THREADS + T.get_thread_binding()
            before = T.alloc_var("int32", 0)
            group = T.alloc_var("int32", 0)
            start = T.alloc_var("int32", 0)
            stop = T.alloc_var("int32", 0)
            for g in T.serial(groups):
                first, last = offsets[g], T.min(offsets[g + 1], M)
                count = T.max(T.ceildiv(last - first, rows), 0)
                if before <= tile and tile < before + count:
                    group = g
                    start = first + (tile - before) * rows
                    stop = last
                before = before + count
            table[tile, 0] = group
            table[tile, 1] = start
            table[tile, 2] = stop

    return find_tiles


def _finishing(form: Form) -> Any:
    """A macro: stores the rows of a tile that are its group's, through the epilogue. Where all are,
    the tile is stored whole."""

    @T.macro
    @no_type_check
    def finish(sums, C, extras, group, start, stop, n, swapped):
        def place(i, j):
            return (start + j, n + i) if swapped else (start + i, n + j)

        def value(i, j):
            found = sums[i, j]
            if form.epilogue is not None:
                found = form.epilogue.apply(found, (group, *place(i, j)), extras)
            return T.cast(found, form.out)

        if start + sums.shape[1 if swapped else 0] <= stop:
            for i, j in T.Parallel(*sums.shape):
                C[place(i, j)] = value(i, j)
        else:
            for i, j in T.Parallel(*sums.shape):
                if place(i, j)[0] < stop:
                    C[place(i, j)] = value(i, j)

    return finish
