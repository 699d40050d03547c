"""Wgmma: what a warpgroup multiplies from shared memory, asynchronously. Sources: PTX ISA 8.0, chapter
9.7.15.
"""

from __future__ import annotations

from typing import ClassVar

from ..core import Access, Effect, Level, Op, Value, attribute, operand, operands
from ..dtypes import DType, descriptor
from ..types import ScalarType, Type
from .memory import check_indices, memory_type
from .thread import Statement


class MakeDescriptor(Op, name="make_descriptor", level=Level.THREAD, pure=True):
    """The wgmma matrix descriptor of shared memory at the given element. `swizzle`, `lbo`, `sbo` in
    bytes.
    """

    text: ClassVar[str] = "make_descriptor<{swizzle}>({memory}, {indices}, {lbo}, {sbo})"
    memory: Value = operand()
    indices: tuple[Value, ...] = operands()
    swizzle: int = attribute()
    lbo: int = attribute()
    sbo: int = attribute()

    def infer(self) -> tuple[Type, ...]:
        check_indices(self.memory, self.indices)
        return (ScalarType(descriptor),)


class AdvanceDescriptor(Op, name="advance_descriptor", level=Level.THREAD, pure=True):
    """The descriptor of memory `units` times 16 bytes further."""

    text: ClassVar[str] = "{descriptor} + {units}"
    precedence: ClassVar[int] = 12
    descriptor: Value = operand()
    units: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        return (ScalarType(descriptor),)


class WgmmaFence(Statement, name="wgmma_fence", level=Level.THREAD):
    """Orders register accesses before the wgmmas that follow. `registers`: what these read of A (at
    most one array).
    """

    text = "wgmma_fence({registers})"
    registers: tuple[Value, ...] = operands(default=())

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE), *(Effect(Access.READ, r) for r in self.registers))


class WgmmaCommit(Statement, name="wgmma_commit", level=Level.THREAD):
    """Closes the group of wgmmas."""

    text = "wgmma_commit()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class WgmmaWait(Statement, name="wgmma_wait", level=Level.THREAD):
    """Waits until at most `pending` groups are in flight. `registers`: the accumulator that it
    makes readable.
    """

    text = "wgmma_wait<{pending}>({registers})"
    registers: tuple[Value, ...] = operands()
    pending: int = attribute()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE), *(Effect(Access.WRITE, r) for r in self.registers))


class Wgmma(Statement, name="wgmma", level=Level.THREAD):
    """m64 x `n` x (256 bits of k): D = A B + (accumulate ? D : 0), A and B by descriptors. PTX
    9.7.15.
    """

    text = (
        "wgmma_ss<{n}, {total}, {a_dtype}, {b_dtype}, {transpose_a}, {transpose_b}>"
        "({accumulator}, {offset}, {a}, {b}, {accumulate})"
    )
    accumulator: Value = operand()
    offset: Value = operand()
    a: Value = operand()
    b: Value = operand()
    accumulate: Value = operand()
    n: int = attribute()
    a_dtype: DType = attribute()
    b_dtype: DType = attribute()
    transpose_a: bool = attribute(default=False)
    transpose_b: bool = attribute(default=False)

    @property
    def total(self) -> DType:
        return memory_type(self.accumulator).dtype

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.accumulator), Effect(Access.READ, None, "async"))


class WgmmaRegisters(Statement, name="wgmma_registers", level=Level.THREAD):
    """As `wgmma` with A from registers at `a_offset`."""

    text = (
        "wgmma_rs<{n}, {total}, {a_dtype}, {b_dtype}, {transpose_b}>"
        "({accumulator}, {offset}, {a}, {a_offset}, {b}, {accumulate})"
    )
    accumulator: Value = operand()
    offset: Value = operand()
    a: Value = operand()
    a_offset: Value = operand()
    b: Value = operand()
    accumulate: Value = operand()
    n: int = attribute()
    b_dtype: DType = attribute()
    transpose_b: bool = attribute(default=False)

    @property
    def total(self) -> DType:
        return memory_type(self.accumulator).dtype

    @property
    def a_dtype(self) -> DType:
        return memory_type(self.a).dtype

    def effects(self) -> tuple[Effect, ...]:
        return (
            Effect(Access.WRITE, self.accumulator),
            Effect(Access.READ, self.a),
            Effect(Access.READ, None, "async"),
        )  # fmt: skip


OPS: tuple[type[Op], ...] = (
    MakeDescriptor, AdvanceDescriptor, WgmmaFence, WgmmaCommit, WgmmaWait, Wgmma, WgmmaRegisters,
)  # fmt: skip
