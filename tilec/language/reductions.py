"""Reductions and scans of tiles along a dimension: `T.reduce_sum`, `T.cumsum`, …"""

from __future__ import annotations

from typing import Any

from ..errors import LanguageError
from ..ir.ops.reduce import KINDS, Reduce, Scan, accumulation_dtype
from ..ir.types import Space
from .areas import area_of
from .buffers import Buffer
from .flags import flag
from .four_bits import check_arithmetic
from .reshape import Reshaped
from .tile import in_fragment
from .trace import current


def reduce(
    buffer: Any,
    out: Any,
    reduce_type: str,
    dim: int = -1,
    clear: bool = True,
    batch: int = 1,
    nan_propagate: bool = False,
) -> None:
    """Joins the elements of `buffer` along `dim`: `out` has that dimension no more, or with extent 1.

    Elements are converted to the dtype of `out` first (to 32 bits where that is narrower, and
    rounded once at the end). Sums of integers wrap. All threads that hold parts of a row hold its
    result.

    Args:
        buffer: a fragment or shared memory, of any rank n >= 1.
        out: a fragment or shared memory, of rank n - 1 (or n, with extent 1 along `dim`).
        reduce_type: "sum", "max", "min", "absmax", "abssum", "bitand", "bitor" or "bitxor".
        dim: the dimension; negative ones count from the end.
        clear: False joins the result with what `out` holds.
        batch: a hint of other compilers; it changes no result.
        nan_propagate: a NaN makes the whole result NaN. Else it gives way to numbers in "max",
            "min" and "absmax", and only a row of NaNs gives NaN.

    Raises:
        LanguageError: other memory, shapes that do not fit, bits of floats.
    """
    what = f"T.reduce_{reduce_type}" if reduce_type in KINDS else "T.reduce"
    trace = current(what)
    trace.need_launch(what)
    trace.need_tile_level(what)
    with trace.here():
        axis, keep = _reduced(what, buffer, out, reduce_type, dim)
        check_arithmetic(what, buffer.type.dtype, out.type.dtype)
        if isinstance(buffer, Reshaped):
            area = area_of(trace, what, buffer)
            buffer = in_fragment(trace, area, tuple(range(buffer.ndim)))
        trace.builder.emit(
            Reduce(
                buffer.handle(),
                (out.handle(),),
                kind=reduce_type,
                dim=axis,
                dtype=accumulation_dtype(out.type.dtype),
                keep=keep,
                clear=flag(what, "clear", clear),
                propagate_nan=flag(what, "nan_propagate", nan_propagate),
            )
        )


def _reduced(what: str, buffer: Any, out: Any, reduce_type: str, dim: int) -> tuple[int, bool]:
    """The dimension that is reduced, and whether `out` keeps it."""
    if reduce_type not in KINDS:
        raise LanguageError(
            "TLC0133",
            f"T.reduce of kind {reduce_type!r}",
            hint="kinds are " + ", ".join(KINDS),
        )
    shape = extents(what, buffer)
    result = extents(what, out)
    axis = dimension(what, buffer, dim)
    reduced = (*shape[:axis], *shape[axis + 1 :])
    kept = (*shape[:axis], 1, *shape[axis + 1 :])
    if result not in (reduced, kept) or not result:
        wanted = f"{list(reduced)} or {list(kept)}" if reduced else f"{list(kept)}"
        raise LanguageError(
            "TLC0133",
            f"{what} of dimension {axis} of {buffer.label} {list(shape)} into {out.label} "
            f"{list(result)}",
            hint=f"its shape must be {wanted}",
        )
    if reduce_type.startswith("bit"):
        for x in (buffer, out):
            if not x.type.dtype.is_integer:
                raise LanguageError(
                    "TLC0133",
                    f"{what} of {x.label}, whose elements are {x.type.dtype}",
                    hint="bits are joined of integers: T.reinterpret gives the bits of a float",
                )
    return axis, result != reduced


def extents(what: str, x: Any) -> tuple[int, ...]:
    """The shape of an argument, which must be a fragment or shared memory, whole."""
    if not isinstance(x, Buffer):
        raise LanguageError(
            "TLC0133",
            f"{what} takes whole fragments and shared memory, not {x!r}",
            hint="the result has a fragment of its own, and a dimension is given by its name: "
            f"{what}(A, out, dim=1)",
        )
    if x.type.space not in (Space.FRAGMENT, Space.SHARED):
        raise LanguageError(
            "TLC0133",
            f"{what} of {x.label} in {x.scope()} memory",
            hint="copy it to a fragment first",
        )
    return tuple(int(n) for n in x.type.shape)


def dimension(what: str, x: Buffer, dim: Any) -> int:
    """A dimension of x, counted from the front."""
    rank = len(x.type.shape)
    if not isinstance(dim, int) or not -rank <= dim < rank:
        raise LanguageError(
            "TLC0133",
            f"{what} of dimension {dim!r} of {x.label}, which has {rank}",
            hint=f"dimensions are 0 to {rank - 1}; -1 is the last",
        )
    return dim % rank


def reduce_sum(buffer: Any, out: Any, dim: int = -1, clear: bool = True, batch: int = 1) -> None:
    """The sum along `dim`; see `T.reduce`."""
    reduce(buffer, out, "sum", dim, clear, batch)


def reduce_max(
    buffer: Any,
    out: Any,
    dim: int = -1,
    clear: bool = True,
    batch: int = 1,
    nan_propagate: bool = False,
) -> None:
    """The largest along `dim`; see `T.reduce`."""
    reduce(buffer, out, "max", dim, clear, batch, nan_propagate)


def reduce_min(
    buffer: Any,
    out: Any,
    dim: int = -1,
    clear: bool = True,
    batch: int = 1,
    nan_propagate: bool = False,
) -> None:
    """The smallest along `dim`; see `T.reduce`."""
    reduce(buffer, out, "min", dim, clear, batch, nan_propagate)


def reduce_absmax(
    buffer: Any,
    out: Any,
    dim: int = -1,
    clear: bool = True,
    batch: int = 1,
    nan_propagate: bool = False,
) -> None:
    """The largest absolute value along `dim`; see `T.reduce`."""
    reduce(buffer, out, "absmax", dim, clear, batch, nan_propagate)


def reduce_abssum(buffer: Any, out: Any, dim: int = -1, clear: bool = True, batch: int = 1) -> None:
    """The sum of absolute values along `dim`; see `T.reduce`."""
    reduce(buffer, out, "abssum", dim, clear, batch)


def reduce_bitand(buffer: Any, out: Any, dim: int = -1, clear: bool = True, batch: int = 1) -> None:
    """The bitwise and along `dim`; see `T.reduce`."""
    reduce(buffer, out, "bitand", dim, clear, batch)


def reduce_bitor(buffer: Any, out: Any, dim: int = -1, clear: bool = True, batch: int = 1) -> None:
    """The bitwise or along `dim`; see `T.reduce`."""
    reduce(buffer, out, "bitor", dim, clear, batch)


def reduce_bitxor(buffer: Any, out: Any, dim: int = -1, clear: bool = True, batch: int = 1) -> None:
    """The bitwise exclusive or along `dim`; see `T.reduce`."""
    reduce(buffer, out, "bitxor", dim, clear, batch)


def cumsum(src: Any, dst: Any = None, dim: int = 0, reverse: bool = False) -> None:
    """Every element of `src` plus all before it along `dim`, or plus all after it (`reverse`).

    Elements are added in the dtype of `dst` (in 32 bits where that is narrower). `src` and `dst`
    are fragments or shared memory of one shape; without `dst` it is done in place.

    Raises:
        LanguageError: other memory, or shapes that differ.
    """
    _scan("T.cumsum", "sum", src, dst, dim, reverse)


def cummax(src: Any, dst: Any = None, dim: int = 0, reverse: bool = False) -> None:
    """The largest of every element of `src` and all before it along `dim`; see `T.cumsum`. A NaN
    gives way to numbers.
    """
    _scan("T.cummax", "max", src, dst, dim, reverse)


def _scan(what: str, kind: str, src: Any, dst: Any, dim: int, reverse: bool) -> None:
    trace = current(what)
    trace.need_launch(what)
    trace.need_tile_level(what)
    with trace.here():
        dst = src if dst is None else dst
        shape, result = extents(what, src), extents(what, dst)
        axis = dimension(what, src, dim)
        if shape != result:
            raise LanguageError(
                "TLC0133",
                f"{what} of {src.label} {list(shape)} into {dst.label} {list(result)}",
                hint="both have the same shape",
            )
        trace.builder.emit(
            Scan(
                src.handle(),
                (dst.handle(),),
                kind=kind,
                dim=axis,
                dtype=accumulation_dtype(dst.type.dtype),
                reverse=flag(what, "reverse", reverse),
            )
        )
