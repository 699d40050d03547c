"""Branches, loops and boolean operators while a kernel is traced.

On Python values they do what Python does. On values of the kernel a branch records both arms, a
loop records its body once, and an operator becomes a `select`, or an `if` where a side has loads
that must not happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import Loc
from ..ir.build import scalar
from ..ir.core import Block, Op, Value, constant, constant_of
from ..ir.dtypes import bool_, i32, promote
from ..ir.ops.arith import BitAnd, BitOr, Compare, Not, Select, element_dtype, is_harmless
from ..ir.ops.control import If, Parallel, Yield
from ..language.arithmetic import truth
from ..language.buffers import Buffer
from ..language.frame import ThreadBinding
from ..language.loops import Counted, Nest, ParallelNest, TracedLoop
from ..language.operand import (
    Expr,
    Operand,
    Poison,
    convert,
    default_dtype,
    is_number,
    number_value,
    operand_dtype,
    plain,
    typed,
    value_of,
    wrap,
)
from ..language.places import locate
from ..language.trace import Region, Trace, refuse
from .python_bounds import cannot_fail
from .python_compare import COMPARE
from .python_jumps import Jumps

if TYPE_CHECKING:
    from .python_scope import NameRegion, Scope

_TRIPS = 10_000  # of a `while` that Python runs: more is taken for an endless loop
_END = (Yield(()),)


class Names:
    """Base: which names a traced region bound, and what they hold when it has ended."""

    what = "region"

    def __init__(self, scope: Scope, names: Mapping[str, Any]) -> None:
        self.scope = scope
        self.trace: Trace = scope.trace
        self.names = names
        self.loc: Loc = locate(self.trace.until)
        self.ended: set[str] = set()
        self.visible_again = False

    def enter(self) -> None:
        self._region: NameRegion = self.scope.enter(self.what, self.loc, self.names)

    def exit(self) -> None:
        self.scope.exit(self._region)
        self.ended |= self._region.bound

    def bound(self, name: str) -> bool:
        """Whether the region bound a name."""
        return name in self.ended

    def after(self, name: str) -> Any:
        """What the name holds now: the value of before for the other arm, else nothing."""
        if self.visible_again and name in self._region.before:
            return self.scope.restore(name, self._region.before[name])
        return self.scope.restore(name, Poison(name, self._region.where))


class Branch(Names):
    """`if`: both arms where the condition is a value of the kernel."""

    what = "branch"

    def __init__(self, scope: Scope, condition: Any, names: Mapping[str, Any]) -> None:
        super().__init__(scope, names)
        self.traced = isinstance(condition, Operand)
        self.holds = False
        if self.traced:
            with self.trace.here(self.loc):
                self.condition = truth(condition)
            known = constant_of(self.condition)
            self.traced, self.holds = known is None, bool(known)
        else:
            self.holds = bool(condition)
        self.arms: list[Block] = []
        self.open: Region | None = None

    def then(self) -> bool:
        """Whether to run the first arm now."""
        if self.traced:
            self._open()
        return self.traced or self.holds

    def _open(self) -> None:
        self.open = self.trace.open_region("if", self.loc)
        self.enter()

    def _close(self) -> None:
        if self.open is not None:
            ops = self.trace.close_region(self.open)
            self.arms.append(Block((), (*ops, *_END)))
            self.open = None
            self.exit()

    def end_then(self) -> None:
        """The first arm has run; names it bound hold what they held before."""
        self._close()
        self.visible_again = True

    def otherwise(self) -> bool:
        """Whether to run the other arm now."""
        if self.traced:
            self._open()
        return self.traced or not self.holds

    def close(self) -> None:
        """Both arms have run."""
        self._close()
        self.visible_again = False
        if self.traced:
            then, orelse = (*self.arms, Block((), _END))[:2]
            with self.trace.here(self.loc):
                self.trace.builder.emit(If(self.condition, then, orelse))


class _Jumping(Names):
    """Loops, as `break` and `continue` see them."""

    what = "loop"

    def __init__(self, scope: Scope, names: Mapping[str, Any]) -> None:
        super().__init__(scope, names)
        self.traced = False
        self.depth = len(scope.regions)
        self.jumps = Jumps(self.trace)
        self.unjumpable = ""  # why a trip of the loop cannot be left

    def jump(self, word: str) -> bool:
        """Whether Python is to do a jump. In a loop of the kernel it is recorded."""
        if self.traced and not self.unjumpable:
            with self.trace.here():
                self.jumps.record(word)
            return False
        if self.traced or len(self.scope.regions) != self.depth:
            where = self.unjumpable or "a loop that Python runs while the kernel is compiled"
            raise refuse(
                "TLC0109",
                f"`{word}`, decided when the kernel runs, in {where}",
                hint="use a loop of the kernel, T.serial or `while` of its values, or put the rest of the "
                "body under `if`",
            )
        return True

    def goes_on(self) -> Any:
        """Whether what follows a jump is reached: True, or a value of the kernel."""
        with self.trace.here():
            reached = self.jumps.none_taken()
            return True if reached is None else wrap(self.trace, reached)

    def refuse_else(self, has_else: bool) -> None:
        if has_else:
            raise refuse(
                "TLC0108",
                "a loop of the kernel has no `else`",
                loc=self.loc,
                hint="put it behind the loop, under a T.alloc_var that a `break` sets before it",
            )


class Loop(_Jumping):
    """`for`: iterates once, with the index, where the loop is the kernel's."""

    def __init__(
        self, scope: Scope, iterable: Any, names: Mapping[str, Any], has_else: bool
    ) -> None:
        super().__init__(scope, names)
        self.iterable = iterable
        if isinstance(iterable, ThreadBinding):
            if iterable.covers:
                self.iterable = [iterable]
            else:
                self.traced = True
        elif isinstance(iterable, TracedLoop):
            self.traced = True
        elif isinstance(iterable, Operand | Buffer):
            raise refuse(
                "TLC0122",
                "`for` over a value of the kernel",
                hint="for i in T.serial(n), T.Parallel(n), T.Pipelined(n) or range(n)",
                loc=self.loc,
            )
        if self.traced:
            self.refuse_else(has_else)
            self.trace.need_launch("a loop of the kernel")
            self.unjumpable = _unjumpable(iterable)

    def __iter__(self) -> Iterator[Any]:
        if not self.traced:
            yield from self.iterable
            return
        loop = self.iterable
        if isinstance(loop, Counted | Nest):
            yield from self._counted(loop)
        elif isinstance(loop, ParallelNest):
            yield from self._parallel(loop.extents)
        else:
            yield from self._threads(loop)

    def _counted(self, nest: Counted | Nest) -> Iterator[Any]:
        loops = nest.loops
        if loops[0].kind == "pipelined":
            self.trace.need_tile_level("T.Pipelined")
        regions = [self.trace.open_region("for", self.loc) for _ in loops]
        indices = [scalar(i32) for _ in loops]
        for index, loop in zip(indices, loops, strict=True):
            stop = constant_of(loop.stop)
            if constant_of(loop.start) == 0 and stop is not None:
                self.trace.extents[index] = int(stop)
        self.enter()
        exprs = tuple(Expr(v, r) for v, r in zip(indices, regions, strict=True))
        yield nest.given(exprs)
        self.exit()
        with self.trace.here(self.loc):
            self.jumps.reset(regions[-1].ops)
            for region, index, loop in zip(regions[::-1], indices[::-1], loops[::-1], strict=True):
                index.hint = index.hint or "i"
                ops = self.trace.close_region(region)
                if loop is loops[0]:
                    self.jumps.allocate()
                self.jumps.emit_counted(loop, index, ops)

    def _parallel(self, extents: tuple[int, ...]) -> Iterator[Any]:
        region = self.trace.open_region("parallel", self.loc)
        indices = tuple(scalar(i32) for _ in extents)
        self.trace.extents.update(zip(indices, extents, strict=True))
        self.enter()
        exprs = tuple(Expr(value, region) for value in indices)
        yield exprs[0] if len(exprs) == 1 else exprs
        self.exit()
        with self.trace.here(self.loc):
            body = Block(indices, (*self.trace.close_region(region), *_END))
            if 0 not in extents:
                self.trace.builder.emit(Parallel((), (), body, extents=extents))

    def _threads(self, binding: ThreadBinding) -> Iterator[Any]:
        """Fewer trips than threads: the others skip the body."""
        with self.trace.here(self.loc):
            stop = value_of(binding.stop, i32)
            condition = self.trace.pure(Compare(binding._value(), stop, predicate="lt"))
        region = self.trace.open_region("if", self.loc)
        self.enter()
        yield binding
        self.exit()
        with self.trace.here(self.loc):
            then = Block((), (*self.trace.close_region(region), *_END))
            self.trace.builder.emit(If(condition, then, Block((), _END)))


class WhileLoop(_Jumping):
    """`while`: the condition is looked at once to see whose loop it is."""

    def __init__(
        self, scope: Scope, test: Callable[[], Any], names: Mapping[str, Any], has_else: bool
    ) -> None:
        super().__init__(scope, names)
        self.test = test
        self.has_else = has_else
        self.trips = 0
        self.body: Region | None = None

    def next(self) -> bool:
        """Whether the body runs (again)."""
        if self.traced:
            self._finish()
            return False
        self.trips += 1
        if self.trips > _TRIPS:
            raise refuse(
                "TLC0122",
                f"this loop of compile-time values has run {_TRIPS} times",
                hint="a loop of the kernel needs a condition on a T.alloc_var",
                loc=self.loc,
            )
        if self.trips > 1:
            return bool(self.test())
        return self._begin()

    def _begin(self) -> bool:
        region = self.trace.open_region("while", self.loc)
        self.enter()
        condition = self.test()
        with self.trace.here(self.loc):
            value = truth(condition) if isinstance(condition, Operand) else None
        ops = self.trace.close_region(region)
        if value is None:
            self.exit()
            self.ended.clear()
            self.trace.builder.extend(ops)
            return bool(condition)
        self.traced = True
        self.refuse_else(self.has_else)
        self.trace.need_launch("a loop of the kernel")
        self.condition = Block((), (*ops, Yield((value,))))
        self.body = self.trace.open_region("while", self.loc)
        return True

    def _finish(self) -> None:
        assert self.body is not None
        self.exit()
        with self.trace.here(self.loc):
            self.jumps.reset(self.body.ops)
            ops = self.trace.close_region(self.body)
            self.jumps.allocate()
            self.jumps.emit_while(self.condition, ops)


def _unjumpable(iterable: Any) -> str:
    """Why a trip of a traced loop cannot be left by a jump, if so."""
    kind = iterable.kind if isinstance(iterable, Counted) else ""
    if isinstance(iterable, ParallelNest):
        return "T.Parallel, whose iterations belong to no order"
    if isinstance(iterable, ThreadBinding):
        return "a loop over the block's threads"
    return {
        "pipelined": "T.Pipelined, whose iterations overlap",
        "vectorized": "T.vectorized, whose trips are done at once",
    }.get(kind, "")


# Operators ------------------------------------------------------------------------------------


def negate(trace: Trace, value: Any) -> Any:
    """`not value`."""
    if not isinstance(value, Operand):
        return not value
    with trace.here():
        return wrap(trace, trace.pure(Not(truth(value))))


class Lazy:
    """The lazy sides of an operator: recorded in regions of their own, names guarded."""

    def __init__(self, scope: Scope, names: Mapping[str, Any]) -> None:
        self.scope = scope
        self.trace: Trace = scope.trace
        self.names = names

    def record(self, thunk: Callable[[], Any], logical: bool) -> tuple[Any, list[Op]]:
        """What a side gives, a Value or a Python value, and the ops that it takes."""
        loc = locate(self.trace.until)
        region = self.trace.open_region("expression", loc)
        guarded = self.scope.enter("expression", loc, self.names)
        result = thunk()
        self.scope.exit(guarded)
        with self.trace.here(loc):
            result = typed(result)
            if isinstance(result, Operand):
                result = truth(result) if logical else value_of(result)
        return result, self.trace.close_region(region)


def _logical(lazy: Lazy, x: Any, thunk: Callable[[], Any], conjunction: bool, asked: bool) -> Any:
    """One of two sides, as Python gives it: their truth where that is all that is `asked`, or all there is."""
    trace = lazy.trace
    with trace.here() as loc:
        own = value_of(x)
        left = truth(wrap(trace, own))
    right, ops = lazy.record(thunk, logical=asked)
    with trace.here(loc):
        if not asked and not (_is_truth(own) and _is_truth(right)):
            sides = [(right, ops), (own, [])]
            return _merge(trace, left, sides if conjunction else sides[::-1], is_harmless)
        if not isinstance(right, Value):
            right = constant(bool(right), bool_)
        if all(map(is_harmless, ops)):
            trace.builder.extend(ops)
            op = BitAnd(left, right) if conjunction else BitOr(left, right)
            return wrap(trace, trace.pure(op))
        side = Block((), (*ops, Yield((right,))))
        known = Block((), (Yield((constant(not conjunction, bool_),)),))
        arms = (side, known) if conjunction else (known, side)
        return wrap(trace, trace.builder.emit(If(left, *arms)).result)


def _is_truth(x: Any) -> bool:
    return element_dtype(x) == bool_ if isinstance(x, Value) else isinstance(plain(x), bool)


def both(lazy: Lazy, x: Any, y: Callable[[], Any], asked: bool = True) -> Any:
    """`x and y()`."""
    return _logical(lazy, x, y, True, asked) if isinstance(x, Operand) else x and y()


def either(lazy: Lazy, x: Any, y: Callable[[], Any], asked: bool) -> Any:
    """`x or y()`."""
    return _logical(lazy, x, y, False, asked) if isinstance(x, Operand) else x or y()


def chain(lazy: Lazy, words: tuple[str, ...], left: Any, *rest: Callable[[], Any]) -> Any:
    """`left < a < b`, each operand evaluated once."""
    right = rest[0]()
    first = COMPARE[words[0]](left, right)
    if len(rest) == 1:
        return first
    return both(lazy, first, lambda: chain(lazy, words[1:], right, *rest[1:]))


def choose(lazy: Lazy, condition: Any, x: Callable[[], Any], y: Callable[[], Any]) -> Any:
    """`x() if condition else y()`."""
    if not isinstance(condition, Operand):
        return x() if condition else y()
    trace = lazy.trace
    with trace.here() as loc:
        test = truth(condition)
        known = constant_of(test)
    if known is not None:
        return x() if known else y()
    sides = [lazy.record(thunk, logical=False) for thunk in (x, y)]
    with trace.here(loc):
        return _merge(trace, test, sides, is_harmless)


def choose_of(lazy: Lazy, condition: Any, x: Callable[[], Any], y: Callable[[], Any]) -> Any:
    """`T.if_then_else(condition, x(), y())`: a ternary whose sides are both evaluated where neither can
    be at fault.
    """
    if not isinstance(condition, Operand):
        return x() if condition else y()
    trace = lazy.trace
    with trace.here() as loc:
        test = truth(condition)
    sides = [lazy.record(thunk, logical=False) for thunk in (x, y)]
    with trace.here(loc):
        return _merge(trace, test, sides, partial(cannot_fail, trace))


def _merge(
    trace: Trace,
    test: Value,
    sides: Sequence[tuple[Any, list[Op]]],
    is_free: Callable[[Op], bool],
) -> Any:
    """What the side that counts gives: a `select` of both, where all their ops may be run."""
    dtype = None
    for result, _ in sides:
        if not isinstance(result, Value) and not is_number(result):
            raise refuse(
                "TLC0124",
                f"a choice on a condition of the kernel gives scalars, not {result!r}",
                hint="use `if` with statements",
            )
    for result, _ in sides:
        if isinstance(result, Value):
            own = element_dtype(result)
            dtype = own if dtype is None else promote(dtype, own)
    for result, _ in sides:
        if not isinstance(result, Value):
            number = plain(result)
            own = default_dtype(number) if dtype is None else operand_dtype(dtype, number)
            dtype = own if dtype is None else promote(dtype, own)
    assert dtype is not None
    blocks: list[Block] = []
    for result, ops in sides:
        with trace.builder.region() as cast:
            value = (
                convert(result, dtype)
                if isinstance(result, Value)
                else number_value(plain(result), dtype)
            )
        blocks.append(Block((), (*ops, *cast, Yield((value,)))))
    if all(is_free(op) for block in blocks for op in block.ops[:-1]):
        for block in blocks:
            trace.builder.extend(block.ops[:-1])
        x, y = (block.ops[-1].inputs[0] for block in blocks)
        return wrap(trace, trace.pure(Select(test, x, y)))
    return wrap(trace, trace.builder.emit(If(test, *blocks)).result)
