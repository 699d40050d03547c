"""promote_fragments: handles of fragments become tile values, through loops and branches."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.interpreter.programs import Sketch, tensor
from tests.parser.programs import load
from tests.passes.planning import found, keeps_meaning, line_of, refused, run_pass
from tilec.errors import LanguageError
from tilec.ir.core import Program
from tilec.ir.dtypes import f16, f32
from tilec.ir.ops.arith import Cast
from tilec.ir.ops.control import For, If, Parallel
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.pipeline import InFlight, Wait, WaitGemms
from tilec.ir.ops.tile import (
    Copy,
    ExtractTile,
    Fill,
    InsertTile,
    LoadTile,
    Splat,
    StoreTile,
    Undefined,
)
from tilec.ir.types import InflightType, MemoryType, Space, TileType
from tilec.passes.promote_fragments import promote_fragments


@tilec.kernel
def plain_gemm(A: T.Tensor(("M", 32), "float16"), C: T.Tensor(("M", 16), "float16")):
    with T.Kernel(T.ceildiv(A.shape[0], 16), threads=32) as bx:
        A_s = T.alloc_shared((16, 16), "float16")
        acc = T.alloc_fragment((16, 16), "float32")
        T.clear(acc)
        for k in T.Pipelined(2, num_stages=2):
            T.copy(A[bx * 16, k * 16], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 16, 0])


@tilec.kernel
def branches(A: T.Tensor((16, 16), "float32"), n: T.int32):
    """Written in one arm, in both arms, and read after; nested in a loop."""
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((16, 16), "float32")
        G = T.alloc_fragment((16, 16), "float32")
        T.copy(A, F)
        T.fill(G, 2)
        for k in T.serial(3):
            if k < n:
                T.copy(F, G)
            else:
                if k == 2:
                    T.fill(F, 5)
                for i, j in T.Parallel(16, 16):
                    G[i, j] = G[i, j] + F[i, j]
        T.copy(G, A)


@tilec.kernel
def parts(A: T.Tensor((32, 16), "float32"), B: T.Tensor((32, 16), "float16")):
    """Regions of fragments: read, written, and from fragment to fragment with a conversion."""
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((32, 16), "float32")
        G = T.alloc_fragment((16, 16), "float16")
        T.copy(A, F)
        T.copy(F[16:32, 0:16], G)
        T.copy(G, F[0:16, 0:16])
        T.copy(F[8:24, 0:16], A[0:16, 0:16])
        T.copy(F, B)


@tilec.kernel
def row_and_tile(A: T.Tensor((16, 8), "float32"), B: T.Tensor((8,), "float32")):
    """A nest that reads one fragment along one dimension and updates another."""
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((16, 8), "float32")
        bias = T.alloc_fragment((8,), "float32")
        T.copy(A, F)
        T.copy(B, bias)
        for i, j in T.Parallel(16, 8):
            F[i, j] = F[i, j] * 2 + bias[j]
        T.copy(F, A)


@tilec.kernel
def cleared_in_place(A: T.Tensor((16, 16), "float16"), C: T.Tensor((16, 16), "float32")):
    """A gemm that starts from zero, into a fragment that nothing has written."""
    with T.Kernel(1, threads=32):
        A_s = T.alloc_shared((16, 16), "float16")
        acc = T.alloc_fragment((16, 16), "float32")
        T.copy(A, A_s)
        for _ in T.serial(2):
            T.gemm(A_s, A_s, acc, clear_accum=True)
        T.copy(acc, C)


@tilec.kernel
def empty_loop(A: T.Tensor((4, 4), "float32"), n: T.int32):
    """A loop of a number of iterations that only the call gives: none leaves the tile as it was."""
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((4, 4), "float32")
        T.copy(A, F)
        for _ in T.serial(n):
            for i, j in T.Parallel(4, 4):
                F[i, j] = F[i, j] + 1
        T.copy(F, A)


@tilec.kernel
def in_flight(A: T.Tensor((16, 16), "float16"), C: T.Tensor((2, 16, 16), "float32"), n: T.int32):
    """Products that are only issued: left in flight over a loop of any number of iterations and by one arm
    of a branch; two fragments, of which one is waited for."""
    with T.Kernel(1, threads=32):
        A_s = T.alloc_shared((16, 16), "float16")
        F = T.alloc_fragment((16, 16), "float32")
        G = T.alloc_fragment((16, 16), "float32")
        T.copy(A, A_s)
        T.fill(F, 1)
        T.fill(G, 2)
        for k in T.serial(n):
            T.wgmma_gemm(A_s, A_s, F)
            T.wait_wgmma(1)
            if k % 2 == 0:
                T.wgmma_gemm(A_s, A_s, G, transpose_B=True)
            T.wgmma_gemm(A_s, A_s, F, clear_accum=k == 1)
            T.wait_wgmma(1)
            for i, j in T.Parallel(16, 16):
                G[i, j] = G[i, j] * 0.5
        T.wait_wgmma(0)
        T.copy(F, C[0, 0:16, 0:16])
        T.copy(G, C[1, 0:16, 0:16])


KERNELS = [plain_gemm, branches, parts, row_and_tile, cleared_in_place, empty_loop, in_flight]


def promoted(kernel: Any) -> tuple[Program, Any]:
    before = kernel.lower_to_ir()
    return before, run_pass(promote_fragments, before)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_no_handle_of_a_fragment_is_left_and_the_meaning_stays(kernel: Any) -> None:
    before, after = promoted(kernel)
    assert any(_of_fragment(op.type) for op in allocs(before)), "nothing to promote"
    assert not any(_of_fragment(op.type) for op in after.all(Alloc))
    for op in after.all(Copy) + after.all(Fill) + after.all(Gemm):
        assert not any(_of_fragment(v.type) for v in op.inputs)
    keeps_meaning(before, after.program, range(5))


def allocs(program: Program) -> list[Alloc]:
    return list(found(program, Alloc))


def _of_fragment(type_: object) -> bool:
    return isinstance(type_, MemoryType) and type_.space is Space.FRAGMENT


@pytest.mark.parametrize("kernel", [plain_gemm, branches, parts], ids=lambda k: k.name)
def test_golden(kernel: Any, golden: Any) -> None:
    assert promoted(kernel)[1].text == golden("tir")


def test_a_loop_carries_what_it_writes_and_nothing_else() -> None:
    after = promoted(plain_gemm)[1]
    loop = after.one(For)
    gemm = after.one(Gemm)
    assert [v.type for v in loop.inits] == [gemm.result.type]
    assert loop.inits[0] is after.one(Splat).result
    assert gemm.accumulator is loop.body.params[1]
    end = loop.body.terminator
    assert end is not None and end.inputs == (gemm.result,)
    cast = after.one(Cast)
    assert cast.x is loop.result and after.one(StoreTile).tile is cast.result


def test_a_branch_yields_what_either_arm_writes() -> None:
    after = promoted(branches)[1]
    outer = next(op for op in after.all(If) if len(op.results) > 1)
    assert [r.hint for r in outer.results] == ["G", "F"]  # in order of their first write
    for arm in outer.regions:
        end = arm.terminator
        assert end is not None
        assert [v.type for v in end.inputs] == [r.type for r in outer.results]


def test_regions_are_extracted_and_inserted() -> None:
    after = promoted(parts)[1]
    assert [(op.offsets, op.shape) for op in after.all(ExtractTile)] == [
        ((16, 0), (16, 16)),
        ((8, 0), (16, 16)),
    ]
    (insert,) = after.all(InsertTile)
    assert insert.offsets == (0, 0)
    assert isinstance(insert.tile.type, TileType) and insert.tile.type.dtype.name == "f32"


def test_a_nest_reads_and_updates_tiles() -> None:
    after = promoted(row_and_tile)[1]
    nest = after.one(Parallel)
    loads = after.all(LoadTile)
    assert nest.updates == (loads[0].result,) and nest.reads == (loads[1].result,)
    assert after.one(StoreTile).tile is nest.result


def test_a_gemm_that_clears_starts_from_a_splat_of_zero() -> None:
    after = promoted(cleared_in_place)[1]
    gemm = after.one(Gemm)
    assert not gemm.clear and gemm.accumulator is after.one(Splat).result
    # the loop carries the tile though nothing was written before: its first value is undefined
    assert after.one(For).inits == (after.one(Undefined).result,)


# Refusals
# -------------------------------------------------------------------------------------------------


@tilec.kernel
def runtime_corner(A: T.Tensor((16, 16), "float32"), n: T.int32):
    with T.Kernel(1, threads=32):
        F = T.alloc_fragment((32, 16), "float32")
        T.clear(F)
        T.copy(A, F[n : n + 16, 0:16])  # HERE


def test_a_refusal_names_the_line() -> None:
    error = refused("TLC0313", lambda: promoted(runtime_corner))
    assert isinstance(error, LanguageError)
    assert line_of(error.loc).endswith("# HERE"), error
    assert error.hint


# The frontend refuses these with the user's names; the pass guards IR text.


def test_text_with_an_element_of_a_fragment_is_refused() -> None:
    s = Sketch()
    out = tensor("A", f32, 4)
    with s.launch(1):
        s.store(s.load(s.fragment("F", f32, 4), 1), out, 0)
    error = refused("TLC0311", lambda: run_pass(promote_fragments, s.program(out)))
    assert "'F'" in error.message and error.loc.line == 2


def test_text_with_a_gemm_into_shared_memory_is_refused() -> None:
    s = Sketch()
    with s.launch(1):
        a = s.shared("a", f16, 16, 16)
        s.emit(Gemm(a, a, s.shared("c", f32, 16, 16)))
    assert refused("TLC0312", lambda: run_pass(promote_fragments, s.program())).loc.line == 3


def test_text_with_a_fill_inside_a_nest_is_refused() -> None:
    s = Sketch()
    with s.launch(1):
        f = s.fragment("F", f32, 4)
        with s.parallel(4):
            s.fill(f, 1.0)
    assert refused("TLC0315", lambda: run_pass(promote_fragments, s.program())).loc.line == 2


def test_waits_of_what_is_in_flight() -> None:
    """Each fragment that may still be written is waited for; it is a tile again where all its products
    are older than those that may be pending."""
    _, after = promoted(in_flight)
    waits = [(op.inflight.hint, op.pending, op.later) for op in after.all(Wait)]
    assert waits == [("F", 1, 0), ("F", 1, 0), ("G", 1, 1), ("F", 0, 0)]
    assert not after.all(WaitGemms)
    (loop,) = after.all(For)
    assert [isinstance(p.type, InflightType) for p in loop.body.params] == [False, True, False]
    assert (
        len(after.all(InFlight)) == 2
    )  # where the loop begins, and in the arm that issues nothing


TOO_EARLY = {
    "read": "T.wgmma_gemm(S, S, F)\nT.copy(F, C)\nT.wait_wgmma(0)",
    "read behind a loop": "for k in T.serial(n):\n    T.wgmma_gemm(S, S, F)\nT.copy(F, C)\nT.wait_wgmma(0)",
    "read in the next trip": "for k in T.serial(n):\n    for i, j in T.Parallel(16, 16):\n"
    "        F[i, j] = 1.0\n    T.wgmma_gemm(S, S, F)\nT.wait_wgmma(0)",
    "read behind a branch": "if n > 1:\n    T.wgmma_gemm(S, S, F)\nT.copy(F, C)\nT.wait_wgmma(0)",
    "waited for too weakly": "T.wgmma_gemm(S, S, F)\nT.wgmma_gemm(S, S, G)\nT.wait_wgmma(2)\n"
    "T.copy(F, C)\nT.wait_wgmma(0)",
    "filled while its registers are read": "T.wgmma_gemm(P, S, F)\nT.fill(P, 1)\nT.wait_wgmma(0)",
    "used while its registers are read": "T.wgmma_gemm(P, S, F)\nT.copy(P, A)\nT.wait_wgmma(0)",
    "registers read over a loop": "for k in T.serial(n):\n    T.wait_wgmma(0)\n    T.wgmma_gemm(P, S, F)\n"
    "T.wait_wgmma(0)",
    "registers read into a loop": "T.wgmma_gemm(P, S, F)\nfor k in T.serial(n):\n    T.wait_wgmma(0)\n"
    "T.wait_wgmma(0)",
    "registers read out of a branch": "if n > 2:\n    T.wgmma_gemm(P, S, F)\nT.wait_wgmma(0)",
    "multiplied at once": "T.wgmma_gemm(S, S, F)\nT.gemm(S, S, F)\nT.wait_wgmma(0)",
    "never waited for": "T.wgmma_gemm(S, S, F)\nT.wait_wgmma(1)",
}


@pytest.mark.parametrize("name", TOO_EARLY)
def test_a_fragment_in_flight_is_no_tile(name: str, tmp_path: Path) -> None:
    body = "".join(f"        {line}\n" for line in TOO_EARLY[name].splitlines())
    text = f"""import tilec
import tilec.language as T

@tilec.kernel
def k(A: T.Tensor((16, 16), "float16"), C: T.Tensor((16, 16), "float32"), n: T.int32):
    with T.Kernel(1, threads=32):
        S = T.alloc_shared((16, 16), "float16")
        F = T.alloc_fragment((16, 16), "float32")
        G = T.alloc_fragment((16, 16), "float32")
        P = T.alloc_fragment((16, 16), "float16")
        T.copy(A, S)
        T.copy(A, P)
        T.clear(F)
        T.clear(G)
{body}"""
    error = refused("TLC0317", lambda: promoted(load(tmp_path, text).k))
    assert re.search(r"\b[FP] ", error.message) and "T.wait_wgmma" in error.hint
    assert error.loc.line > 14
