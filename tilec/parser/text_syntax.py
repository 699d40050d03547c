"""The syntax of IR text: lark's tokens gathered into nodes, its complaints as located errors.

Nodes say what was written and where, no more: names are resolved from the outside in by text_build,
because an op's operands belong to the scope outside its regions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, cast

from lark import Lark, Token
from lark.exceptions import UnexpectedToken
from lark.lexer import Lexer

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
    strides: list[Token] | None
    layout: Token | None


class ChannelNode(NamedTuple):
    """`channel<4> shared f16[128, 64]`."""

    head: Token
    memory: TypeNode


class ScalarNode(NamedTuple):
    """`scalar f16`: a scalar type as the value of an attribute, where `f16` alone is the dtype."""

    word: Token
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

    word: Token
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
        return ProgramNode(c[0], c[1], c[2] or [], c[3] or [], c[4], [])

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
        head, dtype, dims, _, strides, layout = c
        return ArrayNode(head, dtype, dims, strides, layout)

    def channel_type(self, c: list[Any]) -> ChannelNode:
        return ChannelNode(*c)


_WORDS = {
    "RESULTS": "results", "VALUE": "a value", "CONSTANT": "a number", "STRING": "a string",
    "SYMBOL": "a name with @", "ALIAS": "a layout", "ARRAY": "a type", "CHANNEL": "a type",
    "STAR": "'*'", "NAME": "a name", "LPAR": "'('", "RPAR": "')'", "LSQB": "'['", "RSQB": "']'",
    "LBRACE": "'{'", "RBRACE": "'}'", "COMMA": "','", "COLON": "':'", "EQUAL": "'='",
    "LESSTHAN": "'<'", "MORETHAN": "'>'", "$END": "the end",
}  # fmt: skip


class _Lexer(Lexer):
    """Tokens by one regular expression made of the grammar's terminals, without context."""

    def __init__(self, conf: Any) -> None:
        terminals = sorted(conf.terminals, key=lambda t: -t.priority)
        choices = "|".join(f"(?P<{t.name}>{t.pattern.to_regexp()})" for t in terminals)
        # What fits no terminal is a token of its own, which no rule takes.
        self._regex = re.compile(rf"(?:\s+|//[^\n]*)*(?:{choices}|(?P<OTHER>\S))")

    def lex(self, text: Any) -> Iterator[Token]:  # type: ignore[override]
        """The tokens of a text, with their places."""
        line, begin = 1, 0
        end_of_line = text.find("\n")
        for match in self._regex.finditer(text):
            kind = match.lastgroup
            assert kind is not None
            start = match.start(kind)
            while -1 < end_of_line < start:
                line, begin = line + 1, end_of_line + 1
                end_of_line = text.find("\n", begin)
            word = match[kind]
            column = start - begin + 1
            yield Token(kind, word, start, line, column, line, column + len(word))


@cache
def _reader() -> Lark:
    grammar = (files(__package__) / "tir.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", lexer=_Lexer, transformer=_Nodes(), maybe_placeholders=True)


def read_syntax(text: str, file: str) -> ProgramNode:
    """The nodes of a text. Raises IRError (TLC0280) at the first thing that is out of place."""
    try:
        # The transformer makes a ProgramNode of what lark types as a tree.
        return cast(ProgramNode, cast(object, _reader().parse(text)))
    except UnexpectedToken as error:
        raise _syntax_error(error, text, file) from None


def token_loc(token: Token, file: str) -> Loc:
    """Where a token stands."""
    assert token.line is not None and token.column is not None and token.end_column is not None
    end = None if "\n" in token else token.end_column - 1
    return Loc(file, token.line, token.column - 1, end)


def _syntax_error(error: UnexpectedToken, text: str, file: str) -> IRError:
    if error.token.type == "$END":
        lines = text.rstrip().split("\n")
        loc = Loc(file, len(lines), len(lines[-1]), len(lines[-1]) + 1)
        found = "the end of the text"
    else:
        loc, found = token_loc(error.token, file), repr(str(error.token))
    words = sorted({_WORDS.get(name, name) for name in error.expected})
    return IRError(
        "TLC0280", f"{found} is not expected here", loc=loc, hint=f"here may stand {_or(words)}"
    )


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
