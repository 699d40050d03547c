"""Every name that users see is documented and annotated, so that an editor completes it, and mypy
takes a kernel as a user writes one.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tilec
import tilec.extend
import tilec.language as T
import tilec.layout
import tilec.ops
import tilec.quantize

ROOT = Path(__file__).resolve().parents[2]
MODULES = (tilec, T, tilec.layout, tilec.ops, tilec.quantize, tilec.extend)
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
    if not name.startswith("__")
}
FUNCTIONS = [name for name, thing in PUBLIC.items() if inspect.isfunction(thing)]
CLASSES = [name for name, thing in PUBLIC.items() if inspect.isclass(thing)]


def test_all_names_are_there_and_of_a_known_kind() -> None:
    assert len(FUNCTIONS) > 50
    for module in MODULES:
        assert len(set(module.__all__)) == len(module.__all__)
        for name in dir(module):  # of tilec itself: what is loaded when it is first used
            getattr(module, name)


@pytest.mark.parametrize("name", FUNCTIONS + CLASSES)
def test_a_public_name_is_documented(name: str) -> None:
    thing: Any = PUBLIC[name]
    text = inspect.getdoc(thing) if inspect.isfunction(thing) else thing.__doc__
    assert text and len(text.split()) >= 3, f"{name} has no docstring"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_is_fully_annotated(name: str) -> None:
    signature = inspect.signature(PUBLIC[name])
    bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert not bare, f"{name}: {bare}"
    assert signature.return_annotation is not signature.empty, name


USER = """
from __future__ import annotations

import numpy as np

import tilec
import tilec.language as T


@tilec.macro
def scale(x: T.Value, by: float) -> T.Value:
    return x * by


@tilec.kernel
def matmul(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
    tile: int = 64,
) -> None:
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, tile), T.ceildiv(M, tile), threads=128) as (bx, by):
        A_s = T.alloc_shared((tile, 32), "float16")
        B_s = T.alloc_shared((tile, 32), "float16")
        acc = T.alloc_fragment((tile, tile), T.float32)
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=2):
            T.copy(A[by * tile, k * 32], A_s)
            T.copy(B[bx * tile, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        for i, j in T.Parallel(tile, tile):
            acc[i, j] = scale(acc[i, j], 0.5) + T.exp(T.cast(i, "float32"))
        T.copy(acc, C[by * tile, bx * tile])


a = np.zeros((64, 32), np.float16)
c = np.zeros((64, 64), np.float32)
matmul(a, a, c)
compiled = matmul.compile(tilec.spec((64, 32), "float16"), a, c, target="cuda:sm_90a")
source: str = compiled.source
threads: int = compiled.threads
"""


def test_mypy_takes_a_users_kernel(tmp_path: Path) -> None:
    """All of --strict but what every annotation by a call has: `valid-type`."""
    file = tmp_path / "user.py"
    file.write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "--disable-error-code",
         "valid-type", "--cache-dir", str(tmp_path / "cache"), str(file)],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=300,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(tilec.__file__).with_name("py.typed")).exists()
