"""Tiles out of SSA: random loops, branches and exchanges mean the same with shared arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interpreter.programs import number, tensor
from tests.passes.lowering import FULL, SHORT, Bench, Lowered, random
from tilec.ir.core import Block, Constant, Value, constant
from tilec.ir.dtypes import i32
from tilec.ir.layout import blocked
from tilec.ir.ops.arith import Add, Elementwise, Max, Sub
from tilec.ir.ops.control import For, If, Yield
from tilec.ir.ops.tile import InsertTile, Splat
from tilec.passes.coalesce import parallel_moves

LAYOUT = blocked((4, 16), 32, 2)


class Writer:
    """Draws a block of random ops on tiles."""

    def __init__(self, s: Bench, draw: Any) -> None:
        self.s = s
        self.draw = draw

    def pick(self, tiles: Sequence[Value]) -> Value:
        return self.draw(st.sampled_from(list(tiles)))  # type: ignore[no-any-return]

    def count(self, most: int) -> int:
        return self.draw(st.integers(0, most))  # type: ignore[no-any-return]

    def ops(self, tiles: list[Value], depth: int) -> list[Value]:
        """Adds a few ops; gives all tiles that can be used after."""
        tiles = list(tiles)
        for _ in range(1 + self.count(3)):
            kinds = ["add", "sub", "max", "insert", "splat"] + ["for", "if"] * (2 if depth else 0)
            kind = self.draw(st.sampled_from(kinds))
            tiles += getattr(self, "_" + kind)(tiles, depth)
        return tiles

    def _binary(self, op: type[Add], tiles: list[Value]) -> list[Value]:
        return [self.s.emit(op(self.pick(tiles), self.pick(tiles))).result]

    def _add(self, tiles: list[Value], depth: int) -> list[Value]:
        return self._binary(Add, tiles)

    def _sub(self, tiles: list[Value], depth: int) -> list[Value]:
        return self._binary(Sub, tiles)  # type: ignore[arg-type]

    def _max(self, tiles: list[Value], depth: int) -> list[Value]:
        return self._binary(Max, tiles)  # type: ignore[arg-type]

    def _insert(self, tiles: list[Value], depth: int) -> list[Value]:
        part = self.pick(tiles)
        op = InsertTile(part, self.pick(tiles), offsets=(0, 0))
        return [self.s.emit(op).result]

    def _splat(self, tiles: list[Value], depth: int) -> list[Value]:
        value = constant(self.count(5), i32)
        return [self.s.emit(Splat(value, shape=LAYOUT.shape, layout=LAYOUT)).result]

    def _block(self, params: list[Value], tiles: list[Value], count: int, depth: int) -> Block:
        with self.s.region() as ops:
            inside = self.ops(tiles, depth)
            self.s.emit(Yield(tuple(self.pick(inside) for _ in range(count))))
        return Block(tuple(params), tuple(ops))

    def _for(self, tiles: list[Value], depth: int) -> list[Value]:
        carried = self.count(3)
        inits = tuple(self.pick(tiles) for _ in range(carried))
        params = [Value(v.type, "c") for v in inits]
        body = self._block([number("k"), *params], tiles + params, carried, depth - 1)
        s = self.s
        trips = self.count(3)
        return list(s.emit(For(s.value(0), s.value(trips), s.value(1), inits, body)).results)

    def _if(self, tiles: list[Value], depth: int) -> list[Value]:
        count = self.count(2)
        sides = [self._block([], tiles, count, depth - 1) for _ in range(2)]
        condition = self.s.compare("lt", self.bound, self.count(3))
        return list(self.s.emit(If(condition, *sides)).results)


def evaluate(block: Block, values: dict[Value, Any]) -> list[Any]:
    """What a block of tile ops yields, by the meaning of its ops."""

    def get(value: Value) -> Any:
        return np.int32(value.value) if isinstance(value, Constant) else values[value]

    for op in block.ops:
        match op:
            case Yield():
                return [get(v) for v in op.values]
            case For():
                carried = [get(v) for v in op.inits]
                for k in range(int(get(op.stop))):
                    values[op.body.params[0]] = np.int32(k)
                    values.update(zip(op.body.params[1:], carried, strict=True))
                    carried = evaluate(op.body, values)
                values.update(zip(op.results, carried, strict=True))
            case If():
                side = op.then if get(op.condition) else op.orelse
                values.update(zip(op.results, evaluate(side, values), strict=True))
            case InsertTile():
                values[op.result] = get(op.tile)
            case Splat():
                values[op.result] = np.full(op.shape, get(op.value))
            case Elementwise():
                values[op.result] = op.evaluate(*(get(v) for v in op.inputs))
    return []


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_random_control_flow_of_tiles(data: Any) -> None:
    a, b, c = (tensor(name, i32, *LAYOUT.shape) for name in "ABC")
    s = Bench()
    with s.launch(3, threads=32) as (bx, _, _):
        tiles = [s.load_tile(t, (0, 0), LAYOUT) for t in (a, b)]
        writer = Writer(s, data.draw)
        writer.bound = bx  # type: ignore[attr-defined]
        before = len(s.ops)
        last = writer.ops(tiles, 2)
        ops = s.ops[before:]
        total = last[-1]
        for value in last[:-1]:  # everything is used at the end, so that nothing falls away
            total = s.emit(Add(total, value)).result
        s.store_tile(total, c, (0, 0))
    program = s.program(a, b, c)
    x, y = random(i32, *LAYOUT.shape), random(i32, *LAYOUT.shape, seed=1)
    with np.errstate(all="ignore"):
        values: dict[Value, Any] = {tiles[0]: x, tiles[1]: y, bx: np.int32(2)}
        evaluate(Block((), ops), values)
        expected = sum((values[v] for v in last), np.zeros_like(x))
    for passes in (SHORT, FULL):
        result = np.zeros_like(x)
        Lowered(program, passes=passes).run(A=x, B=y, C=result)
        assert np.array_equal(result, expected)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=0, max_size=6))
def test_moves_at_once(sources: list[int]) -> None:
    """Move i takes what `sources[i]` held before any move."""
    places = [Value(number("p").type, str(i)) for i in range(6)]
    ordered, saved = parallel_moves([(places[i], places[n]) for i, n in enumerate(sources)])
    held = {place: i for i, place in enumerate(places)}
    kept = {place: held[place] for place in saved}
    for destination, source in ordered:
        held[destination] = kept[source] if source in kept else held[source]
    assert [held[places[i]] for i in range(len(sources))] == sources
    assert len(saved) <= len(sources) // 2
