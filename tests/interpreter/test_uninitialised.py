"""What was never written may be moved and computed with, but not be relied on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, run, tensor
from tilec.errors import ExecutionError
from tilec.ir.core import Program, Value
from tilec.ir.dtypes import f16, f32, i32
from tilec.ir.ops.arith import Cast, Select
from tilec.ir.types import Space

Use = Callable[[Sketch, Value, Value, Value], None]


def to_global(s: Sketch, x: Value, a: Value, i: Value) -> None:
    s.store(x, a, i)


def to_condition(s: Sketch, x: Value, a: Value, i: Value) -> None:
    with s.when(s.compare("lt", x, s.const(0.0, f32))):
        s.store(s.const(1.0, f32), a, i)


def to_index(s: Sketch, x: Value, a: Value, i: Value) -> None:
    s.store(s.const(1.0, f32), a, s.cast(x, i32))


def to_bound(s: Sketch, x: Value, a: Value, i: Value) -> None:
    with s.loop(0, s.cast(x, i32)):
        s.store(s.const(1.0, f32), a, i)


USES = {
    to_global: "global memory 'A'",
    to_condition: "a condition",
    to_index: "an index of 'A'",
    to_bound: "a loop bound",
}


@pytest.mark.parametrize("space", [Space.SHARED, Space.LOCAL, Space.FRAGMENT])
@pytest.mark.parametrize("use", USES)
def test_it_is_an_error_where_it_matters(space: Space, use: Use) -> None:
    s = Sketch()
    a = tensor("A", f32, 8)
    with s.launch(1, threads=8):
        memory = s.alloc(space, f32, 8, hint="m")
        if space is Space.LOCAL:
            with s.simt(8) as t:
                use(s, s.add(s.load(memory, t), s.load(a, t)), a, t)
        else:
            with s.parallel(8) as (i,):
                use(s, s.mul(s.load(memory, i), s.const(0.0, f32)), a, i)
    with pytest.raises(ExecutionError, match=f"uninitialised value reaches {USES[use]}") as error:
        run(s.program(a), A=np.zeros(8, np.float32))
    assert error.value.code == "TLC0743" and error.value.loc.known


def divided(guarded: bool) -> Program:
    a, b, d = tensor("A", i32, 4), tensor("B", i32, 4), tensor("D", i32, 4)
    s = Sketch()
    with s.launch(1), s.parallel(4) as (i,):
        x, y = s.load(a, i), s.load(d, i)
        quotient = s.add(s.floordiv(x, y), s.floormod(x, y))
        if guarded:
            quotient = s.emit(Select(s.compare("ne", y, 0), quotient, s.value(7))).result
        s.store(quotient, b, i)
    return s.program(a, b, d)


def test_a_quotient_by_zero_is_uninitialised_too() -> None:
    a, b, d = np.arange(4, dtype=np.int32), np.zeros(4, np.int32), np.array([1, 0, 2, 3], np.int32)
    run(divided(True), A=a, B=b, D=d)
    assert b.tolist() == [0, 7, 1, 1]
    with pytest.raises(
        ExecutionError, match="uninitialised value reaches global memory 'B'"
    ) as told:
        run(divided(False), A=a, B=b, D=d)
    assert "a division by zero" in told.value.hint
    run(divided(False), A=a, B=b, D=np.ones(4, np.int32))


def test_only_the_lanes_that_use_it_count() -> None:
    s = Sketch()
    a = tensor("A", f32, 8)
    with s.launch(1, threads=8):
        mine = s.shared("S", f32, 8)
        with s.simt(8) as t:
            low = s.compare("lt", t, 4)
            with s.when(low):
                s.store(s.load(a, t), mine, t)
            x = s.load(mine, t)
            s.store(s.pure(Select(low, x, s.const(5.0, f32))), a, t)
            with s.when(low):
                s.store(x, a, t)
    x = np.arange(8, dtype=np.float32)
    run(s.program(a), A=x)
    assert x.tolist() == [0, 1, 2, 3, 5, 5, 5, 5]


def test_copies_carry_the_shadow_element_by_element() -> None:
    def program(columns: int) -> Sketch:
        s = Sketch()
        a = tensor("A", f32, 4, 8)
        with s.launch(1):
            one, two = s.shared("S", f16, 4, 8), s.fragment("F", f32, 4, 8)
            with s.parallel(4, 6) as (i, j):
                s.store(s.pure(Cast(s.load(a, i, j), dtype=f16)), one, i, j)
            s.copy(one, (0, 0), two, (0, 0), (4, 8))
            s.copy(two, (0, 0), a, (0, 0), (4, columns))
        s.params = (a,)  # type: ignore[attr-defined]
        return s

    good = program(6)
    run(good.program(*good.params), A=np.ones((4, 8), np.float32))  # type: ignore[attr-defined]
    bad = program(7)
    with pytest.raises(ExecutionError, match=r"reaches global memory 'A' at element \[0, 6\]"):
        run(bad.program(*bad.params), A=np.ones((4, 8), np.float32))  # type: ignore[attr-defined]


def test_workspaces_start_uninitialised_and_keep_what_a_launch_wrote() -> None:
    for written in (8, 7):
        s = Sketch()
        a = tensor("A", f32, 8)
        work = s.alloc(Space.GLOBAL, f32, 8, hint="W")
        with s.launch(1), s.parallel(written) as (i,):
            s.store(s.load(a, i), work, i)
        with s.launch(2) as (bx, _, _), s.parallel(4) as (i,):
            n = s.add(s.mul(bx, 4), i)
            s.store(s.load(work, s.sub(7, n)), a, n)
        x = np.arange(8, dtype=np.float32)
        if written == 8:
            run(s.program(a), A=x)
            assert np.array_equal(x, np.arange(8)[::-1])
        else:
            with pytest.raises(
                ExecutionError, match="uninitialised value reaches global memory 'A'"
            ):
                run(s.program(a), A=x)


def test_every_block_starts_with_fresh_memory() -> None:
    s = Sketch()
    a = tensor("A", f32, 2, 8)
    with s.launch(2) as (bx, _, _):
        mine = s.shared("S", f32, 1, 8)
        with s.when(s.compare("eq", bx, 0)):
            s.fill(mine, 1)
        s.copy(mine, (0, 0), a, (bx, 0), (1, 8))
    for seed in range(4):
        with pytest.raises(
            ExecutionError, match=r"global memory 'A' at element \[0, 0\] \(block \(1, 0, 0\)\)"
        ):
            run(s.program(a), seed=seed, A=np.zeros((2, 8), np.float32))
