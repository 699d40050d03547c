"""Programs as text, loaded from files of their own so that places in them can be checked."""

from __future__ import annotations

import itertools
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.modules import load_module
from tilec.errors import TilecError
from tilec.ir.core import Program
from tilec.ir.ops import builtin_registry
from tilec.ir.print import print_program
from tilec.ir.verify import verify

HEAD = "import tilec\nimport tilec.language as T\n\n"
FRAME = """\
@tilec.kernel
def k(A: T.Tensor(("M", "N"), "float16"), B: T.Tensor((64, 64), "float32"),
      n: T.int32, tile: int = 64):
    with T.Kernel(T.ceildiv(A.shape[0], 64), 2, threads=128) as (bx, by):
        S = T.alloc_shared((64, 64), "float16")
        F = T.alloc_fragment((64, 64), "float32")
        L = T.alloc_local(8, "float32")
        t = T.get_thread_binding()
"""
_numbers = itertools.count()


@dataclass(frozen=True)
class Marked:
    """A text with the brackets ⟦ … ⟧ taken out, and where they stood (line from 1, columns)."""

    text: str
    line: int
    column: int
    end: int


def read_marks(text: str) -> Marked:
    """The text of a program and the place that it marks."""
    before, rest = text.split("⟦")
    inside, after = rest.split("⟧")
    line, column = before.count("\n") + 1, len(before.rsplit("\n", 1)[-1])
    first = inside.split("\n", 1)[0]
    return Marked(before + inside + after, line, column, column + len(first))


def in_frame(body: str) -> str:
    """A module whose kernel `k` has this body in its launch."""
    return HEAD + FRAME + textwrap.indent(textwrap.dedent(body).strip("\n"), " " * 8) + "\n"


def load(folder: Path, text: str) -> ModuleType:
    """The module of a text, from a file in `folder`."""
    name = f"program{next(_numbers)}"
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return load_module(path)


def traced(kernel: Any, **constants: Any) -> Program:
    """A kernel's program, verified."""
    given = {p.name: p.default for p in kernel.parameters if p.kind == "constant"} | constants
    program = kernel.trace(given)
    verify(program, builtin_registry())
    return program


def body_text(folder: Path, body: str) -> list[str]:
    """The lines of the launch of a kernel with this body, allocations aside, without indent."""
    text = print_program(traced(load(folder, in_frame(body)).k))
    lines = text.split("launch ", 1)[1].split("\n")[1:-3]
    return [line.strip() for line in lines if " = alloc <" not in line]


def refusal(folder: Path, text: str) -> TilecError:
    """The error that a module, or the tracing of its kernel `k`, gives."""
    with pytest.raises(TilecError) as caught:
        load_and_trace(folder, text)
    return caught.value


def load_and_trace(folder: Path, text: str) -> None:
    traced(load(folder, text).k)
