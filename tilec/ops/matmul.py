"""`tilec.ops.matmul`: arrays in, one launch (two, with K in parts), the product out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

import numpy as np

from ..runtime.arrays import is_array, view_array
from ..runtime.streams import stream_handle
from .calls import Call, Memory
from .forms import SHORT_SUMS, Extra, Form
from .matrices import Matrix, collapse, collide
from .operands import (
    AtTheCall,
    Options,
    as_number,
    check_apart,
    check_place,
    make_result,
    read_dtypes,
    read_epilogue,
    read_extras,
    read_matrix,
    read_shape,
    refuse,
)
from .product import product
from .schedules import Schedule
from .vector_product import vector_product

_PACKED_FROM = 128
"""Rows and columns of a result from which on operands are packed: so often is each element read."""


def matmul(
    a: Any,
    b: Any,
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
    """epilogue(a @ b), by one kernel that is chosen for the shapes.

    Args:
        a: [..., M, K], of f16, bf16, f32, f64, an 8-bit float, int8 or uint8; any strides but
            negative ones. A transposed view is read in place.
        b: [..., K, N], of the same dtype, or another of the 8-bit floats of OCP. Dimensions before
            the last two are batches, and those of a and b are broadcast as NumPy does.
        out: [..., M, N], where the result is written; made in the library of `a` where not given.
        out_dtype: of the result; where neither it nor `out` is given int32 for integers, float16
            for 8-bit floats, else the dtype of `a`. One that cupy lacks is made as uint16 or uint8.
        in_dtype: what the elements of a and b are read as where their library lacks the dtype:
            "bfloat16" in uint16 arrays, 8-bit floats in uint8 arrays, "tfloat32" in float32 arrays.
            One dtype, or a tuple of that of a and that of b.
        epilogue: an ordinary function of expressions of `tilec.language`, called as
            `epilogue(x, i, j, **operands)` with an element of a @ b as summed (float32, int32 or
            float64), its row and its column; of a batched product `epilogue(x, z, i, j, …)`, where
            z counts the matrices of the result in row-major order. What it returns is converted to
            out_dtype as `T.cast` does, and stored; it writes nothing itself. What it reads of Python
            is part of the kernel, another where it changed: numbers that often do are operands.
        exact: of 8-bit floats, whose sums tensor cores of sm_90a keep in about 14 bits: whether the
            sums of 128 products are added in float32, at some speed. Other sums are so anyway.
        schedule: the tile and its threads, instead of those chosen for the shapes.
        stream, device: as of a kernel's call.
        operands: arrays and numbers that the epilogue reads, by the names of its parameters; an
            index outside of an array reads 0. `out` may be one of them: each element of it is
            written after the epilogue has read that element, but in no order with others.

    Returns:
        `out`, or the array that was made.

    Raises:
        ArgumentError: shapes, dtypes or places that do not fit each other, at the call.
        TilecError: what the epilogue says has no meaning, at its place.

    With few tiles, or few in the last wave, K is divided among blocks, whose partial sums are added
    in one order: equal inputs give equal bits, on every call.
    """
    with AtTheCall("matmul", epilogue, operands):
        handle = None if stream is None else stream_handle(stream)
        tiled = is_tiled(schedule)
        options = Options(out, out_dtype, in_dtype, epilogue, exact, operands, handle, tiled)
        if device is not None:
            return check(a, b, options).run(schedule, stream, device)
        beside = tuple(map(as_number, operands.values()))
        return remembered.run(check, (a, b, out), beside, options, schedule, stream)


remembered = Memory()
"""Products of this process."""


def prepare_matmul(a: Any, b: Any, *, schedule: Schedule | None = None, **options: Any) -> Any:
    """A `matmul` of arrays on a GPU with everything computed: a callable without arguments (or with
    `stream`) that launches, does nothing else, and returns the same array at every call. Keep it as
    long as a graph that has captured it, which uses its workspaces. Of NumPy arrays it is a `matmul`
    into that array.

    Takes what `matmul` does but `device`. Raises what it does, and ArgumentError for a batch that
    takes more than one launch.
    """
    given = Options.among(options)
    with AtTheCall("prepare_matmul", given.epilogue, given.operands):
        call = check(a, b, replace(given, tiled=is_tiled(schedule)))
        if len(call.launches) != 1:
            count = len(call.launches)
            raise refuse(f"this product takes {count} launches, and one is prepared", "call matmul")
        (arguments,) = call.launches
        constants = {} if schedule is None else asdict(schedule)
        launch: Callable[[Any], object]
        if call.matrices[0][0].view.device.kind == "cpu":
            launch = partial(call.run, schedule, device=None)
        else:
            launch = call.kernel.compile(*arguments, **constants).prepare(*arguments)

    def again(stream: Any = None) -> Any:
        launch(stream)
        return call.result

    return again


def check(a: Any, b: Any, options: Options) -> Call:
    """The launches of a product. Raises ArgumentError for what does not fit."""
    left, right = read_matrix("a", a), read_matrix("b", b)
    check_place(right.view, left, "b")
    dtypes = read_dtypes(left, right, options.in_dtype)
    shape = read_shape(left, right)
    epilogue = read_epilogue(options, "zij" if len(shape) > 2 else "ij")
    extras, values = read_extras(options.operands, left)
    result, made, out_dtype = make_result(left, shape, dtypes[0], options)
    check_apart(made, a=left.view, b=right.view)
    parts = collapse(shape[:-2], left, right, made) if 0 not in shape else []
    if epilogue is not None and len(parts) > 1:
        raise refuse(
            f"the batch {shape[:-2]} takes {len(parts)} launches, and an epilogue counts in one",
            "pass contiguous copies, or arrays whose batches are not broadcast in part",
        )
    exact = options.exact and dtypes[0] in SHORT_SUMS
    form = Form(dtypes, out_dtype, exact=exact, epilogue=epilogue, extras=extras)
    if any(collide(view_array(value), made.view) for value in values if is_array(value)):
        form = replace(form, in_place=True)
    fixed: tuple[int, ...] = ()
    if epilogue is not None and parts and len(shape) > 2 and not parts[0][2].batch:
        form = replace(form, folded=True, extras=(*extras, Extra("rows", "i32", 0)))
        fixed = (left.rows,)
    plain = len(parts) == 1 and len(left.view.shape) == len(right.view.shape) == 2
    along = _vector_along(*parts[0]) if len(parts) == 1 and not options.tiled else ""
    if along:
        kernel, launches = vector_product(form, along), [_as_vectors(along, *parts[0])]
        turns = _VECTORS_TURNED[along]
    else:
        kernel = product(form_of(form, *parts[0]) if parts else form)
        launches = [laid_out(*part) for part in parts]
        ways = ("T" if m.layout == "columns" else "" for m in (left, right))
        turns = (*enumerate(ways), (2, ""))
    return Call(kernel, launches, result, tuple(values), fixed, turns if plain else None)


_VECTORS_TURNED: dict[str, tuple[tuple[int, str], ...]] = {
    "rows": ((0, ""), (1, "column"), (2, "column")),
    "columns": ((1, "T"), (0, "row"), (2, "row")),
}


def _vector_along(a: Matrix, b: Matrix, c: Matrix) -> str:
    """Whether a product is that of a matrix and a vector, both contiguous along K: then the result
    lies along "rows" or "columns"; else ""."""
    if c.batch or a.columns == 0:
        return ""
    item = a.view.itemsize
    if c.columns == 1 and a.layout == "rows" and (b.view.strides[0] == item or b.rows == 1):
        return "rows"
    if c.rows == 1 and b.layout == "columns" and (a.view.strides[1] == item or a.columns == 1):
        return "columns"
    return ""


def _as_vectors(along: str, a: Matrix, b: Matrix, c: Matrix) -> tuple[Matrix, ...]:
    """The matrix, the vector and the result as the kernel takes them."""
    if along == "columns":
        a, b, c = b.transposed, a.transposed, c.transposed
    line = (b.rows,), (b.view.strides[0],)
    return a, b.reshaped(*line), c.reshaped((c.rows,), (c.view.strides[0],))


def is_tiled(schedule: object) -> bool:
    """Whether the caller says the tile. Raises ArgumentError for what is no schedule."""
    if schedule is None:
        return False
    example = "tilec.ops.Schedule(128, 256, 64, 4, 256)"
    if not isinstance(schedule, Schedule):
        raise refuse(f"schedule is {schedule!r}", example)
    for part in fields(Schedule):
        value, least = getattr(schedule, part.name), 0 if part.name in ("stages", "workers") else 1
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if part.type == "int" and (not whole or value < least):
            expected = f"expected an integer of {least} or more"
            raise refuse(f"the schedule has {part.name}={value!r}, {expected}", example)
    if not isinstance(schedule.swapped, bool):
        raise refuse(f"the schedule has swapped={schedule.swapped!r}, expected a bool", example)
    others = (schedule.split, schedule.cluster_M, schedule.cluster_N)
    if schedule.workers and (others != (1, 1, 1) or schedule.swapped):
        raise refuse(
            f"workers={schedule.workers} with split and clusters of {others}"
            f"{', swapped' * schedule.swapped}",
            "blocks that share the last wave take no parts, and are neither swapped nor in clusters",
        )
    return True


def form_of(form: Form, a: Matrix, b: Matrix, c: Matrix, pack: bool = True) -> Form:
    """The form with where the unit strides are, which operands have a batch, which are packed:
    those without vectors, if any are to be, where each element is used often enough to pay for a
    copy; and whose lines start within a sector, for which TMA takes twice the time (docs/decisions.md)."""
    batched = "".join(name for name, m in zip("ABC", (a, b, c), strict=True) if m.batch)
    vectors = (a.in_vectors, b.in_vectors, c.in_vectors and c.layout == "rows")
    packed = ""
    if pack and min(c.rows, c.columns) >= _PACKED_FROM:
        packed = "".join(name for name, fit in zip("ABC", vectors, strict=True) if not fit)
    read = (("A", a), ("B", b))
    astray = "".join(name for name, m in read if name not in packed and not m.in_sectors)
    layouts = ["rows" if m.layout == "any" and name in packed else m.layout for name, m in read]
    written = "rows" if vectors[2] or "C" in packed else "any"
    form = replace(form, a=layouts[0], b=layouts[1], c=written, batched=batched)
    return replace(form, packed=packed, astray=astray)


def laid_out(*matrices: Matrix) -> tuple[Matrix, ...]:
    """A, B and C as the kernel of their form takes them."""
    *read, written = matrices
    return (*(m.transposed if m.layout == "columns" else m for m in read), written)
