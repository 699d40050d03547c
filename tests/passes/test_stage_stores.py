"""Stores by TMA through staging buffers: what is stored, in what order, and that no order loses
data.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, run, tensor
from tilec.errors import HazardError
from tilec.ir.core import Block, Op, Program, Value, constant, walk
from tilec.ir.dtypes import DType, f16, f32, i8, i32
from tilec.ir.layout import RegisterLayout, blocked, tma_boxes, wgmma_accumulator
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.control import Launch, Role, ThreadId, Yield
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.nvidia import BulkWait, FenceProxyAsync
from tilec.ir.ops.thread import Barrier
from tilec.ir.ops.tile import Copy, ExtractTile, LoadTile, StoreTile
from tilec.ir.rewrite import substitute
from tilec.ir.verify import verify
from tilec.passes.check_hazards import check_synchronisation
from tilec.passes.context import PassContext, Remark
from tilec.passes.stage_stores import stage_stores
from tilec.target import find_target

TALL, WIDE = (
    wgmma_accumulator(256).repeat((2, 1), "thread"),
    wgmma_accumulator(128).repeat((1, 2), "thread"),
)


def stored(
    layouts: list[RegisterLayout],
    dtype: DType | tuple[DType, ...] = f16,
    turns: int = 3,
    in_turn: bool = False,
) -> Program:
    """C_n[turn] = A_n[turn] for `turns` turns, tiles in registers of a consumer role of 256
    threads; `in_turn`: of two tensors one in even turns, the other in odd ones.
    """
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,) * len(layouts)
    s = Sketch()
    tensors = []
    with s.launch(1, threads=256, launched_threads=384) as _:
        with s.region() as ops:
            with s.loop(0, turns, hint="turn") as turn:
                for n, (layout, kind) in enumerate(zip(layouts, dtypes, strict=True)):
                    rows, columns = layout.shape
                    a, c = (tensor(f"{x}{n}", kind, rows * turns, columns) for x in "AC")
                    tensors += [a, c]
                    at = (s.mul(turn, rows), s.const(0))
                    own = s.compare("eq", s.floormod(turn, 2), n)
                    with s.when(own) if in_turn else nullcontext():
                        tile = s.emit(
                            LoadTile(a, at, shape=layout.shape, dims=(0, 1), layout=layout)
                        ).result
                        s.emit(StoreTile(tile, c, at, dims=(0, 1), instruction="tma"))
            s.emit(Yield(()))
        s.emit(
            Role(Block((), tuple(ops)), label="consumer", first_thread=0, threads=256, barrier=1)
        )
        s.emit(Role(Block((), (Yield(()),)), label="producer", first_thread=256, threads=128))
    return s.program(*tensors)


def staged(
    layouts: list[RegisterLayout], dtype: DType | tuple[DType, ...] = f16, in_turn: bool = False
) -> tuple[Program, list[Remark], PassContext]:
    remarks: list[Remark] = []
    registry = builtin_registry()
    context = PassContext(find_target("cuda:sm_90a"), registry, remark=remarks.append)
    program = stage_stores(stored(layouts, dtype, in_turn=in_turn), context)
    verify(program, registry)
    return program, remarks, context


def ops_of(program: Program, kind: type[Op]) -> list[Op]:
    return [op for op in walk(program.body) if isinstance(op, kind)]


def run_as(program: Program, thread: int, **tensors: np.ndarray) -> None:
    """Runs the program with what `thread` does done for the block: the interpreter of tiles has no
    threads.
    """
    names = {op.results[0]: constant(thread, i32) for op in ops_of(program, ThreadId)}
    run(program.with_body(substitute(program.body, names)), **tensors)


def run_by_warpgroups(program: Program, **tensors: np.ndarray) -> None:
    """What the first thread of each warpgroup stores."""
    for thread in (0, 128):
        run_as(program, thread, **tensors)


@pytest.mark.parametrize("dtype", [f16, f32])
@pytest.mark.parametrize("columns", [256, 64, 192, 96, 24])
def test_every_element_is_stored(columns: int, dtype: DType) -> None:
    program, remarks, context = staged([wgmma_accumulator(columns).repeat((2, 1), "thread")], dtype)
    a = np.random.default_rng(columns).standard_normal((384, columns)).astype(dtype.numpy)
    c = np.full_like(a, np.nan)
    run_as(program, 0, A0=a, C0=c)
    assert not np.array_equal(a, c), "a warpgroup stores its own rows"
    run_by_warpgroups(program, A0=a, C0=c)
    assert np.array_equal(a, c) and not remarks
    check_synchronisation(program, context)


def test_slabs_are_boxes_of_swizzled_buffers() -> None:
    program, _, _ = staged([TALL])
    buffers = [op for op in ops_of(program, Alloc) if isinstance(op, Alloc)]
    assert [b.type.shape for b in buffers] == [(128, 64), (128, 64)] and all(
        b.managed for b in buffers
    )
    for buffer in buffers:
        assert buffer.type.layout is not None
        boxes = tma_boxes(buffer.type.layout, 16)
        assert boxes is not None and boxes.box == (128, 64) and boxes.span == 128
    extracts = [op for op in ops_of(program, ExtractTile) if isinstance(op, ExtractTile)]
    assert [op.offsets for op in extracts] == [(0, 0), (0, 64), (0, 128), (0, 192)]
    assert all(op.layout is not None and op.layout.registers == 32 for op in extracts)
    copies = [op for op in ops_of(program, Copy) if isinstance(op, Copy)]
    assert [op.source for op in copies] == [b.result for b in buffers] * 2
    assert {op.instruction for op in copies} == {"tma"}


def test_order_of_a_slab() -> None:
    program, _, _ = staged([TALL])
    kinds = [
        type(op)
        for op in walk(program.body)
        if isinstance(op, (BulkWait, Barrier, StoreTile, FenceProxyAsync, Copy))
    ]
    meet = [Barrier, Barrier]  # of one warpgroup, or else of the other
    one = [BulkWait, *meet, StoreTile, FenceProxyAsync, *meet, Copy]
    assert kinds == one * 4 + [BulkWait], "the last wait is the role's"
    waits = [op for op in ops_of(program, BulkWait) if isinstance(op, BulkWait)]
    assert [(w.pending, w.read) for w in waits] == [(1, True)] * 4 + [(0, False)]
    barriers = [op for op in ops_of(program, Barrier) if isinstance(op, Barrier)]
    assert {(b.barrier, b.threads) for b in barriers} == {(2, 128), (3, 128)}


def test_an_odd_number_of_slabs_waits_for_all_at_the_first() -> None:
    program, _, context = staged([wgmma_accumulator(192).repeat((2, 1), "thread")])
    waits = [op.pending for op in ops_of(program, BulkWait) if isinstance(op, BulkWait)]
    assert waits == [0, 1, 1, 0]
    check_synchronisation(program, context)


def test_two_results_share_buffers() -> None:
    for columns, first in ((256, 1), (192, 0)):
        other = wgmma_accumulator(columns).repeat((2, 1), "thread")
        program, _, context = staged([TALL, other])
        assert len(ops_of(program, Alloc)) == 2
        waits = [op.pending for op in ops_of(program, BulkWait) if isinstance(op, BulkWait)]
        assert waits[0] == waits[4] == first
        check_synchronisation(program, context)


def allocs(program: Program) -> list[Alloc]:
    return [op for op in walk(program.body) if isinstance(op, Alloc)]


def in_two_places(op: Op) -> Op:
    return op.replace(place=op.place % 2) if isinstance(op, Alloc) else op


@pytest.mark.parametrize("in_turn", [False, True])
def test_results_of_two_dtypes_take_turns_at_the_same_places(in_turn: bool) -> None:
    program, remarks, context = staged([TALL, TALL], (f16, f32), in_turn)
    found = [(op.type.dtype, op.type.shape, op.place) for op in allocs(program)]
    assert found == [
        (f16, (128, 64), 0), (f16, (128, 64), 1), (f32, (128, 32), 0), (f32, (128, 32), 1),
    ]  # fmt: skip
    assert not remarks
    check_synchronisation(program, context)
    rng = np.random.default_rng(0)
    a = [rng.standard_normal((384, 256)).astype(t) for t in (np.float16, np.float32)]
    c = [np.full_like(x, np.nan) for x in a]
    run_by_warpgroups(program, A0=a[0], A1=a[1], C0=c[0], C1=c[1])
    for n, (given, stored_) in enumerate(zip(a, c, strict=True)):
        for turn in range(3):
            rows = slice(turn * 128, turn * 128 + 128)
            if in_turn and turn % 2 != n:
                assert np.isnan(stored_[rows]).all()
            else:
                assert np.array_equal(stored_[rows], given[rows])


@pytest.mark.parametrize("in_turn", [False, True])
def test_an_odd_number_of_slabs_of_one_dtype_has_all_wait(in_turn: bool) -> None:
    program, _, context = staged([TALL, wgmma_accumulator(96).repeat((2, 1), "thread")],
                                 (f16, f32), in_turn)  # fmt: skip
    waits = [op.pending for op in ops_of(program, BulkWait) if isinstance(op, BulkWait) and op.read]
    assert waits == [0, 1, 1, 1, 0, 1, 1]
    check_synchronisation(program, context)


def test_warpgroups_by_themselves_share_no_place_where_their_rows_lie_elsewhere() -> None:
    """Slabs of f16[128, 64] and f16[128, 24]: the second warpgroup's rows begin at other bytes."""
    narrow = wgmma_accumulator(24).repeat((2, 1), "thread")
    program, _, context = staged([TALL, narrow])
    assert [op.place for op in allocs(program)] == [0, 1, 2]
    check_synchronisation(program, context)
    with pytest.raises(HazardError) as caught:
        check_synchronisation(changed(program, in_two_places), context)
    assert caught.value.code == "TLC0353"


def test_warpgroups_by_themselves_share_no_place_with_those_that_store_together() -> None:
    """Slabs of one shape: 64 columns of a tile whose warpgroups hold rows of their own, and of one
    whose warpgroups hold every other row; one thread waits for what all have sent of the second."""
    mixed = blocked((128, 64), 256, 8)
    program, remarks, context = staged([TALL, mixed])
    assert not remarks
    assert [op.place for op in allocs(program)][:2] == [0, 1]
    assert {op.place for op in allocs(program)[2:]}.isdisjoint({0, 1})
    check_synchronisation(program, context)
    with pytest.raises(HazardError) as caught:
        check_synchronisation(changed(program, in_two_places), context)
    assert caught.value.code == "TLC0352"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (lambda op: isinstance(op, BulkWait) and op.read, "TLC0352"),
        (lambda op: isinstance(op, FenceProxyAsync), "TLC0354"),
        (lambda op: isinstance(op, Barrier), "TLC0353"),
    ],
)
def test_a_store_waits_for_the_other_branchs_store_of_the_turn_before(
    fault: Callable[[Op], bool], code: str
) -> None:
    """Each branch has slabs enough of its own: only the other one's lie where it writes."""
    tile = wgmma_accumulator(128).repeat((2, 1), "thread")
    for in_turn, layouts in ((True, [tile, tile]), (True, [tile, TALL])):
        program, _, context = staged(layouts, (f16, f32), in_turn)
        check_synchronisation(program, context)
        with pytest.raises(HazardError) as caught:
            check_synchronisation(without(program, fault), context)
        assert caught.value.code == code


def test_what_is_no_choice_of_registers_is_stored_directly() -> None:
    program, remarks, _ = staged([WIDE])
    stores = [op for op in ops_of(program, StoreTile) if isinstance(op, StoreTile)]
    assert [op.instruction for op in stores] == [""]
    assert [r.code for r in remarks] == ["TLC0425"] and "C0" in remarks[0].message
    assert not ops_of(program, Alloc) and not ops_of(program, BulkWait)


def test_slabs_of_bytes_are_twice_as_many_columns() -> None:
    program, remarks, context = staged([TALL], i8)
    assert not remarks
    buffers = [op for op in ops_of(program, Alloc) if isinstance(op, Alloc)]
    assert [b.type.shape for b in buffers] == [(128, 128), (128, 128)]
    check_synchronisation(program, context)
    a = np.random.default_rng(0).integers(-128, 128, (384, 256)).astype(np.int8)
    c = np.zeros_like(a)
    run_by_warpgroups(program, A0=a, C0=c)
    assert np.array_equal(a, c)


def test_warps_side_by_side_store_slabs_of_rows() -> None:
    layout = blocked((128, 256), 256, 8)
    program, remarks, context = staged([layout])
    assert not remarks
    buffers = [op for op in ops_of(program, Alloc) if isinstance(op, Alloc)]
    assert [b.type.shape for b in buffers] == [(32, 256), (32, 256)], "as large as 64 columns"
    extracts = [op for op in ops_of(program, ExtractTile) if isinstance(op, ExtractTile)]
    assert [op.offsets for op in extracts] == [(0, 0), (32, 0), (64, 0), (96, 0)]
    check_synchronisation(program, context)
    a = np.random.default_rng(0).standard_normal((384, 256)).astype(np.float16)
    c = np.full_like(a, np.nan)
    run_by_warpgroups(program, A0=a, C0=c)
    assert np.array_equal(a, c)


def test_slabs_of_a_few_rows_are_not_swizzled() -> None:
    """Two boxes of 64 columns side by side, of 4 rows, would start within a swizzle."""
    program, remarks, context = staged([blocked((4, 128), 256, 2)])
    assert not remarks
    buffers = [op for op in ops_of(program, Alloc) if isinstance(op, Alloc)]
    assert [b.type.shape for b in buffers] == [(4, 128)]
    for buffer in buffers:
        assert buffer.type.layout is not None and tma_boxes(buffer.type.layout, 16) is not None
    check_synchronisation(program, context)


@pytest.mark.parametrize("dtype", [f16, f32, i8], ids=str)
@pytest.mark.parametrize("columns", [256, 64, 24, 8])
def test_of_a_transposed_product_warpgroups_store_their_columns(columns: int, dtype: DType) -> None:
    program, remarks, context = staged([transposed(columns)], dtype)
    assert not remarks
    a = np.random.default_rng(columns).integers(-99, 100, (3 * columns, 128)).astype(dtype.numpy)
    c = np.full_like(a, 100)
    run_as(program, 0, A0=a, C0=c)
    of_the_first = c != 100
    # Of bytes 64 columns are half a box: there the first thread stores all.
    assert np.all(of_the_first[:, :64]) and np.all(of_the_first[:, 64:] == (dtype is i8))
    run_by_warpgroups(program, A0=a, C0=c)
    assert np.array_equal(a, c)
    check_synchronisation(program, context)


def transposed(columns: int) -> RegisterLayout:
    return wgmma_accumulator(columns).repeat((2, 1), "thread").transpose((1, 0))


def test_programs_without_such_stores_are_unchanged() -> None:
    program, _, context = staged([TALL])
    assert (
        stage_stores(program, context).body.ops[-1].regions[0].ops
        == program.body.ops[-1].regions[0].ops
    )


def without(program: Program, drop: Callable[[Op], bool]) -> Program:
    """The program less the ops for which `drop` holds."""

    def block(old: Block) -> Block:
        return old.with_ops([op.map_regions(block) for op in old.ops if not drop(op)])

    return program.with_body(block(program.body))


@pytest.mark.parametrize(
    "fault",
    [
        lambda op: isinstance(op, BulkWait) and op.read,
        lambda op: isinstance(op, BulkWait) and not op.read,
        lambda op: isinstance(op, FenceProxyAsync),
        lambda op: isinstance(op, Barrier),
    ],
)
def test_every_part_of_the_protocol_is_needed(fault: Callable[[Op], bool]) -> None:
    program, _, context = staged([TALL])
    with pytest.raises(HazardError):
        check_synchronisation(without(program, fault), context)


def test_a_launch_without_roles_meets_at_the_blocks_barrier() -> None:
    program, _, context = staged([TALL])
    (launch,) = [op for op in stored([TALL]).body.ops if isinstance(op, Launch)]
    role = next(op for op in launch.body.ops if isinstance(op, Role))
    whole = launch.replace(body=launch.body.with_ops(role.body.ops), launched_threads=256)
    source = stored([TALL])
    plain = stage_stores(Program("kernel", source.params, Block((), (whole,))), context)
    barriers = [op for op in ops_of(plain, Barrier) if isinstance(op, Barrier)]
    assert len(barriers) == 8 and {b.barrier for b in barriers} == {0}
    assert isinstance(program.params[0], Value)


def changed(program: Program, change: Callable[[Op], Op]) -> Program:
    """The program with each op as `change` gives it."""

    def block(old: Block) -> Block:
        return old.with_ops([change(op).map_regions(block) for op in old.ops])

    return program.with_body(block(program.body))


def on_one_barrier(op: Op) -> Op:
    return op.replace(barrier=2) if isinstance(op, Barrier) else op


def of_both(op: Op) -> Op:
    """A warpgroup's barrier for all threads of the role."""
    return op.replace(threads=256) if isinstance(op, Barrier) else op


def from_the_first(op: Op) -> Op:
    """Every warpgroup sends the first one's part."""
    if not isinstance(op, Copy):
        return op
    return op.replace(source_indices=(constant(0, i32), constant(0, i32)))


@pytest.mark.parametrize(
    ("fault", "code"),
    [(on_one_barrier, "TLC0356"), (of_both, "TLC0356"), (from_the_first, "TLC0353")],
)
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_each_warpgroup_meets_and_sends_its_own(
    layout: str, fault: Callable[[Op], Op], code: str
) -> None:
    program, _, context = staged([TALL if layout == "rows" else transposed(256)])
    with pytest.raises(HazardError) as caught:
        check_synchronisation(changed(program, fault), context)
    assert caught.value.code == code


def test_warpgroups_that_meet_for_something_else_store_together() -> None:
    source = stored([TALL])

    def with_barrier(op: Op) -> Op:
        if isinstance(op, Role) and op.barrier:
            meeting = Barrier(barrier=op.barrier, threads=op.threads)
            return op.replace(body=Block((), (meeting, *op.body.ops)))
        return op

    context = staged([TALL])[2]
    plain = stage_stores(changed(source, with_barrier), context)
    assert {(b.barrier, b.threads) for b in found_barriers(plain)} == {(1, 256)}
    check_synchronisation(plain, context)


def found_barriers(program: Program) -> list[Barrier]:
    return [op for op in walk(program.body) if isinstance(op, Barrier)]


@pytest.mark.parametrize(("other", "expected"), [(2, {3, 4}), (13, {14, 15}), (14, {1}), (15, {1})])
def test_warpgroups_meet_on_barriers_that_nobody_uses(other: int, expected: set[int]) -> None:
    def named(op: Op) -> Op:
        return op.replace(barrier=other) if isinstance(op, Role) and not op.barrier else op

    context = staged([TALL])[2]
    program = stage_stores(changed(stored([TALL]), named), context)
    assert {b.barrier for b in found_barriers(program)} == expected
    check_synchronisation(program, context)
