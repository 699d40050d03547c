"""Whether a program obeys the rules of the IR: run between passes in tests and by `tilec check`.

The rules: every value is defined once, before its uses, and used only where it is visible; results
have the types that their ops infer (or refine them by a layout); ops stand at their level and in
their place; regions have the parameters and the yield that their op gives a meaning to; attributes
are what the op class says. The error shows the program with the message under the op at fault.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from ..errors import IRError, TilecError
from .attributes import attribute_types, conforms, describe
from .core import Block, Constant, Level, Op, Program, Value
from .opaque import OpaqueOp
from .ops.control import Define, For, Launch, Parallel, Return, Role, Simt, Symbol, While, Yield
from .ops.gemm import Gemm
from .ops.memory import Alloc
from .ops.pipeline import CHANNEL_OPS, Pipeline, Stage, Wait
from .print import print_program
from .region_rules import region_problem
from .registry import Registry
from .types import (
    ChannelType,
    InflightType,
    MemoryType,
    Type,
    refines,
)

_CARRIERS = (Gemm, Wait, Yield, For, While, Pipeline)


def verify(program: Program, registry: Registry, level: Level | None = None) -> None:
    """Checks a program. `level`, where given, is the level that it must be at.

    Raises IRError at the first op at fault: TLC0290 (values), TLC0291 (types), TLC0292 (levels),
    TLC0293 (regions and their yields), TLC0294 (placement), TLC0295 (attributes and operands),
    TLC0296 (unknown ops), TLC0297 (the program's own header).
    """
    _Verifier(program, registry).run(level)


@dataclass(frozen=True)
class _Place:
    """What encloses an op."""

    parent: Op | None = None
    launch: bool = False
    simt: bool = False
    parallel: bool = False
    stage: bool = False
    role: bool = False

    def inside(self, op: Op) -> _Place:
        return replace(
            self,
            parent=op,
            launch=self.launch or isinstance(op, Launch),
            simt=self.simt or isinstance(op, Simt),
            parallel=self.parallel or isinstance(op, Parallel),
            stage=self.stage or isinstance(op, Stage),
            role=self.role or isinstance(op, Role),
        )


class _Verifier:
    def __init__(self, program: Program, registry: Registry) -> None:
        self._program = program
        self._registry = registry
        self._visible: set[Value] = set()
        self._defined: set[Value] = set()

    def run(self, level: Level | None) -> None:
        program = self._program
        if level is not None and program.level is not level:
            found, wanted = program.level.value, level.value
            self._reject("TLC0292", f"the program is at level {found}, not {wanted}")
        if len(set(program.symbols)) < len(program.symbols):
            self._reject("TLC0297", "a symbol is listed twice")
        for name, multiple in program.multiples.items():
            if name not in program.symbols or multiple < 2:
                self._reject("TLC0297", f"{name!r} cannot be a multiple of {multiple}")
        for value in program.params:
            self._define(value, None)
            self._check_type(value.type, None)
        self._block(program.body, _Place())

    def _reject(self, code: str, message: str) -> NoReturn:
        raise IRError(code, f"{message}\n\n{self._text({})}".rstrip(), loc=self._program.loc)

    def _fail(self, op: Op, code: str, message: str, hint: str = "") -> NoReturn:
        shown = self._text({op: f"{code}: {message}"})
        raise IRError(code, f"{message}\n\n{shown}".rstrip(), loc=op.loc, hint=hint)

    def _text(self, notes: dict[Op, str]) -> str:
        try:
            return print_program(self._program, notes=notes)
        except TilecError as error:  # an attribute that has no text, say
            return f"(the program cannot be printed: {error.message})"

    # Values ---------------------------------------------------------------------------------------

    def _define(self, value: Value, op: Op | None) -> None:
        if value in self._defined or isinstance(value, Constant):
            message = f"%{value.hint or '?'} is defined twice"
            if op is None:
                self._reject("TLC0290", message)
            self._fail(op, "TLC0290", message)
        self._defined.add(value)
        self._visible.add(value)

    def _use(self, value: Value, op: Op) -> None:
        if isinstance(value, Constant) or value in self._visible:
            return
        if not isinstance(value, Value):
            self._fail(op, "TLC0295", f"{op.name} has {value!r} for an operand")
        name = f"%{value.hint or '?'}: {value.type}"
        if value in self._defined:
            self._fail(op, "TLC0290", f"{name} is used outside of the region that defines it")
        self._fail(op, "TLC0290", f"{name} is used before it is defined")

    def _check_type(self, type_: Type, op: Op | None) -> None:
        """Extents must be sizes, or symbols of the program."""
        if isinstance(type_, ChannelType):
            type_ = type_.memory
        if not isinstance(type_, MemoryType):
            return
        for extent in (*type_.shape, *(type_.strides or ())):
            known = extent == "*" or extent in self._program.symbols
            if isinstance(extent, str) and not known:
                message = f"{extent} in {type_} is no symbol of the program"
                if op is None:
                    self._reject("TLC0297", message)
                self._fail(op, "TLC0291", message)

    # Ops ------------------------------------------------------------------------------------------

    def _block(self, block: Block, place: _Place) -> None:
        outer = set(self._visible)
        for op in block.ops:
            self._op(op, place)
            if op.terminator and op is not block.ops[-1]:
                self._fail(op, "TLC0293", f"{op.name} is not the last op of its region")
        self._visible = outer

    def _op(self, op: Op, place: _Place) -> None:
        self._known(op)
        self._operands(op)
        for value in op.inputs:
            self._use(value, op)
        self._attributes(op)
        self._types(op)
        self._level(op, place)
        self._placement(op, place)
        problem = region_problem(op)
        if problem:
            self._fail(op, "TLC0293", problem)
        for block in op.regions:
            outer = set(self._visible)
            for param in block.params:
                self._define(param, op)
                self._check_type(param.type, op)
            self._block(block, place.inside(op))
            self._visible = outer
        for value in op.results:
            self._define(value, op)
            self._check_type(value.type, op)

    def _known(self, op: Op) -> None:
        if isinstance(op, OpaqueOp):
            if "." in op.name:
                return  # of another package, which may be absent
            names = [cls.name for cls in self._registry.ops]
            close = difflib.get_close_matches(op.name, names, 1)
            hint = f"did you mean {close[0]}?" if close else ""
            self._fail(op, "TLC0296", f"there is no op {op.name}", hint)
        if self._registry.find(op.name) is not type(op):
            self._fail(op, "TLC0296", f"{op.name} is not registered")

    def _operands(self, op: Op) -> None:
        for name, kind in op.fields:
            value = getattr(op, name)
            if kind == "operands" and not isinstance(value, tuple):
                self._fail(op, "TLC0295", f"{name} of {op.name} is a group: a tuple of values")
            if kind == "operand" and not isinstance(value, Value):
                self._fail(op, "TLC0295", f"{name} of {op.name} is a value, not {value!r}")
            if kind == "region" and not isinstance(value, Block):
                self._fail(op, "TLC0295", f"{name} of {op.name} is a region, not {value!r}")

    def _attributes(self, op: Op) -> None:
        annotations = {} if isinstance(op, OpaqueOp) else attribute_types(type(op))
        for name, annotation in annotations.items():
            value = getattr(op, name)
            if not conforms(value, annotation):
                wanted = describe(annotation)
                self._fail(op, "TLC0295", f"{name} of {op.name} is a {wanted}, not {value!r}")
        if isinstance(op, (Symbol, Define)) and op.label not in self._program.symbols:
            self._fail(op, "TLC0295", f"the program has no symbol {op.label}")

    def _types(self, op: Op) -> None:
        try:
            inferred: Sequence[Type] = op.infer()
        except TilecError as error:
            self._fail(op, "TLC0291", error.message, error.hint)
        types = [v.type for v in op.results]
        if len(types) != len(inferred) or not all(map(refines, types, inferred)):
            has, should = (", ".join(map(str, each)) or "nothing" for each in (types, inferred))
            self._fail(op, "TLC0291", f"{op.name} gives {has}, but infers {should}")
        if not isinstance(op, (*_CARRIERS, OpaqueOp)):
            for value in op.inputs:
                if isinstance(value.type, InflightType):
                    hint = "only the next gemm on it or a wait may"
                    self._fail(op, "TLC0291", f"{op.name} uses a tile that is in flight", hint)

    def _level(self, op: Op, place: _Place) -> None:
        if place.parallel and op.level is not Level.ANY:
            self._fail(op, "TLC0292", f"{op.name} in a parallel body, which has scalar code only")
        here = Level.THREAD if place.simt else self._program.level
        if op.level not in (Level.ANY, here):
            where = "a simt region" if place.simt else f"a program at level {here.value}"
            self._fail(op, "TLC0292", f"{op.name} is of level {op.level.value}; it is in {where}")

    def _placement(self, op: Op, place: _Place) -> None:
        parent = place.parent
        if isinstance(op, Launch):
            if parent is not None:
                self._fail(op, "TLC0294", f"a launch inside of {parent.name}")
            self._roles(op)
        elif isinstance(op, (Define, Return)) and parent is not None:
            self._fail(op, "TLC0294", f"{op.name} inside of {parent.name}: it is the program's")
        elif isinstance(op, Return):
            self._returned(op)
        elif isinstance(op, Role) and not isinstance(parent, Launch):
            self._fail(op, "TLC0294", "a role stands directly in the body of a launch")
        elif isinstance(op, Stage) and not isinstance(parent, Pipeline):
            self._fail(op, "TLC0294", "a stage stands directly in the body of a pipeline")
        elif isinstance(parent, Pipeline) and not isinstance(op, (Stage, Yield, OpaqueOp)):
            self._fail(op, "TLC0294", f"{op.name} in a pipeline, which consists of stages")
        elif isinstance(op, CHANNEL_OPS) and not (place.stage or place.role):
            self._fail(op, "TLC0294", f"{op.name} outside of a stage or role")

    def _returned(self, end: Return) -> None:
        """What a program returns is its own, and each only once."""
        own = {op.result for op in self._program.body.ops if isinstance(op, Alloc)}
        for value in end.values:
            if value not in own or end.values.count(value) > 1:
                why = "twice" if value in own else "but does not allocate it"
                self._fail(end, "TLC0294", f"the program returns %{value.hint or '?'} {why}")

    def _roles(self, launch: Launch) -> None:
        """Roles are the last ops, have labels of their own and share no threads."""
        roles = [op for op in launch.body.ops if isinstance(op, Role)]
        ops = [op for op in launch.body.ops if not isinstance(op, Yield)]
        if roles and ops[-len(roles) :] != roles:
            late = next(op for op in ops[ops.index(roles[0]) :] if not isinstance(op, Role))
            self._fail(late, "TLC0294", f"{late.name} after a role")
        end = 0
        for role in sorted(roles, key=lambda r: r.first_thread):
            if role.first_thread < end:
                self._fail(role, "TLC0294", "two roles share threads")
            end = role.first_thread + role.threads
            if [r.label for r in roles].count(role.label) > 1:
                self._fail(role, "TLC0294", f"two roles are called {role.label!r}")
