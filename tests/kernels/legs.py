"""One kernel on every machine: its call on the interpreter and in the emulator, its text by the
vendors' compilers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.kernels.machines import TARGETS
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.driver import lower
from tilec.runtime.nvrtc import find_nvrtc

DEVICES = ("interpreter", *(f"emulator:{target}" for target in TARGETS))


def one_leg(device: str, kernel: Any, *arrays: Any, **constants: Any) -> list[Any]:
    """Copies of the arrays as the kernel leaves them on a device."""
    own = [np.array(x) if isinstance(x, np.ndarray) else x for x in arrays]
    kernel(*own, device=device, **constants)
    return own


def every_leg(kernel: Any, *arrays: Any, **constants: Any) -> Iterator[tuple[str, list[Any]]]:
    """Each device with copies of the arrays as the kernel leaves them there."""
    for device in DEVICES:
        yield device, one_leg(device, kernel, *arrays, **constants)


def turns(values: Iterable[Any], name: Callable[[Any], str] = str) -> list[Any]:
    """Each value on the interpreter and on one machine in turn, nightly on all."""
    return [
        pytest.param(
            device, value, id=f"{name(value)}-{device}", marks=pytest.mark.nightly if late else ()
        )
        for i, value in enumerate(values)
        for n, device in enumerate(DEVICES)
        for late in [n not in (0, 1 + i % 3)]
    ]


def compile_texts(kernel: Any, **constants: Any) -> dict[str, str]:
    """Has the vendors' compilers take the kernel's text for every target, without a spill. Gives
    the texts by target."""
    texts: dict[str, str] = {}
    for target in TARGETS:
        backend, _, arch = target.partition(":")
        lowered = lower(kernel, (), target, constants)
        lowered.add_general()
        for variant in lowered.variants:
            if backend == "cuda":
                for used in find_nvrtc().compile(variant.text, variant.file_name, arch).resources:
                    assert (used.spill_stores, used.spill_loads) == (0, 0), target
            else:
                for isa in find_amd_clang().assemble(variant.text, variant.file_name, arch).kernels:
                    assert (isa.vgpr_spills, isa.sgpr_spills) == (0, 0), target
        texts[target] = lowered.variants[0].text
    return texts
