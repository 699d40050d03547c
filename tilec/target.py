"""Targets are data: what a machine has and how much of it. Nothing else in tilec asks for an
architecture by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from .errors import TargetUnsupported


@dataclass(frozen=True)
class MatrixInstruction:
    """One matrix instruction: D (m x n, `accumulator`) += A (m x k, `operand`) B (k x n,
    `operand`, or `right` where that is another dtype).

    `family` is "mma" (PTX mma.sync), "wgmma" or "mfma"; for wgmma `n` is the largest. Dtypes are
    those of tilec.ir.dtypes.
    """

    family: str
    m: int
    n: int
    k: int
    operand: str
    accumulator: str
    right: str = ""

    @property
    def operands(self) -> tuple[str, str]:
        """The dtypes of A and B."""
        return self.operand, self.right or self.operand

    @property
    def scaled(self) -> bool:
        """Whether it takes a scale for 32 elements along k: CDNA4's f8f6f4, with 32 elements a lane."""
        return self.family == "mfma" and self.m * self.k // 64 == 32

    @property
    def widths(self) -> tuple[int, ...]:
        """The values that n may have, largest first: of wgmma every multiple of 8, of integers
        above 32 every multiple of 16 (PTX ISA, "wgmma.mma_async": shapes).
        """
        if self.family != "wgmma":
            return (self.n,)
        coarse = self.accumulator == "i32"
        return tuple(n for n in range(self.n, 0, -8) if n <= 32 or n % 16 == 0 or not coarse)


@dataclass(frozen=True)
class Target:
    """A machine to compile for. Sizes in bytes, counts per block or per thread as named."""

    backend: str  # "cuda" or "hip"
    arch: str
    warp_size: int
    shared_bytes: int  # most dynamic shared memory of a block
    registers: int  # 32-bit registers of a multiprocessor
    multiprocessor_shared_bytes: int  # of all blocks, with 1 KiB each that the system takes
    resident_threads: int = 2048  # of a multiprocessor, of all blocks
    resident_blocks: int = 32  # of a multiprocessor
    max_threads: int = 1024  # of a block
    max_registers: int = 255  # of a thread
    vector_bytes: int = 16  # widest access of a thread
    matrix: tuple[MatrixInstruction, ...] = ()
    async_copy: bool = False  # cp.async: global to shared without registers
    ldmatrix: bool = False
    stmatrix: bool = False
    tma: bool = False  # bulk tensor copies that complete on an mbarrier
    dependent_launches: bool = False  # a launch may begin before the one in front of it ends
    clusters: bool = False  # blocks that reach each other's shared memory, and multicast copies
    atomic_widths: tuple[tuple[str, int], ...] = ()  # dtype, most elements of one atomic addition
    warp_roles: bool = False  # warpgroups of their own registers feed a wgmma, so roles pay
    buffer_loads: bool = False  # bounds-checked buffer resources
    buffer_copies: bool = False  # 16 bytes a lane from them to shared memory without registers
    transposed_reads: bool = False  # columns of 16-bit elements from shared memory (gfx950)
    schedule_groups: bool = False  # its compiler issues groups of instructions in a given order
    simds: int = 0  # of a multiprocessor, to which a block's waves go in turn, one program each
    dies: int = 1  # each with an L2 cache of its own; hardware blocks go to them in turn
    multiprocessors: int = 0  # of the usual part, or of the GPU
    present: bool = False  # that is here, and for which alone the code is
    resident_clusters: Callable[[int], int] | None = field(default=None, compare=False, repr=False)
    """How many clusters of so many blocks, each alone on its multiprocessor, run at once on the GPU
    that is here: its parts (GPCs) differ from one GPU to the next of a kind."""
    exact: bool = False  # it has instructions that later minor versions have not (CUDA)

    @property
    def name(self) -> str:
        return f"{self.backend}:{self.arch}"

    @property
    def asynchronous(self) -> bool:
        """Whether tiles can get to shared memory without registers, so that more than two stages
        pay.
        """
        return self.async_copy or self.buffer_copies

    @property
    def capability(self) -> tuple[int, int] | None:
        """The compute capability, (9, 0) of sm_90a; None for another vendor's machine."""
        number = self.arch.removeprefix("sm_").rstrip("af")
        return divmod(int(number), 10) if self.backend == "cuda" and number.isdigit() else None

    def resident(self, threads: int) -> int:
        """Blocks of so many threads that a multiprocessor holds, whatever else they take. On AMD's, blocks
        of one wave take none of the barriers that limit the others.
        """
        warps = -(-threads // self.warp_size)
        room = self.resident_threads // (warps * self.warp_size)
        return room if self.backend == "hip" and warps == 1 else min(room, self.resident_blocks)

    def runs_on(self, major: int, minor: int) -> bool:
        """Whether a GPU of that compute capability can run code for this target: of the same major
        version and no older, and the same where the target is exact (CUDA Programming Guide,
        "Binary compatibility").
        """
        if self.capability is None or self.capability[0] != major:
            return False
        return self.capability[1] == minor or (not self.exact and self.capability[1] < minor)


Shape = tuple[int, int, int]


def _mma(shape: Shape, operand: str, *accumulators: str) -> tuple[MatrixInstruction, ...]:
    return tuple(MatrixInstruction("mma", *shape, operand, a) for a in accumulators)


def _mfma(
    operand: str, accumulator: str, *shapes: tuple[int, int]
) -> tuple[MatrixInstruction, ...]:
    """MFMA instructions of m x m x k, by (m, k)."""
    return tuple(MatrixInstruction("mfma", m, m, k, operand, accumulator) for m, k in shapes)


def _mfma_mixed(dtypes: tuple[str, ...], *shapes: tuple[int, int]) -> tuple[MatrixInstruction, ...]:
    """Those of two dtypes, alike or not."""
    return tuple(
        MatrixInstruction("mfma", m, m, k, left, "f32", right)
        for m, k in shapes
        for left, right in product(dtypes, dtypes)
    )


# mma.sync by the compute capability that it came with (PTX ISA, "Matrix multiply-accumulate
# operation using mma instruction").
_MMA_75 = (
    *_mma((16, 8, 8), "f16", "f32", "f16"),
    *_mma((8, 8, 16), "i8", "i32"), *_mma((8, 8, 16), "u8", "i32"),
)  # fmt: skip
_MMA_80 = (
    *_mma((16, 8, 16), "f16", "f32", "f16"), *_mma((16, 8, 8), "f16", "f32", "f16"),
    *_mma((16, 8, 16), "bf16", "f32"), *_mma((16, 8, 8), "bf16", "f32"),
    *_mma((16, 8, 8), "tf32", "f32"), *_mma((16, 8, 4), "tf32", "f32"),
    *_mma((16, 8, 32), "i8", "i32"), *_mma((16, 8, 16), "i8", "i32"),
    *_mma((16, 8, 32), "u8", "i32"), *_mma((16, 8, 16), "u8", "i32"),
    *_mma((8, 8, 4), "f64", "f64"),
)  # fmt: skip
_MMA_89 = (*_MMA_80, *_mma((16, 8, 32), "e4m3", "f32"), *_mma((16, 8, 32), "e5m2", "f32"))
# Later machines take these of f64 in PTX too, and ptxas makes several of m8n8k4 of each.
_MMA_90 = (
    *_MMA_89,
    *_mma((16, 8, 4), "f64", "f64"),
)  # k8 and k16 were slower (docs/decisions.md 95)
# wgmma.mma_async (PTX ISA, "Matrix multiply-accumulate operation using wgmma instruction").
_WGMMA = tuple(
    MatrixInstruction("wgmma", 64, 256, k, left, accumulator, right)
    for k, lefts, rights, accumulators in (
        (16, ("f16",), ("f16",), ("f32", "f16")),
        (16, ("bf16",), ("bf16",), ("f32",)),
        (8, ("tf32",), ("tf32",), ("f32",)),
        (32, ("e4m3", "e5m2"), ("e4m3", "e5m2"), ("f32", "f16")),
        (32, ("i8", "u8"), ("i8", "u8"), ("i32",)),
    )
    for left, right, accumulator in product(lefts, rights, accumulators)
)
# MFMA of one block (the CDNA2, CDNA3 and CDNA4 ISA manuals, "Matrix arithmetic instructions").
_MFMA = (
    *_mfma("f16", "f32", (32, 8), (16, 16)), *_mfma("bf16", "f32", (32, 8), (16, 16)),
    *_mfma("f32", "f32", (32, 2), (16, 4)), *_mfma("f64", "f64", (16, 4)),
)  # fmt: skip
_MFMA_90A = (*_MFMA, *_mfma("i8", "i32", (32, 8), (16, 16)))
_MFMA_942 = (
    *_MFMA, *_mfma("i8", "i32", (32, 16), (16, 32)), *_mfma("tf32", "f32", (32, 4), (16, 8)),
    *_mfma_mixed(("e4m3fnuz", "e5m2fnuz"), (32, 16), (16, 32)),
)  # fmt: skip
_MFMA_950 = (
    *_MFMA, *_mfma("f16", "f32", (32, 16), (16, 32)), *_mfma("bf16", "f32", (32, 16), (16, 32)),
    *_mfma("i8", "i32", (32, 32), (16, 64), (32, 16), (16, 32)),
    *_mfma_mixed(("e4m3", "e5m2"), (32, 16), (16, 32)),
    # f8f6f4, at twice the rate. Without scales too, but for 4 bits, which Gemm takes only with them.
    *_mfma_mixed(("e4m3", "e5m2", "e2m3", "e3m2", "e2m1"), (32, 64), (16, 128)),
)  # fmt: skip
_ATOMICS = (("f16", 2),)
_ATOMICS_90 = (*_ATOMICS, ("bf16", 2), ("f32", 4))
KIB = 1024


def _nvidia(
    arch: str, shared: int, shared_in_all: int, multiprocessors: int, **features: Any
) -> Target:
    """An NVIDIA target; shared memory in KiB (CUDA Programming Guide, "Compute Capabilities")."""
    return Target(
        "cuda", arch, 32, shared * KIB, 65536, shared_in_all * KIB,
        ldmatrix=True, multiprocessors=multiprocessors,
        atomic_widths=_ATOMICS_90 if features.get("tma") else _ATOMICS, **features,
    )  # fmt: skip


def _amd(
    arch: str, shared: int, multiprocessors: int, pairs: tuple[str, ...], **features: Any
) -> Target:
    """An AMD target of the CDNA family; shared memory in KiB, `pairs` the dtypes that are added
    atomically two at a time (the CDNA2, CDNA3 and CDNA4 ISA manuals).
    """
    return Target(
        "hip", arch, 64, shared * KIB, 131072, shared * KIB, max_registers=512, buffer_loads=True,
        resident_blocks=16, schedule_groups=True, simds=4, multiprocessors=multiprocessors,
        atomic_widths=tuple((dtype, 2) for dtype in pairs), **features,
    )  # fmt: skip


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _nvidia(
            "sm_75", 64, 64, 40, matrix=_MMA_75, resident_threads=1024, resident_blocks=16,
        ),
        _nvidia("sm_80", 163, 164, 108, matrix=_MMA_80, async_copy=True),
        _nvidia(
            "sm_86", 99, 100, 84, matrix=_MMA_80, async_copy=True, resident_threads=1536,
            resident_blocks=16,
        ),
        _nvidia(
            "sm_89", 99, 100, 142, matrix=_MMA_89, async_copy=True, resident_threads=1536,
            resident_blocks=24,
        ),
        _nvidia(
            "sm_90a", 227, 228, 132, matrix=_WGMMA + _MMA_90, async_copy=True, stmatrix=True,
            tma=True, dependent_launches=True, clusters=True, warp_roles=True, exact=True,
        ),
        # Blackwell by what it has in common with Ampere: its tensor memory is not used.
        _nvidia(
            "sm_100a", 227, 228, 148, matrix=_MMA_89, async_copy=True, stmatrix=True, tma=True,
            dependent_launches=True, clusters=True,
        ),
        _nvidia(
            "sm_120a", 99, 100, 188, matrix=_MMA_89, async_copy=True, stmatrix=True, tma=True,
            dependent_launches=True, clusters=True, resident_threads=1536, resident_blocks=24,
        ),
        _amd("gfx90a", 64, 110, ("f16",), matrix=_MFMA_90A),
        _amd("gfx942", 64, 304, ("f16", "bf16"), matrix=_MFMA_942, dies=8),
        _amd(
            "gfx950", 160, 256, ("f16", "bf16"), matrix=_MFMA_950, dies=8, buffer_copies=True,
            transposed_reads=True,
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
