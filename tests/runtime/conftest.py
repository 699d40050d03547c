"""A driver that writes down its calls, built from stub_driver.cpp, and arrays that claim to be on
it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.runtime import compiled as compiled_module
from tilec.runtime import gpu_device
from tilec.runtime.arrays import ArrayDevice, ArrayView, contiguous_strides, item_bytes
from tilec.runtime.binary import Binary
from tilec.runtime.cuda import CudaDriver


class LaunchRecord(ctypes.Structure):
    """One launch as the stub saw it: `parameters` holds what it copied from each address."""

    _fields_ = (
        ("function", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared", ctypes.c_uint32),
        ("extra", ctypes.c_uint32),
        ("parameters", (ctypes.c_ubyte * 128) * 8),
    )

    def parameter(self, index: int, code: str) -> object:
        """Parameter `index` read as a NumPy dtype."""
        dtype = np.dtype(code)
        return np.frombuffer(bytes(self.parameters[index])[: dtype.itemsize], dtype)[0]


class Stub:
    """The stub library and what it has seen."""

    counters = ("launches", "loads", "unloads", "waits", "allowed", "device")

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.library = ctypes.CDLL(self.path)
        self.library.stub_launch.restype = ctypes.POINTER(LaunchRecord)
        self.library.stub_context.restype = ctypes.c_uint64

    def reset(self, devices: int = 1) -> None:
        self.library.stub_reset(devices)

    def sizes(self, *sizes: int) -> None:
        """How many bytes the kernel's parameters have."""
        self.library.stub_sizes(len(sizes), (ctypes.c_int * len(sizes))(*sizes))

    def count(self, what: str) -> int:
        return int(self.library.stub_counts(self.counters.index(what)))

    def launch(self, index: int = -1) -> LaunchRecord:
        index = index if index >= 0 else self.count("launches") + index
        found: LaunchRecord = self.library.stub_launch(index).contents
        return found

    @property
    def context(self) -> int:
        return int(self.library.stub_context())

    def set_context(self, context: int) -> None:
        self.library.stub_set_context(ctypes.c_uint64(context))


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++") or shutil.which("clang++-19") or shutil.which("c++")
    assert compiler, "these tests need a C++ compiler: apt-get install g++"
    path = tmp_path_factory.mktemp("stub") / "libstub.so"
    source = Path(__file__).with_name("stub_driver.cpp")
    command = [compiler, "-std=c++17", "-shared", "-fPIC", "-o", str(path), str(source)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def stub(stub_library: Path) -> Iterator[Stub]:
    found = Stub(stub_library)
    found.reset()
    yield found
    found.reset()


def binding_of(launch: Callable[[int, Any], int]) -> Any:
    """A driver's `binding` by which every launch is a call of `launch` with the stream and the parameters'
    addresses."""
    return lambda *_: lambda stream, parameters: partial(launch, stream, parameters)


def device_array(
    shape: tuple[int, ...],
    dtype: str = "f16",
    pointer: int = 0x7F00_0000_0000,
    strides: tuple[int, ...] | None = None,
    kind: str = "cuda",
    **others: object,
) -> ArrayView:
    """An array that claims to lie on a GPU. Nothing is there: only its description is used."""
    values = {"device": ArrayDevice(kind), "readonly": False, "library": "numpy", "owner": None}
    values.update(others)
    steps = contiguous_strides(shape, item_bytes(dtype)) if strides is None else strides
    return ArrayView(pointer, shape, steps, dtype, **values)  # type: ignore[arg-type]


@pytest.fixture
def on_gpu() -> object:
    return device_array


class CupyArray:
    """An array as cupy's are read, at an address where nothing is."""

    def __init__(self, shape: tuple[int, ...], pointer: int, device: int = 0) -> None:
        self.shape, self.dtype = shape, np.dtype(np.float32)
        self.strides = contiguous_strides(shape, 4)
        self.data = SimpleNamespace(ptr=pointer, device_id=device)

    @property
    def _c_contiguous(self) -> bool:
        return self.strides == contiguous_strides(self.shape, 4)


CupyArray.__module__ = "cupy"


class FakeCupy(ModuleType):
    """cupy as far as calls go; `made` are the arrays that it allocated."""

    def __init__(self) -> None:
        super().__init__("cupy")
        module = SimpleNamespace(
            load=lambda code: None,
            get_function=lambda name: SimpleNamespace(ptr=0x4000 + len(name)),
        )
        self.cuda: Any = SimpleNamespace(
            Device=lambda index: nullcontext(),
            ExternalStream=lambda stream, device: nullcontext(),
            Stream=object,
            function=SimpleNamespace(Module=lambda: module),
            driver=SimpleNamespace(CUDADriverError=RuntimeError),
            get_current_stream=lambda index=0: SimpleNamespace(ptr=40 + index),
            runtime=SimpleNamespace(is_hip=False),
        )
        self.made: list[CupyArray] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> CupyArray:
        self.made.append(CupyArray(shape, 0x7F55_0000_0000 + 0x1_0000 * len(self.made)))
        return self.made[-1]


@pytest.fixture
def cupy(stub: Stub, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeCupy:
    """A machine with the stub for a driver, cupy's fake, and a compiler that makes nothing; of one
    device, or of as many as the parameter says."""
    stub.reset(devices=getattr(request, "param", 1))
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setenv("TILEC_TARGET", "cuda:sm_80")
    driver = CudaDriver(stub.path)
    for module in (gpu_device, compiled_module):
        monkeypatch.setattr(module, "driver_of", lambda kind: driver)
    monkeypatch.setattr(compiled_module.CompiledKernel, "compiled", lambda *_: Binary(b"cubin", ""))
    return fake


def does_without(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> Callable[[Callable[[], Any]], bool]:
    """What says of a call whether a function of a module has no part in it."""
    real = getattr(module, name)
    went: list[int] = []

    def count(*arguments: Any) -> Any:
        went.append(1)
        return real(*arguments)

    monkeypatch.setattr(module, name, count)

    def ask(call: Callable[[], Any]) -> bool:
        went.clear()
        call()
        return not went

    return ask


def adder() -> Any:
    """A kernel that adds two vectors and remembers no call."""

    @tilec.kernel
    def add(A: T.Tensor("N", "float32"), B: T.Tensor("N", "float32"), C: T.Tensor("N", "float32")):
        with T.Kernel(T.ceildiv(A.shape[0], 128), threads=128) as bx:
            for i in T.Parallel(128):
                C[bx * 128 + i] = A[bx * 128 + i] + B[bx * 128 + i]

    return add
