"""`tilec.spec`: an array that is not there, to compile for."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError
from ..ir.dtypes import DType
from .dtypes import element_type, storage_of


@dataclass(frozen=True)
class ArraySpec:
    """Shape, dtype and byte alignment of an array."""

    shape: tuple[int, ...]
    dtype: DType
    align: int = 16


def spec(shape: Any, dtype: object, align: int = 16) -> ArraySpec:
    """What a kernel is compiled for where no array is at hand.

    Args:
        shape: the extents, in elements.
        dtype: of the elements, in any spelling.
        align: bytes that the address is a multiple of.

    Raises:
        ArgumentError: an extent that is no integer of 0 or more, an alignment that is no power of two.
    """
    try:
        dims = tuple(map(operator.index, shape if isinstance(shape, Iterable) else (shape,)))
    except TypeError:
        dims = (-1,)
    if any(n < 0 for n in dims) or align < 1 or align & (align - 1):
        raise ArgumentError(
            "TLC0304",
            f"spec({shape!r}, {dtype!r}, align={align}) is no array",
            hint="extents are numbers, of a symbol any that are as typical as the call's will be",
        )
    return ArraySpec(dims, storage_of(element_type(dtype)), align)
