"""What rewritten code calls while it runs: one `Scope` for each call of a kernel or macro.

It decides at each construct whether Python runs it or the trace records it, and it keeps the rule
that a body recorded once may not look as if it had run more often, or less: see language.md on
staging. A region's names are gone when it ends; a name that is read in a loop before the loop binds
it cannot be bound there; Python containers from outside must not change.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CellType, CodeType
from typing import Any

from ..errors import Loc
from ..ir.core import Constant
from ..language.arithmetic import cast, if_then_else
from ..language.buffers import Buffer as Memory
from ..language.buffers import Element, Variable, name_buffer
from ..language.checks import device_assert
from ..language.dtypes import spelled_dtype
from ..language.loops import counted
from ..language.operand import Expr, Operand, Poison
from ..language.places import locate
from ..language.trace import Trace, current, refuse, tracing
from .python_control import Branch, Lazy, Loop, WhileLoop, both, chain, choose, choose_of, negate
from .python_control import either as either_of
from .python_guard import Snapshot, closure_values, visible

_IN_PLACE: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.iadd, "Sub": operator.isub, "Mult": operator.imul, "Div": operator.itruediv,
    "FloorDiv": operator.ifloordiv, "Mod": operator.imod, "BitAnd": operator.iand,
    "BitOr": operator.ior, "BitXor": operator.ixor, "LShift": operator.ilshift,
    "RShift": operator.irshift, "Pow": operator.ipow, "MatMult": operator.imatmul,
}  # fmt: skip


@dataclass
class Surroundings:
    """What a function sees besides its locals. The code is known once it is compiled."""

    globals: Mapping[str, Any]
    closure: Mapping[str, CellType]
    code: CodeType | None = None

    def names(self, local: Mapping[str, Any]) -> Snapshot:
        closure = {
            name: value for name, cell in self.closure.items() for value in closure_values([cell])
        }
        used = self.code.co_names if self.code is not None else ()
        outer = ((name, self.globals[name]) for name in used if name in self.globals)
        return Snapshot(visible(local, closure, outer), self.globals)


@dataclass
class NameRegion:
    """A traced loop or branch, as the names of one function see it."""

    what: str  # "loop" or "branch"
    loc: Loc
    before: Mapping[str, Any]
    snapshot: Snapshot
    reads: set[str] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)

    @property
    def where(self) -> str:
        return f"the {self.what} of line {self.loc.line}"


class Scope:
    """The run-time side of the rewriting, for one call of one function."""

    def __init__(
        self, around: Surroundings, names: Mapping[str, Any], captured: Sequence[str] = ()
    ) -> None:
        """`captured` are the names that plain functions inside read, at times unknown here."""
        self.trace: Trace = current("a kernel")
        self.around = around
        self.captured = frozenset(captured)
        self.regions: list[NameRegion] = []
        self.variables: dict[str, Variable] = {
            name: value for name, value in names.items() if isinstance(value, Variable)
        }

    # Names --------------------------------------------------------------------------------------

    def read(self, name: str, value: Any) -> Any:
        """The value of a name where it is read."""
        if isinstance(value, Poison):
            value._value()
        for region in self.regions:
            if name not in region.bound:
                region.reads.add(name)
        if isinstance(value, Variable) and not value.fresh:
            return value.load()
        return value

    def assign(self, name: str, value: Any) -> Any:
        """What a name is to hold after `name = value`."""
        variable = self.variables.get(name)
        if isinstance(value, Variable) and value.fresh:
            value.name_it(name)
            self.variables[name] = value
            self._note(name)
            return value
        value = self._force(value)
        if variable is not None:
            if isinstance(value, Operand | bool | int | float):
                variable.store(value)
                return variable
            del self.variables[name]
        self._note(name)
        self._name(name, value)
        return value

    def _name(self, name: str, value: Any) -> None:
        if isinstance(value, Memory):
            name_buffer(value, name)
        elif isinstance(value, Expr) and not isinstance(value.value, Constant):
            value.value.hint = value.value.hint or name

    def _force(self, value: Any) -> Any:
        """A value that no later store changes."""
        if isinstance(value, Variable):
            value = value.load()
        if isinstance(value, Element):
            value._value()
            return value.loaded
        return value

    def values(self, value: Any) -> Any:
        """The parts of a tuple, or one value, before any of them is assigned."""
        if type(value) in (tuple, list):
            return type(value)(
                part if isinstance(part, Variable) and part.fresh else self._force(part)
                for part in value
            )
        return value

    def _note(self, name: str) -> None:
        """A name is bound: refused in a loop whose next trip would read it."""
        for region in self.regions:
            if region.what == "loop" and name in region.reads - region.bound:
                raise refuse(
                    "TLC0104",
                    f"`{name}` is bound anew in {region.where}, and a later trip would read it",
                    hint=f"{name} = T.alloc_var(dtype) before the loop makes it a variable",
                )
            region.bound.add(name)

    def restore(self, name: str, value: Any) -> Any:
        """`value` for a name again, after the region that bound it to another."""
        if isinstance(value, Variable):
            self.variables[name] = value
        else:
            self.variables.pop(name, None)
        return value

    # Regions ------------------------------------------------------------------------------------

    def enter(self, what: str, loc: Loc, names: Mapping[str, Any]) -> NameRegion:
        """Names bound from here on are those of a traced region."""
        region = NameRegion(what, loc, dict(names), self.around.names(names))
        region.reads |= self.captured & set(names)
        self.regions.append(region)
        return region

    def exit(self, region: NameRegion) -> None:
        """Ends it. Raises LanguageError where Python data from outside has changed."""
        assert self.regions[-1] is region
        self.regions.pop()
        changed = region.snapshot.changed()
        if changed is not None:
            raise refuse(
                "TLC0105",
                f"`{changed}`, or what it holds, is changed in {region.where}, which runs once "
                "while the kernel is compiled",
                hint="change Python containers outside of traced code, or use T.alloc_local",
                loc=region.loc,
            )

    def branch(self, condition: Any, names: Mapping[str, Any]) -> Any:
        """`if condition:`"""
        return Branch(self, condition, names)

    def rest(self, loop: Any, names: Mapping[str, Any]) -> Any:
        """What stands behind a statement that may leave a trip of `loop`."""
        return Branch(self, loop.goes_on(), names)

    def loop(self, iterable: Any, names: Mapping[str, Any], has_else: bool) -> Any:
        """`for … in iterable:`"""
        return Loop(self, iterable, names, has_else)

    def loop_while(self, test: Callable[[], Any], names: Mapping[str, Any], has_else: bool) -> Any:
        """`while test():`"""
        return WhileLoop(self, test, names, has_else)

    def range(self, function: Any, *bounds: Any) -> Any:
        """`range(…)`: a traced loop where a bound is known at run time only."""
        if function is builtins.range and any(isinstance(b, Operand) for b in bounds):
            if len(bounds) > 3:
                raise refuse(
                    "TLC0122",
                    f"range of {len(bounds)} arguments",
                    hint="range(stop), or range(start, stop, step)",
                )
            start, stop, step = (*bounds, None, None)[:3]
            return counted("range", start, stop, step, kind="serial")
        return function(*bounds)

    def require(self, condition: Any, message: Callable[[], Any]) -> None:
        """`assert condition, message()`."""
        if isinstance(condition, Operand):
            if self.trace.launch is None:
                raise refuse(
                    "TLC0118",
                    "what is asserted is known when the kernel runs, and stands outside of "
                    "`with T.Kernel(...)`",
                    hint='put it inside; T.dynamic("K", multiple_of=32) has every call checked',
                )
            device_assert(condition, str(message()))
        elif not condition:
            raise AssertionError(message())

    def leave(self, value: Any) -> Any:
        """`return value`."""
        if self.regions:
            raise refuse(
                "TLC0109",
                f"`return` in {self.regions[-1].where}, which is decided when the kernel runs",
                hint="put what follows under `else`; of two values, return x if condition else y",
            )
        trace = tracing()
        if trace is not None and not trace.active:
            trace.left = locate(trace.until)
        return self.values(self._force(value))

    # Expressions --------------------------------------------------------------------------------

    def in_place(self, name: str, old: Any, value: Any) -> Any:
        """`old += value` and its relatives."""
        return _IN_PLACE[name](old, value)

    def typed(self, annotation: Callable[[], Any], value: Any) -> Any:
        """The value of `x: annotation = value`: an element type converts; a new variable stays one."""
        try:
            kind = annotation()
        except NameError:
            return value  # a name that only type checkers know
        dtype = spelled_dtype(kind)
        if dtype is None or (isinstance(value, Variable) and value.buffer.elements == dtype):
            return value
        return cast(value, dtype)

    def parameter(self, name: str, annotation: Callable[[], Any]) -> Any:
        """The parameter that a statement of the body annotates."""
        if self.trace.annotate is None or self.regions:
            raise refuse(
                "TLC0113",
                f"the annotation of {name} is not in the body of a kernel",
                hint="move it to the top of the kernel, out of loops, branches and launches",
            )
        return self.trace.annotate(name, annotation())

    def negate(self, value: Any) -> Any:
        return negate(self.trace, value)

    def both(self, names: Mapping[str, Any], x: Any, y: Callable[[], Any], asked: bool) -> Any:
        """`x and y()`, y seeing `names`; only its truth where that is all that is asked."""
        return both(Lazy(self, names), x, y, asked)

    def either(self, names: Mapping[str, Any], x: Any, y: Callable[[], Any], asked: bool) -> Any:
        """`x or y()`."""
        return either_of(Lazy(self, names), x, y, asked)

    def choose(
        self,
        names: Mapping[str, Any],
        condition: Any,
        x: Callable[[], Any],
        y: Callable[[], Any],
    ) -> Any:
        """`x() if condition else y()`."""
        return choose(Lazy(self, names), condition, x, y)

    def call_choice(
        self,
        names: Mapping[str, Any],
        function: Any,
        condition: Any,
        x: Callable[[], Any],
        y: Callable[[], Any],
    ) -> Any:
        """`function(condition, x(), y())`, where the function is called as T.if_then_else is."""
        if function is not if_then_else:
            return function(condition, x(), y())
        return choose_of(Lazy(self, names), condition, x, y)

    def chain(
        self, names: Mapping[str, Any], words: tuple[str, ...], left: Any, *rest: Callable[[], Any]
    ) -> Any:
        """`left < a < b`."""
        return chain(Lazy(self, names), words, left, *rest)
