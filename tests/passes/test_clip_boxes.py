"""clip_boxes: which loads say that their boxes may end with the tensor, and what becomes of that: the bytes
that are expected, where the rest of a slot is zeroed, the box that the host encodes."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.kernels.clipped_programs import sums
from tests.modules import example
from tests.passes import planned_kernels as kernels
from tests.passes.planning import REGISTRY, keeps_meaning, plan, specialised
from tests.passes.test_choose_instructions import shifted
from tests.passes.test_multicast_loads import gemm as clustered
from tilec.ir.core import Constant, Op, Program, Value, walk
from tilec.ir.ops.arith import Elementwise
from tilec.ir.ops.control import If, Launch, Symbol
from tilec.ir.ops.memory import Alloc, Flatten
from tilec.ir.ops.nvidia import FenceProxyAsync, MbarrierExpect, TensorMap
from tilec.ir.ops.thread import Barrier
from tilec.ir.ops.tile import Copy, Fill
from tilec.passes.context import PassContext
from tilec.passes.dependence import is_global
from tilec.passes.pipeline import run_pipeline
from tilec.target import find_target

SM_90A = "cuda:sm_90a"
HALF = "float16"


@tilec.kernel
def by_rows(A: T.Tensor(("M", "K"), HALF), B: T.Tensor(("K", "N"), HALF), C: T.Tensor(("M", "N"), HALF),
            first: T.int32, own: bool = False, rows: Any = "M"):  # fmt: skip
    """B is stored by rows, in tiles of two boxes; tiles of A start where the caller says."""
    M, N = C.shape
    with T.Kernel(T.ceildiv(N, 128), T.ceildiv(M, 64), threads=128) as (bx, by):
        A_s = T.alloc_shared((64, 32), HALF)
        B_s = T.alloc_shared((32, 128), HALF)
        acc = T.alloc_fragment((64, 128), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=3):
            T.copy(A[(first if own else by) * 64, k * 32], A_s)
            T.copy(B[k * 32, bx * 128], B_s)
            T.gemm(A_s, B_s, acc)
        T.copy(acc, C[by * 64, bx * 128])


@tilec.kernel
def promised(A: T.Tensor((T.dynamic("M", multiple_of=64), "K"), HALF), B: T.Tensor((48, "K"), HALF),
             C: T.Tensor(("M", 48), HALF)):  # fmt: skip
    """Whole tiles of A, and a B of known extent that is lower than its tile."""
    with T.Kernel(T.ceildiv(C.shape[0], 64), threads=128) as by:
        A_s, B_s = (T.alloc_shared((64, 32), HALF) for _ in range(2))
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=3):
            T.copy(A[by * 64, k * 32], A_s)
            T.copy(B[0, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, 0])


def said(kernel: Any, **constants: Any) -> dict[str, tuple[int, ...]]:
    """What each load by TMA says, by its tensor."""
    loads = plan(specialised(kernel, **constants), "clip_boxes", SM_90A).all(Copy)
    return {
        op.source.hint: op.clipped
        for op in loads
        if op.instruction == "tma" and is_global(op.source)
    }


def lowered(kernel: Any, after: str = "lower_pipelines", **constants: Any) -> Program:
    context = PassContext(find_target(SM_90A), REGISTRY)
    return run_pipeline(specialised(kernel, **constants), context, after=after)


def all_of(program: Program, kind: type[Any]) -> list[Any]:
    return [op for op in walk(program.body) if isinstance(op, kind)]


def number(value: Value, program: Program, **symbols: int) -> int:
    """A scalar that symbols and constants make."""
    if isinstance(value, Constant):
        return int(value.value)
    op = next(op for op in walk(program.body) if value in op.results)
    if isinstance(op, Symbol):
        return symbols[op.label]
    assert isinstance(op, Elementwise)
    return int(op.evaluate(*(number(v, program, **symbols) for v in op.inputs)))


def test_before_and_after() -> None:
    before = plan(specialised(kernels.gemm_nt), "multicast_loads", SM_90A)
    after = plan(specialised(kernels.gemm_nt), "clip_boxes", SM_90A)
    load = 'source_dims = [0, 1], destination_dims = [0, 1], instruction = "tma"'
    assert before.text.count(f"{load}>") == 2
    assert after.text == before.text.replace(f"{load}>", f"{load}, clipped = [0]>")
    keeps_meaning(before.program, after.program)


@pytest.mark.parametrize(
    ("kernel", "constants", "expected"),
    [
        (by_rows, {}, {"A": (0,), "B": (0,)}),
        (by_rows, {"own": True}, {"A": (), "B": (0,)}),  # an argument may be negative
        (shifted, {"row": 2}, {"A": (0,), "B": (0,)}),
        (shifted, {"row": -3}, {"A": (), "B": (0,)}),
        (promised, {}, {"A": (), "B": (0,)}),
        (sums, {}, {"A": (), "B": (), "X": (0, 1)}),  # A and B fill their tiles
        (sums, {"extents": (4, "M")}, {"A": (), "B": (), "X": (1,)}),
        (sums, {"extents": (4, 32)}, {"A": (), "B": (), "X": ()}),
        (clustered, {}, {"A": (), "B": ()}),  # blocks bring each other parts
        (clustered, {"cluster": (1, 1)}, {"A": (0,), "B": (0,)}),
        (
            example("gemm_warp_specialized").matmul,
            {},
            {"A": (), "B": ()},
        ),  # which says itself how many bytes come
    ],
)
def test_which_boxes_may_end_with_the_tensor(
    kernel: Any, constants: dict[str, Any], expected: dict[str, tuple[int, ...]]
) -> None:
    assert said(kernel, **constants) == expected


def test_only_the_outermost_dimension_of_a_box_is_kept() -> None:
    """Boxes of X are 4 x 32 x 64: of fewer rows, the second plane would lie elsewhere."""
    loads = {op.source.hint: op for op in all_of(lowered(sums), Copy) if op.barrier}
    assert loads["X"].clipped == (0,)
    one_plane = {
        op.source.hint: op for op in all_of(lowered(sums, extents=(4, "M")), Copy) if op.barrier
    }
    assert one_plane["X"].clipped == ()


@pytest.mark.parametrize(
    ("M", "N", "size"),
    [(1, 1, 128), (7, 64, 71 * 64), (63, 9, 72 * 64), (64, 64, 8192), (65, 999, 8192), (0, 3, 256)],
)
def test_the_bytes_that_are_expected(M: int, N: int, size: int) -> None:
    """64 bytes a row of A and of B, of a tensor without rows those of one."""
    program = lowered(kernels.gemm_nt)
    (expect,) = all_of(program, MbarrierExpect)
    assert number(expect.size, program, M=M, N=N) == size


def test_slots_are_zeroed_once_where_the_tensor_is_lower() -> None:
    """Before the barrier that all threads meet at, each under the condition of its own tensor."""
    program = lowered(kernels.gemm_nt)
    (launch,) = all_of(program, Launch)
    top = launch.body.ops
    meeting = next(i for i, op in enumerate(top) if isinstance(op, Barrier))
    zeroing = [
        op
        for op in top[:meeting]
        if isinstance(op, If) and isinstance(op.then.ops[-2], FenceProxyAsync)
    ]
    for M, N, taken in ((63, 64, [True, False]), (64, 63, [False, True]), (64, 64, [False, False])):
        assert [bool(number(op.condition, program, M=M, N=N)) for op in zeroing] == taken
    whole: list[Alloc] = [
        op for op in top if isinstance(op, Alloc) and op.type.shape == (3, 64, 32)
    ]
    fills = [op for part in zeroing for op in part.walk() if isinstance(op, Fill)]
    handles = {op.result: op.memory for op in all_of(program, Flatten)}
    assert [handles[op.memory] for op in fills] == [op.result for op in whole]
    assert len(all_of(program, Fill)) == len(fills) == 2


def test_what_is_known_needs_no_condition() -> None:
    program = lowered(promised)
    (launch,) = all_of(program, Launch)
    (fill,) = all_of(program, Fill)
    assert fill in launch.body.ops
    (expect,) = all_of(program, MbarrierExpect)
    assert number(expect.size, program) == (64 + 48) * 32 * 2


def test_the_box_is_cut_by_the_host() -> None:
    """A tile of two boxes: both begin where those of a whole tile do."""
    maps: dict[str, Op] = {
        op.memory.hint: op for op in all_of(lowered(by_rows, after="lower_tiles"), TensorMap)
    }
    assert (maps["A"].box, maps["A"].clipped) == ((64, 32), (0,))  # type: ignore[attr-defined]
    assert (maps["B"].box, maps["B"].clipped) == ((32, 64), (0,))  # type: ignore[attr-defined]
    assert maps["C"].clipped == ()  # type: ignore[attr-defined]
