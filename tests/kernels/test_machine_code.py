"""The machine code that clang makes of the HIP text, executed by an interpreter that shares nothing
with the emulator: GEMM of every dtype, softmax and attention against float64 and the emulator.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.backends.hip.cdna.decode import IsaError
from tests.backends.hip.cdna.device import MachineCodeDevice, assembled
from tests.backends.hip.cdna.launch import ORDERS
from tests.examples import test_flash_attention as attention
from tests.examples.test_amd import NAMES
from tests.examples.test_gemm_dtypes import EXAMPLE as DTYPES
from tests.kernels import programs
from tests.kernels import test_targets as products
from tests.kernels.machines import Case, covering_cases
from tests.kernels.programs import few_sizes, reference
from tests.modules import example
from tilec.interpreter.compare import assert_close
from tilec.ir.dtypes import find_dtype
from tilec.runtime import devices
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice

pytestmark = [pytest.mark.hip, pytest.mark.emulator]
TARGET = "hip:gfx942"
TARGETS = (TARGET, "hip:gfx90a", "hip:gfx950")
MODES = ("late", "early")
SIZES = ((65, 63, 127), (1, 1, 1), (3, 130, 67), (64, 64, 32), (5, 7, 0))


def check_gemm(dtype: str, target: str, sizes: Any) -> None:
    compiled = lower(DTYPES.matmul(dtype), (), target, {})
    for number, (m, n, k) in enumerate(sizes):
        a, b = DTYPES.operands(dtype, m, n, k)
        c = np.full((m, n), -77, DTYPES.numpy_dtype(DTYPES.RESULTS[dtype][1]))
        mode, order = MODES[number % 2], ORDERS[number % 3]
        compiled.run_on(MachineCodeDevice(mode, order), (a, b, c))  # type: ignore[arg-type]
        DTYPES.check(dtype, a, b, c)


@pytest.mark.parametrize("dtype", DTYPES.RESULTS)
def test_gemm(dtype: str) -> None:
    check_gemm(dtype, TARGET, SIZES)


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "float8_e4m3fn"])
def test_gemm_of_other_targets(dtype: str, target: str) -> None:
    check_gemm(dtype, target, SIZES[:2])


@pytest.mark.parametrize("stages", [0, 1, 2, 3, 5])
def test_tiles_that_are_copied_to_shared_memory(stages: int) -> None:
    """gfx950's copies without registers: late and early, on machine and emulator, the bits are those
    of one product; also where there are fewer tiles than stages."""
    dtype, transpose_b = ("float16", True) if stages % 2 else ("bfloat16", False)
    kernel = programs.gemm(dtype, transpose_b)
    compiled = lower(kernel, (), "hip:gfx950", programs.TILES[2].constants(stages))
    assert "buffer_copy<8>(" in compiled.lowered.text
    for number, (m, n, k) in enumerate(((64, 64, 32), (70, 136, 104), (1, 8, 0), (65, 200, 320))):
        a, b, _ = programs.operands(m, n, k, dtype, transpose_b, seed=k)
        exact, allowed = reference(a, b, transpose_b)
        devices_ = (
            MachineCodeDevice("late", ORDERS[number % 3], target="hip:gfx950"),
            MachineCodeDevice("early", target="hip:gfx950"),
            EmulatorDevice("hip:gfx950", "a test", "late", ORDERS[number % 3], seed=3),
            EmulatorDevice("hip:gfx950", "a test", "random", "random", seed=number),
        )
        found = []
        for device in devices_:
            c = np.full((m, n), np.nan, a.dtype)
            compiled.run_on(device, (a, b, c))  # type: ignore[arg-type]
            assert_close(c, exact, allowed, find_dtype(dtype), f"{device.name} at {(m, n, k)}")
            found.append(c.tobytes())
        assert found[0] == found[1] and found[2] == found[3]


@tilec.kernel
def again(Q: T.Tensor((64, 64), "float16"), K: T.Tensor(("N", 64), "float16"),
          C: T.Tensor((64, 64), "float32"), times: int = 1, stages: int = 4):  # fmt: skip
    """C = times the sum of Q K_i^T over the tiles of K; Q is copied once, outside of the pipeline."""
    with T.Kernel(1, threads=128):
        Q_s = T.alloc_shared((64, 64), "float16")
        K_s = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        T.copy(Q[0, 0], Q_s)
        for _ in T.serial(times):
            for k in T.Pipelined(T.ceildiv(K.shape[0], 64), num_stages=stages):
                T.copy(K[k * 64, 0], K_s)
                T.gemm(Q_s, K_s, acc, transpose_B=True)
        T.copy(acc, C[0, 0])


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("times", [1, 3])
def test_copies_of_no_pipeline_and_pipelines_in_loops(times: int, stages: int) -> None:
    """What the last run of a pipeline has started is waited for before the next run fills its slots."""
    compiled = lower(again, (), "hip:gfx950", {"times": times, "stages": stages})
    assert compiled.lowered.text.count("buffer_copy<8>(") > stages
    random = np.random.default_rng(stages)
    for n in (0, 1, 65, 400):
        q, k = (random.integers(-3, 4, (rows, 64)).astype(np.float16) for rows in (64, n))
        tiles = np.zeros((-(-n // 64), 64, 64))
        tiles.reshape(-1, 64)[:n] = k
        expected = times * (q.astype(np.float64) @ tiles.sum(0).T)
        for mode in MODES:
            for device in (
                MachineCodeDevice(mode, target="hip:gfx950"),  # type: ignore[arg-type]
                EmulatorDevice("hip:gfx950", "a test", mode, "reverse"),  # type: ignore[arg-type]
            ):
                c = np.full((64, 64), np.nan, np.float32)
                compiled.run_on(device, (q, k, c))  # type: ignore[arg-type]
                assert np.array_equal(c, expected), (device.name, n, mode)


# Dtype, sums, result.
WAYS = [
    ("float16", "float32", "float16"), ("bfloat16", "float32", "float32"),
    ("float8_e5m2", "float32", "float32"), ("int8", "int32", "int32"),
    ("float16", "float16", "float16"),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "total", "out"), WAYS)
def test_products_are_those_of_the_emulator_to_the_bit(dtype: str, total: str, out: str) -> None:
    """Small integers, whose sums are exact in any order."""
    number = WAYS.index((dtype, total, out))
    ta, tb = products.TRANSPOSES[number % 4]
    size = products.SIZES[number % 2]
    compiled = products.lowered(products.product(dtype, total, out, ta, tb), TARGET)
    for device in (MachineCodeDevice(), EmulatorDevice(TARGET, "a test")):
        products.check(device, compiled, ta, tb, out, size)


SOFTMAX = example("softmax")


def run_softmax(m: int, n: int, target: str, device: Any) -> np.ndarray:
    x = np.random.default_rng(m * n).standard_normal((m, n)).astype(np.float16)
    y = np.full((m, n), np.nan, np.float16)
    constants = SOFTMAX.row_tiles(None, {"X": x.shape})
    lower(SOFTMAX.softmax, (), target, constants).run_on(device, (x, y))
    expected = SOFTMAX.reference(x)
    assert np.all(np.abs(y - expected) <= 2.0**-11 * expected + 2.0**-24)
    return y


@pytest.mark.parametrize(("m", "n", "target"), [
    (3, 7, TARGET), (33, 128, TARGET), (5, 300, TARGET), (1, 1000, "hip:gfx90a"),
    (2, 4096, "hip:gfx950"),
])  # fmt: skip
def test_softmax(m: int, n: int, target: str) -> None:
    found = [run_softmax(m, n, target, MachineCodeDevice(mode)) for mode in MODES]  # type: ignore[arg-type]
    assert np.array_equal(*found)
    emulated = run_softmax(m, n, target, EmulatorDevice(target, "a test"))
    assert np.all(np.abs(found[0].astype(np.float64) - emulated) <= 2.0**-10 * emulated + 2.0**-24)


def check_attention(case: tuple[Any, ...], target: str, device: Any) -> np.ndarray:
    *_, causal, dtype, heads_first = case
    given = attention.operands(case, heads=1)
    constants = {"causal": causal, "dtype": dtype, "heads_first": heads_first}
    lower(attention.example.attention, given, target, constants).run_on(device, given)
    expected = attention.example.reference(*given[:3], causal, heads_first)
    attention.example.check(given[3], expected, given[2])
    return given[3]


@pytest.mark.parametrize("case", attention.CASES, ids=str)
def test_attention(case: tuple[Any, ...]) -> None:
    number = attention.CASES.index(case)
    target = TARGETS[number % 3]
    found = check_attention(case, target, MachineCodeDevice(order=ORDERS[number % 3]))
    emulated = check_attention(case, target, EmulatorDevice(target, "a test"))
    # As far apart as two sums of f32 in different orders may be, rounded.
    unit = 2.0**-10 if case[4] == "float16" else 2.0**-7
    assert np.allclose(found.astype(np.float64), emulated.astype(np.float64), unit, unit)


def test_the_dequantising_gemm() -> None:
    m, n, k = 130, 140, 192
    a = np.random.default_rng(2).integers(-3, 4, (m, k)).astype(np.float16)
    values, packed = programs.packed(n, k)
    c = np.full((m, n), np.nan, np.float16)
    lower(programs.origin(m, n, k), (), TARGET, {}).run_on(MachineCodeDevice(), (a, packed, c))
    exact = a.astype(np.float64) @ values.astype(np.float64).T
    assert np.array_equal(c.astype(np.float64), exact)


# Faults in the machine code: what they leave out, and how it shows.


def faulty_gemm(edit: Any, order: Any = "forward") -> str:
    """How a fault in the GEMM's assembly shows: the finding, "result", or ""."""
    a, b = DTYPES.operands("float16", 64, 64, 96)
    c = np.full((64, 64), np.nan, np.float16)
    compiled = lower(DTYPES.matmul("float16"), (), TARGET, {})
    try:
        compiled.run_on(MachineCodeDevice(order=order, edit=edit), (a, b, c))
        DTYPES.check("float16", a, b, c)
    except IsaError as error:
        return str(error)
    except AssertionError:
        return "result"
    return ""


def gemm_lines(pattern: str) -> list[int]:
    """Where instructions that match stand in the assembly of the aligned GEMM."""
    lowered = lower(DTYPES.matmul("float16"), (), TARGET, {}).lowered
    (spec,) = lowered.emitted.launches
    lines = assembled(lowered.text, f"{spec.symbol}.hip", "gfx942").splitlines()
    return [i for i, line in enumerate(lines) if re.match(rf"^\s+{pattern}", line)]


def without(line: int) -> Any:
    """The assembly with nothing in place of an instruction."""

    def edit(assembly: str) -> str:
        lines = assembly.splitlines()
        lines[line] = "\ts_nop 0"
        return "\n".join(lines)

    return edit


def test_waits_for_loads_are_needed() -> None:
    assert faulty_gemm(str) == ""
    waits = gemm_lines(r"s_waitcnt vmcnt\(\d+\)$")
    assert waits
    shown = [faulty_gemm(without(line)) for line in waits]
    # One that another implies may go; so may those of the generic start of a loop, which this size
    # does not reach. Of the rest the first use is named.
    assert sum("still being loaded" in s for s in shown) > len(waits) // 2


def test_barriers_are_needed_with_their_wait() -> None:
    barriers = gemm_lines("s_barrier")
    assert len(barriers) >= 2
    for line in barriers:
        shown = {order: faulty_gemm(without(line), order) for order in ORDERS}
        assert "result" in shown.values(), shown
    # The wait of the asm statement: without it the tile has not landed when others read it. In
    # the loop the waits for fragments imply it; where C passes through shared memory none does.
    assert "result" in [faulty_gemm(without(line - 1)) for line in barriers]


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (r"s_waitcnt vmcnt\(4\)", "s_waitcnt vmcnt(5)"),  # a copy too many under way
        (r"s_barrier", "s_nop 0"),
        (r"(?m)^(\ts_mov_b32 m0, s\d+)$", r"\1\n\ts_xor_b32 m0, m0, 0x400"),  # another wave's place
        (r"buffer_load_dwordx4 (v\d+, s\[[\d:]+\], 0) offen lds", r"s_nop 0 ; \1"),
    ],
    ids=["a weak wait", "no barrier", "a wrong place", "no copy"],
)
def test_faults_in_copies_to_shared_memory_show(pattern: str, instead: str) -> None:
    compiled = lower(programs.gemm(), (), "hip:gfx950", programs.TILES[2].constants(3))
    a, b, _ = programs.operands(64, 64, 160, "float16", True, seed=1)
    exact, allowed = reference(a, b, True)

    def edit(assembly: str) -> str:
        edited, count = re.subn(pattern, instead, assembly)
        assert count
        return edited

    def is_right(order: Any, edit: Any = str) -> bool:
        c = np.full((64, 64), np.nan, np.float16)
        compiled.run_on(MachineCodeDevice("late", order, edit=edit, target="hip:gfx950"), (a, b, c))
        return bool(np.all(np.abs(c.astype(np.float64) - exact) <= allowed))

    assert all(is_right(order) for order in ORDERS)
    assert not all(is_right(order, edit) for order in ORDERS)


# The larger sweep


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"cupy_pipeline", "dequantize_gemm"}))
def test_an_example_runs(name: str, target: str) -> None:
    """Each checks its own results. One passes arrays with gaps, which this device does not take; one
    is a kernel without a program, and has its own test."""
    devices.register_device("machine", lambda argument, why: MachineCodeDevice(target=argument))
    with devices.device(f"machine:{target}"):
        example(name).main()


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES.RESULTS)
def test_gemm_of_every_dtype_and_target(dtype: str, target: str) -> None:
    sizes = ((65, 63, 127), (129, 70, 200), (63, 65, 33), (1, 127, 64), (2, 2, 1))
    for shift in range(6):
        check_gemm(dtype, target, sizes[shift:] + sizes[:shift])


@pytest.mark.nightly
@pytest.mark.parametrize("case", [c for c in covering_cases() if c.target == TARGET], ids=str)
def test_gemm_of_every_tile(case: Case) -> None:
    compiled = case.lower()
    for number, size in enumerate(few_sizes(case.tile, case.stages)):
        a, b, c = case.operands(size)
        device = MachineCodeDevice(MODES[number % 2], ORDERS[number % 3])  # type: ignore[arg-type]
        compiled.run_on(device, (a, b, c))
        exact, allowed = reference(a, b, case.transpose_b)
        assert np.all(np.abs(c.astype(np.float64) - exact) <= allowed), size
