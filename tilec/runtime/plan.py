"""The plan of a call: arguments checked, variant picked, grids computed, functions found.

A plan holds for every call whose arguments have the same shapes, strides, dtypes, device and
alignment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..backends.launcher.arrays import contiguous_strides
from ..backends.launcher.expressions import evaluate, names_in
from ..backends.launcher.limits import grid_of
from ..backends.launcher.overlaps import Apart, kept_apart
from ..backends.manifest import (
    DTYPE_BYTES,
    LaunchSpec,
    Manifest,
    ScalarParam,
    TensorParam,
    Variant,
)
from ..errors import ArgumentError, OutOfResources
from .allocate import library_on_device
from .arrays import ArrayDevice, ArrayView, Fingerprint
from .check_args import Bound, bind_arguments, pick_variant, told_of
from .gpu_driver import GpuDriver
from .kernel_call import KernelCall, Number
from .modules import ModuleTable
from .streams import current_stream_of
from .tensor_maps import Encoder, TensorMapCache

_TENSOR_MAPS = TensorMapCache()


def _nothing() -> int:
    """The launch that is ready where none is."""
    return 0


@dataclass(frozen=True)
class Made:
    """An array that the runtime makes: its place among the pointers of a call, shape, short
    dtype."""

    place: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(eq=False, slots=True)
class ArgumentBlocks:
    """The launches of a plan with memory for their arguments: what a call fills and launches.

    One call at a time has it. `held` are the arrays whose addresses are in it, `bound` the last
    stream and the launches on it; `ready` is the same of a launch that is `alone`: the only one, on
    a machine with one device."""

    calls: tuple[KernelCall, ...]
    alone: bool
    held: list[Fingerprint] | None = None
    bound: tuple[int, tuple[Callable[[], int], ...]] = (-1, ())
    ready: tuple[int, Callable[[], int]] = (-1, _nothing)

    def bind(self, stream: int) -> tuple[Callable[[], int], ...]:
        """The launches on a stream, which stays the bound one until a call comes with another."""
        launches = tuple(call.on(stream) for call in self.calls)
        self.bound = (stream, launches)
        if self.alone:
            self.ready = (stream, launches[0])
        return launches

    def fill(
        self,
        seen: list[Fingerprint],
        pointers: Sequence[int],
        scalars: Sequence[Number],
        encoder: Encoder,
    ) -> None:
        """Writes addresses and scalars."""
        self.held = None
        for call in self.calls:
            call.patch(pointers, scalars, _TENSOR_MAPS, encoder)
        self.held = seen


@dataclass(eq=False)
class Plan:
    """What all calls with arguments of one kind have in common; no array of theirs. `make_calls` makes the launches,
    `idle` are argument blocks that no call has just now: a call pops one and appends it again, so
    that threads share none. `waits`: an argument names the stream that may still be writing it.
    `direct`: addresses are all that changes from call to call."""

    program: str
    driver: GpuDriver
    modules: ModuleTable  # what it launches stays loaded
    device: ArrayDevice
    library: str
    variant: Variant
    make_calls: Callable[[], tuple[KernelCall, ...]]
    outputs: tuple[Made, ...]
    workspaces: tuple[Made, ...]
    current_stream: Callable[[], int]
    waits: bool
    direct: bool
    apart: tuple[Apart, ...]
    idle: list[ArgumentBlocks] = field(default_factory=list)

    def take(self) -> ArgumentBlocks:
        """Argument blocks that nothing else has; the holder appends them to `idle` when it is done."""
        try:
            return self.idle.pop()
        except IndexError:
            calls = self.make_calls()
            return ArgumentBlocks(calls, self.driver.count == 1 and len(calls) == 1)


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
    views = {name: replace(view, owner=None) for name, view in views.items()}
    current = current_stream_of(library, device.index)
    launches: list[tuple[int, LaunchSpec, tuple[int, int, int]]] = []
    for spec in variant.launches:
        with told_of(manifest.program):
            x, y, z = grid = grid_of(manifest, spec, env)
        if min(grid) <= 0:
            continue
        handle = current() if stream is None else stream
        function = modules.function(variant, spec.symbol, spec.shared_bytes, device.index, handle)
        if spec.cooperative:
            _check_together(manifest.program, driver, function, spec, grid, device.index)
        elif spec.cluster > 1:
            x = _resident(driver, function, spec, x, device.index)
        launches.append((function, spec, (x, y, z)))

    def make_calls() -> tuple[KernelCall, ...]:
        return tuple(_call(manifest, driver, *launch, env, views) for launch in launches)

    scalars = any(isinstance(param, ScalarParam) for param in manifest.inputs)
    waits = any(view.stream is not None for view in bound.views.values())
    return Plan(
        program=manifest.program,
        driver=driver,
        modules=modules,
        device=device,
        library=library,
        variant=variant,
        make_calls=make_calls,
        outputs=_made(manifest, manifest.outputs, views),
        workspaces=_made(manifest, tuple(w.name for w in manifest.workspaces), views),
        current_stream=current,
        waits=waits,
        direct=not (scalars or waits or manifest.outputs or manifest.workspaces),
        apart=kept_apart([t for t in manifest.inputs if isinstance(t, TensorParam)], bound.views),
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


def _resident(driver: GpuDriver, function: int, spec: LaunchSpec, blocks: int, device: int) -> int:
    """As many of the blocks as whole clusters run at the same time: they take the work in turn, and
    one that starts late would end late."""
    return min(blocks, max(spec.cluster, _room(driver, function, spec, device)))


def _room(driver: GpuDriver, function: int, spec: LaunchSpec, device: int) -> int:
    """How many blocks of a launch run at the same time."""
    threads, size = spec.threads, spec.shared_bytes
    if spec.cluster == 1:
        return driver.resident_blocks(function, threads, size, device)
    return driver.resident_clusters(function, threads, size, spec.cluster, device) * spec.cluster


def _check_together(
    program: str,
    driver: GpuDriver,
    function: int,
    spec: LaunchSpec,
    grid: Sequence[int],
    device: int,
) -> None:
    """Raises OutOfResources for a cooperative launch whose blocks do not run at the same time."""
    blocks, room = math.prod(grid), _room(driver, function, spec, device)
    if blocks > room:
        raise OutOfResources(
            "TLC0910",
            f"{program}: the {blocks} blocks of {spec.symbol} are to run at the same time, "
            f"{driver.kind}:{device} has room for {room}: {blocks - room} too many",
            hint="launch fewer blocks that do more each, or smaller ones: fewer threads, less shared "
            "memory",
        )


def _call(
    manifest: Manifest,
    driver: GpuDriver,
    function: int,
    spec: LaunchSpec,
    grid: tuple[int, int, int],
    env: Mapping[str, int],
    views: Mapping[str, ArrayView],
) -> KernelCall:
    tensors = {name: (place, views[name]) for name, place in places_of(manifest).items()}
    numbers = [param for param in manifest.params if isinstance(param, ScalarParam)]
    scalars = {param.name: (place, param.dtype) for place, param in enumerate(numbers)}
    return KernelCall(driver, function, spec, grid, env, tensors, scalars)


def _made(
    manifest: Manifest, names: tuple[str, ...], views: Mapping[str, ArrayView]
) -> tuple[Made, ...]:
    places = places_of(manifest)
    params: dict[str, TensorParam] = {t.name: t for t in manifest.tensors + manifest.workspaces}
    return tuple(Made(places[name], views[name].shape, params[name].dtype) for name in names)


def run_plan(plan: Plan, blocks: ArgumentBlocks, stream: int) -> None:
    """The launches of a plan, in order. Raises ExecutionError for a status that is not success."""
    driver = plan.driver
    bound = blocks.bound
    launches = bound[1] if bound[0] == stream else blocks.bind(stream)
    previous = driver.enter(plan.device.index) if driver.count > 1 else None
    try:
        for launch, call in zip(launches, blocks.calls, strict=True):
            if status := launch():
                _run_again(plan, call, stream, status)
    finally:
        if previous is not None:
            driver.leave(previous)


def _run_again(plan: Plan, call: KernelCall, stream: int, status: int) -> None:
    """A thread that has not used the device yet: launches need it to be the current one."""
    driver = plan.driver
    if driver.is_context_error(status):
        driver.enter(plan.device.index)
        status = call.on(stream)()
    if status:
        raise driver.failure(status, f"launching {call.spec.symbol} of {plan.program}")
