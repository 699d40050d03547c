"""`break` and `continue` in loops of the kernel, as flags that what follows them looks at.

A jump stores into a flag of the thread's own; the statements behind it stand under a branch on the
flags. So the IR has no jumps, and every pass sees loops and branches alone:

    for i in T.serial(n):                  broken = False; i = 0
        if c: break                        while i < n and not broken:
        A                                      if c: broken = True
                                               if not broken: A
                                               i = i + 1

A loop whose trips are only skipped (`continue`) stays a counted loop; so does an unrolled one, whose
trips after a `break` do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.core import Block, Op, Value, constant, with_results
from ..ir.dtypes import DType, bool_, i32
from ..ir.ops.arith import Add, BitAnd, Compare, Not
from ..ir.ops.control import For, If, While, Yield
from ..ir.ops.memory import Alloc, Load, Store
from ..ir.types import MemoryType, Space
from ..language.loops import Counted
from ..language.trace import Trace

_END = (Yield(()),)
_ZERO = (constant(0, i32),)


class Jumps:
    """The flags of one traced loop: `broken` stays, `skipped` is cleared at the start of a trip."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.flags: dict[str, Alloc] = {}

    def record(self, word: str) -> None:
        """A `break` or `continue` stands here."""
        if word not in self.flags:
            self.flags[word] = _variable(bool_, {"break": "broken", "continue": "skipped"}[word])
        self.trace.builder.emit(_set(self.flags[word], constant(True, bool_)))

    def none_taken(self) -> Value | None:
        """That no jump was taken in this trip; None where none has been recorded."""
        found: Value | None = None
        for flag in self.flags.values():
            clear = self._clear(flag)
            found = clear if found is None else self.trace.pure(BitAnd(found, clear))
        return found

    def _clear(self, flag: Alloc) -> Value:
        return self.trace.pure(Not(self.trace.builder.emit(_get(flag)).result))

    def reset(self, ops: list[Op]) -> None:
        """Clears `skipped` at the start of a trip, whose ops these are."""
        if "continue" in self.flags:
            ops.insert(0, _set(self.flags["continue"], constant(False, bool_)))

    # Loops ----------------------------------------------------------------------------------------

    def emit_counted(self, loop: Counted, index: Value, ops: Sequence[Op]) -> None:
        """The loop of `index` over the ops of a trip, at the cursor. The flags stand before it."""
        if "break" in self.flags and loop.kind == "serial":
            self._emit_leavable(loop, index, ops)
            return
        if "break" in self.flags:
            ops = self._unless_broken(ops)
        body = Block((index,), (*ops, *_END))
        bounds = (loop.start, loop.stop, loop.step)
        self.trace.builder.emit(
            For(*bounds, (), body, kind=loop.kind, stages=loop.stages, unroll=loop.unroll)
        )

    def _emit_leavable(self, loop: Counted, index: Value, ops: Sequence[Op]) -> None:
        """A counted loop as one that ends where `broken` is set."""
        trace = self.trace
        counter = _variable(i32, index.hint)
        trace.builder.emit(counter)
        trace.builder.emit(_set(counter, loop.start))
        with trace.builder.region() as test:
            value = trace.builder.emit(_get(counter)).result
            inside = trace.pure(Compare(value, loop.stop, predicate="lt"))
            end = Yield((trace.pure(BitAnd(inside, self._clear(self.flags["break"]))),))
        with trace.builder.region() as step:
            following = trace.pure(Add(index, loop.step))
            trace.builder.emit(_set(counter, following))
        here = with_results(_get(counter), [index])
        body = Block((), (here, *ops, *step, *_END))
        trace.builder.emit(While((), Block((), (*test, end)), body))

    def emit_while(self, condition: Block, ops: Sequence[Op]) -> None:
        """The loop, at the cursor; once it is broken its condition is not evaluated any more."""
        trace = self.trace
        if "break" in self.flags:
            with trace.builder.region() as test:
                clear = self._clear(self.flags["break"])
                no = Block((), (Yield((constant(False, bool_),)),))
                trace.builder.emit(If(clear, condition, no))
            condition = Block((), (*test, Yield(test[-1].results)))
        trace.builder.emit(While((), condition, Block((), (*ops, *_END))))

    def _unless_broken(self, ops: Sequence[Op]) -> list[Op]:
        with self.trace.builder.region() as guarded:
            clear = self._clear(self.flags["break"])
            self.trace.builder.emit(If(clear, Block((), (*ops, *_END)), Block((), _END)))
        return guarded

    def allocate(self) -> None:
        """The flags, cleared: before the loop, or the outermost of its nest."""
        for flag in self.flags.values():
            self.trace.builder.emit(flag)
            self.trace.builder.emit(_set(flag, constant(False, bool_)))


def _variable(dtype: DType, hint: str) -> Alloc:
    alloc = Alloc(type=MemoryType(dtype, (1,), Space.LOCAL))
    alloc.result.hint = hint
    return alloc


def _set(variable: Alloc, value: Value) -> Store:
    return Store(value, variable.result, _ZERO)


def _get(variable: Alloc) -> Load:
    return Load(variable.result, _ZERO)
