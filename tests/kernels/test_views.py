"""Views taken by tile operations: of fragments, of shared memory, of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tests.kernels.machines import TARGETS
from tests.kernels.test_gemm_operands import whole
from tests.passes.planning import line_of, refused
from tilec.ir.core import walk
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.tile import ConvertLayout, Copy
from tilec.parser.text import parse_program
from tilec.runtime.driver import lower

pytestmark = pytest.mark.emulator


def after(kernel: Any, target: str, pass_: str) -> list[Any]:
    """The ops of a kernel behind a pass."""
    compiled = lower(kernel, (), target, {})
    text = compiled.ir(after=pass_)
    return list(walk(parse_program(text, compiled.registry, "kernel.tir").body))


@tilec.kernel
def grouped(
    A: T.Tensor(("M", 32), "float16"),
    B: T.Tensor((64, 32), "float16"),
    C: T.Tensor(("M", 16), "float32"),
):
    """C[i, q] = sum over h of max((A B^T)[i, 4 q + h], 0): the product seen as (rows, 16, 4)."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        s = T.alloc_fragment((64, 64), "float32")
        sums = T.alloc_fragment((64, 16), "float32")
        T.copy(A[bx * 64, 0], A_s)
        T.copy(B, B_s)
        T.gemm(A_s, B_s, s, transpose_B=True, clear_accum=True)
        heads = T.reshape(s, (64, 16, 4))
        for i, q, h in T.Parallel(64, 16, 4):
            heads[i, q, h] = T.max(heads[i, q, h], 0.0)
        T.reduce_sum(heads, sums, dim=2)
        T.copy(sums, C[bx * 64, 0])


@pytest.mark.parametrize("m", [64, 1, 70, 0])
def test_a_product_in_groups(m: int) -> None:
    a, b = whole((m, 32)), whole((64, 32), seed=1)
    product = np.maximum(a.astype(np.float32) @ b.astype(np.float32).T, 0)
    expected = product.reshape(m, 16, 4).sum(2)
    for leg, (*_, c) in every_leg(grouped, a, b, np.full((m, 16), np.nan, np.float32)):
        assert np.array_equal(c, expected), leg


@pytest.mark.parametrize("target", TARGETS)
def test_the_groups_stay_in_their_registers(target: str) -> None:
    assert not [op for op in after(grouped, target, "infer_layouts") if type(op) is ConvertLayout]


def test_no_compiler_minds() -> None:
    compile_texts(grouped)


@tilec.kernel
def written_through(A: T.Tensor((4, 8, 64), "float32"), C: T.Tensor((32, 64), "int32"), n: T.int32):
    """C = the bits of 2^n A, of 1 where n is 2: the fragment, a view of it and a view of that."""
    with T.Kernel(1, threads=64):
        x = T.alloc_fragment((4, 8, 64), "float32")
        rows = T.view(x, (32, 64))
        T.copy(A, x)
        for _ in T.serial(n):
            for i, j in T.Parallel(32, 64):
                rows[i, j] = rows[i, j] * 2.0
            if n == 2:
                T.fill(T.reshape(rows, (2048,)), 1.0)
        T.copy(T.reinterpret(rows, "int32"), C)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_loops_and_branches_write_through_views(n: int) -> None:
    a = np.random.default_rng(n).standard_normal((4, 8, 64)).astype(np.float32)
    expected = np.ones_like(a) if n == 2 else a * np.float32(2**n)
    for leg, (_, c, _) in every_leg(written_through, a, np.zeros((32, 64), np.int32), n):
        assert np.array_equal(c, expected.reshape(32, 64).view(np.int32)), leg


@tilec.kernel
def unwritten(C: T.Tensor((16, 4), "float32")):
    with T.Kernel(1, threads=32):
        x = T.alloc_fragment((64,), "float32")
        for i in T.Parallel(32):
            x[i] = 1.0
        T.copy(T.reshape(x, (16, 4)), C)


def test_what_was_not_written_is_found_through_a_view() -> None:
    with pytest.raises(tilec.errors.ExecutionError, match="uninitialised"):
        unwritten(np.zeros((16, 4), np.float32), device="interpreter")


@tilec.kernel
def uneven(A: T.Tensor((4, 30), "int32"), C: T.Tensor((5, 24), "int32")):
    """Shapes whose boundaries have nothing in common."""
    with T.Kernel(1, threads=32):
        x = T.alloc_fragment((4, 30), "int32")
        T.copy(A, x)
        y = T.reshape(x, (5, 24))
        for i, j in T.Parallel(5, 24):
            y[i, j] = y[i, j] + i
        T.copy(y, C)


def test_shapes_that_share_no_boundary_are_refused() -> None:
    error = refused("TLC0117", uneven.lower_to_ir)
    assert line_of(error.loc) == "y = T.reshape(x, (5, 24))"
    assert "(4, 30)" in error.message and "(5, 24)" in error.message


@tilec.kernel
def halved(A: T.Tensor((6, 48), "int32"), C: T.Tensor((18, 2, 8), "int32")):
    """Shapes that are no powers of two."""
    with T.Kernel(1, threads=96):
        x = T.alloc_fragment((6, 48), "int32")
        T.copy(A, x)
        y = T.reshape(x, (18, 2, 8))
        for i, j, k in T.Parallel(18, 2, 8):
            y[i, j, k] = y[i, j, k] + i
        T.copy(y, C)


def test_shapes_that_are_no_powers_of_two() -> None:
    a = np.arange(288, dtype=np.int32).reshape(6, 48)
    expected = a.reshape(18, 2, 8) + np.arange(18, dtype=np.int32)[:, None, None]
    for leg, (_, c) in every_leg(halved, a, np.zeros((18, 2, 8), np.int32)):
        assert np.array_equal(c, expected), leg


@tilec.kernel
def through_slots(
    A: T.Tensor(("M", 4, 32), "float16"),
    B: T.Tensor((128, 64), "float16"),
    C: T.Tensor(("M", 64), "float32"),
):
    """C = A B, A seen as rows of 128, its tiles kept in slots that are rows of one buffer."""
    rows = T.reshape(A, ("M", 128))
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((128, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        slots = T.reshape(A_s, (2, 64, 64))
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in range(2):
            T.copy(rows[bx * 64, k * 64], slots[k, :, :])
            T.copy(B[k * 64, 0], B_s)
            T.gemm(slots[k, :, :], B_s, acc)
        T.copy(acc, C[bx * 64, 0])


@pytest.mark.parametrize("m", [64, 1, 70])
def test_regions_of_views_that_are_regions_of_memory(m: int) -> None:
    a, b = whole((m, 4, 32)), whole((128, 64), seed=1)
    expected = a.reshape(m, 128).astype(np.float32) @ b.astype(np.float32)
    for leg, (*_, c) in every_leg(through_slots, a, b, np.full((m, 64), np.nan, np.float32)):
        assert np.array_equal(c, expected), leg
    gemms = [
        op for op in after(through_slots, "cuda:sm_80", "promote_fragments") if type(op) is Gemm
    ]
    assert [op.a_shape for op in gemms] == [(64, 64)] * 2


@tilec.kernel
def flat(
    A: T.Tensor((64, 32), "float16"),
    B: T.Tensor((32, 64), "float16"),
    C: T.Tensor((64, 64), "float32"),
    R: T.Tensor((64,), "float32"),
):
    """C = A B and R = the sums of A's rows: the operands lie in shared memory of one dimension."""
    with T.Kernel(1, threads=128):
        a = T.alloc_shared((64 * 32,), "float16")
        b = T.alloc_shared((32 * 64,), "int16")
        acc = T.alloc_fragment((64, 64), "float32")
        sums = T.alloc_fragment((64,), "float32")
        T.copy(A, T.view(a, (64, 32)))
        T.copy(B, T.view(b, (32, 64), "float16"))
        T.gemm(T.view(a, (64, 32)), T.view(b, (32, 64), "float16"), acc, clear_accum=True)
        T.reduce_sum(T.view(a, (64, 32)), sums, dim=1)
        T.copy(acc, C)
        T.copy(sums, R)
        T.clear(T.view(a, (2, 32, 32)))
        T.copy(a[0], A[0, 0:32])


def test_views_that_are_no_regions() -> None:
    a, b = whole((64, 32)), whole((32, 64), seed=1)
    expected = a.astype(np.float32) @ b.astype(np.float32)
    unset = np.full((64, 64), np.nan, np.float32), np.full(64, np.nan, np.float32)
    for leg, (left, _, c, r) in every_leg(flat, a, b, *unset):
        assert np.array_equal(c, expected), leg
        assert np.array_equal(r, a.astype(np.float32).sum(1)), leg
        assert not left[0].any() and np.array_equal(left[1:], a[1:]), leg


@tilec.kernel
def edges(A: T.Tensor((6, 5), "int32"), C: T.Tensor((8, 8), "int32"), j: T.int32):
    """A tile of a view that reaches beyond its rows and columns."""
    with T.Kernel(1, threads=32):
        x = T.alloc_fragment((8, 8), "int32")
        T.copy(T.reshape(A, (5, 6))[0, j], x)
        T.copy(x, C)


@pytest.mark.parametrize("j", [0, 2, 6])
def test_outside_of_a_view_is_outside(j: int) -> None:
    a = np.arange(1, 31, dtype=np.int32).reshape(6, 5)
    wide = np.zeros((8, 16), np.int32)
    wide[:5, :6] = a.reshape(5, 6)
    for leg, (_, c, _) in every_leg(edges, a, np.zeros((8, 8), np.int32), j):
        assert np.array_equal(c, wide[:, j : j + 8]), leg


@tilec.kernel
def split_rows(A: T.Tensor(("M", 64), "float16"), C: T.Tensor(("M", 32), "float16")):
    """The second half of every row, as one of two."""
    halves = T.reshape(A, ("M", 2, 32))
    with T.Kernel(T.ceildiv(A.shape[0], 16), threads=32) as bx:
        S = T.alloc_shared((16, 32), "float16")
        T.copy(halves[bx * 16 : bx * 16 + 16, 1, :], S)
        T.copy(S, C[bx * 16, 0])


@pytest.mark.parametrize("m", [16, 17, 1, 0])
def test_a_copy_of_a_view_is_a_copy(m: int) -> None:
    a = whole((m, 64))
    for leg, (_, c) in every_leg(split_rows, a, np.full((m, 32), np.nan, np.float16)):
        assert np.array_equal(c, a[:, 32:]), leg
    copies = [op for op in after(split_rows, "cuda:sm_80", "promote_fragments") if type(op) is Copy]
    assert copies[0].shape == (16, 32)


@tilec.kernel
def arena(
    A: T.Tensor(("M", 64), "float16"),
    B: T.Tensor((64, 64), "float16"),
    C: T.Tensor(("M", 64), "float32"),
    D: T.Tensor(("M", 64), "float16"),
):
    """C = A B, D its tiles turned around: operands and results lie in the same bytes."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        S = T.alloc_shared((2 * 64 * 64 * 2,), "uint8")
        operands = T.view(S, (2, 64, 64), "float16")
        result = T.view(S, (64, 64), "float32")
        acc = T.alloc_fragment((64, 64), "float32")
        T.copy(A[bx * 64, 0], operands[0, :, :])
        T.copy(B, operands[1, :, :])
        T.gemm(operands[0, :, :], operands[1, :, :], acc, clear_accum=True)
        T.copy(acc, result)
        T.copy(result, C[bx * 64, 0])
        for i, j in T.Parallel(64, 64):
            D[bx * 64 + i, j] = result[63 - i, 63 - j]


@pytest.mark.parametrize("m", [0, 1, 64, 70])
def test_bytes_as_elements_of_two_widths(m: int) -> None:
    a, b = whole((m, 64)), whole((64, 64), seed=1)
    expected = a.astype(np.float32) @ b.astype(np.float32)
    tiles = np.zeros((-(-m // 64), 64, 64), np.float16)
    tiles.reshape(-1, 64)[:m] = expected
    turned = tiles[:, ::-1, ::-1].reshape(-1, 64)[:m]
    for leg, (*_, c, d) in every_leg(
        arena, a, b, np.full((m, 64), np.nan, np.float32), np.full((m, 64), np.nan, np.float16)
    ):
        assert np.array_equal(c, expected), leg
        assert np.array_equal(d, turned), leg


def test_bytes_that_make_elements_are_moved_together() -> None:
    for target, text in compile_texts(arena).items():
        assert "store_shared<16>(S" in text, target  # eight of float16
        assert "load_shared<16>(S" in text, target  # four of float32


@tilec.kernel
def halves_of_bytes(
    A: T.Tensor(("M", 64), "int4"),
    B: T.Tensor(("M", 32), "uint8"),
    C: T.Tensor(("M", 32), "uint8"),
    D: T.Tensor(("M", 64), "int8"),
    E: T.Tensor(("M", 4), "int64"),
):
    """The bytes of int4, the int4 of bytes, eight bytes as one number."""
    with T.Kernel(T.ceildiv(A.shape[0], 8), threads=32) as bx:
        S = T.alloc_shared((8, 64), "int4")
        T.copy(A[bx * 8, 0], S)
        T.copy(T.view(S, dtype="uint8"), C[bx * 8, 0])
        fours, longs = T.view(B, dtype="int4"), T.view(B, (B.shape[0], 4), "int64")
        for i, j in T.Parallel(8, 64):
            D[bx * 8 + i, j] = fours[bx * 8 + i, j]
        T.copy(longs[bx * 8 : bx * 8 + 8, :], E[bx * 8, 0])


@pytest.mark.parametrize("m", [0, 1, 8, 9])
def test_from_four_bits_to_sixty_four(m: int) -> None:
    rng = np.random.default_rng(m)
    a, b = (rng.integers(0, 256, (m, 32)).astype(np.uint8) for _ in range(2))
    fours = np.stack([b << 4, b & 0xF0], -1).view(np.int8).reshape(m, 64) >> 4
    unset = np.zeros((m, 32), np.uint8), np.zeros((m, 64), np.int8), np.zeros((m, 4), np.int64)
    for leg, (*_, c, d, e) in every_leg(halves_of_bytes, a.view(np.int8), b, *unset):
        assert np.array_equal(c, a), leg
        assert np.array_equal(d, fours), leg
        assert np.array_equal(e, b.view(np.int64)), leg


@tilec.kernel
def words_of_halves(
    A: T.Tensor(("M", 32), "int32"),
    B: T.Tensor((64, 64), "float16"),
    C: T.Tensor(("M", 64), "float32"),
    D: T.Tensor(("M", 8), "int64"),
):
    """C = the halves of A's words times B; D the first of A's words, two to a number, their halves
    doubled: fragments of 32 bits an element, seen as 16 and as 64."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        B_s = T.alloc_shared((64, 64), "float16")
        words = T.alloc_fragment((64, 32), "int32")
        halves = T.view(words, (64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.copy(A[bx * 64, 0], words)
        T.copy(B, B_s)
        T.gemm(halves, B_s, acc, clear_accum=True)
        T.copy(acc, C[bx * 64, 0])
        for i, j in T.Parallel(64, 64):
            halves[i, j] = halves[i, j] * 2.0
        T.copy(T.view(words, dtype="int64")[:, 0:8], D[bx * 64, 0])


@pytest.mark.parametrize("m", [0, 1, 64, 70])
def test_fragments_as_elements_of_other_widths(m: int) -> None:
    a, b = whole((m, 64)), whole((64, 64), seed=1)
    expected = a.astype(np.float32) @ b.astype(np.float32)
    doubled = np.ascontiguousarray((a * 2)[:, :32]).view(np.int64)
    unset = np.full((m, 64), np.nan, np.float32), np.zeros((m, 8), np.int64)
    for leg, (*_, c, d) in every_leg(words_of_halves, a.view(np.int32), b, *unset):
        assert np.array_equal(c, expected), leg
        assert np.array_equal(d, doubled), leg


@tilec.kernel
def joined(A: T.Tensor((32,), "uint16"), C: T.Tensor((16,), "int32"), D: T.Tensor((8,), "int64")):
    with T.Kernel(1, threads=32):
        few = T.alloc_fragment((32,), "uint16")
        T.copy(A, few)
        T.copy(T.view(few, (16,), "int32"), C)
        for i in T.Parallel(8):
            D[i] = T.view(few, (8,), "int64")[i] + 1


def test_parts_that_several_threads_hold_are_joined() -> None:
    a = np.random.default_rng(3).integers(0, 2**16, 32, dtype=np.uint16)
    for leg, (_, c, d) in every_leg(joined, a, np.zeros(16, np.int32), np.zeros(8, np.int64)):
        assert np.array_equal(c, a.view(np.int32)) and np.array_equal(d, a.view(np.int64) + 1), leg


def test_no_compiler_minds_other_widths() -> None:
    compile_texts(words_of_halves)
    compile_texts(halves_of_bytes)


@tilec.kernel
def bytes_written(C: T.Tensor((16,), "int32"), n: T.int32):
    """The even halves of words, then n bytes, are written."""
    with T.Kernel(1, threads=32):
        x = T.alloc_fragment((16,), "int32")
        for i in T.Parallel(16):
            T.view(x, (16, 2), "int16")[i, 0] = i
        for i in T.Parallel(64):
            if i < n:
                T.view(x, (64,), "uint8")[i] = 0
        T.copy(x, C)


def test_each_byte_of_a_fragment_is_known_to_be_written_or_not() -> None:
    c = np.full(16, -1, np.int32)
    bytes_written(c, 64)
    assert not c.any()
    with pytest.raises(tilec.errors.ExecutionError, match="uninitialised"):
        bytes_written(c, 62)


@tilec.kernel
def bytes_in_a_pipeline(
    A: T.Tensor(("M", "bytes"), "uint8"),
    B: T.Tensor((64, "K"), "float16"),
    C: T.Tensor(("M", 64), "float32"),
):
    """C = A B^T: A is bytes to the copies that bring it, and halves to the product."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 128), "uint8")
        B_s = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(B.shape[1], 64), num_stages=3):
            T.copy(A[bx * 64, k * 128], A_s)
            T.copy(B[0, k * 64], B_s)
            T.gemm(T.view(A_s, (64, 64), "float16"), B_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@pytest.mark.parametrize(("m", "k"), [(70, 200), (1, 8)])
def test_what_a_producer_brings_is_seen_in_another_width(m: int, k: int) -> None:
    a, b = whole((m, k)), whole((64, k), seed=1)
    expected = a.astype(np.float32) @ b.astype(np.float32).T
    unset = np.full((m, 64), np.nan, np.float32)
    for leg, (*_, c) in every_leg(bytes_in_a_pipeline, a.view(np.uint8), b, unset):
        assert np.array_equal(c, expected), leg


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("kernel", "told"),
    [(arena, ["A of a gemm is a view of S", "B of a gemm is a view of S"]),
     (bytes_in_a_pipeline, ["A of a gemm is a view of A_s"]), (flat, [])],
)  # fmt: skip
def test_operands_that_are_views_of_another_width_are_told(
    kernel: Any, told: list[str], target: str
) -> None:
    remarks = [r for r in kernel.lower(target=target).remarks if r.code == "TLC0333"]
    assert len(remarks) == len(told)
    for remark, text in zip(remarks, told, strict=True):
        assert f"operand {text}, which holds u8" in remark.message and remark.loc.known


@tilec.kernel
def own_words(
    A: T.Tensor((64, 16), "uint8"), C: T.Tensor((64, 4), "uint32"), D: T.Tensor((64, 16), "uint8")
):
    """Words and bytes of a thread's own memory, each seen as the other."""
    with T.Kernel(1, threads=64):
        t = T.get_thread_binding()
        x, y = T.alloc_local((16,), "uint8"), T.alloc_local((4,), "uint32")
        words, parts = T.view(x, dtype="uint32"), T.view(y, dtype="uint8")
        T.copy(A[t, 0:16], x)
        for i in T.serial(4):
            words[i] = words[i] + 1
            y[i] = words[i]
        T.copy(y, C[t, 0:4])
        for i in T.serial(16):
            D[t, i] = parts[i] ^ x[15 - i]


def test_a_threads_own_memory_has_views_of_other_widths() -> None:
    a = np.random.default_rng(0).integers(0, 256, (64, 16)).astype(np.uint8)
    words = a.view(np.uint32) + np.uint32(1)
    unset = np.zeros((64, 4), np.uint32), np.zeros((64, 16), np.uint8)
    for leg, (_, c, d) in every_leg(own_words, a, *unset):
        assert np.array_equal(c, words), leg
        assert np.array_equal(d, words.view(np.uint8) ^ words.view(np.uint8)[:, ::-1]), leg


@tilec.kernel
def filled_in_bytes(
    A: T.Tensor(("M", 128), "uint8"),
    C: T.Tensor(("M", 64), "float16"),
    D: T.Tensor((8, 64), "int16"),
):
    """Bytes are copied to shared memory of halves, and to a tensor of them, seen as bytes."""
    with T.Kernel(T.ceildiv(A.shape[0], 8), threads=64) as bx:
        S = T.alloc_shared((8, 64), "float16")
        T.copy(A[bx * 8, 0], T.view(S, (8, 128), "uint8"))
        T.copy(S, C[bx * 8, 0])
        if bx == 0:
            T.copy(T.view(S, (4, 256), "int8"), T.view(D, (4, 256), "int8"))


@pytest.mark.parametrize("m", [8, 1, 17])
def test_all_parts_of_a_buffer_are_copied_to(m: int) -> None:
    a = whole((m, 64)).view(np.uint8)
    first = np.zeros((8, 64), np.int16)
    first[: min(m, 8)] = a.view(np.int16)[:8]
    unset = np.full((m, 64), np.nan, np.float16), np.full((8, 64), -1, np.int16)
    for leg, (_, c, d) in every_leg(filled_in_bytes, a, *unset):
        assert np.array_equal(c, a.view(np.float16)), leg
        assert np.array_equal(d, first), leg
