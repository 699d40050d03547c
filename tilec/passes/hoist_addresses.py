"""What says where a loop's copies begin, and stays as it is in the loop, is worked out before it.

Needs: tiles lowered, their loops whole. Leaves: in a loop that is not unrolled no division by anything but
a number, and no load of a tensor that the launch does not write, of which copies that threads start there
take their addresses or conditions, if it is the same in all of its trips. Each of its values is an element
of an array of the thread's, one for every trip of the unrolled loop around the copy.

    for 0, %n, 1 (%k) {                           %rows = alloc : local i32[4]
      for 0, 4, 1 <unroll = 0> (%i) {             for 0, 4, 1 <unroll = 0> (%i) {
        %m = add %first, %i                         %m = add %first, %i
        %y = floormod %m, %H                ->      store (floormod %m, max(%H, 1)), %rows[%i] }
        cp_async %s[...], %X[%y, %k] } }          for 0, %n, 1 (%k) {
                                                    for 0, 4, 1 <unroll = 0> (%i) {
                                                      cp_async %s[...], %X[(load %rows[%i]), %k] } }

The vendor's compiler leaves these where they are: a division may fail where the loop has no trip, and a load
may not be moved over a barrier. A producer has few registers: what is cheap is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Level, Op, Program, Value, at, constant_of, walk
from ..ir.ops.arith import DIVISIONS, Select, is_harmless
from ..ir.ops.control import For, If, Launch, map_launches
from ..ir.ops.memory import Alloc, Load
from ..ir.ops.nvidia import CpAsync, TensorMap, TmaStore
from ..ir.rewrite import in_order
from ..ir.types import MemoryType, ScalarType, Space
from .context import PassContext
from .dependence import is_global, slice_of, writes
from .gathers import divided
from .index_builder import IndexBuilder
from .spread_copies import unrolled_trips
from .value_ranges import ValueRanges, value_ranges

MOST_REGISTERS = 64  # of a thread, for what all copies of one loop need
MOST_TRIPS = 16  # of an unrolled loop of copies


def hoist_addresses(program: Program, context: PassContext) -> Program:
    """Does so for every copy that threads start in a loop."""
    assert program.level is Level.THREAD, "hoist_addresses works on threads' programs"
    ranges = value_ranges(program.body, context.multiples)
    return map_launches(program, lambda launch: _launch(launch, ranges))


def _launch(launch: Launch, ranges: ValueRanges) -> Launch:
    if not any(isinstance(op, CpAsync) for op in walk(launch.body)):
        return launch
    stored = {op.tensor_map for op in walk(launch.body) if isinstance(op, TmaStore)}
    maps = [op for op in walk(launch.body) if isinstance(op, TensorMap)]
    written = {*writes(launch), *(op.memory for op in maps if op.result in stored)}

    def block(body: Block) -> Block:
        ops: list[Op] = []
        for op in body.ops:
            new = op.map_regions(block)
            if isinstance(new, For) and new.unroll == 1:
                ops.extend(_Loop(new, written, ranges).hoisted())
            else:
                ops.append(new)
        return body.with_ops(ops)

    return launch.replace(body=block(launch.body))  # type: ignore[return-value]


class _Loop:
    """A loop that is not unrolled, and the copies in it that are in no such loop within it."""

    def __init__(self, loop: For, written: set[Value], ranges: ValueRanges) -> None:
        self.loop = loop
        self.written = written
        self.ranges = ranges
        self.inside = set(loop.body.params)
        for op in walk(loop.body):
            self.inside.update(op.results, *(region.params for region in op.regions))
        self.made_by: dict[Value, Op] = {}  # what does not change in the loop
        self.before = IndexBuilder()
        self.left = MOST_REGISTERS

    def hoisted(self) -> list[Op]:
        """The loop, behind what was in it."""
        with at(self.loop.loc):
            body = self._block(self.loop.body)
        if not self.before.ops:
            return [self.loop]
        return [*self.before.ops, self.loop.replace(body=body)]

    def _block(self, block: Block) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            if self._stays(op):
                self.made_by.update(dict.fromkeys(op.results, op))
            if isinstance(op, For) and 0 < unrolled_trips(op) <= MOST_TRIPS:
                op = self._copies(op)
            elif isinstance(op, If):
                op = op.map_regions(self._block)
            ops.append(op)
        return block.with_ops(ops)

    def _stays(self, op: Op) -> bool:
        """Whether an op gives the same in each trip of the loop (and of an unrolled one: at the same
        index).
        """
        known = all(v not in self.inside or v in self.made_by for v in op.inputs)
        reads = isinstance(op, Load) and is_global(op.memory) and op.memory not in self.written
        scalar = all(isinstance(v.type, ScalarType) for v in op.results)
        return known and not op.regions and scalar and bool(op.results) and (op.pure or reads)

    def _copies(self, loop: For) -> For:
        """An unrolled loop with the elements of arrays in place of what it need not compute."""
        if not any(isinstance(op, CpAsync) for op in loop.body.ops):
            return loop
        outer = dict(self.made_by)
        self.inside.discard(loop.body.params[0])
        for op in loop.body.ops:
            if self._stays(op):
                self.made_by.update(dict.fromkeys(op.results, op))
        found = list(self._worth(loop))
        new = self._replaced(loop, found) if found else loop
        self.made_by = outer
        self.inside.add(loop.body.params[0])
        return new

    def _worth(self, loop: For) -> Iterator[Value]:
        """What takes long to compute, of what ops that change with the loop use, as far as there are
        registers.
        """
        trips = unrolled_trips(loop)
        changing = [op for op in loop.body.ops if not self._stays(op)]
        used = {value: None for op in changing for i in op.walk() for value in i.inputs}
        for value in used:
            op = self.made_by.get(value)
            if op in loop.body.ops and any(map(_is_long, self._chain(value))):
                if trips > self.left:
                    return
                self.left -= trips
                yield value

    def _chain(self, *values: Value) -> list[Op]:
        """All that values are computed from within the loop, in order."""
        found: dict[Op, None] = {}
        seen: set[Value] = set()

        def operands(value: Value) -> Sequence[Value]:
            op = self.made_by.get(value)
            return op.inputs if op is not None else ()

        for value in (v for last in values for v in in_order(last, seen, operands)):
            seen.add(value)
            if value in self.made_by:
                found[self.made_by[value]] = None
        return list(found)

    def _replaced(self, loop: For, values: list[Value]) -> For:
        b, trips = self.before, unrolled_trips(loop)
        arrays = {}
        for value in values:
            assert isinstance(value.type, ScalarType)
            type_ = MemoryType(value.type.dtype, (trips,), Space.LOCAL)
            array = arrays[value] = b.emit(Alloc(type=type_)).result
            array.hint = value.hint or "address"
        start, step = (int(constant_of(v) or 0) for v in (loop.start, loop.step))
        assert (start, step) == (0, 1), "loops of copies count from 0"
        with b.loop(0, trips, hint=loop.body.params[0].hint, unroll=0) as index:
            names: Renaming = {loop.body.params[0]: index}
            for op in self._chain(*values):
                b.emit(clone_op(self._total(op, names), names))
            for value, array in arrays.items():
                b.write(names[value], array, index)
        inner = IndexBuilder()
        instead: Renaming = {}
        for value, array in arrays.items():
            instead[value] = inner.read(array, loop.body.params[0])
        for op in loop.body.ops:
            if not any(result in arrays for result in op.results):
                inner.emit(clone_op(op, instead))
        statements = [op for op in inner.ops if not op.pure and not isinstance(op, Load)]
        body = Block(loop.body.params, tuple(slice_of(statements, inner.ops)))
        return loop.replace(body=body)  # type: ignore[return-value]

    def _total(self, op: Op, names: Renaming) -> Op:
        """A division that does not fail where the loop has no trip."""
        if not isinstance(op, DIVISIONS) or is_harmless(op) or self._is_never_zero(op.y):
            return op
        return divided(op, names.get(op.y, op.y), self.ranges.of(op.y).low, self.before)

    def _is_never_zero(self, divisor: Value) -> bool:
        """Whether a divisor is known to be, or has been made, another number."""
        made = self.made_by.get(divisor)
        if made is None:
            return self.ranges.of(divisor).low > 0
        return (
            isinstance(made, Select) and constant_of(made.x) == 1
        )  # else of where a branch is taken


def _is_long(op: Op) -> bool:
    return isinstance(op, Load) or (isinstance(op, DIVISIONS) and constant_of(op.y) is None)
