"""The interpreter of machine code as a device: a compiled kernel's HIP text, made assembly by
clang, and executed on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from tests.backends.hip.cdna.decode import Code, read_code
from tests.backends.hip.cdna.launch import Launch, Order
from tests.backends.hip.cdna.memory import GlobalMemory
from tests.backends.hip.cdna.waves import Mode
from tilec.backends.launcher.expressions import evaluate
from tilec.backends.manifest import Argument, LaunchSpec
from tilec.ir.dtypes import find_dtype
from tilec.runtime.allocate import allocate, as_result
from tilec.runtime.arrays import ArrayView
from tilec.runtime.check_args import bind_arguments, pick_variant
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.plan import made_views
from tilec.target import find_target

MULTIPROCESSORS = 4


@cache
def assembled(text: str, name: str, arch: str) -> str:
    """A HIP text as clang compiles it for `arch`."""
    return find_amd_clang(arch).assemble(text, name, arch).assembly


@cache
def kernels(assembly: str) -> dict[str, Code]:
    """The kernels of an assembly text."""
    return read_code(assembly)


class MachineCodeDevice:
    """Runs kernels compiled for an AMD target, by default `target`. `edit` changes the assembly
    first: a fault, seeded."""

    def __init__(
        self,
        mode: Mode = "late",
        order: Order = "forward",
        seed: int = 1,
        edit: Callable[[str], str] = str,
        target: str = "hip:gfx942",
    ) -> None:
        self.name, self.target = f"machine code:{target}", find_target(target)
        self.mode, self.order, self.seed = mode, order, seed
        self.edit = edit

    def run(self, compiled: CompiledKernel, arrays: Sequence[Any], stream: object = None) -> Any:
        """Executes every launch of the variant that the arguments pick, in place; returns what the
        program returns."""
        manifest = compiled.manifest
        bound = bind_arguments(manifest, arrays)
        env = bound.environment(MULTIPROCESSORS)
        views = made_views(manifest, bound, env)
        variant = pick_variant(manifest, views, env)
        lowered = next(v for v in compiled.variants if v.file_name == variant.source)
        values = dict(zip((p.name for p in manifest.inputs), arrays, strict=True))
        made = {name: _unwritten(views[name]) for name in views if name not in bound.views}
        values |= made
        for launch in variant.launches:
            self.launch(lowered.text, compiled.target.arch, launch, {**env, **values})
        return as_result([made[name] for name in manifest.outputs])

    def launch(self, text: str, arch: str, spec: LaunchSpec, values: dict[str, Any]) -> None:
        """Executes one launch of a HIP text; `values` are arrays and numbers by name."""
        assembly = self.edit(assembled(text, f"{spec.symbol}.hip", arch))
        code = kernels(assembly)[spec.symbol]
        numbers = {k: int(v) for k, v in values.items() if isinstance(v, int | np.integer)}
        x, y, z = (evaluate(extent, numbers) for extent in spec.grid)
        memory = GlobalMemory()
        arguments = tuple(_pack(argument, values, memory) for argument in spec.arguments)
        Launch(
            (x, y, z), spec.threads, spec.shared_bytes, arguments, self.mode, self.order, self.seed
        ).run(code, memory)


def _unwritten(view: ArrayView) -> np.ndarray[Any, Any]:
    """An array that the program makes, of bytes that nobody takes for a result."""
    array: np.ndarray[Any, Any] = allocate("numpy", view.device, view.shape, view.dtype, None)
    array.reshape(-1).view(np.uint8).fill(0xFF)
    return array


def _pack(argument: Argument, values: dict[str, Any], memory: GlobalMemory) -> bytes:
    value = values[argument.name]
    if argument.kind == "pointer":
        value = np.uint64(memory.add(argument.name, value, value.flags.writeable))
        return value.tobytes()
    return np.asarray(value).astype(find_dtype(argument.dtype or "i32").numpy).tobytes()
