"""Launches in clusters on sm_90a: products at ragged and tiny sizes as without, whatever the schedule,
loops of every kind, and what the vendor's compiler makes of the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels import programs, role_programs
from tests.kernels.instructions import count_instructions
from tests.kernels.machines import SCHEDULES, Case, trip_sizes
from tests.kernels.programs import TILES, few_sizes
from tests.kernels.test_machines import check
from tests.kernels.test_roles import CASES, STAGES, Draw, sizes
from tests.kernels.test_vendor_compilers import check_nvidia
from tests.modules import example
from tilec.interpreter import tolerance
from tilec.interpreter.compare import assert_close
from tilec.ir.core import Program
from tilec.ir.dtypes import f16, find_dtype
from tilec.ir.ops.control import Launch, map_launches
from tilec.runtime import emulator
from tilec.runtime.driver import compile_program
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.target import find_target

TARGET = "cuda:sm_90a"
GEMMS = (
    Case(TARGET, TILES[2], "float16", True, 3, (2, 1)),
    Case(TARGET, TILES[2], "bfloat16", False, 2, (1, 2)),
    Case(TARGET, TILES[1], "float16", True, 4, (2, 2)),
    Case(TARGET, TILES[0], "float16", True, 4, (1, 2)),
)
MORE_GEMMS = tuple(
    Case(TARGET, tile, dtype, order, stages, cluster)
    for tile in TILES
    for dtype, order, stages in (("float16", False, 3), ("bfloat16", True, 5))
    for cluster in ((2, 1), (1, 2), (2, 2), (1, 4), (8, 1))
)


@pytest.mark.emulator
@pytest.mark.parametrize("case", GEMMS[:3], ids=str)
def test_gemm(case: Case) -> None:
    """Tiles of 1, t - 1, t, t + 1, 2 t - 1, a prime, 0; trips of 0, 1, stages - 1, stages and more."""
    check(case, few_sizes(case.tile, case.stages) + trip_sizes(case.tile, case.stages), 1)


@pytest.mark.emulator
@pytest.mark.nightly
@pytest.mark.parametrize("case", GEMMS[3:] + MORE_GEMMS, ids=str)
def test_more_gemms(case: Case) -> None:
    check(case, few_sizes(case.tile, case.stages) + trip_sizes(case.tile, case.stages), 2)


@pytest.mark.emulator
def test_every_build_of_the_emulator_runs_clusters() -> None:
    """Spread over processes by whole clusters, and with accesses counted: the same bits."""
    case, size = GEMMS[0], (330, 200, 152)
    expected = case.emulate(size, "late", "random").tobytes()
    a, b, c = case.operands(size)
    EmulatorDevice(TARGET, "a test", "late", "random", 3, kind="fast").run(case.lower(), (a, b, c))
    assert c.tobytes() == expected
    a, b, c = case.operands(size)
    with emulator.counted() as counts:
        EmulatorDevice(TARGET, "a test").run(case.lower(), (a, b, c))
    assert c.tobytes() == expected
    stores = [one for one in counts.accesses if one.instruction == "stmatrix"]
    assert sum(one.accesses for one in stores) == 24 * 16  # tiles, and 256 elements of each


@pytest.mark.parametrize("case", GEMMS, ids=str)
def test_machine_code(case: Case, tmp_path: Path) -> None:
    """No spills, no wgmma one by one, and as many copies and arrivals as the IR has."""
    aligned = case.lower().variants[0]
    found = count_instructions(aligned.program)
    assert found["cluster_barrier"] == 3 and found["tma_load"] > 0
    check_nvidia(aligned, "sm_90a", tmp_path)
    assert f"__cluster_dims__({case.cluster[0] * case.cluster[1]}, 1, 1)" in aligned.text
    assert "tma_load_multicast<2>" in aligned.text


def in_clusters(program: Program, extents: tuple[int, ...]) -> Program:
    def one(launch: Launch) -> Any:
        given = (*extents, 1, 1)[:3]
        return launch.replace(cluster=given)

    return map_launches(program, one)


# Of each kind of loop: a cluster, and how many of its loads several blocks share (0: none does, and
# there is no cluster).
LOOPS: dict[str, tuple[tuple[int, ...], int]] = {
    "two_loops": ((2, 2), 4), "nested": ((2,), 1), "guarded": ((2, 1), 1), "paged": ((1, 2), 1),
    "counted": ((2, 1), 1), "two_gemms": ((1, 4), 2), "batched": ((2, 1, 1), 1),
    "five_dimensions": ((1, 2), 1), "convolution": ((2,), 1),
}  # fmt: skip


ALWAYS = ("two_loops", "paged", "counted", "batched")


@pytest.mark.emulator
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ALWAYS else pytest.mark.nightly) for n in LOOPS],
)
def test_loops(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dtype, total, bk = "float16", "float32", 64
    extents, shared = LOOPS[name]
    if name in ("paged", "counted"):
        monkeypatch.setenv("TILEC_CHECK", "1")
    kernel = getattr(role_programs, name)(dtype, total, bk)
    program = in_clusters(kernel.trace({"stages": STAGES}), extents)
    compiled = compile_program(program, find_target(TARGET))
    codes = [remark.code for remark in compiled.remarks]
    assert ("TLC0332" in codes, "TLC0331" in codes) == (shared > 0, shared == 0)
    assert compiled.lowered.text.count("tma_load_multicast<") >= shared
    check_nvidia(compiled.lowered, "sm_90a", tmp_path)
    for number, size in enumerate(sizes(bk)):
        inputs, outputs = CASES[name](Draw(dtype, number), *size, bk)
        results = [np.full(x.shape, -1, find_dtype(total).numpy) for x in outputs]
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        compiled.run_on(EmulatorDevice(TARGET, "a test", mode, order), (*inputs, *results))
        for result, output in zip(results, outputs, strict=True):
            assert np.array_equal(result, output), (size, mode, order)


@pytest.mark.emulator
@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal: bool) -> None:
    """Neighbouring blocks of queries pass over the same keys; with a mask not as often."""
    attention = example("flash_attention")
    constants = {"causal": causal, "heads_first": True, "dtype": "float16", "block_M": 64}
    constants |= {"block_N": 64, "stages": 2, "threads": 128}
    program = in_clusters(attention.attention.trace(constants, {"D": 64}), (2,))
    compiled = compile_program(program, find_target(TARGET))
    text = compiled.lowered.text
    assert text.count("tma_load_multicast<") == (0 if causal else 2)
    for number, (n, s) in enumerate(((64, 64), (130, 200), (1, 1), (65, 129))):
        draw = np.random.default_rng(number).standard_normal
        q, k, v = (draw((1, 2, rows, 64)).astype(np.float16) for rows in (n, s, s))
        out = np.full_like(q, np.nan)
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        compiled.run_on(EmulatorDevice(TARGET, "a test", mode, order), (q, k, v, out))
        attention.check(out, attention.reference(q, k, v, causal), v)


@pytest.mark.emulator
@pytest.mark.parametrize("cluster", [(2, 2)])
def test_operands_that_threads_make(cluster: tuple[int, int]) -> None:
    """Of the dequantising GEMM: packed values are brought for two blocks, and unpacked by each."""
    m, n, k = 129, 127, 190
    program = in_clusters(programs.origin(m, n, k).trace({}), cluster)
    compiled = compile_program(program, find_target(TARGET))
    assert compiled.lowered.text.count("tma_load_multicast<") == 2
    values, b = programs.packed(n, k, seed=m)
    a = np.random.default_rng(k).standard_normal((m, k)).astype(np.float16)
    exact = a.astype(np.float64) @ values.T.astype(np.float64)
    allowed = tolerance(exact, k, a, values.T, f16)
    for mode, order in SCHEDULES[::3]:
        c = np.full((m, n), np.nan, np.float16)
        compiled.run_on(EmulatorDevice(TARGET, "a test", mode, order, 3), (a, b, c))
        assert_close(c, exact, allowed, f16, f"{mode} {order}")


@tilec.kernel
def in_parts(
    A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"), C: T.Tensor(("M", "N"), "float32"),
):  # fmt: skip
    """C = A @ B.T, the rows of a tile in parts, of which blocks that are neighbours along N load pieces."""
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128, cluster=(2, 1)) as (bx, by):
        A_s = T.alloc_shared((64, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 64), num_stages=2):
            for part in T.serial(4):
                T.copy(A[by * 64 + part * 16, k * 64], A_s[part * 16 : part * 16 + 16, :])
            T.copy(B[bx * 64, k * 64], B_s[0:32, :])
            T.copy(B[bx * 64 + 32, k * 64], B_s[32:64, :])
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


@pytest.mark.emulator
def test_tiles_that_are_loaded_in_parts() -> None:
    """A phase has all its bytes: of six loads, of which four are shared."""
    compiled = compile_program(in_parts.trace({}), find_target(TARGET))
    assert compiled.lowered.text.count("tma_load_multicast<") == 4
    for number, (m, n, k) in enumerate(((64, 128, 128), (65, 130, 200), (3, 1, 8), (130, 64, 0))):
        rng = np.random.default_rng(number)
        a, b = (rng.integers(-3, 4, (rows, k)).astype(np.float16) for rows in (m, n))
        mode, order = SCHEDULES[number]
        c = np.full((m, n), np.nan, np.float32)
        compiled.run_on(EmulatorDevice(TARGET, "a test", mode, order, 3), (a, b, c))
        np.testing.assert_array_equal(c, a.astype(np.float32) @ b.T.astype(np.float32))
