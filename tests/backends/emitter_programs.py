"""Thread-level programs, built by hand as lower_tiles would leave them."""

from __future__ import annotations

from typing import Any

from tilec.backends.emitter import emit_program
from tilec.errors import Loc
from tilec.ir.build import Builder, fresh, scalar
from tilec.ir.core import Block, Level, Op, Program, Value, at
from tilec.ir.dtypes import DType, f16, f32, i32
from tilec.ir.ops import arith, builtin_registry
from tilec.ir.ops.control import For, If, Launch, Symbol, ThreadId, While, Yield
from tilec.ir.ops.memory import Alloc, Flatten, Load, Store
from tilec.ir.ops.thread import Shuffle
from tilec.ir.registry import Registry
from tilec.ir.types import Dim, MemoryType, Space
from tilec.target import find_target

FILE = "kernels/matmul.py"


def memory(dtype: DType, shape: tuple[Dim, ...], name: str, space: Space = Space.GLOBAL) -> Value:
    return fresh(MemoryType(dtype, shape, space), name)


class Kernel:
    """A program of one launch: parameters, symbols, the builder of its body."""

    def __init__(self, name: str, *params: Value, symbols: tuple[str, ...] = ()) -> None:
        self.name, self.params, self.symbols = name, params, symbols
        self.b = Builder()
        self.before: list[Op] = []
        self.blocks = tuple(scalar(i32, hint) for hint in ("bx", "by", "bz"))

    def symbol(self, label: str) -> Value:
        op = Symbol(label=label)
        self.before.append(op)
        return op.result

    def alloc(self, dtype: DType, size: int | None, name: str, offset: int = -1) -> Value:
        space = Space.SHARED if offset >= 0 else Space.LOCAL
        shape = () if size is None else (size,)
        op = self.b.emit(Alloc(type=MemoryType(dtype, shape, space), offset=offset))
        op.result.hint = name
        return op.result

    def flat(self, value: Value) -> Value:
        return self.b.emit(Flatten(value)).result

    def load(self, array: Value, index: Value | int, *predicate: Value, hint: str = "") -> Value:
        value = self.b.emit(Load(array, (self.b.value(index),), predicate)).result
        value.hint = hint
        return value

    def store(self, value: Value, array: Value, index: Value | int, *predicate: Value) -> None:
        self.b.emit(Store(value, array, (self.b.value(index),), predicate))

    def thread(self) -> Value:
        return self.b.emit(ThreadId()).result

    def div(self, x: Value, y: int) -> Value:
        return self.b.pure(arith.TruncDiv(x, self.b.const(y)))

    def mod(self, x: Value, y: int) -> Value:
        return self.b.pure(arith.TruncMod(x, self.b.const(y)))

    def total(self, *terms: Value | int) -> Value:
        """The sum, from left to right."""
        found = self.b.value(terms[0])
        for term in terms[1:]:
            found = self.b.add(found, term)
        return found

    def program(self, grid: tuple[Value | int, ...], threads: int, **attributes: object) -> Program:
        extents = tuple(self.b.value(extent) for extent in grid)
        launch = Launch(extents, self.b.block(*self.blocks), threads=threads, **attributes)  # type: ignore[arg-type]
        body = Block((), (*self.before, launch))
        return Program(self.name, self.params, body, self.symbols, Level.THREAD)


def named(value: Value, hint: str) -> Value:
    value.hint = hint
    return value


def line(number: int) -> at:
    return at(Loc(FILE, number, 4))


def body(
    kernel: Kernel, target: str = "cuda:sm_80", registry: Registry | None = None, **attributes: Any
) -> str:
    program = kernel.program((1, 1, 1), attributes.pop("threads", 64), **attributes)
    return emit_program(program, find_target(target), registry or builtin_registry()).frames[0].body


def scale() -> Program:
    """C[i] = A[i] * alpha + safe, elements of a tail guarded: predicates, a scalar, a symbol, a
    negative constant."""
    a, c = memory(f16, ("N",), "A"), memory(f16, ("N",), "C")
    alpha = scalar(f32, "alpha")
    k = Kernel("scale", a, c, alpha, symbols=("N",))
    b = k.b
    n = k.symbol("N")
    before = Builder()
    grid = before.ceildiv(n, 256)
    k.before += before.ops
    index = named(b.add(b.mul(k.blocks[0], 256), k.thread()), "i")
    inside = named(b.compare("lt", index, n), "inside")
    x = b.cast(k.load(k.flat(a), index, inside), f32)
    y = b.add(b.mul(x, alpha), b.const(-0.5, f32))
    k.store(b.cast(y, f16), k.flat(c), index, inside)
    return k.program((grid, 1, 1), 256)


def control() -> Program:
    """Loops that carry values past each other, conditions with results, else-if, while, a mutable
    scalar."""
    out = memory(i32, ("N",), "out")
    k = Kernel("control", out, symbols=("N",))
    b = k.b
    k.symbol("N")
    t = k.thread()
    x, y = _fibonacci(k, t)
    total = k.alloc(i32, None, "total")
    b.emit(Store(b.const(0), total, ()))
    _three_ways(k, named(k.mod(t, 3), "kind"), total, x, y)
    steps, left = _collatz(k, t), _countdown(k)
    shown = b.add(b.mul(b.emit(Load(total, ())).result, 1000), b.add(steps, left))
    k.store(shown, k.flat(out), t)
    return k.program((1, 1, 1), 32)


def _loop(
    k: Kernel,
    stop: Value,
    step: int,
    names: str,
    inits: tuple[Value, ...],
    body: object,
    unroll: int = 1,
) -> For:
    index, carried = scalar(i32, "i"), [scalar(i32, name) for name in names]
    with k.b.region() as ops:
        k.b.emit(Yield(body(*carried)))  # type: ignore[operator]
    block = Block((index, *carried), tuple(ops))
    return k.b.emit(For(k.b.const(0), stop, k.b.const(step), inits, block, unroll=unroll))


def _fibonacci(k: Kernel, t: Value) -> tuple[Value, ...]:
    """Both carried values change at once; then they are swapped every other time."""
    b = k.b
    with line(3):
        inits = (b.const(0), b.const(1))
        fib = _loop(k, t, 1, "xy", inits, lambda x, y: (y, b.add(x, y)))
    return _loop(k, t, 2, "pq", fib.results, lambda p, q: (q, p), unroll=4).results


def _three_ways(k: Kernel, kind: Value, total: Value, x: Value, y: Value) -> None:
    b = k.b

    def store(value: Value) -> Block:
        with b.region() as ops:
            b.emit(Store(value, total, ()))
            b.emit(Yield(()))
        return Block((), tuple(ops))

    with b.region() as then:
        b.emit(Store(b.add(b.emit(Load(total, ())).result, x), total, ()))
        b.emit(Yield(()))
    with b.region() as orelse:
        b.emit(If(b.compare("eq", kind, 1), store(y), store(b.const(-7))))
        b.emit(Yield(()))
    b.emit(If(b.compare("eq", kind, 0), Block((), tuple(then)), Block((), tuple(orelse))))


def _collatz(k: Kernel, t: Value) -> Value:
    """How many steps from t + 1 to 1."""
    b = k.b
    held, steps, before = scalar(i32, "held"), scalar(i32, "steps"), scalar(i32)
    with b.region() as condition:
        b.emit(Yield((b.compare("gt", before, 1),)))
    with b.region() as loop:
        even = b.compare("eq", b.bit_and(held, 1), 0)
        with b.region() as is_even:
            b.emit(Yield((b.shift_right(held, 1),)))
        with b.region() as is_odd:
            b.emit(Yield((b.add(b.mul(held, 3), 1),)))
        following = b.emit(If(even, Block((), tuple(is_even)), Block((), tuple(is_odd)))).result
        b.emit(Yield((named(following, "following"), b.add(steps, 1))))
    condition_block = Block((before, scalar(i32)), tuple(condition))
    inits = (b.add(t, 1), b.const(0))
    return b.emit(While(inits, condition_block, Block((held, steps), tuple(loop)))).results[1]


def _countdown(k: Kernel) -> Value:
    """A condition that takes a statement: the value is shuffled."""
    b = k.b
    left, other = scalar(i32, "left"), scalar(i32)
    with b.region() as condition:
        b.emit(Yield((b.compare("gt", b.emit(Shuffle(other, b.const(0))).result, 0),)))
    with b.region() as loop:
        b.emit(Yield((b.sub(left, 3),)))
    blocks = Block((other,), tuple(condition)), Block((left,), tuple(loop))
    return b.emit(While((b.const(8),), *blocks)).result
