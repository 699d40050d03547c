"""Tile-level programs built by hand, for the tests of the interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tilec.errors import Loc
from tilec.interpreter import Finding, run_program
from tilec.ir.build import Builder
from tilec.ir.core import Block, Program, Value, constant
from tilec.ir.dtypes import DType, f16, f32, i32
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.control import For, Launch, Parallel, Simt, Symbol, Yield
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.memory import Alloc, Load, Store
from tilec.ir.ops.tile import Copy, Fill
from tilec.ir.types import Dim, MemoryType, ScalarType, Space


def handle(dtype: DType, shape: tuple[Dim, ...], space: Space, hint: str) -> Value:
    return Value(MemoryType(dtype, shape, space), hint)


def tensor(hint: str, dtype: DType, *shape: Dim) -> Value:
    """A parameter in global memory."""
    return handle(dtype, shape, Space.GLOBAL, hint)


def number(hint: str, dtype: DType = i32) -> Value:
    return Value(ScalarType(dtype), hint)


class Sketch(Builder):
    """A builder with the ops of the tile level under short names. Every op gets a line of its own
    as its place.
    """

    def __init__(self) -> None:
        super().__init__()
        self._line = 0

    def emit(self, op: Any) -> Any:
        self._line += 1
        object.__setattr__(op, "loc", Loc("kernel.py", self._line))
        return super().emit(op)

    def alloc(self, space: Space, dtype: DType, *shape: int, hint: str = "") -> Value:
        value: Value = self.emit(Alloc(type=MemoryType(dtype, shape, space))).result
        value.hint = hint
        return value

    def shared(self, hint: str, dtype: DType, *shape: int) -> Value:
        return self.alloc(Space.SHARED, dtype, *shape, hint=hint)

    def local(self, hint: str, dtype: DType, *shape: int) -> Value:
        return self.alloc(Space.LOCAL, dtype, *shape, hint=hint)

    def fragment(self, hint: str, dtype: DType, *shape: int) -> Value:
        return self.alloc(Space.FRAGMENT, dtype, *shape, hint=hint)

    def load(self, memory: Value, *indices: Value | int, **options: Any) -> Value:
        result: Value = self.emit(
            Load(memory, tuple(self.value(i) for i in indices), **options)
        ).result
        return result

    def store(self, value: Value, memory: Value, *indices: Value | int, **options: Any) -> None:
        self.emit(Store(value, memory, tuple(self.value(i) for i in indices), **options))

    def symbol(self, label: str) -> Value:
        result: Value = self.emit(Symbol(label=label)).result
        return result

    def copy(
        self,
        source: Value,
        corner: tuple[Value | int, ...],
        target: Value,
        target_corner: tuple[Value | int, ...],
        shape: tuple[int, ...],
        **options: Any,
    ) -> None:
        def dims(rank: int) -> tuple[int, ...]:
            return tuple(range(rank - len(shape), rank))

        self.emit(
            Copy(
                source,
                tuple(self.value(i) for i in corner),
                target,
                tuple(self.value(i) for i in target_corner),
                shape=shape,
                source_dims=dims(len(corner)),
                destination_dims=dims(len(target_corner)),
                **options,
            )
        )

    def fill(self, memory: Value, value: float) -> None:
        assert isinstance(memory.type, MemoryType)
        self.emit(Fill(memory, constant(value, memory.type.dtype)))

    @contextmanager
    def parallel(self, *extents: int) -> Iterator[tuple[Value, ...]]:
        indices = tuple(number("ijklmn"[axis]) for axis in range(len(extents)))
        with self.region() as ops:
            yield indices
        self.emit(Parallel((), (), Block(indices, (*ops, Yield(()))), extents=extents))

    @contextmanager
    def simt(self, threads: int) -> Iterator[Value]:
        t = number("t")
        with self.region() as ops:
            yield t
        self.emit(Simt(Block((t,), (*ops, Yield(()))), threads=threads))

    @contextmanager
    def launch(
        self, *grid: Value | int, threads: int = 32, **options: Any
    ) -> Iterator[tuple[Value, ...]]:
        sizes = tuple(self.value(n) for n in (*grid, 1, 1, 1)[:3])
        indices = (number("bx"), number("by"), number("bz"))
        with self.region() as ops:
            yield indices
        body = Block(indices, (*ops, Yield(())))
        self.emit(Launch(sizes, body, threads=threads, **options))

    def program(self, *params: Value, name: str = "kernel") -> Program:
        symbols: dict[str, None] = {}
        for param in params:
            if isinstance(param.type, MemoryType):
                symbols.update(dict.fromkeys(d for d in param.type.shape if isinstance(d, str)))
        return Program(name, params, self.block(), tuple(symbols))


def run(
    program: Program, seed: int = 0, check_bounds: bool = False, **arguments: Any
) -> list[Finding]:
    """Runs a program and gives what it remarked."""
    found: list[Finding] = []
    run_program(
        program,
        arguments,
        registry=builtin_registry(),
        seed=seed,
        check_bounds=check_bounds,
        remark=found.append,
    )
    return found


def gemm(
    block: tuple[int, int, int], dtype: DType = f16, out: DType = f16, stages: int = 3
) -> Program:
    """C = A @ B.T with symbols M, N, K, tile by tile, as the frontend leaves it."""
    bm, bn, bk = block
    a, b_, c = (
        tensor("A", dtype, "M", "K"),
        tensor("B", dtype, "N", "K"),
        tensor("C", out, "M", "N"),
    )
    s = Sketch()
    m, n, k = s.symbol("M"), s.symbol("N"), s.symbol("K")
    with s.launch(s.ceildiv(n, bn), s.ceildiv(m, bm), threads=128) as (bx, by, _):
        a_s, b_s = s.shared("A_s", dtype, bm, bk), s.shared("B_s", dtype, bn, bk)
        acc = s.fragment("acc", f32, bm, bn)
        s.fill(acc, 0.0)
        index = number("k")
        with s.region() as ops:
            s.copy(a, (s.mul(by, bm), s.mul(index, bk)), a_s, (0, 0), (bm, bk))
            s.copy(b_, (s.mul(bx, bn), s.mul(index, bk)), b_s, (0, 0), (bn, bk))
            s.emit(Gemm(a_s, b_s, acc, transpose_b=True))
        s.emit(
            For(
                s.value(0), s.ceildiv(k, bk), s.value(1), (),
                Block((index,), (*ops, Yield(()))), kind="pipelined", stages=stages,
            )
        )  # fmt: skip
        s.copy(acc, (0, 0), c, (s.mul(by, bm), s.mul(bx, bn)), (bm, bn))
    return s.program(a, b_, c)


def operands(
    shape: tuple[int, int, int], dtype: DType = f16, out: DType = f16, seed: int = 0
) -> dict[str, Any]:
    """Random arguments of `gemm`; C starts as NaN."""
    m, n, k = shape
    random = np.random.default_rng(seed)
    return {
        "A": random.standard_normal((m, k)).astype(dtype.numpy),
        "B": random.standard_normal((n, k)).astype(dtype.numpy),
        "C": np.full((m, n), np.nan, np.float32).astype(out.numpy),
    }
