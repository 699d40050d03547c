"""Dimensions that follow from others: `T.Tensor((M, K // 2), "uint8")`, `"ceildiv(K, 32)"`.

They bind nothing. Where the parameters are known, each becomes a symbol of its own that the program
defines; a call is refused whose array has another extent.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .trace import refuse

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv
}  # fmt: skip
_WORDS = {"+": "plus", "-": "minus", "*": "times", "//": "over"}
_NODES = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//"}


@dataclass(frozen=True)
class Computed:
    """`left` `operator` `right`, each a number, the name of a symbol or another such; a divisor is a
    positive number.
    """

    operator: str
    left: Any
    right: Any

    def __str__(self) -> str:
        inner = (f"({p})" if isinstance(p, Computed) else str(p) for p in (self.left, self.right))
        return f" {self.operator} ".join(inner)

    @property
    def identifier(self) -> str:
        """A name for it: K_over_2."""
        words = re.findall(r"\w+|//|[-+*]", str(self))
        name = "_".join(_WORDS.get(word, word) for word in words)
        return f"x{name}" if name[0].isdigit() else name

    def names(self) -> Iterator[str]:
        """The symbols in it."""
        for part in (self.left, self.right):
            if isinstance(part, Computed):
                yield from part.names()
            elif isinstance(part, str):
                yield part

    def evaluate(self, known: Callable[[str], Any]) -> Any:
        """Its value, a number or a value of the kernel, as the symbols' are."""
        return _OPERATORS[self.operator](*(_value(p, known) for p in (self.left, self.right)))

    def multiple(self, known: Mapping[str, int]) -> int:
        """A number that its value is a multiple of, from such of its symbols."""
        left, right = (_multiple(p, known) for p in (self.left, self.right))
        match self.operator:
            case "*":
                return left * right
            case "//":
                return left // right if left % right == 0 else 1
        return math.gcd(left, right)

    def __add__(self, other: Any) -> Any:
        return combined("+", self, other)

    def __radd__(self, other: Any) -> Any:
        return combined("+", other, self)

    def __sub__(self, other: Any) -> Any:
        return combined("-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return combined("-", other, self)

    def __mul__(self, other: Any) -> Any:
        return combined("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return combined("*", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return combined("//", self, other)


def _value(part: Any, known: Callable[[str], Any]) -> Any:
    if isinstance(part, Computed):
        return part.evaluate(known)
    return known(part) if isinstance(part, str) else part


def _multiple(part: Any, known: Mapping[str, int]) -> int:
    if isinstance(part, Computed):
        return part.multiple(known)
    return known.get(part, 1) if isinstance(part, str) else abs(part) or 1


def combined(operator: str, left: Any, right: Any) -> Any:
    """An extent computed from two, each a number, a symbol, its name or another such extent;
    NotImplemented for anything else. Raises LanguageError for a divisor that is no positive number.
    """
    parts = [_part(side) for side in (left, right)]
    if None in parts:
        return NotImplemented
    if operator == "//" and not (isinstance(parts[1], int) and parts[1] > 0):
        raise refuse(
            "TLC0113",
            f"the dimension {Computed(operator, *parts)} divides by {parts[1]}",
            hint="a divisor is a positive number",
        )
    return Computed(operator, *parts)


def _part(x: Any) -> Any:
    if isinstance(x, bool):
        return None
    if isinstance(x, int | np.integer):
        return int(x)
    return x if isinstance(x, str | Computed) else getattr(x, "name", None)


def rounded_up(x: Any, y: Any) -> Any:
    """ceildiv of an extent by a number."""
    return combined("//", combined("+", x, y - 1), y) if isinstance(y, int) else NotImplemented


def parse_extent(text: str) -> Any:
    """The extent that a text like "K // 2" or "ceildiv(K, 32)" says. Raises LanguageError for a text
    that is none.
    """
    try:
        found = _parsed(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError:
        found = None
    if found is None:
        raise refuse(
            "TLC0113",
            f"{text!r} is no name of a symbol, and no sum, product or quotient of such",
            hint='one for each dimension: "M", "2 * K", "K // 2", "ceildiv(K, 32)"',
        )
    return found


def _parsed(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            return value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _NODES:
            parts = (_parsed(left), _parsed(right))
            return None if None in parts else combined(_NODES[type(op)], *parts)
        case ast.Call(func=ast.Name(id="ceildiv"), args=[x, y], keywords=[]):
            parts = (_parsed(x), _parsed(y))
            return rounded_up(*parts) if None not in parts and isinstance(parts[1], int) else None
    return None
