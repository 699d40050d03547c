"""Roles side by side: what orders them, what does not, and tiles handed on in registers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, number, run, tensor
from tilec.errors import ExecutionError
from tilec.ir.core import Block, Program, Value
from tilec.ir.dtypes import f16, f32, i32
from tilec.ir.ops.control import For, HardwareBlock, Role, Yield
from tilec.ir.ops.pipeline import Channel, Commit, Free, Get, Pipeline, Put, Receive, Send, Stage
from tilec.ir.ops.thread import Barrier
from tilec.ir.ops.tile import LoadTile, StoreTile
from tilec.ir.types import ChannelType, MemoryType, Space, TileType

Text = Callable[[], None]


def role(s: Sketch, label: str, first: int, body: Text) -> Role:
    with s.region() as ops:
        body()
    return Role(Block((), (*ops, Yield(()))), label=label, first_thread=first, threads=64)


def two_roles(
    first: Callable[[Sketch, Value, Value], None], second: Callable[[Sketch, Value, Value], None]
) -> Program:
    """Two roles over a shared buffer and a tensor."""
    s = Sketch()
    a = tensor("A", f32, 8)
    with s.launch(1, threads=64):
        mine = s.shared("S", f32, 8)
        s.fill(mine, 1)
        roles = [
            role(s, "one", 0, lambda: first(s, mine, a)),
            role(s, "two", 64, lambda: second(s, mine, a)),
        ]
        s.extend(roles)
    return s.program(a)


def write(s: Sketch, mine: Value, a: Value) -> None:
    s.fill(mine, 5)


def read(s: Sketch, mine: Value, a: Value) -> None:
    s.copy(mine, (0,), a, (0,), (8,))


def meet(s: Sketch) -> None:
    s.emit(Barrier(barrier=2, threads=128))


@pytest.mark.parametrize("seed", range(4))
def test_roles_that_share_memory_with_nothing_between_them(seed: int) -> None:
    with pytest.raises(
        ExecutionError, match=r"shared S is (written|read) here while another role uses it"
    ) as e:
        run(two_roles(write, read), seed=seed, A=np.zeros(8, np.float32))
    assert e.value.code == "TLC0758"
    with pytest.raises(ExecutionError, match="another role"):
        run(two_roles(write, write), seed=seed, A=np.zeros(8, np.float32))


@pytest.mark.parametrize("seed", range(4))
def test_what_was_written_before_the_roles_may_be_read_by_all(seed: int) -> None:
    x = np.zeros(8, np.float32)
    run(two_roles(read, lambda s, mine, a: None), seed=seed, A=x)
    assert (x == 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_hardware_barrier_orders_roles(seed: int) -> None:
    x = np.zeros(8, np.float32)

    def write_then_meet(s: Sketch, mine: Value, a: Value) -> None:
        write(s, mine, a)
        meet(s)

    def meet_then_read(s: Sketch, mine: Value, a: Value) -> None:
        meet(s)
        read(s, mine, a)

    def read_then_meet(s: Sketch, mine: Value, a: Value) -> None:
        read(s, mine, a)
        meet(s)

    run(two_roles(write_then_meet, meet_then_read), seed=seed, A=x)
    assert (x == 5).all()
    with pytest.raises(ExecutionError, match="another role"):
        run(two_roles(write_then_meet, read_then_meet), seed=seed, A=x)
    with pytest.raises(ExecutionError, match="role 'one' waits for barrier 2"):
        run(two_roles(write_then_meet, lambda s, m, a: None), seed=seed, A=x)


def beside_a_channel(late: bool) -> Program:
    """A plain buffer written before the commit of a channel or after it, and read after the get."""
    s = Sketch()
    a = tensor("A", f32, 8)
    with s.launch(1, threads=64):
        type_ = ChannelType(MemoryType(f32, (8,), Space.SHARED), 2)
        ring = s.emit(Channel(type=type_, label="ring")).result
        mine = s.shared("S", f32, 8)
        s.fill(mine, 1)

        def produce() -> None:
            s.fill(s.emit(Put(ring)).result, 2)
            if not late:
                s.fill(mine, 3)
            s.emit(Commit(ring))
            if late:
                s.fill(mine, 3)

        def consume() -> None:
            s.emit(Get(ring))
            s.copy(mine, (0,), a, (0,), (8,))
            s.emit(Free(ring))

        roles = [role(s, "one", 0, produce), role(s, "two", 64, consume)]
        s.extend(roles)
    return s.program(a)


@pytest.mark.parametrize("seed", range(4))
def test_a_channel_orders_what_was_done_before_its_commit(seed: int) -> None:
    x = np.zeros(8, np.float32)
    run(beside_a_channel(late=False), seed=seed, A=x)
    assert (x == 3).all()
    with pytest.raises(ExecutionError, match=r"shared S is (written|read) here") as error:
        run(beside_a_channel(late=True), seed=seed, A=x)
    assert error.value.code == "TLC0758"


def through_registers(slots: int, lead: int) -> Program:
    """B[k] = A[k], through a channel of tiles."""
    a, b = tensor("A", f16, "T", 8), tensor("B", f16, "T", 8)
    s = Sketch()
    with s.launch(1):
        type_ = ChannelType(TileType(f16, (8,)), slots)
        channel = s.emit(Channel(type=type_, label="tiles")).result
        k = number("k")
        with s.region() as fetch:
            tile = s.emit(LoadTile(a, (k, s.value(0)), shape=(8,), dims=(1,))).result
            s.emit(Send(channel, tile))
        with s.region() as deposit:
            tile = s.emit(Receive(channel)).result
            s.emit(StoreTile(tile, b, (k, s.value(0)), dims=(1,)))
        stages = (
            Stage(Block((), (*fetch, Yield(()))), label="fetch", lead=lead),
            Stage(Block((), (*deposit, Yield(()))), label="deposit"),
        )
        s.emit(Pipeline(s.value(0), s.symbol("T"), (), Block((k,), (*stages, Yield(())))))
    return s.program(a, b)


@pytest.mark.parametrize("trips", [0, 1, 2, 5])
def test_tiles_sent_are_received_in_order(trips: int) -> None:
    x = np.arange(trips * 8, dtype=np.float16).reshape(trips, 8)
    y = np.zeros_like(x)
    run(through_registers(2, 1), A=x, B=y)
    assert np.array_equal(x, y)


def test_more_tiles_in_registers_than_the_channel_has() -> None:
    x = np.zeros((5, 8), np.float16)
    with pytest.raises(ExecutionError, match="room for a tile in 'tiles'") as error:
        run(through_registers(2, 2), A=x, B=x.copy())
    assert error.value.code == "TLC0751"


def test_resident_blocks_take_logical_blocks_in_turn() -> None:
    a = tensor("A", i32, 12)
    s = Sketch()
    with s.launch(4, 3, in_turn=True, resident=1):
        first = s.emit(HardwareBlock()).result
        count = s.emit(HardwareBlock(count=True)).result
        tile = number("tile")
        with s.region() as ops, s.parallel(1) as (i,):
            s.store(s.mul(tile, 2), a, s.add(tile, i))
        s.emit(For(first, s.value(12), count, (), Block((tile,), (*ops, Yield(())))))
    for seed in range(6):
        x = np.full(12, -1, np.int32)
        run(s.program(a), seed=seed, A=x)
        assert np.array_equal(x, 2 * np.arange(12))


@pytest.mark.parametrize("seed", range(4))
def test_private_memory_is_each_roles_own(seed: int) -> None:
    s = Sketch()
    a = tensor("A", i32, 2)
    with s.launch(1, threads=64):
        count = s.local("count", i32, 1)
        with s.simt(64):
            s.store(s.value(5), count, 0)

        def add(row: int) -> Text:
            def body() -> None:
                for _ in range(3):
                    with s.simt(64):
                        s.store(s.add(s.load(count, 0), row), count, 0)
                with s.parallel(1) as (i,):
                    s.store(s.load(count, 0), a, s.add(i, row - 1))

            return body

        roles = [role(s, "one", 0, add(1)), role(s, "two", 64, add(2))]
        s.extend(roles)
    x = np.zeros(2, np.int32)
    run(s.program(a), seed=seed, A=x)
    assert x.tolist() == [8, 11]
