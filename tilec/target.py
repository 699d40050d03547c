"""Targets are data: what a machine has and how much of it. Nothing else in tilec asks for an
architecture by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .errors import TargetUnsupported


@dataclass(frozen=True)
class MatrixInstruction:
    """One matrix instruction: D (m x n, `accumulator`) += A (m x k, `operand`) B (k x n,
    `operand`).

    `family` is "mma" (PTX mma.sync), "wgmma" or "mfma"; for wgmma `n` is the largest, any multiple
    of 8 below it exists.
    """

    family: str
    m: int
    n: int
    k: int
    operand: str
    accumulator: str


@dataclass(frozen=True)
class Target:
    """A machine to compile for. Sizes in bytes, counts per block or per thread as named."""

    backend: str  # "cuda" or "hip"
    arch: str
    warp_size: int
    shared_bytes: int  # most dynamic shared memory of a block
    registers: int  # 32-bit registers of a multiprocessor
    max_threads: int = 1024
    max_registers: int = 255  # of a thread
    vector_bytes: int = 16  # widest access of a thread
    matrix: tuple[MatrixInstruction, ...] = ()
    async_copy: bool = False  # cp.async: global to shared without registers
    ldmatrix: bool = False
    stmatrix: bool = False
    tma: bool = False  # bulk tensor copies that complete on an mbarrier
    warp_roles: bool = False  # registers can move between warpgroups, so roles pay
    atomic_widths: tuple[tuple[str, int], ...] = ()  # dtype, most elements of one atomic addition
    buffer_loads: bool = False  # bounds-checked buffer resources
    multiprocessors: int = 0  # of the usual part, for choices made before a device is known

    @property
    def name(self) -> str:
        return f"{self.backend}:{self.arch}"

    def without(self, **features: bool) -> Target:
        """The same machine with features left unused, e.g. `without(tma=False)` for arrays TMA
        cannot read.
        """
        return replace(self, **features)  # type: ignore[arg-type]


def _mma(k16: tuple[str, ...]) -> tuple[MatrixInstruction, ...]:
    return tuple(MatrixInstruction("mma", 16, 8, 16, dtype, "f32") for dtype in k16)


_WGMMA = tuple(MatrixInstruction("wgmma", 64, 256, 16, dtype, "f32") for dtype in ("f16", "bf16"))
_MFMA = tuple(
    MatrixInstruction("mfma", m, m, k, dtype, "f32")
    for dtype in ("f16", "bf16")
    for m, k in ((32, 8), (16, 16))
)

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "cuda", "sm_80", warp_size=32, shared_bytes=166912, registers=65536,
            matrix=_mma(("f16", "bf16")), async_copy=True, ldmatrix=True, multiprocessors=108,
            atomic_widths=(("f16", 2),),
        ),
        Target(
            "cuda", "sm_90a", warp_size=32, shared_bytes=232448, registers=65536,
            matrix=_WGMMA + _mma(("f16", "bf16")), async_copy=True, ldmatrix=True, stmatrix=True,
            tma=True, warp_roles=True, multiprocessors=132,
            atomic_widths=(("f16", 2), ("bf16", 2), ("f32", 4)),
        ),
        Target(
            "hip", "gfx942", warp_size=64, shared_bytes=65536, registers=131072, max_registers=512,
            matrix=_MFMA, buffer_loads=True, multiprocessors=304,
            atomic_widths=(("f16", 2), ("bf16", 2)),
        ),
    )
}  # fmt: skip


def register_target(target: Target) -> None:
    """Makes a target known by its name. Raises TargetUnsupported where another has it."""
    if TARGETS.setdefault(target.name, target) != target:
        raise TargetUnsupported("TLC0502", f"there is another target {target.name!r}")


def find_target(name: str | Target) -> Target:
    """The target called `name` ("cuda:sm_90a"). Raises TargetUnsupported with the list of names."""
    if isinstance(name, Target):
        return name
    if name in TARGETS:
        return TARGETS[name]
    raise TargetUnsupported(
        "TLC0501", f"there is no target {name!r}", hint="targets are " + ", ".join(sorted(TARGETS))
    )
