"""Compiles text of a prelude by clang for this machine, so that tests can call its functions."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

# Rounding to bf16 is the compiler's own sequence on gfx942; here it is a call, which older
# libraries lack. Its result lies in the low half of a float register.
_LIBRARY_CALL = """
float __truncsfbf2(float x) {
  unsigned bits;
  __builtin_memcpy(&bits, &x, 4);
  bits = (x != x ? 0x7fc00000u : bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
"""

_OPTIONS = (
    "-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=fast-honor-pragmas", "-Wall", "-Werror",
    "-Wno-unused-function", "-Wno-unknown-pragmas", "-Wno-undefined-inline", "-Wno-pass-failed",
)  # fmt: skip


def compile_here(stand_ins: str, prelude: str, functions: str, folder: Path) -> ctypes.CDLL:
    """A library of C functions that use a prelude. `stand_ins` is what the vendor's compiler would
    bring."""
    clang = shutil.which("clang++-19") or shutil.which("clang++")
    assert clang, "clang++-19 is needed: apt-get install clang-19"
    source, call, result = folder / "text.cpp", folder / "call.c", folder / "text.so"
    source.write_text(
        f'{stand_ins}\nnamespace tilec {{\n{prelude}\nextern "C" {{\n{functions}\n}}\n}}\n'
    )
    call.write_text(_LIBRARY_CALL)
    compiler = clang.replace("clang++", "clang")
    for command in (
        (compiler, "-O1", "-fPIC", "-c", "-o", f"{call}.o", str(call)),
        (clang, *_OPTIONS, "-o", str(result), str(source), f"{call}.o", "-lm"),
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(result))
