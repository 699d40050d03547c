from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.interpreter.programs import number, tensor
from tests.passes.lowering import FULL, SHORT, Bench, Lowered, random
from tilec.errors import TargetUnsupported
from tilec.ir.core import Block, Level, Op, Program, Value, constant
from tilec.ir.dtypes import DType, bf16, f16, f32, i8, i32
from tilec.ir.layout import (
    RegisterLayout,
    SharedLayout,
    blocked,
    mfma,
    mma_m16n8,
    replicated,
    wgmma_accumulator,
)
from tilec.ir.ops.arith import Add, Cast, Compare, Mul, Neg, Select
from tilec.ir.ops.control import For, If, ThreadId, Yield
from tilec.ir.ops.memory import Alloc, Load, Store, memory_type
from tilec.ir.ops.nvidia import LdMatrix, StMatrix
from tilec.ir.ops.thread import ConvertRegisters, FillRegisters, VectorLoad
from tilec.ir.ops.tile import ExtractTile, Fill, InsertTile, Splat, Undefined
from tilec.ir.types import Space, TileType
from tilec.passes.lower_tile_moves import matrix_orientation

ACCUMULATOR = wgmma_accumulator(64)
MMA = mma_m16n8("c", 16, 16).repeat((2, 2), "thread").repeat((2, 4), "register")
MFMA = mfma("c", 32, 32, 8, 16).repeat((1, 2), "thread").repeat((2, 1), "register")
ROW_BROADCAST = blocked((16, 32), 64, 4).reduce(1, keep=True)  # [16, 1], held by many threads
LAYOUTS = {
    "vectors": blocked((32, 64), 128, 8),
    "wgmma": ACCUMULATOR,
    "mma": MMA,
    "mfma": MFMA,
    "row": blocked((1, 128), 64, 2),
    "broadcast": ROW_BROADCAST,
    "all": replicated((4, 6), 32),
    "odd": blocked((5, 12), 32, 4),
}


def moved(
    layout: RegisterLayout,
    dims: tuple[int | str, int | str],
    dtype: DType = f16,
    shared: SharedLayout | None = None,
    change: Callable[[Bench, Value], Value] = lambda s, tile: tile,
    out: DType | None = None,
) -> Program:
    """C = change(A) by tiles in registers; with `shared`, A and C both go through shared memory."""
    a, c = tensor("A", dtype, *dims), tensor("C", out or dtype, *dims)
    s = Bench()
    rows, columns = layout.shape
    m, n = (s.symbol(d) if isinstance(d, str) else s.value(d) for d in dims)
    with s.launch(s.ceildiv(n, columns), s.ceildiv(m, rows), threads=layout.threads) as (bx, by, _):
        corner = (s.mul(by, rows), s.mul(bx, columns))
        if shared is None:
            s.store_tile(change(s, s.load_tile(a, corner, layout)), c, corner)
        else:
            tile, back = s.laid_out("S", dtype, shared), s.laid_out("R", out or dtype, shared)
            s.copy(a, corner, tile, (0, 0), layout.shape)
            s.barrier()
            s.store_tile(change(s, s.load_tile(tile, (0, 0), layout)), back, (0, 0))
            s.barrier()
            s.copy(back, (0, 0), c, corner, layout.shape)
    return s.program(a, c)


def check(lowered: Lowered, shape: tuple[int, int], dtype: DType, once: bool = True) -> None:
    a = random(dtype, *shape)
    c = np.full(shape, 99, dtype.numpy)
    machine = lowered.run(A=a, C=c)
    assert np.array_equal(a, c)
    assert not once or (machine.stored["C"] == 1).all()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
@pytest.mark.parametrize("assume", [True, False])
def test_tiles_from_and_to_tensors(layout: RegisterLayout, target: str, assume: bool) -> None:
    program = moved(layout, ("M", "N"))
    check(Lowered(program, target, FULL if assume else SHORT, assume), ragged(layout), f16)


def ragged(layout: RegisterLayout) -> tuple[int, int]:
    """A shape that tiles do not divide, with rows of whole vectors."""
    rows, columns = layout.shape
    return rows + 3, -(-(columns + 5) // 8) * 8


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("target", ["cuda:sm_90a", "hip:gfx942"])
def test_tiles_through_shared_memory(layout: RegisterLayout, target: str) -> None:
    shapes = [SharedLayout.row_major(layout.shape), SharedLayout.row_major(layout.shape, pad=8)]
    if layout.shape[1] % 64 == 0:
        shapes.append(SharedLayout.swizzled(layout.shape, 16, 128))
    for shared in shapes:
        lowered = Lowered(moved(layout, ("M", "N"), shared=shared), target, FULL)
        check(lowered, ragged(layout), f16)


def test_widths_follow_the_layout_and_the_tensor() -> None:
    counts = lambda lowered: {op.count for op in lowered.ops if isinstance(op, VectorLoad)}  # noqa: E731
    assert counts(Lowered(moved(LAYOUTS["vectors"], ("M", "N")))) == {8}
    assert counts(Lowered(moved(LAYOUTS["vectors"], ("M", "N"), f32))) == {4}
    assert counts(Lowered(moved(LAYOUTS["vectors"], ("M", 100)))) == {4}
    assert counts(Lowered(moved(ACCUMULATOR, ("M", "N")))) == {2}
    assert counts(Lowered(moved(MFMA, ("M", "N")))) == set()


def test_copies_of_a_tile_are_stored_once() -> None:
    lowered = Lowered(moved(LAYOUTS["all"], (4, 6)), passes=FULL)
    check(lowered, (4, 6), f16)
    assert lowered.count(If) == 1  # the first copy's threads


# Matrices -----------------------------------------------------------------------------------------


def test_which_layouts_are_matrices() -> None:
    a = mma_m16n8("a", 16, 16)
    assert matrix_orientation(a.repeat((4, 1), "thread")) == "rows"
    assert matrix_orientation(ACCUMULATOR) == "rows"
    assert matrix_orientation(MMA) == "rows"
    assert matrix_orientation(a.transpose((1, 0))) == "transposed"
    assert matrix_orientation(MFMA) == ""
    assert matrix_orientation(LAYOUTS["vectors"]) == ""


@pytest.mark.parametrize("copies", [(1, 1), (2, 3)])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_and_stmatrix(copies: tuple[int, int], transposed: bool) -> None:
    fragment = mma_m16n8("a", 16, 16)
    layout = (fragment.transpose((1, 0)) if transposed else fragment).repeat(copies, "register")
    layout = layout.repeat((2, 1), "thread")
    shared = SharedLayout.row_major(layout.shape, pad=8)
    lowered = Lowered(moved(layout, ("M", "N"), shared=shared), "cuda:sm_90a", FULL)
    assert {op.transposed for op in lowered.ops if isinstance(op, LdMatrix)} == {transposed}
    assert {op.transposed for op in lowered.ops if isinstance(op, StMatrix)} == {transposed}
    check(lowered, (70, 104), f16)
    assert not Lowered(moved(layout, ("M", "N"), shared=shared), "hip:gfx942").count(LdMatrix)


def test_matrices_of_other_widths_are_not_moved_so() -> None:
    shared = SharedLayout.row_major(ACCUMULATOR.shape)
    lowered = Lowered(moved(ACCUMULATOR, ("M", "N"), f32, shared), "cuda:sm_90a")
    assert not lowered.count(LdMatrix) and not lowered.count(StMatrix)
    check(lowered, (64, 64), f32)


# Elementwise --------------------------------------------------------------------------------------


def compute(s: Bench, x: Value) -> Value:
    """select(x < 3, -(x + x), x * 2 + 1) with a splat and scalars."""
    assert isinstance(x.type, TileType)
    emit = lambda op: s.emit(op).result  # noqa: E731
    two = emit(Splat(constant(2, x.type.dtype), shape=x.type.shape, layout=x.type.layout))
    small = emit(Compare(x, constant(3, x.type.dtype), predicate="lt"))
    negated = emit(Neg(emit(Add(x, x))))
    other = emit(Add(emit(Mul(x, two)), constant(1, x.type.dtype)))
    return emit(Select(small, negated, other))


@pytest.mark.parametrize("dtype", [f16, bf16, f32, i8, i32], ids=str)
def test_elementwise(dtype: DType) -> None:
    for passes in (SHORT, FULL):
        lowered = Lowered(moved(MMA, ("M", "N"), dtype, change=compute), passes=passes)
        a = random(dtype, 64, 64)
        c = np.zeros_like(a)
        lowered.run(A=a, C=c)
        x = a.astype(np.float64)
        assert np.array_equal(c.astype(np.float64), np.where(x < 3, -2 * x, 2 * x + 1))
    assert not lowered.count(FillRegisters)  # users of a splat take its scalar


@pytest.mark.parametrize(
    ("dtype", "out"), [(f32, f16), (f16, f32), (f32, bf16), (f32, i8), (i8, f16)]
)
def test_casts_convert_all_registers_at_once(dtype: DType, out: DType) -> None:
    change = lambda s, x: s.emit(Cast(x, dtype=out)).result  # noqa: E731
    lowered = Lowered(moved(MMA, ("M", "N"), dtype, change=change, out=out), passes=FULL)
    assert [op.count for op in lowered.ops if isinstance(op, ConvertRegisters)] == [MMA.registers]
    a = random(dtype, 64, 64)
    c = np.zeros((64, 64), out.numpy)
    lowered.run(A=a, C=c)
    assert np.array_equal(c, a.astype(out.numpy))


def test_bools_convert_one_by_one() -> None:
    def change(s: Bench, x: Value) -> Value:
        positive = s.emit(Compare(x, constant(0, f32), predicate="gt")).result
        return s.emit(Cast(positive, dtype=f32)).result

    a, c = random(f32, 64, 64), np.zeros((64, 64), np.float32)
    Lowered(moved(MMA, ("M", "N"), f32, change=change), passes=FULL).run(A=a, C=c)
    assert np.array_equal(c, (a > 0).astype(np.float32))


@pytest.mark.parametrize("offset", [0, 16, 48])
@pytest.mark.parametrize(
    "whole", [ACCUMULATOR, MMA, blocked((64, 8), 128, 2).repeat((1, 8), "register")]
)
def test_slices_of_tiles(offset: int, whole: RegisterLayout) -> None:
    """The 16 columns at `offset`, doubled and put back."""
    sliced = whole.slice_registers(1, offset, 16)
    assert sliced is not None

    def change(s: Bench, x: Value) -> Value:
        part = s.emit(ExtractTile(x, offsets=(0, offset), shape=(64, 16), layout=sliced[0])).result
        return s.emit(InsertTile(s.emit(Add(part, part)).result, x, offsets=(0, offset))).result

    a, c = random(f16, 64, 64), np.zeros((64, 64), np.float16)
    Lowered(moved(whole, (64, 64), change=change), passes=FULL).run(A=a, C=c)
    expected = a.copy()
    expected[:, offset : offset + 16] *= 2
    assert np.array_equal(c, expected)


# Out of SSA ---------------------------------------------------------------------------------------

SMALL = blocked((16, 32), 64, 8)


def arrays(lowered: Lowered) -> int:
    """Local arrays at thread level."""
    return sum(
        isinstance(op, Alloc) and memory_type(op.result).space is Space.LOCAL for op in lowered.ops
    )


def loop(
    s: Bench, count: int, inits: tuple[Value, ...], body: Callable[..., tuple[Value, ...]]
) -> tuple[Value, ...]:
    params = tuple(Value(v.type, v.hint) for v in inits)
    index = number("k")
    with s.region() as ops:
        s.emit(Yield(body(index, *params)))
    return s.emit(
        For(s.value(0), s.value(count), s.value(1), inits, Block((index, *params), tuple(ops)))
    ).results


def doubled(s: Bench, x: Value) -> Value:
    return s.emit(Add(x, x)).result


def run_small(change: Callable[[Bench, Value], Value]) -> tuple[Lowered, np.ndarray, np.ndarray]:
    lowered = Lowered(moved(SMALL, (16, 32), f32, change=change))
    a, c = random(f32, 16, 32), np.zeros((16, 32), np.float32)
    lowered.run(A=a, C=c)
    full, c2 = Lowered(moved(SMALL, (16, 32), f32, change=change), passes=FULL), np.zeros_like(c)
    full.run(A=a, C=c2)
    assert np.array_equal(c, c2)
    return lowered, a, c


def test_a_carried_tile_is_one_array() -> None:
    lowered, a, c = run_small(lambda s, x: loop(s, 3, (x,), lambda k, y: (doubled(s, y),))[0])
    assert np.array_equal(c, a * 8)
    assert arrays(lowered) == 1 and not lowered.count(ConvertRegisters)


def test_a_tile_that_is_needed_after_a_loop_is_copied_before_it() -> None:
    def change(s: Bench, x: Value) -> Value:
        (y,) = loop(s, 3, (x,), lambda k, y: (doubled(s, y),))
        return s.emit(Add(x, y)).result

    lowered, a, c = run_small(change)
    assert np.array_equal(c, a * 9)
    assert lowered.count(ConvertRegisters) == 1 and not lowered.remarks


def test_the_old_value_used_after_the_new_one_is_made() -> None:
    """A copy inside the loop, with a remark where it is of many registers."""

    def change(s: Bench, x: Value) -> Value:
        def body(k: Value, y: Value, z: Value) -> tuple[Value, ...]:
            new = doubled(s, y)
            return new, s.emit(Add(z, s.emit(Mul(y, new)).result)).result

        return loop(s, 3, (x, x), body)[1]

    _, a, c = run_small(change)
    expected, y = a.copy(), a.copy()
    for _ in range(3):
        expected, y = expected + y * (2 * y), 2 * y
    assert np.array_equal(c, expected)


def test_remark_on_copies_in_a_loop() -> None:
    layout = blocked((64, 64), 64, 4)

    def change(s: Bench, x: Value) -> Value:
        def body(k: Value, y: Value, z: Value) -> tuple[Value, ...]:
            return z, y

        return loop(s, 3, (x, doubled(s, x)), body)[0]

    lowered = Lowered(moved(layout, (64, 64), f32, change=change))
    assert {r.code for r in lowered.remarks} == {"TLC0433"}


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_carried_tiles_that_change_places(count: int) -> None:
    def change(s: Bench, x: Value) -> Value:
        y = doubled(s, x)
        z = doubled(s, y)
        first, second, third = loop(s, count, (x, y, z), lambda k, p, q, r: (q, r, p))
        hundred = s.emit(Mul(first, constant(100, f32))).result
        ten = s.emit(Mul(second, constant(10, f32))).result
        return s.emit(Add(s.emit(Add(hundred, ten)).result, third)).result

    _, a, c = run_small(change)
    factors = [1, 2, 4]
    factors = factors[count % 3 :] + factors[: count % 3]
    assert np.array_equal(c, a * (100 * factors[0] + 10 * factors[1] + factors[2]))


def branch(
    s: Bench, condition: Value, then: Callable[[], Value], orelse: Callable[[], Value]
) -> Value:
    blocks = []
    for make in (then, orelse):
        with s.region() as ops:
            s.emit(Yield((make(),)))
        blocks.append(Block((), tuple(ops)))
    return s.emit(If(condition, *blocks)).result


def test_branches_share_an_array() -> None:
    def change(s: Bench, x: Value) -> Value:
        def body(k: Value, y: Value) -> tuple[Value, ...]:
            odd = s.compare("eq", s.floormod(k, 2), 1)
            return (branch(s, odd, lambda: doubled(s, y), lambda: y),)

        return loop(s, 4, (x,), body)[0]

    lowered, a, c = run_small(change)
    assert np.array_equal(c, a * 4)
    assert arrays(lowered) == 1 and not lowered.count(ConvertRegisters)


def test_a_branch_that_gives_what_is_used_after() -> None:
    def change(s: Bench, x: Value) -> Value:
        big = s.compare("ge", s.emit(ThreadId()).result, 0)
        y = branch(s, big, lambda: doubled(s, x), lambda: x)
        return s.emit(Add(x, y)).result

    _, a, c = run_small(change)
    assert np.array_equal(c, a * 3)


def test_splats_are_set_where_they_are_used() -> None:
    """One zero that starts two loops needs no copy, and is not kept over the first of them."""

    def change(s: Bench, x: Value) -> Value:
        assert isinstance(x.type, TileType)
        zero = s.emit(Splat(constant(0, f32), shape=x.type.shape, layout=x.type.layout)).result
        one = loop(s, 3, (zero,), lambda k, y: (s.emit(Add(y, x)).result,))[0]
        two = loop(s, 2, (zero,), lambda k, y: (s.emit(Add(y, one)).result,))[0]
        return two

    lowered, a, c = run_small(change)
    assert np.array_equal(c, a * 6)
    assert not lowered.count(ConvertRegisters) and lowered.count(FillRegisters) == 2


def test_inserting_into_what_is_still_needed() -> None:
    part = SMALL.slice_registers(1, 0, 32)
    assert part is not None

    def change(s: Bench, x: Value) -> Value:
        y = s.emit(InsertTile(doubled(s, x), x, offsets=(0, 0))).result
        return s.emit(Add(x, y)).result

    _, a, c = run_small(change)
    assert np.array_equal(c, a * 3)


def test_undefined_tiles_cost_nothing() -> None:
    def change(s: Bench, x: Value) -> Value:
        assert isinstance(x.type, TileType)
        empty = s.emit(Undefined(type=x.type)).result
        return s.emit(InsertTile(x, empty, offsets=(0, 0))).result

    lowered, a, c = run_small(change)
    assert np.array_equal(a, c)
    assert lowered.count(ConvertRegisters) == 1


# The driver ---------------------------------------------------------------------------------------


class Odd(Op, name="tests.odd", level=Level.TILE):
    """An op that nobody lowers."""


def test_ops_without_a_lowering_are_refused() -> None:
    s = Bench()
    with s.launch(1, threads=32):
        s.emit(Odd())
    from tilec.ir.ops import builtin_registry
    from tilec.passes.context import PassContext
    from tilec.passes.lower_tiles import lower_tiles
    from tilec.target import TARGETS

    with pytest.raises(TargetUnsupported, match=r"tests\.odd has no lowering") as refused:
        lower_tiles(s.program(), PassContext(TARGETS["cuda:sm_80"], builtin_registry()))
    assert refused.value.code == "TLC0431" and refused.value.loc.known


def test_registered_rules_are_used() -> None:
    """A rule from outside the package: an op of its own, lowered to a store by one thread."""
    from tilec.ir.ops import builtin_registry
    from tilec.passes.context import PassContext
    from tilec.passes.lower_tiles import Lowering, lower_tiles
    from tilec.target import TARGETS

    c = tensor("C", f32, 4)
    s = Bench()
    with s.launch(1, threads=32):
        s.emit(Odd())
    registry = builtin_registry()

    def rule(op: Odd, lowering: Lowering) -> None:
        b = lowering.b
        with b.when(b.compare("eq", lowering.thread(), 3)):
            b.emit(Store(b.const(8.0, f32), c, (b.const(2),)))

    registry.table("lower")[Odd] = rule
    lowered = lower_tiles(s.program(c), PassContext(TARGETS["cuda:sm_80"], registry))
    stores = [op for launch in lowered.body.ops for op in launch.walk() if isinstance(op, Store)]
    assert len(stores) == 1 and not any(isinstance(op, (Fill, Load)) for op in stores)
