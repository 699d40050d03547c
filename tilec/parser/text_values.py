"""Constants, attribute values, types and layouts of IR text."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import numpy as np
from lark import Token

from ..errors import IRError
from ..ir.core import Constant, constant
from ..ir.dtypes import DTYPES, DType, f32, i32
from ..ir.layout.register import RegisterLayout
from ..ir.layout.shared import SharedLayout
from ..ir.layout.text import from_attributes
from ..ir.types import ChannelType, Dim, InflightType, MemoryType, ScalarType, Space, TileType, Type
from .text_syntax import (
    MAX_DEPTH,
    ArrayNode,
    AttributeNode,
    ChannelNode,
    DefinitionNode,
    ListNode,
    ScalarNode,
    TypeNode,
    ValueNode,
    token_loc,
)

_SPACES = {space.value: space for space in Space}
_INTEGER_DIGITS = 40
"""Longer whole numbers fit no dtype; Python's own conversion refuses them only at thousands of
digits."""


class ValueReader:
    """Reads what needs no scope of values; knows the layouts that the text defined."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._layouts: dict[str, RegisterLayout | SharedLayout] = {}
        self._scalars = {name: ScalarType(dtype) for name, dtype in DTYPES.items()}

    def _fail(self, code: str, message: str, token: Token, hint: str = "") -> NoReturn:
        raise IRError(code, message, loc=token_loc(token, self._file), hint=hint)

    # Words and numbers ----------------------------------------------------------------------------

    def string(self, token: Token, skip: int = 0) -> str:
        """The text between quotes, which begin `skip` characters into the token."""
        try:
            return str(json.loads(token[skip:]))
        except ValueError:
            self._fail("TLC0280", "a string has an escape that JSON does not have", token)

    def symbol(self, token: Token) -> str:
        """The name after the @."""
        return self.string(token, 1) if token.startswith('@"') else str(token[1:])

    def word(self, node: ValueNode | None, where: Token) -> str:
        """A bare name or a string."""
        if isinstance(node, Token) and node.type in ("NAME", "STRING"):
            return self.string(node) if node.type == "STRING" else str(node)
        self._fail("TLC0285", f"{where} is a name", where)

    def words(self, node: ValueNode | None, where: Token) -> tuple[str, ...]:
        """Names in brackets."""
        if not isinstance(node, ListNode):
            self._fail("TLC0285", f"{where} is a list of names", where)
        found = tuple(self.word(item, where) for item in node.items)
        if len(set(found)) < len(found):
            self._fail("TLC0285", f"{where} names one twice", where)
        return found

    def number(self, token: Token, text: str) -> int | float:
        """A number: an int where nothing but digits is written."""
        if text.lstrip("-").isdigit():
            if len(text) > _INTEGER_DIGITS:
                self._fail("TLC0288", "a number is too long", token)
            return int(text)
        return float(text)

    def constant(self, token: Token) -> Constant:
        """A constant: i32 for whole numbers, f32 for others, or what its suffix says."""
        text, _, suffix = token.partition(":")
        dtype = self.dtype(token, suffix) if suffix else None
        if text in ("true", "false"):
            if dtype is not None and dtype.kind != "bool":
                self._fail("TLC0288", f"{text} is no {dtype}", token)
            return constant(text == "true", DTYPES["bool"])
        number = self.number(token, text)
        if dtype is None:
            dtype = i32 if isinstance(number, int) else f32
        if dtype.kind in ("bool", "opaque") or (dtype.is_integer and isinstance(number, float)):
            self._fail("TLC0288", f"{text} is no {dtype}", token)
        with np.errstate(over="ignore"):  # what is too large is refused below
            found = constant(number, dtype)
        if dtype.is_integer and found.value != number:
            self._fail("TLC0288", f"{text} does not fit {dtype}", token)
        if dtype.is_float and abs(found.value) == float("inf") and "inf" not in text:
            self._fail("TLC0288", f"{text} is too large for {dtype}", token)
        return found

    def dtype(self, token: Token, name: str | None = None) -> DType:
        """The dtype of that name."""
        found = DTYPES.get(name or token)
        if found is None:
            self._fail(
                "TLC0286",
                f"{name or str(token)!r} is no element type",
                token,
                f"one of {', '.join(DTYPES)}",
            )
        return found

    # Attribute values -----------------------------------------------------------------------------

    def attribute(self, node: AttributeNode) -> Any:
        """The value of an attribute; a flag is True."""
        if node.value is None:
            return True
        if isinstance(node.value, ListNode) and node.value.depth > MAX_DEPTH:
            self._fail("TLC0280", f"brackets nest deeper than {MAX_DEPTH}", node.name)
        return self._attribute(node.value)

    def _attribute(self, node: ValueNode) -> Any:
        if isinstance(node, ListNode):
            return tuple(map(self._attribute, node.items))
        if isinstance(node, ScalarNode):
            if node.word != "scalar":
                self._fail("TLC0280", f"{str(node.dtype)!r} is not expected here", node.dtype)
            return ScalarType(self.dtype(node.dtype))
        if isinstance(node, (ArrayNode, ChannelNode)):
            return self.type(node)
        match node.type:
            case "CONSTANT":
                return self._plain(node)
            case "STRING":
                return self.string(node)
            case "ALIAS":
                return self._layout(node)
        return None if node == "none" else self.dtype(node)

    def _plain(self, token: Token) -> bool | int | float:
        """A number or bool without a dtype."""
        if token in ("true", "false"):
            return str(token) == "true"
        if ":" in token:
            self._fail("TLC0288", "the numbers of attributes have no dtype", token)
        return self.number(token, str(token))

    # Types and layouts ----------------------------------------------------------------------------

    def type(self, node: TypeNode) -> Type:
        """The type that a node names."""
        if isinstance(node, Token):
            return self._scalars.get(node) or ScalarType(self.dtype(node))
        if isinstance(node, ChannelNode):
            memory = self.type(node.memory)
            if not isinstance(memory, (MemoryType, TileType)):
                self._fail("TLC0286", f"there is no channel of {memory}", node.head)
            slots = node.head.partition("<")[2].rstrip(">").strip()
            return ChannelType(memory, self._extent(node.head, slots))
        return self._array(node)

    def _array(self, node: ArrayNode) -> Type:
        dtype = self.dtype(node.dtype)
        shape = tuple(map(self._dim, node.dims))
        layout = None if node.layout is None else self._layout(node.layout)
        strides = None if node.strides is None else tuple(map(self._dim, node.strides))
        if strides is not None and (node.head != "global" or len(strides) != len(shape)):
            self._fail("TLC0286", "strides are those of global memory, one a dimension", node.head)
        if node.head in _SPACES:
            if isinstance(layout, RegisterLayout):
                self._fail("TLC0287", "a register layout on memory", node.layout or node.head)
            return MemoryType(dtype, shape, _SPACES[node.head], layout, strides)
        extents = tuple(d for d in shape if isinstance(d, int))
        if len(extents) < len(shape):
            self._fail("TLC0286", "the extents of a tile are numbers", node.head)
        if isinstance(layout, SharedLayout):
            self._fail("TLC0287", "a shared layout on a tile", node.layout or node.head)
        tile = TileType(dtype, extents, layout)
        return tile if node.head == "tile" else InflightType(tile)

    def _dim(self, token: Token) -> Dim:
        if token.type == "CONSTANT":
            return self._extent(token, str(token))
        return self.string(token) if token.type == "STRING" else str(token)

    def _extent(self, token: Token, text: str) -> int:
        number = self.number(token, text) if text.isdigit() else None
        if not isinstance(number, int):
            self._fail("TLC0286", f"{text} is no extent", token)
        return number

    def _layout(self, token: Token) -> RegisterLayout | SharedLayout:
        found = self._layouts.get(token)
        if found is None:
            self._fail("TLC0287", f"no layout is called {token}", token)
        return found

    def define_layout(self, node: DefinitionNode) -> None:
        """Takes in `#alias = kind<fields>`."""
        if node.alias in self._layouts:
            self._fail("TLC0287", f"{node.alias} is defined already", node.alias)
        fields = {str(field.name): self.attribute(field) for field in node.fields}
        try:
            self._layouts[node.alias] = from_attributes(str(node.kind), fields)
        except (ValueError, TypeError) as error:
            raise IRError("TLC0287", f"{node.alias} is no layout: {error}",
                          loc=token_loc(node.alias, self._file)) from error  # fmt: skip
