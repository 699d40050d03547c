"""Instruction fragments, entry by entry, against formulas written here from the manuals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tilec.ir.layout import (
    MFMA_SHAPES,
    RegisterLayout,
    classify,
    mfma,
    mma_m8n8,
    mma_m16n8,
    wgmma_a,
    wgmma_accumulator,
)

Entry = Callable[[int, int], tuple[int, int]]


def check(layout: RegisterLayout, threads: int, registers: int, entry: Entry) -> None:
    assert (layout.threads, layout.registers) == (threads, registers)
    assert layout.replication == 1
    coords = layout.coords()
    for lane in range(threads):
        for register in range(registers):
            assert tuple(coords[lane, register]) == entry(lane, register), (lane, register)


# mma.sync: groupID = lane >> 2, threadID_in_group = lane % 4, as the PTX manual writes its tables.
# (k, bits) -> (row of a_i, column of a_i, row of b_i)
A_AND_B: dict[tuple[int, int], tuple[Entry, Callable[[int, int], int]]] = {
    (8, 16): (
        lambda t, i: (t // 4 + 8 * (i >= 2), 2 * (t % 4) + (i & 1)),
        lambda t, i: 2 * (t % 4) + i,
    ),
    (16, 16): (
        lambda t, i: (
            t // 4 if i < 2 or 4 <= i < 6 else t // 4 + 8,
            2 * (t % 4) + (i & 1) + (8 if i >= 4 else 0),
        ),
        lambda t, i: 2 * (t % 4) + (i & 1) + (8 if i >= 2 else 0),
    ),
    (4, 32): (lambda t, i: (t // 4 + 8 * i, t % 4), lambda t, i: t % 4),
    (8, 32): (
        lambda t, i: (t // 4 if i in (0, 2) else t // 4 + 8, t % 4 if i < 2 else t % 4 + 4),
        lambda t, i: t % 4 + 4 * i,
    ),
    (16, 8): (
        lambda t, i: (t // 4 if i < 4 else t // 4 + 8, 4 * (t % 4) + (i & 3)),
        lambda t, i: 4 * (t % 4) + i,
    ),
    (32, 8): (
        lambda t, i: (
            t // 4 if i < 4 or 8 <= i < 12 else t // 4 + 8,
            4 * (t % 4) + (i & 3) + (16 if i >= 8 else 0),
        ),
        lambda t, i: 4 * (t % 4) + (i & 3) + (16 if i >= 4 else 0),
    ),
    (32, 4): (
        lambda t, i: (t // 4 if i < 8 else t // 4 + 8, 8 * (t % 4) + (i & 7)),
        lambda t, i: 8 * (t % 4) + i,
    ),
    (64, 4): (
        lambda t, i: (
            t // 4 if i < 8 or 16 <= i < 24 else t // 4 + 8,
            8 * (t % 4) + (i & 7) + (32 if i >= 16 else 0),
        ),
        lambda t, i: 8 * (t % 4) + (i & 7) + (32 if i >= 8 else 0),
    ),
    (4, 64): (lambda t, i: (t // 4 + 8 * i, t % 4), lambda t, i: t % 4),
    (8, 64): (
        lambda t, i: (t // 4 if i % 2 == 0 else t // 4 + 8, t % 4 + (4 if i >= 2 else 0)),
        lambda t, i: t % 4 + 4 * i,
    ),
    (16, 64): (
        lambda t, i: (t // 4 if i % 2 == 0 else t // 4 + 8, t % 4 + 4 * (i // 2)),
        lambda t, i: t % 4 + 4 * i,
    ),
}


@pytest.mark.parametrize(("k", "bits"), A_AND_B)
def test_mma_m16n8(k: int, bits: int) -> None:
    a, b_row = A_AND_B[k, bits]
    check(mma_m16n8("a", k, bits), 32, k // 2, a)
    check(mma_m16n8("b", k, bits), 32, k // 4, lambda t, i: (t // 4, b_row(t, i)))
    check(
        mma_m16n8("c", k, bits),
        32,
        4,
        lambda t, i: (t // 4 if i < 2 else t // 4 + 8, 2 * (t % 4) + (i & 1)),
    )


@pytest.mark.parametrize(("k", "bits"), [(16, 8), (32, 4), (4, 64)])
def test_mma_m8n8(k: int, bits: int) -> None:
    each = k // 4
    for operand in ("a", "b"):
        check(mma_m8n8(operand, k, bits), 32, each, lambda t, i: (t // 4, each * (t % 4) + i))
    check(mma_m8n8("c", k, bits), 32, 2, lambda t, i: (t // 4, 2 * (t % 4) + i))


@pytest.mark.parametrize("n", [8, 16, 24, 96, 128, 192, 256])
def test_wgmma_accumulator(n: int) -> None:
    def d(t: int, index: int) -> tuple[int, int]:
        lane, warp, i, part = t & 31, t >> 5, index // 4, index % 4
        return 16 * warp + lane // 4 + 8 * (part >= 2), 8 * i + 2 * (lane & 3) + (part & 1)

    check(wgmma_accumulator(n), 128, n // 2, d)


def test_wgmma_a() -> None:
    def a(t: int, index: int) -> tuple[int, int]:
        lane, warp, reg, half = t & 31, t >> 5, index // 2, index % 2
        row = 16 * warp + lane // 4 + 8 * (reg & 1)
        return row, 2 * (lane & 3) + half + 8 * (reg >> 1)

    check(wgmma_a(16), 128, 8, a)
    assert wgmma_a(32).shape == (64, 32)
    assert wgmma_a(32).vector_width() == 4
    assert wgmma_a(8).vector_width() == 1


def test_accumulator_is_the_next_a_operand_register_by_register() -> None:
    """a0 = (d[8j], d[8j+1]), a1 = (d[8j+2], d[8j+3]), …: both count registers in one order."""
    for j in range(4):
        found = wgmma_accumulator(64).slice_registers(1, 16 * j, 16)
        assert found is not None
        part, registers = found
        assert registers == tuple(range(8 * j, 8 * j + 8))
        conversion = classify(part, wgmma_a(16), 32)
        assert conversion.kind == "same"


def _rows(m: int, register: int, lane: int, bits: int) -> int:
    if bits == 64:
        return 4 * register + lane // 16
    if m == 16:
        return 4 * (lane // 16) + register
    return 8 * (register // 4) + 4 * (lane // 32) + register % 4


@pytest.mark.parametrize(("m", "n", "k", "bits"), sorted(MFMA_SHAPES))
def test_mfma(m: int, n: int, k: int, bits: int) -> None:
    each = m * k // 64

    def operand(lane: int, e: int) -> tuple[int, int]:
        if (m, k, bits) == (16, 128, 8):
            return lane % m, 64 * (e // 16) + 16 * (lane // 16) + e % 16
        if (m, k, bits) == (32, 64, 8):
            return lane % m, 32 * (e // 16) + 16 * (lane // 32) + e % 16
        return lane % m, each * (lane // m) + e

    check(mfma("a", m, n, k, bits), 64, each, operand)
    check(mfma("b", m, n, k, bits), 64, each, operand)
    check(mfma("c", m, n, k, bits), 64, m * n // 64, lambda t, r: (_rows(m, r, t, bits), t % n))


def test_mfma_transposed_score_is_the_next_operand() -> None:
    """Swapped operands give S transposed, whose lanes hold four consecutive k of P."""
    s = mfma("c", 16, 16, 16, 16).transpose((1, 0))
    assert s == mfma("a", 16, 16, 16, 16)


@pytest.mark.parametrize(
    "build",
    [
        lambda: mma_m16n8("a", 24, 16),
        lambda: mma_m16n8("a", 16, 6),
        lambda: mma_m8n8("a", 16, 16),
        lambda: wgmma_accumulator(12),
        lambda: wgmma_accumulator(264),
        lambda: wgmma_a(64),
        lambda: mfma("a", 16, 16, 16, 64),
    ],
)
def test_instructions_that_do_not_exist(build: Callable[[], RegisterLayout]) -> None:
    with pytest.raises(ValueError, match=r"wgmma|exist"):
        build()
