"""Thread-level statements of a launch, gathered into `simt` regions.

    %t = thread_id                              simt <threads = 128> (%t: i32) {
    %v = load %S[%t]              becomes         %v = load %S[%t]
    store %v, %L[0]                               store %v, %L[0]
    copy %A[..] -> %S                           }
                                                copy %A[..] -> %S

A region is a maximal run of consecutive statements that touch elements, with the loops and branches
around them. What depends on the thread's number is computed anew in each region that uses it; an
element loaded in one region and used in a later one is kept in the thread's own memory between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..errors import LanguageError
from ..ir.build import scalar
from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Level, Op, Value, at, constant, walk, with_results
from ..ir.dtypes import i32
from ..ir.ops.arith import Add, element_dtype
from ..ir.ops.control import Assume, Role, Simt, ThreadId, While, Yield
from ..ir.ops.memory import Alloc, Atomic, Load, Store
from ..ir.rewrite import in_order, transform
from ..ir.types import MemoryType, Space
from .shown import show_early
from .split_roles import check_arrivals, holds_role, split_roles


def shape_launch(ops: Sequence[Op], threads: int, shown: set[Value]) -> list[Op]:
    """The body of a launch as the tile level has it, from the statements as they were traced. In
    the memories `shown` threads find elements of fragments.
    """
    settled = [_settle(op) for op in show_early(prune(ops, set()), shown)]
    check_arrivals(settled)
    if not any(map(holds_role, settled)):
        return _Grouper(settled, threads).group(settled)
    memory, roles = split_roles(settled)
    return [*memory, *(_shape_role(role) for role in roles)]


def _shape_role(role: Role) -> Op:
    """A role whose body is as the tile level has it."""
    ops = prune(role.body.ops, set())
    with at(role.loc):
        grouped = _Grouper(ops, role.threads, role.first_thread).group(ops)
        return role.replace(body=Block((), (*grouped, Yield(()))))


def prune(ops: Sequence[Op], used: set[Value]) -> list[Op]:
    """`ops` without pure ops and loads that nothing uses; `used` gathers what they do use."""
    kept: list[Op] = []
    for op in reversed(ops):
        idle = op.pure or isinstance(op, Load)
        if idle and not any(result in used for result in op.results):
            continue
        new = op.map_regions(lambda block: block.with_ops(prune(block.ops, used)))
        used.update(new.inputs)
        kept.append(new)
    return kept[::-1]


def _settle(op: Op) -> Op:
    """An allocation with the layout that a later annotation gave its handle."""
    if isinstance(op, Alloc) and op.type != op.result.type:
        type_ = op.result.type
        assert isinstance(type_, MemoryType)
        with at(op.loc):
            return with_results(Alloc(type=type_), op.results)
    return op.map_regions(lambda block: block.with_ops([_settle(o) for o in block.ops]))


def _uses(op: Op) -> Iterable[Value]:
    """Every operand of an op and of all that is in its regions."""
    for inner in op.walk():
        yield from inner.inputs


def is_collective(op: Op) -> bool:
    """Whether the whole block does it together: a tile op, or an allocation that all share."""
    if isinstance(op, Alloc):
        return op.type.space is not Space.LOCAL
    return op.level is Level.TILE


def _holds_collective(op: Op) -> bool:
    return any(is_collective(inner) for inner in op.walk())


class _Grouper:
    def __init__(self, ops: Sequence[Op], threads: int, first: int = 0) -> None:
        self.threads = threads
        self.first = first  # the number in the block of the first of them
        self.total = Counter(v for op in ops for v in _uses(op))
        self.needed: set[Value] = set()  # what collective ops depend on
        self.templates: dict[Value, Op] = {}  # pure ops of the thread's number
        self.kept: dict[Value, Value] = {}  # a region's value that later ones use: its memory
        self.private: set[Value] = set()  # everything that differs from thread to thread
        self._mark(ops)

    def _mark(self, ops: Sequence[Op]) -> None:
        for op in reversed(ops):
            if is_collective(op):
                self.needed.update(_uses(op))
            elif _holds_collective(op):
                self.needed.update(op.inputs)
                for block in op.regions:
                    self._mark(block.ops)
                if isinstance(op, While):
                    self.needed.update(v for inner in walk(op.condition) for v in inner.inputs)
            elif any(result in self.needed for result in op.results):
                self.needed.update(_uses(op))

    def group(self, ops: Sequence[Op]) -> list[Op]:
        """The ops of one region of the tile level, with `simt` regions in them."""
        out: list[Op] = []
        run: list[Op] = []
        local: set[Value] = set()  # defined in the run
        for op in ops:
            private = any(v in self.private for v in _uses(op))
            needed = any(result in self.needed for result in op.results)
            if isinstance(op, ThreadId) or (
                op.pure and private and not any(v in local or v in self.kept for v in op.inputs)
            ):
                self.templates[op.result] = op
                self.private.add(op.result)
            elif isinstance(op, Alloc) and not is_collective(op) or op.pure and not private:
                out.append(op)
            elif isinstance(op, Assume) and not private:
                out.append(op)  # said of the whole block
            elif op.terminator or is_collective(op) or _holds_collective(op):
                self._flush(out, run, local)
                self._collective(op, out)
            elif needed and not private and not isinstance(op, Atomic):
                self._flush(out, run, local)
                out.append(op)
            else:
                run.append(op)
                local.update(op.results)
                self.private.update(op.results)
        self._flush(out, run, local)
        return out

    def _collective(self, op: Op, out: list[Op]) -> None:
        """A tile op, or control flow around one: nothing of it may depend on the thread."""
        direct = _uses(op) if is_collective(op) else op.inputs
        if any(v in self.private for v in direct):
            what = "a condition or bound" if op.regions and not is_collective(op) else op.name
            raise LanguageError(
                "TLC0120",
                f"{what} that the whole block must share depends on the thread",
                loc=op.loc,
                hint="statements of the tile level (T.copy, T.gemm, T.fill, T.Parallel) cannot "
                "differ between threads",
            )
        if is_collective(op) or not op.regions:
            out.append(op)
            return
        changes: dict[str, Block] = {}
        for name, kind in op.fields:
            if kind == "region" and not (isinstance(op, While) and name == "condition"):
                block: Block = getattr(op, name)
                changes[name] = block.with_ops(self.group(block.ops))
        out.append(op.replace(**changes))

    def _flush(self, out: list[Op], run: list[Op], local: set[Value]) -> None:
        """Ends a run: a `simt` region in its place."""
        if not run:
            return
        with at(run[0].loc):
            ops, memory = self._keep_for_later(run)
            out.extend(memory)
            index = scalar(i32, "t")
            shift = Add(index, constant(self.first, i32))
            thread = shift.result if self.first else index
            renaming: Renaming = {}
            before = self._prepare(ops, thread, renaming)
            body = transform(
                Block((index,), (*([shift] if self.first else []), *before, *ops, Yield(()))),
                lambda op: thread if isinstance(op, ThreadId) else None,
                renaming,
            )
            out.append(Simt(body, threads=self.threads))
        run.clear()
        local.clear()

    def _keep_for_later(self, run: Sequence[Op]) -> tuple[list[Op], list[Op]]:
        """The run with stores of the values that later regions use, and their memories."""
        inside = Counter(v for op in run for v in _uses(op))
        ops: list[Op] = []
        memory: list[Op] = []
        for op in run:
            ops.append(op)
            for value in op.results:
                if self.total[value] > inside[value]:
                    dtype = element_dtype(value)
                    alloc = Alloc(type=MemoryType(dtype, (1,), Space.LOCAL))
                    alloc.result.hint = value.hint
                    memory.append(alloc)
                    ops.append(Store(value, alloc.result, (constant(0, i32),)))
                    self.kept[value] = alloc.result
        return ops, memory

    def _prepare(self, ops: Sequence[Op], thread: Value, renaming: Renaming) -> list[Op]:
        """What the run needs of the thread's number and of earlier regions, computed anew."""
        before: list[Op] = []
        seen = {result for op in ops for inner in op.walk() for result in inner.results}
        seen |= renaming.keys()

        def needed(value: Value) -> Sequence[Value]:
            template = self.templates.get(value)
            return () if template is None or isinstance(template, ThreadId) else template.inputs

        for value in (v for op in ops for used in _uses(op) for v in in_order(used, seen, needed)):
            seen.add(value)
            template = self.templates.get(value)
            if isinstance(template, ThreadId):
                renaming[value] = thread
            elif template is not None:
                before.append(clone_op(template, renaming))
            elif value in self.kept:
                load = Load(self.kept[value], (constant(0, i32),))
                load.result.hint = value.hint
                before.append(load)
                renaming[value] = load.result
        return before
