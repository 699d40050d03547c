"""What integers of a program are at the sizes of a call."""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.core import Op, Program, Value, constant_of
from ..ir.ops.arith import Elementwise, element_dtype
from ..ir.ops.control import Define, Launch, Symbol
from ..ir.rewrite import in_order
from ..ir.types import Dim, MemoryType, ScalarType


class CallNumbers:
    """The integers of a program outside of its launches and in one of them, each computed once;
    `sizes` are those of a call: of symbols and scalar parameters, by name."""

    def __init__(self, sizes: Mapping[str, int], program: Program, launch: Launch) -> None:
        self.sizes = sizes
        self.labels = {op.label: op.value for op in program.body.ops if isinstance(op, Define)}
        ops = (*program.body.ops, *launch.body.ops)
        self.defined: dict[Value, Op] = {result: op for op in ops for result in op.results}
        self.known: dict[Value, int | None] = {}

    def of(self, value: Value) -> int | None:
        """A number, or None for what is not known: the index of a block, an element of a tensor."""
        for one in in_order(value, self.known, self._made_of):
            self.known[one] = self._number(one)
        return self.known[value]

    def of_dim(self, dim: Dim) -> int | None:
        """An extent or a stride of a tensor."""
        if isinstance(dim, int):
            return dim
        return self.of(self.labels[dim]) if dim in self.labels else self.sizes.get(dim)

    def stride(self, memory: MemoryType, dim: int) -> int | None:
        """By how many elements neighbours along a dimension of a tensor are apart."""
        if memory.strides is not None:
            return self.of_dim(memory.strides[dim])
        stride = 1
        for inner in memory.shape[dim + 1 :]:
            extent = self.of_dim(inner)
            if extent is None:
                return None
            stride *= extent
        return stride

    def _made_of(self, value: Value) -> tuple[Value, ...]:
        """The values that one is computed from."""
        op = self.defined.get(value)
        if isinstance(op, Symbol):
            return (self.labels[op.label],) if op.label in self.labels else ()
        return op.inputs if isinstance(op, Elementwise) and op.pure else ()

    def _number(self, value: Value) -> int | None:
        number = constant_of(value)
        if number is not None:
            return int(number)
        op, parts = self.defined.get(value), self._made_of(value)
        if op is None:
            return self.sizes.get(value.hint) if isinstance(value.type, ScalarType) else None
        numbers = [self.known[v] for v in parts]
        if isinstance(op, Symbol):
            return numbers[0] if parts else self.sizes.get(op.label)
        if not parts or None in numbers:
            return None
        arrays = [element_dtype(v).numpy.type(n) for v, n in zip(parts, numbers, strict=True)]
        assert isinstance(op, Elementwise)
        return int(op.evaluate(*arrays))
