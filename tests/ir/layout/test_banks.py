"""Bank conflicts on patterns whose cost is known."""

from __future__ import annotations

import numpy as np
import pytest

from tilec.ir.layout import (
    SharedLayout,
    access_phases,
    bank_conflicts,
    blocked,
    choose_swizzle,
    conflict_degree,
    ldmatrix_conflicts,
    ldmatrix_rows,
    mfma,
    mma_m8n8,
    mma_m16n8,
    quietest_layout,
)

WARP = (tuple(range(32)),)


@pytest.mark.parametrize(("stride", "want"), [(1, 1), (2, 2), (32, 32), (33, 1), (0, 1), (8, 8)])
def test_words_by_stride(stride: int, want: int) -> None:
    assert bank_conflicts(np.arange(32) * 4 * stride, 4, WARP) == want


def test_lanes_in_one_word_are_served_at_once() -> None:
    assert bank_conflicts(np.arange(32) * 2, 2, WARP) == 1
    assert bank_conflicts(np.arange(32), 1, WARP) == 1


def test_the_worst_of_several_accesses_counts() -> None:
    lanes = np.arange(32)
    assert bank_conflicts(np.stack([lanes * 4, lanes * 16]), 4, WARP) == 4


def test_more_banks() -> None:
    assert bank_conflicts(np.arange(32) * 8, 4, WARP, banks=64) == 1


@pytest.mark.parametrize("machine", ["cuda", "cdna-read", "cdna-write"])
@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
def test_phases_partition_the_lanes(machine: str, width: int) -> None:
    lanes = 32 if machine == "cuda" else 64
    phases = access_phases(machine, width, lanes)  # type: ignore[arg-type]
    assert sorted(lane for phase in phases for lane in phase) == list(range(lanes))
    assert all(len(phase) * max(4, width) <= 128 for phase in phases)
    contiguous = np.arange(lanes) * width
    assert bank_conflicts(contiguous, width, phases) == 1


def test_no_access_of_three_bytes() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        access_phases("cuda", 3, 32)


@pytest.mark.parametrize(("span", "columns"), [(128, 64), (64, 32), (32, 16), (128, 192)])
def test_ldmatrix_is_free_of_conflicts_when_swizzled(span: int, columns: int) -> None:
    layout = SharedLayout.swizzled((64, columns), 16, span)
    assert ldmatrix_rows(layout, 16)
    assert ldmatrix_conflicts(layout, 16) == 1


@pytest.mark.parametrize(
    ("layout", "want"),
    [
        (SharedLayout.row_major((64, 64)), 8),
        (SharedLayout.row_major((64, 32)), 4),
        (SharedLayout.row_major((64, 16)), 2),
        (SharedLayout.row_major((64, 8)), 1),
        (SharedLayout.row_major((64, 64), pad=8), 1),
    ],
)
def test_ldmatrix_of_rows(layout: SharedLayout, want: int) -> None:
    assert ldmatrix_conflicts(layout, 16) == want


@pytest.mark.parametrize(
    "layout",
    [
        SharedLayout.row_major((64, 64), pad=4),
        SharedLayout.row_major((64, 12)),
        SharedLayout.row_major((12, 64)),
        SharedLayout.row_major((64,)),
        SharedLayout.row_major((64, 64)).transpose((1, 0)),
    ],
)
def test_ldmatrix_needs_aligned_rows(layout: SharedLayout) -> None:
    assert not ldmatrix_rows(layout, 16)
    with pytest.raises(ValueError, match="ldmatrix"):
        ldmatrix_conflicts(layout, 16)


def test_accesses_through_a_register_layout() -> None:
    rows = SharedLayout.row_major((64, 64))
    swizzled = SharedLayout.swizzled((64, 64), 16, 128)
    store = blocked((64, 64), 128, 8)
    assert conflict_degree(rows, 16, store) == 1
    assert conflict_degree(swizzled, 16, store) == 1
    column = blocked((64, 64), 128, 8, order=(1, 0))
    assert conflict_degree(rows, 16, column.reshape((64, 64))) > 1
    accumulator = mma_m16n8("c", 16, 16).repeat((4, 8), "register")
    assert conflict_degree(rows, 16, accumulator) == 8
    assert conflict_degree(swizzled, 16, accumulator) == 1
    with pytest.raises(ValueError, match="tile"):
        conflict_degree(rows, 16, mma_m16n8("c", 16, 16))


def test_mfma_reads_of_sixteen_bytes() -> None:
    """A fragment of 16x16x32 read by ds_read_b128 from rows of 64 bytes."""
    fragment = mfma("a", 16, 16, 32, 16)
    rows = SharedLayout.row_major((16, 32))
    spread = SharedLayout.swizzled((16, 32), 16, 64)
    plain = conflict_degree(rows, 16, fragment, "cdna-read", 64)
    better = conflict_degree(spread, 16, fragment, "cdna-read", 64)
    assert better < plain


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("row_bytes", [32, 64, 128, 256])
def test_the_widest_swizzle_serves_matrices_of_every_dtype(bits: int, row_bytes: int) -> None:
    shape = (64, row_bytes * 8 // bits)
    layout = SharedLayout.swizzled(shape, bits, choose_swizzle(shape, bits))
    assert ldmatrix_conflicts(layout, bits) == 1


def test_the_quietest_layout_of_elements() -> None:
    """f64 with k contiguous: half a warp reads 4 rows of 32 bytes, so chunks of that go to other
    banks in each row; tf32 across: 4 rows, 8 columns. Rows that TMA fills move by 16 bytes alone."""
    doubles = [mma_m16n8("a", k, 64).repeat((4, 16 // k), "register") for k in (4, 8, 16)]
    doubles.append(mma_m8n8("a", 4, 64).repeat((8, 4), "register"))
    across = mma_m16n8("b", 8, 32).repeat((8, 4), "register").transpose((1, 0))
    for shape, bits, accesses in (((64, 16), 64, doubles), ((32, 64), 32, [across])):
        for access in accesses:
            degrees = {
                span: conflict_degree(SharedLayout.swizzled(shape, bits, span), bits, access)
                for span in (0, 32, 64, 128)
            }
            assert degrees == {0: 4, 32: 1, 64: 2, 128: 2}
            wide = SharedLayout.swizzled(shape, bits, 128, 32)
            assert quietest_layout(shape, bits, access) == wide
            narrow = SharedLayout.swizzled(shape, bits, 32)
            assert quietest_layout(shape, bits, access, by_tma=True) == narrow
            assert conflict_degree(wide, bits, access) == 1
    rows = blocked((64, 64), 128, 8)  # all alike: the widest
    assert quietest_layout((64, 64), 16, rows) == SharedLayout.swizzled((64, 64), 16, 128)
    odd = quietest_layout((64, 6), 16, blocked((64, 6), 128))  # none divides a row
    assert odd == SharedLayout.row_major((64, 6))
