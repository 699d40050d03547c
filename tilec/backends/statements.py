"""Thread-level ops as statements: memory, arithmetic, calls of the prelude. Control flow is in
control_flow.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import IRError
from ..ir.core import Block, Op, Value, constant
from ..ir.ops import arith
from ..ir.ops.control import (
    For,
    HardwareBlock,
    If,
    Role,
    Symbol,
    ThreadId,
    WarpUniform,
    While,
    Yield,
)
from ..ir.ops.memory import Alloc, Atomic, Flatten, Load, Store, memory_type
from ..ir.ops.nvidia import TensorMap
from ..ir.ops.wgmma import WgmmaWait
from ..ir.registry import Registry
from ..ir.types import MemoryType, ScalarType, Space
from . import control_flow
from .dialect import Dialect
from .expressions import TERNARY, Expression, constant_expression, elementwise_expression
from .spelling import find_spelling, spell
from .uses import Uses
from .values import Values, type_text
from .writer import Writer


class BodyEmitter:
    """Prints the body of one launch. Parameters of the kernel are given their names before."""

    def __init__(self, dialect: Dialect, registry: Registry, warp_size: int, uses: Uses) -> None:
        self.dialect = dialect
        self.registry = registry
        self.warp_size = warp_size
        self.uses = uses
        self.writer = Writer(dialect)
        self.values = Values(self.writer, uses)
        self.variables = control_flow.Variables()
        self.launched_threads = 0

    def block(self, block: Block) -> Sequence[Value]:
        """Prints the ops of a block; gives the values that it yields."""
        with self.variables.block(block.params):
            return self.ops(block.ops)

    def ops(self, ops: Sequence[Op]) -> Sequence[Value]:
        """Prints ops in order, roles that stand side by side as one selection; gives what is
        yielded at the end."""
        roles: list[Role] = []
        for op in ops:
            if isinstance(op, Role):
                roles.append(op)
                continue
            if isinstance(op, Yield):
                self._roles(roles)
                return op.values
            self._roles(roles)
            if self.uses.is_live(op):
                with op.loc:
                    self._op(op)
                self.variables.define(op.results)
        self._roles(roles)
        return ()

    def _roles(self, roles: list[Role]) -> None:
        if roles:
            control_flow.emit_roles(self, tuple(roles))
            roles.clear()

    def _op(self, op: Op) -> None:
        match op:
            case Alloc():
                self._alloc(op)
            case Flatten():
                self.values.set(op.result, self.values.get(op.memory))
            case Load():
                self._load(op)
            case Store():
                self._store(op)
            case Atomic():
                self._atomic(op)
            case For():
                control_flow.emit_for(self, op)
            case While():
                control_flow.emit_while(self, op)
            case If():
                control_flow.emit_if(self, op)
            case Symbol() | ThreadId() | TensorMap():
                pass  # parameters and thread ids have their text before the ops that use them
            case HardwareBlock():
                text, hint = (
                    ("block_count<0>()", "blocks") if op.count else ("block_id<0>()", "block")
                )
                self.values.define(op, op.result, (), lambda: Expression(text), hint)
            case arith.Elementwise() if self._is_builtin(op):
                self._elementwise(op)
            case _:
                self._by_spelling(op)

    def _is_builtin(self, op: Op) -> bool:
        """Whether nobody has entered another spelling for its class."""
        return all(
            self.registry.lookup(t, type(op)) is None for t in self.dialect.spellings
        ) and bool(getattr(op, "text", ""))

    # Memory --------------------------------------------------------------------------------------

    def _alloc(self, op: Alloc) -> None:
        type_ = op.type
        if len(type_.shape) > 1 or any(not isinstance(d, int) for d in type_.shape):
            raise IRError(
                "TLC0520",
                f"an alloc of {type_}: at thread level memory is one row of elements",
                loc=op.loc,
            )
        if type_.space is Space.LOCAL:
            self.writer.line(f"{type_text(op.result)} {self.values.name(op.result)};", op)
        elif type_.space is Space.SHARED and len(type_.shape) == 1:
            if op.offset < 0:
                raise IRError("TLC0521", f"shared memory of {type_} has no place yet", loc=op.loc)
            buffer = f"shared_buffer<{type_.dtype}>({op.offset}, {type_.shape[0]})"
            self.writer.line(
                f"{type_text(op.result)} {self.values.name(op.result)} = {buffer};", op
            )
        else:
            raise IRError("TLC0520", f"an alloc of {type_} in a kernel", loc=op.loc)

    def _element(self, memory: Value, indices: tuple[Value, ...], op: Op) -> str:
        """`A[i]`, or the variable that a memory of rank 0 is."""
        type_, name = memory_type(memory), self.values.get(memory).text
        if type_.space is Space.LOCAL and not type_.shape:
            return name
        if len(indices) != 1:
            raise IRError(
                "TLC0520",
                f"{len(indices)} indices into {type_}: at thread level there is one",
                loc=op.loc,
            )
        return f"{name}[{self.values.get(indices[0]).text}]"

    def _load(self, op: Load) -> None:
        operands = (*op.indices, *op.predicate)

        def make() -> Expression:
            element = self._element(op.memory, op.indices, op)
            if not op.predicate:
                return Expression(element, reads=True, place=True)
            dtype = memory_type(op.memory).dtype
            safe = constant_expression(constant(op.safe_value, dtype)).typed(dtype)
            condition = self.values.get(op.predicate[0]).within(TERNARY)
            return Expression(f"{condition} ? {element} : {safe}", TERNARY, reads=True)

        self.values.define(op, op.result, operands, make)

    def _store(self, op: Store) -> None:
        def make() -> str:
            target = self._element(op.memory, op.indices, op)
            guard = f"if ({self.values.get(op.predicate[0]).text}) " if op.predicate else ""
            return f"{guard}{target} = {self.values.get(op.value).text};"

        declared = "" if op.indices or op.predicate else type_text(op.memory)
        self._statement(op, make, declared)

    def _atomic(self, op: Atomic) -> None:
        def call() -> str:
            given = {"value": self.values.typed(op.value)}
            return spell(op.text, op, self.values.text, given)

        def alone() -> str:
            guard = f"if ({self.values.get(op.predicate[0]).text}) " if op.predicate else ""
            return f"{guard}{call()};"

        def fetched() -> Expression:
            if not op.predicate:
                return Expression(call())
            none = constant_expression(constant(0, dtype)).typed(dtype)
            text = self.values.get(op.predicate[0]).within(TERNARY)
            return Expression(f"{text} ? {call()} : {none}", TERNARY)

        dtype = memory_type(op.memory).dtype
        if op.results and self.uses.count(op.result):
            self._result(op, fetched)
        else:
            self._statement(op, alone)

    def _statement(self, op: Op, make: Callable[[], str], declared: str = "") -> None:
        """Prints what `make` gives once the loads that it does not hold have names.

        `declared` is the type of the variable that it assigns, if it does.
        """
        text = self.values.fit(op.inputs, make)
        self.values.take(op.inputs)
        self.values.settle()
        if declared and self.writer.take_line(f"{declared} {text.partition(' = ')[0]};"):
            text = f"{declared} {text}"
        self.writer.line(text, op)

    # Arithmetic and calls ------------------------------------------------------------------------

    def _elementwise(self, op: arith.Elementwise) -> None:
        def make() -> Expression:
            if isinstance(op, (arith.Select, arith.Reinterpret)):
                for value in op.inputs:
                    self.values.text(value)
            return elementwise_expression(op, [self.values.get(v) for v in op.inputs])

        self.values.define(op, op.result, op.inputs, make)

    def _by_spelling(self, op: Op) -> None:
        """An op that is a call: of its own text, or as a registry's table spells it."""
        if op.regions or len(op.results) > 1:
            raise IRError("TLC0522", f"{op.name} is not an op of the thread level", loc=op.loc)
        own = "warp_uniform({x})" if isinstance(op, WarpUniform) else ""
        spelling = own or find_spelling(op, self.registry, self.dialect.spellings)
        if isinstance(op, WgmmaWait) and len(op.registers) > 1:
            for registers in op.registers:  # each its own hold; the first one waits
                self._by_spelling(op.replace(registers=(registers,)))
            return
        if not op.results:
            self._statement(op, lambda: spell(spelling, op, self.values.text) + ";")
            return
        precedence = int(getattr(op, "precedence", arith.CALL))

        def make() -> Expression:
            given = {}
            if precedence < arith.CALL:
                given = {
                    n: self.values.get(getattr(op, n)).within(precedence)
                    for n, k in op.fields
                    if k == "operand"
                }
            return Expression(spell(spelling, op, self.values.typed, given), precedence)

        if op.pure and isinstance(op.result.type, ScalarType) and not isinstance(op, WarpUniform):
            self.values.define(op, op.result, op.inputs, make)
        else:
            self._result(op, make)

    def _result(self, op: Op, make: Callable[[], Expression]) -> None:
        """A call that stands where it is: all threads take part, or it has effects, or gives a
        handle."""
        value = op.result
        self.values.fit(op.inputs, lambda: make().text, 24)
        expression = make()
        self.values.take(op.inputs)
        self.values.settle()
        self.values.set(value, replace(expression, reads=False))
        if not self.uses.count(value):
            self.writer.line(f"{expression.text};", op)
        elif isinstance(value.type, MemoryType) and value.type.space is not Space.GLOBAL:
            raise IRError(
                "TLC0522", f"{op.name} gives a {value.type}, which text cannot declare", loc=op.loc
            )
        else:
            self.values.bind(value, op)
