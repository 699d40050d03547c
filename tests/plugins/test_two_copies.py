"""A copy of the package under another name, beside the first in one process: both compile and run
kernels, and what one of them is extended by the other does not know.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

KERNEL = """
import {tilec} as tilec
import {tilec}.language as T


@tilec.kernel
def halved(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32")):
    with T.Kernel(T.ceildiv(A.shape[0], 32), threads=32) as bx:
        for i in T.Parallel(32):
            B[bx * 32 + i] = A[bx * 32 + i] * 0.5
"""

PROGRAM = """
import numpy as np
import kernels_first, kernels_second
import tilec, tilec_second
from acme_plugin import acme, Clip, clip, fixed
import clipped

registries = []
for package, kernels in ((tilec, kernels_first), (tilec_second, kernels_second)):
    for device in ("interpreter", "emulator:cuda:sm_80"):
        a, b = np.arange(70, dtype=np.float32), np.zeros(70, np.float32)
        with package.device(device):
            kernels.halved(a, b)
        assert np.array_equal(b, a / 2)
    registries.append(__import__(package.__name__ + ".runtime.lowering").runtime.lowering.standard_registry())
    source = kernels.halved.lower(target="cuda:sm_90a").source
    assert "halved_kernel" in source

first, second = registries
assert first.find("acme.clip") is Clip and second.find("acme.clip") is None
assert len(first.passes) == 1 and second.passes == ()
assert "cuda:sm_87" in tilec.target.TARGETS and "cuda:sm_87" not in tilec_second.target.TARGETS
assert first.find("add") is not second.find("add")

other = tilec_second.extend.Extension("acme")
for wrong, code in (
    (lambda: other.op(Clip), "TLC0216"),
    (lambda: tilec_second.compile(kernels_second.halved, target="cuda:sm_87"), "TLC0501"),
):
    try:
        wrong()
    except tilec_second.TilecError as error:
        assert error.code == code, error
    else:
        raise AssertionError(code)

mine = tilec.extend.Registry(first.ops)
assert mine.find("acme.clip") is Clip
print("apart")
"""


def test_each_copy_has_its_own_registries(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tilec", tmp_path / "tilec_second", ignore=ignored)
    for name, package in (("first", "tilec"), ("second", "tilec_second")):
        (tmp_path / f"kernels_{name}.py").write_text(KERNEL.replace("{tilec}", package))
    folders = os.pathsep.join(map(str, (tmp_path, HERE / "site", HERE, ROOT)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": folders},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "apart\n"
