"""What the kernels of a program take of their machine, by the vendor's compiler where it is here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ..runtime.binary import KernelResources
from ..runtime.compiled import CompiledKernel
from ..target import Target

RESERVED_SHARED_BYTES = 1024  # a block's, on NVIDIA, that the system takes
REGISTER_GRANULE = 256  # 32-bit registers are given to a warp in such portions


@dataclass(frozen=True)
class Usage:
    """One kernel: registers, spilled bytes and stack of a thread, shared bytes and barriers of a
    block, and how many blocks a multiprocessor holds as far as registers, shared memory and its room
    for threads and blocks go (0: one does not fit).
    """

    kernel: str
    threads: int
    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int
    barriers: int
    blocks_by_registers: int
    blocks_by_shared: int
    blocks_by_threads: int

    def __str__(self) -> str:
        blocks, limit = min(
            (self.blocks_by_registers, "registers"),
            (self.blocks_by_shared, "shared memory"),
            (self.blocks_by_threads, "threads"),
        )
        return (
            f"  {self.kernel}: {self.threads} threads, {self.registers} registers, "
            f"{self.spilled_bytes} bytes spilled, {self.stack_bytes} bytes of stack, "
            f"{self.shared_bytes} bytes of shared memory, {self.barriers} barriers; "
            f"{blocks} blocks on a multiprocessor, by {limit}"
        )

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def measure(compiled: CompiledKernel) -> Iterator[tuple[str, Usage]]:
    """Every kernel of every variant, with the name of the variant's file. Raises MissingTool where
    there is no compiler, CompilerFailed.
    """
    compiled.add_general()
    for lowered in compiled.variants:
        binary = compiled.compiled(lowered.variant)
        for launch in lowered.emitted.launches:
            told = binary.kernel(launch.symbol) or KernelResources(launch.symbol)
            shared = launch.shared_bytes + told.shared
            yield lowered.file_name, _usage(told, launch.threads, shared, compiled.target)


def _usage(told: KernelResources, threads: int, shared: int, target: Target) -> Usage:
    warps = -(-threads // target.warp_size)
    of_warp = -(-max(1, told.registers) * target.warp_size // REGISTER_GRANULE) * REGISTER_GRANULE
    reserved = RESERVED_SHARED_BYTES if target.backend == "cuda" else 0
    room = target.multiprocessor_shared_bytes
    return Usage(
        told.name,
        threads,
        told.registers,
        told.spill_stores + told.spill_loads,
        told.stack,
        shared,
        told.barriers,
        target.registers // (of_warp * warps),
        room // max(1, shared + reserved),
        target.resident(threads),
    )
