"""The kernels of examples/ in every form that they are shipped in, for every NVIDIA target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from tests.modules import EXAMPLES, example_targets
from tilec.cli.programs import load_file, trace
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import compile_program
from tilec.target import TARGETS, find_target

NVIDIA = tuple(name for name in TARGETS if name.startswith("cuda"))


@dataclass(frozen=True)
class Shipped:
    """An example with values for compile-time parameters and extents, for a target."""

    example: str
    target: str
    defines: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return "-".join([self.example, *(f"{n}={v}" for n, v in self.defines), self.target])

    def compiled(self) -> Iterator[CompiledKernel]:
        """The kernels of the example, each with the variant for any arguments."""
        target, defines = find_target(self.target), dict(self.defines)
        for kernel in load_file(EXAMPLES / f"{self.example}.py").kernels.values():
            compiled = compile_program(trace(kernel, defines, target), target)
            compiled.add_general()
            yield compiled


def shipped() -> list[Shipped]:
    """Every example, and of those with a choice of heads, storage or widths every choice."""
    forms: list[tuple[str, dict[str, Any]]] = []
    for name in sorted(path.stem for path in EXAMPLES.glob("*.py")):
        forms += [(name, form) for form in _FORMS.get(name, [{}])]
    return [
        Shipped(name, target, tuple(form.items()))
        for name, form in forms
        for target in NVIDIA
        if target in example_targets(name)
    ]


_HEADS = (64, 96, 128, 256)
_ROWS = [{"N": n} for n in (256, 1000, 4096, 8192, 16384, 32768)]
_FORMS: dict[str, list[dict[str, Any]]] = {
    "demo": [],  # a script without a kernel
    "flash_attention": [
        *({"D": D, "causal": causal} for D in _HEADS for causal in (False, True)),
        *({"D": D, "causal": True, "heads_first": False} for D in _HEADS),
        # with D=256 it does not fit the shared memory of sm_75
        *({"D": D, "causal": True, "dtype": "bfloat16"} for D in _HEADS[:-1]),
    ],
    "gemm_transposes": [
        {"transpose_A": ta, "transpose_B": tb, "dtype": dtype}
        for ta, tb, dtype in product((False, True), (False, True), ("float16", "bfloat16"))
    ],
    "convolution": [{"C": 3}, {"C": 64}, {"C": 64, "dtype": "bfloat16"}],
    **dict.fromkeys(("softmax", "rms_norm", "layer_norm", "fp8_cast"), _ROWS),
}
