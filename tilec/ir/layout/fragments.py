"""The register fragments of matrix instructions, as layouts over one warp, warpgroup or wave.

Operands: A is [M, K]; B is [N, K], its transpose in memory order, so that the registers of a thread
run along k in both; C, which is also D, is [M, N].
"""

from __future__ import annotations

from typing import Literal

from .register import RegisterLayout

Operand = Literal["a", "b", "c"]

_MMA_K = {4: (32, 64), 8: (16, 32), 16: (8, 16), 32: (4, 8), 64: (4, 8, 16)}

MFMA_SHAPES: frozenset[tuple[int, int, int, int]] = frozenset(
    {
        (32, 32, 8, 16),
        (16, 16, 16, 16),
        (16, 16, 32, 16),
        (32, 32, 16, 16),
        (16, 16, 32, 8),
        (32, 32, 16, 8),
        (16, 16, 16, 8),
        (32, 32, 8, 8),
        (16, 16, 64, 8),
        (32, 32, 32, 8),
        (32, 32, 2, 32),
        (16, 16, 4, 32),
        (16, 16, 8, 32),
        (32, 32, 4, 32),
        (16, 16, 4, 64),
        *((16, 16, 128, bits) for bits in (4, 6, 8)),
        *((32, 32, 64, bits) for bits in (4, 6, 8)),
    }
)
"""(m, n, k, bits of an element of A and B) of the one-block MFMA instructions of CDNA2 to CDNA4."""


def mma_m16n8(operand: Operand, k: int, bits: int) -> RegisterLayout:
    """The fragments of mma.sync.m16n8kK over a warp of 32 (PTX ISA, "Matrix fragments for mma").

    A register of 32 bits holds 32 / bits elements along k; four lanes cover 4 of them, eight groups
    of four lanes the rows; further registers of A hold the lower eight rows, then the next k.

    Args:
        operand: "a" [16, k], "b" [8, k] or "c" [16, 8].
        k: extent of the instruction along k.
        bits: width of an element of A and B: 4, 8, 16, 32 (tf32) or 64.

    Raises:
        ValueError: there is no such instruction.
    """
    if k not in _MMA_K.get(bits, ()):
        raise ValueError(f"mma.m16n8k{k} with elements of {bits} bits does not exist")
    if operand == "c":
        return RegisterLayout((16, 8), ((2, 8), (4, 2)), (1, 2), (0, 3))
    packed = max(1, 32 // bits)
    chunks = k // (4 * packed)
    if operand == "a":
        return RegisterLayout((16, k), ((2, 8), (chunks, 4, packed)), (1, 3), (2, 0, 4))
    return RegisterLayout((8, k), ((8,), (chunks, 4, packed)), (0, 2), (1, 3))


def mma_m8n8(operand: Operand, k: int, bits: int) -> RegisterLayout:
    """The fragments of mma.sync.m8n8kK (8-bit k16 and 4-bit k32 of sm_75, fp64 k4), over a warp.

    Args and errors as for `mma_m16n8`; "a" and "b" are [8, k], "c" is [8, 8].
    """
    if (k, bits) not in ((16, 8), (32, 4), (4, 64)):
        raise ValueError(f"mma.m8n8k{k} with elements of {bits} bits does not exist")
    if operand == "c":
        return RegisterLayout((8, 8), ((8,), (4, 2)), (0, 1), (2,))
    return RegisterLayout((8, k), ((8,), (4, k // 4)), (0, 1), (2,))


def wgmma_accumulator(n: int) -> RegisterLayout:
    """D of wgmma.m64nN over a warpgroup of 128: [64, n], n / 2 registers (PTX ISA, "wgmma").

    Raises:
        ValueError: n is not a multiple of 8 from 8 to 256.
    """
    if n % 8 or not 8 <= n <= 256:
        raise ValueError(f"wgmma has no n = {n}: multiples of 8 from 8 to 256")
    return RegisterLayout((64, n), ((4, 2, 8), (n // 8, 4, 2)), (0, 2, 4), (3, 1, 5))


def wgmma_a(k: int) -> RegisterLayout:
    """A of wgmma.m64kK from registers over a warpgroup of 128: [64, k], k of 8, 16 or 32.

    An instruction takes 32 bytes along k, so k tells the width: 32, 16 or 8 bits.

    Raises:
        ValueError: there is no such instruction.
    """
    if k not in (8, 16, 32):
        raise ValueError(f"wgmma from registers has no k = {k}: 8, 16 or 32")
    return mma_m16n8("a", k, 256 // k).repeat((4, 1), "thread")


def mfma(operand: Operand, m: int, n: int, k: int, bits: int) -> RegisterLayout:
    """The fragments of a one-block MFMA instruction over a wave of 64 (AMD CDNA3 and CDNA4 ISA).

    Each lane holds m k / 64 consecutive k of one row; the 8-bit forms of the scaled instructions
    hold them in chunks of 16. The accumulator has four consecutive rows a lane, in fp64 one.

    Args:
        operand: "a" [m, k], "b" [n, k] or "c" [m, n].
        m: rows of A. n: columns of C. k: extent of the instruction along k.
        bits: width of an element of A and B; fp8, fp6, fp4 and xf32 count as 8, 6, 4 and 32.

    Raises:
        ValueError: there is no such instruction.
    """
    if (m, n, k, bits) not in MFMA_SHAPES:
        raise ValueError(f"mfma {m}x{n}x{k} with elements of {bits} bits does not exist")
    if operand == "c":
        return mfma_accumulator(m, n, bits)
    groups = 64 // m
    each = k // groups
    chunk = min(each, 16) if bits == 8 else each
    modes = ((m,), (each // chunk, groups, chunk))
    return RegisterLayout((m, k), modes, (2, 0), (1, 3))


def mfma_accumulator(m: int, n: int, bits: int) -> RegisterLayout:
    """C of an MFMA of m x n: [m, n], the same for every k and operand; `bits` of its element, 32 or
    64.
    """
    if bits == 64:
        return RegisterLayout((m, n), ((4, 4), (n,)), (1, 2), (0,))
    if m == 16:
        return RegisterLayout((m, n), ((4, 4), (n,)), (0, 2), (1,))
    return RegisterLayout((m, n), ((4, 2, 4), (n,)), (1, 3), (0, 2))
