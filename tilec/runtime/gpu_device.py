"""The GPU as a Device: arrays that are there run in place, NumPy arrays are copied there and
back."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..backends.launcher.arrays import contiguous_strides
from ..backends.manifest import Manifest, TensorParam
from ..errors import MissingTool, NoDevice
from ..target import Target, find_target
from .arrays import ArrayDevice, ArrayView, short_dtype, view_array
from .check_args import bind_arguments
from .cuda import ResidentClusters
from .devices import (
    Runnable,
    driver_of,
    register_device,
    stated_target,
    target_for_capability,
)
from .gpu_driver import GpuDriver, remedies


class GpuDevice:
    """One GPU, by CUDA or HIP."""

    def __init__(self, kind: str, index: int, driver: GpuDriver, why: str) -> None:
        self.kind = kind
        self.index = index
        self.driver = driver
        self.why = why

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.index}"

    @property
    def target(self) -> Target:
        """TILEC_TARGET where it is of this kind, else what the GPU is, with as many multiprocessors
        as this one has, and clusters of them: heuristics count on them. Raises NoDevice."""
        listed, count = self._listed(), self.driver.multiprocessors(self.index)
        clusters = ResidentClusters(self.index) if listed.clusters else None
        return replace(listed, multiprocessors=count, present=True, resident_clusters=clusters)

    def _listed(self) -> Target:
        stated = stated_target()
        if stated is not None and stated.backend == self.kind:
            return stated
        if self.kind == "cuda":
            return target_for_capability(*self.driver.capability(self.index))
        cupy = _import_cupy("hip")
        arch = cupy.cuda.runtime.getDeviceProperties(self.index)["gcnArchName"]
        return find_target("hip:" + bytes(arch).decode().partition(":")[0])

    def run(self, compiled: Runnable, arrays: Sequence[object], stream: object = None) -> Any:
        """Runs a program on its arguments: in place for arrays on the GPU; NumPy arrays are copied
        there, and those that the program writes back, before this returns."""
        loaded = compiled.loaded()
        for array in arrays:
            if isinstance(array, np.ndarray):
                break
        else:  # the path of every call
            return loaded(*arrays, stream=stream)
        bind_arguments(loaded.manifest, arrays)
        cupy = _import_cupy(self.kind)
        with cupy.cuda.Device(self.index):
            place = ArrayDevice(self.kind, self.index)
            views = [upload(cupy.asarray, place, array) for array in arrays]
            made = loaded(*views, stream=stream)
            cupy.cuda.Device(self.index).synchronize()
            _copy_back(loaded.manifest, arrays, views, cupy.asnumpy)
            if isinstance(made, tuple):
                return tuple(_as_numpy(array, cupy.asnumpy) for array in made)
            return None if made is None else _as_numpy(made, cupy.asnumpy)


def runs_in_place(device: object, arguments: Sequence[object]) -> bool:
    """Whether a call runs on a GPU, on arrays that are there."""
    return isinstance(device, GpuDevice) and not any(isinstance(a, np.ndarray) for a in arguments)


def upload(to_device: Callable[[Any], Any], place: ArrayDevice, array: object) -> object:
    """A copy on the GPU, as bytes: libraries there lack some element types, bytes they all have."""
    if not isinstance(array, np.ndarray):
        return array
    strides = array.strides
    if array.flags.c_contiguous or array.size == 0:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        strides = contiguous_strides(array.shape, array.itemsize)
    else:  # all bytes from the first element to the last: the kernel sees the same strides
        first = as_strided(array, (1,), (array.itemsize,)).view(np.uint8)
        flat = as_strided(first, (view_array(array).extent_bytes,), (1,))
    there = to_device(flat)
    return ArrayView(
        int(there.data.ptr),
        array.shape,
        strides,
        short_dtype(array.dtype),
        place,
        False,
        "cupy",
        there,
    )


def _copy_back(
    manifest: Manifest,
    arrays: Sequence[object],
    views: Sequence[object],
    to_host: Callable[[Any], Any],
) -> None:
    for param, array, view in zip(manifest.inputs, arrays, views, strict=True):
        if not isinstance(param, TensorParam) or "w" not in param.access:
            continue
        if isinstance(array, np.ndarray) and isinstance(view, ArrayView):
            found = np.ascontiguousarray(to_host(view.owner))
            array[...] = np.ndarray(array.shape, array.dtype, found.data, strides=view.strides)


def _as_numpy(array: Any, to_host: Callable[[Any], Any]) -> Any:
    flat = to_host(array.reshape(-1).view(np.uint8))
    return flat.view(array.dtype).reshape(array.shape)


def _import_cupy(kind: str) -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as absent:
        extra = "rocm7" if kind == "hip" else "cuda13"
        raise MissingTool(
            "TLC0708",
            f"NumPy arrays are copied to a {kind} device by cupy, which is not installed",
            hint=f"pip install 'tilec[{extra}]', or `with tilec.device(\"interpreter\")`",
        ) from absent


def _open(kind: str, argument: str, why: str) -> GpuDevice:
    driver = driver_of(kind)
    if argument and not (argument.isdigit() and int(argument) < driver.count):
        raise NoDevice("TLC0901", f"there is no {kind}:{argument} here", hint=remedies(kind))
    return GpuDevice(kind, int(argument or 0), driver, why)


for _kind in ("cuda", "hip"):
    register_device(_kind, partial(_open, _kind))
