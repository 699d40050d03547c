"""The inputs that `tilec run` makes, and what it compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_cli import Capture, tilec

COPY = """\
import tilec
import tilec.language as T


@tilec.kernel
def copied(A: T.Tensor((48, 64), DTYPE), B: T.Tensor((48, 64), DTYPE)):
    with T.Kernel(3, threads=32) as bx:
        for i, j in T.Parallel(16, 64):
            B[bx * 16 + i, j] = A[bx * 16 + i, j]
"""


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint4", "float4_e2m1fn"])
def test_elements_that_share_bytes(capfd: Capture, tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "pairs.py"
    path.write_text(COPY.replace("DTYPE", repr(dtype)))
    status, out, _ = tilec(capfd, "run", path, "--device", "emulator:cuda:sm_80")
    assert status == 0 and "B: 3072 elements agree with the interpreter" in out
