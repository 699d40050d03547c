"""What is a few statements on elements: `T.transpose`, `T.any_of`, `T.all_of`, `T.dp4a`."""

from __future__ import annotations

from typing import Any

from ..errors import LanguageError
from ..ir.core import Value, constant
from ..ir.dtypes import i32
from ..ir.ops.arith import Add, BitAnd, BitOr, Mul
from ..ir.types import Space
from .areas import Area, area_of, times
from .arithmetic import truth
from .buffers import Element
from .memory import alloc_var
from .nests import each_in_parallel
from .operand import convert, value_of, wrap
from .tile import each_in_series
from .trace import Trace, current


def transpose(src: Any, dst: Any) -> None:
    """dst[j, i] = src[i, j] for all elements, converted to dst's dtype; done by the whole block.

    Args:
        src, dst: buffers or regions of them with two dimensions of more than one element.

    Raises:
        LanguageError: shapes that are not each other's transpose.
    """
    trace = current("T.transpose")
    trace.need_tile_level("T.transpose")
    with trace.here():
        source, target = area_of(trace, "T.transpose", src), area_of(trace, "T.transpose", dst)
        for area in (source, target):
            _need_tile("T.transpose", area)
        if len(source.shape) != 2 or source.shape[::-1] != target.shape:
            raise LanguageError(
                "TLC0117",
                f"T.transpose of {times(source.extents or ())} from {source.buffer.label} to "
                f"{times(target.extents or ())} of {target.buffer.label}",
                hint="rows and columns of one are columns and rows of the other",
            )

        def move(indices: tuple[Value, ...]) -> None:
            value = convert(source.load(trace, indices[::-1]), target.buffer.type.dtype)
            target.store(trace, indices, value)

        each_in_parallel(trace, target.shape, move)


def any_of(buffer: Any) -> Any:
    """Whether an element of `buffer` is true (or not 0): of a tensor, of shared or local memory, or of
    a region of one. Each thread that comes looks at all of them.
    """
    return _joined("T.any_of", buffer, BitOr, False)


def all_of(buffer: Any) -> Any:
    """Whether all elements of `buffer` are true (or not 0); else as T.any_of."""
    return _joined("T.all_of", buffer, BitAnd, True)


def _joined(what: str, buffer: Any, join: type[BitOr | BitAnd], first: bool) -> Any:
    trace = current(what)
    trace.need_launch(what)
    with trace.here():
        area = area_of(trace, what, buffer)
        _need_tile(what, area)
        if area.buffer.type.space is Space.FRAGMENT:
            raise LanguageError(
                "TLC0119",
                f"{what} of {area.buffer.label}, a fragment, which is spread over the threads",
                hint="T.reduce_max of 0 and 1 tells whether there is a 1, T.reduce_min whether all are",
            )
        found = alloc_var("bool", first)

        def look(indices: tuple[Value, ...]) -> None:
            element = truth(wrap(trace, area.load(trace, indices)))
            found.store(wrap(trace, trace.pure(join(value_of(found), element))))

        each_in_series(trace, area.shape or (1,), look if area.shape else lambda _: look(()))
        return found.load()


def _need_tile(what: str, area: Area) -> None:
    if area.extents is None:
        raise LanguageError(
            "TLC0117", f"{what} of one element", hint="give a buffer, or a region: A[0:8, :]"
        )


def dp4a(A: Any, B: Any, C: Any) -> None:
    """C += the products of four elements of A and of B, by one thread: C is an element of int32, A and
    B name the first of four 8-bit integers along the last dimension, an element or a whole buffer.
    """
    trace = current("T.dp4a")
    trace.need_launch("T.dp4a")
    with trace.here():
        a, b = _four(trace, A), _four(trace, B)
        total = C if isinstance(C, Element) else area_of(trace, "T.dp4a", C)
        result = Area(total.buffer, total.indices, (1,) * len(total.indices))
        if result.buffer.type.dtype != i32:
            raise LanguageError(
                "TLC0117", f"T.dp4a adds to {result.buffer.label} of {result.buffer.dtype}",
                hint="its sums are int32",
            )  # fmt: skip
        value = result.load(trace, ())
        for number in range(4):
            at = (constant(number, i32),)
            x, y = (convert(side.load(trace, at), i32) for side in (a, b))
            value = trace.pure(Add(value, trace.pure(Mul(x, y))))
        result.store(trace, (), value)


def _four(trace: Trace, x: Any) -> Area:
    area = area_of(trace, "T.dp4a", x)
    dtype = area.buffer.type.dtype
    if not dtype.is_integer or dtype.bits != 8:
        raise LanguageError(
            "TLC0117",
            f"T.dp4a of {area.buffer.label} of {area.buffer.dtype}",
            hint="it multiplies int8 and uint8",
        )
    return Area(area.buffer, area.indices, (1,) * (len(area.indices) - 1) + (4,))
