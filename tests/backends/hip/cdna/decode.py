"""Clang's assembly text for CDNA, read into kernels of decoded instructions.

The syntax is LLVM's ("User Guide for AMDGPU Backend", "Syntax of GFX90a and GFX940 Instructions").
Nothing is executed here and no mnemonic is known: what an instruction means is found by its name in
the tables of scalar.py, vector.py, memory.py and matrix.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal


class IsaError(Exception):
    """The machine code did what no kernel may do, or what this interpreter does not know."""


ACCUMULATORS = 256  # vector registers are numbered on: a0 is the one after v255
M0 = 124
SPECIAL = {"vcc_lo": 106, "vcc_hi": 107, "m0": M0, "exec_lo": 126, "exec_hi": 127}
PAIRS = {"vcc": 106, "exec": 126}
VCC, EXEC = 106, 126

Kind = Literal["vector", "scalar", "integer", "float", "name"]


@dataclass(frozen=True)
class Operand:
    """`count` registers from number `first` on, or a number. `text` is the operand as written."""

    text: str
    kind: Kind
    first: int = 0
    count: int = 1
    number: float = 0
    negative: bool = False
    absolute: bool = False
    extended: bool = False  # sext(...): a part of a register is sign-extended

    @property
    def integer(self) -> int:
        """The number, where it is whole."""
        if self.kind != "integer":
            raise IsaError(f"{self.text} is not an integer")
        return int(self.number)


@dataclass(frozen=True)
class Instruction:
    """One line of code. `modifiers` holds what follows the operands: "offset" -> "16", "offen" ->
    "", "op_sel" -> "0,1"."""

    text: str
    line: int
    mnemonic: str
    operands: tuple[Operand, ...]
    modifiers: dict[str, str]

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"

    @property
    def name(self) -> str:
        """The mnemonic without the ending that tells the encoding."""
        return re.sub(r"_(e32|e64|sdwa|dpp)$", "", self.mnemonic)

    def flags(self, modifier: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A modifier such as op_sel:[0,1]; `default` where it is absent."""
        text = self.modifiers.get(modifier)
        return default if text is None else tuple(int(bit) for bit in text.split(","))

    def allow(self, *modifiers: str) -> None:
        """Raises IsaError for a modifier that whoever executes the instruction does not know."""
        unknown = set(self.modifiers) - set(modifiers)
        if unknown:
            raise IsaError(f"{self}: unknown {', '.join(sorted(unknown))}")


@dataclass
class Code:
    """A kernel for the machine `arch`: instructions in order, where labels stand among them, the
    values of its .amdhsa_ directives, its explicit and hidden arguments as (offset, size, kind)."""

    name: str
    arch: str
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    directives: dict[str, int] = field(default_factory=dict)
    arguments: list[tuple[int, int, str]] = field(default_factory=list)


def read_code(assembly: str) -> dict[str, Code]:
    """Every kernel of an assembly text, by name."""
    kernels: dict[str, Code] = {}
    text, _, metadata = assembly.partition("amdhsa.kernels:")
    target = re.search(r'\.amdgcn_target "[\w-]*--(gfx\w+)', text)
    if target is None:
        raise IsaError("this is no assembly of an AMD GPU: it names no target")
    for name in re.findall(r"^\t\.amdhsa_kernel (\w+)$", text, re.M):
        body = re.search(rf"^{name}:.*?^\.Lfunc_end", text, re.M | re.S)
        fields = re.search(rf"\.amdhsa_kernel {name}\n(.*?)\.end_amdhsa_kernel", text, re.S)
        if body is None or fields is None:
            raise IsaError(f"{name} has no code")
        code = Code(name, target[1])
        first = text.count("\n", 0, body.start()) + 1
        for number, line in enumerate(body[0].splitlines(), first):
            read_line(code, line.split(";", 1)[0], number)
        for directive, value in re.findall(r"\.amdhsa_(\w+) (\d+)", fields[1]):
            code.directives[directive] = int(value)
        code.arguments = _read_arguments(metadata, name)
        kernels[name] = code
    return kernels


def _read_arguments(metadata: str, name: str) -> list[tuple[int, int, str]]:
    (entry,) = (k for k in metadata.split("\n  - ") if re.search(rf"\.name:\s+{name}\n", k))
    found = re.findall(r"\.offset:\s+(\d+)\n\s+\.size:\s+(\d+)\n\s+\.value_kind:\s+(\w+)", entry)
    return [(int(offset), int(size), kind) for offset, size, kind in found]


def read_line(code: Code, line: str, number: int) -> None:
    """Adds a line without its comment: a label, an instruction, or nothing."""
    label = re.match(r"^([.\w$]+):", line)
    if label:
        code.labels[label[1]] = len(code.instructions)
    elif re.match(r"^\t[a-z]", line):
        code.instructions.append(decode(line.strip(), number))


def decode(line: str, number: int = 0) -> Instruction:
    """One instruction, e.g. "buffer_load_dword v4, v5, s[8:11], 0 offen"."""
    mnemonic, _, rest = line.partition(" ") if "\t" not in line else line.partition("\t")
    text = " ".join(line.split())
    if mnemonic == "s_waitcnt":
        return Instruction(text, number, mnemonic, (), _counters(rest))
    *parts, last = re.split(r",\s*(?![^\[(]*[\])])", rest.strip())
    words = last.split()
    parts += words[:1]
    modifiers: dict[str, str] = {}
    for word in words[1:]:
        key, _, value = word.partition(":")
        modifiers[key] = value.strip("[]")
    operands = tuple(read_operand(part) for part in parts)
    return Instruction(text, number, mnemonic, operands, modifiers)


def _counters(text: str) -> dict[str, str]:
    """The counters that an s_waitcnt names; of one given as a number, those that are not full."""
    found = dict(re.findall(r"(\w+)\((\d+)\)", text))
    if found or not text.strip():
        return found
    bits = int(text, 0)
    counters = {"vmcnt": (bits & 15) | (bits >> 14 & 3) << 4, "lgkmcnt": bits >> 8 & 15}
    return {k: str(n) for k, n in counters.items() if n != {"vmcnt": 63, "lgkmcnt": 15}[k]}


_REGISTER = re.compile(r"^([vas])(?:(\d+)|\[(\d+):(\d+)\])$")


def read_operand(text: str) -> Operand:
    """A register, a range of registers, a number with its signs, or a name."""
    inner = text
    negative = inner.startswith("-") and not inner[1:2].isdigit()
    inner = inner[1:] if negative else inner
    absolute = inner.startswith("|")
    inner = inner.strip("|") if absolute else inner
    extended = inner.startswith("sext(")
    inner = inner[5:-1] if extended else inner
    signs = {"negative": negative, "absolute": absolute, "extended": extended}
    match = _REGISTER.match(inner)
    if match:
        first = int(match[2] or match[3])
        count = 1 if match[2] else int(match[4]) - first + 1
        if match[1] == "s":
            return Operand(text, "scalar", first, count, **signs)
        return Operand(text, "vector", first + ACCUMULATORS * (match[1] == "a"), count, **signs)
    if inner in SPECIAL:
        return Operand(text, "scalar", SPECIAL[inner], **signs)
    if inner in PAIRS:
        return Operand(text, "scalar", PAIRS[inner], 2, **signs)
    if re.match(r"^-?(0x[0-9a-f]+|\d+)$", inner):
        return Operand(text, "integer", number=int(inner, 0), **signs)
    if re.match(r"^-?\d+\.\d+(e[-+]\d+)?$", inner):
        return Operand(text, "float", number=float(inner), **signs)
    return Operand(text, "name", **signs)
