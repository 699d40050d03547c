"""A wave's registers, and how operands read and write them.

A vector register is a row of 64 lanes of 32 bits; a scalar register is a Python integer. Registers
begin with garbage: no kernel may depend on what was in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.backends.hip.cdna.decode import EXEC, IsaError, Operand

Array = NDArray[Any]
LANES = 64
LANE = np.arange(LANES)
TYPES: dict[str, Any] = {
    "u16": np.uint16, "i16": np.int16, "f16": np.float16, "u32": np.uint32, "i32": np.int32,
    "f32": np.float32, "u64": np.uint64, "i64": np.int64, "f64": np.float64,
}  # fmt: skip
MASK_32, MASK_64 = (1 << 32) - 1, (1 << 64) - 1


class Registers:
    """512 vector registers of 64 lanes (a0 is number 256), 128 scalar registers by their encoding,
    and the bit SCC."""

    def __init__(self, seed: int) -> None:
        garbage = np.random.default_rng(seed)
        self.vector = garbage.integers(0, 1 << 32, (512, LANES), dtype=np.uint32)
        self.scalar: list[int] = garbage.integers(0, 1 << 32, 128, dtype=np.uint32).tolist()
        self.scc = False
        self.set_pair(EXEC, MASK_64)

    def pair(self, first: int) -> int:
        """64 bits of two scalar registers."""
        return self.scalar[first] | self.scalar[first + 1] << 32

    def set_pair(self, first: int, value: int) -> None:
        self.scalar[first] = value & MASK_32
        self.scalar[first + 1] = value >> 32 & MASK_32
        if first == EXEC:
            self.active = lanes_of(value)
            self.full = bool(self.active.all())

    def write_lanes(self, register: int, values: Array, active: Array | None = None) -> None:
        """32-bit values to a vector register, in the lanes that are active."""
        if active is None and self.full:
            self.vector[register] = values
        else:
            where = self.active if active is None else active
            np.copyto(self.vector[register], values, where=where, casting="unsafe")


def lanes_of(mask: int) -> Array:
    """A 64-bit mask as 64 booleans."""
    bits = np.frombuffer((mask & MASK_64).to_bytes(8, "little"), np.uint8)
    return np.unpackbits(bits, bitorder="little").view(bool)


def mask_of(lanes: Array) -> int:
    """64 booleans as a mask, lane 0 in the lowest bit."""
    bits = np.broadcast_to(lanes, LANES)
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


def bits_of(operand: Operand, kind: str) -> int:
    """The bits that a number stands for in an operand of type `kind` ("f32"): integers as they are,
    the high half of an f64 where a literal is written, floats in the operand's own format.

    Source: CDNA3 ISA, "Scalar ALU operands" (inline constants); of the packed types "b32" f16.
    """
    width = int(kind[1:])
    if operand.kind == "integer":
        whole = int(operand.number)
        high = kind == "f64" and not -16 <= whole <= 64
        return (whole << 32 if high else whole) & ((1 << width) - 1)
    if operand.kind == "float":
        float_type = {16: np.float16, 32: np.float32, 64: np.float64}[width]
        return int.from_bytes(np.array(operand.number, float_type).tobytes(), "little")
    raise IsaError(f"{operand.text} is not a number")


def lane_reader(operand: Operand, kind: str) -> Callable[[Registers], Array]:
    """Reads an operand as lanes of type `kind`: 64 of them, or one that all lanes share."""
    read = _bits_reader(operand, kind)
    if not (operand.negative or operand.absolute):
        return read
    if not kind.startswith("f"):
        raise IsaError(f"{operand.text}: signs of an operand that is no float")

    def signed(registers: Registers) -> Array:
        value = read(registers)
        value = np.abs(value) if operand.absolute else value
        return np.negative(value) if operand.negative else value

    return signed


def _bits_reader(operand: Operand, kind: str) -> Callable[[Registers], Array]:
    dtype, width, first = TYPES[kind], int(kind[1:]), operand.first
    if operand.kind == "vector":
        if width == 64:
            return lambda registers: wide_lanes(registers, first).view(dtype)
        if width == 16:
            return lambda registers: registers.vector[first].astype(np.uint16).view(dtype)
        return lambda registers: registers.vector[first].view(dtype)
    unsigned = TYPES[f"u{width}"]
    if operand.kind == "scalar":
        if width == 64:
            return lambda registers: np.array([registers.pair(first)], np.uint64).view(dtype)
        mask = (1 << width) - 1
        return lambda registers: np.array([registers.scalar[first] & mask], unsigned).view(dtype)
    constant = np.array([bits_of(operand, kind)], unsigned).view(dtype)
    return lambda registers: constant


def wide_lanes(registers: Registers, first: int) -> Array:
    """64 bits a lane of two vector registers."""
    low, high = registers.vector[first], registers.vector[first + 1]
    return low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)


def lane_writer(operand: Operand, kind: str) -> Callable[..., None]:
    """Writes lanes of type `kind` to an operand: `write(registers, values, active=None)`. 16 bits
    clear the upper half (CDNA3 ISA, "VALU: 16-bit results")."""
    if operand.kind != "vector":
        raise IsaError(f"{operand.text} is not a vector register")
    first, width = operand.first, int(kind[1:])

    def write(registers: Registers, values: Array, active: Array | None = None) -> None:
        if width == 64:
            bits = np.ascontiguousarray(values, TYPES[kind]).view(np.uint64)
            registers.write_lanes(first, bits.astype(np.uint32), active)
            registers.write_lanes(first + 1, (bits >> np.uint64(32)).astype(np.uint32), active)
            return
        bits = np.ascontiguousarray(values, TYPES[kind]).view(TYPES[f"u{width}"])
        registers.write_lanes(first, bits, active)

    return write


def scalar_reader(operand: Operand, width: int) -> Callable[[Registers], int]:
    """Reads an operand of the scalar unit as an unsigned integer of `width` bits (32 or 64)."""
    first = operand.first
    if operand.kind == "scalar":
        if width == 64:
            return lambda registers: registers.pair(first)
        return lambda registers: registers.scalar[first]
    constant = bits_of(operand, f"u{width}")
    return lambda registers: constant


def scalar_writer(operand: Operand, width: int) -> Callable[[Registers, int], None]:
    """Writes `width` bits to scalar registers."""
    if operand.kind != "scalar":
        raise IsaError(f"{operand.text} is not a scalar register")
    first = operand.first

    def write(registers: Registers, value: int) -> None:
        if width == 64:
            registers.set_pair(first, value)
        else:
            registers.scalar[first] = value & MASK_32
            if first in (EXEC, EXEC + 1):
                registers.set_pair(EXEC, registers.pair(EXEC))

    return write
