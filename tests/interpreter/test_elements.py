"""Element accesses and copies: where they go, and what happens outside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interpreter.programs import Sketch, number, run, tensor
from tilec.errors import ArgumentError, ExecutionError
from tilec.ir.core import Program, Value
from tilec.ir.dtypes import bf16, f16, f32, i8, i32


def shifted_copy(shift: int, safe_value: float = 0.0) -> Program:
    """B[i, j] = A[i + shift, j - shift] for 8 x 8, whatever the extents are."""
    a, b = tensor("A", f32, "M", "N"), tensor("B", f32, "M", "N")
    s = Sketch()
    with s.launch(1), s.parallel(8, 8) as (i, j):
        x = s.load(a, s.add(i, shift), s.sub(j, shift), safe_value=safe_value)
        s.store(x, b, i, j)
    return s.program(a, b)


@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (1, 3)])
@pytest.mark.parametrize("shift", [0, 1, -2, 9])
def test_global_accesses_outside_read_the_safe_value_and_write_nothing(
    shape: tuple[int, int], shift: int
) -> None:
    a = np.arange(1, 1 + shape[0] * shape[1], dtype=np.float32).reshape(shape)
    b = np.full(shape, -1, np.float32)
    run(shifted_copy(shift, 5.0), A=a, B=b)
    for i in range(shape[0]):
        for j in range(shape[1]):
            y, x = i + shift, j - shift
            inside = 0 <= y < shape[0] and 0 <= x < shape[1]
            assert b[i, j] == (a[y, x] if inside else 5.0)


def test_check_bounds_refuses_them() -> None:
    a = np.zeros((8, 8), np.float32)
    run(shifted_copy(0), check_bounds=True, A=a, B=a.copy())
    with pytest.raises(
        ExecutionError, match=r"A\[1, -1\] is outside global \[8, 8\] in iteration \(0, 0\)"
    ) as e:
        run(shifted_copy(1), check_bounds=True, A=a, B=a.copy())
    assert e.value.code == "TLC0742" and e.value.loc.line > 0


def test_shared_accesses_outside_are_errors_that_name_the_thread() -> None:
    a = tensor("A", f32, 32)
    s = Sketch()
    with s.launch(1):
        mine = s.shared("S", f32, 32)
        with s.simt(32) as t:
            s.store(s.load(a, t), mine, s.add(t, 3))
    with pytest.raises(
        ExecutionError, match=r"S\[32\] is outside shared \[32\] in thread 29"
    ) as error:
        run(s.program(a), A=np.zeros(32, np.float32))
    assert error.value.code == "TLC0741"


def test_threads_that_are_masked_out_may_have_indices_outside() -> None:
    a = tensor("A", f32, 32)
    s = Sketch()
    with s.launch(1):
        mine = s.shared("S", f32, 8)
        with s.simt(32) as t:
            with s.when(s.compare("lt", t, 8)):
                s.store(s.load(a, t), mine, t)
            with s.when(s.compare("ge", t, 24)):
                s.store(s.load(mine, s.sub(31, t)), a, t)
    x = np.arange(32, dtype=np.float32)
    run(s.program(a), A=x)
    assert np.array_equal(x, np.r_[np.arange(24), np.arange(8)[::-1]])


def test_predicates_keep_memory_untouched() -> None:
    a, b = tensor("A", f32, 16), tensor("B", f32, 16)
    s = Sketch()
    with s.launch(1):
        mine = s.shared("S", f32, 8)
        s.fill(mine, 9)
        with s.parallel(16) as (i,):
            inside = s.compare("lt", i, 8)
            s.store(s.load(a, i), mine, i, predicate=(inside,))
        with s.parallel(16) as (i,):
            s.store(s.load(mine, i, predicate=(s.compare("lt", i, 4),), safe_value=-1.0), b, i)
        never = s.compare("lt", s.symbol("N"), 0)
        with s.simt(1) as t:
            s.store(s.load(a, 0), b, t, predicate=(never,))
    program = s.program(a, b)
    program = Program(program.name, program.params, program.body, ("N",))
    x, y = np.arange(16, dtype=np.float32), np.zeros(16, np.float32)
    run(program, A=x, B=y, N=5)
    assert y.tolist() == [0, 1, 2, 3, *[-1] * 12]


def test_gather_and_scatter_by_data() -> None:
    a, order, b = tensor("A", f16, 6, 4), tensor("P", i32, 6), tensor("B", f16, 6, 4)
    s = Sketch()
    with s.launch(1), s.parallel(6, 4) as (i, j):
        s.store(s.load(a, s.load(order, i), j), b, i, j)
    x = np.arange(24, dtype=np.float16).reshape(6, 4)
    p = np.array([3, 1, 0, 5, 2, 4], np.int32)
    y = np.zeros_like(x)
    run(s.program(a, order, b), A=x, P=p, B=y)
    assert np.array_equal(y, x[p])


@pytest.mark.parametrize("corner", [(0, 0), (-3, 2), (6, 6), (20, 0), (2, -50)])
def test_copies_of_regions_clip(corner: tuple[int, int]) -> None:
    a, b = tensor("A", f32, "M", "N"), tensor("B", f32, "M", "N")
    s = Sketch()
    with s.launch(1):
        tile = s.shared("S", f16, 4, 8)
        s.copy(a, corner, tile, (0, 0), (4, 8), safe_value=2.0)
        s.copy(tile, (0, 0), b, corner, (4, 8))
    x = np.arange(81, dtype=np.float32).reshape(9, 9)
    y = np.zeros_like(x)
    run(s.program(a, b), A=x, B=y)
    expected = np.zeros_like(x)
    rows = slice(max(corner[0], 0), max(corner[0] + 4, 0))
    columns = slice(max(corner[1], 0), max(corner[1] + 8, 0))
    expected[rows, columns] = x[rows, columns]
    assert np.array_equal(y, expected)


def test_a_copy_reads_the_safe_value_outside() -> None:
    a, b = tensor("A", f32, 3), tensor("B", f32, 8)
    s = Sketch()
    with s.launch(1):
        tile = s.shared("S", f32, 8)
        s.copy(a, (-2,), tile, (0,), (8,), safe_value=-7.0)
        s.copy(tile, (0,), b, (0,), (8,))
    y = np.zeros(8, np.float32)
    run(s.program(a, b), A=np.array([1, 2, 3], np.float32), B=y)
    assert y.tolist() == [-7, -7, 1, 2, 3, -7, -7, -7]


def test_a_copy_outside_shared_memory_is_an_error() -> None:
    a = tensor("A", f32, 8)
    s = Sketch()
    with s.launch(1):
        s.copy(a, (0,), s.shared("S", f32, 8), (1,), (8,))
    with pytest.raises(
        ExecutionError, match=r"region of \[8\] at S\[1\] is not inside shared \[8\]"
    ):
        run(s.program(a), A=np.zeros(8, np.float32))


def test_copies_along_chosen_dimensions() -> None:
    a, b = tensor("A", f32, 3, 4, 5), tensor("B", f32, 4, 5)
    s = Sketch()
    with s.launch(1):
        tile = s.shared("S", f32, 4, 5)
        s.copy(a, (2, 0, 0), tile, (0, 0), (4, 5))
        s.copy(tile, (0, 0), b, (0, 0), (4, 5))
    x, y = np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.zeros((4, 5), np.float32)
    run(s.program(a, b), A=x, B=y)
    assert np.array_equal(y, x[2])


def test_conversions_of_copies() -> None:
    a, b = tensor("A", f32, 4), tensor("B", i8, 4)
    s = Sketch()
    with s.launch(1):
        s.copy(a, (0,), b, (0,), (4,))
    y = np.zeros(4, np.int8)
    run(s.program(a, b), A=np.array([1.9, -1.9, 127.2, 0.0], np.float32), B=y)
    assert y.tolist() == [1, -1, 127, 0]


def test_bf16_comes_as_its_own_dtype_or_as_bits() -> None:
    a, b = tensor("A", bf16, 4), tensor("B", f32, 4)
    s = Sketch()
    with s.launch(1):
        s.copy(a, (0,), b, (0,), (4,))
    y = np.zeros(4, np.float32)
    run(s.program(a, b), A=np.array([0x3F80, 0xC000, 0, 0x7F80], np.uint16), B=y)
    assert y.tolist() == [1.0, -2.0, 0.0, np.inf]


def scale() -> Program:
    a, n = tensor("A", f32, "N"), number("n")
    s = Sketch()
    with s.launch(1), s.parallel(4) as (i,):
        s.store(s.load(a, s.add(i, n)), a, s.add(i, n))
    return s.program(a, n)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ({"n": 0}, "TLC0730", "'A' is missing"),
        ({"A": [1.0], "n": 0}, "TLC0733", "A is a list"),
        ({"A": np.zeros(4), "n": 0}, "TLC0734", "dtype float64, not f32"),
        ({"A": np.zeros((4, 4), np.float32), "n": 0}, "TLC0731", "2 dimensions, not 1"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, object], code: str, text: str) -> None:
    with pytest.raises(ArgumentError, match=text) as error:
        run(scale(), **arguments)
    assert error.value.code == code


def test_a_read_only_array_that_is_written() -> None:
    a = np.zeros(4, np.float32)
    a.setflags(write=False)
    with pytest.raises(ArgumentError, match="read-only"):
        run(scale(), A=a, n=0)


def test_symbols_must_agree() -> None:
    a, b = tensor("A", f32, "N", 4), tensor("B", f32, "N")
    s = Sketch()
    with s.launch(1):
        pass
    with pytest.raises(ArgumentError, match=r"dimension 0 of B is 5, not 3 \(N\)"):
        run(s.program(a, b), A=np.zeros((3, 4), np.float32), B=np.zeros(5, np.float32))
    with pytest.raises(ArgumentError, match="dimension 1 of A is 2, not 4"):
        run(s.program(a, b), A=np.zeros((3, 2), np.float32), B=np.zeros(3, np.float32))


def nest(form: str, starts: tuple[int, ...], which: tuple[int, ...]) -> Program:
    """B[i, j] = A[chosen indices plus starts], as a Parallel or with loops of one thread."""
    a, b = tensor("A", i32, 6, 7), tensor("B", i32, 4, 5)
    s = Sketch()
    with s.launch(1):
        if form == "parallel":
            with s.parallel(4, 5) as (i, j):
                indices = [
                    s.add((i, j, s.add(i, j))[w], n) for w, n in zip(which, starts, strict=True)
                ]
                s.store(s.load(a, *indices, safe_value=-1.0), b, i, j)
        else:
            with s.simt(1), s.loop(0, 4) as i, s.loop(0, 5) as j:
                indices = [
                    s.add((i, j, s.add(i, j))[w], n) for w, n in zip(which, starts, strict=True)
                ]
                s.store(s.load(a, *indices, safe_value=-1.0), b, i, j)
    return s.program(a, b)


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.integers(-3, 8), st.integers(-3, 8)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_nests_mean_their_loops_whatever_the_indices(
    starts: tuple[int, int], which: tuple[int, int]
) -> None:
    x = np.arange(42, dtype=np.int32).reshape(6, 7)
    results = []
    for form in ("parallel", "loops"):
        y = np.zeros((4, 5), np.int32)
        run(nest(form, starts, which), A=x, B=y)
        results.append(y.tolist())
    assert results[0] == results[1]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_stores_of_nests_land_where_loops_put_them(
    stride: int, row: int, column: int, swap: bool
) -> None:
    results = []
    for form in ("parallel", "loops"):
        b = tensor("B", i32, 9, 12)
        s = Sketch()

        def put(i: Value, j: Value) -> None:
            y, x = s.add(s.mul(i, stride), row), s.add(s.mul(j, stride), column)  # noqa: B023
            s.store(s.add(s.mul(i, 10), j), b, *((x, y) if swap else (y, x)))  # noqa: B023

        with s.launch(1):
            if form == "parallel":
                with s.parallel(3, 4) as (i, j):
                    put(i, j)
            else:
                with s.simt(1), s.loop(0, 3) as i, s.loop(0, 4) as j:
                    put(i, j)
        y = np.full((9, 12), -1, np.int32)
        run(s.program(b), B=y)
        results.append(y.tolist())
    assert results[0] == results[1]
