"""load_transposed (ds_read_b64_tr_b16): in the emulator and as gfx950's machine code, against the places
that the CDNA4 manual gives; and a GEMM whose operands are both read so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backends.hip.cdna.device import MachineCodeDevice, assembled, kernels
from tests.kernels import test_targets as products
from tilec.backends.manifest import Argument, LaunchSpec
from tilec.backends.prelude import (
    FrameParameter,
    KernelFrame,
    Need,
    render_kernel,
    render_source,
)
from tilec.runtime.emulator import EmulatorError, build, run
from tilec.runtime.emulator_device import EmulatorDevice

pytestmark = [pytest.mark.hip, pytest.mark.emulator]
NAMES = (
    "regs", "shared_buffer", "thread_id", "load_transposed", "barrier", "store_shared", "load_global",
    "store_global", "f16",
)  # fmt: skip
# One wave, rows of 24 elements: lane l hands in a piece of row l / 4, so that 16 lanes have four rows.
BODY = """  shared<f16> S = shared_buffer<f16>(0, 1536);
  const i32 t = thread_id();
  regs<f16, 8> given;
  for (i32 i = 0; i < 3; ++i) {
    load_global<8>(given, 0, X, (i * 64 + t) * 8);
    store_shared<8>(S, (i * 64 + t) * 8, given, 0);
  }
  barrier();
  regs<f16, 4> r;
  load_transposed(r, 0, S, t / 4 * 24 + t % 4 * 4);
  store_global<4>(Y, t * 4, r, 0);
"""


def frame(body: str = BODY, threads: int = 64) -> KernelFrame:
    parameters = (
        FrameParameter("pointer", "X", "f16", const=True), FrameParameter("pointer", "Y", "f16")
    )  # fmt: skip
    needs = tuple(Need(name) for name in NAMES)
    return KernelFrame("transposed", parameters, threads, 3072, body, needs)


def spec() -> LaunchSpec:
    pointers = (Argument("pointer", "X", "f16"), Argument("pointer", "Y", "f16"))
    return LaunchSpec("transposed", pointers, (1, 1, 1), 64, 3072)


def arrays() -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    x = np.arange(1536).astype(np.float16)
    rows = x.reshape(64, 24)
    expected = np.zeros((64, 4), np.float16)
    for lane in range(64):  # column lane % 16 of four rows, those of the lane's sixteen
        for k in range(4):
            expected[lane, k] = rows[lane // 16 * 4 + k, lane % 16]
    return {"X": x, "Y": np.zeros(256, np.float16)}, expected.reshape(-1)


def test_lanes_receive_columns() -> None:
    given, expected = arrays()
    run(build(render_source("cpu", (frame(),), warp_size=64)), spec(), given)
    assert np.array_equal(given["Y"], expected)
    given, expected = arrays()
    text = render_kernel("hip", frame())
    MachineCodeDevice().launch(text, "gfx950", spec(), given)
    assert np.array_equal(given["Y"], expected)
    code = kernels(assembled(text, "transposed.hip", "gfx950"))["transposed"]
    assert sum(x.mnemonic == "ds_read_b64_tr_b16" for x in code.instructions) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  load_transposed", "  if (t != 3) load_transposed", "deadlock|uninitialised"),
        ("t % 4 * 4);", "t % 4 * 4 + 1);", "multiple"),
        ("i < 3", "i < 0", "uninitialised"),
    ],
)
def test_the_emulator_finds(old: str, new: str, message: str) -> None:
    body = BODY.replace(old, new)
    assert body != BODY
    library = build(render_source("cpu", (frame(body),), warp_size=64))
    with pytest.raises(EmulatorError, match=message):
        run(library, spec(), arrays()[0])


@pytest.mark.parametrize(("ta", "tb"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_of_operands_read_by_columns(dtype: str, ta: bool, tb: bool) -> None:
    """A stored [K, M], B [K, N]: no element is read alone."""
    kernel = products.product(dtype, "float32", "float32", ta, tb)
    for size, tile in (((72, 80, 96), {"bk": 64}), ((65, 63, 37), {"bk": 32, "bm": 32})):
        compiled = products.lowered(kernel, "hip:gfx950", **tile)
        text = compiled.lowered.text
        assert "load_transposed(" in text
        (code,) = kernels(assembled(text, "p.hip", "gfx950")).values()
        names = [x.mnemonic for x in code.instructions]
        assert "ds_read_b64_tr_b16" in names
        assert not [n for n in names if n.startswith(("ds_read_u16", "ds_read_u8"))]
        for device in (
            MachineCodeDevice(target="hip:gfx950"),
            EmulatorDevice("hip:gfx950", "a test"),
        ):
            products.check(device, compiled, ta, tb, "float32", size)
