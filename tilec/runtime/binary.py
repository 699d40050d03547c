"""What a device compiler gives back: machine code, its log, and what the log says of each
kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class KernelResources:
    """What one kernel takes: 32-bit registers of a thread, spilled bytes of a thread (stores and
    loads), stack bytes of a thread, static shared bytes of a block, hardware barriers of a
    block."""

    name: str
    registers: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    stack: int = 0
    shared: int = 0
    barriers: int = 0


@dataclass(frozen=True)
class Finding:
    """Something in the log that costs speed or is a mistake of the text: a spill, matrix
    instructions that the compiler serialised or otherwise advises on (ptxas C75xx), a compiler's
    warning."""

    kind: Literal["spill", "advice", "warning"]
    kernel: str
    text: str


@dataclass(frozen=True)
class Binary:
    """A compiled module: `code` is a cubin or an AMD code object."""

    code: bytes
    log: str
    resources: tuple[KernelResources, ...] = ()
    findings: tuple[Finding, ...] = ()
    compiler: str = ""

    @classmethod
    def from_log(cls, code: bytes, log: str, compiler: str) -> Binary:
        """The binary with resources and findings read from the compiler's log."""
        resources = read_ptxas(log) + read_clang(log)
        return cls(code, log, resources, read_findings(log, resources), compiler)

    def kernel(self, name: str) -> KernelResources | None:
        """The resources of the kernel called `name`, where the log tells them."""
        return next((r for r in self.resources if r.name == name), None)


_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_PROPERTIES = re.compile(r"Function properties for (\S+)")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_BARRIERS = re.compile(r"used (\d+) barriers")
_SHARED = re.compile(r"(\d+) bytes smem")


def read_ptxas(log: str) -> tuple[KernelResources, ...]:
    """Resources of every entry in the output of ptxas -v, in the order of the log."""
    found: dict[str, dict[str, int]] = {}
    entry = ""
    subject = ""  # ptxas also reports functions that were not inlined, inside an entry's section
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            entry = subject = match[1]
            found[entry] = {}
        elif match := _PROPERTIES.search(line):
            subject = match[1]
        elif (match := _STACK.search(line)) and entry:
            spilled = dict(
                zip(("stack", "spill_stores", "spill_loads"), map(int, match.groups()), strict=True)
            )
            for key, value in spilled.items():
                found[entry][key] = found[entry].get(key, 0) + value
        elif (match := _REGISTERS.search(line)) and entry and subject:
            found[entry]["registers"] = int(match[1])
            for key, pattern in (("barriers", _BARRIERS), ("shared", _SHARED)):
                if extra := pattern.search(line):
                    found[entry][key] = int(extra[1])
    return tuple(KernelResources(name, **values) for name, values in found.items())


_REMARK = re.compile(r"remark:\s+(.*?):\s+(\S+)\s+\[-Rpass-analysis=kernel-resource-usage\]")
_REMARK_FIELDS = {
    "VGPRs": "registers",
    "VGPRs Spill": "spill_stores",
    "ScratchSize [bytes/lane]": "stack",
    "LDS Size [bytes/block]": "shared",
}


def read_clang(log: str) -> tuple[KernelResources, ...]:
    """Resources of every kernel in clang's kernel-resource-usage remarks, in the order of the log.
    Clang counts spilled registers: they are given here as bytes of stores."""
    found: dict[str, dict[str, int]] = {}
    name = ""
    for match in _REMARK.finditer(log):
        if match[1] == "Function Name":
            name = match[2]
            found[name] = {}
        elif name and match[1] in _REMARK_FIELDS and match[2].isdigit():
            scale = 4 if match[1] == "VGPRs Spill" else 1
            found[name][_REMARK_FIELDS[match[1]]] = int(match[2]) * scale
    return tuple(KernelResources(name, **values) for name, values in found.items())


_ADVICE = re.compile(r"\((C7\d\d\d)\)\s*(.*)")
_WARNING = re.compile(r"(?:\bwarning\b(?: #[\w-]+)?)\s*:\s*(.*)")
_NAMED = re.compile(r"in (?:the )?function '([^']+)'")


def read_findings(log: str, resources: tuple[KernelResources, ...]) -> tuple[Finding, ...]:
    """Spills (from `resources`), ptxas advice with a C7xxx number, and warnings."""
    found: list[Finding] = []
    for kernel in resources:
        if kernel.spill_stores or kernel.spill_loads:
            text = (
                f"{kernel.spill_stores} bytes of spill stores, {kernel.spill_loads} of spill loads"
            )
            found.append(Finding("spill", kernel.name, text))
    for line in log.splitlines():
        named = _NAMED.search(line)
        kernel_name = named[1] if named else ""
        if match := _ADVICE.search(line):
            found.append(Finding("advice", kernel_name, f"{match[1]}: {match[2].strip()}"))
        elif match := _WARNING.search(line):
            found.append(Finding("warning", kernel_name, match[1].strip()))
    return tuple(found)
