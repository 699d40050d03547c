"""Programs whose fragments have become tile values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, handle, number, run, tensor
from tilec.errors import ExecutionError
from tilec.ir.core import Block, Program, Value
from tilec.ir.dtypes import f16, f32
from tilec.ir.ops.arith import Add, Cast, Compare, Select
from tilec.ir.ops.control import For, If, Parallel, Yield
from tilec.ir.ops.functions import Exp2
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.tile import ExtractTile, InsertTile, LoadTile, Splat, StoreTile, Undefined
from tilec.ir.types import Space, TileType


def store(s: Sketch, tile: Value, to: Value) -> None:
    rank = len(tile.type.shape)  # type: ignore[attr-defined]
    s.emit(StoreTile(tile, to, (s.value(0),) * rank, dims=tuple(range(rank))))


def load(s: Sketch, source: Value, *shape: int) -> Value:
    corner = (s.value(0),) * len(shape)
    tile: Value = s.emit(
        LoadTile(source, corner, shape=shape, dims=tuple(range(len(shape))))
    ).result
    return tile


def test_elementwise_arithmetic_on_tiles() -> None:
    a, b = tensor("A", f32, 4, 8), tensor("B", f16, 4, 8)
    s = Sketch()
    with s.launch(1):
        x = load(s, a, 4, 8)
        y = s.emit(Exp2(s.emit(Add(x, s.const(1.0, f32))).result)).result
        positive = s.emit(Compare(x, s.const(0.0, f32), predicate="gt")).result
        z = s.emit(Select(positive, y, x)).result
        store(s, s.emit(Cast(z, dtype=f16)).result, b)
    x_ = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    y_ = np.zeros((4, 8), np.float16)
    run(s.program(a, b), A=x_, B=y_)
    assert np.array_equal(y_, np.where(x_ > 0, np.exp2(x_ + np.float32(1)), x_).astype(np.float16))


@pytest.mark.parametrize("there", [False, True])
def test_a_tile_that_is_not_there_lies_outside(there: bool) -> None:
    a, b = tensor("A", f32, 4, 8), tensor("B", f32, 4, 8)
    s = Sketch()
    with s.launch(1):
        corner = (s.value(0), s.value(0))
        predicate = s.emit(Compare(s.value(1), s.value(int(there)), predicate="eq")).result
        tile = LoadTile(a, corner, (predicate,), shape=(4, 8), dims=(0, 1), safe_value=3.0)
        store(s, s.emit(tile).result, b)
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    y = np.zeros_like(x)
    run(s.program(a, b), A=x, B=y)
    assert np.array_equal(y, x if there else np.full_like(x, 3))


def test_insert_and_extract() -> None:
    a, b = tensor("A", f32, 4, 8), tensor("B", f32, 4, 8)
    s = Sketch()
    with s.launch(1):
        x = load(s, a, 4, 8)
        part = s.emit(ExtractTile(x, offsets=(1, 2), shape=(2, 4))).result
        zero = s.emit(Splat(s.const(0.0, f32), shape=(4, 8))).result
        store(s, s.emit(InsertTile(part, zero, offsets=(2, 4))).result, b)
    x_ = np.arange(32, dtype=np.float32).reshape(4, 8)
    y_ = np.ones_like(x_)
    run(s.program(a, b), A=x_, B=y_)
    expected = np.zeros_like(x_)
    expected[2:4, 4:8] = x_[1:3, 2:6]
    assert np.array_equal(y_, expected)


def filled_in_parts(parts: int) -> Program:
    """A tile that starts undefined and is set part by part."""
    a = tensor("A", f32, 4, 8)
    s = Sketch()
    with s.launch(1):
        tile = s.emit(Undefined(type=TileType(f32, (4, 8)))).result
        for n in range(parts):
            row = s.emit(Splat(s.const(float(n), f32), shape=(1, 8))).result
            tile = s.emit(InsertTile(row, tile, offsets=(n, 0))).result
        store(s, s.emit(ExtractTile(tile, offsets=(0, 0), shape=(3, 8))).result, a)
    return s.program(a)


def test_undefined_elements_of_tiles_are_followed() -> None:
    x = np.full((4, 8), 9, np.float32)
    run(filled_in_parts(3), A=x)
    assert x[:, 0].tolist() == [0, 1, 2, 9]
    with pytest.raises(ExecutionError, match=r"reaches global memory 'A' at element \[2, 0\]"):
        run(filled_in_parts(2), A=x)


def test_nests_read_and_update_tiles() -> None:
    a, b = tensor("A", f32, 4, 8), tensor("B", f32, 4, 8)
    s = Sketch()
    with s.launch(1):
        x, start = load(s, a, 4, 8), s.emit(Splat(s.const(1.0, f32), shape=(4, 8))).result
        i, j = number("i"), number("j")
        f, g = handle(f32, (4, 8), Space.FRAGMENT, "f"), handle(f32, (4, 8), Space.FRAGMENT, "g")
        with s.region() as ops:
            s.store(s.add(s.load(f, i, j), s.load(g, i, j)), g, i, j)
        nest = s.emit(
            Parallel((x,), (start,), Block((i, j, f, g), (*ops, Yield(()))), extents=(3, 8))
        )
        store(s, nest.result, b)
        store(s, start, a)  # the tile from before is unchanged
    x_ = np.arange(32, dtype=np.float32).reshape(4, 8)
    y_ = np.zeros_like(x_)
    before = x_.copy()
    run(s.program(a, b), A=x_, B=y_)
    assert np.array_equal(y_, np.r_[before[:3] + 1, np.ones((1, 8))])
    assert (x_ == 1).all()


def test_tiles_carried_through_loops_and_conditions() -> None:
    a = tensor("A", f32, 8, 8)
    s = Sketch()
    with s.launch(1):
        x = load(s, a, 8, 8)
        zero = s.emit(Splat(s.const(0.0, f32), shape=(8, 8))).result
        k, total = number("k"), Value(TileType(f32, (8, 8)), "total")
        with s.region() as ops:
            even = s.compare("eq", s.floormod(k, 2), 0)
            with s.region() as then:
                more = s.emit(Gemm(x, x, total, transpose_a=True)).result
            branch = s.emit(
                If(even, Block((), (*then, Yield((more,)))), Block((), (Yield((total,)),)))
            )
        body = Block((k, total), (*ops, Yield((branch.result,))))
        loop = s.emit(For(s.value(0), s.value(5), s.value(1), (zero,), body))
        store(s, loop.result, a)
    x_ = np.random.default_rng(0).integers(-3, 4, (8, 8)).astype(np.float32)
    before = x_.copy()
    run(s.program(a), A=x_)
    assert np.array_equal(x_, 3 * before.T @ before)


def test_a_tile_operand_of_a_gemm_must_be_set() -> None:
    a = tensor("A", f32, 8, 8)
    s = Sketch()
    with s.launch(1):
        unset = s.emit(Undefined(type=TileType(f32, (8, 8)))).result
        zero = s.emit(Splat(s.const(0.0, f32), shape=(8, 8))).result
        store(s, s.emit(Gemm(unset, zero, zero)).result, a)
    with pytest.raises(
        ExecutionError, match=r"uninitialised value reaches a gemm at element \[0, 0\]"
    ):
        run(s.program(a), A=np.zeros((8, 8), np.float32))
