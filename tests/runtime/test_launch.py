"""The launch path down to the driver's C calls, on a driver that writes them down."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tilec.backends.manifest import (
    MULTIPROCESSORS,
    Argument,
    Fact,
    LaunchSpec,
    Manifest,
    ScalarParam,
    TensorMapSpec,
    TensorParam,
    Variant,
)
from tilec.errors import ArgumentError, ExecutionError, Loc, NoDevice, OutOfResources
from tilec.runtime import launch
from tilec.runtime.arrays import ArrayDevice
from tilec.runtime.binary import Binary
from tilec.runtime.cuda import CudaDriver
from tilec.runtime.gpu_driver import GpuDriver
from tilec.runtime.hip import HipDriver
from tilec.runtime.kernel_call import word_of
from tilec.runtime.launch import Loaded, load
from tilec.runtime.modules import refuse_capture

from .conftest import Stub, binding_of, device_array

CODE = Binary(b"cubin of the stub", "")
SCALE = LaunchSpec(
    "scale",
    (
        Argument("pointer", "A"),
        Argument("scalar", "factor"),
        Argument("symbol", "N"),
        Argument("symbol", "M", "i64"),
        Argument("tensor_map", "C_map", tensor_map=TensorMapSpec("C", (8, 8), 0)),
        Argument("pointer", "C"),
    ),
    (("ceildiv", "N", 128), "M", 1),
    256,
    65536,
)
SIZES = (8, 4, 4, 8, 128, 8)
PARAMS = (
    TensorParam("A", "f16", ("M", "N"), "r"),
    TensorParam("C", "f16", ("M", "N"), "w"),
    ScalarParam("factor", "f32"),
)


def manifest(**changes: Any) -> Manifest:
    variants = (Variant((Fact("aligned", "A", 16),), "scale.cu", (SCALE,)),)
    base = Manifest(1, "scale", "cuda:sm_90a", PARAMS, ("M", "N"), variants)
    return replace(base, **changes)


@pytest.fixture
def driver(stub: Stub) -> CudaDriver:
    stub.sizes(*SIZES)
    return CudaDriver(stub.path)


A = device_array((3, 1000), pointer=0x7F00_0000_1000)
C = device_array((3, 1000), pointer=0x7F00_0000_9000)


def test_every_argument_arrives_as_the_kernel_reads_it(stub: Stub, driver: CudaDriver) -> None:
    assert load(CODE, manifest(), driver)(A, C, 2.5, stream=0x1_0000_0001) is None
    seen = stub.launch()
    assert tuple(seen.grid) == (8, 3, 1)
    assert tuple(seen.block) == (256, 1, 1)
    assert (seen.shared, seen.stream, seen.extra) == (65536, 0x1_0000_0001, 0)
    assert seen.parameter(0, "u8") == A.pointer
    assert seen.parameter(1, "f4") == 2.5
    assert seen.parameter(2, "i4") == 1000
    assert seen.parameter(3, "i8") == 3
    assert seen.parameter(4, "u8") == C.pointer  # the stub's map begins with the address
    assert seen.parameter(5, "u8") == C.pointer
    assert stub.count("allowed") == 65536


def test_later_calls_write_only_what_changed(stub: Stub, driver: CudaDriver) -> None:
    loaded = load(CODE, manifest(), driver)
    for step in range(3):
        a, c = replace(A, pointer=A.pointer + 64 * step), replace(C, pointer=C.pointer + 64 * step)
        loaded(a, c, float(step), stream=step)
        seen = stub.launch()
        assert seen.parameter(0, "u8") == a.pointer
        assert seen.parameter(1, "f4") == step
        assert seen.parameter(4, "u8") == seen.parameter(5, "u8") == c.pointer
        assert seen.stream == step
    assert stub.count("loads") == 1
    loaded(replace(A, shape=(2, 1000)), replace(C, shape=(2, 1000)), 1.0)
    assert tuple(stub.launch().grid) == (8, 2, 1)
    assert stub.launch().parameter(3, "i8") == 2
    assert (stub.count("loads"), stub.count("launches")) == (1, 4)


def test_a_prepared_launch_repeats_itself(stub: Stub, driver: CudaDriver) -> None:
    loaded = load(CODE, manifest(), driver)
    prepared = loaded.prepare(A, C, 4.0)
    assert stub.count("launches") == 0
    loaded(replace(A, pointer=0x80000000), replace(C, pointer=0x90000000), 1.0)
    prepared(stream=9)
    prepared()
    for index, stream in ((1, 9), (2, 0)):
        seen = stub.launch(index)
        assert seen.parameter(0, "u8") == A.pointer
        assert seen.parameter(1, "f4") == 4.0
        assert seen.parameter(4, "u8") == C.pointer
        assert seen.stream == stream
    assert [call.spec.symbol for call in prepared.launches] == ["scale"]


@pytest.mark.parametrize("shape", [(0, 1000), (3, 0), (0, 0)])
def test_an_empty_grid_launches_nothing(
    stub: Stub, driver: CudaDriver, shape: tuple[int, int]
) -> None:
    loaded = load(CODE, manifest(), driver)
    loaded(replace(A, shape=shape), replace(C, shape=shape), 1.0)
    assert (stub.count("launches"), stub.count("loads")) == (0, 0)


def test_the_class_of_the_arguments_picks_the_variant(stub: Stub, driver: CudaDriver) -> None:
    plain = Variant((), "plain.cu", (replace(SCALE, symbol="plain", shared_bytes=0),))
    both = manifest(variants=(*manifest().variants, plain))
    loaded = load(CODE, both, driver)
    odd = replace(A, pointer=A.pointer + 2)
    for array, symbol, shared in ((A, "scale", 65536), (odd, "plain", 0), (A, "scale", 65536)):
        loaded(array, C, 1.0)
        seen = stub.launch()
        assert (seen.function & 0xFF, seen.shared) == (ord(symbol[0]), shared)
    with pytest.raises(ArgumentError, match="A starts at"):
        load(CODE, manifest(), driver)(odd, C, 1.0)


def test_variants_are_compiled_when_they_are_picked(driver: CudaDriver) -> None:
    asked: list[str] = []

    def compile_it(variant: Variant) -> Binary:
        asked.append(variant.source)
        return CODE

    loaded = load(compile_it, manifest(), driver)
    assert asked == []
    loaded(A, C, 1.0)
    loaded(replace(A, shape=(2, 1000)), replace(C, shape=(2, 1000)), 1.0)
    assert asked == ["scale.cu"]


def test_outputs_are_made_and_returned(
    stub: Stub, driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load(CODE, manifest(outputs=("C",)), driver)(A, 2.0)
    assert isinstance(made, np.ndarray)
    assert (made.shape, made.dtype) == ((3, 1000), np.float16)
    assert stub.launch().parameter(5, "u8") == made.ctypes.data
    stub.sizes(8, 4)
    params = (
        TensorParam("A", "f16", ("n", 8), "w"),
        TensorParam("C", "bf16", (8, 8), "w"),
        ScalarParam("n", "i32"),
        ScalarParam("factor", "f32"),
    )
    spec = replace(SCALE, arguments=SCALE.arguments[:2], grid=(1, 1, 1))
    two = Manifest(1, "two", "cuda:sm_90a", params, (), (Variant((), "s.cu", (spec,)),), ("A", "C"))
    with pytest.raises(ArgumentError, match="cannot be allocated for arrays of cupy"):
        load(CODE, two, driver)(5, 1.0)  # no array names a library, and none with a GPU is there
    both = load(CODE, two, driver)
    monkeypatch.setattr("tilec.runtime.plan.library_on_device", lambda: "numpy")
    first, second = both(5, 1.0)
    assert (first.shape, second.dtype) == ((5, 8), np.dtype(ml_dtypes.bfloat16))
    assert both(6, 1.0)[0].shape == (6, 8)


def test_workspaces_are_shared_by_the_calls_of_a_stream(stub: Stub, driver: CudaDriver) -> None:
    partial = TensorParam("partial", "f32", (MULTIPROCESSORS, "N"), "rw")
    two = LaunchSpec(
        "two", (Argument("pointer", "partial"), Argument("pointer", "A")), (1, 1, 1), 32, 0
    )
    variant = Variant(
        (Fact("aligned", "partial", 16),),
        "s.cu",
        (two, replace(two, symbol="second")),
        (partial,),
    )
    loaded = load(CODE, manifest(variants=(variant,)), driver)
    stub.sizes(8, 8)

    def address(stream: int) -> int:
        loaded(A, C, 1.0, stream=stream)
        first, second = stub.launch(-2), stub.launch(-1)
        assert (first.function & 0xFF, second.function & 0xFF) == (ord("t"), ord("s"))
        assert first.parameter(0, "u8") == second.parameter(0, "u8") != 0
        return int(first.parameter(0, "u8"))  # type: ignore[call-overload,no-any-return]

    assert address(1) == address(1)
    assert address(1) != address(2)
    prepared = loaded.prepare(A, C, 1.0)
    prepared(stream=1)
    assert stub.launch().parameter(0, "u8") != address(1)


def test_grids_may_depend_on_scalars_and_the_device(stub: Stub, driver: CudaDriver) -> None:
    params = (TensorParam("A", "f16", ("M", "N"), "r"), ScalarParam("n", "u8"))
    spec = LaunchSpec(
        "f", (Argument("scalar", "n", "i64"),), (("min", MULTIPROCESSORS, "n"), 1, 1), 32, 0
    )
    loaded = load(CODE, manifest(params=params, variants=(Variant((), "f.cu", (spec,)),)), driver)
    stub.sizes(8)
    for n in (7, 200, 7):
        loaded(A, n)
        assert tuple(stub.launch().grid) == (min(n, 132), 1, 1)
        assert stub.launch().parameter(0, "i8") == n


@pytest.mark.parametrize(
    ("dtype", "value", "code"),
    [("i8", -3, "i1"), ("i32", -70000, "i4"), ("i64", -(1 << 40), "i8"), ("u32", 1 << 31, "u4"),
     ("u64", (1 << 64) - 1, "u8"), ("bool", 1, "u1"), ("f16", 0.333, "f2"), ("f32", -1e30, "f4"),
     ("f64", 1e300, "f8"), ("f32", float("inf"), "f4")],
)  # fmt: skip
def test_scalars_are_packed_as_their_dtype(dtype: str, value: float, code: str) -> None:
    word = word_of(dtype)(value).to_bytes(8, "little")
    expected = np.array(value, code).tobytes()
    assert word[: len(expected)] == expected


def test_scalars_of_small_float_types_are_rounded_as_ml_dtypes_does() -> None:
    for dtype, element in (("bf16", ml_dtypes.bfloat16), ("e4m3", ml_dtypes.float8_e4m3fn)):
        for value in (0.1, 1.00390625, -3.3, 448.0):
            expected = int.from_bytes(np.array(value, element).tobytes(), "little")
            assert word_of(dtype)(value) == expected


def test_a_float_too_large_for_its_parameter_is_refused(driver: CudaDriver) -> None:
    loaded = load(CODE, manifest(), driver)
    with pytest.raises(ArgumentError, match="factor is 1e\\+300, which f32 cannot hold"):
        loaded(A, C, 1e300)


def test_errors_name_the_parameter_and_carry_the_kernels_place(driver: CudaDriver) -> None:
    loaded = load(CODE, manifest(), driver, Loc("kernel.py", 12, 0))
    for wrong in ((A, 3, 1.0), (A, replace(C, dtype="f32"), 1.0), (A, C, "x"), (A, C)):
        with pytest.raises(ArgumentError) as caught:
            loaded(*wrong)
        assert str(caught.value.loc) == "kernel.py:12:1"
        assert caught.value.message.startswith("scale: ")
    on_host = np.zeros((3, 1000), np.float16)
    with pytest.raises(ArgumentError, match="the arrays are on cpu, the program is for cuda"):
        loaded(on_host, on_host.copy(), 1.0)


def test_limits_of_the_device(stub: Stub, driver: CudaDriver) -> None:
    stub.sizes()

    def with_launch(**changes: Any) -> Loaded:
        variant = Variant((), "s.cu", (replace(SCALE, arguments=(), **changes),))
        return load(CODE, manifest(variants=(variant,)), driver)

    with pytest.raises(OutOfResources, match="232449 bytes of shared memory, cuda:0 has 232448"):
        with_launch(shared_bytes=232449)(A, C, 1.0)
    with_launch(shared_bytes=232448)(A, C, 1.0)
    with pytest.raises(ArgumentError, match="66000 blocks along y, at most 65535 go"):
        with_launch(grid=(1, 66000, 1))(A, C, 1.0)
    with_launch(grid=(66000, 1, 1))(A, C, 1.0)
    spec = replace(SCALE, arguments=(Argument("symbol", "N"),), grid=(1, 1, 1))
    wide = manifest(
        params=(TensorParam("A", "u8", ("N",), "r"),),
        symbols=("N",),
        variants=(Variant((), "s.cu", (spec,)),),
    )
    with pytest.raises(
        ArgumentError, match="N is 2147483648, from A, expected less than 2147418112"
    ):
        load(CODE, wide, driver)(device_array((1 << 31,), "u8"))


def test_failures_of_the_driver_are_told(stub: Stub, driver: CudaDriver) -> None:
    loaded = load(CODE, manifest(), driver)
    loaded(A, C, 1.0)
    stub.library.stub_fail_next(700)
    with pytest.raises(
        ExecutionError, match="CUDA_ERROR_ILLEGAL_ADDRESS: as the stub says when launching"
    ):
        loaded(A, C, 1.0)
    with pytest.raises(ExecutionError, match="when loading 5 bytes"):
        load(Binary(b"wrong", ""), manifest(), driver)(A, C, 1.0)
    absent = manifest(variants=(Variant((), "s.cu", (replace(SCALE, symbol="absent"),)),))
    with pytest.raises(ExecutionError, match="looking for the kernel absent"):
        load(CODE, absent, driver)(A, C, 1.0)


def test_nothing_is_loaded_while_a_stream_is_captured(stub: Stub, driver: CudaDriver) -> None:
    loaded = load(CODE, manifest(), driver, Loc("kernel.py", 3, 0))
    stub.library.stub_capture(1)
    with pytest.raises(ExecutionError, match="its stream is being captured") as caught:
        loaded(A, C, 1.0, stream=5)
    assert caught.value.loc.line == 3
    assert "before the capture" in caught.value.hint
    assert (stub.count("loads"), stub.count("launches")) == (0, 0)
    with pytest.raises(ExecutionError, match="scale is not loaded yet"):
        refuse_capture(driver, 5, "scale")
    stub.library.stub_capture(906)  # what the default stream answers during another's capture
    with pytest.raises(ExecutionError, match="scale is not loaded yet"):
        refuse_capture(driver, 0, "scale")
    stub.library.stub_capture(0)
    loaded(A, C, 1.0, stream=5)
    prepared = loaded.prepare(A, C, 1.0)
    stub.library.stub_capture(1)
    loaded(A, C, 1.0, stream=5)
    prepared(stream=5)
    assert stub.count("launches") == 3


def test_arrays_that_name_their_stream_are_waited_for(stub: Stub, driver: CudaDriver) -> None:
    loaded = load(CODE, manifest(), driver)
    for array_stream, stream, waits in ((None, 9, 0), (7, 9, 1), (9, 9, 0), (1, 0, 0), (1, 9, 1)):
        before = stub.count("waits")
        loaded(replace(A, stream=array_stream), C, 1.0, stream=stream)
        assert stub.count("waits") - before == waits


def test_a_thread_without_a_context_gets_one(stub: Stub, driver: CudaDriver) -> None:
    loaded = load(CODE, manifest(), driver)
    loaded(A, C, 1.0)
    stub.set_context(0)
    stub.library.stub_fail_next(201)
    loaded(A, C, 1.0)
    assert stub.context == 0x1000
    assert stub.count("launches") == 2


def test_with_several_devices_the_arrays_choose_and_the_callers_stays(stub: Stub) -> None:
    stub.reset(devices=2)
    stub.sizes(*SIZES)
    loaded = load(CODE, manifest(), CudaDriver(stub.path))
    stub.set_context(0x1000)
    second = ArrayDevice("cuda", 1)
    loaded(replace(A, device=second), replace(C, device=second), 1.0)
    assert stub.launch().function >> 40 == 0x1001  # a function of the second context's module
    assert stub.context == 0x1000
    loaded(A, C, 1.0)
    assert stub.launch().function >> 40 == 0x1000
    assert stub.count("loads") == 2


def test_modules_are_unloaded_with_their_program(stub: Stub, driver: CudaDriver) -> None:
    gc.collect()  # programs of other tests, which an exception may still hold
    stub.reset()
    stub.sizes(*SIZES)
    loaded = load(CODE, manifest(), driver)
    loaded(A, C, 1.0)
    prepared = loaded.prepare(A, C, 1.0)
    del loaded
    assert stub.count("unloads") == 0
    prepared()
    del prepared
    assert stub.count("unloads") == 1


class CupyError(Exception):
    """cupy's CUDADriverError."""


def fake_cupy() -> ModuleType:
    """cupy as far as modules go."""

    class Module:
        def load(self, code: bytes) -> None:
            if code != CODE.code:
                raise CupyError("CUDA_ERROR_NO_BINARY_FOR_GPU")

        def get_function(self, symbol: str) -> Any:
            if symbol != "scale":
                raise CupyError("CUDA_ERROR_NOT_FOUND")
            return SimpleNamespace(ptr=0xABCDEF0123)

    cupy: Any = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(
        Device=lambda index: nullcontext(),
        function=SimpleNamespace(Module=Module),
        driver=SimpleNamespace(CUDADriverError=CupyError),
        get_current_stream=lambda index: SimpleNamespace(ptr=40 + index),
    )
    return cupy  # type: ignore[no-any-return]


def test_where_cupy_is_loaded_it_loads_the_modules(
    stub: Stub, driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    load(CODE, manifest(), driver)(A, C, 1.0)
    assert (stub.launch().function, stub.launch().stream) == (0xABCDEF0123, 40)
    assert (stub.count("loads"), stub.count("allowed")) == (0, 65536)
    with pytest.raises(
        ExecutionError, match="NO_BINARY_FOR_GPU when loading 5 bytes of machine code on cuda:0"
    ):
        load(Binary(b"other", ""), manifest(), driver)(A, C, 1.0)
    absent = manifest(variants=(Variant((), "s.cu", (replace(SCALE, symbol="absent"),)),))
    with pytest.raises(ExecutionError, match="NOT_FOUND when looking for the kernel absent"):
        load(CODE, absent, driver)(A, C, 1.0)


def test_plans_are_bounded(stub: Stub, driver: CudaDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MAX_PLANS", 4)
    loaded = load(CODE, manifest(), driver)
    for rows in (*range(1, 9), 1):
        loaded(replace(A, shape=(rows, 1000)), replace(C, shape=(rows, 1000)), 1.0)
        assert tuple(stub.launch().grid) == (8, rows, 1)
    assert len(loaded._plans) == 4


def test_threads_do_not_mix_their_arguments(driver: CudaDriver) -> None:
    """A launch lets other threads run in its middle."""
    seen: list[tuple[int, int]] = []
    gate = threading.Event()

    def launch(stream: int, parameters: Any) -> int:
        gate.wait(0.002)
        seen.append((stream, ctypes.c_uint64.from_address(parameters[0]).value))
        return 0

    driver.binding = binding_of(launch)  # type: ignore[method-assign]
    loaded = load(CODE, manifest(), driver)

    def call(index: int) -> None:
        loaded(replace(A, pointer=0x1000 * index), C, 1.0, stream=index)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(1, 65)))
    assert sorted(seen) == [(index, 0x1000 * index) for index in range(1, 65)]


def test_hip_makes_the_same_launch(stub: Stub) -> None:
    stub.reset(devices=2)
    stub.sizes(8, 4, 4, 8, 8)
    arguments = tuple(a for a in SCALE.arguments if a.kind != "tensor_map")
    spec = replace(SCALE, arguments=arguments)
    program = manifest(target="hip:gfx942", variants=(Variant((), "s.hip", (spec,)),))
    driver = HipDriver(stub.path)
    place = ArrayDevice("hip", 1)
    a, c = replace(A, device=place), replace(C, device=place)
    greedy = Variant((), "s.hip", (replace(spec, shared_bytes=65537),))
    with pytest.raises(OutOfResources, match="hip:1 has 65536"):
        load(CODE, replace(program, variants=(greedy,)), driver)(a, c, 1.0)
    load(CODE, program, driver)(a, c, 2.5, stream=3)
    seen = stub.launch()
    assert tuple(seen.grid) == (8, 3, 1)
    assert seen.parameter(0, "u8") == a.pointer
    assert seen.parameter(1, "f4") == 2.5
    assert seen.parameter(4, "u8") == c.pointer
    assert (seen.function, seen.stream, stub.count("device")) == (0x4000 + ord("s"), 3, 0)
    together = Variant((), "s.hip", (replace(spec, cooperative=True),))
    load(CODE, replace(program, variants=(together,)), driver)(a, c, 2.5, stream=3)
    assert stub.launch().extra == 2
    assert driver.multiprocessors(0) == 304
    assert driver.capability(0) == (9, 4)
    with pytest.raises(ArgumentError, match="the program is for hip"):
        load(CODE, program, driver)(A, C, 1.0)


@pytest.mark.parametrize("kind", [CudaDriver, HipDriver])
def test_no_device_has_three_remedies(stub: Stub, kind: type[GpuDriver]) -> None:
    stub.reset(devices=0)
    for library in (stub.path, "libdoes-not-exist.so"):
        with pytest.raises(NoDevice) as caught:
            kind(library)  # type: ignore[call-arg]
        assert caught.value.exit_status == 4
        for remedy in ("interpreter", "tilec build", "pip install"):
            assert remedy in caught.value.hint
