"""Launches the kernels of PROGRAM with cupy alone: tilec is not needed to run this file.

`launch(*arrays_and_numbers, stream=None)` checks the arguments against MANIFEST, takes the first
variant whose facts hold, and launches its kernels on cupy's current stream, or on `stream`. Outputs
that the program makes are returned. The machine code is read from the binary beside this file where
there is one for the GPU at hand, and made from the source by NVRTC (or hiprtc) otherwise.
"""

from __future__ import annotations

import ctypes
import json
import math
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from .arguments import bind_names, failed_facts, launches_nothing, number_of
from .arrays import Strided, check_place, contiguous_strides
from .expressions import evaluate
from .limits import grid_of
from .tensor_maps import MAP_BYTES, TensorMap, encoding, refused

MANIFEST: Any = json.loads("null", object_hook=lambda fields: SimpleNamespace(**fields))

DTYPES = {
    "bool": "bool", "i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16", "i32": "int32",
    "u32": "uint32", "i64": "int64", "u64": "uint64", "f16": "float16", "f32": "float32",
    "tf32": "float32", "f64": "float64",
}  # fmt: skip
BYTES = {
    "bf16": 2, "e4m3": 1, "e5m2": 1, "e4m3fnuz": 1, "e5m2fnuz": 1, "e2m3": 1, "e3m2": 1, "i4": 1, "u4": 1,
    "e2m1": 1,
}  # fmt: skip
"""Dtypes that NumPy has not: any array of elements of this size is taken for one of them."""


def launch(*arguments: Any, stream: Any = None) -> Any:
    """Runs the program on its inputs, in order: cupy arrays, and numbers. Raises TypeError or
    ValueError for arguments that do not fit. Where a T.device_assert of the program fails, the CUDA
    driver writes its file, line, block and thread to the standard error stream, and the next
    synchronisation raises cupy's error of a device-side assert.
    """
    import cupy

    arrays, names = bind(arguments)
    multiprocessors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    names["@multiprocessors"] = multiprocessors
    made = [param for param in MANIFEST.params if param.name in MANIFEST.outputs]
    with stream or nullcontext():
        for tensor in (*made, *workspaces()):
            shape = tuple(evaluate(extent, names) for extent in tensor.shape)
            arrays[tensor.name] = cupy.empty(shape, numpy_dtype(tensor.dtype))
        variant = pick(arrays, names)
        grids = [grid_of(MANIFEST, spec, names) for spec in variant.launches]
        for spec, grid in zip(variant.launches, grids, strict=True):
            if min(grid) > 0:
                block = tuple(spec.block or (spec.threads, 1, 1))
                values = tuple(argument(a, arrays, names) for a in spec.arguments)
                run = kernel(variant.source, spec.symbol, spec.shared_bytes)
                if spec.cooperative:
                    check_together(run, spec, math.prod(grid), multiprocessors)
                run(grid, block, values, shared_mem=spec.shared_bytes)
    results = tuple(arrays[name] for name in MANIFEST.outputs)
    return results[0] if len(results) == 1 else results or None


class View(Strided):
    """An array of cupy's, by the strides with which the program addresses it."""

    def __init__(self, param: Any, array: Any) -> None:
        self.pointer, self.shape, self.strides = array.data.ptr, array.shape, array.strides
        self._itemsize = array.dtype.itemsize
        if param.strides is None and self.contiguous:
            self.strides = contiguous_strides(self.shape, self.itemsize)

    @property
    def itemsize(self) -> int:
        return int(self._itemsize)


def check_together(run: Any, spec: Any, blocks: int, multiprocessors: int) -> None:
    """Raises ValueError where blocks that wait for each other do not run at the same time."""
    import cupy

    each = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
        run.kernel.ptr, spec.threads, spec.shared_bytes
    )
    if blocks > each * multiprocessors:
        raise ValueError(
            f"the {blocks} blocks of {spec.symbol} are to run at the same time; the GPU has room "
            f"for {each * multiprocessors}"
        )


def bind(arguments: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays by name, and what the names of scalars and symbols mean."""
    inputs = [param for param in MANIFEST.params if param.name not in MANIFEST.outputs]
    if len(arguments) != len(inputs):
        wanted = ", ".join(param.name for param in inputs)
        raise TypeError(f"{MANIFEST.program} takes {wanted}; {len(arguments)} came")
    arrays: dict[str, Any] = {}
    views: dict[str, Strided] = {}
    names: dict[str, Any] = {}
    for param, given in zip(inputs, arguments, strict=True):
        if hasattr(param, "shape"):
            arrays[param.name], views[param.name] = given, view(param, given)
        elif not isinstance(given, (int, float, np.number, np.bool_)):
            what = f"{type(given).__name__}, expected a number ({param.dtype})"
            raise TypeError(f"{param.name} is {what}")
        else:
            names[param.name] = number_of(param, given)
    return arrays, {**names, **bind_names(MANIFEST, views, names)}


def view(param: Any, array: Any) -> View:
    """The array for a parameter. Raises TypeError or ValueError for one of other elements or
    dimensions."""
    if not hasattr(getattr(array, "data", None), "ptr"):
        raise TypeError(f"{param.name} is {type(array).__name__}, expected an array of cupy's")
    if array.dtype.itemsize != BYTES.get(param.dtype) and array.dtype != DTYPES.get(param.dtype):
        raise TypeError(f"{param.name} is {array.dtype}, expected {param.dtype}")
    found = View(param, array)
    check_place(param, found)
    return found


def workspaces() -> list[Any]:
    """What a call allocates for its time: the workspaces of all variants, by name."""
    return list({w.name: w for v in MANIFEST.variants for w in v.workspaces}.values())


def pick(arrays: dict[str, Any], names: dict[str, Any]) -> Any:
    """The first variant whose facts hold, or whose grids are empty."""
    tensors = (*MANIFEST.params, *workspaces())
    views = {t.name: View(t, arrays[t.name]) for t in tensors if hasattr(t, "shape")}
    for variant in MANIFEST.variants:
        if launches_nothing(variant, names) or not failed_facts(variant, views):
            return variant
    raise ValueError("no variant takes these arrays")


def argument(spec: Any, arrays: dict[str, Any], names: dict[str, Any]) -> Any:
    """One argument of a kernel, as cupy passes it by value."""
    if spec.kind == "pointer":
        return arrays[spec.name]
    if spec.kind == "tensor_map":
        return tensor_map(spec.tensor_map, arrays[spec.tensor_map.tensor])
    dtype = spec.dtype or "i32"
    if dtype not in DTYPES:
        raise TypeError(f"a number of type {dtype} cannot be passed from here")
    return np.dtype(DTYPES[dtype]).type(names[spec.name])


def tensor_map(spec: Any, array: Any) -> Any:
    """A TMA descriptor of a whole array, 128 bytes by value."""
    param = next(p for p in (*MANIFEST.params, *workspaces()) if p.name == spec.tensor)
    made, seen = TensorMap(), View(param, array)
    encode = driver_library().cuTensorMapEncodeTiled
    status = encode(*encoding(made, spec, param.dtype, seen, seen.pointer))
    if status:
        raise refused(status, spec, seen)
    words = np.dtype([("words", "<u8", MAP_BYTES // 8)])
    return np.frombuffer(made.to_bytes(), words).copy()


@cache
def driver_library() -> Any:
    """libcuda, for the one function that cupy has not."""
    return ctypes.CDLL("libcuda.so.1")


@cache
def kernel(source: str, symbol: str, shared_bytes: int) -> Any:
    """The kernel of a name, allowed to have so much shared memory. For one GPU a process."""
    found = module(source).get_function(symbol)
    if shared_bytes > 48 * 1024 and MANIFEST.target.startswith("cuda"):
        found.max_dynamic_shared_size_bytes = shared_bytes
    return found


@cache
def module(source: str) -> Any:
    """The machine code of a source file, on the current GPU."""
    import cupy

    backend, _, arch = MANIFEST.target.partition(":")
    text = Path(__file__).with_name(source)
    here = f"sm_{cupy.cuda.Device().compute_capability}"
    if backend == "hip" or arch.rstrip("af") == here:
        here = arch
    binary = text.with_suffix(f".{arch}.bin")
    if binary.exists() and here == arch:
        return cupy.RawModule(path=str(binary))
    with tempfile.NamedTemporaryFile(suffix=".bin", delete=False) as file:
        file.write(compiled(text, backend, here))
    return cupy.RawModule(path=file.name)


def compiled(text: Path, backend: str, arch: str) -> bytes:
    """Machine code by the run-time compiler that cupy has. Its own entry points would add options
    that change numbers, and take sm_90 for sm_90a."""
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(text.read_text(encoding="utf-8"), text.name, (), ())
    if backend == "hip":
        nvrtc.compileProgram(program, (f"--offload-arch={arch}", "-std=c++17"))
        return bytes(nvrtc.getPTX(program))
    options = (f"--gpu-architecture={arch}", "-std=c++17", "-default-device")
    nvrtc.compileProgram(program, options)
    return bytes(nvrtc.getCUBIN(program))


def numpy_dtype(name: str) -> str:
    """The dtype of an array that this file makes; those that NumPy has not come as their bits."""
    return DTYPES.get(name) or {1: "uint8", 2: "uint16"}[BYTES[name]]


def _demo() -> None:
    """Launches once on zeros, every symbol being 256: a check that the files are whole."""
    import cupy

    names: dict[str, Any] = {name: 256 for name in MANIFEST.symbols}
    inputs: list[Any] = []
    for param in (p for p in MANIFEST.params if p.name not in MANIFEST.outputs):
        if hasattr(param, "shape"):
            shape = tuple(evaluate(extent, names) for extent in param.shape)
            inputs.append(cupy.zeros(shape, numpy_dtype(param.dtype)))
        else:
            inputs.append(1)
    launch(*inputs)
    cupy.cuda.Device().synchronize()
    count = sum(math.prod(a.shape) for a in inputs if hasattr(a, "shape"))
    print(f"{MANIFEST.program} for {MANIFEST.target} ran on {count} elements")


if __name__ == "__main__":
    _demo()
