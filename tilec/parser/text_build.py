"""From the nodes of IR text to a program: names, types, layouts and ops are resolved from the
outside in."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from lark import Token

from ..errors import IRError, Loc, TilecError
from ..ir.attributes import attribute_types, coerce, conforms, describe
from ..ir.core import Block, Level, Op, Program, Value, at, with_results
from ..ir.opaque import OpaqueOp
from ..ir.registry import Registry
from ..ir.types import Type, refines
from .text_syntax import (
    MAX_DEPTH,
    AttributeNode,
    GroupNode,
    OpNode,
    ParamNode,
    ProgramNode,
    RegionNode,
    token_loc,
)
from .text_values import ValueReader

Item = Value | tuple[Value, ...]
_LEVELS = {level.value: level for level in Level}


class ProgramReader:
    """Builds one program. Holds the scope: the values that are visible where it reads."""

    def __init__(self, registry: Registry, file: str) -> None:
        self._registry = registry
        self._file = file
        self._values = ValueReader(file)
        self._scope: dict[str, Value] = {}
        self._gone: set[str] = set()  # names of regions that have ended, for the message
        self._depth = 0

    def program(self, node: ProgramNode) -> Program:
        """The program of a text."""
        if node.word != "program":
            self._fail("TLC0280", f"{str(node.word)!r} is not expected here", node.word,
                       "here may stand 'program'")  # fmt: skip
        for definition in node.definitions:
            self._values.define_layout(definition)
        name = self._values.symbol(node.name)
        level, symbols, multiples = self._header(node.attributes)
        params = self._params(node.params)
        ops = self._ops(node.ops)
        loc = token_loc(node.name, self._file)
        return Program(name, params, Block((), ops), symbols, level, loc, multiples)

    def _fail(self, code: str, message: str, token: Token, hint: str = "") -> NoReturn:
        raise IRError(code, message, loc=token_loc(token, self._file), hint=hint)

    def _header(
        self, nodes: Sequence[AttributeNode]
    ) -> tuple[Level, tuple[str, ...], dict[str, int]]:
        level, symbols, multiples = Level.TILE, tuple[str, ...](), dict[str, int]()
        for node in nodes:
            if node.name == "level":
                word = self._values.word(node.value, node.name)
                if word not in _LEVELS or _LEVELS[word] is Level.ANY:
                    self._fail("TLC0285", f"{word!r} is no level", node.name, "tile or thread")
                level = _LEVELS[word]
            elif node.name == "symbols":
                symbols = self._values.words(node.value, node.name)
            elif node.name == "multiples":
                numbers = self._values.attribute(node)
                if not (
                    isinstance(numbers, tuple)
                    and len(numbers) == len(symbols)
                    and all(type(n) is int and n > 0 for n in numbers)
                ):
                    hint = "a positive number for each symbol, which stand before it"
                    self._fail("TLC0285", "these are no multiples of symbols", node.name, hint)
                multiples = {s: n for s, n in zip(symbols, numbers, strict=True) if n > 1}
            else:
                self._fail("TLC0285", f"a program has no attribute {str(node.name)!r}", node.name,
                           "it has level, symbols and multiples")  # fmt: skip
        return level, symbols, multiples

    # Scope ----------------------------------------------------------------------------------------

    def _define(self, name: str, value: Value, token: Token) -> None:
        if name in self._scope:
            self._fail("TLC0283", f"{name} is defined already", token)
        self._scope[name] = value

    def _value(self, token: Token) -> Value:
        if token.type == "CONSTANT":
            return self._values.constant(token)
        found = self._scope.get(token)
        if found is not None:
            return found
        if token in self._gone:
            self._fail("TLC0282", f"{token} belongs to a region that has ended", token,
                       "a region gives values to the outside by its yield")  # fmt: skip
        close = difflib.get_close_matches(token, self._scope, 1)
        hint = f"there is {close[0]}" if close else ""
        self._fail("TLC0282", f"{token} is not defined here", token, hint)

    def _params(self, nodes: Sequence[ParamNode]) -> tuple[Value, ...]:
        params = []
        for node in nodes:
            value = Value(self._values.type(node.type), _hint(node.name))
            self._define(str(node.name), value, node.name)
            params.append(value)
        return tuple(params)

    @contextmanager
    def _region_scope(self) -> Iterator[None]:
        outer = self._scope
        self._scope = dict(outer)
        self._depth += 1
        yield
        self._gone |= self._scope.keys() - outer.keys()
        self._scope = outer
        self._depth -= 1

    def _region(self, node: RegionNode) -> Block:
        with self._region_scope():
            return Block(self._params(node.params), self._ops(node.ops))

    # Ops ------------------------------------------------------------------------------------------

    def _ops(self, nodes: Sequence[OpNode]) -> tuple[Op, ...]:
        return tuple(map(self._op, nodes))

    def _op(self, node: OpNode) -> Op:
        if self._depth > MAX_DEPTH:
            self._fail("TLC0280", f"regions nest deeper than {MAX_DEPTH}", node.name)
        items = [
            tuple(map(self._value, i.atoms)) if isinstance(i, GroupNode) else self._value(i)
            for i in node.items
        ]
        cls = self._registry.find(node.name) or self._registry.find(
            node.name.removeprefix("tilec.")
        )
        regions = [self._region(r) for r in node.regions]
        types = [self._values.type(t) for t in node.types]
        loc = token_loc(node.name, self._file)
        if cls is None:
            written = {str(a.name): self._values.attribute(a) for a in self._once(node.attributes)}
            with at(loc):
                op: Op = OpaqueOp(str(node.name), items, written, regions, types)
        else:
            op = self._known(cls, node, items, regions, loc)
            self._refine(op, types, node)
        self._name_results(op, node)
        return op

    def _known(
        self, cls: type[Op], node: OpNode, items: list[Item], regions: list[Block], loc: Loc
    ) -> Op:
        fields: dict[str, object] = self._match_operands(cls, node, items)
        names = [name for name, kind in cls.fields if kind == "region"]
        if len(regions) != len(names):
            message = f"{cls.name} has {_count(len(names), 'region')}, not {len(regions)}"
            hint = f"they are: {', '.join(names)}" if names else ""
            self._fail("TLC0284", message, node.name, hint)
        fields.update(zip(names, regions, strict=True))
        fields.update(self._attributes(cls, node))
        try:
            with at(loc), loc:
                return cls.build(fields)
        except TilecError:
            raise
        # An op's own checks may trip over operands that no builder would give it.
        except (
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            AssertionError,
        ) as error:
            raise IRError("TLC0284", f"{cls.name} is malformed: {error}", loc=loc) from error

    def _match_operands(self, cls: type[Op], node: OpNode, items: list[Item]) -> dict[str, object]:
        """Operands and groups by field, in order. Trailing groups may be missing; a group that is
        all may be bare."""
        fields = [(name, kind) for name, kind in cls.fields if kind in ("operand", "operands")]
        if len(fields) == 1 and fields[0][1] == "operands":
            values = [item for item in items if isinstance(item, Value)]
            if len(values) == len(items):
                return {fields[0][0]: tuple(values)}
        found: dict[str, object] = {}
        rest = list(items)
        for name, kind in fields:
            group = kind == "operands"
            if rest and isinstance(rest[0], tuple) is group:
                found[name] = rest.pop(0)
            elif group and (not rest or not isinstance(rest[0], tuple)) and not rest:
                found[name] = ()
            else:
                break
        if len(found) < len(fields) or rest:
            form = ", ".join(f"[{name}]" if kind == "operands" else name for name, kind in fields)
            hint = f"it is {cls.name} {form}" if form else "it has none"
            self._fail("TLC0284", f"these are not the operands of {cls.name}", node.name, hint)
        return found

    def _once(self, nodes: Sequence[AttributeNode]) -> Sequence[AttributeNode]:
        seen: set[str] = set()
        for node in nodes:
            if node.name in seen:
                self._fail("TLC0285", f"{str(node.name)!r} is given twice", node.name)
            seen.add(node.name)
        return nodes

    def _attributes(self, cls: type[Op], node: OpNode) -> dict[str, object]:
        annotations = attribute_types(cls)
        found: dict[str, object] = {}
        for written in self._once(node.attributes):
            name = str(written.name)
            if name not in annotations:
                known = f"it has: {', '.join(annotations)}" if annotations else "it has none"
                self._fail("TLC0285", f"{cls.name} has no attribute {name!r}", written.name, known)
            value = coerce(self._values.attribute(written), annotations[name])
            if not conforms(value, annotations[name]):
                wanted = describe(annotations[name])
                self._fail("TLC0285", f"{name} of {cls.name} is a {wanted}", written.name)
            found[name] = value
        missing = [name for name in annotations if name not in found and name not in cls.defaults]
        if missing:
            self._fail("TLC0285", f"{cls.name} needs the attribute {missing[0]!r}", node.name)
        return found

    def _refine(self, op: Op, types: list[Type], node: OpNode) -> None:
        """Gives the results the written types, which may add a layout to the inferred ones."""
        inferred = [v.type for v in op.results]
        if len(types) != len(inferred) or not all(map(refines, types, inferred)):
            has = ", ".join(map(str, inferred)) or "no result"
            wrote = ", ".join(map(str, types)) or "none"
            self._fail(
                "TLC0286", f"the result type of this {op.name} is {has}, not {wrote}", node.name
            )
        if types != inferred:
            with_results(op, [Value(t) for t in types])

    def _name_results(self, op: Op, node: OpNode) -> None:
        names = [] if node.results is None else node.results[:-1].replace(" ", "").split(",")
        names = [name.strip() for name in names]
        if len(names) != len(op.results):
            token = node.results or node.name
            self._fail(
                "TLC0284",
                f"{op.name} has {_count(len(op.results), 'result')}, not {len(names)}",
                token,
            )
        for name, value in zip(names, op.results, strict=True):
            assert node.results is not None
            value.hint = _hint(name)
            self._define(name, value, node.results)


def _hint(name: str) -> str:
    hint = name.removeprefix("%")
    return "" if hint.isdigit() else hint


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"
