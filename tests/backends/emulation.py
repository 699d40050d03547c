"""Runs bodies in the emulator, in every mode and order, for the tests of preludes and emulator."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tests.backends import gemm_sm80, gemm_sm90
from tilec.backends.manifest import Argument, LaunchSpec, TensorMapSpec
from tilec.backends.prelude import FrameParameter, KernelFrame, Need, prelude_names, render_source
from tilec.locks import cached_property
from tilec.runtime.emulator import ORDERS, EmulatorError, Mode, Order, build, run

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Gemm:
    """A hand-written GEMM body, C = A B^T, with how it is launched."""

    body: str
    make_frame: Callable[[str, str], KernelFrame]
    launch: LaunchSpec

    def build(self, bodies: Sequence[str] = ()) -> Path:
        """One library of the body as it is ("gemm") and of `bodies` ("gemm_0", "gemm_1", …)."""
        frames = [self.make_frame(self.body, "gemm")]
        frames += [self.make_frame(body, f"gemm_{i}") for i, body in enumerate(bodies)]
        return build(render_source("cpu", frames))

    def multiply(
        self,
        library: Path,
        a: NDArray[Any],
        b: NDArray[Any],
        mode: Mode = "late",
        order: Order = "forward",
        symbol: str = "gemm",
        races: bool = True,
    ) -> NDArray[Any]:
        """The product as the emulator computes it; elements that the kernel leaves out are NaN."""
        (m, k), n = a.shape, b.shape[0]
        c = np.full((m, n), np.nan, a.dtype)
        arguments = {"A": a, "B": b, "C": c, "M": m, "N": n, "K": k}
        launch = replace(self.launch, symbol=symbol)
        run(library, launch, arguments, mode, order, 7, multiprocessors=2, races=races)
        return c


_SYMBOLS = tuple(Argument("symbol", name) for name in ("M", "N", "K"))

SM80 = Gemm(
    gemm_sm80.BODY,
    gemm_sm80.make_frame,
    LaunchSpec(
        "gemm",
        (*(Argument("pointer", name) for name in "ABC"), *_SYMBOLS),
        (("ceildiv", "N", 64), ("ceildiv", "M", 64), 1),
        128,
        24576,
    ),
)

SM90 = Gemm(
    gemm_sm90.BODY,
    gemm_sm90.make_frame,
    LaunchSpec(
        "gemm",
        (
            *(
                Argument("tensor_map", f"{name}_map", None, TensorMapSpec(name, box, 128))
                for name, box in (("A", (128, 64)), ("B", (256, 64)), ("C", (64, 64)))
            ),
            *_SYMBOLS,
        ),
        ("@multiprocessors", 1, 1),
        384,
        gemm_sm90.SHARED_BYTES,
    ),
)


def make_operands(m: int, n: int, k: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Random f16 matrices A[m, k] and B[n, k]."""
    random = np.random.default_rng(seed)
    return (
        random.standard_normal((m, k)).astype(np.float16),
        random.standard_normal((n, k)).astype(np.float16),
    )


def is_product(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> bool:
    """Whether c = a b^T within one rounding to f16 and k of f32."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    expected, magnitude = wide_a @ wide_b.T, np.abs(wide_a) @ np.abs(wide_b).T
    allowed = 2.0**-11 * np.abs(expected) + a.shape[1] * 2.0**-24 * magnitude + 2.0**-25
    return bool(np.all(np.abs(c.astype(np.float64) - expected) <= allowed))


def every_schedule() -> Iterator[tuple[Mode, Order]]:
    """Late and early with each order, and both by chance."""
    modes: tuple[Mode, ...] = ("late", "early")
    yield from itertools.product(modes, ORDERS)
    yield "random", "random"


def find_fault(gemm: Gemm, library: Path, symbol: str, shape: tuple[int, int, int]) -> str:
    """What is wrong with a kernel, data races aside: the first EmulatorError's text, "schedules
    disagree", "wrong result"; "" for nothing."""
    a, b = make_operands(*shape)
    first: NDArray[Any] | None = None
    for mode, order in every_schedule():
        try:
            c = gemm.multiply(library, a, b, mode, order, symbol, races=False)
        except EmulatorError as error:
            return error.message
        if first is not None and first.tobytes() != c.tobytes():
            return "schedules disagree"
        first = c
    assert first is not None
    return "" if is_product(a, b, first) else "wrong result"


@dataclass(frozen=True)
class Probe:
    """A small kernel that shows what some prelude names do. Pointers are named in `pointers` (name:
    dtype, a leading "const " for inputs), scalars in `scalars`, tensor maps in `maps`."""

    body: str
    needs: tuple[Need, ...]
    pointers: Mapping[str, str] = field(default_factory=dict)
    scalars: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, TensorMapSpec] = field(default_factory=dict)
    threads: int = 32
    shared_bytes: int = 0
    arch: str = "sm_80"
    cluster: int = 1

    def frame(self, name: str) -> KernelFrame:
        parameters = (
            *(FrameParameter("tensor_map", map_name) for map_name in self.maps),
            *(
                FrameParameter(
                    "pointer", n, dtype.removeprefix("const "), dtype.startswith("const ")
                )
                for n, dtype in self.pointers.items()
            ),
            *(FrameParameter("scalar", n, dtype) for n, dtype in self.scalars.items()),
        )
        threads, size = self.threads, self.shared_bytes
        return KernelFrame(
            name, parameters, threads, size, self.body, self.needs, cluster=self.cluster
        )

    def launch(self, name: str, grid: tuple[int, int, int] = (1, 1, 1)) -> LaunchSpec:
        arguments = (
            *(Argument("tensor_map", n, None, spec) for n, spec in self.maps.items()),
            *(Argument("pointer", n) for n in self.pointers),
            *(Argument("scalar", n, dtype) for n, dtype in self.scalars.items()),
        )
        threads, size = self.threads, self.shared_bytes
        return LaunchSpec(name, arguments, grid, threads, size, cluster=self.cluster)


@dataclass(frozen=True, eq=False)
class Probes:
    """Named probes in one library, run by the emulator; with --on-gpu, by the GPU."""

    on_gpu: ClassVar[Callable[..., None] | None] = None

    probes: Mapping[str, Probe]

    @cached_property
    def library(self) -> Path:
        frames = [p.frame(name) for name, p in self.probes.items()]
        return build(render_source("cpu", frames), "g++", optimize=0)

    def run(
        self,
        name: str,
        arguments: Arrays,
        mode: Mode = "late",
        order: Order = "forward",
        grid: tuple[int, int, int] = (1, 1, 1),
        timeout: float = 60.0,
        races: bool = True,
    ) -> None:
        """Runs a probe on `arguments`, which change in place."""
        if Probes.on_gpu is not None:
            return Probes.on_gpu(self, name, arguments, grid)
        launch = self.probes[name].launch(name, grid)
        run(self.library, launch, arguments, mode, order, timeout=timeout, races=races)
        return None


def needs_of(text: str, *families: Need) -> tuple[Need, ...]:
    """The needs of a body: every prelude name in it, and `families`."""
    words = set(re.findall(r"\w+", text))
    given = {need.name for need in families}
    names = [
        n for n in prelude_names("cuda") if n in words and n not in given and n not in FAMILIES
    ]
    return (*(Need(name) for name in names), *families)


FAMILIES = (
    "mma",
    "wgmma_ss",
    "wgmma_rs",
    "tma_load",
    "tma_load_multicast",
    "tma_store",
    "base",
    "words",
)
