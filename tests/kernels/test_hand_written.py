"""Programs that own their schedule: right at every trip count, in every order of their emulation; what is
wrong in them is found at the user's line, by the interpreter, the emulator, or before either runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec
from tests.kernels import hand_written
from tests.kernels.hand_written import TILES, edited
from tests.kernels.machines import SCHEDULES
from tests.modules import HOPPER, example, load_module
from tilec.cli.programs import trace
from tilec.errors import ExecutionError, HazardError, TilecError
from tilec.passes.check_hazards import check_synchronisation
from tilec.passes.context import PassContext
from tilec.passes.pipeline import run_pipeline
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import compile_program
from tilec.runtime.emulator import EmulatorError, Mode
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice
from tilec.runtime.lowering import standard_registry
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target

EXAMPLE = example("gemm_warp_specialized")
Array = np.ndarray[Any, Any]
MODES: tuple[Mode, Mode] = ("late", "early")


def compiled(kernel: Any, **constants: Any) -> CompiledKernel:
    target = find_target(HOPPER)
    made = compile_program(trace(kernel, constants, target), target)
    made.add_general()
    return made


def operands(m: int, n: int, k: int) -> tuple[Array, Array, Array]:
    """Small integers, whose products are exact in any order."""
    rng = np.random.default_rng(m + n + k)
    a, b = (rng.integers(-4, 5, shape).astype(np.float16) for shape in ((m, k), (n, k)))
    return a, b, np.full((m, n), np.nan, np.float16)


def check_everywhere(kernel: CompiledKernel, a: Array, b: Array, c: Array, *more: Any) -> None:
    """The interpreter and the emulator, whose engines land late, early and by lot, give
    the product."""
    depth = more[0] * 32 if more else a.shape[1]
    exact = EXAMPLE.reference(a[:, :depth], b[:, :depth])
    runs: list[Any] = [InterpreterDevice("", "a test")]
    runs += [EmulatorDevice(HOPPER, "a test", mode, order, 5) for mode, order in SCHEDULES[::3]]
    for device in runs:
        c[...] = np.nan
        device.run(kernel, [a, b, c, *more])
        assert np.array_equal(c, exact.astype(np.float16)), device


# What is right ---------------------------------------------------------------------------------


@cache
def counted(name: str, folder: Path) -> CompiledKernel:
    """The example with the number of steps as an argument."""
    edits = []
    for rows in (128, 64):
        tile = f"    block_M: int = {rows},"
        edits.append((tile, f"    steps: T.int32,\n{tile}"))
        edits.append(("    steps = T.ceildiv(A.shape[1], block_K)\n", ""))
    return compiled(getattr(edited(folder, *edits), name), **TILES[name])


@pytest.mark.emulator
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", ["matmul", "pingpong"])
def test_trip_counts(name: str, steps: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """None, one, a step less and more than there are buffers; tiles for one consumer only, and several
    for each."""
    kernel = counted(name, tmp_path_factory.getbasetemp())
    for m, n in ((64, 64), (300, 136)):
        check_everywhere(kernel, *operands(m, n, 7 * 32), steps)


@pytest.mark.emulator
@pytest.mark.parametrize("name", ["copied", "met", "alone"])
def test_other_means(name: str) -> None:
    kernel = compiled(getattr(hand_written, name))
    sizes = [(1, 8, 72), (65, 72, 8), (200, 64, 200)]
    for m, n, depth in sizes if name == "alone" else [*sizes, (65, 9, 0), (64, 65, 33)]:
        check_everywhere(kernel, *operands(m, n, depth))


@pytest.mark.emulator
def test_a_product_that_reads_registers() -> None:
    kernel = compiled(hand_written.rectified)
    runs: list[Any] = [InterpreterDevice("", "a test")]
    runs += [EmulatorDevice(HOPPER, "a test", mode, order, 5) for mode, order in SCHEDULES[::3]]
    for m, n in ((1, 8), (64, 64), (65, 129), (100, 300)):
        rng = np.random.default_rng(m + n)
        q, k, v = (rng.integers(-2, 3, (r, 64)).astype(np.float16) for r in (m, n, n))
        exact = np.maximum(EXAMPLE.reference(q, k), 0) @ v.astype(np.float64)
        for device in runs:
            found = np.full((m, 64), np.nan, np.float32)
            device.run(kernel, [q, k, v, found])
            assert np.array_equal(found, exact), device


@pytest.mark.emulator
def test_boxes_of_any_rank() -> None:
    rng = np.random.default_rng(0)
    a, v, r = (rng.integers(-9, 9, s).astype(np.float32) for s in ((4, 6, 32), (64,), (3, 64)))
    kernel = compiled(hand_written.shapes)
    runs: list[Any] = [InterpreterDevice("", "a test")]
    runs += [EmulatorDevice(HOPPER, "a test", mode, order, 5) for mode, order in SCHEDULES[::3]]
    for device in runs:
        d, w, o = np.zeros_like(a), np.zeros_like(v), np.zeros_like(r)
        device.run(kernel, [a, v, r, d, w, o])
        assert np.array_equal(d, 2 * a) and np.array_equal(w, v + np.tile(2 * a[0, 0], 2)), device
        assert np.array_equal(o[2], r[1] - 1) and not o[:2].any()


@pytest.mark.emulator
def test_tiles_that_tma_brings_are_read_by_elements_in_its_swizzles() -> None:
    kernel = compiled(hand_written.doubles)
    assert "mma<16, 8, 4>" in kernel.lowered.text and "tma_load<2>" in kernel.lowered.text
    for m, n, k in ((1, 2, 16), (33, 34, 50), (32, 32, 8)):
        a, b = (x.astype(np.float64) for x in operands(m, n, k)[:2])
        for mode in MODES:
            c = np.full((m, n), np.nan)
            device = EmulatorDevice(HOPPER, "a test", mode, "reverse", 5)
            device.run(kernel, [a, np.ascontiguousarray(b.T), c])
            assert np.array_equal(c, a @ b.T), (m, n, k, mode)


@pytest.mark.parametrize("name", ["copied", "met", "alone", "rectified", "shapes", "doubles"])
def test_the_assembler_takes_them_without_spills_or_serialised_products(name: str) -> None:
    for variant in compiled(getattr(hand_written, name)).variants:
        made = find_nvrtc().compile(variant.text, variant.file_name, "sm_90a")
        assert made.resources and made.findings == ()


@pytest.mark.emulator
def test_an_operand_is_left_alone_while_it_is_read() -> None:
    """Written before the wait it is an error of the interpreter, a hazard, and in the emulator a race, whether engines
    read early or late."""
    a = np.arange(64 * 64, dtype=np.float16).reshape(64, 64) % 7
    x = a.astype(np.float64)
    exact = x @ x.T + (x + 1) @ (x + 1).T
    c = np.zeros((64, 64), np.float32)
    wrong = compiled(hand_written.overwritten, waits=False)
    for mode in MODES:
        device = EmulatorDevice(HOPPER, "a test", mode, "forward", 5)
        device.run(compiled(hand_written.overwritten), [a, c])
        assert np.array_equal(c, exact), device
        with pytest.raises(EmulatorError, match=r"race: writes shared byte .* which a wgmma"):
            device.run(wrong, [a, c])
    with tilec.device("interpreter"):
        hand_written.overwritten(a, c)
        assert np.array_equal(c, exact)
        with pytest.raises(ExecutionError, match="S is written while this product may") as caught:
            hand_written.overwritten(a, c, waits=False)
    assert caught.value.code == "TLC0767"
    with pytest.raises(HazardError) as found:
        synchronisation(hand_written.overwritten, waits=False)
    assert found.value.code == "TLC0352"


def synchronisation(kernel: Any, **constants: Any) -> None:
    target, registry = find_target(HOPPER), standard_registry()
    context = PassContext(target, registry)
    program = run_pipeline(trace(kernel, constants, target), context, after="place_barriers")
    check_synchronisation(program, context)


@pytest.mark.parametrize(
    "name", ["matmul", "pingpong", "copied", "met", "alone", "rectified", "shapes", "doubles"]
)
def test_no_hazard_is_seen_where_there_is_none(name: str) -> None:
    module = EXAMPLE if name in TILES else hand_written
    synchronisation(getattr(module, name), **TILES.get(name, {}))


# What is wrong ---------------------------------------------------------------------------------

WAIT_FULL = "T.mbarrier_wait_parity(full[slot], s // stages % 2)"
WAIT_EMPTY = "T.mbarrier_wait_parity(empty[slot], s // stages % 2 ^ 1)"
FREE = "        T.mbarrier_arrive(empty[(s - 1) % stages])\n\n"
LOAD = "    T.tma_copy(A[m * rows, k * depth]"


@dataclass(frozen=True)
class Fault:
    """An edit of the example, what the interpreter says of it and what the emulator does. `line` stands
    in the line that the interpreter names."""

    old: str
    new: str
    line: str
    interpreter: str
    emulator: str
    name: str = "matmul"


FAULTS = {
    "phase of the data flipped": Fault(
        WAIT_FULL, WAIT_FULL[:-1] + " ^ 1)", "T.", "TLC0751|TLC0743|TLC0758", "race|uninitialised"
    ),
    "phase of free buffers flipped": Fault(
        WAIT_EMPTY, WAIT_EMPTY.replace(" ^ 1", ""), "wait_parity",
        r"TLC0751.*'ws\(0, 1\)' waits for the phase of parity 0 of full\[0\] \(phase 0: 0 of 1 arrivals\)"
        r".*'ws\(2\)' waits for the phase of parity 0 of empty\[0\]",
        r"deadlock; threads 0 to 255: waits for parity 0.*user.py",
    ),
    "arrival missing": Fault(
        FREE, "        pass\n\n", "wait_parity",
        r"TLC0751.*empty\[0\] \(phase 0: 0 of 2 arrivals\)", "deadlock.*2 of 2 arrivals",
    ),
    "arrivals counted one too many": Fault(
        "T.alloc_barrier([2] * stages)", "T.alloc_barrier([3] * stages)", "wait_parity",
        r"TLC0751.*empty\[0\] \(phase 0: 2 of 3 arrivals\)", "deadlock.*1 of 3 arrivals",
    ),
    "every thread arrives": Fault(
        "if k > 0 and T.shuffle_elect(128):", "if k > 0:", "T.mbarrier_arrive(empty",
        r"TLC0766.*256 arrivals in phase 0 of empty\[0\], which was made for 2", "deadlock|race",
    ),
    "too few bytes": Fault(
        "* depth * 2)", "* depth)", "T.tma_copy",
        r"TLC0766.*bring 8192 bytes in phase 0 of full\[0\], where 6144 are expected",
        "user.py.* bytes more than expected in phase 0",
    ),
    "too many bytes": Fault(
        "* depth * 2)", "* depth * 4)", "wait_parity",
        r"TLC0751.*full\[0\] \(phase 0: 1 of 1 arrivals, 12288 of 24576 bytes\)",
        "deadlock.*0 of 1 arrivals, 12288 bytes",
    ),
    "wait before the copy": Fault(
        LOAD, f"    {WAIT_FULL}\n{LOAD}", "wait_parity",
        r"TLC0751.*'ws\(2\)' waits for the phase of parity 0 of full\[0\] .*0 of 12288 bytes",
        "deadlock.*12288 bytes",
    ),
    "loads without a wait": Fault(WAIT_EMPTY, "pass", "T.", "TLC07[56]", "once too often|race"),
    "products without a wait": Fault(WAIT_FULL, "pass", "T.wgmma_gemm", "TLC0758|TLC0743", "race"),
    "buffer freed while it is read": Fault(
        "T.wait_wgmma(1)", "T.wait_wgmma(2)", "T.tma_copy|T.wgmma_gemm", "TLC0758|TLC0743", "race"
    ),
    "another buffer freed": Fault(
        "empty[(s - 1) % stages]", "empty[s % stages]", "T.", "TLC075", "deadlock|race"
    ),
    "store not awaited": Fault(
        "T.tma_store_wait(1 - slabs % 2)", "pass", "T.tma_copy(C_s",
        "TLC0767.*C_s is written while this store may still read it", "wrong|disagree",
    ),
    "store not awaited at the end": Fault(
        "            T.tma_store_wait(0)\n\n\n@", "\n\n@", "T.tma_copy(C_s",
        "TLC0767.*the threads end while this store", "ends before its tma_stores have read",
    ),
    "store not committed": Fault(
        "        T.tma_store_arrive()\n", "", "T.tma_copy(C_s", "TLC0767", "no bulk_commit"
    ),
    "turns taken together": Fault(
        "(mine + 1 - me) % 2", "(mine + me) % 2", "T.", "TLC07", "race|deadlock", "pingpong"
    ),
}  # fmt: skip
EVERY_RUN = (
    "phase of free buffers flipped",
    "arrival missing",
    "too few bytes",
    "wait before the copy",
)


def failing(device: str, name: str, folder: Path) -> tuple[TilecError | None, list[str]]:
    """What a device says of the example with a fault, and the lines of its text."""
    fault = FAULTS[name]
    module = edited(folder, (fault.old, fault.new))
    a, b, c = operands(300, 72, 136)
    with tilec.device(device):
        try:
            getattr(module, fault.name)(a, b, c, **TILES[fault.name])
            module.check(a, b, c)
        except TilecError as error:
            return error, Path(module.__file__ or "").read_text().splitlines()
        except AssertionError as wrong:
            return ExecutionError("", f"wrong: {wrong}"), []
    return None, []


@pytest.mark.parametrize("name", FAULTS)
def test_the_interpreter_finds_it(name: str, tmp_path: Path) -> None:
    error, lines = failing("interpreter", name, tmp_path)
    assert isinstance(error, ExecutionError), "nothing was found"
    assert re.search(FAULTS[name].interpreter, f"{error.code} {error.message}", re.DOTALL), error
    assert re.search(FAULTS[name].line.replace("(", r"\("), lines[error.loc.line - 1]), error


def check_emulated(name: str, folder: Path) -> None:
    error, _ = failing("emulator:" + HOPPER, name, folder)
    assert error is not None, "nothing was found"
    assert re.search(FAULTS[name].emulator, error.message, re.DOTALL), error
    if isinstance(error, EmulatorError):
        assert re.search(r"at user\.py:\d+", error.message), error


@pytest.mark.emulator
@pytest.mark.parametrize("name", EVERY_RUN)
def test_the_emulator_finds_it(name: str, tmp_path: Path) -> None:
    check_emulated(name, tmp_path)


@pytest.mark.nightly
@pytest.mark.emulator
@pytest.mark.parametrize("name", [name for name in FAULTS if name not in EVERY_RUN])
def test_the_emulator_finds_the_others(name: str, tmp_path: Path) -> None:
    check_emulated(name, tmp_path)


HAZARDS = {
    # Three quarters of the producer wait for a phase that may be two phases back when they look.
    "waits by threads that nothing holds back": (
        "    if T.shuffle_elect(128):  # the thread that loads; nothing would hold the others back\n"
        f"        {WAIT_EMPTY}\n",
        f"    {WAIT_EMPTY}\n    if T.shuffle_elect(128):\n",
        "TLC0355", "two phases on", "matmul",
    ),
    # So may a consumer whose first thread has handed the turn on.
    "a turn handed on for threads that have not taken it": (
        "T.mbarrier_arrive(turn[1 - me])", "if T.shuffle_elect(128):\n"
        + " " * 24 + "T.mbarrier_arrive(turn[1 - me])", "TLC0355", "two phases on", "pingpong",
    ),
    "products without a wait": (WAIT_FULL, "pass", "TLC0351", "A_s", "matmul"),
    "a buffer freed while it is read": (
        "T.wait_wgmma(1)", "T.wait_wgmma(2)", "TLC0352", "A_s", "matmul"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HAZARDS)
def test_check_hazards_finds_it(name: str, tmp_path: Path) -> None:
    """What no run shows, unless threads lag behind by much, too."""
    old, new, code, says, kernel = HAZARDS[name]
    edits = [(old, new)]
    if kernel == "pingpong" and "turn" in new:
        edits.append(("[128, 128]", "[1, 1]"))
    module = edited(tmp_path, *edits)
    with pytest.raises(HazardError, match=re.escape(says)) as caught:
        synchronisation(getattr(module, kernel), **TILES[kernel])
    assert caught.value.code == code and caught.value.loc.line


# What Hopper cannot do, or is no Hopper -----------------------------------------------------------

HEAD = """import tilec, tilec.language as T

@tilec.kernel
def k(A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("M", 100), "float16"), X: T.Tensor(("M", "K"), "int32")):
    with T.Kernel(1, threads=256) as bx:
        full = T.alloc_barrier([128] * 2)
        S = T.alloc_shared((2, 64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
"""
REFUSALS = {
    "rows that no box has": (
        "R = T.alloc_shared((64, 50), 'float16')\nT.tma_copy(A[0, 0], R, barrier=full[0])",
        "TLC0436", "a row of the region of A is not a multiple of 16 bytes",
    ),
    "rows of the tensor that are not aligned": (
        "T.tma_copy(B[0, 0], S[0, :, :], barrier=full[0])", "TLC0436",
        "rows of B are not multiples of 16 bytes",
    ),
    "more rows than a box has": (
        "R = T.alloc_shared((514, 64), 'float16')\nT.tma_copy(A[0, 0], R, barrier=full[0])",
        "TLC0436", "A has more than 256 rows",
    ),
    "a part of a buffer": (
        "T.tma_copy(A[0:32, 0:64], S[0, 0:32, :], barrier=full[0])", "TLC0436",
        "fills a part of its buffer",
    ),
    "a start inside 16 bytes": (
        "T.tma_copy(A[0, A.shape[0]], S[0, :, :], barrier=full[0])", "TLC0436",
        "may start inside 16 bytes of a row",
    ),
    "a store before the first row": (
        "T.fill(S, 0)\nT.tma_copy(S[0, :, :], A[bx - 1, 0])\nT.tma_store_arrive()\nT.tma_store_wait(0)",
        "TLC0436", "may begin before its first element",
    ),
    "a product of dtypes that wgmma has not": (
        "I = T.alloc_shared((64, 64), 'int32')\nJ = T.alloc_fragment((64, 64), 'int32')\n"
        "T.copy(X[0, 0], I)\nT.wgmma_gemm(I, I, J, transpose_B=True)\nT.wait_wgmma(0)",
        "TLC0437", "no wgmma",
    ),
    "a product that warpgroups cannot share": (
        "R = T.alloc_shared((48, 64), 'float16')\nF = T.alloc_fragment((48, 64), 'float32')\n"
        "T.clear(F)\nT.copy(A[0, 0], R)\nT.copy(A[0, 0], S[0, :, :])\n"
        "T.wgmma_gemm(R, S[0, :, :], F, transpose_B=True)\nT.wait_wgmma(0)\nT.copy(F, X[0, 0])",
        "TLC0437", "wgmma cannot split 48 x 64 x 64 over 2 warpgroups",
    ),
    "a product too wide for so many threads": (
        "R = T.alloc_shared((256, 64), 'float16')\nF = T.alloc_fragment((64, 256), 'float32')\n"
        "with T.ws(0):\n    T.set_max_nreg(200, 1)\n    T.clear(F)\n"
        "    T.wgmma_gemm(S[0, :, :], R, F, transpose_B=True)\n"
        "    T.wait_wgmma(0)\n    T.copy(F, X[0, 0])  # T.ws(1, 2, 3)", "TLC0437",
        "a wgmma of 256 columns needs 154 registers when threads start, and they have 128",
    ),
    "a fragment that is read too early": (
        "T.clear(acc)\nT.wgmma_gemm(S[0, :, :], S[1, :, :], acc)\nT.copy(acc, X[0, 0])\nT.wait_wgmma(0)",
        "TLC0317", "acc is used while T.wgmma_gemm may still write it",
    ),
    "a fragment that is cleared too early": (
        "for i in T.serial(bx):\n    T.clear(acc)\n    T.wgmma_gemm(S[0, :, :], S[1, :, :], acc)\n"
        "T.wait_wgmma(0)", "TLC0317", "acc is used while T.wgmma_gemm may still write it",
    ),
    "a wait that is too weak": (
        "T.clear(acc)\nT.wgmma_gemm(S[0, :, :], S[1, :, :], acc)\nT.wait_wgmma(1)\n"
        "T.copy(acc, X[0, 0])\nT.wait_wgmma(0)",
        "TLC0317", "T.wait_wgmma(0) before",
    ),
    "a product that nobody waits for": (
        "T.clear(acc)\nT.wgmma_gemm(S[0, :, :], S[1, :, :], acc)", "TLC0317", "nobody waits",
    ),
    "more registers than there are": (
        "with T.ws(0):\n    T.set_max_nreg(40, 0)\nwith T.ws(1, 2):\n    T.set_max_nreg(240, 1)\n"
        "    T.mbarrier_arrive(full[0])", "TLC0519", "hold 66560 registers",
    ),
    "more registers than the threads start with": (
        "with T.ws(0):\n    T.set_max_nreg(48, 0)\nwith T.ws(1, 2):\n    T.set_max_nreg(232, 1)\n"
        "    T.mbarrier_arrive(full[0])", "TLC0519", "384 threads start with 168 each, 64512 in all",
    ),
    "registers the other way": (
        "with T.ws(0):\n    T.set_max_nreg(40, 1)\n    T.mbarrier_arrive(full[0])", "TLC0519",
        "T.set_max_nreg of 40 is no increase: each of 256 threads has 256 registers here",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_on_hopper(name: str, tmp_path: Path) -> None:
    body, code, says = REFUSALS[name]
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    path = tmp_path / "user.py"
    threads = next((n for mark, n in (("2, 3)", 512), ("1, 2)", 384)) if mark in body), 256)
    path.write_text(HEAD.replace("256", str(threads)) + lines)
    with pytest.raises(TilecError) as caught:
        load_module(path).k.lower(target=HOPPER)
    error = caught.value
    assert error.code == code and says in f"{error.message} {error.hint}", error
    assert error.loc.line > 8 and error.hint and Path(error.loc.file) == path


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
@pytest.mark.parametrize(
    "body",
    [
        "T.tma_copy(A[0, 0], S[0, :, :], barrier=full[0])\nT.mbarrier_arrive(full[0])",
        "with T.ws(0):\n    T.mbarrier_arrive(full[0])",
        "T.clear(acc)\nT.wgmma_gemm(S[0, :, :], S[1, :, :], acc)\nT.wait_wgmma(0)",
    ],
)
def test_refused_elsewhere(body: str, target: str, tmp_path: Path) -> None:
    """By name, and with what to write instead."""
    path = tmp_path / "user.py"
    path.write_text(HEAD + "".join(f"        {line}\n" for line in body.splitlines()))
    with pytest.raises(TilecError, match=f"{target} has no") as caught:
        load_module(path).k.lower(target=target)
    assert caught.value.code == "TLC0525" and caught.value.loc.line >= 6 and caught.value.hint


@pytest.mark.emulator
def test_a_named_barrier_needs_no_role() -> None:
    for device in ("interpreter", "emulator:cuda:sm_80"):
        a = np.arange(256, dtype=np.float32)
        with tilec.device(device):
            hand_written.mirrored(a)
        assert np.array_equal(a, np.arange(256)[::-1]), device
    with pytest.raises(TilecError, match="gfx942 has no named barriers"):
        hand_written.mirrored.lower(target="hip:gfx942")
