"""What the language refuses of 4-bit elements, two of which share a byte in memory: whatever would
write half a byte, and arithmetic on them as they are. (pack_elements refuses what only ranges of
indices tell.)
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import TypeMismatch
from ..ir.core import Value, constant_of
from ..ir.dtypes import PAIRS, DType
from ..ir.types import MemoryType, Space
from .trace import Trace


def _in_pairs(type_: MemoryType) -> bool:
    return type_.dtype in PAIRS and type_.space in (Space.GLOBAL, Space.SHARED)


def check_element_store(trace: Trace, type_: MemoryType) -> None:
    """Raises TypeMismatch for a store of one element where no nest makes whole bytes of it."""
    if _in_pairs(type_) and trace.region.kind != "parallel":
        raise TypeMismatch(
            "TLC0152",
            f"a single element of {type_} is written",
            hint="two elements share a byte: T.copy them from a fragment, or store them in a "
            "T.Parallel nest, at an offset plus its loop variables, without a condition",
        )


def check_region(
    type_: MemoryType, indices: Sequence[Value], dims: Sequence[int], shape: Sequence[int]
) -> None:
    """Raises TypeMismatch for a region of `shape` along `dims` that is known to cut bytes."""
    if not _in_pairs(type_):
        return
    last = len(indices) - 1
    if last not in dims or shape[-1] % 2 or int(constant_of(indices[last]) or 0) % 2:
        raise TypeMismatch(
            "TLC0152",
            f"a region of {type_} that may begin or end within a byte",
            hint="two elements share a byte: make the tile's width even, and its offset along the "
            "last dimension a product with an even number",
        )


def check_arithmetic(what: str, *dtypes: DType) -> None:
    """Raises TypeMismatch for an operation on 4-bit elements as they are."""
    for dtype in dtypes:
        if dtype in PAIRS:
            wide = "float16" if dtype.is_float else "int8, or of a float"
            raise TypeMismatch(
                "TLC0152",
                f"{what} is not defined for elements of {dtype}",
                hint=f"T.copy them to a buffer of {wide}, first",
            )
