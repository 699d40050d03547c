"""Probes of the prelude on this machine's GPU: the CUDA prelude's own text, by NVRTC.

`pytest --on-gpu tests/backends/test_probe_*.py` asks of the hardware what the tests ask of the
emulator, so that each function of the CPU prelude is held against the one that it stands for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from tilec.backends.prelude import render_source
from tilec.runtime.arrays import ArrayDevice, ArrayView
from tilec.runtime.cuda import cuda_driver
from tilec.runtime.gpu_device import upload
from tilec.runtime.gpu_driver import LoadedModule
from tilec.runtime.kernel_call import KernelCall
from tilec.runtime.nvrtc import find_nvrtc
from tilec.runtime.tensor_maps import TensorMapCache

from .emulation import Probes

ARCH = "sm_90a"


@cache
def _module(probes: Probes) -> LoadedModule:
    frames = [probe.frame(name) for name, probe in probes.probes.items()]
    binary = find_nvrtc().compile(render_source("cuda", frames), "probes.cu", ARCH)
    return cuda_driver().load(binary.code, 0)


def run_probe(
    probes: Probes, name: str, arguments: Mapping[str, Any], grid: tuple[int, int, int]
) -> None:
    """Runs a probe on NumPy arrays, which change in place, and numbers."""
    cupy: Any = importlib.import_module("cupy")
    driver, probe = cuda_driver(), probes.probes[name]
    spec = probe.launch(name, grid)
    function = _module(probes).function(name)
    driver.allow_shared(function, probe.shared_bytes, 0)
    arrays = {n: x for n, x in arguments.items() if isinstance(x, np.ndarray)}
    there = {n: upload(cupy.asarray, ArrayDevice("cuda"), x) for n, x in arrays.items()}
    views = [view for view in there.values() if isinstance(view, ArrayView)]
    places = {n: (i, view) for i, (n, view) in enumerate(zip(there, views, strict=True))}
    scalars = {n: (i, dtype) for i, (n, dtype) in enumerate(probe.scalars.items())}
    call = KernelCall(driver, function, spec, grid, {}, places, scalars)
    numbers = [arguments[n] for n in scalars]
    call.patch([view.pointer for view in views], numbers, TensorMapCache(), driver)
    assert call.on(0)() == 0
    cupy.cuda.Device(0).synchronize()
    for array, view in zip(arrays.values(), views, strict=True):
        if array.flags.writeable:
            found = cupy.asnumpy(view.owner)
            array[...] = np.ndarray(array.shape, array.dtype, found.data, strides=view.strides)
