"""Layouts of elements that are stored two to a byte, and of the bytes."""

from __future__ import annotations

from .register import RegisterLayout


def unpacked_layout(pairs: RegisterLayout) -> RegisterLayout:
    """The layout of elements whose pairs have a layout: the halves in registers side by side."""
    half = sum(map(len, pairs.modes))
    return RegisterLayout(
        (*pairs.shape[:-1], 2 * pairs.shape[-1]),
        (*pairs.modes[:-1], (*pairs.modes[-1], 2)),
        pairs.thread,
        (*pairs.reg, half),
    )


def packed_layout(elements: RegisterLayout) -> RegisterLayout | None:
    """The inverse of unpacked_layout; None where a thread does not hold both halves of a byte."""
    inner = sum(map(len, elements.modes)) - 1
    extent = elements.modes[-1][-1] if elements.modes[-1] else 1
    if not elements.reg or elements.reg[-1] != inner or extent % 2:
        return None
    rest = (extent // 2,) if extent > 2 else ()
    return RegisterLayout(
        (*elements.shape[:-1], elements.shape[-1] // 2),
        (*elements.modes[:-1], (*elements.modes[-1][:-1], *rest)),
        elements.thread,
        elements.reg if rest else elements.reg[:-1],
    )
