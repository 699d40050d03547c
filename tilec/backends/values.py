"""The text of every value: names of those that have one, expressions of those that will stand where
they are used.

A pure op, or a load, that is used once where it runs as often as its use waits here as an
expression until its use is printed. A load waits only until something may write memory: then it
gets its name. So the order of accesses is that of the program, and what is named is what is used
twice, or is long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..ir.core import Constant, Op, Value
from ..ir.types import MemoryType, ScalarType, Space
from .expressions import Expression, constant_expression
from .uses import Uses
from .writer import Writer

INLINE_COLUMNS = 56
"""The longest expression that stands within another."""


class Values:
    """Expressions by value, and the statements that give names to them."""

    def __init__(self, writer: Writer, uses: Uses) -> None:
        self._writer = writer
        self._uses = uses
        self._expressions: dict[Value, Expression] = {}
        self._waiting: dict[Value, None] = {}
        self._hints: dict[Value, str] = {}

    def get(self, value: Value) -> Expression:
        """How a value prints here. Does not take it: it waits until its use is printed."""
        return (
            constant_expression(value) if isinstance(value, Constant) else self._expressions[value]
        )

    def text(self, value: Value) -> str:
        """The text of a value that is not a bare element of memory, which preludes take in few
        places."""
        if self.get(value).place:
            self.bind(value)
        return self.get(value).text

    def typed(self, value: Value) -> str:
        """The same, of exactly the value's type in C; handles of memory by name."""
        text = self.text(value)
        return (
            self.get(value).typed(value.type.dtype) if isinstance(value.type, ScalarType) else text
        )

    def atomic(self, value: Value) -> str:
        """The text of a value that is evaluated again and again: a number or a name."""
        known = isinstance(value, Constant) or self.get(value).atomic
        if not known or self.get(value).reads:
            self.bind(value)
        return self.get(value).text

    def set(self, value: Value, expression: Expression) -> None:
        self._expressions[value] = expression

    def suggest(self, value: Value, hint: str) -> None:
        """What to call a value that has no hint of its own."""
        self._hints[value] = hint

    def name(self, value: Value, hint: str = "") -> str:
        """A new name for a value that the caller declares."""
        name = self._writer.names.new(
            value.hint or hint or self._hints.get(value, ""), default_name(value)
        )
        self._expressions[value] = Expression(name)
        return name

    def bind(self, value: Value, op: Op | None = None) -> None:
        """Declares a constant that holds a value, here: where the block ends that it stands in, the
        value is the expression again that it was before.
        """
        expression = self._expressions[value]
        self._waiting.pop(value, None)
        self._writer.names.at_end(lambda: self.set(value, expression))
        name = self.name(value)
        self._writer.line(f"const {type_text(value)} {name} = {expression.text};", op)

    def define(
        self,
        op: Op,
        value: Value,
        operands: Sequence[Value],
        make: Callable[[], Expression],
        hint: str = "",
    ) -> None:
        """Makes `value` an expression of `operands`, to stand at its use, or a constant where it
        cannot wait."""
        if hint:
            self.suggest(value, hint)
        head = len(f"const {type_text(value)} {value.hint or default_name(value)}____ = ;")
        self.fit(operands, lambda: make().text, head)
        expression = make()
        reads = any(self.get(v).reads for v in operands) or expression.reads
        self.take(operands)
        self._expressions[value] = replace(expression, reads=reads)
        if expression.atomic and not reads:
            return
        if not value.hint and expression.trivial and not reads:
            return  # as good as a name: it stands wherever it is used
        if self._uses.is_single(value) and len(expression.text) <= INLINE_COLUMNS:
            self._waiting[value] = None
            self._writer.needs.add(expression.text, op)
        else:
            self.bind(value, op)

    def fit(self, operands: Sequence[Value], make: Callable[[], str], extra: int = 0) -> str:
        """The text that `make` gives, once the longest operands have names where the line were too
        long."""
        while True:
            text = make()
            waiting = [v for v in operands if v in self._waiting]
            if len(text) + extra <= self._writer.room or not waiting:
                return text
            self.bind(max(waiting, key=lambda v: len(self.get(v).text)))

    def take(self, operands: Sequence[Value]) -> None:
        """The operands are printed: they wait no more."""
        for value in operands:
            self._waiting.pop(value, None)

    def settle(self) -> None:
        """Gives names to the loads that wait: what is printed next may write memory."""
        for value in [v for v in self._waiting if self._expressions[v].reads]:
            self.bind(value)


def type_text(value: Value) -> str:
    """The C type of a value."""
    type_ = value.type
    if isinstance(type_, ScalarType):
        return type_.dtype.name
    assert isinstance(type_, MemoryType)
    if type_.space is Space.LOCAL:
        (extent,) = type_.shape or (0,)
        return f"regs<{type_.dtype}, {extent}>" if type_.shape else type_.dtype.name
    view = "buffer" if type_.space is Space.GLOBAL else "shared"
    return f"{view}<{type_.dtype}>"


def default_name(value: Value) -> str:
    """What a value without a hint is called."""
    type_ = value.type
    if isinstance(type_, ScalarType):
        kinds = {"bool": "p", "int": "at", "uint": "at", "float": "x"}
        return kinds.get(
            type_.dtype.kind, "desc" if type_.dtype.name.endswith("descriptor") else "x"
        )
    assert isinstance(type_, MemoryType)
    return {Space.SHARED: "tile", Space.LOCAL: "r", Space.GLOBAL: "view"}.get(type_.space, "x")
