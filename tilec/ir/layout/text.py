"""Layouts as text, and as the plain data that the text format of the IR is made of."""

from __future__ import annotations

import json
import re
from typing import Any

from .register import RegisterLayout
from .shared import SharedLayout
from .swizzle import Swizzle

Ints = tuple[int, ...]
Attribute = Ints | tuple[Ints, ...]
"""Integers, or one tuple of integers a dimension."""

_FIELDS = {
    "register": ("shape", "modes", "thread", "reg"),
    "shared": ("shape", "modes", "strides", "swizzle"),
}
_NESTED = frozenset({"modes", "strides"})
_TEXT = re.compile(r"\s*(\w+)\s*<(.*)>\s*", re.DOTALL)
_FIELD = re.compile(r"(\w+)\s*=\s*(\[[\[\]\d,\s-]*\])\s*(?:,\s*(?=\w)|$)")


def kind_of(layout: RegisterLayout | SharedLayout) -> str:
    """The word before the angle bracket: "register" or "shared"."""
    return "register" if isinstance(layout, RegisterLayout) else "shared"


def to_attributes(layout: RegisterLayout | SharedLayout) -> dict[str, Attribute]:
    """The fields of a layout as nested tuples of ints, in the order in which they are printed."""
    if isinstance(layout, RegisterLayout):
        return {
            "shape": layout.shape,
            "modes": layout.modes,
            "thread": layout.thread,
            "reg": layout.reg,
        }
    swizzle = layout.swizzle
    return {
        "shape": layout.shape,
        "modes": layout.modes,
        "strides": layout.strides,
        "swizzle": (swizzle.bits, swizzle.base, swizzle.shift),
    }


def from_attributes(kind: str, attributes: dict[str, Any]) -> RegisterLayout | SharedLayout:
    """The layout with these fields; nested sequences of ints, as `to_attributes` gives them.

    Raises:
        ValueError: the kind is unknown, a field is missing, unknown or malformed, or the fields
            describe no layout.
    """
    if kind not in _FIELDS:
        raise ValueError(f"no layout is called {kind}: register or shared")
    wanted = _FIELDS[kind]
    if set(attributes) != set(wanted):
        raise ValueError(f"{kind} has the fields {', '.join(wanted)}, not {', '.join(attributes)}")
    flat = {n: _ints(n, attributes[n]) for n in wanted if n not in _NESTED}
    nested = {n: tuple(_ints(n, x) for x in attributes[n]) for n in wanted if n in _NESTED}
    if kind == "register":
        return RegisterLayout(flat["shape"], nested["modes"], flat["thread"], flat["reg"])
    if len(flat["swizzle"]) != 3:
        raise ValueError("swizzle has three numbers: bits, base, shift")
    swizzle = Swizzle(*flat["swizzle"])
    return SharedLayout(flat["shape"], nested["modes"], nested["strides"], swizzle)


def format_layout(layout: RegisterLayout | SharedLayout) -> str:
    """A layout in the form `register<shape=[16, 8], modes=[[2, 8], [4, 2]], thread=…, reg=…>`."""
    fields = to_attributes(layout).items()
    return f"{kind_of(layout)}<{', '.join(f'{n}={json.dumps(value)}' for n, value in fields)}>"


def parse_layout(text: str) -> RegisterLayout | SharedLayout:
    """The layout that `format_layout` printed.

    Raises:
        ValueError: the text has another form, or describes no layout.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a layout: {text!r}")
    attributes: dict[str, Any] = {}
    kind, body = match.groups()
    position = 0
    while position < len(body):
        field = _FIELD.match(body, position)
        if field is None or field[1] in attributes:
            raise ValueError(f"not a field of a layout, or a repeated one: {body[position:]!r}")
        attributes[field[1]] = json.loads(field[2])
        position = field.end()
    return from_attributes(kind, attributes)


def _ints(name: str, value: Any) -> Ints:
    if not isinstance(value, (tuple, list)) or any(type(x) is not int for x in value):
        raise ValueError(f"{name} must be integers in brackets, not {value!r}")
    return tuple(value)
