"""A kernel compiled for one target: what it says, what it needs, and how to call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from ..backends.interface import Interface
from ..backends.manifest import Fact, LaunchSpec, Manifest, Variant
from ..errors import ArgumentError, CompilerFailed
from ..ir.core import Program
from ..ir.ops import control
from ..ir.print import print_program
from ..ir.registry import Registry
from ..language.kernel import UNLIKE
from ..locks import Lock, cached_property
from ..passes.context import Assume, assumptions
from ..target import Target
from .arrays import ArrayView
from .binary import Binary, KernelResources
from .check_args import NoVariant, pick_variant, refused_facts
from .devices import driver_of, open_device, select_device
from .gpu_device import runs_in_place
from .gpu_driver import GpuDriver
from .launch import Loaded, PreparedLaunch, load
from .repeat import Repeat, repeat_of
from .stored import StoredVariant, read_variant, store_variant

if TYPE_CHECKING:
    from ..passes.context import Remark
    from .lowering import Lowered


class Launch:
    """One kernel of a compiled program: `name`, `grid` (three Exprs), `threads`, `shared_bytes`;
    `registers` and `spills` (bytes) once it has been through the vendor's compiler.
    """

    def __init__(self, spec: LaunchSpec, owner: CompiledKernel) -> None:
        self.name = spec.symbol
        self.grid = spec.grid
        self.threads = spec.threads
        self.shared_bytes = spec.shared_bytes
        self._owner = owner

    @property
    def resources(self) -> KernelResources:
        """What the vendor's compiler reports. Raises MissingTool, CompilerFailed."""
        found = self._owner.binary.kernel(self.name)
        if found is None:
            raise CompilerFailed("TLC0705", f"the compiler says nothing about {self.name}")
        return found

    @property
    def registers(self) -> int:
        return self.resources.registers

    @property
    def spills(self) -> int:
        return self.resources.spill_stores + self.resources.spill_loads


class CompiledKernel:
    """A program for a target. Lowered and compiled as far as it is asked for.

    Variants: first the one whose arguments are aligned and small as the passes asked; the general
    one is made when arguments come that need it.

    Threads may share it: what it makes is made by one of them, while others that need it wait.
    """

    def __init__(self, program: Program, target: Target, registry: Registry | None = None) -> None:
        self.program = program
        self.target = target
        self._registry = registry
        self._lock = Lock()  # held while something below is made, not while it is used
        self._lowered: dict[Assume, Lowered] = {}
        self._stored: dict[Assume, StoredVariant] = {}
        self._general = False
        self._loaded: Loaded | None = None
        self._repeat: Repeat | None = None
        self._binaries: dict[tuple[str, str], Binary] = {}

    def __getstate__(self) -> dict[str, object]:
        """All but what belongs to this process's devices: copied and pickled as far as it is made."""
        return {**vars(self), "_loaded": None, "_repeat": None}

    @property
    def registry(self) -> Registry:
        """The ops, and what passes know of them."""
        if self._registry is None:
            from .lowering import standard_registry

            return standard_registry()
        return self._registry

    # Text

    @cached_property
    def interface(self) -> Manifest:
        """Parameters and symbols alone: what can be checked without lowering anything."""
        return Interface(self.program).manifest(self.target.name)

    @property
    def lowered(self) -> Lowered:
        """The first variant."""
        return self._lower(Assume.ALL)

    def _lower(self, assume: Assume) -> Lowered:
        with self._lock:
            found = self._lowered.get(assume)
            if found is None:
                from .lowering import lower_program  # passes and templates: not for what is stored

                found = lower_program(self.program, self.target, self.registry, assume=assume)
                self._lowered[assume] = found
            return found

    def add_general(self) -> bool:
        """Adds the variant that takes any arguments, and before it those that assume less than the
        first (`Assume`); False if the first takes any.
        """
        with self._lock:
            first = self._stored.get(Assume.ALL)
            requires = self.lowered.requires if first is None else first.variant.requires
            if requires and not self._general:
                self._general = True
                self._loaded = None
            return bool(requires)

    @property
    def variants(self) -> tuple[Lowered, ...]:
        """The variants made so far."""
        return self._variants(self._assumed())

    def _variants(self, assumed: tuple[Assume, ...]) -> tuple[Lowered, ...]:
        found = {lowered.requires: lowered for lowered in map(self._lower, assumed[::-1])}
        return tuple(found.values())[::-1]

    def picked(
        self, views: Callable[[Manifest], Mapping[str, ArrayView]], env: Mapping[str, int]
    ) -> Lowered:
        """The variant that `pick_variant` would take of those made so far, of which each is asked about
        the `views` of its arguments and workspaces; those behind it are not lowered. Raises NoVariant.

        Nor is the one for any size, where what it would refuse is known: up to the first question
        about a size both are lowered alike, and so ask for the same alignment.
        """
        alike: list[Fact] = []
        assumed = self._assumed()
        for assume in assumed:
            if assume is Assume.ALIGNED and alike:
                continue
            lowered = self._lower(assume)
            manifest = lowered.emitted.manifest(lowered.variant)
            refused = refused_facts(manifest, lowered.variant, views(manifest), env)
            if not refused:
                return lowered
            if assume is Assume.ALL:
                asked = takewhile(lambda fact: fact.kind == "aligned", lowered.requires)
                alike = [fact for fact in asked if fact in refused]
        whole = self._manifest(assumed)
        taken = pick_variant(whole, views(whole), env)
        raise AssertionError(f"{taken.source} takes what it refused")

    def _assumed(self) -> tuple[Assume, ...]:
        """What the variants assume, the most first."""
        return assumptions(self.program) if self._general else (Assume.ALL,)

    @property
    def manifest(self) -> Manifest:
        """The program's interface with the variants made so far."""
        return self._manifest(self._assumed())

    def _manifest(self, assumed: tuple[Assume, ...]) -> Manifest:
        variants = tuple(lowered.variant for lowered in self._variants(assumed))
        return replace(self.interface, variants=variants)

    @property
    def source(self) -> str:
        """The text of the first variant."""
        return self.lowered.text

    @property
    def remarks(self) -> tuple[Remark, ...]:
        return self.lowered.remarks

    @property
    def launches(self) -> tuple[Launch, ...]:
        return tuple(Launch(spec, self) for spec in self.lowered.emitted.launches)

    @property
    def grid(self) -> object:
        return self._only().grid

    @property
    def threads(self) -> int:
        return self._only().threads

    @property
    def shared_bytes(self) -> int:
        return self._only().shared_bytes

    @property
    def registers(self) -> int:
        return self._only().registers

    @property
    def spills(self) -> int:
        return self._only().spills

    def _only(self) -> Launch:
        """The program's one launch. What the compiler launches for it comes before."""
        (_,) = (op for op in self.program.body.ops if isinstance(op, control.Launch))
        return self.launches[-1]

    def ir(self, after: str = "") -> str:
        """The IR as text: as traced, or after the last pass called `after`."""
        if not after:
            return print_program(self.program)
        from ..passes.context import Facts, PassContext
        from ..passes.pipeline import run_pipeline

        context = PassContext(self.target, self.registry, Facts())
        return print_program(run_pipeline(self.program, context, after=after))

    # Machine code

    def compiled(self, variant: Variant, arch: str = "") -> Binary:
        """The machine code of a variant for the target, or for `arch`. Raises MissingTool,
        CompilerFailed."""
        key = (variant.source, arch)
        with self._lock:
            if key not in self._binaries:
                from .build import compile_variant

                lowered = next(v for v in self._lowered.values() if v.file_name == variant.source)
                binary = compile_variant(lowered.text, self.target, variant.source, arch=arch)
                self._binaries[key] = binary
                if self._registry is None:
                    assume = next(a for a, v in self._lowered.items() if v is lowered)
                    stored = StoredVariant(lowered.variant, binary)
                    store_variant(self.program, self.target, arch, assume, stored)
            return self._binaries[key]

    def _launchable(self, assume: Assume, arch: str) -> Variant:
        """A variant as the launcher sees it: stored by an earlier process, or lowered now. The lock is
        held."""
        if self._registry is None and assume not in self._lowered and assume not in self._stored:
            found = read_variant(self.program, self.target, arch, assume)
            if found is not None:
                self._stored[assume] = found
                self._binaries[found.variant.source, arch] = found.binary
        stored = self._stored.get(assume)
        return self._lower(assume).variant if stored is None else stored.variant

    @property
    def binary(self) -> Binary:
        """The machine code of the first variant."""
        return self.compiled(self.lowered.variant)

    def loaded(self) -> Loaded:
        """The program on this machine's driver. Raises NoDevice."""
        with self._lock:
            if self._loaded is None:
                driver = driver_of(self.target.backend)
                arch = _arch_here(self.target, driver)
                found = [self._launchable(assume, arch) for assume in self._assumed()]
                variants = tuple({v.requires: v for v in found[::-1]}.values())[::-1]
                self._loaded = load(
                    lambda variant: self.compiled(variant, arch),
                    replace(self.interface, variants=variants),
                    driver,
                    self.program.loc,
                )
            return self._loaded

    # Calling

    def __call__(self, *arguments: object, stream: object = None, device: str = "") -> Any:
        """Runs the program on its run-time arguments, in order. Raises ArgumentError,
        ExecutionError, NoDevice.
        """
        if self._repeat is not None and not device:
            result = self._repeat.call(arguments, stream)
            if result is not UNLIKE:
                return result
        chosen = open_device(device) if device else select_device(arguments)
        result = self.run_on(chosen, arguments, stream)
        if not device and runs_in_place(chosen, arguments):
            self._repeat = repeat_of(self.loaded(), arguments, self._repeat)
        return result

    def run_on(self, device: Any, arguments: Sequence[object], stream: object = None) -> Any:
        """Runs on a given device; arguments that no variant takes make the general one first."""
        try:
            return self._run_on(device, arguments, stream)
        except MemoryError as problem:
            raise ArgumentError(
                "TLC0807",
                f"{self.program.name}: there is no memory for its arrays: {problem}",
                hint="pass smaller arrays; the interpreter takes 9 bytes an element beside them",
                loc=self.program.loc,
            ) from problem

    def _run_on(self, device: Any, arguments: Sequence[object], stream: object) -> Any:
        try:
            return device.run(self, arguments, stream)
        except NoVariant:  # perhaps before another thread added the general one
            if not self.add_general():
                raise
        return device.run(self, arguments, stream)

    def launch(self, arguments: Sequence[object], stream: object = None) -> Any:
        """As run_on, for a GPU and arrays that are there: the path of repeated calls."""
        try:
            return (self._loaded or self.loaded())(*arguments, stream=stream)
        except NoVariant:
            if not self.add_general():
                raise
        return self.loaded()(*arguments, stream=stream)

    def prepare(self, *arguments: object) -> PreparedLaunch:
        """A call with everything precomputed, for these arguments (see PreparedLaunch)."""
        try:
            return self.loaded().prepare(*arguments)
        except NoVariant:
            if not self.add_general():
                raise
        return self.loaded().prepare(*arguments)


def _arch_here(target: Target, driver: GpuDriver) -> str:
    """The architecture to compile for on this machine: text for an older one (sm_80 on an H100) is
    compiled for the device itself, since machine code does not carry over."""
    if target.capability is None or target.exact:
        return ""
    major, minor = driver.capability(0)
    return "" if (major, minor) == target.capability else f"sm_{major}{minor}"
