"""Whether each element of a buffer that a region's threads write is touched by one of them alone.

They are in a branch that one thread takes, whatever its indices are. Else by enumeration of the
indices; in a branch that only some threads take, within loops that go on as variables say, by
running what follows from constants: of

    s = 64
    while s > 0:
        if t < s:
            S[t] += S[t + s]
        s = s // 2

all trips are known, and in each the elements that are read are apart from those that others write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.core import Access, Block, Op, Value, constant_of
from ..ir.ops.arith import Add, BitAnd, BitXor, Compare, Elementwise, FloorMod, Sub
from ..ir.ops.control import For, If, Simt, While
from ..ir.ops.memory import Alloc, Load, Store, memory_type
from ..ir.types import Space
from .element_accesses import MOST, Accessed, element_accesses, evaluated, wraps
from .value_ranges import integer_dtype

Array = np.ndarray[Any, Any]
Found = dict[Access, list[Accessed]]
MOST_STEPS = 1 << 14
"""Ops that are run in reasonable time; a region of more counts as unknown."""


def is_private(
    region: Simt, buffer: Value, defined_by: Mapping[Value, Op], branch: If | None = None
) -> bool:
    """Whether every element of the buffer that a thread writes is touched by that thread only, as far
    as the region goes (the branch in it, in each trip of the loops around that). Of a branch that
    one_thread_takes that is not asked.
    """
    found = _enumerated(region, buffer, defined_by, branch)
    if found is None and branch is not None:
        found = _run(region, buffer, branch)
    return found is not None and _apart(buffer, found)


def one_thread_takes(
    branch: If, region: Simt, defined_by: Mapping[Value, Op], differing: Set[Value]
) -> bool:
    """Whether at most one of the region's threads is in the branch each time that they reach it, and
    the others have nothing to do meanwhile. `differing`: the values that threads see differently.
    """
    idle = len(branch.orelse.ops) == 1  # its terminator
    return idle and _OneThread(region, defined_by, differing).satisfies(branch.condition)


@dataclass(frozen=True)
class _OneThread:
    region: Simt
    defined_by: Mapping[Value, Op]
    differing: Set[Value]

    def satisfies(self, condition: Value) -> bool:
        """Whether a condition holds for at most one thread."""
        outcome, op = self.by_thread(condition), self.defined_by.get(condition)
        if outcome is not None:
            return int(np.count_nonzero(outcome)) <= 1
        match op:
            case BitAnd():
                return any(self.satisfies(v) for v in op.inputs)
            case If():  # a condition that is looked at only where another one holds
                end = op.orelse.terminator
                never = end is not None and [constant_of(v) for v in end.inputs] == [False]
                return never and self.satisfies(op.condition)
            case Compare() if op.predicate == "eq":
                a, b = op.inputs
                return self.tells_apart(a, b) or self.tells_apart(b, a)
        return False

    def tells_apart(self, value: Value, other: Value) -> bool:
        """Whether a value is another one for each thread, and `other` the same for all."""
        values = self.by_thread(value)
        distinct = values is not None and len(np.unique(values)) == self.region.threads
        return distinct and other not in self.differing

    def by_thread(self, value: Value) -> Array | None:
        """What a value is for each thread, None where it depends on more than their numbers."""
        threads = {self.region.body.params[0]: np.arange(self.region.threads, dtype=np.int64)}
        found = evaluated(value, threads, self.defined_by)
        return None if found is None else np.broadcast_to(found, (self.region.threads,))


def parts_apart(
    branch: If, buffer: Value, defined_by: Mapping[Value, Op], differing: Set[Value]
) -> bool:
    """Whether a branch stores into one part of a buffer once and loads from others: an index that is
    the same for all threads is never the same in the store and in a load, as in two halves that
    trips take in turn.
    """
    touching = [op for op in branch.walk() if buffer in op.inputs]
    loops = [op for op in branch.walk() if isinstance(op, (For, While))]
    again = {op for loop in loops for op in loop.walk()}
    stores = [op for op in touching if isinstance(op, Store)]
    loads = [op for op in touching if isinstance(op, Load)]
    if len(stores) != 1 or len(stores) + len(loads) != len(touching) or again & {*touching}:
        return False
    return all(
        any(
            not {x, y} & differing and _never_equal(x, y, defined_by)
            for x, y in zip(stores[0].indices, load.indices, strict=True)
        )
        for load in loads
    )


def _never_equal(x: Value, y: Value, defined_by: Mapping[Value, Op]) -> bool:
    """Whether two indices differ whatever they are computed of, by their form: p and p ^ 1, p and 1 - p,
    p and p + 1, p % n and (p + 1) % n.
    """
    m, n = defined_by.get(x), defined_by.get(y)
    if isinstance(m, FloorMod) and isinstance(n, FloorMod):
        size, step = _number(m.y), _step(m.x, n.x, defined_by) or _step(n.x, m.x, defined_by)
        return size == _number(n.y) and size > 0 and step % size != 0
    if constant_of(x) is not None and constant_of(y) is not None:
        return _number(x) != _number(y)
    return bool(_step(x, y, defined_by) or _step(y, x, defined_by)) or any(
        isinstance(op, BitXor) and other in op.inputs and any(_number(v) for v in op.inputs)
        or isinstance(op, Sub) and other is op.y and _number(op.x) % 2  # else half of it is equal
        for op, other in ((m, y), (n, x))
    )  # fmt: skip


def _step(x: Value, y: Value, defined_by: Mapping[Value, Op]) -> int:
    """By what number x is more or less than y as its op says; 0 where it says none."""
    match defined_by.get(x):
        case Add(x=a, y=b) if y in (a, b):
            return _number(b if y is a else a)
        case Sub(x=a, y=b) if y is a:
            return _number(b)
    return 0


def _number(value: Value) -> int:
    """A constant integer; 0 for anything else."""
    number = constant_of(value)
    return int(number) if number is not None else 0


def _enumerated(
    region: Simt, buffer: Value, defined_by: Mapping[Value, Op], branch: If | None
) -> Found | None:
    found: Found = {}
    for access in (Access.READ, Access.WRITE):
        enumerated = element_accesses(
            region, buffer, access, defined_by, certain=False, branch=branch
        )
        if None in enumerated:
            return None
        found[access] = [a for a in enumerated if a is not None]
    return found


def _apart(buffer: Value, found: Found) -> bool:
    size = [int(d) for d in memory_type(buffer).shape]
    last = [int(a.trip.max(initial=-1)) for accesses in found.values() for a in accesses]
    trips = max(last, default=-1) + 1
    if trips * math.prod(size) > MOST:
        return False
    owner = np.full([trips, *size], -1, dtype=np.int64)
    for access in (Access.WRITE, Access.READ):
        for accessed in found[access]:
            inside = accessed.inside(size)
            places, thread = (inside.trip, *inside.coordinates), inside.thread
            before = owner[places]
            if access is Access.WRITE:
                owner[places] = thread
            if ((before >= 0) & (before != thread)).any() or (
                access is Access.WRITE and (owner[places] != thread).any()
            ):
                return False
    return True


# What follows from constants ----------------------------------------------------------------------


class _Unknown(Exception):
    """What the branch does depends on more than constants and the thread's number."""


def _run(region: Simt, buffer: Value, branch: If) -> Found | None:
    """What the branch touches, each time that it is reached in a run of the region by all threads at
    once; None where that does not follow from constants.
    """
    run = _Run(region.threads, buffer, branch)
    run.known[region.body.params[0]] = np.arange(region.threads, dtype=np.int64)
    try:
        with np.errstate(all="ignore"):
            run.block(region.body, np.ones(region.threads, np.bool_))
    except _Unknown:
        return None
    return run.found


@dataclass
class _Run:
    threads: int
    buffer: Value
    branch: If
    known: dict[Value, Array] = field(default_factory=dict)  # integers, one for each thread
    variables: dict[Value, Array] = field(default_factory=dict)  # the threads' own, of one element
    found: Found = field(default_factory=lambda: {Access.READ: [], Access.WRITE: []})
    trip: int = -1
    inside: bool = False
    steps: int = 0

    def block(self, block: Block, mask: Array) -> None:
        """Runs the ops of a block by the threads of `mask`."""
        for op in block.ops:
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise _Unknown
            for result in op.results:
                self.known.pop(result, None)
            match op:
                case If():
                    self._if(op, mask)
                case While() | For() if not self._matters(op):
                    self._forget(op)
                case While() if not op.inits:
                    self._while(op, mask)
                case For() if not op.inits:
                    self._for(op, mask)
                case Load() | Store():
                    self._access(op, mask)
                case Elementwise() if integer_dtype(op.result):
                    self._compute(op)
                case Alloc():
                    self.variables.pop(op.result, None)
                case _ if op.regions or self.buffer in op.inputs:
                    raise _Unknown

    def _matters(self, op: Op) -> bool:
        """Whether the branch is in a loop, or the loop in the branch."""
        return self.inside or any(inner is self.branch for inner in op.walk())

    def _if(self, op: If, mask: Array) -> None:
        outer, condition = self.inside, self.value(op.condition)
        if op is self.branch:
            self.trip, self.inside = self.trip + 1, True
        for inner, holds in ((op.then, True), (op.orelse, False)):
            if condition is None:  # as if all came there
                before = dict(self.variables)
                self.block(inner, mask)
                self.variables = before
            else:
                self.block(inner, mask & (condition.astype(bool) == holds))
        self.inside = outer
        if condition is None:
            self._forget(op)

    def _while(self, op: While, mask: Array) -> None:
        while True:
            self.block(op.condition, mask)
            end = op.condition.terminator
            goes_on = self.value(end.inputs[0]) if end is not None else None
            if goes_on is None:
                raise _Unknown
            mask = mask & goes_on.astype(bool)
            if not mask.any():
                return
            self.block(op.body, mask)

    def _for(self, op: For, mask: Array) -> None:
        start, stop, step = (self._one(v) for v in (op.start, op.stop, op.step))
        for index in range(start, stop, step):
            self.known[op.body.params[0]] = np.full(self.threads, index, np.int64)
            self.block(op.body, mask)

    def _one(self, value: Value) -> int:
        """What a value is for all threads."""
        known = self.value(value)
        if known is None or (known != known[0]).any():
            raise _Unknown
        return int(known[0])

    def _access(self, op: Load | Store, mask: Array) -> None:
        type_ = memory_type(op.memory)
        if op.memory is self.buffer:
            if self.inside:
                self._touch(op, mask)
        elif type_.space is Space.LOCAL and type_.shape == (1,) and type_.dtype.is_integer:
            before = self.variables.get(op.memory)
            if isinstance(op, Load):
                if before is not None:
                    self.known[op.result] = before
                return
            value = self.value(op.value)
            if value is not None and (before is not None or mask.all()):
                old = value if before is None else before
                self.variables[op.memory] = np.where(mask, value, old)
            else:
                self.variables.pop(op.memory, None)

    def _touch(self, op: Load | Store, mask: Array) -> None:
        indices = [self.value(index) for index in op.indices]
        if any(index is None for index in indices):
            raise _Unknown
        coordinates = tuple(index[mask] for index in indices if index is not None)
        threads = np.arange(self.threads)[mask]
        access = Access.READ if isinstance(op, Load) else Access.WRITE
        trips = np.full(len(threads), self.trip, np.int64)
        self.found[access].append(Accessed(coordinates, threads, trips))

    def _compute(self, op: Elementwise) -> None:
        inputs = [self.value(v) for v in op.inputs]
        if any(x is None for x in inputs):
            return
        value = np.broadcast_to(np.asarray(op.evaluate(*inputs)), (self.threads,))
        if wraps(op.result, value):
            raise _Unknown
        self.known[op.result] = value.astype(np.int64)

    def value(self, value: Value) -> Array | None:
        """An integer as each thread has it, None where that is not known."""
        number = constant_of(value)
        if number is None:
            return self.known.get(value)
        return np.full(self.threads, number, np.int64) if not isinstance(number, float) else None

    def _forget(self, op: Op) -> None:
        """What an op does to variables is not known."""
        for inner in op.walk():
            if isinstance(inner, Store):
                self.variables.pop(inner.memory, None)
