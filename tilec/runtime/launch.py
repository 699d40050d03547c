"""A program that is ready to run: arguments in, kernels launched.

`Loaded` is called with arrays. The first call with arrays of a kind makes a plan (plan.py); the
next ones find it by the fingerprints of the arguments and only write addresses. `prepare` returns a
call whose arguments are fixed altogether; repeat.py has the shortest way to a call like an earlier one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NoReturn, Protocol, cast

from ..backends.launcher.overlaps import overlapping
from ..backends.manifest import MOST_ALIGNED, Manifest, ScalarParam, TensorParam
from ..errors import UNKNOWN, ArgumentError, Loc
from ..language.kernel import UNLIKE
from ..locks import Lock
from ..target import find_target
from .allocate import allocate, as_result, hand_over
from .arrays import Fingerprint, adapter_if_array, is_array, view_array
from .check_args import bind_arguments, check_scalar
from .cuda import cuda_driver
from .gpu_driver import GpuDriver
from .hip import hip_driver
from .kernel_call import KernelCall, Number
from .modules import Binaries, ModuleTable
from .plan import (
    ArgumentBlocks,
    Made,
    Plan,
    deciding_scalars,
    make_plan,
    places_of,
    run_plan,
)
from .streams import stream_handle

MAX_PLANS = 512
LOWER_BITS = MOST_ALIGNED - 1
"""Of an address: on these a variant may depend."""


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
        self._workspaces: dict[tuple[int, int, int, bool], tuple[int, Any, int]] = {}
        self._outgrown: list[Any] = []  # workspaces that graphs still use
        self._lock = Lock()
        self._inputs = manifest.inputs
        places = places_of(manifest)
        self._pointers = len(places)  # of tensors and workspaces
        self._places = [places[p.name] for p in self._inputs if isinstance(p, TensorParam)]
        self._deciding = deciding_scalars(manifest)

    def __call__(self, *arguments: object, stream: object = None) -> Any:
        """Launches the program on `stream`, or on the current stream of the arrays' library.
        Returns what the program makes: None, one array, or a tuple. Raises ArgumentError,
        ExecutionError."""
        seen, scalars, key = self._read(arguments)
        handle = None if stream is None else stream_handle(stream)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._remember(key, self._plan(arguments, handle))
        spaces = plan.workspaces
        if spaces:  # no launch of another thread's call that uses them comes among this one's
            with self._lock:
                return self._run(plan, spaces, seen, scalars, arguments, handle)
        return self._run(plan, (), seen, scalars, arguments, handle)

    def repeat(self, arguments: Sequence[object], stream: object) -> Any:
        """As a call with arguments that there is a plan for, or UNLIKE."""
        if len(arguments) != len(self._inputs):
            return UNLIKE
        seen, scalars, key = self._read(arguments)
        plan = self._plans.get(key)
        if plan is None:
            return UNLIKE
        handle = None if stream is None else stream_handle(stream)
        spaces = plan.workspaces
        if spaces:
            with self._lock:
                return self._run(plan, spaces, seen, scalars, arguments, handle)
        return self._run(plan, (), seen, scalars, arguments, handle)

    def _run(
        self,
        plan: Plan,
        spaces: tuple[Made, ...],
        seen: list[Fingerprint],
        scalars: list[Number],
        arguments: Sequence[object],
        handle: int | None,
    ) -> Any:
        number = plan.current_stream() if handle is None else handle
        pointers = self._addresses(seen)
        made = self._make_outputs(plan, pointers, handle) if plan.outputs else None
        for space in spaces:
            pointers[space.place] = self._workspace(plan, space, number)
        if plan.waits:
            self._wait_for(arguments, number)
        blocks = plan.take()
        if not plan.direct or seen != blocks.held:
            if overlapping(plan.apart, [one[0] for one in seen]) is not None:
                self._refuse(arguments)
            blocks.fill(seen, pointers, scalars, self.driver)
        run_plan(plan, blocks, number)
        plan.idle.append(blocks)
        return as_result(made) if made else None

    def prepare(self, *arguments: object) -> PreparedLaunch:
        """A call with everything computed, for these arrays and scalars. Outputs and workspaces are
        made once, here. Raises ArgumentError."""
        seen, scalars, _ = self._read(arguments)
        plan = self._plan(arguments, None)
        pointers = self._addresses(seen)
        made = self._make_outputs(plan, pointers, None)
        spaces = []
        for space in plan.workspaces:
            array = allocate(plan.library, plan.device, space.shape, space.dtype, None)
            pointers[space.place] = view_array(array).pointer
            spaces.append(array)
        blocks = plan.take()
        blocks.fill(seen, pointers, scalars, self.driver)
        return _prepared(plan, blocks, as_result(made), (arguments, spaces))

    def plan_of(self, arguments: Sequence[object]) -> Plan | None:
        """The plan that an earlier call like this one left."""
        return self._plans.get(self._read(arguments)[2])

    def _key(self, seen: Sequence[Fingerprint], numbers: Sequence[Number]) -> Hashable:
        """What a plan is found by: all that fingerprints say but the upper bits of addresses, and
        the scalars that decide."""
        return (*[(one[0] & LOWER_BITS, one[1:]) for one in seen], *numbers)

    def _read(
        self, arguments: Sequence[object]
    ) -> tuple[list[Fingerprint], list[Number], Hashable]:
        """Fingerprints of the arrays, scalars, and the key of the plan."""
        if len(arguments) != len(self._inputs):
            self._refuse(arguments)
        seen: list[Fingerprint] = []
        scalars: list[Number] = []
        deciding: list[Number] = []
        for argument, param in zip(arguments, self._inputs, strict=True):
            if isinstance(param, ScalarParam):
                try:
                    number = check_scalar(self.manifest.program, param, argument)
                except ArgumentError:
                    self._refuse(arguments)
                scalars.append(number)
                if param.name in self._deciding:
                    deciding.append(number)
                continue
            adapter = adapter_if_array(argument)
            if adapter is None:
                self._refuse(arguments)
            seen.append(adapter.fingerprint(argument))
        return seen, scalars, self._key(seen, deciding)

    def _addresses(self, seen: Sequence[Fingerprint]) -> list[int]:
        """The addresses of the arrays, each at its place among all tensors and workspaces."""
        pointers = [0] * self._pointers
        for place, one in zip(self._places, seen, strict=True):
            pointers[place] = one[0]
        return pointers

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
            while len(self._plans) >= MAX_PLANS:
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
        another; the lock is held until they are launched. Calls that are captured on it have their
        own, which stays as long as the program: a graph goes on using it. The first of them takes
        over what the warm-up left."""
        eager = (space.place, plan.device.index, stream, False)
        captured = self.driver.is_capturing(stream)
        key = (*eager[:3], captured)
        size = 1
        for extent in space.shape:
            size *= extent
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


class PreparedLaunch(Protocol):
    """A call whose arguments are fixed: calling it is the launches and nothing else. It keeps its
    arrays and workspaces alive, and may be called from threads and under graph capture: keep it as
    long as a graph that has captured it, which uses its memory."""

    launches: tuple[KernelCall, ...]
    """The launches, without those of an empty grid."""

    def __call__(self, stream: object = None) -> Any:
        """Launches on `stream`, or on the current stream of the arrays' library. Returns the
        outputs that `prepare` made, the same arrays at every call."""


def _prepared(plan: Plan, blocks: ArgumentBlocks, result: Any, keep: object) -> PreparedLaunch:
    """A function, since Python takes a third of a prepared launch's own time to find the `__call__`
    of an object."""
    current_stream = plan.current_stream
    lock = Lock()

    def launch_prepared(stream: object = None) -> Any:
        number = current_stream() if stream is None else stream_handle(stream)
        bound, launch = blocks.ready
        # The usual case without another call. What fails to launch is launched again, and told.
        if bound != number or launch():
            with lock:  # several launches share workspaces, as those of a call do
                run_plan(plan, blocks, number)
        return result

    launch_prepared.launches = blocks.calls  # type: ignore[attr-defined]
    launch_prepared.keep = keep  # type: ignore[attr-defined]
    return cast(PreparedLaunch, launch_prepared)


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
