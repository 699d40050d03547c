"""Loops and conditions, for the whole block and for threads that differ."""

from __future__ import annotations

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, number, run, tensor
from tilec.errors import ExecutionError
from tilec.ir.core import Block, Value
from tilec.ir.dtypes import f32, i32
from tilec.ir.ops.control import For, If, ThreadId, While, Yield

T = 16


def collatz_steps(n: int) -> int:
    steps = 0
    while n > 1:
        n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
    return steps


def while_loop(s: Sketch, start: Value) -> Value:
    """Counts Collatz steps with SSA values carried through a While and an If with results."""
    n, steps = number("n"), number("steps")
    with s.region() as condition:
        go = s.compare("gt", n, 1)
    m, count = number("m"), number("count")
    with s.region() as body:
        even = s.compare("eq", s.floormod(m, 2), 0)
        with s.region() as then:
            half = s.floordiv(m, 2)
        with s.region() as orelse:
            more = s.add(s.mul(m, 3), 1)
        branch = s.emit(
            If(even, Block((), (*then, Yield((half,)))), Block((), (*orelse, Yield((more,)))))
        )
        one_more = s.add(count, 1)
    loop = s.emit(
        While(
            (start, s.value(0)),
            Block((n, steps), (*condition, Yield((go,)))),
            Block((m, count), (*body, Yield((branch.result, one_more)))),
        )
    )
    result: Value = loop.results[1]
    return result


@pytest.mark.parametrize("lanes", ["simt", "parallel"])
def test_while_and_if_with_results_by_lane(lanes: str) -> None:
    s = Sketch()
    a = tensor("A", i32, T)
    with s.launch(1, threads=T), getattr(s, lanes)(T) as index:
        i = index[0] if lanes == "parallel" else index
        s.store(while_loop(s, s.load(a, i)), a, i)
    x = np.arange(1, T + 1, dtype=np.int32)
    run(s.program(a), A=x)
    assert x.tolist() == [collatz_steps(n) for n in range(1, T + 1)]


def test_while_and_if_for_the_whole_block() -> None:
    s = Sketch()
    a, n = tensor("A", i32, 1), number("n")
    with s.launch(1):
        steps = while_loop(s, n)
        with s.parallel(1) as (i,):
            s.store(steps, a, i)
    for start in (1, 6, 27):
        x = np.zeros(1, np.int32)
        run(s.program(a, n), A=x, n=start)
        assert x[0] == collatz_steps(start)


def test_loops_with_bounds_of_each_thread() -> None:
    s = Sketch()
    a = tensor("A", i32, T)
    with s.launch(1, threads=T), s.simt(T) as t:
        index, total = number("k"), number("total")
        with s.region() as ops:
            more = s.add(total, s.mul(index, index))
        loop = s.emit(
            For(
                t,
                s.mul(t, 2),
                s.value(3),
                (s.value(100),),
                Block((index, total), (*ops, Yield((more,)))),
            )
        )
        s.store(loop.result, a, t)
    x = np.zeros(T, np.int32)
    run(s.program(a), A=x)
    assert x.tolist() == [100 + sum(k * k for k in range(t, 2 * t, 3)) for t in range(T)]


def test_loops_of_each_thread_to_the_last_integer() -> None:
    s = Sketch()
    a = tensor("A", i32, T)
    most = 2**31 - 1
    with s.launch(1, threads=T), s.simt(T) as t, s.loop(s.sub(most - 9, t), most, 3):
        s.store(s.add(s.load(a, t), 1), a, t)
    x = np.zeros(T, np.int32)
    run(s.program(a), A=x)
    assert x.tolist() == [len(range(most - 9 - t, most, 3)) for t in range(T)]


def test_variables_of_the_block_and_of_threads() -> None:
    """A local of one element: uniform as long as all threads do the same to it."""
    s = Sketch()
    a = tensor("A", f32, T)
    with s.launch(1, threads=T):
        count = s.local("count", i32, 1)
        with s.simt(T):
            s.store(s.value(0), count, 0)
        with s.region() as condition:
            go = s.compare("lt", s.load(count, 0), 5)
        with s.region() as body:
            with s.parallel(T) as (i,):
                s.store(s.add(s.load(a, i), s.cast(s.load(count, 0), f32)), a, i)
            with s.simt(T):
                s.store(s.add(s.load(count, 0), 1), count, 0)
        s.emit(While((), Block((), (*condition, Yield((go,)))), Block((), (*body, Yield(())))))
    x = np.zeros(T, np.float32)
    run(s.program(a), A=x)
    assert (x == 10).all()


def test_a_condition_of_the_block_that_differs_between_threads() -> None:
    s = Sketch()
    with s.launch(1, threads=T):
        count = s.local("count", i32, 1)
        with s.simt(T) as t:
            s.store(t, count, 0)
        with s.when(s.compare("lt", s.load(count, 0), 5)):
            s.shared("S", f32, 1)
    with pytest.raises(ExecutionError, match="'count' differs between threads") as error:
        run(s.program())
    assert error.value.code == "TLC0746"


def test_thread_numbers_outside_of_simt() -> None:
    s = Sketch()
    a = tensor("A", i32, T)
    with s.launch(1, threads=T):
        t = s.emit(ThreadId()).result
        twice = s.mul(t, 2)
        with s.simt(T) as lane:
            s.store(twice, a, lane)
    x = np.zeros(T, np.int32)
    run(s.program(a), A=x)
    assert x.tolist() == [2 * t for t in range(T)]
    s = Sketch()
    with s.launch(1, threads=T):
        t = s.emit(ThreadId()).result
        with s.when(s.compare("lt", t, 3)):
            s.shared("S", f32, 1)
    with pytest.raises(ExecutionError, match="condition of this if differs between threads"):
        run(s.program())


def test_private_arrays_by_thread() -> None:
    s = Sketch()
    a = tensor("A", f32, T, 4)
    with s.launch(1, threads=T):
        mine = s.local("x", f32, 4)
        with s.simt(T) as t:
            with s.loop(0, 4) as v:
                s.store(s.load(a, t, v), mine, s.sub(3, v))
            with s.loop(0, 4) as v:
                at = s.floormod(s.add(v, t), 4)
                s.store(s.load(mine, at), a, t, v)
    x = np.arange(T * 4, dtype=np.float32).reshape(T, 4)
    before = x.copy()
    run(s.program(a), A=x)
    for t in range(T):
        assert np.array_equal(x[t], np.roll(before[t][::-1], -t))


def test_nests_within_nests() -> None:
    s = Sketch()
    a = tensor("A", i32, 3, 4, 5)
    with s.launch(1), s.parallel(3) as (i,):
        row = s.mul(i, 100)
        with s.parallel(4, 5) as (j, k):
            s.store(s.add(row, s.add(s.mul(j, 10), k)), a, i, j, k)
    x = np.zeros((3, 4, 5), np.int32)
    run(s.program(a), A=x)
    assert x[2, 3, 4] == 234 and x[1, 0, 2] == 102


def test_blocks_cover_the_grid_once() -> None:
    s = Sketch()
    a = tensor("A", i32, 2, 3, 4)
    with s.launch(4, 3, 2) as (bx, by, bz), s.parallel(1) as (i,):
        s.store(s.add(bx, s.add(s.mul(by, 10), s.mul(bz, 100))), a, bz, by, s.add(bx, i))
    x = np.full((2, 3, 4), -1, np.int32)
    run(s.program(a), A=x)
    z, y, w = np.indices(x.shape)
    assert np.array_equal(x, w + 10 * y + 100 * z)


def test_empty_grids_loops_and_nests() -> None:
    s = Sketch()
    a = tensor("A", i32, "N")
    with s.launch(s.symbol("N")) as (bx, _, _):
        with s.loop(5, 5):
            s.store(s.value(1), a, bx)
        with s.parallel(0) as (i,):
            s.store(i, a, bx)
    x = np.full(3, 7, np.int32)
    run(s.program(a), A=x)
    run(s.program(a), A=np.zeros(0, np.int32))
    assert (x == 7).all()


@pytest.mark.parametrize("outer", ["simt", "parallel"])
def test_collective_ops_in_code_of_one_lane(outer: str) -> None:
    s = Sketch()
    with s.launch(1, threads=T):
        mine = s.shared("S", f32, 8)
        with getattr(s, outer)(T):
            s.fill(mine, 0)
    with pytest.raises(ExecutionError, match="fill is done by the whole block") as error:
        run(s.program())
    assert error.value.code == "TLC0748"


def test_a_step_that_is_not_positive() -> None:
    s = Sketch()
    with s.launch(1), s.loop(0, 5, s.sub(s.symbol("N"), s.symbol("N"))):
        pass
    a = tensor("A", i32, "N")
    with pytest.raises(ExecutionError, match="step of a loop is not positive"):
        run(s.program(a), A=np.zeros(3, np.int32))
