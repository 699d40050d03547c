"""Which device runs a call, why, and what is said where there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tilec.backends.manifest import Argument, LaunchSpec, Manifest, TensorParam, Variant
from tilec.errors import MissingTool, NoDevice, TargetUnsupported, TilecError
from tilec.runtime import devices, gpu_device
from tilec.runtime.binary import Binary
from tilec.runtime.cuda import CudaDriver
from tilec.runtime.devices import (
    device,
    open_device,
    register_device,
    select_device,
    stated_target,
    target_for_capability,
)
from tilec.runtime.gpu_device import GpuDevice
from tilec.runtime.hip import HipDriver
from tilec.runtime.launch import load
from tilec.target import Target, find_target

from .conftest import Stub, binding_of, device_array


@dataclass(frozen=True)
class Pretend:
    """A device that only says which it is."""

    name: str
    why: str

    @property
    def target(self) -> Target:
        return find_target("cuda:sm_80")

    def run(self, compiled: Any, arrays: Sequence[object], stream: object = None) -> Any:
        return (self.name, compiled, arrays, stream)


@pytest.fixture(autouse=True)
def pretend_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend devices of every kind in a table of the test's own."""
    monkeypatch.setattr(devices, "_factories", {})
    for kind in ("interpreter", "emulator", "cuda", "hip"):
        register_device(kind, lambda rest, why, kind=kind: Pretend(f"{kind}:{rest}", why))  # type: ignore[misc]


HOST = np.zeros(4, np.float32)


def test_importing_the_runtime_imports_no_library_of_arrays_and_asks_no_driver() -> None:
    code = (
        "import sys, tilec.runtime.devices, tilec.runtime.build, tilec.runtime.gpu_device\n"
        "print(*sorted({'cupy', 'torch', 'jax', 'ml_dtypes'} & set(sys.modules)))\n"
        "from tilec.runtime import cuda, hip, nvrtc\n"
        "for find in (cuda.cuda_driver, hip.hip_driver, nvrtc.find_nvrtc):\n"
        "    print(find.cache_info().currsize)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.split() == ["0", "0", "0"]


def test_arrays_decide() -> None:
    chosen = select_device([3, HOST, 1.5])
    assert (chosen.name, chosen.why) == ("interpreter:", "the arrays are in the host's memory")
    chosen = select_device([device_array((4,), device=devices.ArrayDevice("cuda", 1))])
    assert (chosen.name, chosen.why) == ("cuda:1", "the arrays are on cuda:1")
    assert select_device([device_array((4,), kind="hip")]).name == "hip:0"
    with pytest.raises(NoDevice, match="runs nothing on mps"):
        select_device([device_array((4,), kind="mps")])


def test_the_context_goes_before_the_environment_and_that_before_arrays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TILEC_DEVICE", "cuda")
    assert select_device([HOST]).why == "TILEC_DEVICE=cuda says so"
    with device("emulator:hip:gfx942"):
        chosen = select_device([HOST])
        assert chosen.name == "emulator:hip:gfx942"
        assert "with tilec.device" in chosen.why
        with device("interpreter"):
            assert select_device([]).name == "interpreter:"
        assert select_device([]).name == "emulator:hip:gfx942"
    assert select_device([HOST]).name == "cuda:"


def test_an_unknown_name_is_refused_at_once_with_the_known_ones() -> None:
    with pytest.raises(TilecError, match="there is no device 'cdua:0'") as caught, device("cdua:0"):
        pass
    assert "devices are cuda, emulator, hip, interpreter" in caught.value.hint


def test_without_arrays_a_gpu_is_taken_if_there_is_one() -> None:
    assert select_device([5]).name == "cuda:"

    def absent(rest: str, why: str) -> Pretend:
        raise NoDevice("TLC0901", "none")

    register_device("cuda", absent)
    assert select_device([5]).name == "hip:"
    register_device("hip", absent)
    chosen = select_device([5])
    assert (chosen.name, chosen.why) == (
        "interpreter:",
        "no array says otherwise and there is no GPU",
    )


def test_a_kind_whose_module_is_absent_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(devices._BUILT_IN, "quantum", ".quantum_device")
    with pytest.raises(NoDevice, match="this tilec has no quantum"):
        open_device("quantum")


@pytest.mark.parametrize(("kind", "extra"), [("cuda", "cuda13"), ("hip", "rocm7")])
def test_a_machine_without_a_driver_says_what_else_to_do(
    kind: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices._factories.pop(kind)
    monkeypatch.delitem(
        sys.modules, "tilec.runtime.gpu_device"
    )  # so that it registers itself again
    monkeypatch.setattr(devices, "cuda_driver", lambda: CudaDriver("libabsent.so"))
    monkeypatch.setattr(devices, "hip_driver", lambda: HipDriver("libabsent.so"))
    with pytest.raises(NoDevice, match=f"no {kind} driver: libabsent") as caught:
        open_device(kind)
    assert caught.value.exit_status == 4
    hint = caught.value.hint
    assert "interpreter" in hint and f"--target {kind}:" in hint and f"tilec[{extra}]" in hint


@pytest.mark.parametrize(
    ("capability", "arch"),
    [
        ((7, 5), "sm_75"),
        ((8, 0), "sm_80"),
        ((8, 6), "sm_86"),
        ((8, 7), "sm_86"),
        ((8, 9), "sm_89"),
        ((9, 0), "sm_90a"),
        ((10, 0), "sm_100a"),
        ((10, 3), "sm_100a"),
        ((12, 0), "sm_120a"),
        ((12, 1), "sm_120a"),
    ],
)
def test_a_gpu_gets_the_newest_target_of_its_major_that_it_can_run(
    capability: tuple[int, int], arch: str
) -> None:
    assert target_for_capability(*capability).arch == arch


@pytest.mark.parametrize("capability", [(7, 0), (9, 1), (11, 0), (13, 0), (2, 0)])
def test_a_gpu_that_runs_no_listed_target(capability: tuple[int, int]) -> None:
    """wgmma of sm_90a is not there on a later minor version of Hopper; of others there is no
    target of the major version, or only newer ones.
    """
    name = ".".join(map(str, capability))
    with pytest.raises(NoDevice, match=f"capability {name}"):
        target_for_capability(*capability)


def test_the_stated_target(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stated_target() is None
    monkeypatch.setenv("TILEC_TARGET", "hip:gfx942")
    assert stated_target() is find_target("hip:gfx942")
    monkeypatch.setenv("TILEC_TARGET", "hip:gfx9999")
    with pytest.raises(TargetUnsupported, match="gfx9999"):
        stated_target()


def test_a_gpus_target_is_its_own_or_the_stated(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = GpuDevice("cuda", 0, CudaDriver(stub.path), "")
    assert (gpu.name, gpu.target.name) == ("cuda:0", "cuda:sm_90a")
    monkeypatch.setenv("TILEC_TARGET", "cuda:sm_80")
    assert gpu.target.name == "cuda:sm_80"
    assert gpu.target.multiprocessors == gpu.driver.multiprocessors(0)
    assert gpu.target.multiprocessors != find_target("cuda:sm_80").multiprocessors
    monkeypatch.setenv("TILEC_TARGET", "hip:gfx942")
    assert gpu.target.name == "cuda:sm_90a"


def test_gpus_are_opened_by_index(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.reset(devices=2)
    monkeypatch.setattr(gpu_device, "driver_of", lambda kind: CudaDriver(stub.path))
    assert gpu_device._open("cuda", "1", "").index == 1
    for wrong in ("2", "first", "-1"):
        with pytest.raises(NoDevice, match=f"there is no cuda:{wrong} here"):
            gpu_device._open("cuda", wrong, "")


ADD_ONE = Manifest(
    1,
    "add_one",
    "cuda:sm_80",
    (TensorParam("A", "bf16", ("M", "N"), "rw"), TensorParam("B", "u8", ("N",), "r")),
    ("M", "N"),
    (
        Variant(
            (),
            "a.cu",
            (
                LaunchSpec(
                    "f", (Argument("pointer", "A"), Argument("pointer", "B")), (1, 1, 1), 32, 0
                ),
            ),
        ),
    ),
)


class FakeCupy(ModuleType):
    """cupy as far as copies go; its device memory is the host's."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.copies: list[Any] = []

    @property
    def cuda(self) -> Any:
        class Device:
            def __init__(self, index: int) -> None:
                self.index = index

            def __enter__(self) -> None: ...

            def __exit__(self, *_: object) -> None: ...

            def synchronize(self) -> None: ...

        return SimpleNamespace(
            Device=Device, get_current_stream=lambda device: SimpleNamespace(ptr=0)
        )

    def asarray(self, array: np.ndarray[Any, Any]) -> Any:
        there = array.copy()
        self.copies.append(there)
        return SimpleNamespace(data=SimpleNamespace(ptr=there.ctypes.data), array=there)

    def asnumpy(self, there: Any) -> Any:
        return there.array.copy()


class Program:
    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded

    def loaded(self) -> Any:
        return self._loaded


def test_numpy_arrays_are_copied_to_a_gpu_and_what_is_written_back(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ml_dtypes

    stub.sizes(8, 8)
    driver = CudaDriver(stub.path)
    loaded = load(Binary(b"cubin", ""), ADD_ONE, driver)
    loaded(device_array((2, 3), "bf16"), device_array((3,), "u8"))  # loads the module without cupy
    cupy = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    gpu = GpuDevice("cuda", 0, driver, "")
    a = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    b = np.arange(3, dtype=np.uint8)
    before = a.copy()

    def kernel(*arguments: Any) -> int:
        cupy.copies[0].view(ml_dtypes.bfloat16)[...] += 1
        cupy.copies[1][...] += 1
        return 0

    loaded._plans.clear()
    monkeypatch.setattr(driver, "binding", binding_of(kernel))
    assert gpu.run(Program(loaded), (a, b)) is None
    assert (a == before + 1).all()
    assert b.tolist() == [0, 1, 2]  # the program does not write it


def test_copying_needs_cupy_and_says_so(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    loaded = load(Binary(b"cubin", ""), ADD_ONE, CudaDriver(stub.path))
    gpu = GpuDevice("cuda", 0, loaded.driver, "")
    import ml_dtypes

    a, b = np.zeros((2, 3), ml_dtypes.bfloat16), np.zeros(3, np.uint8)
    with pytest.raises(MissingTool, match="copied to a cuda device by cupy") as caught:
        gpu.run(Program(loaded), (a, b))
    assert "tilec[cuda13]" in caught.value.hint
