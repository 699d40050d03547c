"""Signed integers that may overflow are computed as unsigned ones: they wrap.

Integers of the IR wrap around; in C a signed sum, difference or product that overflows means nothing,
and compilers take that it never does: `a + 1 > a` is true to them. Needs a program of thread level
whose arithmetic is final, so that it runs behind all simplification. Before and after, with %a from
memory, %bx the index of a block:

    %0 = add %a, 1 : i32                   |   %0 = cast %a <dtype = u32> : u32
    %1 = compare %0, %a <"gt"> : bool      |   %1 = add %0, 1 : u32
    %2 = mul %bx, 128 : i32                |   %2 = cast %1 <dtype = i32> : i32
                                           |   %3 = compare %2, %a <"gt"> : bool
                                           |   %4 = mul %bx, 128 : i32

Indices made of symbols, block and thread numbers and loop counters stay signed, so that compilers may
widen them: extents are below `SYMBOL_LIMIT` and tensors as large as their launch class says, hence
nothing overflows in them that the ranges here could not see. A product of the same numbers that says
neither where something is (an index of memory, a bound of a loop) nor whether (a condition) is data.
So is a product with a constant, but for extents of tiles, or a sum with one larger than any tile, that
says only whether and may overflow; and a product with so large a constant wherever it is: generators of
random numbers multiply so.

Loops count in 64 bits where the index may pass 2^31 behind the last trip, by steps above 1 to an end that
is data: it would start over, below the end.

    for %lo, %n, 3 (%i: i32) {             |   %0 = cast %lo <dtype = i64> : i64
      ...                                  |   %1 = cast %n <dtype = i64> : i64
                                           |   for %0, %1, 3 (%j: i64) {
                                           |     %i = cast %j <dtype = i32> : i32
                                           |     ...

Shifts by amounts that may be no bit's number, which mean nothing in C either and differ between
machines, are by one that is: what is shifted out leaves 0, or the sign.

    %0 = shift_left %a, %n : u32           |   %0 = compare %n, 32 <"lt"> : bool
                                           |   %1 = bit_and %n, 31 : u32
                                           |   %2 = shift_left %a, %1 : u32
                                           |   %3 = select %0, %2, 0 : u32
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..ir.core import Access, Block, Constant, Op, Program, Value, constant, walk
from ..ir.dtypes import DType, find_dtype, i64, u16, u32
from ..ir.ops import arith
from ..ir.ops.arith import element_dtype
from ..ir.ops.control import (
    Assume,
    DeviceAssert,
    For,
    HardwareBlock,
    If,
    Print,
    Symbol,
    ThreadId,
    WarpUniform,
    While,
    Yield,
)
from ..ir.ops.memory import Alloc, Atomic, Load, Store
from ..ir.ops.thread import FillRegisters, Shuffle, ShuffleXor
from ..ir.rewrite import Answer, substitute, transform
from ..ir.types import MemoryType, ScalarType, Space
from .context import PassContext
from .ranges import bounds_of
from .value_ranges import ValueRanges, exact_range, value_ranges

_LARGEST_TILE = 1 << 16
_INDICES = (Symbol, ThreadId, HardwareBlock, Alloc)
_MAY_OVERFLOW = (arith.Add, arith.Sub, arith.Mul, arith.Neg, arith.Abs)


def wrap_integers(program: Program, context: PassContext) -> Program:
    """The program with integers that may overflow computed as unsigned ones, loops that end, and
    total shifts."""
    ranges = value_ranges(program.body, program.multiples)
    data = _data_of(program, ranges)
    loops = (op for op in walk(program.body) if isinstance(op, For))
    wide = {op.body.params[0] for op in loops if _index_overflows(op, data, ranges)}
    unsigned: dict[Value, Value] = {}  # of what this pass has made signed again

    def rule(op: Op) -> Answer:
        if isinstance(op, (arith.ShiftLeft, arith.ShiftRight)):
            return _total_shift(op, ranges)
        if isinstance(op, For):
            return _wide_loop(op) if op.body.params[0] in wide else None
        if not isinstance(op, _MAY_OVERFLOW) or not isinstance(op.result.type, ScalarType):
            return None
        if op.result not in data or not _overflows(op, ranges):
            return None
        dtype = element_dtype(op.result)
        wraps = _unsigned(dtype)
        ops: list[Op] = []
        operands = tuple(_as_unsigned(v, wraps, ops, unsigned) for v in op.inputs)
        negated = isinstance(op, (arith.Neg, arith.Abs))
        joined = arith.Sub(constant(0, wraps), *operands) if negated else type(op)(*operands)
        ops += [joined, arith.Cast(joined.result, dtype=dtype)]
        unsigned[ops[-1].result] = joined.result
        if isinstance(op, arith.Abs):
            below = arith.Compare(op.x, constant(0, dtype), predicate="lt")
            ops += [below, arith.Select(below.result, ops[-1].result, op.x)]
        return ops

    body = transform(program.body, rule)
    return program if body is program.body else program.with_body(body)


def _total_shift(op: arith.ShiftLeft | arith.ShiftRight, ranges: ValueRanges) -> Answer:
    """A shift by an amount that C knows, and what is left of x where all of it is shifted out."""
    dtype = element_dtype(op.result)
    if not isinstance(op.result.type, ScalarType):
        return None
    width, amounts = max(dtype.bits, 32), ranges.of(op.y)  # C computes with narrow types as int
    if amounts.low >= 0 and amounts.high < width:
        return None
    known = _unsigned(dtype)
    amount = arith.Cast(op.y, dtype=known)
    last = constant(width - 1, known)
    if dtype.kind == "int" and isinstance(op, arith.ShiftRight):
        nearest = arith.Min(amount.result, last)
        by = arith.Cast(nearest.result, dtype=dtype)
        return [amount, nearest, by, arith.ShiftRight(op.x, by.result)]
    inside = arith.Compare(amount.result, last, predicate="le")
    masked = arith.BitAnd(amount.result, last)
    by = arith.Cast(masked.result, dtype=dtype)
    shifted = type(op)(op.x, by.result)
    kept = arith.Select(inside.result, shifted.result, constant(0, dtype))
    return [amount, inside, masked, by, shifted, kept]


def _index_overflows(loop: For, data: set[Value], ranges: ValueRanges) -> bool:
    """Whether the index of a loop may be more than its type holds behind the last trip."""
    dtype = element_dtype(loop.body.params[0])
    limits = (loop.stop, loop.step)
    if dtype.bits > 32 or not any(v in data or _is_large(v) for v in limits):
        return False
    stop, step = map(ranges.of, limits)
    return stop.high - 1 + step.high > bounds_of(dtype)[1]


def _wide_loop(loop: For) -> Answer:
    """The loop with an index of 64 bits, which its body sees as one of its own type."""
    casts: list[Op] = []
    start, stop, step = (_as_wide(v, casts) for v in (loop.start, loop.stop, loop.step))
    index = loop.body.params[0]
    wide = Value(ScalarType(i64), index.hint)
    narrow = arith.Cast(wide, dtype=element_dtype(index))
    body = substitute(loop.body, {index: narrow.result})
    body = Block((wide, *body.params[1:]), (narrow, *body.ops))
    return [*casts, loop.replace(start=start, stop=stop, step=step, body=body)]


def _as_wide(value: Value, ops: list[Op]) -> Value:
    if isinstance(value, Constant):
        return constant(value.value, i64)
    ops.append(arith.Cast(value, dtype=i64))
    return ops[-1].results[0]


def _unsigned(dtype: DType) -> DType:
    """The dtype whose arithmetic is that of `dtype`, and wraps in C."""
    return u32 if dtype.bits < 32 else find_dtype(f"u{dtype.bits}")


def _as_unsigned(value: Value, dtype: DType, ops: list[Op], known: dict[Value, Value]) -> Value:
    if isinstance(value, Constant):
        assert isinstance(value.value, int)
        return constant(value.value % (1 << dtype.bits), dtype)
    if value in known and known[value].type == ScalarType(dtype):
        return known[value]
    ops.append(arith.Cast(value, dtype=dtype))
    return ops[-1].result


def _overflows(op: Op, ranges: ValueRanges) -> bool:
    """Whether C's arithmetic may overflow in an op."""
    dtype = element_dtype(op.results[0])
    # C computes with narrow types as int, which only products of 16 bits without sign overflow.
    if dtype.bits < 32:
        return isinstance(op, arith.Mul) and dtype == u16
    if dtype.kind != "int":
        return False
    found = exact_range(op, ranges.of)
    low, high = bounds_of(dtype)
    return found is None or found.low < low or found.high > high


# Which values are data -----------------------------------------------------------------------------


def _data_of(program: Program, ranges: ValueRanges) -> set[Value]:
    """The values that are not made of indices alone, or are none themselves."""
    places = _settled(program, set(), partial(_visit_backwards, guards=False))
    guarded = _settled(program, set(places), partial(_visit_backwards, guards=True))
    found = {v for v in program.params if isinstance(v.type, ScalarType)}
    seeds = (
        op
        for op in walk(program.body)
        if _is_no_index(op, places, guarded) and _overflows(op, ranges)
    )
    found.update(v for op in seeds for v in op.results)
    return _settled(program, found, _visit)


def _is_no_index(op: Op, places: set[Value], guarded: set[Value]) -> bool:
    """Whether a sum or product of indices is data: no part of what says where, or (unless a constant is
    in it) whether.
    """
    if not isinstance(op, (arith.Add, arith.Sub, arith.Mul)):
        return False
    product, large = isinstance(op, arith.Mul), any(map(_is_large, op.inputs))
    constants = [v for v in op.inputs if isinstance(v, Constant)]
    kept = op.result in (guarded if all(map(_is_extent, constants)) else places)
    return (product or large) and not kept or (product and large)


def _is_extent(value: Constant) -> bool:
    """Whether a number is as extents of tiles are: what it counts is compared with a tensor's extent."""
    return isinstance(value.value, int) and 0 < value.value <= 1024 and value.value % 8 == 0


def _settled(
    program: Program, found: set[Value], visit: Callable[[Block, set[Value]], None]
) -> set[Value]:
    """What rounds over a program add to `found` until nothing new comes."""
    while True:
        before = len(found)
        visit(program.body, found)
        if len(found) == before:
            return found


def _visit(block: Block, found: set[Value]) -> None:
    """One round: what is made of data is data."""
    for op in block.ops:
        match op:
            case For() | While():
                end = op.body.terminator
                again = end.inputs if end is not None else ()
                params = op.body.params[1:] if isinstance(op, For) else op.body.params
                _carry(params, op.inits, found)
                _carry(params, again, found)
                _carry(op.results, op.inits, found)
                _carry(op.results, again, found)
                if isinstance(op, While):
                    _carry(op.condition.params, params, found)
            case If():
                for region in op.regions:
                    end = region.terminator
                    _carry(op.results, end.inputs if end is not None else (), found)
            case arith.Elementwise() | WarpUniform():
                if any(v in found for v in op.inputs):
                    found.add(op.result)
            case Load() if _is_local(op.memory):
                _carry(op.results, (op.memory,), found)
            case Store() if _is_local(op.memory):
                _carry((op.memory,), (op.value,), found)
            case _ if not isinstance(op, _INDICES):
                found.update(op.results)
                found.update(
                    e.memory for e in op.effects() if e.access is Access.WRITE and e.memory
                )
        for region in op.regions:
            _visit(region, found)


def _visit_backwards(block: Block, found: set[Value], guards: bool) -> None:
    """One round: what says where, and what that is made of; with `guards` also what says whether."""
    for op in reversed(block.ops):
        match op:
            case For() | While():
                end = op.body.terminator
                again = end.inputs if end is not None else ()
                params = op.body.params
                if isinstance(op, For):
                    found.update((op.start, op.stop, op.step))
                    params = params[1:]
                else:
                    # What it compares bounds the loop, as a stop does.
                    compared = (c for c in op.condition.ops if isinstance(c, arith.Compare))
                    found.update(v for c in compared for v in c.inputs)
                    _carry(params, op.condition.params, found)
                for made in (op.inits, again):
                    _carry(made, op.results, found)
                    _carry(made, params, found)
            case If():
                found.add(op.condition)
                for region in op.regions:
                    end = region.terminator
                    _carry(end.inputs if end is not None else (), op.results, found)
            case Yield() | Print() | DeviceAssert() | Assume():
                pass
            case arith.Compare() if not guards:
                pass
            case arith.Elementwise() | WarpUniform():
                _carry(op.inputs, (op.result,) * len(op.inputs), found)
            case _:
                _mark(op, found)
        for region in op.regions:
            _visit_backwards(region, found, guards)


def _mark(op: Op, found: set[Value]) -> None:
    """An access of memory, or an exchange: its operands say where, but what it moves only if it is read
    as an index there.
    """
    match op:
        case Store() | Atomic() | FillRegisters():
            moved = [op.value]
        case Shuffle() | ShuffleXor():
            moved = [op.x]
        case _:
            moved = []
    rest = list(op.inputs)
    for value in moved:
        rest.remove(value)
    local = [v for v in rest if _is_local(v)]
    found.update(v for v in rest if isinstance(v.type, ScalarType))
    if any(v in found for v in (*op.results, *local)):
        found.update((*local, *moved))


def _carry(values: tuple[Value, ...], sources: tuple[Value, ...], found: set[Value]) -> None:
    found.update(v for v, source in zip(values, sources, strict=False) if source in found)


def _is_local(memory: Value) -> bool:
    return isinstance(memory.type, MemoryType) and memory.type.space is Space.LOCAL


def _is_large(value: Value) -> bool:
    number = value.value if isinstance(value, Constant) else 0
    return isinstance(number, int) and abs(number) > _LARGEST_TILE
