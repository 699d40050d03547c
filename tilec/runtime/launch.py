"""A program that is ready to run: arguments in, kernels launched.

`Loaded` is called with arrays. The first call with arrays of a kind makes a plan (plan.py); the
next ones find it by a fingerprint of the arguments and only write addresses. `prepare` returns a
call whose arguments are fixed altogether."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from typing import Any, NoReturn

from ..backends.manifest import Manifest, ScalarParam, TensorParam, Variant
from ..errors import UNKNOWN, ArgumentError, Loc
from ..target import find_target
from .allocate import allocate, as_result, hand_over
from .arrays import ADAPTERS, adapter_of, is_array, view_array
from .check_args import bind_arguments, check_scalar
from .cuda import cuda_driver
from .gpu_driver import GpuDriver
from .hip import hip_driver
from .kernel_call import KernelCall, Number
from .modules import Binaries, ModuleTable
from .plan import Made, Plan, deciding_scalars, make_plan, places_of, variant_of
from .streams import stream_handle
from .tensor_maps import TensorMapCache

_MAX_PLANS = 512
_TENSOR_MAPS = TensorMapCache()
UNLIKE = object()
"""What `Loaded.repeat` returns for arguments unlike the last call's."""


class Loaded:
    """A manifest with its machine code, loaded on devices as arguments come. Safe to call from
    threads."""

    def __init__(
        self, binaries: Binaries, manifest: Manifest, driver: GpuDriver, loc: Loc = UNKNOWN
    ) -> None:
        self.manifest = manifest
        self.driver = driver
        self.loc = loc
        self._table = ModuleTable(binaries, manifest, driver)
        self._plans: dict[Hashable, Plan] = {}
        self._last: tuple[Hashable, Plan] | None = None
        self._workspaces: dict[tuple[int, int, int, bool], tuple[int, Any, int]] = {}
        self._outgrown: list[Any] = []  # workspaces that graphs still use
        self._lock = threading.Lock()
        places = places_of(manifest)
        self._pointers = len(places)
        self._inputs = tuple(
            (param, places[param.name] if isinstance(param, TensorParam) else -1)
            for param in manifest.inputs
        )
        self._deciding = deciding_scalars(manifest)
        facts = [fact for variant in manifest.variants for fact in variant.requires]
        aligned = [fact.bytes for fact in facts if fact.kind == "aligned"]
        self._mask = max([16, *aligned]) - 1  # the bits of an address that a variant may depend on

    def __call__(self, *arguments: object, stream: object = None) -> Any:
        """Launches the program on `stream`, or on the current stream of the arrays' library.
        Returns what the program makes: None, one array, or a tuple. Raises ArgumentError,
        ExecutionError."""
        pointers, scalars, key = self._read(arguments)
        handle = None if stream is None else stream_handle(stream)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._remember(key, self._plan(arguments, handle))
        self._last = (key, plan)
        return self._run(plan, pointers, scalars, arguments, handle)

    def repeat(self, arguments: Sequence[object], stream: object) -> Any:
        """As a call with arguments exactly like the last one's, or UNLIKE. This is the shortest way
        from arrays to a launch."""
        last = self._last
        if last is None or len(arguments) != len(self._inputs):
            return UNLIKE
        pointers, scalars, key = self._read(arguments)
        if key != last[0]:
            return UNLIKE
        handle = None if stream is None else stream_handle(stream)
        return self._run(last[1], pointers, scalars, arguments, handle)

    def _run(
        self,
        plan: Plan,
        pointers: list[int],
        scalars: list[Number],
        arguments: Sequence[object],
        handle: int | None,
    ) -> Any:
        number = plan.current_stream() if handle is None else handle
        made = self._make_outputs(plan, pointers, handle) if plan.outputs else None
        for space in plan.workspaces:
            pointers[space.place] = self._workspace(plan, space, number)
        if plan.waits:
            self._wait_for(arguments, number)
        with plan.lock:
            if scalars or pointers != plan.patched:
                for call in plan.calls:
                    call.patch(pointers, scalars, _TENSOR_MAPS, self.driver)
                plan.patched = pointers
            run_calls(self.driver, plan, number)
        return as_result(made) if made else None

    def prepare(self, *arguments: object) -> PreparedLaunch:
        """A call with everything computed, for these arrays and scalars. Outputs and workspaces are
        made once, here. Raises ArgumentError."""
        pointers, scalars, _ = self._read(arguments)
        plan = self._plan(arguments, None)
        made = self._make_outputs(plan, pointers, None)
        spaces = []
        for space in plan.workspaces:
            array = allocate(plan.library, plan.device, space.shape, space.dtype, None)
            pointers[space.place] = view_array(array).pointer
            spaces.append(array)
        for call in plan.calls:
            call.patch(pointers, scalars, _TENSOR_MAPS, self.driver)
        return PreparedLaunch(self.driver, plan, as_result(made), (self._table, arguments, spaces))

    def variant_for(self, *arguments: object) -> Variant:
        """The variant that these arguments pick, without loading it. Raises ArgumentError."""
        with self.loc:
            return variant_of(self.manifest, self.driver, arguments)

    def _read(self, arguments: Sequence[object]) -> tuple[list[int], list[Number], Hashable]:
        """Addresses, scalars, and the key of the plan. This is on the path of every call."""
        if len(arguments) != len(self._inputs):
            self._refuse(arguments)
        pointers = [0] * self._pointers
        scalars: list[Number] = []
        key: list[Hashable] = []
        mask = self._mask
        for argument, (param, place) in zip(arguments, self._inputs, strict=True):
            if place < 0:
                assert isinstance(param, ScalarParam)
                try:
                    number = check_scalar(self.manifest.program, param, argument)
                except ArgumentError:
                    self._refuse(arguments)
                scalars.append(number)
                if param.name in self._deciding:
                    key.append(number)
                continue
            kind = type(argument)
            adapter = ADAPTERS.get(kind)
            if adapter is None:
                if not is_array(argument):
                    self._refuse(arguments)
                adapter = adapter_of(argument)
            pointer, rest = adapter.fingerprint(argument)
            pointers[place] = pointer
            key.append((kind, pointer & mask, rest))
        return pointers, scalars, tuple(key)

    def _refuse(self, arguments: Sequence[object]) -> NoReturn:
        """Raises the error that says what is wrong with arguments that could not be read."""
        with self.loc:
            bind_arguments(self.manifest, arguments)
        raise AssertionError("arguments that could not be read were found right")

    def _plan(self, arguments: Sequence[object], stream: int | None) -> Plan:
        with self.loc:
            return make_plan(self.manifest, self._table, self.driver, arguments, stream)

    def _remember(self, key: Hashable, plan: Plan) -> Plan:
        with self._lock:
            while len(self._plans) >= _MAX_PLANS:
                self._plans.pop(next(iter(self._plans)))
            return self._plans.setdefault(key, plan)

    def _make_outputs(self, plan: Plan, pointers: list[int], stream: int | None) -> list[Any]:
        made = []
        for output in plan.outputs:
            array = allocate(plan.library, plan.device, output.shape, output.dtype, stream)
            pointers[output.place] = view_array(array).pointer
            made.append(hand_over(plan.library, array))
        return made

    def _workspace(self, plan: Plan, space: Made, stream: int) -> int:
        """The address of scratch memory that calls on one stream share: they run one after
        another. Calls that are captured on it have their own, which stays as long as the program:
        a graph goes on using it. The first of them takes over what the warm-up left."""
        eager = (space.place, plan.device.index, stream, False)
        captured = self.driver.is_capturing(stream)
        key = (*eager[:3], captured)
        size = 1
        for extent in space.shape:
            size *= extent
        with self._lock:
            held = self._workspaces.get(key)
            if held is None and captured:
                held = self._workspaces.pop(eager, None)
            if held is not None:
                self._workspaces[key] = held
            if held is None or held[0] < size:
                if held is not None and captured:
                    self._outgrown.append(held[1])
                array = allocate(plan.library, plan.device, space.shape, space.dtype, stream)
                held = self._workspaces[key] = (size, array, view_array(array).pointer)
            return held[2]

    def _wait_for(self, arguments: Sequence[object], stream: int) -> None:
        """Orders the launch after the streams that still may be writing an argument."""
        producers = {view_array(a).stream for a in arguments if is_array(a)} - {None, stream}
        if stream == 0:
            producers.discard(1)  # two names of the legacy default stream
        for producer in producers:
            assert producer is not None
            self.driver.wait_stream(stream, producer)


class PreparedLaunch:
    """A call whose arguments are fixed: calling it is the launches and nothing else. It keeps its
    arrays alive, and may be called from threads and under graph capture."""

    __slots__ = ("_alone", "_driver", "_keep", "_plan", "_result")

    def __init__(self, driver: GpuDriver, plan: Plan, result: Any, keep: object) -> None:
        self._driver = driver
        self._plan = plan
        self._result = result
        self._alone = len(plan.calls) == 1 and driver.count == 1  # one launch, one device
        self._keep = keep

    def __call__(self, stream: object = None) -> Any:
        """Launches on `stream`, or on the current stream of the arrays' library. Returns the
        outputs that `prepare` made, the same arrays at every call."""
        plan = self._plan
        number = plan.current_stream() if stream is None else stream_handle(stream)
        bound = plan.bound
        # The usual case without another call. What fails to launch is launched again, and told.
        if bound[0] == number and self._alone and not bound[1][0]():
            return self._result
        run_calls(self._driver, plan, number)
        return self._result

    @property
    def launches(self) -> tuple[KernelCall, ...]:
        """The launches, without those of an empty grid."""
        return self._plan.calls


def load(
    binaries: Binaries, manifest: Manifest, driver: GpuDriver | None = None, loc: Loc = UNKNOWN
) -> Loaded:
    """The program of `manifest` on this machine's driver for its target, or on `driver`. Raises
    NoDevice.

    Nothing is loaded on a device before arguments come: the arrays say which one.
    """
    if driver is None:
        driver = cuda_driver() if find_target(manifest.target).backend == "cuda" else hip_driver()
    return Loaded(binaries, manifest, driver, loc)


def run_calls(driver: GpuDriver, plan: Plan, stream: int) -> None:
    """The launches of a plan, in order. Raises ExecutionError for a status that is not success."""
    bound = plan.bound
    launches = bound[1] if bound[0] == stream else plan.bind(stream)
    previous = driver.enter(plan.device.index) if driver.count > 1 else None
    try:
        for launch in launches:
            if status := launch():
                _run_again(driver, plan, launches.index(launch), stream, status)
    finally:
        if previous is not None:
            driver.leave(previous)


def _run_again(driver: GpuDriver, plan: Plan, number: int, stream: int, status: int) -> None:
    """A thread that has not used the device yet: launches need it to be the current one."""
    call = plan.calls[number]
    if driver.is_context_error(status):
        driver.enter(plan.device.index)
        status = call.on(stream)()
    if status:
        raise driver.failure(status, f"launching {call.spec.symbol} of {plan.program}")
