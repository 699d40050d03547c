"""choose_instructions: how copies and products are done on each machine, and why not otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tests.passes import planned_kernels as kernels
from tests.passes.planning import NAMES, Planned, keeps_meaning, line_of, plan, specialised
from tilec.ir.core import walk
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.memory import Atomic
from tilec.ir.ops.nvidia import BulkWait
from tilec.ir.ops.thread import Barrier
from tilec.ir.ops.tile import Copy, StoreTile
from tilec.layout import Layout, Swizzle
from tilec.passes.pipeline import PIPELINE


def chosen(kernel: Any, target: str, *, assume: bool = True, **constants: Any) -> Planned:
    return plan(specialised(kernel, **constants), "choose_instructions", target, assume=assume)


def instructions(result: Planned) -> tuple[set[str], set[str], set[str]]:
    """Of copies into shared memory, of gemms, of stores of tiles."""
    copies = {op.instruction for op in result.all(Copy) if op.instruction}
    return (
        copies,
        {op.instruction for op in result.all(Gemm)},
        {op.instruction for op in result.all(StoreTile)},
    )


@pytest.mark.parametrize(
    ("target", "assume", "expected"),
    [
        ("cuda:sm_90a", True, ({"tma"}, {"wgmma"}, {"tma"})),
        ("cuda:sm_90a", False, ({"registers"}, {"mma"}, {""})),
        ("cuda:sm_80", True, ({"cp_async"}, {"mma"}, {""})),
        ("cuda:sm_80", False, ({"registers"}, {"mma"}, {""})),
        ("hip:gfx942", True, ({"registers"}, {"mfma"}, {""})),
        ("hip:gfx950", True, ({"buffer_copy"}, {"mfma"}, {""})),
        ("hip:gfx950", False, ({"registers"}, {"mfma"}, {""})),
    ],
)
def test_the_gemm(target: str, assume: bool, expected: tuple[set[str], ...]) -> None:
    result = chosen(kernels.gemm_nt, target, assume=assume)
    assert instructions(result) == expected


def test_what_was_asked_of_the_arguments_is_recorded() -> None:
    facts = {t: list(chosen(kernels.gemm_nt, t).facts.taken) for t in ("cuda:sm_90a", "cuda:sm_80")}
    assert facts["cuda:sm_80"] == [("aligned", "A", 16), ("aligned", "B", 16)]
    assert facts["cuda:sm_90a"] == [("aligned", n, 16) for n in ("A", "B", "C")]
    assert not chosen(kernels.gemm_nt, "hip:gfx942").facts.taken


# Why a launch has no roles
# -------------------------------------------------------------------------------------------------


@tilec.kernel
def varied(A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
           C: T.Tensor(("M", "N"), "float16"), bm: int = 64, bn: int = 64, bk: int = 32,
           threads: int = 128, operand: str = "float16", total: str = "float32",
           safe: float = 0.0, part: tuple[int, int] = (0, 0)):  # fmt: skip
    with T.Kernel(T.ceildiv(C.shape[1], bn), T.ceildiv(C.shape[0], bm), threads=threads) as (x, y):
        A_s = T.alloc_shared((bm, bk), operand)
        B_s = T.alloc_shared((bn, bk), operand)
        acc = T.alloc_fragment((bm, bn), total)
        T.annotate_safe_value({A: safe})
        T.clear(acc)
        rows, columns = part
        if rows:
            T.clear(A_s)
        for k in T.Pipelined(T.ceildiv(A.shape[1], bk), num_stages=3):
            if rows:
                T.copy(A[y * bm : y * bm + rows, k * bk : k * bk + columns], A_s[0:rows, 0:columns])
            else:
                T.copy(A[y * bm, k * bk], A_s)  # COPY
            T.copy(B[x * bn, k * bk], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)  # GEMM
        T.copy(acc, C[y * bm, x * bn])


@pytest.mark.parametrize(
    ("changes", "reason", "where"),
    [
        ({"threads": 96}, "96 threads are not whole warpgroups", "T.Kernel"),
        ({"bm": 32}, "wgmma cannot split 32 x 64 x 32 over 1 warpgroups", "# GEMM"),
        ({"bm": 64, "bn": 512, "bk": 16}, "needs 256 accumulators a thread", "# GEMM"),
        (
            {"bm": 192, "bn": 256, "bk": 16, "threads": 384},
            "needs 128 accumulators a thread, and 384 threads have 152 registers each",
            "# GEMM",
        ),
        (
            {"bm": 128, "bn": 256, "bk": 16, "threads": 1024},
            "1024 threads leave no room for a producer",
            "T.Kernel",
        ),
        ({"bk": 8}, "wgmma cannot split 64 x 64 x 8 over 1 warpgroups", "# GEMM"),
        (
            {"bm": 704, "bn": 16},
            "a region of A has more than 256 rows, which are not whole boxes",
            "# COPY",
        ),
        ({"safe": 1.0}, "A has a safe value other than 0", "# COPY"),
    ],
)
def test_the_reason_and_its_line_are_remarked(
    changes: dict[str, Any], reason: str, where: str
) -> None:
    result = chosen(varied, "cuda:sm_90a", **changes)
    copies, gemms, stores = instructions(result)
    assert "tma" not in copies | stores
    assert gemms == ({"fma"} if changes.get("threads") == 96 else {"mma"})  # 3 warps split nothing
    remark = result.remark("TLC0320")
    assert reason in remark.message, remark
    assert where in line_of(remark.loc), remark


@pytest.mark.parametrize("part", [(32, 16), (36, 32)])
def test_a_part_of_a_buffer_is_not_for_tma(part: tuple[int, int]) -> None:
    result = chosen(varied, "cuda:sm_90a", part=part)
    assert "fills a part of its buffer" in result.remark("TLC0320").message


def test_whole_rows_of_a_buffer_are_for_tma() -> None:
    """As many as boxes can be cut into: the swizzle repeats after eight."""
    copies, gemms, _ = instructions(chosen(kernels.in_parts, "cuda:sm_90a"))
    assert copies == {"tma"} and gemms == {"wgmma"}


@tilec.kernel
def squared(A: T.Tensor(("M", 64), "float16"), F: T.Tensor((1,), "int32"), into: str = "own"):
    """A @ A.T, put into A itself or into another matrix, and shown to others or not."""
    C = A if into == "own" else T.alloc_global(A.shape, "float16")
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(2, num_stages=2):
            T.copy(A[bx * 64, k * 32], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])
        if into == "shown":
            if T.get_thread_binding() == 0:
                T.atomic_add(F[0], 1, "release")


def test_what_a_launch_writes_is_not_for_tma() -> None:
    assert "the launch writes A" in chosen(squared, "cuda:sm_90a").remark("TLC0320").message
    for into in ("another", "shown"):
        copies, _, stores = instructions(chosen(squared, "cuda:sm_90a", into=into))
        assert (copies, stores) == ({"tma"}, {"tma"})


def test_what_tma_stores_is_waited_for_before_it_is_released() -> None:
    passes = PIPELINE[: NAMES.index("place_barriers") + 1]
    program = plan(specialised(squared, into="shown"), "", "cuda:sm_90a", passes=passes).program
    ops = [op for op in walk(program.body) if isinstance(op, BulkWait | Barrier | Atomic)]
    at = next(i for i, op in enumerate(ops) if isinstance(op, Atomic))
    wait, barrier = ops[at - 2 : at]
    assert isinstance(wait, BulkWait) and (wait.pending, wait.read) == (0, False)
    assert isinstance(barrier, Barrier)


@tilec.kernel
def found_by_threads(A: T.Tensor(("M", 64), "float16"), C: T.Tensor(("M", 64), "float32"),
                     F: T.Tensor((4,), "int32"), how: str = "variable"):  # fmt: skip
    """Which rows are loaded, or how often, is computed by the threads of the program."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        rows = T.alloc_shared((4,), "int32")
        acc = T.alloc_fragment((64, 64), "float32")
        row = T.alloc_var("int32")
        T.clear(acc)
        row = bx * 64
        times = 1
        if how == "shared":
            for i in T.Parallel(4):
                rows[i] = i * 64
            row = rows[bx]
        elif how == "written":
            F[0] = 1
            times = F[0]
        elif how == "atomic":
            row = T.atomic_add(F[0], 64, return_prev=True)
        for _ in T.serial(times):
            for k in T.Pipelined(2, num_stages=2):
                T.copy(A[row, k * 32], A_s)
                T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[row, 0])


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("shared", "what is loaded depends on rows, which the launch writes"),
        ("written", "what is loaded depends on F, which the launch writes"),
        ("atomic", "what is loaded depends on atomic, which only the program's threads do"),
    ],
)
def test_a_producer_finds_out_by_itself_what_to_load(how: str, reason: str) -> None:
    assert instructions(chosen(found_by_threads, "cuda:sm_90a"))[0] == {"tma"}
    result = chosen(found_by_threads, "cuda:sm_90a", how=how)
    assert instructions(result)[0] == {"cp_async"}
    assert result.remark("TLC0320").message.endswith(reason)


def test_arrays_that_may_be_unaligned_are_not_for_tma() -> None:
    remark = chosen(varied, "cuda:sm_90a", assume=False).remark("TLC0320")
    assert "A may be aligned to less than 16 bytes" in remark.message


@tilec.kernel
def shifted(A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
            C: T.Tensor(("M", "N"), "float16"), along: T.int32, across: T.int32,
            read: int = 0, row: int = 0, written: int = 0):  # fmt: skip
    """A GEMM whose operands and result begin elsewhere: by constants, or (-99) by arguments."""
    with T.Kernel(T.ceildiv(C.shape[1], 64), T.ceildiv(C.shape[0], 64), threads=128) as (bx, by):
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=3):
            T.copy(A[by * 64 + row, k * 32 + (along if read == -99 else read)], A_s)
            T.copy(B[bx * 64, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64 + (across if written == -99 else written), bx * 64])


@pytest.mark.parametrize(
    ("read", "row", "written", "expected"),
    [
        (8, -3, 3, ({"tma"}, {"wgmma"}, {"tma"})),
        (-8, 0, 0, ({"tma"}, {"wgmma"}, {"tma"})),
        (1, 0, 0, ({"cp_async"}, {"mma"}, {""})),
        (-99, 0, 0, ({"cp_async"}, {"mma"}, {""})),
        (0, 0, -1, ({"tma"}, {"wgmma"}, {""})),
        (0, 0, -99, ({"tma"}, {"wgmma"}, {""})),
    ],
)
def test_where_boxes_may_begin(
    read: int, row: int, written: int, expected: tuple[set[str], ...]
) -> None:
    """Loads at multiples of 16 bytes along a row, stores at no negative place besides: elsewhere an
    H100 finds an illegal instruction."""
    result = chosen(shifted, "cuda:sm_90a", read=read, row=row, written=written)
    assert instructions(result) == expected


@tilec.kernel
def direct(A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
           rows: T.Tensor(("K",), "int32"), C: T.Tensor(("M", "N"), "float32"),
           bk: int = 32, shift: int = 0, pad: int = 0, part: int = 0, table: int = 0,
           threads: int = 128):  # fmt: skip
    with T.Kernel(T.ceildiv(C.shape[1], 64), T.ceildiv(C.shape[0], 64), threads=threads) as (
        bx,
        by,
    ):
        A_s = T.alloc_shared((64, bk), "float16")
        B_s = T.alloc_shared((64 + part, bk), "float16")
        if pad:
            T.annotate_layout({A_s: tilec.layout.make_padded_layout(A_s, pad)})
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], bk), num_stages=3):
            if table:
                T.copy(A[by * 64, rows[k] * bk], A_s)
            else:
                T.copy(A[by * 64, k * bk + shift], A_s)
            T.copy(B[bx * 64, k * bk], B_s[0:64, :])
            T.gemm(A_s, B_s[0:64, :], acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


@pytest.mark.parametrize(
    ("constants", "a", "b"),
    [
        ({}, "buffer_copy", "buffer_copy"),
        ({"shift": 8}, "buffer_copy", "buffer_copy"),
        ({"shift": 1}, "registers", "buffer_copy"),  # not from a multiple of 16 bytes on
        ({"pad": 8}, "registers", "buffer_copy"),  # a layout with gaps
        ({"part": 64}, "buffer_copy", "registers"),  # a part of a buffer
        ({"table": 1}, "buffer_copy", "buffer_copy"),  # a row that is looked up
        ({"bk": 16}, "buffer_copy", "buffer_copy"),
        ({"bk": 16, "threads": 256}, "registers", "registers"),  # half of the waves would be idle
        ({"threads": 32}, "registers", "registers"),  # half a wave
        ({"bk": 96, "threads": 96}, "registers", "registers"),  # a wave and a half
    ],
    ids=str,
)
def test_what_waves_copy_to_shared_memory(constants: dict[str, int], a: str, b: str) -> None:
    result = chosen(direct, "hip:gfx950", **constants)
    found = {op.source.hint: op.instruction for op in result.all(Copy) if op.instruction}
    assert found == {"A": a, "B": b}


@tilec.kernel
def column(A: T.Tensor(("M", "K"), "float16"), C: T.Tensor((64, 64), "float32")):
    """Rows of A_s along the rows of a three-dimensional view: the last dimension does not move."""
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(2, num_stages=3):
            for i, j in T.Parallel(64, 32):
                A_s[i, j] = A[i + k, j * 2]
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C)


def test_a_loop_without_copies_has_no_instructions_to_choose() -> None:
    result = chosen(column, "cuda:sm_90a")
    assert instructions(result) == (set(), {"mma"}, {""})
    assert result.codes == ["TLC0310"]


@pytest.mark.parametrize(
    ("target", "operand", "total", "changes", "family", "reason"),
    [
        ("cuda:sm_80", "float64", "float64", {}, "mma", ""),
        ("cuda:sm_75", "float16", "float32", {}, "mma", ""),
        ("cuda:sm_75", "int8", "int32", {}, "mma", ""),
        ("cuda:sm_80", "uint8", "int32", {}, "mma", ""),
        ("cuda:sm_75", "bfloat16", "float32", {}, "fma",
         "cuda:sm_75 has no matrix instruction for bf16 into f32"),
        ("cuda:sm_90a", "float32", "float32", {}, "fma", "no matrix instruction for f32 into f32"),
        ("cuda:sm_75", "float64", "float64", {}, "fma", "no matrix instruction for f64 into f64"),
        ("hip:gfx942", "float16", "float16", {}, "fma", "no matrix instruction for f16 into f16"),
        ("cuda:sm_80", "float16", "float32", {"bm": 24, "bn": 40, "bk": 12}, "fma",
         "no mma of f16 splits 24 x 40 x 12 over 128 threads"),
    ],
)  # fmt: skip
def test_what_multiplies(
    target: str, operand: str, total: str, changes: dict[str, int], family: str, reason: str
) -> None:
    result = chosen(varied, target, operand=operand, total=total, **changes)
    assert instructions(result)[1] == {family}
    if not reason:
        assert "TLC0322" not in result.codes
        return
    remark = result.remark("TLC0322")
    assert reason in remark.message and line_of(remark.loc).endswith("# GEMM")


@pytest.mark.parametrize(
    ("target", "operand", "k", "reason"),
    [
        ("cuda:sm_89", "float8_e4m3fn", 32, ""),
        ("cuda:sm_89", "float8_e4m3fn", 16, "no mma for e4m3 into f32 divides K = 16"),
        ("cuda:sm_89", "float6_e2m3fn", 32, "has no matrix instruction for e2m3 into f32"),
        ("hip:gfx950", "float6_e3m2fn", 64, ""),
        ("hip:gfx950", "float6_e3m2fn", 32, "no mfma for e3m2 into f32 divides K = 32"),
        ("hip:gfx942", "float6_e3m2fn", 64, "has no matrix instruction for e3m2 into f32"),
    ],
)
def test_what_no_instruction_divides_is_converted(
    target: str, operand: str, k: int, reason: str
) -> None:
    """To the next dtype, where one of that does."""
    result = chosen(varied, target, operand=operand, bk=k)
    assert instructions(result)[1] == {"mfma" if target.startswith("hip") else "mma"}
    if not reason:
        assert not {"TLC0322", "TLC0326"} & set(result.codes)
        return
    remark = result.remark("TLC0326")
    assert f"{reason}: operands are converted to f16" in remark.message


def test_a_converting_copy_passes_through_registers() -> None:
    result = chosen(varied, "cuda:sm_80", operand="bfloat16")
    assert instructions(result)[0] == {"registers"}
    assert instructions(result)[1] == {"mma"}


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a", "hip:gfx942"])
@pytest.mark.parametrize("kernel", [kernels.guarded, kernels.used_after], ids=lambda k: k.name)
def test_the_meaning_stays(kernel: Any, target: str) -> None:
    keeps_meaning(kernel.lower_to_ir(), chosen(kernel, target).program, (0,))


PLAIN = Swizzle(0, 0, 0)
LAYOUTS = {
    "swizzled": ((64, 1), Swizzle(3, 3, 3), 8),
    "row-major": ((64, 1), PLAIN, 8),
    "padded by 16 bytes": ((72, 1), PLAIN, 8),
    "padded by an element": ((65, 1), PLAIN, 1),
    "k runs across": ((1, 64), PLAIN, 1),
    "swizzled within 16 bytes": ((64, 1), Swizzle(3, 0, 6), 1),
    "swizzled by 8 bytes": ((64, 1), Swizzle(3, 2, 4), 4),
}


def annotated(strides: tuple[int, int], swizzle: Swizzle) -> Any:
    layout = Layout((64, 64), ((64,), (64,)), tuple((s,) for s in strides), swizzle)

    @tilec.kernel
    def product(A: T.Tensor((64, 64), "float16"), B: T.Tensor((64, 64), "float16"),
                C: T.Tensor((64, 64), "float32")):  # fmt: skip
        with T.Kernel(1, threads=128):
            A_s = T.alloc_shared((64, 64), "float16")
            B_s = T.alloc_shared((64, 64), "float16")
            acc = T.alloc_fragment((64, 64), "float32")
            T.annotate_layout({A_s: layout})
            T.copy(A, A_s)
            T.copy(B, B_s)
            T.clear(acc)
            T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C)

    return product


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
@pytest.mark.parametrize("case", LAYOUTS)
def test_a_layout_that_the_instruction_cannot_read_is_remarked(case: str, target: str) -> None:
    strides, swizzle, together = LAYOUTS[case]
    remarks = annotated(strides, swizzle).lower(target=target).remarks
    found = [r for r in remarks if r.code == "TLC0327"]
    reader, wanted = ("a lane of mfma", 4) if target.startswith("hip") else ("ldmatrix", 8)
    if together >= wanted:
        assert not found
        return
    (remark,) = found
    assert remark.message == (
        f"{reader} cannot read operand A of a gemm: it takes {wanted} elements of a row, and the "
        f"layout of A_s keeps {together} together; threads load the elements one by one"
    )
    assert remark.loc.known


@pytest.mark.emulator
@pytest.mark.parametrize("case", ["k runs across", "swizzled within 16 bytes"])
def test_whatever_the_layout_the_product_is_right(case: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-3, 4, (64, 64)).astype(np.float16) for _ in "ab")
    expected = a.astype(np.float32) @ b.astype(np.float32).T
    kernel = annotated(*LAYOUTS[case][:2])
    for device, (_, _, c) in every_leg(kernel, a, b, np.zeros((64, 64), np.float32)):
        assert np.array_equal(c, expected), device
