"""What follows from the address, the shape and the strides of an array, and whether a parameter takes
it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .expressions import evaluate, format_expr, format_shape, names_in
from .limits import check_steps
from .unfit import Unfit

PACKED = ("i4", "u4", "e2m1")
"""Dtypes of which two elements share a byte, along the last dimension."""


class Strided:
    """An array: `pointer` is the address of element 0, `strides` are in bytes."""

    __slots__ = ()
    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        raise NotImplementedError

    @property
    def empty(self) -> bool:
        """Whether there is no element at all."""
        return 0 in self.shape

    @property
    def contiguous(self) -> bool:
        """Whether it is row-major without gaps; extents of 1 may have any stride."""
        step = self.itemsize
        for extent, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if extent > 1 and stride != step:
                return self.empty
            step *= extent
        return True

    @property
    def extent_bytes(self) -> int:
        """Bytes from the first element to past the last, over positive strides."""
        if self.empty:
            return 0
        reach = sum((n - 1) * abs(s) for n, s in zip(self.shape, self.strides, strict=True))
        return reach + self.itemsize

    @property
    def overlaps_itself(self) -> bool:
        """Whether two indices may mean one element: some stride is within the reach of smaller ones."""
        reach = self.itemsize
        for stride, extent in sorted(zip(self.strides, self.shape, strict=True)):
            if extent > 1:
                if stride < reach:
                    return True
                reach += (extent - 1) * stride
        return False


def contiguous_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of a row-major array without gaps."""
    strides: list[int] = []
    step = itemsize
    for extent in reversed(shape):
        strides.append(step)
        step *= max(1, extent)
    return tuple(reversed(strides))


def check_place(param: Any, array: Strided) -> None:
    """Raises Unfit for another number of dimensions, and for an address between two elements."""
    if len(array.shape) != len(param.shape):
        expected = f"{len(param.shape)} dimensions {format_shape(param.shape)}"
        raise Unfit(f"{param.name} has shape {array.shape}, expected {expected}")
    if not array.empty and array.pointer % array.itemsize:
        size = f"no multiple of the {array.itemsize} bytes of its elements"
        raise Unfit(f"{param.name} starts at {array.pointer:#x}, {size}", "pass a copy")


def sizes_of(param: Any, array: Strided) -> list[tuple[Any, int]]:
    """Expressions of a parameter with the sizes that came: extents, then strides in elements."""
    sizes = list(zip(param.shape, array.shape, strict=True))
    if pairs := pairs_of(param):
        sizes[-1] = (pairs, 2 * array.shape[-1])
    if param.strides is not None:
        steps = [stride // array.itemsize for stride in array.strides]
        # The stride of a single element says nothing, and may be anything.
        steps = [
            step if extent > 1 else min(max(0, step), 1 << 30)
            for step, extent in zip(steps, array.shape, strict=True)
        ]
        sizes += zip(param.strides, steps, strict=True)
    return sizes


def pairs_of(param: Any) -> Any:
    """The elements of a row of which two share a byte, as an expression; None where that is not so,
    or their number is that of the bytes."""
    last = param.shape[-1] if param.dtype in PACKED else None
    return last[1] if isinstance(last, (list, tuple)) else None


def check_shape(
    param: Any, array: Strided, names: Mapping[str, Any], origins: Mapping[str, tuple[int, str]]
) -> None:
    """Raises Unfit for another shape or other strides than the parameter's. `origins`: the values of
    symbols, and the parameters that they come from."""
    expected = tuple(evaluate(extent, names) for extent in param.shape)
    for expression in (*param.shape, *(param.strides or ())):
        check_steps(f"an extent of {param.name}", expression, names)
    if (pairs := pairs_of(param)) and (elements := evaluate(pairs, names)) % 2:
        told = f"a row of {param.name} is {elements} elements of {param.dtype}; two share a byte"
        raise Unfit(told, "pass an even number of columns")
    if array.shape != expected:
        used = dict.fromkeys(n for e in param.shape for n in names_in(e) if n in origins)
        others = [(name, *origins[name]) for name in used if origins[name][1] != param.name]
        values = f" = {expected}" if used else ""
        because = ", ".join(f"{name} = {value} from {origin}" for name, value, origin in others)
        told = f"{param.name} has shape {array.shape}, expected {format_shape(param.shape)}{values}"
        raise Unfit(f"{told}, with {because}" if because else told)
    if not array.empty:
        _check_strides(param, array, names)


def _check_strides(param: Any, array: Strided, names: Mapping[str, Any]) -> None:
    has = f"{param.name} has strides of {array.strides} bytes"
    if param.strides is None:
        if not array.contiguous:
            raise Unfit(
                f"{has}, expected row-major without gaps",
                "pass a contiguous copy, or declare the parameter as T.StridedTensor",
            )
        return
    for expression, extent, stride in zip(param.strides, array.shape, array.strides, strict=True):
        if extent > 1 and stride < 0:
            raise Unfit(f"{has}, expected none below 0", "pass a copy")
        wanted = evaluate(expression, names) * array.itemsize
        if extent > 1 and stride != wanted:
            raise Unfit(
                f"{has}, expected {format_expr(expression)} elements = {wanted} bytes where it has "
                f"{stride}"
            )
    if "w" in param.access and array.overlaps_itself:
        raise Unfit(
            f"{has} for shape {array.shape}: its elements may overlap, and the kernel writes it",
            "pass a copy that can be written",
        )
