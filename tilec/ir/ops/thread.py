"""Thread level, common to all machines: register arrays, vector moves, barriers.

`text` is the op in the prelude's C (docs/prelude.md): `{field}` is an operand or attribute, a group
is joined by commas, `{, field}` is a group with a comma before it where it is not empty. Register
arrays are `local` memory; offsets and counts are in elements.
"""

from __future__ import annotations

from typing import ClassVar

from ...errors import TypeMismatch
from ..core import Access, Effect, Level, Op, Value, attribute, operand, operands
from ..dtypes import bool_, u32
from ..types import MemoryType, ScalarType, Space, Type
from .memory import check_indices, memory_type


class Statement(Op):
    """Base of ops that print as one call of a prelude function."""

    text: ClassVar[str] = ""


def check_registers(value: Value) -> MemoryType:
    """The type of a thread's register array. Raises TypeMismatch for anything else."""
    type_ = memory_type(value)
    if type_.space is not Space.LOCAL:
        raise TypeMismatch("TLC0260", f"a {type_} is not a register array")
    return type_


class VectorLoad(Statement, name="vector_load", level=Level.THREAD):
    """`count` consecutive elements of shared or global memory into registers. Where `predicate` is
    false: zeros.
    """

    registers: Value = operand()
    offset: Value = operand()
    memory: Value = operand()
    indices: tuple[Value, ...] = operands()
    predicate: tuple[Value, ...] = operands()
    count: int = attribute()

    @property
    def text(self) -> str:  # type: ignore[override]
        space = memory_type(self.memory).space.value
        return f"load_{space}<{{count}}>({{registers}}, {{offset}}, {{memory}}, {{indices}}{{, predicate}})"

    def infer(self) -> tuple[Type, ...]:
        type_ = check_indices(self.memory, self.indices)
        if check_registers(self.registers).dtype != type_.dtype:
            raise TypeMismatch("TLC0261", f"{type_} loaded into {self.registers.type}")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.memory), Effect(Access.WRITE, self.registers))


class VectorStore(Statement, name="vector_store", level=Level.THREAD):
    """`count` registers to consecutive elements of shared or global memory. Where `predicate` is
    false: nothing.
    """

    memory: Value = operand()
    indices: tuple[Value, ...] = operands()
    registers: Value = operand()
    offset: Value = operand()
    predicate: tuple[Value, ...] = operands()
    count: int = attribute()

    @property
    def text(self) -> str:  # type: ignore[override]
        space = memory_type(self.memory).space.value
        return f"store_{space}<{{count}}>({{memory}}, {{indices}}, {{registers}}, {{offset}}{{, predicate}})"

    def infer(self) -> tuple[Type, ...]:
        type_ = check_indices(self.memory, self.indices)
        if check_registers(self.registers).dtype != type_.dtype:
            raise TypeMismatch("TLC0261", f"{self.registers.type} stored into {type_}")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.memory), Effect(Access.READ, self.registers))


class VectorAtomic(Statement, name="vector_atomic", level=Level.THREAD):
    """Adds `count` registers to consecutive elements of global memory, each in one step. Where
    `predicate` is false: nothing.
    """

    text = "atomic_add_global<{count}>({memory}, {indices}, {registers}, {offset}{, predicate})"
    memory: Value = operand()
    indices: tuple[Value, ...] = operands()
    registers: Value = operand()
    offset: Value = operand()
    predicate: tuple[Value, ...] = operands()
    count: int = attribute()

    def infer(self) -> tuple[Type, ...]:
        type_ = check_indices(self.memory, self.indices)
        if check_registers(self.registers).dtype != type_.dtype:
            raise TypeMismatch("TLC0261", f"{self.registers.type} added to {type_}")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (
            Effect(Access.READ, self.memory, atomic="add"),
            Effect(Access.WRITE, self.memory, atomic="add"),
            Effect(Access.READ, self.registers),
        )


class ConvertRegisters(Statement, name="convert_registers", level=Level.THREAD):
    """`count` registers converted to the destination's dtype (copied where it is the same). `words`:
    elements of 16 bits are put together two and two, for an instruction that reads them so.
    """

    destination: Value = operand()
    destination_offset: Value = operand()
    source: Value = operand()
    source_offset: Value = operand()
    count: int = attribute()
    words: bool = attribute(default=False)

    @property
    def text(self) -> str:  # type: ignore[override]
        kind = "{count}, true" if self.words else "{count}"
        places = "{destination}, {destination_offset}, {source}, {source_offset}"
        return f"convert_registers<{kind}>({places})"

    def infer(self) -> tuple[Type, ...]:
        check_registers(self.destination)
        check_registers(self.source)
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.destination), Effect(Access.READ, self.source))


class GatherRegisters(Statement, name="gather_registers", level=Level.THREAD):
    """`count` registers of the same dtype, `stride` apart in the source, put together."""

    text = (
        "gather_registers<{count}, {stride}>({destination}, {destination_offset}, {source}, "
        "{source_offset})"
    )
    destination: Value = operand()
    destination_offset: Value = operand()
    source: Value = operand()
    source_offset: Value = operand()
    count: int = attribute()
    stride: int = attribute()

    def infer(self) -> tuple[Type, ...]:
        if check_registers(self.destination).dtype != check_registers(self.source).dtype:
            raise TypeMismatch("TLC0261", f"{self.source.type} moved to {self.destination.type}")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.destination), Effect(Access.READ, self.source))


class FillRegisters(Statement, name="fill_registers", level=Level.THREAD):
    """`count` registers set to `value`."""

    text = "fill_registers<{count}>({registers}, {offset}, {value})"
    registers: Value = operand()
    offset: Value = operand()
    value: Value = operand()
    count: int = attribute()

    def infer(self) -> tuple[Type, ...]:
        if self.value.type != ScalarType(check_registers(self.registers).dtype):
            raise TypeMismatch("TLC0261", f"{self.registers.type} filled with {self.value.type}")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.registers),)


class UndefinedRegisters(Statement, name="undefined_registers", level=Level.THREAD):
    """What `count` registers held is not needed any more: no instruction, but it ends their lives."""

    text = "undefined_registers<{count}>({registers}, {offset})"
    registers: Value = operand()
    offset: Value = operand()
    count: int = attribute()

    def infer(self) -> tuple[Type, ...]:
        check_registers(self.registers)
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.registers),)


class HoldRegisters(Statement, name="hold_registers", level=Level.THREAD):
    """What gives `registers` their values stands before this: no instruction, but compilers move none
    of it behind.
    """

    text = "hold_registers({registers})"
    registers: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        check_registers(self.registers)
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.registers), Effect(Access.WRITE, self.registers))


NAMED_BARRIERS = 16
"""Of a block; 0 is that of all its threads (PTX ISA 9.0, 9.7.13.1)."""


class Barrier(Statement, name="barrier"):
    """All threads of the role (barrier 1 ... 15, `threads` of them) or of the launched block
    (barrier 0) meet here. With `stores`, what they wrote to global memory has arrived there, so that
    one of them can release it for all.
    """

    barrier: int = attribute(default=0)
    threads: int = attribute(default=0)
    stores: bool = attribute(default=False)

    @property
    def text(self) -> str:  # type: ignore[override]
        if self.barrier:
            return "named_barrier<{barrier}, {threads}>()"
        return "barrier_for_stores()" if self.stores else "barrier()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class MemoryFence(Statement, name="memory_fence"):
    """Orders this block's accesses of memory before it against those after it, as all threads of
    the device see them: an atomic after it releases, one before it acquires, whatever their order
    (PTX ISA, "fence.acq_rel").
    """

    text = "memory_fence()"
    releases = acquires = True

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class WarpSync(Statement, name="warp_sync"):
    """The threads of a warp meet, and see each other's writes."""

    text = "warp_sync()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class Shuffle(Op, name="shuffle"):
    """The value of x in lane `lane` of the same warp; with a `width` of the same group of so many
    lanes, which lower_tiles turns into the warp's. All lanes take part.
    """

    text: ClassVar[str] = "shuffle({x}, {lane})"
    x: Value = operand()
    lane: Value = operand()
    width: int = attribute(default=0)

    def infer(self) -> tuple[Type, ...]:
        return (self.x.type,)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class ShuffleXor(Op, name="shuffle_xor", level=Level.THREAD):
    """The value of x in the lane of the same warp whose number differs in the bits of `mask`. All
    lanes take part.
    """

    text: ClassVar[str] = "shuffle_xor({x}, {mask})"
    x: Value = operand()
    mask: int = attribute()

    def infer(self) -> tuple[Type, ...]:
        return (self.x.type,)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class Ballot(Op, name="ballot"):
    """Which of 32 threads whose numbers follow each other, from a multiple of 32 on, have a true x:
    bit n is the n-th one's, 0 for a thread that there is not. All of them take part.
    """

    text: ClassVar[str] = "ballot({x})"
    x: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        if self.x.type != ScalarType(bool_):
            raise TypeMismatch("TLC0233", f"a ballot on a {self.x.type}", hint="compare it with 0")
        return (ScalarType(u32),)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


OPS: tuple[type[Op], ...] = (
    VectorLoad, VectorStore, VectorAtomic, ConvertRegisters, GatherRegisters, FillRegisters,
    UndefinedRegisters, HoldRegisters, Barrier, MemoryFence, WarpSync, Shuffle, ShuffleXor, Ballot,
)  # fmt: skip
