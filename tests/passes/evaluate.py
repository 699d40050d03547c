"""Runs the integer ops of a block directly on their declared meaning: a reference for passes."""

from __future__ import annotations

from typing import Any

from tilec.ir.core import Block, Constant, Op, Value
from tilec.ir.ops.arith import Elementwise, element_dtype
from tilec.ir.ops.control import For, If, Launch, Simt, Symbol, Yield
from tilec.ir.ops.memory import Store


class Runner:
    """Runs every iteration, block and thread; `stored` lists (index, value) of all stores."""

    def __init__(self, symbols: dict[str, int], values: dict[Value, int]) -> None:
        self.symbols = symbols
        self.values: dict[Value, Any] = {}
        for value, number in values.items():
            self.values[value] = element_dtype(value).numpy.type(number)
        self.stored: list[tuple[int, ...]] = []

    def of(self, value: Value) -> Any:
        if isinstance(value, Constant):
            return element_dtype(value).numpy.type(value.value)
        return self.values[value]

    def run(self, block: Block) -> tuple[Any, ...]:
        for op in block.ops:
            if isinstance(op, Yield):
                return tuple(self.of(v) for v in op.values)
            self.op(op)
        return ()

    def op(self, op: Op) -> None:
        match op:
            case Elementwise():
                dtype = element_dtype(op.result).numpy
                result = op.evaluate(*map(self.of, op.inputs))
                self.values[op.result] = dtype.type(result)
            case Symbol():
                self.values[op.result] = op.dtype.numpy.type(self.symbols[op.label])
            case Store():
                indices = tuple(int(self.of(i)) for i in op.indices)
                self.stored.append((*indices, int(self.of(op.value))))
            case If():
                taken = self.run(op.then if self.of(op.condition) else op.orelse)
                self.values.update(zip(op.results, taken, strict=True))
            case For():
                self.loop(op)
            case Launch():
                for x in range(int(self.of(op.grid[0]))):
                    self.enter(op.body, (x, 0, 0))
            case Simt():
                for t in range(op.threads):
                    self.enter(op.body, (t,))
            case _:
                raise AssertionError(f"the reference does not run {op.name}")

    def enter(self, block: Block, indices: tuple[int, ...]) -> tuple[Any, ...]:
        for param, index in zip(block.params, indices, strict=True):
            self.values[param] = element_dtype(param).numpy.type(index)
        return self.run(block)

    def loop(self, op: For) -> None:
        carried = tuple(self.of(v) for v in op.inits)
        for i in range(int(self.of(op.start)), int(self.of(op.stop)), int(self.of(op.step))):
            self.values.update(zip(op.body.params[1:], carried, strict=True))
            self.values[op.body.params[0]] = element_dtype(op.start).numpy.type(i)
            carried = self.run(op.body)
        self.values.update(zip(op.results, carried, strict=True))
