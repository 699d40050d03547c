"""What AMD's CDNA machines have: MFMA, buffer loads, priorities. Source: the CDNA3 ISA manual,
chapters 7 and 9.
"""

from __future__ import annotations

from ...errors import TypeMismatch
from ..core import Access, Effect, Level, Op, Value, attribute, operand, operands
from ..types import MemoryType, Type
from .memory import check_indices, memory_type
from .nvidia import MatrixStatement
from .thread import Statement, check_registers


class Mfma(MatrixStatement, name="mfma", level=Level.THREAD):
    """v_mfma: D += A B over a wave of 64. `scales` (of f8f6f4): registers and offset of A's, then of B's;
    lane l has those of row, or column, l % m for the 32 k from 32 (l / m) on (CDNA4 ISA, 7.1). Registers
    of pairs hold two elements each, those of 6-bit floats one.
    """

    @property
    def text(self) -> str:  # type: ignore[override]
        name = "mfma_scaled" if self.scales else "mfma"
        return (
            f"{name}<{{m}}, {{n}}, {{k}}>({{accumulator}}, {{accumulator_offset}}, {{a}}, {{a_offset}}, "
            "{b}, {b_offset}{, scales})"
        )

    accumulator: Value = operand()
    accumulator_offset: Value = operand()
    a: Value = operand()
    a_offset: Value = operand()
    b: Value = operand()
    b_offset: Value = operand()
    scales: tuple[Value, ...] = operands(default=())
    m: int = attribute(default=0)
    n: int = attribute(default=0)
    k: int = attribute(default=0)

    def effects(self) -> tuple[Effect, ...]:
        return (*super().effects(), *(Effect(Access.READ, v) for v in self.scales[::2]))


class MakeBuffer(Op, name="make_buffer", level=Level.THREAD, pure=True):
    """A view of `count` elements of global memory that checks its bounds in hardware."""

    text = "make_buffer({memory}, {count})"
    memory: Value = operand()
    count: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        return (memory_type(self.memory),)


class BufferLoad(Statement, name="buffer_load", level=Level.THREAD):
    """`count` consecutive elements; outside the buffer, or where `predicate` is false, zeros."""

    text = "buffer_load<{count}>({registers}, {offset}, {buffer}, {indices}, {predicate})"
    registers: Value = operand()
    offset: Value = operand()
    buffer: Value = operand()
    indices: tuple[Value, ...] = operands()
    predicate: Value = operand()
    count: int = attribute()

    def infer(self) -> tuple[Type, ...]:
        check_registers(self.registers)
        if not isinstance(self.buffer.type, MemoryType):
            raise TypeMismatch("TLC0230", f"a {self.buffer.type} is not memory")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.buffer), Effect(Access.WRITE, self.registers))


class BufferStore(Statement, name="buffer_store", level=Level.THREAD):
    """Stores `count` registers; outside the buffer, or where `predicate` is false, nothing."""

    text = "buffer_store<{count}>({buffer}, {indices}, {registers}, {offset}, {predicate})"
    buffer: Value = operand()
    indices: tuple[Value, ...] = operands()
    registers: Value = operand()
    offset: Value = operand()
    predicate: Value = operand()
    count: int = attribute()

    def infer(self) -> tuple[Type, ...]:
        check_registers(self.registers)
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.buffer), Effect(Access.READ, self.registers))


COPY_BYTES = 16  # of global memory that one lane moves by a buffer_copy


class BufferCopy(Statement, name="buffer_copy", level=Level.THREAD):
    """16 bytes a lane from a buffer to shared memory without registers; outside the buffer, or where
    `predicate` is false, zeros.

    The destination indices are the wave's, the same in all its lanes: lane l's bytes go 16 l bytes
    further. Lands at a wait that counts it. CDNA4 ISA, 9.1.9 (memory buffer load to LDS).
    """

    text = (
        "buffer_copy<{count}>({destination}, {destination_indices}, {buffer}, {indices}, "
        "{predicate})"
    )
    destination: Value = operand()
    destination_indices: tuple[Value, ...] = operands()
    buffer: Value = operand()
    indices: tuple[Value, ...] = operands()
    predicate: Value = operand()
    count: int = attribute()

    def infer(self) -> tuple[Type, ...]:
        type_ = check_indices(self.destination, self.destination_indices)
        if memory_type(self.buffer).dtype != type_.dtype:
            raise TypeMismatch("TLC0261", f"{self.buffer.type} copied into {type_}")
        if self.count * type_.dtype.bytes != COPY_BYTES:
            raise TypeMismatch("TLC0270", f"buffer_copy moves 16 bytes, not {self.count} elements")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.buffer), Effect(Access.WRITE, self.destination))


class BufferCopyWait(Statement, name="buffer_copy_wait"):
    """Waits until at most `pending` of this wave's copies are under way (s_waitcnt vmcnt)."""

    text = "buffer_copy_wait<{pending}>()"
    pending: int = attribute()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class LoadTransposed(Statement, name="load_transposed", level=Level.THREAD):
    """ds_read_b64_tr_b16: a matrix of 4 x 16 elements of 16 bits for every 16 lanes. The indices are
    those of the lane's own 4 consecutive elements: lane 4 i + j has row i from column 4 j on. It
    receives column 4 i + j. CDNA4 ISA, 11.4 (MFMA transpose load from LDS).
    """

    text = "load_transposed({registers}, {offset}, {memory}, {indices})"
    registers: Value = operand()
    offset: Value = operand()
    memory: Value = operand()
    indices: tuple[Value, ...] = operands()

    def infer(self) -> tuple[Type, ...]:
        type_ = check_indices(self.memory, self.indices)
        if check_registers(self.registers).dtype != type_.dtype or type_.dtype.bits != 16:
            raise TypeMismatch("TLC0261", f"{type_} loaded into {self.registers.type}")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.memory), Effect(Access.WRITE, self.registers))


class SetPriority(Statement, name="set_priority", level=Level.THREAD):
    """s_setprio: this wave's claim on issue slots, 0 to 3."""

    text = "set_priority<{priority}>()"
    priority: int = attribute()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class ScheduleGroup(Statement, name="schedule_group", level=Level.THREAD):
    """Of the instructions of `kind` around it, "matrices", "reads" (of shared memory) or "loads" (of
    global memory into registers), that are in no group yet, the next `count` are issued after the
    group before. It is no instruction itself.
    """

    kind: str = attribute()
    count: int = attribute()

    @property
    def text(self) -> str:  # type: ignore[override]
        return f"schedule_{self.kind}<{{count}}>()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


OPS: tuple[type[Op], ...] = (
    Mfma, MakeBuffer, BufferLoad, BufferStore, BufferCopy, BufferCopyWait,
    LoadTransposed, SetPriority, ScheduleGroup,
)  # fmt: skip
