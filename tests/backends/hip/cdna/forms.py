"""How an instruction of the vector unit takes its operands and leaves its result: parts of
registers (SDWA, op_sel), other lanes (DPP), clamping.

Source: CDNA3 ISA, "VOP: SDWA", "VOP: DPP", "VOP3".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.backends.hip.cdna.decode import Instruction, IsaError, Operand
from tests.backends.hip.cdna.operations import Operation
from tests.backends.hip.cdna.registers import (
    LANE,
    TYPES,
    Array,
    Registers,
    lane_reader,
    lane_writer,
)

Reader = Callable[[Registers], Array]
PARTS = {
    "BYTE_0": (0, 8), "BYTE_1": (8, 8), "BYTE_2": (16, 8), "BYTE_3": (24, 8),
    "WORD_0": (0, 16), "WORD_1": (16, 16), "DWORD": (0, 32),
}  # fmt: skip
SDWA = ("src0_sel", "src1_sel", "dst_sel", "dst_unused")
DPP = (
    "quad_perm", "row_ror", "row_shr", "row_shl", "row_newbcast", "row_mirror", "row_half_mirror",
    "row_mask", "bank_mask", "bound_ctrl",
)  # fmt: skip


def source_reader(instruction: Instruction, index: int, operand: Operand, kind: str) -> Reader:
    """Reads source `index` as type `kind`, of the part of its register that is selected."""
    part = instruction.modifiers.get(f"src{index}_sel", "DWORD")
    if instruction.flags("op_sel", (0,) * 5)[index]:
        if kind[1:] != "16":
            raise IsaError(f"{instruction.text}: op_sel of an operand that has not 16 bits")
        part = "WORD_1"
    return part_reader(operand, kind, part)


def part_reader(operand: Operand, kind: str, part: str) -> Reader:
    """Reads a part of a register as type `kind`."""
    if part == "DWORD" and not operand.extended:
        return lane_reader(operand, kind)
    shift, bits = PARTS[part]
    plain = Operand(operand.text, operand.kind, operand.first, operand.count, operand.number)
    read, dtype = lane_reader(plain, "u32"), TYPES[kind]
    unsigned = TYPES[f"u{kind[1:]}"]

    def selected(registers: Registers) -> Array:
        value = read(registers) >> np.uint32(shift)
        if operand.extended:
            value = (value << np.uint32(32 - bits)).view(np.int32) >> (32 - bits)
            value = value.view(np.uint32)
        elif bits < 32:
            value = value & np.uint32((1 << bits) - 1)
        lanes = value.astype(unsigned).view(dtype)
        lanes = np.abs(lanes) if operand.absolute else lanes
        return np.negative(lanes) if operand.negative else lanes

    return selected


def other_lanes(instruction: Instruction) -> tuple[Array, Array] | None:
    """By DPP, from which lane each takes its first operand, and whether there is one; None of an
    instruction without DPP."""
    if not instruction.mnemonic.endswith("_dpp"):
        return None
    for mask in ("row_mask", "bank_mask"):
        if instruction.modifiers[mask] != "0xf":
            raise IsaError(f"{instruction.text}: rows or banks left out")
    row, place = LANE & ~15, LANE & 15
    for control in DPP[:7]:
        if control not in instruction.modifiers:
            continue
        numbers = instruction.flags(control, ()) if instruction.modifiers[control] else (0,)
        n = numbers[0]
        match control:
            case "quad_perm":
                return LANE & ~3 | np.array(numbers)[LANE & 3], np.ones(64, bool)
            case "row_ror":
                return row | (place - n & 15), np.ones(64, bool)
            case "row_shr":
                return row | (place - n & 15), place >= n
            case "row_shl":
                return row | (place + n & 15), place + n < 16
            case "row_newbcast":
                return row | n, np.ones(64, bool)
            case "row_mirror":
                return row | 15 - place, np.ones(64, bool)
            case "row_half_mirror":
                return LANE & ~7 | 7 - (LANE & 7), np.ones(64, bool)
    raise IsaError(f"{instruction.text}: unknown DPP")


def result_writer(instruction: Instruction, operand: Operand, kind: str) -> Callable[..., None]:
    """Writes the result of type `kind`, to a part of a register where one is selected."""
    part = instruction.modifiers.get("dst_sel", "DWORD")
    sources = len(instruction.operands) - 1
    upper = instruction.flags("op_sel", (0,) * 5)[sources:][:1] == (1,)
    if part == "DWORD" and not upper:
        return lane_writer(operand, kind)
    unused = "UNUSED_PRESERVE" if upper else instruction.modifiers["dst_unused"]
    return part_writer(operand, kind, "WORD_1" if upper else part, unused == "UNUSED_PRESERVE")


def part_writer(operand: Operand, kind: str, part: str, keep: bool) -> Callable[..., None]:
    """Writes to a part of a vector register, whose other bits are kept or become zero."""
    shift, bits = PARTS[part]
    mask = np.uint32(((1 << bits) - 1) << shift)
    write, first, unsigned = lane_writer(operand, "u32"), operand.first, TYPES[f"u{kind[1:]}"]

    def write_part(registers: Registers, values: Array, active: Array | None = None) -> None:
        lanes = np.ascontiguousarray(values, TYPES[kind]).view(unsigned).astype(np.uint32)
        placed = lanes << np.uint32(shift) & mask
        old = registers.vector[first] & ~mask if keep else np.uint32(0)
        write(registers, placed | old, active)

    return write_part


def clamped(instruction: Instruction, operation: Operation) -> Callable[..., Array]:
    """What the operation computes, kept in the range of its type where the instruction says so:
    0 … 1 of floats."""
    compute = operation.compute
    if "clamp" not in instruction.modifiers:
        return compute
    if operation.result == "f32":
        return lambda *values: np.clip(np.nan_to_num(compute(*values), nan=0.0), 0, 1)
    if operation.result == "u32" and instruction.name in ("v_add_u32", "v_sub_u32"):
        return lambda *values: np.clip(
            compute(*(value.astype(np.int64) for value in values)), 0, 0xFFFFFFFF
        )
    raise IsaError(f"{instruction.text}: unknown clamp")
