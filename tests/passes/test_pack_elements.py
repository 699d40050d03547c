"""4-bit elements as bytes: the arithmetic of nibbles, the layout of what is unpacked, and the program
after the passes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.ir.build import Builder
from tilec.ir.conversion import convert_array, pack_pairs, unpack_pairs
from tilec.ir.core import constant, constant_of, walk
from tilec.ir.dtypes import PAIRS, DType, f32, i4, i32, u4, u8
from tilec.ir.layout import RegisterLayout, blocked
from tilec.ir.layout.pairs import packed_layout, unpacked_layout
from tilec.ir.ops.memory import Alloc, Store
from tilec.ir.ops.tile import Copy, LoadTile, PackTile, StoreTile, UnpackTile
from tilec.passes.context import Facts, PassContext
from tilec.passes.gather_pairs import gather_pairs
from tilec.passes.nibbles import narrowed, packed, unpacked
from tilec.passes.pipeline import run_pipeline
from tilec.runtime.lowering import standard_registry
from tilec.target import find_target

BOTH = (i4, u4)


@pytest.mark.parametrize("dtype", BOTH, ids=str)
def test_every_byte_unpacks_and_packs(dtype: DType) -> None:
    b = Builder()
    raw = np.arange(256, dtype=np.uint8)
    halves = unpack_pairs(raw, dtype).reshape(256, 2)
    expected = raw[:, None].astype(int) >> [0, 4] & 15
    expected = np.where((expected > 7) & (dtype == i4), expected - 16, expected)
    assert halves.tolist() == expected.tolist()
    assert pack_pairs(halves.reshape(-1)).tolist() == raw.tolist()
    for number in raw.tolist():
        pair = constant(number, PAIRS[dtype])
        parts = [unpacked(b, pair, half, dtype) for half in (0, 1)]
        assert [constant_of(p) for p in parts] == expected[number].tolist()
        assert constant_of(packed(b, *parts, PAIRS[dtype])) == number


@pytest.mark.parametrize("dtype", BOTH, ids=str)
def test_narrowing_is_the_cast(dtype: DType) -> None:
    b = Builder()
    for kind, numbers in (
        (i32, (-17, -9, -8, -1, 0, 7, 8, 15, 16, 300)),
        (u8, (0, 7, 8, 200, 255)),
        (f32, (-9.0, -8.5, -0.9, 0.9, 7.9, 15.9, 16.0, 1e9, -1e9, float("nan"))),
    ):
        for number in numbers:
            want = convert_array(np.array(number, kind.numpy), dtype)
            assert constant_of(narrowed(b, constant(number, kind), dtype)) == want, (kind, number)


@pytest.mark.parametrize(
    "layout",
    [
        blocked((8, 16), 32, 4),
        blocked((4, 4), 32, 1),
        RegisterLayout((16, 8), ((2, 8), (4, 2)), (1, 2), (0, 3)),
        blocked((64,), 32, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_the_layout_of_what_is_unpacked(layout: RegisterLayout, parts: int) -> None:
    """Register r of the whole is registers `parts` r and those behind it of the parts."""
    cut, whole = unpacked_layout(layout, parts).coords(), layout.coords()
    for part in range(parts):
        expected = whole.copy()
        expected[..., -1] = parts * whole[..., -1] + part
        np.testing.assert_array_equal(cut[:, part::parts], expected)
    assert packed_layout(unpacked_layout(layout, parts), parts) == layout


def test_halves_in_two_threads_have_no_pairs() -> None:
    assert packed_layout(blocked((4, 8), 32, 1)) is None
    assert packed_layout(blocked((4, 8), 16, 2), 4) is None
    assert packed_layout(RegisterLayout((16, 2), ((16,), (2,)), (1, 0), ())) is None


@tilec.kernel
def quantise(
    A: T.Tensor(("M", 64), "float32"),
    B: T.Tensor(("M", 64), "int4"),
    C: T.Tensor(("M", 64), "int4"),
):
    M = A.shape[0]
    with T.Kernel(T.ceildiv(M, 16), threads=32) as bx:
        s = T.alloc_shared((16, 64), "int4")
        for i, j in T.Parallel(16, 64):
            s[i, j] = A[bx * 16 + i, j] * 7.0
        T.copy(s, B[bx * 16, 0])
        T.copy(A[bx * 16 : bx * 16 + 16, 0:64], C[bx * 16, 0])


def ops_after(name: str) -> list[Any]:
    context = PassContext(find_target("cuda:sm_80"), standard_registry(), Facts())
    return list(walk(run_pipeline(quantise.lower_to_ir(), context, after=name).body))


def test_a_nest_stores_to_a_fragment() -> None:
    before = quantise.lower_to_ir()
    after = list(walk(gather_pairs(before, None).body))  # type: ignore[arg-type]
    (store,) = [op for op in after if isinstance(op, Store)]
    assert str(store.memory.type) == "fragment i4[16, 64]"
    assert sum(isinstance(op, Copy) for op in after) == 3


def test_no_four_bits_are_left() -> None:
    ops = ops_after("pack_elements")
    types = [str(v.type) for op in ops for v in itertools.chain(op.results, op.inputs)]
    assert not any("i4[" in t or "u4[" in t or t in ("i4", "u4") for t in types)
    assert [str(op.type) for op in ops if isinstance(op, Alloc)] == ["shared i4x2[16, 32]"]
    assert sum(isinstance(op, PackTile) for op in ops) == 2
    assert not any(isinstance(op, UnpackTile) for op in ops)
    bytes_copy = [op.shape for op in ops if isinstance(op, Copy)]
    assert bytes_copy == [(16, 32)]
    assert [op.shape for op in ops if isinstance(op, LoadTile)] == [(16, 64)]
    assert all(op.tile.type.shape == (16, 32) for op in ops if isinstance(op, StoreTile))
