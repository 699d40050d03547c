"""Runs one launch of a kernel's emulated text on NumPy arrays, in other processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...backends.launcher.expressions import evaluate
from ...backends.launcher.tensor_maps import clipped_box, geometry
from ...backends.launcher.unfit import Unfit
from ...backends.manifest import MULTIPROCESSORS, Argument, LaunchSpec, TensorMapSpec
from ...ir.dtypes import find_dtype
from .counts import Counts
from .errors import EmulatorError
from .memory import Extent, place_arrays
from .process import LOCK, current_team

Mode: TypeAlias = Literal["early", "late", "random"]
Kind: TypeAlias = Literal["checked", "fast"]
Order: TypeAlias = Literal["forward", "reverse", "random"]
Value: TypeAlias = "NDArray[Any] | int | float"

ORDERS: tuple[Order, ...] = ("forward", "reverse", "random")
MODES: tuple[Mode, ...] = ("early", "late", "random")


def run(
    library: Path | str,
    launch: LaunchSpec,
    arguments: Mapping[str, Value],
    mode: Mode = "late",
    order: Order = "forward",
    seed: int = 0,
    *,
    timeout: float = 120.0,
    multiprocessors: int = 4,
    races: bool = True,
    processes: int = 1,
    residents: int = 0,
    counts: bool = False,
) -> Counts:
    """Runs `launch` of a library that `build` made; arrays change in place.

    `arguments` holds an array for each pointer and tensor map, a number for each scalar and symbol
    (those of the grid included). `mode`, of asynchronous work: late, it lands when a wait demands
    it; early, at once; random, each piece of it by chance the one or the other. `order`: in which
    threads and blocks take turns. `seed` draws what is random. `races`: two accesses that nothing
    orders, one of them a write, are a finding, whatever order the threads came in. `processes`, of a
    library of the fast build: how many the blocks are spread over, where there are as many.
    `residents`: how many blocks may be under way together where some wait for others; 0: as many as
    there is room for, 16384 threads or 256 blocks.
    `counts`, of a library built for it: what accesses cost is counted, which is returned.
    EmulatorError for findings, deadlocks and crashes; the arrays are then as they were."""
    numbers = {name: int(v) for name, v in arguments.items() if isinstance(v, (int, np.integer))}
    grid = [
        evaluate(extent, {MULTIPROCESSORS: multiprocessors, **numbers}) for extent in launch.grid
    ]
    found = Counts()
    if min(grid) <= 0:
        return found
    request = {
        "library": str(library),
        "symbol": launch.symbol,
        "grid": grid,
        "threads": launch.threads,
        "shared_bytes": launch.shared_bytes,
        "mode": MODES.index(mode),
        "order": ORDERS.index(order),
        "seed": seed,
        "seconds": timeout,
        "races": int(races),
        "residents": residents,
        "counts": counts,
    }
    parts = max(1, min(processes, math.prod(grid) // launch.cluster))
    shares = [{**request, "first_block": i, "block_step": parts} for i in range(parts)]
    for answer in _run_on_copies(shares, launch.arguments, arguments, timeout):
        found.add(launch.symbol, answer.get("counts", ()))
    return found


def _run_on_copies(
    shares: Sequence[Mapping[str, object]],
    parameters: Sequence[Argument],
    arguments: Mapping[str, Value],
    timeout: float,
) -> list[dict[str, Any]]:
    """The answers to requests that share the arrays among `arguments`, which are changed once all
    have come."""
    arrays = {name: v for name, v in arguments.items() if isinstance(v, np.ndarray)}
    with LOCK:
        extents, size = place_arrays(arrays)
        team = current_team()
        team.memory.reserve(size)
        for extent in extents.values():
            team.memory.copy_in(extent)
        memory = {
            "size": team.memory.size,
            "used": size,
            "granule": min([8, *(array.itemsize for array in arrays.values())]),
            "arguments": [_describe(p, arguments, extents) for p in parameters],
        }
        answers = team.request([{**share, **memory} for share in shares], timeout)
        for name, extent in extents.items():
            if arrays[name].flags.writeable:
                team.memory.copy_out(extent)
    return answers


def _describe(
    argument: Argument, arguments: Mapping[str, Value], extents: Mapping[str, Extent]
) -> dict[str, object]:
    """One parameter as the child expects it."""
    if argument.tensor_map is not None:
        return _describe_tensor_map(
            argument.tensor_map, _array(argument.tensor_map.tensor, arguments), extents
        )
    if argument.kind == "pointer":
        array, extent = _array(argument.name, arguments), extents[argument.name]
        meets = any(extent.meets(other) for n, other in extents.items() if n != argument.name)
        return {
            "offset": extent.offset, "bytes": extent.bytes, "writable": array.flags.writeable,
            "meets": meets,
        }  # fmt: skip
    value = arguments.get(argument.name)
    if value is None or isinstance(value, np.ndarray):
        raise EmulatorError("TLC0781", f"{argument.name}: a number is needed")
    return {
        "value": np.asarray(value).astype(find_dtype(argument.dtype or "i32").numpy).tobytes().hex()
    }


def _array(name: str, arguments: Mapping[str, Value]) -> NDArray[Any]:
    value = arguments.get(name)
    if not isinstance(value, np.ndarray):
        raise EmulatorError("TLC0781", f"{name}: an array is needed")
    return value


def _describe_tensor_map(
    spec: TensorMapSpec, array: NDArray[Any], extents: Mapping[str, Extent]
) -> dict[str, object]:
    """A tensor map, within the limits of cuTensorMapEncodeTiled."""
    placed, item = extents[spec.tensor], array.itemsize
    try:
        _, strides = geometry(spec, array.shape, array.strides, item, placed.address)
    except Unfit as problem:
        raise EmulatorError("TLC0781", str(problem)) from None
    return {
        "offset": placed.offset,
        "element": item,
        "swizzle": spec.swizzle,
        "writable": array.flags.writeable,
        "extents": list(array.shape[::-1]),
        "strides": [item, *strides],
        "box": clipped_box(spec, array.shape)[::-1],
    }
