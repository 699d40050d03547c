"""v_mfma: a wave's product of matrices that lie in its registers.

Layouts of the shapes of one block M x N x K with M = N of 16 or 32, written from the formulas of the
CDNA3 ISA, "Matrix Arithmetic Instructions". With n = M K / 64, lane l holds in element e of its
operands A[l % M][n (l / M) + e] and B[n (l / M) + e][l % M]. Lanes of f8f6f4 (CDNA4 ISA, the same
chapter) have 32 elements: of 8 bits, in eight registers, k = 16 (64 / M) (e / 16) + 16 (l / M) +
e % 16; of 6 bits, in six registers, and of 4 bits, in four, k = 32 (l / M) + e, in bits 6 e ... 6 e + 5
(4 e ... 4 e + 3) of them. Sums are made in f64 and rounded once, since
in which order the hardware adds is not said.
"""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np

from tests.backends.hip.cdna.decode import Instruction, IsaError, Operand
from tests.backends.hip.cdna.registers import Array, Registers, bits_of
from tests.backends.hip.cdna.waves import Step

_NAME = re.compile(
    r"v_mfma_(?:scale_)?(f32|f64|i32)_(\d+)x(\d+)x(\d+)_?(f8f6f4|[a-z]+\d+)(?:_1k|_([fb][pf]8))?$"
)
_FORMATS = {"0": "fp8", "1": "bf8", "2": "fp6", "3": "bf6", "4": "fp4"}
"""Of f8f6f4: what cbsz says of A, blgp of B."""
_OPERANDS = {
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64,
    "i8": np.int8, "xf32": np.float32,
}  # fmt: skip
# The small floats of CDNA3 have no infinities and one zero; those of CDNA4 are the OCP's.
_SMALL = {
    "gfx942": {"fp8": ml_dtypes.float8_e4m3fnuz, "bf8": ml_dtypes.float8_e5m2fnuz},
    "gfx950": {
        "fp8": ml_dtypes.float8_e4m3fn,
        "bf8": ml_dtypes.float8_e5m2,
        "fp6": ml_dtypes.float6_e2m3fn,
        "bf6": ml_dtypes.float6_e3m2fn,
        "fp4": ml_dtypes.float4_e2m1fn,
    },
}
_PACKED = {
    ml_dtypes.float6_e2m3fn: 6, ml_dtypes.float6_e3m2fn: 6, ml_dtypes.float4_e2m1fn: 4,
}  # fmt: skip
"""Bits of an element of which a lane's 32 lie together: as many registers."""
_RESULTS = {"f32": np.float32, "f64": np.float64, "i32": np.int32}
_SHAPES = {
    "f16": {(32, 8), (16, 16), (32, 16), (16, 32)},
    "bf16": {(32, 8), (16, 16), (32, 16), (16, 32)},
    "f32": {(32, 2), (16, 4)},
    "xf32": {(32, 4), (16, 8)},
    "f64": {(16, 4)},
    "i8": {(32, 8), (16, 16), (32, 16), (16, 32), (32, 32), (16, 64)},
    "fp8": {(32, 16), (16, 32)},
    "bf8": {(32, 16), (16, 32)},
    "f8f6f4": {(32, 64), (16, 128)},
}
"""By type of the operands: M and K of the instructions that there are, on any machine."""


def _operand_type(kind: str, arch: str, name: str) -> Any:
    found = {**_OPERANDS, **_SMALL.get(arch, {})}.get(kind)
    if found is None:
        raise IsaError(f"unknown instruction {name} on {arch}")
    return found


def matrix_step(instruction: Instruction, arch: str) -> Step | None:
    """What a v_mfma does; None for another mnemonic. The mask of active lanes is not asked."""
    match = _NAME.match(instruction.name)
    if match is None:
        return None
    m, n, k = (int(extent) for extent in match.groups()[1:4])
    kind, result = match[5], match[1]
    if m != n or (m, k) not in _SHAPES.get(kind, ()):
        raise IsaError(f"unknown instruction {instruction.name}")
    kinds = (kind, match[6] or kind)
    scaled = instruction.name.startswith("v_mfma_scale_")
    if kind == "f8f6f4":
        instruction.allow("cbsz", "blgp", *(("op_sel", "op_sel_hi") if scaled else ()))
        formats = (instruction.modifiers.get(name, "0") for name in ("cbsz", "blgp"))
        kinds = tuple(_FORMATS.get(f, f"format {f}") for f in formats)  # type: ignore[assignment]
    else:
        instruction.allow()
    d, a, b, c = instruction.operands[:4]
    scales = instruction.operands[4:]
    if len(scales) != 2 * scaled:
        raise IsaError(f"unknown form of {instruction.name}")
    low, high = instruction.flags("op_sel", (0,) * 3), instruction.flags("op_sel_hi", (1,) * 3)
    chosen = [bit + 2 * bit_hi for bit, bit_hi in zip(low, high, strict=True)]  # byte of a scale
    kept = np.uint32(0xFFFFE000)
    wide = np.int64 if result == "i32" else np.float64
    types = [_operand_type(kind_, arch, instruction.name) for kind_ in kinds]
    total = _RESULTS[result]

    def step(registers: Registers) -> None:
        left, right = (
            _read_operand(registers, source, m, type_)
            for source, type_ in zip((a, b), types, strict=True)
        )
        if kind == "xf32":  # which is read without its low 13 bits
            left, right = ((x.view(np.uint32) & kept).view(np.float32) for x in (left, right))
        left, right = left.astype(wide), right.astype(wide)
        if scaled:
            left, right = (
                x * _read_scales(registers, source, m, byte)
                for x, source, byte in zip((left, right), scales, chosen, strict=False)
            )
        addend = _read_result(registers, c, m, total).astype(wide)
        _write_result(registers, d, (left @ right.T + addend).astype(total))

    return step


def _read_operand(registers: Registers, operand: Operand, m: int, dtype: type) -> Array:
    """A (M x K), or B transposed."""
    lanes = np.ascontiguousarray(registers.vector[operand.first :][: operand.count].T)
    if dtype in _PACKED:
        width = _PACKED[dtype]
        if operand.count != width:
            raise IsaError(f"an operand of {width} bits in {operand.count} registers")
        bits = np.unpackbits(lanes.view(np.uint8), axis=1, bitorder="little")
        codes = np.packbits(bits.reshape(64, 32, width), axis=2, bitorder="little")
        return codes.view(dtype).reshape(64 // m, m, 32).transpose(1, 0, 2).reshape(m, -1)
    lanes = lanes.view(dtype)
    chunks = -(-lanes.shape[1] // 16)
    return lanes.reshape(64 // m, m, chunks, -1).transpose(1, 2, 0, 3).reshape(m, -1)


def _read_scales(registers: Registers, operand: Operand, m: int, byte: int) -> Array:
    """Factors of A (M x K), or of B transposed: lane l has the byte of row l % M, and of the 32 k from
    32 (l / M) on: 2^(byte - 127), NaN of 255."""
    if operand.kind != "vector" or operand.count != 1:
        raise IsaError("scales in other than one vector register are unknown")
    exponents = (registers.vector[operand.first] >> np.uint32(8 * byte) & np.uint32(255)).astype(
        int
    )
    factors = np.where(exponents == 255, np.nan, np.ldexp(1.0, exponents - 127))
    return np.repeat(factors.reshape(64 // m, m).T, 32, axis=1)


def _read_result(registers: Registers, operand: Operand, m: int, dtype: type) -> Array:
    """C (M x N): of registers, or a number everywhere."""
    if operand.kind != "vector":
        kind = {np.float32: "f32", np.float64: "f64", np.int32: "i32"}[dtype]
        bits = bits_of(operand, kind).to_bytes(np.dtype(dtype).itemsize, "little")
        return np.full((m, m), np.frombuffer(bits, dtype)[0])
    words = registers.vector[operand.first :][: operand.count]
    if dtype is np.float64:  # row 4 r + l / 16
        pairs = np.ascontiguousarray(words.reshape(-1, 2, 64).transpose(0, 2, 1)).view(dtype)
        return pairs.reshape(16, 16)
    values = words.view(dtype)
    if m == 16:  # row 4 (l / 16) + r
        return values.reshape(4, 4, 16).transpose(1, 0, 2).reshape(16, 16)
    # row 8 (r / 4) + 4 (l / 32) + r % 4
    return values.reshape(4, 4, 2, 32).transpose(0, 2, 1, 3).reshape(32, 32)


def _write_result(registers: Registers, operand: Operand, values: Array) -> None:
    """The inverse of _read_result."""
    if values.dtype == np.float64:
        words = values.reshape(4, 64, 1).view(np.uint32).transpose(0, 2, 1).reshape(8, 64)
    elif len(values) == 16:
        words = values.view(np.uint32).reshape(4, 4, 16).transpose(1, 0, 2).reshape(4, 64)
    else:
        words = values.view(np.uint32).reshape(4, 2, 4, 32).transpose(0, 2, 1, 3).reshape(16, 64)
    registers.vector[operand.first : operand.first + operand.count] = words
