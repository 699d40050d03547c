"""What clang's assembly for an AMD GPU says of each kernel: registers, spills, instructions,
occupancy.

Source of the counts: the `amdhsa.kernels` metadata that ends the text (LLVM, AMDGPUUsage, "Code
Object Metadata"); it is YAML of one fixed form, read here line by line. The figures of the compute
units are those of the CDNA2, CDNA3 and CDNA4 manuals: per SIMD 512 vector registers a lane and 8
waves, four SIMDs a unit, and its shared memory.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from ..locks import cached_property

WAVE = 64
_SIMDS = 4
_MAX_WAVES = 8
_VECTOR_REGISTERS = 512
_VECTOR_GRANULE = 8
_SHARED = {"gfx90a": (65536, 512), "gfx942": (65536, 512), "gfx950": (163840, 1280)}
"""Bytes of shared memory of a unit, and in what steps blocks are given them."""


@dataclass(frozen=True)
class KernelIsa:
    """One kernel as compiled. Registers are a lane's (`vgprs`, `agprs`) or a wave's (`sgprs`);
    spills count registers; `scratch`: bytes of a lane; `lds`: static bytes of a block;
    `instructions`: every line of code in order, mnemonic and operands separated by one blank,
    without labels and comments."""

    name: str
    arch: str
    vgprs: int
    agprs: int
    sgprs: int
    vgpr_spills: int
    sgpr_spills: int
    scratch: int
    lds: int
    instructions: tuple[str, ...]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each mnemonic stands in the text."""
        return Counter(line.split(" ", 1)[0] for line in self.instructions)

    def count(self, prefix: str) -> int:
        """How many instructions begin with `prefix`, e.g. "v_mfma" or "ds_read_b128"."""
        return sum(
            number for mnemonic, number in self.counts.items() if mnemonic.startswith(prefix)
        )

    def occupancy(self, threads: int, dynamic_shared: int = 0) -> int:
        """Waves a SIMD that run at once, for blocks of `threads` and so many bytes of dynamic
        shared memory.

        0 where one block does not fit.
        """
        used = (
            -(-self.vgprs // 4) * 4 + self.agprs
        )  # the accumulation registers start at a multiple of 4
        granules = max(1, -(-used // _VECTOR_GRANULE))
        waves = min(_MAX_WAVES, _VECTOR_REGISTERS // (granules * _VECTOR_GRANULE))
        block_waves = -(-threads // WAVE)
        blocks = waves * _SIMDS // block_waves
        whole, granule = _SHARED[self.arch]
        shared = -(-(self.lds + dynamic_shared) // granule) * granule
        if shared:
            blocks = min(blocks, whole // shared)
        return -(-blocks * block_waves // _SIMDS)


_FIELD = re.compile(r"^(?:  - |    )\.(\w+):\s+(\S+)")
_CODE = re.compile(r"^\t([a-z]\w*)(.*)")
_TARGET = re.compile(r"^amdhsa\.target:\s+\S*--(\w+)", re.M)


def read_isa(assembly: str) -> tuple[KernelIsa, ...]:
    """Every kernel of clang's assembly text, in its order. ValueError where the text has no
    metadata.
    """
    if "amdhsa.kernels:" not in assembly:
        raise ValueError("this is no assembly of an AMD GPU: it has no amdhsa.kernels")
    code, metadata = assembly.split("amdhsa.kernels:", 1)
    kernels: list[dict[str, str]] = []
    for line in metadata.splitlines():
        if line.startswith("amdhsa."):
            break
        if line.startswith("  - "):
            kernels.append({})
        if kernels and (match := _FIELD.match(line)):
            kernels[-1][match[1]] = match[2]
    target = _TARGET.search(metadata)
    arch = target[1] if target else ""
    return tuple(_kernel(fields, arch, code) for fields in kernels)


def _kernel(fields: dict[str, str], arch: str, code: str) -> KernelIsa:
    agprs = int(fields.get("agpr_count", "0"))
    return KernelIsa(
        name=fields["name"],
        arch=arch,
        vgprs=int(fields["vgpr_count"]) - agprs,  # the metadata counts both kinds together
        agprs=agprs,
        sgprs=int(fields["sgpr_count"]),
        vgpr_spills=int(fields["vgpr_spill_count"]),
        sgpr_spills=int(fields["sgpr_spill_count"]),
        scratch=int(fields["private_segment_fixed_size"]),
        lds=int(fields["group_segment_fixed_size"]),
        instructions=_instructions(fields["name"], code),
    )


def _instructions(name: str, code: str) -> tuple[str, ...]:
    found: list[str] = []
    inside = False
    for line in code.splitlines():
        if line.startswith(f"{name}:"):
            inside = True
        elif inside and (line.startswith(".Lfunc_end") or line.startswith("\t.section")):
            break
        elif inside and (match := _CODE.match(line.split(";", 1)[0])):
            found.append(" ".join([match[1], *match[2].split()]))
    return tuple(found)
