"""Outputs that a call makes (T.empty, return), workspaces (T.alloc_global), several launches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.errors import LanguageError
from tilec.ir.ops import builtin_registry
from tilec.ir.print import print_program
from tilec.ir.verify import verify
from tilec.parser.text import parse_program
from tilec.passes.context import Facts
from tilec.runtime.lowering import required

DEVICES = (
    "interpreter",
    "emulator:cuda:sm_80",
    "emulator:cuda:sm_90a",
    "emulator:hip:gfx942",
)
SIZES = ((1, 1), (63, 31), (64, 32), (65, 33), (127, 63), (131, 97), (0, 5), (5, 0))


@tilec.kernel
def row_sums(A: T.Tensor(("M", "N"), "float32"), block: int = 32):
    """Sums of rows in two launches, the first one's parts in a workspace."""
    M, N = A.shape
    part = T.alloc_global((T.ceildiv(N, block), M), "float32")
    out = T.empty((M,), "float32")
    twice = T.empty((M,), T.float16)
    with T.Kernel(T.ceildiv(N, block), T.ceildiv(M, 64), threads=64) as (bx, by):
        for i in T.Parallel(64):
            acc = T.alloc_var("float32", 0.0)
            for j in T.serial(block):
                acc = acc + A[by * 64 + i, bx * block + j]
            part[bx, by * 64 + i] = acc
    with T.Kernel(T.ceildiv(M, 64), threads=64) as by:
        for i in T.Parallel(64):
            acc = T.alloc_var("float32", 0.0)
            for j in T.serial(part.shape[0]):
                acc = acc + part[j, by * 64 + i]
            out[by * 64 + i] = acc
            twice[by * 64 + i] = T.cast(2 * acc, "float16")
    return out, twice


@tilec.kernel
def chain(A: T.Tensor(("M", 64), "float16"), B: T.Tensor((64, 64), "float16")):
    """(A B) B by two matrix products, with the first in a workspace that a launch names."""
    M = A.shape[0]
    result = T.empty(M, 64, dtype="float16")
    with T.Kernel(T.ceildiv(M, 64), threads=128) as bx:
        first = T.alloc_global((M, 64), "float16")
        product(A, B, first, bx)
    with T.Kernel(T.ceildiv(M, 64), threads=128) as bx:
        product(first, B, result, bx)
    return result


@T.macro
def product(A, B, C, bx):
    A_s = T.alloc_shared((64, 64), "float16")
    B_s = T.alloc_shared((64, 64), "float16")
    acc = T.alloc_fragment((64, 64), "float32")
    T.clear(acc)
    for k in T.Pipelined(1, num_stages=2):
        T.copy(A[bx * 64, k * 64], A_s)
        T.copy(B[k * 64, 0], B_s)
        T.gemm(A_s, B_s, acc)
    T.copy(acc, C[bx * 64, 0])


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_results_of_several_launches(device: str) -> None:
    for shape in SIZES:
        a = np.random.default_rng(1).integers(-4, 5, shape).astype(np.float32)
        with tilec.device(device):
            out, twice = row_sums(a)
        assert out.dtype == np.float32 and twice.dtype == np.float16
        assert np.array_equal(out, a.sum(1)) and np.array_equal(twice, 2 * a.sum(1))


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_a_product_goes_through_a_workspace(device: str) -> None:
    for rows in (1, 63, 64, 130):
        random = np.random.default_rng(rows)
        a = random.integers(-1, 2, (rows, 64)).astype(np.float16)
        b = random.integers(-1, 2, (64, 64)).astype(np.float16)
        with tilec.device(device):
            result = chain(a, b)
        assert np.array_equal(result, (a @ b) @ b)


def test_the_manifest_says_what_a_call_makes() -> None:
    manifest = row_sums.lower(target="cuda:sm_80").manifest
    assert manifest.outputs == ("out", "twice") and [p.name for p in manifest.inputs] == ["A"]
    parts = ("floordiv", ("add", "N", 31), 32)
    (part,) = manifest.workspaces
    assert (part.name, part.dtype, part.shape, part.access) == ("part", "f32", (parts, "M"), "rw")
    assert manifest.symbols == ("M", "N") and dict(manifest.derived) == {
        "extent0": ("ceildiv", "N", 32)
    }
    first, second = manifest.variants[0].launches
    assert (first.symbol, second.symbol) == ("row_sums_kernel", "row_sums_kernel1")
    assert [t.access for t in manifest.tensors] == ["r", "w", "w"]


@pytest.mark.parametrize("period", [7, 8])
def test_extents_and_grids_modulo_a_number(period: int) -> None:
    """Also of a power of two, which the passes make a mask of."""

    @tilec.kernel
    def rest(A: T.Tensor(("N",), "int32"), period: int):
        out = T.empty((A.shape[0] % period,), "int32")
        with T.Kernel(A.shape[0] % period, threads=32) as b:
            if T.get_thread_binding() == 0:
                out[b] = A[b] + 1
        return out

    manifest = rest.lower(target="cuda:sm_80", period=period).manifest
    assert manifest.variants[0].launches[0].grid[0] == ("mod", "N", period)
    a = np.arange(29, dtype=np.int32)
    assert np.array_equal(rest(a, period=period), a[: 29 % period] + 1)


def test_facts_of_a_workspace_of_which_nothing_is_left() -> None:
    """They are not required of a call: a pass may find so late that nobody uses it."""
    lowered = row_sums.lower(target="cuda:sm_80").lowered
    facts = Facts()
    facts.taken = dict.fromkeys([("aligned", "part", 16), ("below", "gone", 1 << 31)])
    assert [fact.tensor for fact in required(facts, lowered.emitted)] == ["part"]


def test_the_text_of_a_program_with_outputs_is_read_back() -> None:
    program = row_sums.lower_to_ir()
    verify(program, builtin_registry())
    text = print_program(program)
    assert "return %out, %twice" in text and 'define %1 <label = "extent0">' in text
    assert print_program(parse_program(text, builtin_registry())) == text


def test_memory_that_nobody_uses_is_not_allocated() -> None:
    @tilec.kernel
    def unused(A: T.Tensor("N", "int32")):
        T.alloc_global((T.ceildiv(A.shape[0], 8),), "int32")
        T.empty((A.shape[0],), "int32")
        with T.Kernel(1):
            A[0] = 1

    program = unused.lower_to_ir()
    assert "alloc" not in print_program(program) and program.symbols == ("N",)
    assert unused(np.zeros(2, np.int32)) is None


def test_names_of_allocations_are_their_own() -> None:
    @tilec.kernel
    def named(A: T.Tensor("N", "int32")):
        made = [T.empty(4, dtype="int32") for _ in range(2)]
        N = T.empty((4,), "int32")
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                made[0][i] = i + A[0]
                made[1][i] = 2 * i
                N[i] = 3 * i
        return [*made, N]

    names = named.lower(target="cuda:sm_80").manifest.outputs
    assert names == ("output", "output1", "N1")
    found = named(np.zeros(1, np.int32))
    assert [x.tolist() for x in found] == [[0, 1, 2, 3], [0, 2, 4, 6], [0, 3, 6, 9]]


def test_an_unwritten_workspace_is_found_by_the_interpreter() -> None:
    @tilec.kernel
    def forgets(n: T.int32, C: T.Tensor(4, "float32")):
        work = T.alloc_global((n * 2,), "float32")
        with T.Kernel(1, threads=32):
            for i in T.Parallel(3):
                work[i] = 1.0
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                C[i] = work[i]

    with pytest.raises(tilec.errors.ExecutionError, match="uninitialised"):
        forgets(2, np.zeros(4, np.float32))
    with pytest.raises(tilec.errors.ExecutionError, match="extent0 is -4"):
        forgets(-2, np.zeros(4, np.float32))


def refused(function: Any) -> LanguageError:
    with pytest.raises(LanguageError) as caught:
        tilec.kernel(function).lower_to_ir()
    assert caught.value.loc.known and "test_outputs" in caught.value.loc.file
    return caught.value


def test_what_is_refused() -> None:
    def in_a_launch(A: T.Tensor("N", "int32")):
        with T.Kernel(1):
            T.empty((4,), "int32")

    def by_a_block(A: T.Tensor("N", "int32")):
        with T.Kernel(1) as bx:
            T.alloc_global((bx + 1,), "int32")

    def an_argument(A: T.Tensor("N", "int32")):
        with T.Kernel(1):
            A[0] = 1
        return A

    def a_number(A: T.Tensor("N", "int32")):
        with T.Kernel(1):
            A[0] = 1
        return 3

    def twice(A: T.Tensor("N", "int32")):
        C = T.empty((4,), "int32")
        with T.Kernel(1):
            C[0] = A[0]
        return C, C

    def negative(A: T.Tensor("N", "int32")):
        T.empty((-4,), "int32")

    def unknown(A: T.Tensor("N", "int32")):
        T.empty(("K",), "int32")

    def half(A: T.Tensor("N", "int32")):
        T.empty((A.shape[0] * 0.5,), "int32")

    assert refused(in_a_launch).code == "TLC0118"
    assert "computed in a launch" in refused(by_a_block).message
    error = refused(an_argument)
    assert error.code == "TLC0136" and "`A`" in error.message and "T.empty" in error.hint
    assert error.loc.function == "an_argument" and error.loc.line > 0
    assert refused(a_number).message == "a_number returns 3"
    assert refused(twice).message == "twice returns `C` twice"
    assert "extent of -4" in refused(negative).message
    assert "no tensor of unknown has a dimension 'K'" in refused(unknown).message
    assert "f32" in refused(half).message
