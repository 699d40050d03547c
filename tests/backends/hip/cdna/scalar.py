"""The scalar unit: integer arithmetic of a wave, its execution mask, branches.

Source of the meanings: AMD Instinct MI300 (CDNA3) ISA, "Scalar ALU Instructions". Integers are
Python's; an operation gives its result and SCC, or None for SCC where it is left alone.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.backends.hip.cdna.decode import EXEC, VCC, Instruction, IsaError
from tests.backends.hip.cdna.registers import (
    MASK_32,
    MASK_64,
    Registers,
    scalar_reader,
    scalar_writer,
)

Step = Callable[[Registers], None]
Result = tuple[int, bool | None]


def signed(x: int, width: int = 32) -> int:
    """Bits as a signed number."""
    x &= (1 << width) - 1
    return x - (1 << width) if x >> (width - 1) else x


def _overflow(exact: int) -> Result:
    return exact, not -(1 << 31) <= exact < 1 << 31


def _carry(exact: int) -> Result:
    return exact, not 0 <= exact <= MASK_32


def _nonzero(value: int, width: int = 32) -> Result:
    return value, value & ((1 << width) - 1) != 0


def _field(x: int, width: int, control: int) -> int:
    """The bit field whose offset and size `control` holds."""
    offset, size = control & (width - 1), control >> 16 & 127
    return x >> offset & ((1 << size) - 1)


def _chosen(a: int, b: int, take_a: bool) -> Result:
    return (a if take_a else b), take_a


def _first_one(x: int) -> int:
    return (x & -x).bit_length() - 1


# Name without width: result, of unsigned operands and their width.
_LOGIC: dict[str, Callable[[int, int], int]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "andn2": lambda a, b: a & ~b,
    "orn2": lambda a, b: a | ~b,
    "nand": lambda a, b: ~(a & b),
    "nor": lambda a, b: ~(a | b),
    "xnor": lambda a, b: ~(a ^ b),
}

BINARY: dict[str, tuple[int, Callable[[int, int], Result]]] = {
    "s_add_i32": (32, lambda a, b: _overflow(signed(a) + signed(b))),
    "s_sub_i32": (32, lambda a, b: _overflow(signed(a) - signed(b))),
    "s_add_u32": (32, lambda a, b: _carry(a + b)),
    "s_sub_u32": (32, lambda a, b: _carry(a - b)),
    "s_mul_i32": (32, lambda a, b: (a * b, None)),
    "s_mul_hi_u32": (32, lambda a, b: (a * b >> 32, None)),
    "s_mul_hi_i32": (32, lambda a, b: (signed(a) * signed(b) >> 32, None)),
    "s_lshl_b32": (32, lambda a, b: _nonzero(a << (b & 31))),
    "s_lshr_b32": (32, lambda a, b: _nonzero(a >> (b & 31))),
    "s_ashr_i32": (32, lambda a, b: _nonzero(signed(a) >> (b & 31))),
    "s_bfe_u32": (32, lambda a, b: _nonzero(_field(a, 32, b))),
    "s_bfe_i32": (32, lambda a, b: _nonzero(signed(_field(a, 32, b), max(b >> 16 & 127, 1)))),
    "s_bfe_u64": (64, lambda a, b: _nonzero(_field(a, 64, b), 64)),
    "s_min_i32": (32, lambda a, b: _chosen(a, b, signed(a) < signed(b))),
    "s_max_i32": (32, lambda a, b: _chosen(a, b, signed(a) > signed(b))),
    "s_min_u32": (32, lambda a, b: _chosen(a, b, a < b)),
    "s_max_u32": (32, lambda a, b: _chosen(a, b, a > b)),
    "s_lshl1_add_u32": (32, lambda a, b: _carry((a << 1) + b)),
    "s_lshl2_add_u32": (32, lambda a, b: _carry((a << 2) + b)),
    "s_lshl3_add_u32": (32, lambda a, b: _carry((a << 3) + b)),
    "s_lshl4_add_u32": (32, lambda a, b: _carry((a << 4) + b)),
    "s_bfm_b32": (32, lambda a, b: (((1 << (a & 31)) - 1) << (b & 31), None)),
    "s_pack_ll_b32_b16": (32, lambda a, b: (a & 0xFFFF | b << 16, None)),
    "s_pack_lh_b32_b16": (32, lambda a, b: (a & 0xFFFF | b & 0xFFFF0000, None)),
    "s_pack_hh_b32_b16": (32, lambda a, b: (a >> 16 | b & 0xFFFF0000, None)),
    **{
        f"s_{name}_b{width}": (width, lambda a, b, f=f, w=width: _nonzero(f(a, b), w))
        for name, f in _LOGIC.items()
        for width in (32, 64)
    },
}  # fmt: skip
"""Operations of two operands of one width."""

UNARY: dict[str, tuple[int, Callable[[int], Result]]] = {
    "s_mov_b32": (32, lambda a: (a, None)),
    "s_mov_b64": (64, lambda a: (a, None)),
    "s_movk_i32": (32, lambda a: (signed(a, 16), None)),
    "s_not_b32": (32, lambda a: _nonzero(~a)),
    "s_not_b64": (64, lambda a: _nonzero(~a, 64)),
    "s_brev_b32": (32, lambda a: (int(f"{a:032b}"[::-1], 2), None)),
    "s_abs_i32": (32, lambda a: _nonzero(abs(signed(a)))),
    "s_sext_i32_i8": (32, lambda a: (signed(a, 8), None)),
    "s_sext_i32_i16": (32, lambda a: (signed(a, 16), None)),
    "s_ff1_i32_b32": (32, lambda a: (_first_one(a), None)),
    "s_flbit_i32_b32": (32, lambda a: (32 - a.bit_length() if a else -1, None)),
    "s_bcnt1_i32_b32": (32, lambda a: _nonzero(a.bit_count())),
}

# A 64-bit operand and a 32-bit one.
_SHIFTS: dict[str, Callable[[int, int], int]] = {
    "s_lshl_b64": lambda a, b: a << (b & 63),
    "s_lshr_b64": lambda a, b: a >> (b & 63),
    "s_ashr_i64": lambda a, b: signed(a, 64) >> (b & 63),
}

# A 64-bit operand to a 32-bit result.
_NARROW: dict[str, Callable[[int], Result]] = {
    "s_bcnt1_i32_b64": lambda a: _nonzero(a.bit_count()),
    "s_ff1_i32_b64": lambda a: (_first_one(a), None),
    "s_flbit_i32_b64": lambda a: (64 - a.bit_length() if a else -1, None),
}

COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "lg": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
}

BRANCHES: dict[str, Callable[[Registers], bool]] = {
    "s_branch": lambda r: True,
    "s_cbranch_scc0": lambda r: not r.scc,
    "s_cbranch_scc1": lambda r: r.scc,
    "s_cbranch_vccz": lambda r: r.pair(VCC) == 0,
    "s_cbranch_vccnz": lambda r: r.pair(VCC) != 0,
    "s_cbranch_execz": lambda r: r.pair(EXEC) == 0,
    "s_cbranch_execnz": lambda r: r.pair(EXEC) != 0,
}
"""When a branch is taken."""

NOTHING = ("s_nop", "s_setprio", "s_sleep", "s_code_end")
"""What has no effect on results."""


def scalar_step(instruction: Instruction) -> Step | None:
    """What a scalar instruction does; None for a mnemonic that is none of this file's."""
    instruction.allow()
    name = instruction.name
    if name in BINARY:
        return _operation(instruction, *BINARY[name])
    if name in UNARY:
        return _operation(instruction, *UNARY[name])
    if name in _SHIFTS:
        shift = _SHIFTS[name]
        return _operation(instruction, 64, lambda a, b: _nonzero(shift(a, b), 64))
    if name in _NARROW:
        return _operation(instruction, 64, _NARROW[name], to=32)
    parts = name.split("_")
    if name.endswith("_saveexec_b64"):
        return _save_exec(instruction, _LOGIC[parts[1]])
    if parts[1] in ("cmp", "cmpk") and parts[2] in COMPARISONS:
        return _compare(instruction, parts[2], parts[3], short=parts[1] == "cmpk")
    return _special(instruction)


def _operation(
    instruction: Instruction, width: int, compute: Callable[..., Result], to: int = 0
) -> Step:
    result, *sources = instruction.operands
    write = scalar_writer(result, to or width)
    readers = [scalar_reader(source, width) for source in sources]

    def step(registers: Registers) -> None:
        value, scc = compute(*(read(registers) for read in readers))
        write(registers, value)
        if scc is not None:
            registers.scc = scc

    return step


def _save_exec(instruction: Instruction, logic: Callable[[int, int], int]) -> Step:
    """The old mask is kept, the new one is made of the operand and the old one."""
    result, source = instruction.operands
    write, read = scalar_writer(result, 64), scalar_reader(source, 64)

    def step(registers: Registers) -> None:
        old = registers.pair(EXEC)
        new = logic(read(registers), old) & MASK_64
        write(registers, old)
        registers.set_pair(EXEC, new)
        registers.scc = new != 0

    return step


def _compare(instruction: Instruction, relation: str, kind: str, short: bool) -> Step:
    """Sets SCC. A short one compares with 16 bits, extended as the type says."""
    a, b = instruction.operands
    width, compare = int(kind[1:]), COMPARISONS[relation]
    read_a, read_b = scalar_reader(a, width), scalar_reader(b, width)
    extend = (lambda x: signed(x, width)) if kind[0] == "i" else (lambda x: x)
    if short:
        number = signed(b.integer, 16) if kind[0] == "i" else b.integer
        read_b = lambda registers: number  # noqa: E731

    def step(registers: Registers) -> None:
        registers.scc = compare(extend(read_a(registers)), extend(read_b(registers)))

    return step


def _special(instruction: Instruction) -> Step | None:
    match instruction.name:
        case "s_addc_u32" | "s_subb_u32":
            return _with_carry(instruction, 1 if instruction.name == "s_addc_u32" else -1)
        case "s_addk_i32" | "s_mulk_i32":
            return _with_short(instruction)
        case "s_cselect_b32" | "s_cselect_b64":
            return _select(instruction, int(instruction.name[-2:]))
        case "s_bitcmp0_b32" | "s_bitcmp1_b32":
            a, b = (scalar_reader(o, 32) for o in instruction.operands)
            expected = int(instruction.name[8])

            def test_bit(registers: Registers) -> None:
                registers.scc = a(registers) >> (b(registers) & 31) & 1 == expected

            return test_bit
    return (lambda registers: None) if instruction.name in NOTHING else None


def _with_carry(instruction: Instruction, sign: int) -> Step:
    result, *sources = instruction.operands
    write = scalar_writer(result, 32)
    read_a, read_b = (scalar_reader(source, 32) for source in sources)

    def step(registers: Registers) -> None:
        value, scc = _carry(read_a(registers) + sign * (read_b(registers) + registers.scc))
        write(registers, value)
        registers.scc = bool(scc)

    return step


def _with_short(instruction: Instruction) -> Step:
    result, short = instruction.operands
    read, write = scalar_reader(result, 32), scalar_writer(result, 32)
    number, adds = signed(short.integer, 16), instruction.name == "s_addk_i32"

    def step(registers: Registers) -> None:
        a = signed(read(registers))
        if adds:
            value, scc = _overflow(a + number)
            registers.scc = bool(scc)
        else:
            value = a * number
        write(registers, value)

    return step


def _select(instruction: Instruction, width: int) -> Step:
    result, *sources = instruction.operands
    write = scalar_writer(result, width)
    read_a, read_b = (scalar_reader(source, width) for source in sources)
    return lambda registers: write(registers, (read_a if registers.scc else read_b)(registers))


def branch_target(instruction: Instruction, labels: dict[str, int]) -> int:
    """Where among the instructions a branch leads."""
    (label,) = instruction.operands
    if label.text not in labels:
        raise IsaError(f"line {instruction.line}: there is no label {label.text}")
    return labels[label.text]
