"""dependence and element_accesses: what is covered, what is touched by whom."""

from __future__ import annotations

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, number, tensor
from tilec.ir.core import Access, Op, Value, walk
from tilec.ir.dtypes import f16, f32
from tilec.ir.ops.control import For, If, Parallel, Simt
from tilec.ir.rewrite import defining_ops
from tilec.passes.dependence import covers, reads, slice_of, writes
from tilec.passes.element_accesses import element_accesses


def region(s: Sketch, kind: type[Op]) -> Op:
    return next(op for op in walk(s.block()) if isinstance(op, kind))


def test_a_strided_loop_of_threads_covers_a_buffer() -> None:
    for trips, whole in ((4, True), (3, False)):
        s = Sketch()
        buffer = s.shared("S", f32, 8, 16)
        with s.simt(32) as t, s.loop(0, trips) as i:
            flat = s.add(s.mul(i, 32), t)
            s.store(s.const(0.0, f32), buffer, s.floordiv(flat, 16), s.floormod(flat, 16))
        assert covers([region(s, Simt)], buffer, defining_ops(s.block())) is whole


def test_conditions_of_threads_are_enumerated() -> None:
    for below, whole in ((16, True), (15, False)):
        s = Sketch()
        buffer = s.shared("S", f32, 16)
        with s.simt(32) as t, s.when(s.compare("lt", t, below)):
            s.store(s.const(0.0, f32), buffer, t)
        simt = region(s, Simt)
        assert isinstance(simt, Simt)
        (accessed,) = element_accesses(simt, buffer, Access.WRITE, defining_ops(s.block()))
        assert accessed is not None
        assert np.array_equal(accessed.thread, np.arange(below))
        assert covers([simt], buffer, defining_ops(s.block())) is whole


def test_a_condition_from_outside_is_certain_for_nobody() -> None:
    s = Sketch()
    buffer, n = s.shared("S", f32, 32), number("n")
    with s.simt(32) as t, s.when(s.compare("lt", n, 3)):
        s.store(s.const(0.0, f32), buffer, t)
    simt, names = region(s, Simt), defining_ops(s.block())
    assert isinstance(simt, Simt)
    assert element_accesses(simt, buffer, Access.WRITE, names) == [None]
    (accessed,) = element_accesses(simt, buffer, Access.WRITE, names, certain=False)
    assert accessed is not None and len(accessed.thread) == 32
    assert not covers([simt], buffer, names)


def test_both_arms_together_cover() -> None:
    s = Sketch()
    buffer = s.shared("S", f32, 32)
    with s.simt(32) as t:
        low = s.compare("lt", t, 8)
        with s.when(low):
            s.store(s.const(0.0, f32), buffer, t)
        with s.when(s.compare("ge", t, 8)):
            s.store(s.const(1.0, f32), buffer, t)
    assert covers([region(s, Simt)], buffer, defining_ops(s.block()))


def test_one_branch_alone_can_be_asked_for() -> None:
    s = Sketch()
    buffer = s.shared("S", f32, 32)
    with s.simt(32) as t:
        s.store(s.const(0.0, f32), buffer, t)
        with s.when(s.compare("eq", t, 5)):
            s.store(s.const(1.0, f32), buffer, 0)
    simt, branch = region(s, Simt), region(s, If)
    assert isinstance(simt, Simt) and isinstance(branch, If)
    (accessed,) = element_accesses(
        simt, buffer, Access.WRITE, defining_ops(s.block()), branch=branch
    )
    assert accessed is not None and accessed.thread.tolist() == [5]
    assert accessed.coordinates[0].tolist() == [0]


def test_trips_of_the_loops_around_a_branch_are_told_apart() -> None:
    s = Sketch()
    buffer = s.shared("S", f32, 8, 8)
    with (
        s.simt(4) as t,
        s.loop(0, 3) as k,
        s.when(s.compare("lt", k, t)),
        s.loop(s.add(k, 1), 4) as j,
    ):
        s.store(s.const(0.0, f32), buffer, t, j)
    simt, branch = region(s, Simt), region(s, If)
    assert isinstance(simt, Simt) and isinstance(branch, If)
    (accessed,) = element_accesses(
        simt, buffer, Access.WRITE, defining_ops(s.block()), branch=branch
    )
    assert accessed is not None
    found = zip(accessed.trip, accessed.thread, accessed.coordinates[1], strict=True)
    assert sorted((int(k), int(t), int(j)) for k, t, j in found) == [
        (k, t, j) for k in range(3) for t in range(k + 1, 4) for j in range(k + 1, 4)
    ]


def test_unknown_indices_and_repetitions_are_none() -> None:
    s = Sketch()
    buffer, n = s.shared("S", f32, 64), number("n")
    with s.simt(32) as t:
        s.store(s.const(0.0, f32), buffer, s.add(t, n))
        with s.loop(0, n) as i:
            s.store(s.const(0.0, f32), buffer, s.add(t, i))
    simt = region(s, Simt)
    assert isinstance(simt, Simt)
    for certain in (True, False):
        names = defining_ops(s.block())
        found = element_accesses(simt, buffer, Access.WRITE, names, certain=certain)
        assert found == [None, None]


@pytest.mark.parametrize(("corner", "shape", "whole"), [(0, 8, True), (0, 4, False), (4, 4, False)])
def test_copies_cover_from_the_corner(corner: int, shape: int, whole: bool) -> None:
    s = Sketch()
    a, buffer = tensor("A", f16, 32), s.shared("S", f16, 8)
    s.copy(a, (0,), buffer, (corner,), (shape,))
    assert covers([s.ops[-1]], buffer, {}) is whole


def test_a_nest_covers_with_its_indices() -> None:
    s = Sketch()
    buffer = s.shared("S", f32, 8, 4)
    with s.parallel(4, 8) as (i, j):
        s.store(s.const(0.0, f32), buffer, j, i)
    assert covers([region(s, Parallel)], buffer, defining_ops(s.block()))


def test_slices_follow_values_and_not_memory() -> None:
    s = Sketch()
    a, out = tensor("A", f32, 8), tensor("B", f32, 8)
    first = s.load(a, 0)
    s.store(first, out, 0)
    n = number("n")
    index = s.add(n, 1)
    s.store(s.load(a, index), out, index)
    last = s.ops[-1]
    assert [op.name for op in slice_of([last], s.ops)] == ["add", "load", "store"]
    assert list(reads(last)) == [] and list(writes(last)) == [out]


def test_reads_and_writes_look_into_regions() -> None:
    s = Sketch()
    a, out, n = tensor("A", f32, 8), tensor("B", f32, 8), number("n")
    with s.loop(0, n) as i:
        s.store(s.load(a, i), out, i)
    loop: Op = region(s, For)
    names: list[Value] = [*reads(loop), *writes(loop)]
    assert names == [a, out]


@pytest.mark.parametrize(("shift", "whole"), [(0, True), (-16, True), (-32, False)])
def test_what_lies_outside_covers_nothing(shift: int, whole: bool) -> None:
    """A program that is at fault is not for the planner to find: what it writes outside counts for nothing,
    neither from behind."""
    s = Sketch()
    buffer = s.shared("S", f32, 16)
    with s.simt(32) as t:
        s.store(s.const(0.0, f32), buffer, s.add(t, shift))
    assert covers([region(s, Simt)], buffer, defining_ops(s.block())) is whole
