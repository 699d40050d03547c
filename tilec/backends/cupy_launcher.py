"""Launches the kernels of PROGRAM with cupy alone: tilec is not needed to run this file.

`launch(*arrays_and_numbers, stream=None)` checks the arguments against MANIFEST, takes the first
variant whose facts hold, and launches its kernels on cupy's current stream, or on `stream`. Outputs
that the program makes are returned. The machine code is read from the binary beside this file where
there is one for the GPU at hand, and made from the source by NVRTC (or hiprtc) otherwise.

Written by `tilec build`, which fills in MANIFEST and launch_limits.py; as part of tilec this file is that
template.
"""

from __future__ import annotations

import ctypes
import json
import math
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .launch_limits import (
    WIDE,
    blocks_problem,
    evaluate,
    names_in,
    solve,
    steps_problem,
    symbol_problem,
)

MANIFEST: dict[str, Any] = json.loads("{}")

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
TENSOR_MAP_DTYPES = {
    "bool": 0, "u8": 0, "i8": 0, "e4m3": 0, "e5m2": 0, "e4m3fnuz": 0, "e5m2fnuz": 0, "e2m3": 0, "e3m2": 0,
    "i4": 0, "u4": 0, "e2m1": 0,
    "u16": 1, "i16": 1,
    "u32": 2, "i32": 3, "u64": 4, "i64": 5, "f16": 6, "f32": 7, "tf32": 7, "f64": 8, "bf16": 9,
}  # fmt: skip
PAIRS = ("i4", "u4", "e2m1")
"""Dtypes of which two elements share a byte."""


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
    made = [t for t in MANIFEST["params"] if t["name"] in MANIFEST["outputs"]]
    with stream or nullcontext():
        for tensor in (*made, *MANIFEST["workspaces"]):
            shape = tuple(evaluate(extent, names) for extent in tensor["shape"])
            arrays[tensor["name"]] = cupy.empty(shape, numpy_dtype(tensor["dtype"]))
        variant = pick(arrays, names)
        grids = [grid_of(spec, names) for spec in variant["launches"]]
        for spec, grid in zip(variant["launches"], grids, strict=True):
            if min(grid) > 0:
                block = tuple(spec["block"] or (spec["threads"], 1, 1))
                values = tuple(argument(a, arrays, names) for a in spec["arguments"])
                run = kernel(variant["source"], spec["symbol"], spec["shared_bytes"])
                if spec.get("cooperative"):
                    check_together(run, spec, math.prod(grid), multiprocessors)
                run(grid, block, values, shared_mem=spec["shared_bytes"])
    results = tuple(arrays[name] for name in MANIFEST["outputs"])
    return results[0] if len(results) == 1 else results or None


def grid_of(spec: dict[str, Any], names: dict[str, Any]) -> tuple[int, ...]:
    """The grid of a launch. Raises ValueError where it, or a symbol that the kernel takes, is too large."""
    own = spec["grid"], spec["blocks"], spec["cluster"]
    refuse(blocks_problem(spec["symbol"], *own, names, wide()))
    grid = tuple(evaluate(extent, names) for extent in spec["grid"])
    if min(grid) > 0:
        for symbol in (a for a in spec["arguments"] if a["kind"] == "symbol"):
            refuse(symbol_problem(symbol["name"], names[symbol["name"]], symbol["dtype"]))
    return grid


def check_together(run: Any, spec: dict[str, Any], blocks: int, multiprocessors: int) -> None:
    """Raises ValueError where blocks that wait for each other do not run at the same time."""
    import cupy

    each = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
        run.kernel.ptr, spec["threads"], spec["shared_bytes"]
    )
    if blocks > each * multiprocessors:
        raise ValueError(
            f"the {blocks} blocks of {spec['symbol']} are to run at the same time; the GPU has room "
            f"for {each * multiprocessors}"
        )


def bind(arguments: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays by name, and what the names of scalars and symbols mean."""
    inputs = [p for p in MANIFEST["params"] if p["name"] not in MANIFEST["outputs"]]
    if len(arguments) != len(inputs):
        wanted = ", ".join(p["name"] for p in inputs)
        raise TypeError(f"{MANIFEST['program']} takes {wanted}; {len(arguments)} came")
    given = list(zip(inputs, arguments, strict=True))
    arrays = {p["name"]: elements(p, a) for p, a in given if "shape" in p}
    names = {p["name"]: number(p, a) for p, a in given if "shape" not in p}
    tensors = [p for p in inputs if "shape" in p]
    solve_symbols([size for t in tensors for size in sizes(t, arrays[t["name"]])], names)
    for tensor in tensors:
        check(tensor, arrays[tensor["name"]], names)
    for name, multiple in MANIFEST["multiples"]:
        if names[name] % multiple:
            raise ValueError(f"{name} is {names[name]}, expected a multiple of {multiple}")
    for name, expression in MANIFEST["derived"]:
        names[name] = evaluate(expression, names)
    for name in (*MANIFEST["symbols"], *(name for name, _ in MANIFEST["derived"])):
        refuse(symbol_problem(name, names[name]))
    check_overlaps(tensors, arrays)
    return arrays, names


def wide() -> set[str]:
    """The numbers that are passed in more than the bits of an i32."""
    return {p["name"] for p in MANIFEST["params"] if p["dtype"] in WIDE and "shape" not in p}


def refuse(problem: str) -> None:
    """Raises ValueError if there is a problem."""
    if problem:
        raise ValueError(f"{MANIFEST['program']}: {problem}")


def elements(param: dict[str, Any], array: Any) -> Any:
    """The array for a parameter. Raises TypeError or ValueError for one of other elements or
    dimensions."""
    name, dtype = param["name"], param["dtype"]
    if not hasattr(getattr(array, "data", None), "ptr"):
        raise TypeError(f"{name} is {type(array).__name__}, expected an array of cupy's")
    if array.dtype.itemsize != BYTES.get(dtype) and array.dtype != DTYPES.get(dtype):
        raise TypeError(f"{name} is {array.dtype}, expected {dtype}")
    if array.ndim != len(param["shape"]):
        raise ValueError(f"{name} has {array.ndim} dimensions, expected {len(param['shape'])}")
    if array.size and array.data.ptr % array.dtype.itemsize:
        raise ValueError(f"{name} starts between two elements: pass a copy")
    return array


def number(param: dict[str, Any], value: Any) -> Any:
    """The number for a parameter. Raises TypeError or ValueError for one that its dtype would
    change."""
    name, dtype = param["name"], param["dtype"]
    if not isinstance(value, (int, float, np.number, np.bool_)):
        raise TypeError(f"{name} is {type(value).__name__}, expected a number ({dtype})")
    if dtype not in DTYPES:
        return value  # a kernel that takes it cannot be launched from here
    passed = np.dtype(DTYPES[dtype])
    if passed.kind == "f":
        with np.errstate(over="ignore"):
            held = not np.isfinite(value) or bool(np.isfinite(passed.type(value)))
    elif isinstance(value, (float, np.floating)):
        raise TypeError(f"{name} is {value}, expected an integer ({dtype})")
    else:
        value = int(value)
        limits = np.iinfo(passed) if passed.kind != "b" else None
        held = limits.min <= value <= limits.max if limits else value in (0, 1)
    if not held:
        raise ValueError(f"{name} is {value}, which {dtype} cannot hold")
    return value


def sizes(tensor: dict[str, Any], array: Any) -> list[tuple[Any, int]]:
    """What the manifest says of each extent and stride (in elements), with what the array has."""
    found = list(zip(tensor["shape"], array.shape, strict=True))
    if tensor["dtype"] in PAIRS and isinstance(tensor["shape"][-1], list):
        found[-1] = (tensor["shape"][-1][1], 2 * array.shape[-1])
    if tensor["strides"] is not None:
        # That of a single element says nothing, and may be anything.
        steps = (
            s // array.dtype.itemsize if n > 1 else 0
            for s, n in zip(array.strides, array.shape, strict=True)
        )
        found += list(zip(tensor["strides"], steps, strict=True))
    return found


def solve_symbols(found: list[tuple[Any, int]], names: dict[str, Any]) -> None:
    """Adds the symbols: those that are sizes themselves, then those that sizes follow from (K from
    2 * K)."""
    for expression, value in found:
        if isinstance(expression, str):
            names.setdefault(expression, value)
    missing = [symbol for symbol in MANIFEST["symbols"] if symbol not in names]
    for _ in range(len(missing)):
        for expression, value in found:
            unknown = set(names_in(expression)) - names.keys()
            answer = solve(expression, value, names) if len(unknown) == 1 else None
            if answer is not None:
                names[unknown.pop()] = answer
    for symbol in missing:
        if symbol not in names:
            raise ValueError(f"no argument tells the value of {symbol}")


def check(tensor: dict[str, Any], array: Any, names: dict[str, Any]) -> None:
    """Raises ValueError for an array of another shape or other strides than its parameter's, and
    for one to be written whose elements may overlap."""
    name = tensor["name"]
    expected = tuple(computed(tensor, extent, names) for extent in tensor["shape"])
    if array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
    if tensor["dtype"] in PAIRS and isinstance(tensor["shape"][-1], list):
        if evaluate(tensor["shape"][-1][1], names) % 2:
            raise ValueError(f"a row of {name} is an odd number of elements, and two share a byte")
    if tensor["strides"] is None:
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is not row-major without gaps")
        return
    wanted = tuple(computed(tensor, s, names) * array.dtype.itemsize for s in tensor["strides"])
    steps = [(s, w, n) for s, w, n in zip(array.strides, wanted, array.shape, strict=True) if n > 1]
    if array.size and any(s != w or s < 0 for s, w, _ in steps):
        raise ValueError(f"{name} has strides of {array.strides} bytes, expected {wanted}")
    reach = array.dtype.itemsize
    for stride, _, extent in sorted(steps):
        if array.size and "w" in tensor["access"] and stride < reach:
            raise ValueError(f"elements of {name}, which is written, may overlap: pass a copy")
        reach += (extent - 1) * stride


def check_overlaps(tensors: list[dict[str, Any]], arrays: dict[str, Any]) -> None:
    """Raises ValueError for an array to be written that lies partly in the memory of another."""
    whole = [(t, a) for t in tensors if (a := arrays[t["name"]]).flags.c_contiguous and a.size]
    for written, array in whole:
        for other, seen in whole:
            distance = seen.data.ptr - array.data.ptr
            apart = distance >= span(array) or -distance >= span(seen)
            if "w" in written["access"] and distance and not apart:
                raise ValueError(
                    f"{written['name']}, which is written, lies partly in the memory of "
                    f"{other['name']}: pass a copy, or one array for both"
                )


def span(array: Any) -> int:
    """Bytes from the first element of an array to the end of the last."""
    reach = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True))
    return int(reach + array.dtype.itemsize) if array.size else 0


def pick(arrays: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """The first variant whose facts hold, or whose grids are empty."""
    for variant in MANIFEST["variants"]:
        facts = all(holds(fact, arrays[fact["tensor"]]) for fact in variant["requires"])
        grids = [[evaluate(n, names) for n in spec["grid"]] for spec in variant["launches"]]
        if facts or all(min(grid) <= 0 for grid in grids):
            found: dict[str, Any] = variant
            return found
    raise ValueError("no variant takes these arrays")


def holds(fact: dict[str, Any], array: Any) -> bool:
    """`aligned`: address, outer strides and rows are multiples of so many bytes. `below`: the array
    spans fewer bytes."""
    size = fact["bytes"]
    if fact["kind"] == "below":
        return span(array) < int(size)
    if array.size == 0 or array.data.ptr % size:
        return False
    outer = zip(array.shape[:-1], array.strides[:-1], strict=True)
    if any(s % size or (s <= 0 and n > 1) for n, s in outer):
        return False
    return bool(array.ndim < 2 or array.shape[-1] * array.dtype.itemsize % size == 0)


def argument(spec: dict[str, Any], arrays: dict[str, Any], names: dict[str, Any]) -> Any:
    """One argument of a kernel, as cupy passes it by value."""
    if spec["kind"] == "pointer":
        return arrays[spec["name"]]
    if spec["kind"] == "tensor_map":
        return tensor_map(spec["tensor_map"], arrays[spec["tensor_map"]["tensor"]])
    dtype = spec["dtype"] or "i32"
    if dtype not in DTYPES:
        raise TypeError(f"a number of type {dtype} cannot be passed from here")
    value = np.dtype(DTYPES[dtype]).type(names[spec["name"]])
    return value


def tensor_map(spec: dict[str, Any], array: Any) -> Any:
    """A TMA descriptor of a whole array, 128 bytes by value (CUDA Driver API,
    cuTensorMapEncodeTiled)."""
    memory = ctypes.create_string_buffer(128 + 128)
    address = -(-ctypes.addressof(memory) // 128) * 128
    rank = array.ndim
    dims = [max(1, n) for n in reversed(array.shape)]
    strides, span = [], -(-dims[0] * array.dtype.itemsize // 16) * 16
    for extent, stride in zip(
        reversed(array.shape[:-1]), reversed(array.strides[:-1]), strict=True
    ):
        strides.append(stride if extent > 1 else span)
        span = max(span, strides[-1] * max(1, extent))
    tensors = (*MANIFEST["params"], *MANIFEST["workspaces"])
    dtype = next(t["dtype"] for t in tensors if t["name"] == spec["tensor"])
    within_sectors = any(n % 32 for n in (array.data.ptr, *strides))
    promotion = min(spec["l2promotion"], 128) if within_sectors else spec["l2promotion"]
    status = driver_library().cuTensorMapEncodeTiled(
        ctypes.c_void_p(address), ctypes.c_int(TENSOR_MAP_DTYPES[dtype]), ctypes.c_uint32(rank),
        ctypes.c_void_p(array.data.ptr), (ctypes.c_uint64 * rank)(*dims),
        (ctypes.c_uint64 * max(1, rank - 1))(*strides),
        (ctypes.c_uint32 * rank)(*reversed(spec["box"])), (ctypes.c_uint32 * rank)(*[1] * rank),
        ctypes.c_int(0), ctypes.c_int({0: 0, 32: 1, 64: 2, 128: 3}[spec["swizzle"]]),
        ctypes.c_int({0: 0, 64: 1, 128: 2, 256: 3}[promotion]), ctypes.c_int(0),
    )  # fmt: skip
    if status:
        raise ValueError(f"TMA cannot read {spec['tensor']}: cuTensorMapEncodeTiled gave {status}")
    words = np.dtype([("words", "<u8", 16)])
    return np.frombuffer(ctypes.string_at(address, 128), words).copy()


@cache
def driver_library() -> Any:
    """libcuda, for the one function that cupy has not."""
    return ctypes.CDLL("libcuda.so.1")


@cache
def kernel(source: str, symbol: str, shared_bytes: int) -> Any:
    """The kernel of a name, allowed to have so much shared memory. For one GPU a process."""
    found = module(source).get_function(symbol)
    if shared_bytes > 48 * 1024 and MANIFEST["target"].startswith("cuda"):
        found.max_dynamic_shared_size_bytes = shared_bytes
    return found


@cache
def module(source: str) -> Any:
    """The machine code of a source file, on the current GPU."""
    import cupy

    backend, _, arch = MANIFEST["target"].partition(":")
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

    program = nvrtc.createProgram(text.read_text(), text.name, (), ())
    if backend == "hip":
        nvrtc.compileProgram(program, (f"--offload-arch={arch}", "-std=c++17"))
        return bytes(nvrtc.getPTX(program))
    options = (f"--gpu-architecture={arch}", "-std=c++17", "-default-device")
    nvrtc.compileProgram(program, options)
    return bytes(nvrtc.getCUBIN(program))


def computed(tensor: dict[str, Any], expression: Any, names: dict[str, Any]) -> int:
    """The value of an expression of a tensor's extents. Raises ValueError where a step of it is too
    large."""
    refuse(steps_problem(f"an extent of {tensor['name']}", expression, names))
    return evaluate(expression, names)


def numpy_dtype(name: str) -> str:
    """The dtype of an array that this file makes; those that NumPy has not come as their bits."""
    return DTYPES.get(name) or {1: "uint8", 2: "uint16"}[BYTES[name]]


def _demo() -> None:
    """Launches once on zeros, every symbol being 256: a check that the files are whole."""
    import cupy

    names: dict[str, Any] = {name: 256 for name in MANIFEST["symbols"]}
    inputs: list[Any] = []
    for param in (p for p in MANIFEST["params"] if p["name"] not in MANIFEST["outputs"]):
        if "shape" in param:
            shape = tuple(evaluate(extent, names) for extent in param["shape"])
            inputs.append(cupy.zeros(shape, numpy_dtype(param["dtype"])))
        else:
            inputs.append(1)
    launch(*inputs)
    cupy.cuda.Device().synchronize()
    count = sum(math.prod(a.shape) for a in inputs if hasattr(a, "shape"))
    print(f"{MANIFEST['program']} for {MANIFEST['target']} ran on {count} elements")


if __name__ == "__main__":
    _demo()
