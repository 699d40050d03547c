"""Programs that several tests of the IR use."""

from __future__ import annotations

from tilec.ir.build import Builder, scalar
from tilec.ir.core import Block, Program, Value
from tilec.ir.dtypes import DType, f16, f32, i32
from tilec.ir.layout import SharedLayout
from tilec.ir.ops.control import For, Launch, Symbol, Yield
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.tile import Copy, Fill
from tilec.ir.types import MemoryType, Space


def handle(name: str, dtype: DType, *shape: int | str, space: Space = Space.GLOBAL) -> Value:
    """A memory handle that stands for itself: a parameter."""
    return Value(MemoryType(dtype, shape, space), name)


def gemm() -> Program:
    """The plain GEMM, as the frontend leaves it."""
    a, b_, c = handle("A", f16, "M", "K"), handle("B", f16, "N", "K"), handle("C", f16, "M", "N")
    b = Builder()
    m, n, k = (b.emit(Symbol(label=label)).result for label in "MNK")
    grid = b.ceildiv(n, 256), b.ceildiv(m, 128), b.const(1)
    bx, by, bz = (scalar(i32, hint) for hint in ("bx", "by", "bz"))
    with b.region() as body:
        layout = SharedLayout.swizzled((128, 64), 16, 128)
        a_s = _alloc(b, "As", MemoryType(f16, (128, 64), Space.SHARED, layout))
        b_s = _alloc(b, "Bs", MemoryType(f16, (256, 64), Space.SHARED))
        acc = _alloc(b, "acc", MemoryType(f32, (128, 256), Space.FRAGMENT))
        b.emit(Fill(acc, b.const(0.0, f32)))
        step = scalar(i32, "k")
        with b.region() as loop:
            _copy(b, a, (b.mul(by, 128), b.mul(step, 64)), a_s, (128, 64))
            _copy(b, b_, (b.mul(bx, 256), b.mul(step, 64)), b_s, (256, 64))
            b.emit(Gemm(a_s, b_s, acc, (), transpose_b=True))
            b.emit(Yield(()))
        b.emit(
            For(
                b.const(0), b.ceildiv(k, 64), b.const(1), (), Block((step,), tuple(loop)),
                kind="pipelined", stages=4,
            )
        )  # fmt: skip
        origin = (b.mul(by, 128), b.mul(bx, 256))
        b.emit(
            Copy(
                acc, (b.const(0), b.const(0)), c, origin, (),
                shape=(128, 256), source_dims=(0, 1), destination_dims=(0, 1),
            )
        )  # fmt: skip
        b.emit(Yield(()))
    b.emit(Launch(grid, Block((bx, by, bz), tuple(body)), threads=256))
    return Program("matmul", (a, b_, c), b.block(), symbols=("M", "N", "K"))


def _alloc(b: Builder, name: str, type_: MemoryType) -> Value:
    value = b.emit(Alloc(type=type_)).result
    value.hint = name
    return value


def _copy(
    b: Builder, source: Value, at: tuple[Value, ...], to: Value, shape: tuple[int, ...]
) -> None:
    zero = (b.const(0), b.const(0))
    b.emit(Copy(source, at, to, zero, (), shape=shape, source_dims=(0, 1), destination_dims=(0, 1)))


GEMM_TEXT = """\
tilec.ir 1
#shared0 = shared<shape=[128, 64], modes=[[128], [64]], strides=[[64], [1]], swizzle=[3, 3, 3]>
program @matmul(%A: global f16[M, K], %B: global f16[N, K], %C: global f16[M, N]) \
<level = tile, symbols = [M, N, K]> {
  %0 = symbol <label = "M"> : i32
  %1 = symbol <label = "N"> : i32
  %2 = symbol <label = "K"> : i32
  %3 = add %1, 255 : i32
  %4 = floordiv %3, 256 : i32
  %5 = add %0, 127 : i32
  %6 = floordiv %5, 128 : i32
  launch %4, %6, 1 <threads = 256> (%bx: i32, %by: i32, %bz: i32) {
    %As = alloc <type = shared f16[128, 64] #shared0> : shared f16[128, 64] #shared0
    %Bs = alloc <type = shared f16[256, 64]> : shared f16[256, 64]
    %acc = alloc <type = fragment f32[128, 256]> : fragment f32[128, 256]
    fill %acc, 0.0
    %7 = add %2, 63 : i32
    %8 = floordiv %7, 64 : i32
    for 0, %8, 1 <kind = "pipelined", stages = 4> (%k: i32) {
      %9 = mul %by, 128 : i32
      %10 = mul %k, 64 : i32
      copy %A[%9, %10], %As[0, 0] <shape = [128, 64], source_dims = [0, 1], destination_dims = [0, 1]>
      %11 = mul %bx, 256 : i32
      %12 = mul %k, 64 : i32
      copy %B[%11, %12], %Bs[0, 0] <shape = [256, 64], source_dims = [0, 1], destination_dims = [0, 1]>
      gemm %As, %Bs, %acc <transpose_b>
      yield
    }
    %13 = mul %by, 128 : i32
    %14 = mul %bx, 256 : i32
    copy %acc[0, 0], %C[%13, %14] <shape = [128, 256], source_dims = [0, 1], destination_dims = [0, 1]>
    yield
  }
}
"""
