"""Loops, conditions and roles as C. Values that a loop carries are variables, assigned where its
body ends."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..ir.core import Block, Op, Value, constant_of
from ..ir.ops.control import For, If, Role, ThreadId, While
from .expressions import Expression
from .values import type_text
from .writer import place_of

if TYPE_CHECKING:
    from .statements import BodyEmitter


class Variables:
    """Which values are variables, in which block each was defined, and the last line that a comment
    named."""

    def __init__(self) -> None:
        self._names: dict[Value, str] = {}
        self._blocks: dict[Value, int] = {}
        self._stack = [0]
        self._count = 0
        self.place = ""

    @contextmanager
    def block(self, params: Sequence[Value]) -> Iterator[None]:
        self._count += 1
        self._stack.append(self._count)
        self.define(params)
        place = self.place
        try:
            yield
        finally:
            self._stack.pop()
            self.place = place

    def define(self, values: Sequence[Value]) -> None:
        for value in values:
            self._blocks[value] = self._stack[-1]

    def add(self, value: Value, name: str) -> None:
        self._names[value] = name

    def reusable(self, value: Value) -> str:
        """The variable that holds `value`, where it was defined in this block; else nothing."""
        return self._names.get(value, "") if self._blocks.get(value) == self._stack[-1] else ""


def emit_for(body: BodyEmitter, op: For) -> None:
    """`for (i32 k = start; k < stop; k += step)`, its unrolling stated, the user's line before it;
    `assume(start < stop)` where that is known and neither compiler can tell."""
    values, writer = body.values, body.writer
    names = _carry(body, op, op.inits, op.body.params[1:])
    stop, step = values.atomic(op.stop), values.atomic(op.step)
    start = values.text(op.start)
    open_ = None in (constant_of(op.start), constant_of(op.stop))
    known = f"{values.atomic(op.start)} < {stop}" if op.entered and open_ else ""
    values.take((op.start, op.stop, op.step))
    values.settle()
    _place_comment(body, op)
    if known:
        writer.line(f"assume({known});")
    if op.unroll >= 0:
        writer.line("#pragma unroll" + (f" {op.unroll}" if op.unroll else ""))
    index = op.body.params[0]
    with writer.names.block():
        name = values.name(index, "i")
        update = f"++{name}" if constant_of(op.step) == 1 else f"{name} += {step}"
        with writer.block(
            f"for ({type_text(index)} {name} = {start}; {name} < {stop}; {update})", op
        ):
            _assign(body, names, body.block(op.body))
    _results(body, op, names)


def emit_while(body: BodyEmitter, op: While) -> None:
    """`while (condition)`, or with a flag where the condition takes statements."""
    values, writer = body.values, body.writer
    names = _carry(body, op, op.inits, op.body.params)
    for param, name in zip(op.condition.params, names, strict=True):
        values.set(param, Expression(name))
    values.settle()
    _place_comment(body, op)
    start = len(writer.lines)
    with writer.block("while (true)", op):
        (condition,) = body.block(op.condition)
        text = values.get(condition).text
        values.take((condition,))
        plain = len(writer.lines) == start + 1
        if plain:
            _assign(body, names, body.block(op.body))
        else:
            more = writer.names.new("more", outside=True)
            writer.line(f"{more} = {text};")
            with writer.block(f"if ({more})"):
                _assign(body, names, body.block(op.body))
    indent = writer.lines[start][: -len(writer.lines[start].lstrip())]
    if plain:
        writer.needs.add(text)
        writer.lines[start] = f"{indent}while ({text}) {{"
    else:
        writer.needs.add("bool")
        writer.lines[start : start + 1] = [
            f"{indent}bool {more} = true;",
            f"{indent}while ({more}) {{",
        ]
    _results(body, op, names)


def emit_if(body: BodyEmitter, op: If) -> None:
    """`if`, `else if`, `else`; the results are variables that both sides assign."""
    values, writer = body.values, body.writer
    if not _has_statements(body, op.then) and not _has_statements(body, op.orelse):
        values.take((op.condition,))
        return
    names: list[str] = []
    for result in op.results:
        names.append(values.name(result) if body.uses.count(result) else "")
        if names[-1]:
            writer.line(f"{type_text(result)} {names[-1]};", op)
    condition = values.fit((op.condition,), lambda: values.get(op.condition).text, 8)
    negated = f"!{values.get(op.condition).within(15)}"
    values.take((op.condition,))
    values.settle()
    if not _has_statements(body, op.then) and _has_statements(body, op.orelse):
        with writer.block(f"if ({negated})", op):
            _assign(body, names, body.block(op.orelse))
        return
    with writer.block(f"if ({condition})", op):
        _assign(body, names, body.block(op.then))
    if _has_statements(body, op.orelse):
        with writer.otherwise():
            _assign(body, names, body.block(op.orelse))


def _has_statements(body: BodyEmitter, block: Block) -> bool:
    end = block.terminator
    return bool(end is not None and end.inputs) or any(
        not op.terminator and body.uses.is_live(op) for op in block.ops
    )


def emit_roles(body: BodyEmitter, roles: tuple[Role, ...]) -> None:
    """One selection by the number of the warp, or of the warpgroup, which is uniform over the
    warp."""
    writer = body.writer
    body.values.settle()
    sizes = [n for role in roles for n in (role.first_thread, role.threads)]
    unit = next(n for n in (128, body.warp_size, 1) if all(size % n == 0 for size in sizes))
    number = "thread_id()"
    if unit > 1:
        number = writer.names.new("warpgroup" if unit == 128 else "warp")
        writer.line(f"const i32 {number} = warp_uniform(thread_id() / {unit});", roles[0])
    covered = sum(role.threads for role in roles) >= body.launched_threads > 0
    for i, role in enumerate(roles):
        condition = _role_condition(role, number, unit, body.launched_threads)
        head = "" if covered and 0 < i == len(roles) - 1 else f"if ({condition})"
        label = f"role {role.label}" + (f"   {place_of(role)}" if role.loc.known else "")
        opened = writer.block(head, role, label=label) if i == 0 else writer.otherwise(
            f"else {head}".strip(), label=label
        )  # fmt: skip
        with opened:
            bind_thread_ids(body, role.body.ops, role.first_thread)
            body.block(role.body)


def _role_condition(role: Role, number: str, unit: int, launched: int) -> str:
    first, count = role.first_thread // unit, role.threads // unit
    if count == 1:
        return f"{number} == {first}"
    if first == 0:
        return f"{number} < {count}"
    if role.first_thread + role.threads == launched:
        return f"{number} >= {first}"
    return f"{number} >= {first} && {number} < {first + count}"


def bind_thread_ids(body: BodyEmitter, ops: Sequence[Op], first: int) -> None:
    """Gives the thread ids in `ops` their text: one constant for them all, counting from the role's
    first thread."""
    found = [op for op in _own_ops(ops) if isinstance(op, ThreadId) and body.uses.is_live(op)]
    own = [op for op in found if not op.launched or first == 0]
    for op in found:
        body.values.set(op.result, Expression("thread_id()"))
    if not own:
        return
    uses = sum(body.uses.count(op.result) for op in own)
    expression = Expression("thread_id()")
    if uses > 1 or first:
        name = body.writer.names.new(own[0].result.hint or "t")
        body.writer.line(f"const i32 {name} = thread_id(){f' - {first}' if first else ''};", own[0])
        expression = Expression(name)
    else:
        body.writer.needs.add("thread_id()")
    for op in own:
        body.values.set(op.result, expression)


def _own_ops(ops: Sequence[Op]) -> Iterator[Op]:
    """The ops of a role or launch, those of the roles in it left out."""
    for op in ops:
        yield op
        if not isinstance(op, Role):
            for block in op.regions:
                yield from _own_ops(block.ops)


# What loops carry --------------------------------------------------------------------------------


def _carry(body: BodyEmitter, op: Op, inits: Sequence[Value], params: Sequence[Value]) -> list[str]:
    """Declares the variables of a loop, or goes on with one that nobody else reads any more."""
    names: list[str] = []
    for init, param, result in zip(inits, params, op.results, strict=True):
        name = body.variables.reusable(init) if body.uses.count(init) == 1 else ""
        if not name:
            text = body.values.fit((init,), lambda v=init: body.values.get(v).text, 24)  # type: ignore[misc]
            body.values.take((init,))
            name = body.values.name(param, result.hint)
            body.writer.line(f"{type_text(param)} {name} = {text};", op)
        body.values.set(param, Expression(name))
        body.variables.add(param, name)
        names.append(name)
    return names


def _results(body: BodyEmitter, op: Op, names: Sequence[str]) -> None:
    for result, name in zip(op.results, names, strict=True):
        body.values.set(result, Expression(name))
        body.variables.add(result, name)


def _assign(body: BodyEmitter, names: Sequence[str], yielded: Sequence[Value]) -> None:
    """Assigns all at once: a value that another assignment would overwrite first goes through a
    constant."""
    pending: list[tuple[str, str, str]] = []
    for name, value in zip(names, yielded, strict=True):
        text = body.values.fit((value,), lambda v=value: body.values.get(v).text, 16)  # type: ignore[misc]
        body.values.take((value,))
        if name and text != name:
            pending.append((name, text, type_text(value)))
    while pending:
        free = [p for p in pending if not any(_mentions(q[1], p[0]) for q in pending if q is not p)]
        if free:
            pending.remove(free[0])
            body.writer.line(f"{free[0][0]} = {free[0][1]};")
        else:
            name, text, type_ = pending[0]
            held = body.writer.names.new(f"{name}_next")
            body.writer.line(f"const {type_} {held} = {text};")
            pending[0] = (name, held, type_)


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


# Places in the user's file -----------------------------------------------------------------------


def _place_comment(body: BodyEmitter, op: Op) -> None:
    """The user's file and line, unless the loop around this one has the same."""
    if op.loc.known and place_of(op) != body.variables.place:
        body.variables.place = place_of(op)
        body.writer.comment(body.variables.place)
