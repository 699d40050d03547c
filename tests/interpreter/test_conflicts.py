"""Accesses with no order between them: iterations, threads, blocks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, run, tensor
from tilec.errors import ExecutionError
from tilec.interpreter.conflicts import AccessLog
from tilec.ir.dtypes import f32, i32
from tilec.ir.ops.arith import Cast
from tilec.ir.ops.thread import Barrier

N = np.float32


def rows(count: int = 8) -> np.ndarray:
    return np.arange(count, dtype=N)


# Iterations of a Parallel ---------------------------------------------------------------------


def test_iterations_that_write_one_element_differently() -> None:
    a = tensor("A", f32, 8)
    s = Sketch()
    with s.launch(1), s.parallel(4, 8) as (i, j):
        s.store(s.pure(Cast(i, dtype=f32)), a, j)
    with pytest.raises(
        ExecutionError, match=r"iteration \(\d, \d\) writes global A\[\d\], which another"
    ) as error:
        run(s.program(a), A=rows())
    assert error.value.code == "TLC0744"


def test_iterations_that_write_equal_bits_are_a_remark() -> None:
    a = tensor("A", f32, 8)
    s = Sketch()
    with s.launch(1), s.parallel(4, 8) as (_, j):
        s.store(s.pure(Cast(j, dtype=f32)), a, j)
    x = np.zeros(8, N)
    found = run(s.program(a), A=x)
    assert np.array_equal(x, rows())
    assert [f.code for f in found] == ["TLC0745"] and "iterations write equal bits to 'A'" in found[
        0
    ].message


@pytest.mark.parametrize("shift", [1, -1])
def test_an_iteration_that_reads_what_another_writes(shift: int) -> None:
    s = Sketch()
    a = tensor("A", f32, 8)
    with s.launch(1):
        mine = s.shared("S", f32, 16)
        s.fill(mine, 0)
        with s.parallel(8) as (i,):
            s.store(s.load(mine, s.add(s.add(i, shift), 2)), mine, s.add(i, 2))
    with pytest.raises(
        ExecutionError, match=r"writes shared S\[\d\], which another iteration reads"
    ):
        run(s.program(a), A=rows())


def test_a_read_after_the_write_of_another_iteration() -> None:
    s = Sketch()
    a = tensor("A", f32, 8)
    with s.launch(1):
        mine = s.shared("S", f32, 8)
        with s.parallel(8) as (i,):
            s.store(s.load(a, i), mine, i)
            s.store(s.load(mine, s.sub(7, i)), a, i)
    with pytest.raises(
        ExecutionError, match=r"reads shared S\[7\], which another iteration writes"
    ):
        run(s.program(a), A=rows())


def test_an_iteration_may_read_and_write_its_own_elements() -> None:
    s = Sketch()
    a = tensor("A", f32, 8, 8)
    with s.launch(1):
        mine = s.fragment("F", f32, 8, 8)
        s.fill(mine, 1)
        with s.parallel(8, 8) as (i, j):
            s.store(s.add(s.load(mine, i, j), s.load(a, i, j)), mine, i, j)
            s.store(s.load(mine, i, j), a, i, j)
    x = np.arange(64, dtype=N).reshape(8, 8)
    assert run(s.program(a), A=x) == []
    assert np.array_equal(x, np.arange(64).reshape(8, 8) + 1)


def test_two_nests_are_ordered() -> None:
    s = Sketch()
    a = tensor("A", f32, 8)
    with s.launch(1):
        mine = s.shared("S", f32, 8)
        for _ in range(3):
            with s.parallel(8) as (i,):
                s.store(s.load(a, i), mine, i)
            with s.parallel(8) as (i,):
                s.store(s.load(mine, s.sub(7, i)), a, i)
    x = rows()
    run(s.program(a), A=x)
    assert np.array_equal(x, rows()[::-1])


def test_scratch_of_a_nest_is_each_iterations_own() -> None:
    s = Sketch()
    a = tensor("A", f32, 8)
    with s.launch(1):
        scratch = s.local("x", f32, 1)
        with s.parallel(8) as (i,):
            s.store(s.load(a, i), scratch, 0)
            s.store(s.mul(s.load(scratch, 0), s.load(scratch, 0)), a, i)
    x = rows()
    run(s.program(a), A=x)
    assert np.array_equal(x, rows() ** 2)


def test_scratch_cannot_carry_values_between_iterations_or_out_of_the_nest() -> None:
    for after in (False, True):
        s = Sketch()
        a = tensor("A", f32, 8)
        with s.launch(1):
            scratch = s.local("x", f32, 1)
            with s.simt(32):
                s.store(s.const(0.0, f32), scratch, 0)
            with s.parallel(8) as (i,):
                if after:
                    s.store(s.load(a, i), scratch, 0)
                else:
                    s.store(s.add(s.load(scratch, 0), s.load(a, i)), scratch, 0)
                    s.store(s.load(scratch, 0), a, i)
            with s.simt(1):
                s.store(s.load(scratch, 0), a, 0)
        with pytest.raises(ExecutionError, match="uninitialised value reaches global memory 'A'"):
            run(s.program(a), A=rows())


# Threads --------------------------------------------------------------------------------------


def test_threads_are_in_step_under_uniform_control() -> None:
    s = Sketch()
    a = tensor("A", f32, 32)
    with s.launch(1):
        mine = s.shared("S", f32, 32)
        with s.simt(32) as t:
            s.store(s.load(a, t), mine, t)
            with s.loop(0, 5):
                x = s.load(mine, s.floormod(s.add(t, 1), 32))
                s.store(x, mine, t)
            s.store(s.load(mine, t), a, t)
    x = rows(32)
    run(s.program(a), A=x)
    assert np.array_equal(x, np.roll(rows(32), -5))


def test_threads_that_store_different_values_in_one_statement() -> None:
    s = Sketch()
    a = tensor("A", f32, 32)
    with s.launch(1):
        mine = s.shared("S", f32, 16)
        with s.simt(32) as t:
            s.store(s.load(a, t), mine, s.floordiv(t, 2))
    with pytest.raises(
        ExecutionError, match=r"thread \d+ writes shared S\[\d+\], which another thread writes too"
    ):
        run(s.program(a), A=rows(32))
    x = np.repeat(rows(16), 2).astype(N)
    assert [f.code for f in run(s.program(a), A=x)] == ["TLC0745"]


def test_a_dependence_between_threads_under_a_thread_dependent_condition() -> None:
    s = Sketch()
    a = tensor("A", f32, 32)
    with s.launch(1):
        mine = s.shared("S", f32, 64)
        s.fill(mine, 0)
        with s.simt(32) as t, s.when(s.compare("lt", t, 16)):
            s.store(s.load(a, t), mine, t)
            s.store(s.load(mine, s.add(t, 1)), a, t)
    with pytest.raises(ExecutionError, match=r"reads shared S\[1\], which another thread writes"):
        run(s.program(a), A=rows(32))


def test_the_same_dependence_in_two_statements_is_ordered() -> None:
    s = Sketch()
    a = tensor("A", f32, 32)
    with s.launch(1):
        mine = s.shared("S", f32, 64)
        s.fill(mine, 0)
        with s.simt(32) as t:
            with s.when(s.compare("lt", t, 16)):
                s.store(s.load(a, t), mine, t)
            with s.when(s.compare("lt", t, 15)):
                s.store(s.load(mine, s.add(t, 1)), a, t)
    x = rows(32)
    run(s.program(a), A=x)
    assert np.array_equal(x[:16], [*range(1, 16), 15])


def test_both_arms_of_a_divergent_condition_are_unordered() -> None:
    s = Sketch()
    a = tensor("A", f32, 32)
    with s.launch(1):
        mine = s.shared("S", f32, 64)
        s.fill(mine, 0)
        with s.simt(32) as t:
            low = s.compare("lt", t, 16)
            with s.loop(
                t, s.add(t, 1)
            ):  # bounds of its own: every thread is on its own in the loop
                with s.when(low):
                    s.store(s.load(a, t), mine, t)
                s.store(s.load(mine, s.floormod(t, 16)), a, t)
    with pytest.raises(ExecutionError, match=r"reads shared S\[\d+\], which another thread writes"):
        run(s.program(a), A=rows(32))


def test_a_barrier_where_only_some_threads_come() -> None:
    s = Sketch()
    with s.launch(1), s.simt(32) as t:
        s.emit(Barrier())
        with s.when(s.compare("lt", t, 16)):
            s.emit(Barrier())
    with pytest.raises(ExecutionError, match="only some threads come") as error:
        run(s.program())
    assert error.value.code == "TLC0749" and error.value.loc.line == 3


# Blocks ---------------------------------------------------------------------------------------


def test_blocks_that_write_one_element_differently() -> None:
    s = Sketch()
    a = tensor("A", i32, 8)
    with s.launch(3) as (bx, _, _), s.parallel(8) as (i,):
        s.store(s.add(bx, i), a, i)
    with pytest.raises(
        ExecutionError, match=r"block \(\d, 0, 0\) writes global A\[0\], which another block"
    ) as e:
        run(s.program(a), A=np.zeros(8, np.int32))
    assert e.value.code == "TLC0747"


def test_blocks_that_write_equal_bits_are_a_remark() -> None:
    s = Sketch()
    a = tensor("A", i32, 8)
    with s.launch(3), s.parallel(8) as (i,):
        s.store(i, a, i)
    assert [f.code for f in run(s.program(a), A=np.zeros(8, np.int32))] == ["TLC0745"]


@pytest.mark.parametrize("seed", range(4))
def test_a_block_that_reads_what_another_writes(seed: int) -> None:
    s = Sketch()
    a = tensor("A", f32, 4, 8)
    with s.launch(3) as (bx, _, _):
        tile = s.shared("S", f32, 1, 8)
        s.copy(a, (s.add(bx, 1), 0), tile, (0, 0), (1, 8))
        s.copy(tile, (0, 0), a, (bx, 0), (1, 8))
    with pytest.raises(
        ExecutionError, match=r"(reads|writes) global A\[\d, 0\], which block \d (reads|writes)"
    ):
        run(s.program(a), seed=seed, A=np.zeros((4, 8), N))


def test_launches_are_ordered() -> None:
    s = Sketch()
    a, b = tensor("A", f32, 4, 8), tensor("B", f32, 4, 8)
    for x, y in ((a, b), (b, a)):
        with s.launch(4) as (bx, _, _), s.parallel(8) as (i,):
            s.store(s.load(x, s.sub(3, bx), i), y, bx, i)
    x = np.arange(32, dtype=N).reshape(4, 8)
    run(s.program(a, b), A=x, B=np.zeros((4, 8), N))
    assert np.array_equal(x, np.arange(32).reshape(4, 8))


def test_one_array_given_twice_is_one_memory() -> None:
    s = Sketch()
    a, b = tensor("A", f32, 8), tensor("B", f32, 8)
    with s.launch(1), s.parallel(8) as (i,):
        s.store(s.load(a, s.sub(7, i)), b, i)
    program, x = s.program(a, b), rows()
    run(program, A=x, B=x.copy())
    with pytest.raises(ExecutionError, match="which another iteration"):
        run(program, A=x, B=x)


# The log --------------------------------------------------------------------------------------


def test_the_log_of_accesses_forgets_between_episodes_and_survives_its_numbers_running_out() -> (
    None
):
    log = AccessLog((4,))
    for episode in range(5):
        log.enter(episode, 2**30)
        assert not log.write((1,), 7)[0].any()
        assert log.write((1,), 8)[0].any()
        assert log.read((1,), 7, False).any()
        assert log.other((1,)) == 8
        log.read((2,), 3, False)
        log.read((2,), 4, False)
        before, readers = log.write((2,), 3)
        assert not before.any() and readers.any()
        log.read((3,), 5, False)
        assert not log.write((3,), 5)[1].any()


def test_many_readers_in_one_access_are_many() -> None:
    log = AccessLog((4,))
    log.enter(0, 8)
    log.read((np.array([0, 0, 1]),), np.array([1, 2, 3]), True)
    assert log.write((np.array([0, 1]),), np.array([2, 3]))[1].tolist() == [True, False]
