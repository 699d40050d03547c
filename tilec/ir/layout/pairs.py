"""Layouts of elements that are stored two to a byte, and of the bytes."""

from __future__ import annotations

from .register import RegisterLayout


def unpacked_layout(whole: RegisterLayout, parts: int = 2) -> RegisterLayout:
    """The layout of `parts` parts of each element of a row: they are in registers side by side."""
    inner = sum(map(len, whole.modes))
    return RegisterLayout(
        (*whole.shape[:-1], parts * whole.shape[-1]),
        (*whole.modes[:-1], (*whole.modes[-1], parts)),
        whole.thread,
        (*whole.reg, inner),
    )


def packed_layout(elements: RegisterLayout, parts: int = 2) -> RegisterLayout | None:
    """The inverse of unpacked_layout; None where a thread does not hold the parts side by side."""
    inner = sum(map(len, elements.modes)) - 1
    extent = elements.modes[-1][-1] if elements.modes[-1] else 1
    if not elements.reg or elements.reg[-1] != inner or extent % parts:
        return None
    rest = (extent // parts,) if extent > parts else ()
    return RegisterLayout(
        (*elements.shape[:-1], elements.shape[-1] // parts),
        (*elements.modes[:-1], (*elements.modes[-1][:-1], *rest)),
        elements.thread,
        elements.reg if rest else elements.reg[:-1],
    )
