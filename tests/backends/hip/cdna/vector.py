"""The vector unit: what an instruction with a name of operations.py does to 64 lanes, and the
instructions that are like no other.

Source: AMD Instinct MI300 (CDNA3) ISA, "Vector ALU Operations" and "Vector ALU Instructions".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.backends.hip.cdna import floats
from tests.backends.hip.cdna.decode import VCC, Instruction, IsaError, Operand
from tests.backends.hip.cdna.forms import (
    DPP,
    SDWA,
    clamped,
    other_lanes,
    part_reader,
    part_writer,
    result_writer,
    source_reader,
)
from tests.backends.hip.cdna.operations import OPERATIONS, RELATIONS, Operation
from tests.backends.hip.cdna.registers import (
    LANE,
    MASK_32,
    Array,
    Registers,
    lane_reader,
    lane_writer,
    lanes_of,
    mask_of,
    scalar_reader,
    scalar_writer,
)

Step = Callable[[Registers], None]


def vector_step(instruction: Instruction) -> Step | None:
    """What a vector instruction does; None for a mnemonic that is none of this file's."""
    name = instruction.name
    if name in OPERATIONS:
        return _operation(instruction, OPERATIONS[name])
    parts = name.split("_")
    if parts[1] == "cmp" and parts[2] in RELATIONS:
        return _compare(instruction, parts[2], parts[3])
    if parts[1] == "pk":
        return _packed(instruction, parts[2], parts[3])
    make = SPECIAL.get(name)
    return None if make is None else make(instruction)


def _operation(instruction: Instruction, operation: Operation) -> Step:
    instruction.allow("clamp", "op_sel", *SDWA, *DPP)
    result, *sources = instruction.operands
    if operation.accumulates:
        sources.append(result)
    if len(sources) != len(operation.operands):
        raise IsaError(f"{instruction.text}: {len(operation.operands)} sources were expected")
    readers = [
        source_reader(instruction, i, source, kind)
        for i, (source, kind) in enumerate(zip(sources, operation.operands, strict=True))
    ]
    write = result_writer(instruction, result, operation.result)
    compute, lanes = clamped(instruction, operation), other_lanes(instruction)
    if lanes is None:
        return lambda registers: write(registers, compute(*[read(registers) for read in readers]))
    zeros = "bound_ctrl" in instruction.modifiers
    first, *others = readers

    def exchange(registers: Registers) -> None:
        source, there = lanes
        there = there & registers.active[source]
        values = first(registers)[source]
        values = np.where(there, values, values.dtype.type(0))
        active = registers.active if zeros else registers.active & there
        write(registers, compute(values, *(read(registers) for read in others)), active)

    return exchange


def _compare(instruction: Instruction, relation: str, kind: str) -> Step:
    """A bit of the mask for each lane; lanes that are not active give 0."""
    instruction.allow(*SDWA)
    result, *sources = instruction.operands
    write, compare = scalar_writer(result, 64), RELATIONS[relation]
    read_a, read_b = (source_reader(instruction, i, s, kind) for i, s in enumerate(sources))

    def step(registers: Registers) -> None:
        found = compare(read_a(registers), read_b(registers))
        write(registers, mask_of(found & registers.active))

    return step


# Instructions on two halves


def _half(operand: Operand, kind: str, half: int, negative: bool) -> Callable[[Registers], Array]:
    """Half of a packed operand, of 16 bits of a register or a register of a pair."""
    if kind[1:] == "32":
        if operand.kind in ("integer", "float") and half:
            raise IsaError(f"{operand.text}: the upper half of a number")
        place = operand.first + half if operand.count == 2 else operand.first
        read = lane_reader(Operand(operand.text, operand.kind, place, 1, operand.number), kind)
    else:
        number = operand.kind in ("integer", "float")
        bits = lane_reader(operand, kind if number else "u32")
        dtype = {"f16": np.float16, "u16": np.uint16, "i16": np.int16}[kind]
        if number:
            read = bits if not half else lambda registers: np.zeros(1, dtype)
        else:
            shift = np.uint32(16 * half)
            read = lambda registers: (bits(registers) >> shift).astype(np.uint16).view(dtype)  # noqa: E731
    return (lambda registers: np.negative(read(registers))) if negative else read


def _packed(instruction: Instruction, name: str, kind: str) -> Step:
    """One operation on the low and the high halves of its operands, in any mixture."""
    instruction.allow("op_sel", "op_sel_hi", "neg_lo", "neg_hi")
    result, *sources = instruction.operands
    alone = name, kind
    kind = {"b32": "u32", "b16": "u16"}.get(kind, kind)  # moves and shifts, of bits
    n = len(sources)
    low, high = instruction.flags("op_sel", (0,) * n), instruction.flags("op_sel_hi", (1,) * n)
    negative = instruction.flags("neg_lo", (0,) * n), instruction.flags("neg_hi", (0,) * n)
    if name == "mov":  # the low half of the result is from the first operand, the high of the other
        readers = [[_half(s, kind, h, False)] for s, h in zip(sources, low, strict=True)]
        compute: Callable[..., Array] = lambda a: a  # noqa: E731
    else:
        compute = OPERATIONS[_alone(*alone)].compute
        readers = [
            [_half(s, kind, h, bool(m)) for s, h, m in zip(sources, halves, minus, strict=True)]
            for halves, minus in zip((low, high), negative, strict=True)
        ]
    if kind[1:] == "32":
        first = Operand(result.text, result.kind, result.first)
        second = Operand(result.text, result.kind, result.first + 1)
        writers = [lane_writer(first, kind), lane_writer(second, kind)]
    else:
        writers = [part_writer(result, kind, f"WORD_{half}", keep=True) for half in (0, 1)]

    def step(registers: Registers) -> None:
        halves = [compute(*(read(registers) for read in reads)) for reads in readers]
        for write, values in zip(writers, halves, strict=True):
            write(registers, values)

    return step


def _alone(name: str, kind: str) -> str:
    """The operation on one number that a packed one does twice."""
    found = f"v_{name}_{kind}"
    if found not in OPERATIONS:
        raise IsaError(f"unknown instruction v_pk_{name}_{kind}")
    return found


def _mixed(instruction: Instruction) -> Step:
    """A fused multiply-add of f32, each operand an f32 or a half of a register."""
    instruction.allow("op_sel", "op_sel_hi")
    result, *sources = instruction.operands
    halves, narrow = instruction.flags("op_sel", (0,) * 3), instruction.flags("op_sel_hi", (0,) * 3)
    readers = [
        part_reader(source, "f16", f"WORD_{half}") if is_narrow else lane_reader(source, "f32")
        for source, half, is_narrow in zip(sources, halves, narrow, strict=True)
    ]
    ending = instruction.name.rsplit("_", 1)
    if ending[1] == "f32":
        write, to = lane_writer(result, "f32"), np.float32
    else:
        part = "WORD_1" if ending[0].endswith("hi") else "WORD_0"
        write, to = part_writer(result, "f16", part, keep=True), np.float16  # type: ignore[assignment]

    def step(registers: Registers) -> None:
        values = (read(registers).astype(np.float32) for read in readers)
        write(registers, floats.fma32(*values).astype(to))

    return step


def _by_table(instruction: Instruction) -> Step:
    """v_bitop3: each bit by a table of eight, whose place the bits of the operands make."""
    instruction.allow("bitop3")
    result, *sources = instruction.operands
    kind = f"u{instruction.name[-2:]}"
    readers, write = [lane_reader(s, kind) for s in sources], lane_writer(result, kind)
    table = int(instruction.modifiers["bitop3"], 0)

    def step(registers: Registers) -> None:
        a, b, c = (read(registers) for read in readers)
        found = np.zeros(1, a.dtype)
        for place in range(8):
            if table >> place & 1:
                parts = (x if place & bit else ~x for x, bit in ((a, 4), (b, 2), (c, 1)))
                found = found | np.bitwise_and.reduce(np.broadcast_arrays(*parts))
        write(registers, found)

    return step


# Masks of lanes: carries, selections, the steps of a division


def _with_carry(instruction: Instruction) -> Step:
    """v_add_co, v_addc_co, v_sub_co, v_subb_co and their forms with operands exchanged."""
    result, carry_out, a, b, *carry_in = instruction.operands
    name = instruction.name
    if "rev" in name:
        a, b = b, a
    sign = 1 if name.startswith("v_add") else -1
    read_a, read_b = lane_reader(a, "u32"), lane_reader(b, "u32")
    read_carry = scalar_reader(carry_in[0], 64) if carry_in else lambda registers: 0
    write, write_carry = lane_writer(result, "u32"), scalar_writer(carry_out, 64)

    def step(registers: Registers) -> None:
        carry = lanes_of(read_carry(registers)).astype(np.int64)
        total = read_a(registers).astype(np.int64) + sign * (read_b(registers) + carry)
        write(registers, (total & MASK_32).astype(np.uint32))
        carried = (total < 0) | (total > MASK_32)
        write_carry(registers, mask_of(carried & registers.active))

    return step


def _select(instruction: Instruction) -> Step:
    """v_cndmask: the second operand where the mask's bit is set."""
    instruction.allow(*SDWA)
    result, a, b, mask = instruction.operands
    kind = "f32" if any(o.negative or o.absolute for o in (a, b)) else "u32"
    read_a, read_b = (source_reader(instruction, i, o, kind) for i, o in enumerate((a, b)))
    read_mask, write = scalar_reader(mask, 64), result_writer(instruction, result, kind)

    def step(registers: Registers) -> None:
        chosen = lanes_of(read_mask(registers))
        write(registers, np.where(chosen, read_b(registers), read_a(registers)))

    return step


def _multiply_add_wide(instruction: Instruction) -> Step:
    """v_mad_u64_u32 and v_mad_i64_i32; the carry is written too."""
    result, carry_out, a, b, c = instruction.operands
    narrow = "i32" if instruction.name.endswith("i32") else "u32"
    wide = narrow[0] + "64"
    dtype = np.int64 if narrow == "i32" else np.uint64
    read_a, read_b = lane_reader(a, narrow), lane_reader(b, narrow)
    read_c, write = lane_reader(c, wide), lane_writer(result, wide)
    write_carry = scalar_writer(carry_out, 64)

    def step(registers: Registers) -> None:
        product = read_a(registers).astype(dtype) * read_b(registers).astype(dtype)
        addend = read_c(registers)
        total = product + addend
        carried = total < product if dtype is np.uint64 else (total < product) != (addend < 0)
        write(registers, total)
        write_carry(registers, mask_of(carried & registers.active))

    return step


def _div_scale(instruction: Instruction) -> Step:
    result, scaled, *sources = instruction.operands
    readers = [lane_reader(source, "f32") for source in sources]
    write, write_mask = lane_writer(result, "f32"), scalar_writer(scaled, 64)

    def step(registers: Registers) -> None:
        values, back = floats.div_scale(*(read(registers) for read in readers))
        write(registers, values)
        write_mask(registers, mask_of(back & registers.active))

    return step


def _div_fmas(instruction: Instruction) -> Step:
    result, *sources = instruction.operands
    readers, write = [lane_reader(s, "f32") for s in sources], lane_writer(result, "f32")

    def step(registers: Registers) -> None:
        scaled = lanes_of(registers.pair(VCC))
        write(registers, floats.div_fmas(*(read(registers) for read in readers), scaled))

    return step


# Lanes and scalars


def _count_below(instruction: Instruction) -> Step:
    """v_mbcnt: an operand plus how many bits of a mask stand below the lane's own."""
    result, mask, addend = instruction.operands
    read_mask, read = lane_reader(mask, "u32"), lane_reader(addend, "u32")
    write = lane_writer(result, "u32")
    lane = LANE - 32 if "_hi_" in instruction.name else LANE
    below = ((np.uint64(1) << np.clip(lane, 0, 32).astype(np.uint64)) - np.uint64(1)).astype(
        np.uint32
    )

    def step(registers: Registers) -> None:
        write(registers, np.bitwise_count(read_mask(registers) & below) + read(registers))

    return step


def _read_first_lane(instruction: Instruction) -> Step:
    """Of the first active lane, or of lane 0 where none is."""
    result, source = instruction.operands
    write, first = scalar_writer(result, 32), source.first

    def step(registers: Registers) -> None:
        lane = int(np.argmax(registers.active))
        write(registers, int(registers.vector[first][lane]))

    return step


def _read_lane(instruction: Instruction) -> Step:
    result, source, lane = instruction.operands
    write, read, first = scalar_writer(result, 32), scalar_reader(lane, 32), source.first
    return lambda registers: write(registers, int(registers.vector[first][read(registers) & 63]))


def _write_lane(instruction: Instruction) -> Step:
    """One lane of a vector register, active or not."""
    result, source, lane = instruction.operands
    read, read_lane, first = scalar_reader(source, 32), scalar_reader(lane, 32), result.first

    def step(registers: Registers) -> None:
        registers.vector[first][read_lane(registers) & 63] = read(registers)

    return step


SPECIAL: dict[str, Callable[[Instruction], Step]] = {
    **{
        name: _with_carry
        for name in (
            "v_add_co_u32", "v_addc_co_u32", "v_sub_co_u32", "v_subb_co_u32", "v_subrev_co_u32",
            "v_subbrev_co_u32",
        )
    },
    "v_bitop3_b32": _by_table,
    "v_bitop3_b16": _by_table,
    "v_cndmask_b32": _select,
    "v_mad_u64_u32": _multiply_add_wide,
    "v_mad_i64_i32": _multiply_add_wide,
    "v_div_scale_f32": _div_scale,
    "v_div_fmas_f32": _div_fmas,
    "v_mbcnt_lo_u32_b32": _count_below,
    "v_mbcnt_hi_u32_b32": _count_below,
    "v_readfirstlane_b32": _read_first_lane,
    "v_readlane_b32": _read_lane,
    "v_writelane_b32": _write_lane,
    "v_fma_mix_f32": _mixed,
    "v_fma_mixlo_f16": _mixed,
    "v_fma_mixhi_f16": _mixed,
}  # fmt: skip
"""Mnemonic without its ending -> what makes its step."""
