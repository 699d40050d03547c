"""The plan of a call: arguments checked, variant picked, grids computed, functions found.

A plan holds for every call whose arguments have the same shapes, strides, dtypes, device and
alignment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..backends.manifest import (
    DTYPE_BYTES,
    LaunchSpec,
    Manifest,
    ScalarParam,
    TensorParam,
    Variant,
    evaluate,
    names_in,
)
from ..errors import ArgumentError
from .allocate import library_on_device
from .arrays import ArrayDevice, ArrayView, contiguous_strides
from .check_args import Bound, bind_arguments, check_symbols, pick_variant
from .gpu_driver import GpuDriver
from .kernel_call import KernelCall
from .modules import ModuleTable
from .streams import current_stream_of

_GRID_LIMITS = ((1 << 31) - 1, 65535, 65535)


@dataclass(frozen=True)
class Made:
    """An array that the runtime makes: its place among the pointers of a call, shape, short
    dtype."""

    place: int
    shape: tuple[int, ...]
    dtype: str


@dataclass
class Plan:
    """The launches of a program for arguments of one kind, and what a call needs besides. `lock`
    guards the argument blocks, and `patched`. `waits`: an argument names the stream that may still be writing
    it."""

    program: str
    device: ArrayDevice
    library: str
    variant: Variant
    calls: tuple[KernelCall, ...]
    outputs: tuple[Made, ...]
    workspaces: tuple[Made, ...]
    current_stream: Callable[[], int]
    waits: bool
    lock: threading.Lock = field(default_factory=threading.Lock)
    bound: tuple[int, tuple[Callable[[], int], ...]] = (-1, ())  # the last stream; launches on it
    patched: list[int] | None = None  # the addresses that the argument blocks hold

    def bind(self, stream: int) -> tuple[Callable[[], int], ...]:
        """The launches on a stream, which stays the bound one until another thread or call comes
        with another."""
        launches = tuple(call.on(stream) for call in self.calls)
        self.bound = (stream, launches)
        return launches


def places_of(manifest: Manifest) -> dict[str, int]:
    """The place of every tensor and workspace among the pointers of a call."""
    return {tensor.name: i for i, tensor in enumerate(manifest.tensors + manifest.workspaces)}


def deciding_scalars(manifest: Manifest) -> frozenset[str]:
    """The scalars on which shapes or grids depend, so that a plan holds for one value of them."""
    names: set[str] = set()
    for tensor in manifest.tensors + manifest.workspaces:
        for expr in (*tensor.shape, *(tensor.strides or ())):
            names.update(names_in(expr))
    for _, expr in manifest.derived:
        names.update(names_in(expr))
    for variant in manifest.variants:
        for launch in variant.launches:
            for expr in launch.grid:
                names.update(names_in(expr))
            names.update(a.name for a in launch.arguments if a.kind == "symbol")
    return frozenset(
        p.name for p in manifest.params if isinstance(p, ScalarParam) and p.name in names
    )


def variant_of(manifest: Manifest, driver: GpuDriver, arguments: Sequence[object]) -> Variant:
    """The variant that `arguments` pick. Raises ArgumentError."""
    bound = bind_arguments(manifest, arguments)
    index = bound.device.index if bound.device else 0
    env = bound.environment(driver.multiprocessors(index))
    return pick_variant(manifest, made_views(manifest, bound, env), env)


def make_plan(
    manifest: Manifest,
    modules: ModuleTable,
    driver: GpuDriver,
    arguments: Sequence[object],
    stream: int | None,
) -> Plan:
    """The plan of a call with `arguments`. `stream` is the caller's, or None for the current one.
    Raises ArgumentError, OutOfResources, ExecutionError."""
    bound = bind_arguments(manifest, arguments)
    device = bound.device or ArrayDevice(driver.kind)
    library = bound.library if bound.device is not None else library_on_device()
    if device.kind != driver.kind:
        raise ArgumentError(
            "TLC0803",
            f"{manifest.program}: the arrays are on {device}, the program is for {driver.kind}",
        )
    env = bound.environment(driver.multiprocessors(device.index))
    views = made_views(manifest, bound, env)
    variant = pick_variant(manifest, views, env)
    current = current_stream_of(library, device.index)
    calls: list[KernelCall] = []
    for spec in variant.launches:
        grid = _grid(manifest.program, spec, env)
        if grid is None:
            continue
        handle = current() if stream is None else stream
        function = modules.function(variant, spec.symbol, spec.shared_bytes, device.index, handle)
        calls.append(_call(manifest, driver, function, spec, grid, env, views))
    return Plan(
        program=manifest.program,
        device=device,
        library=library,
        variant=variant,
        calls=tuple(calls),
        outputs=_made(manifest, manifest.outputs, views),
        workspaces=_made(manifest, tuple(w.name for w in manifest.workspaces), views),
        current_stream=current,
        waits=any(view.stream is not None for view in bound.views.values()),
    )


def made_views(manifest: Manifest, bound: Bound, env: Mapping[str, int]) -> dict[str, ArrayView]:
    """The arguments' views, and views of what will be allocated, which is aligned and row-major."""
    views = dict(bound.views)
    device = bound.device or ArrayDevice("cpu")
    outputs = [tensor for tensor in manifest.tensors if tensor.name in manifest.outputs]
    for tensor in (*outputs, *manifest.workspaces):
        shape = tuple(evaluate(expr, env) for expr in tensor.shape)
        if min(shape, default=0) < 0:
            raise ArgumentError(
                "TLC0803", f"{manifest.program}: {tensor.name} would have shape {shape}"
            )
        strides = contiguous_strides(shape, DTYPE_BYTES[tensor.dtype])
        views[tensor.name] = ArrayView(
            0, shape, strides, tensor.dtype, device, False, bound.library, None
        )
    return views


def _grid(program: str, spec: LaunchSpec, env: Mapping[str, int]) -> tuple[int, int, int] | None:
    """The grid, or None where it is empty."""
    x, y, z = (evaluate(extent, env) for extent in spec.grid)
    if min(x, y, z) <= 0:
        return None
    if any(extent > limit for extent, limit in zip((x, y, z), _GRID_LIMITS, strict=True)):
        raise ArgumentError(
            "TLC0803",
            f"{program}: {spec.symbol} would have a grid of {(x, y, z)}, at most {_GRID_LIMITS} go",
        )
    return x, y, z


def _call(
    manifest: Manifest,
    driver: GpuDriver,
    function: int,
    spec: LaunchSpec,
    grid: tuple[int, int, int],
    env: Mapping[str, int],
    views: Mapping[str, ArrayView],
) -> KernelCall:
    check_symbols(manifest.program, spec, env)
    tensors = {name: (place, views[name]) for name, place in places_of(manifest).items()}
    numbers = [param for param in manifest.params if isinstance(param, ScalarParam)]
    scalars = {param.name: (place, param.dtype) for place, param in enumerate(numbers)}
    return KernelCall(driver.launch, function, spec, grid, env, tensors, scalars)


def _made(
    manifest: Manifest, names: tuple[str, ...], views: Mapping[str, ArrayView]
) -> tuple[Made, ...]:
    places = places_of(manifest)
    params: dict[str, TensorParam] = {t.name: t for t in manifest.tensors + manifest.workspaces}
    return tuple(Made(places[name], views[name].shape, params[name].dtype) for name in names)
