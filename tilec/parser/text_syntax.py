"""The syntax of IR text: lark's tokens gathered into nodes, its complaints as located errors.

Nodes say what was written and where, no more: names are resolved from the outside in by text_build,
because an op's operands belong to the scope outside its regions.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, cast

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from ..errors import IRError, Loc

MAX_DEPTH = 100
"""How deep regions and bracketed attributes may nest: more is refused, not a crash of the reader.
"""


class GroupNode(NamedTuple):
    """Operands in brackets."""

    atoms: list[Token]


class ArrayNode(NamedTuple):
    """`shared f16[128, 64] #layout`."""

    head: Token
    dtype: Token
    dims: list[Token]
    layout: Token | None


class ChannelNode(NamedTuple):
    """`channel<4> shared f16[128, 64]`."""

    slots: Token
    memory: TypeNode


class ScalarNode(NamedTuple):
    """`scalar f16`: a scalar type as the value of an attribute, where `f16` alone is the dtype."""

    dtype: Token


TypeNode = Token | ArrayNode | ChannelNode


class ListNode(NamedTuple):
    """Values in brackets; `depth` counts the brackets inside it."""

    items: list[ValueNode]
    depth: int


ValueNode = Token | ListNode | ScalarNode | ArrayNode | ChannelNode


class AttributeNode(NamedTuple):
    """`name = value`, or a flag (value None)."""

    name: Token
    value: ValueNode | None


class ParamNode(NamedTuple):
    """`%k: i32`."""

    name: Token
    type: TypeNode


class RegionNode(NamedTuple):
    """`(parameters) { ops }`."""

    params: list[ParamNode]
    ops: list[OpNode]


class OpNode(NamedTuple):
    """One op as it was written."""

    results: Token | None
    name: Token
    items: list[Token | GroupNode]
    attributes: list[AttributeNode]
    regions: list[RegionNode]
    types: list[TypeNode]


class DefinitionNode(NamedTuple):
    """`#alias = kind<fields>`."""

    alias: Token
    kind: Token
    fields: list[AttributeNode]


class ProgramNode(NamedTuple):
    """The whole text."""

    name: Token
    params: list[ParamNode]
    attributes: list[AttributeNode]
    ops: list[OpNode]
    definitions: list[DefinitionNode]


class _Nodes:
    """Called by lark for every rule that it completes, with the children of the rule."""

    def start(self, c: list[Any]) -> ProgramNode:
        return cast(ProgramNode, c[-1])._replace(definitions=c[:-1])

    def definition(self, c: list[Any]) -> DefinitionNode:
        return DefinitionNode(*c)

    def program(self, c: list[Any]) -> ProgramNode:
        return ProgramNode(c[0], c[1] or [], c[2] or [], c[3], [])

    def op(self, c: list[Any]) -> OpNode:
        return OpNode(c[0], c[1], c[2] or [], c[3] or [], c[4], c[5] or [])

    def ops(self, c: list[Any]) -> list[Any]:
        return c

    operands = regions = params = types = ops

    def attributes(self, c: list[Any]) -> list[Any]:
        return [] if c == [None] else c

    dims = attributes

    def group(self, c: list[Any]) -> GroupNode:
        return GroupNode([] if c == [None] else c)

    def region(self, c: list[Any]) -> RegionNode:
        return RegionNode(*c)

    def bare_region(self, c: list[Any]) -> RegionNode:
        return RegionNode([], c[1])

    def param(self, c: list[Any]) -> ParamNode:
        return ParamNode(*c)

    def attribute(self, c: list[Any]) -> AttributeNode:
        return AttributeNode(*c)

    def sequence(self, c: list[Any]) -> ListNode:
        items = [] if c == [None] else c
        return ListNode(
            items, 1 + max((i.depth for i in items if isinstance(i, ListNode)), default=0)
        )

    def scalar(self, c: list[Any]) -> ScalarNode:
        return ScalarNode(*c)

    def array_type(self, c: list[Any]) -> ArrayNode:
        return ArrayNode(*c)

    def channel_type(self, c: list[Any]) -> ChannelNode:
        return ChannelNode(*c)


_WORDS = {
    "RESULTS": "results", "VALUE": "a value", "CONSTANT": "a constant", "NUMBER": "a number",
    "STRING": "a string", "SYMBOL": "a name with @", "ALIAS": "a layout", "ARRAY": "a type",
    "CHANNEL": "a type", "SCALAR": "a type", "TRUE": "'true'", "FALSE": "'false'", "NONE": "'none'",
    "STAR": "'*'", "NAME": "a name", "PROGRAM": "'program'", "LPAR": "'('", "RPAR": "')'",
    "LSQB": "'['", "RSQB": "']'", "LBRACE": "'{'", "RBRACE": "'}'", "COMMA": "','", "COLON": "':'",
    "EQUAL": "'='", "LESSTHAN": "'<'", "MORETHAN": "'>'", "$END": "the end",
}  # fmt: skip


@cache
def _reader() -> Lark:
    grammar = (files(__package__) / "tir.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", transformer=_Nodes(), maybe_placeholders=True)


def read_syntax(text: str, file: str) -> ProgramNode:
    """The nodes of a text. Raises IRError (TLC0280) at the first thing that is out of place."""
    try:
        # The transformer makes a ProgramNode of what lark types as a tree.
        return cast(ProgramNode, cast(object, _reader().parse(text)))
    except UnexpectedInput as error:
        raise _syntax_error(error, text, file) from None


def token_loc(token: Token, file: str) -> Loc:
    """Where a token stands."""
    assert token.line is not None and token.column is not None
    end = token.end_column if token.end_line == token.line else None
    return Loc(file, token.line, token.column - 1, None if end is None else end - 1)


def _syntax_error(error: UnexpectedInput, text: str, file: str) -> IRError:
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        loc = token_loc(error.token, file)
        found = f"{str(error.token)!r}"
        expected = error.expected
    elif isinstance(error, UnexpectedCharacters):
        loc = Loc(file, error.line, error.column - 1, error.column)
        found, expected = f"{error.char!r}", error.allowed or set()
    else:
        lines = text.rstrip().split("\n")
        loc = Loc(file, len(lines), len(lines[-1]), len(lines[-1]) + 1)
        found, expected = "the end of the text", getattr(error, "expected", set())
    words = sorted({_WORDS.get(name, name) for name in expected})
    hint = f"here may stand {_or(words)}" if words else ""
    return IRError("TLC0280", f"{found} is not expected here", loc=loc, hint=hint)


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
