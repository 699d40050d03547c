"""GEMMs at thread level, by hand: cp.async and mma.sync; roles, TMA and wgmma; buffers and MFMA."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tests.backends.emitter_programs import Kernel, line, memory, named
from tilec.ir.build import Builder, scalar
from tilec.ir.core import Block, Program, Value
from tilec.ir.dtypes import bool_, f16, f32, i32, mbarrier
from tilec.ir.ops.amd import BufferLoad, BufferStore, MakeBuffer, Mfma, SetPriority
from tilec.ir.ops.control import For, HardwareBlock, Role, ThreadId, WarpUniform, Yield
from tilec.ir.ops.nvidia import (
    CpAsync,
    CpAsyncCommit,
    CpAsyncWait,
    LdMatrix,
    MbarrierArrive,
    MbarrierExpect,
    MbarrierInit,
    MbarrierInitFence,
    MbarrierWait,
    Mma,
    SetRegisters,
    TensorMap,
    TmaLoad,
)
from tilec.ir.ops.thread import Barrier, ConvertRegisters, FillRegisters, VectorStore
from tilec.ir.ops.wgmma import (
    AdvanceDescriptor,
    MakeDescriptor,
    Wgmma,
    WgmmaCommit,
    WgmmaFence,
    WgmmaWait,
)

Step = Callable[..., Iterable[Value]]


class Gemm(Kernel):
    """A kernel of C = A B^T with a grid of tiles."""

    def __init__(self, name: str, tile_m: int, tile_n: int) -> None:
        dims = {"A": ("M", "K"), "B": ("N", "K"), "C": ("M", "N")}
        self.arrays = {name: memory(f16, shape, name) for name, shape in dims.items()}
        super().__init__(name, *self.arrays.values(), symbols=("M", "N", "K"))
        self.m, self.n, self.k = (self.symbol(s) for s in "MNK")
        before = Builder()
        self.grid = (before.ceildiv(self.n, tile_n), before.ceildiv(self.m, tile_m), 1)
        self.prepare(before)
        self.before += before.ops
        self.zero = self.b.const(0)

    def prepare(self, before: Builder) -> None:
        """What is computed before the launch."""

    def accumulators(self, count: int) -> Value:
        acc = self.alloc(f32, count, "acc")
        self.b.emit(FillRegisters(acc, self.zero, self.b.const(0.0, f32), count=count))
        return acc


class GemmSm80(Gemm):
    """16 x 16 of C a warp, K in steps of 16, two stages; M, N and K are multiples of the tile."""

    def prepare(self, before: Builder) -> None:
        self.k_tiles = named(before.floordiv(self.k, 16), "k_tiles")

    def build(self) -> Program:
        b = self.b
        self.a_s, self.b_s = self.alloc(f16, 512, "A_s", 0), self.alloc(f16, 512, "B_s", 1024)
        acc = self.accumulators(8)
        self.t = t = self.thread()
        self.row, self.column = (
            named(self.div(t, 2), "row"),
            named(b.mul(self.mod(t, 2), 8), "column"),
        )
        self.fetch(self.zero, self.zero)
        with line(14), b.loop(0, self.k_tiles, hint="k") as step:
            following = named(b.add(step, 1), "following")
            self.fetch(self.mod(following, 2), following)
            b.emit(CpAsyncWait(pending=1))
            b.emit(Barrier())
            self.multiply(acc, named(b.mul(self.mod(step, 2), 256), "slot"))
            b.emit(Barrier())
        b.emit(CpAsyncWait(pending=0))
        with line(20), b.loop(0, 4, hint="q", unroll=0) as q:
            self.finish(acc, q)
        return self.program(self.grid, 32, shared_bytes=2048)

    def fetch(self, slot: Value, step: Value) -> None:
        b = self.b
        place = self.total(b.mul(slot, 256), b.mul(self.row, 16), self.column)
        for name, tile, block in (("A", self.a_s, self.blocks[1]), ("B", self.b_s, self.blocks[0])):
            source = b.mul(self.total(b.mul(block, 16), self.row), self.k)
            source = self.total(source, b.mul(step, 16), self.column)
            guard = (b.compare("lt", b.add(b.mul(step, 16), self.column), self.k),)
            array = self.flat(self.arrays[name])
            b.emit(CpAsync(tile, (place,), array, (source,), guard, size=16))
        b.emit(CpAsyncCommit())

    def multiply(self, acc: Value, slot: Value) -> None:
        b, t = self.b, self.t
        ra, rb = self.alloc(f16, 8, "a"), self.alloc(f16, 8, "b")
        lane_row = b.add(b.mul(self.mod(t, 16), 16), b.mul(self.div(t, 16), 8))
        b.emit(LdMatrix(ra, self.zero, self.a_s, (b.add(slot, lane_row),), matrices=4))
        rows = b.add(self.mod(t, 8), b.mul(self.div(t, 16), 8))
        half = b.mul(self.mod(self.div(t, 8), 2), 8)
        b.emit(
            LdMatrix(
                rb, self.zero, self.b_s, (self.total(slot, b.mul(rows, 16), half),), matrices=4
            )
        )
        with b.loop(0, 2, hint="j", unroll=0) as j:
            b.emit(Mma(acc, b.mul(j, 4), ra, self.zero, rb, b.mul(j, 4), m=16, n=8, k=16))

    def finish(self, acc: Value, q: Value) -> None:
        b, t = self.b, self.t
        out = self.alloc(f16, 2, "out")
        b.emit(ConvertRegisters(out, self.zero, acc, b.mul(q, 2), count=2))
        r = self.total(b.mul(self.blocks[1], 16), b.mul(self.mod(q, 2), 8), self.div(t, 4))
        pair = b.mul(self.mod(t, 4), 2)
        column = self.total(b.mul(self.blocks[0], 16), b.mul(self.div(q, 2), 8), pair)
        place = b.add(b.mul(r, self.n), column)
        b.emit(VectorStore(self.flat(self.arrays["C"]), (place,), out, self.zero, (), count=2))


class GemmSm90(Gemm):
    """By roles: one thread feeds a ring of four slots by TMA, two warpgroups multiply 128 x 128."""

    def prepare(self, before: Builder) -> None:
        self.k_tiles = named(before.ceildiv(self.k, 64), "k_tiles")
        arrays = (self.arrays["A"], self.arrays["B"])
        self.maps = [before.emit(TensorMap(x, box=(128, 64), swizzle=128)).result for x in arrays]

    def build(self) -> Program:
        b = self.b
        self.a_s, self.b_s = self.alloc(f16, 32768, "A_s", 0), self.alloc(f16, 32768, "B_s", 65536)
        self.full = self.alloc(mbarrier, 4, "full", 131072)
        self.empty = self.alloc(mbarrier, 4, "empty", 131104)
        with b.when(b.compare("eq", b.emit(ThreadId(launched=True)).result, 0)):
            with b.loop(0, 4, hint="s", unroll=0) as s:
                b.emit(MbarrierInit(self.full, s, count=1))
                b.emit(MbarrierInit(self.empty, s, count=2))
            b.emit(MbarrierInitFence())
        b.emit(Barrier())
        with line(9):
            self.role("consumer", 0, 256, self.consume)
            self.role("producer", 256, 128, self.produce)
        b.emit(Yield(()))
        attributes = {
            "launched_threads": 384,
            "shared_bytes": 131136,
            "in_turn": True,
            "resident": 1,
        }
        return self.program(self.grid, 256, **attributes)

    def role(self, label: str, first: int, threads: int, emit: Callable[[], None]) -> None:
        with self.b.region() as ops:
            emit()
            self.b.emit(Yield(()))
        body = Block((), tuple(ops))
        self.b.emit(Role(body, label=label, first_thread=first, threads=threads))

    def over_tiles(self, step: Step) -> None:
        """The loop over logical blocks; `step(pm, pn, slot, phase)` gives what is next."""
        b, gx, gy = self.b, *self.grid[:2]
        first, count = b.emit(HardwareBlock()).result, b.emit(HardwareBlock(count=True)).result
        total = named(b.mul(gx, gy), "tiles")
        tile, carried = scalar(i32, "tile"), [scalar(i32, h) for h in ("slot", "phase")]
        with b.region() as ops:
            pn, pm = named(b.floormod(tile, gx), "pn"), named(b.floordiv(tile, gx), "pm")
            b.emit(Yield(tuple(step(pm, pn, *carried))))
        body = Block((tile, *carried), tuple(ops))
        with line(12):
            b.emit(For(first, total, count, (self.zero, self.zero), body))

    def over_k(self, step: Step, slot: Value, phase: Value) -> tuple[Value, ...]:
        """The loop over tiles of K, which goes on to the next slot after `step(k, slot, phase)`."""
        b = self.b
        index, carried = scalar(i32, "k"), [scalar(i32, v.hint) for v in (slot, phase)]
        with b.region() as ops:
            step(index, *carried)
            following = named(b.add(carried[0], 1), "following")
            wrapped = named(b.compare("eq", following, 4), "wrapped")
            phase_next = b.select(wrapped, b.bit_xor(carried[1], 1), carried[1])
            b.emit(Yield((b.select(wrapped, 0, following), phase_next)))
        body = Block((index, *carried), tuple(ops))
        with line(14):
            return b.emit(For(self.zero, self.k_tiles, b.const(1), (slot, phase), body)).results

    def produce(self) -> None:
        self.b.emit(SetRegisters(count=40))
        with self.b.when(self.b.compare("eq", self.thread(), 0)):
            self.over_tiles(self.load_tile)

    def load_tile(self, pm: Value, pn: Value, slot: Value, phase: Value) -> tuple[Value, ...]:
        b = self.b

        def step(index: Value, slot: Value, phase: Value) -> tuple[()]:
            b.emit(MbarrierWait(self.empty, slot, b.bit_xor(phase, 1)))
            b.emit(MbarrierExpect(self.full, slot, b.const(32768)))
            at_k = named(b.mul(index, 64), "at_k")
            for tile, map_, block in zip((self.a_s, self.b_s), self.maps, (pm, pn), strict=True):
                place, corner = (b.mul(slot, 8192),), (at_k, b.mul(block, 128))
                b.emit(TmaLoad(tile, place, map_, self.full, slot, corner))
            return ()

        return self.over_k(step, slot, phase)

    def consume(self) -> None:
        b = self.b
        b.emit(SetRegisters(count=232, increase=True))
        self.t = t = self.thread()
        self.group = named(b.emit(WarpUniform(self.div(t, 128))).result, "group")
        warp = self.div(self.mod(t, 128), 32)
        self.lane = named(b.add(b.mul(warp, 64), self.mod(t, 32)), "lane")
        a_at, b_at = (b.mul(self.group, 4096),), (self.zero,)
        shape: dict[str, Any] = {"swizzle": 128, "lbo": 16, "sbo": 1024}
        self.desc_a = named(b.emit(MakeDescriptor(self.a_s, a_at, **shape)).result, "desc_a")
        self.desc_b = named(b.emit(MakeDescriptor(self.b_s, b_at, **shape)).result, "desc_b")
        self.over_tiles(self.multiply_tile)

    def multiply_tile(self, pm: Value, pn: Value, slot: Value, phase: Value) -> tuple[Value, ...]:
        b, acc = self.b, self.accumulators(64)

        def step(index: Value, slot: Value, phase: Value) -> tuple[()]:
            b.emit(MbarrierWait(self.full, slot, phase))
            b.emit(WgmmaFence())
            with b.loop(0, 4, hint="kk", unroll=0) as kk:
                offset = b.add(b.mul(slot, 1024), b.mul(kk, 2))
                a_d, b_d = (
                    b.emit(AdvanceDescriptor(d, offset)).result for d in (self.desc_a, self.desc_b)
                )
                b.emit(
                    Wgmma(
                        acc,
                        self.zero,
                        a_d,
                        b_d,
                        b.const(True, bool_),
                        n=128,
                        a_dtype=f16,
                        b_dtype=f16,
                    )
                )
            b.emit(WgmmaCommit())
            b.emit(WgmmaWait((acc,), pending=0))
            with b.when(b.compare("eq", self.mod(self.t, 128), 0)):
                b.emit(MbarrierArrive(self.empty, slot))
            return ()

        state = self.over_k(step, slot, phase)
        self.store_tile(acc, pm, pn)
        return state

    def store_tile(self, acc: Value, pm: Value, pn: Value) -> None:
        b, lane = self.b, self.lane
        row = self.total(b.mul(pm, 128), b.mul(self.group, 64), self.div(lane, 4))
        column = self.total(b.mul(pn, 128), b.mul(self.mod(lane, 4), 2))
        with line(17), b.loop(0, 32, hint="i", unroll=0) as i:
            out = self.alloc(f16, 2, "out")
            b.emit(ConvertRegisters(out, self.zero, acc, b.mul(i, 2), count=2))
            r = named(b.add(named(row, "row"), b.mul(self.mod(i, 2), 8)), "r")
            col = named(b.add(named(column, "column"), b.mul(self.div(i, 2), 8)), "col")
            inside = b.both(b.compare("lt", r, self.m), b.compare("lt", col, self.n))
            place, c = (b.add(b.mul(r, self.n), col),), self.flat(self.arrays["C"])
            b.emit(VectorStore(c, place, out, self.zero, (inside,), count=2))


class TileGfx942(Gemm):
    """32 x 32 of C a wave, K a multiple of 8: buffer loads, MFMA, buffer stores."""

    def build(self) -> Program:
        b, views = self.b, {}
        for name, rows, columns in (
            ("A", self.m, self.k),
            ("B", self.n, self.k),
            ("C", self.m, self.n),
        ):
            view = b.emit(MakeBuffer(self.flat(self.arrays[name]), b.mul(rows, columns))).result
            views[name] = named(view, f"{name}_v")
        lane = self.thread()
        row, piece = named(self.mod(lane, 32), "row"), named(self.div(lane, 32), "piece")
        acc = self.accumulators(16)
        m = named(b.add(b.mul(self.blocks[1], 32), row), "m")
        n = named(b.add(b.mul(self.blocks[0], 32), row), "n")
        with line(31), b.loop(0, self.k, 8, hint="k") as step:
            tiles = []
            for name, index, extent in (("A", m, self.m), ("B", n, self.n)):
                registers = self.alloc(f16, 4, name.lower())
                place = (self.total(b.mul(index, self.k), step, b.mul(piece, 4)),)
                inside = b.compare("lt", index, extent)
                b.emit(BufferLoad(registers, self.zero, views[name], place, inside, count=4))
                tiles.append(registers)
            b.emit(SetPriority(priority=1))
            b.emit(Mfma(acc, self.zero, tiles[0], self.zero, tiles[1], self.zero, m=32, n=32, k=8))
            b.emit(SetPriority(priority=0))
        with line(36), b.loop(0, 16, hint="i", unroll=0) as i:
            out = self.alloc(f16, 1, "out")
            b.emit(ConvertRegisters(out, self.zero, acc, i, count=1))
            quad = b.mul(self.div(i, 4), 8)
            corner = b.mul(self.blocks[1], 32)
            r = named(self.total(corner, quad, b.mul(piece, 4), self.mod(i, 4)), "r")
            inside = b.both(b.compare("lt", r, self.m), b.compare("lt", n, self.n))
            place = (b.add(b.mul(r, self.n), n),)
            b.emit(BufferStore(views["C"], place, out, self.zero, inside, count=1))
        return self.program(self.grid, 64)


def gemm_sm80() -> Program:
    return GemmSm80("gemm-80", 16, 16).build()


def gemm_sm90() -> Program:
    return GemmSm90("matmul", 128, 128).build()


def tile_gfx942() -> Program:
    return TileGfx942("tile", 32, 32).build()
