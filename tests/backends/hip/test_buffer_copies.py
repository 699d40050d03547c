"""buffer_copy: 16 bytes a lane straight to shared memory, in the emulator and as gfx950's machine code,
with engines that land late or early; and the faults that both must show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backends.emulation import every_schedule
from tests.backends.hip.cdna.decode import IsaError
from tests.backends.hip.cdna.device import MachineCodeDevice, assembled, kernels
from tilec.backends.manifest import Argument, LaunchSpec
from tilec.backends.prelude import FrameParameter, KernelFrame, Need, render_kernel, render_source
from tilec.runtime.emulator import EmulatorError, Mode, build, run

pytestmark = [pytest.mark.hip, pytest.mark.emulator]
COUNT = 1000  # elements of the buffer: the last piece of 8 is not inside as a whole
# Two waves fill 4096 bytes by two copies a lane, each lane with pieces from the other end of a wave's
# 64; they are read when one, then none is under way. (The machine's wait counts the store between too.)
BODY = """  shared<f16> S = shared_buffer<f16>(0, 2048);
  buffer<f16> X_buffer = make_buffer(X, n);
  const i32 wave = warp_uniform(thread_id() / 64);
  const i32 lane = thread_id() % 64;
  #pragma unroll
  for (i32 i = 0; i < 2; ++i) {
    const i32 from = ((i * 2 + wave) * 64 + (lane ^ 63)) * 8;
    buffer_copy<8>(S, (i * 2 + wave) * 512, X_buffer, from, lane != 5);
  }
  regs<f16, 8> r;
  #pragma unroll
  for (i32 i = 0; i < 2; ++i) {
    if (i == 0) buffer_copy_wait<1>();
    if (i == 1) buffer_copy_wait<0>();
    barrier();
    const i32 at = (i * 128 + (thread_id() + 64) % 128) * 8;
    load_shared<8>(r, 0, S, at);
    store_global<8>(Y, at, r, 0);
  }
"""
NAMES = (
    "shared_buffer", "make_buffer", "warp_uniform", "thread_id", "buffer_copy", "buffer_copy_wait",
    "barrier", "load_shared", "store_global", "f16",
)  # fmt: skip
FAULTS = {
    "a wait too loose": ("buffer_copy_wait<0>();", "buffer_copy_wait<2>();", "uninitialised|under way"),
    "no barrier": ("    barrier();\n", "", "race|uninitialised|under way"),
    "lanes that name different places": ("(i * 2 + wave) * 512, X", "(i * 2 + wave) * 512 + lane, X", "another place"),
}  # fmt: skip


def frame(body: str = BODY) -> KernelFrame:
    parameters = (
        FrameParameter("pointer", "X", "f16", const=True),
        FrameParameter("pointer", "Y", "f16"),
        FrameParameter("symbol", "n"),
    )
    return KernelFrame(
        "copy_pieces", parameters, 128, 4096, body, tuple(Need(name) for name in NAMES)
    )


def arrays() -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Arguments, and what Y is to become."""
    x = np.arange(1, COUNT + 1).astype(np.float16)
    padded = np.concatenate([x, np.zeros(2048 - COUNT, np.float16)])
    expected = padded.reshape(4, 64, 8)[:, ::-1].copy()
    expected[:, 5] = 0
    return {"X": x, "Y": np.full(2048, 7, np.float16), "n": COUNT}, expected.reshape(-1)


def spec() -> LaunchSpec:
    pointers = (Argument("pointer", "X", "f16"), Argument("pointer", "Y", "f16"))
    return LaunchSpec("copy_pieces", (*pointers, Argument("symbol", "n")), (1, 1, 1), 128, 4096)


def emulate(body: str = BODY) -> None:
    library = build(render_source("cpu", (frame(body),), warp_size=64))
    for mode, order in every_schedule():
        given, expected = arrays()
        run(library, spec(), given, mode, order, seed=5)
        assert np.array_equal(given["Y"], expected), (mode, order)


def execute(body: str = BODY, mode: Mode = "late", edit: Any = str) -> bool:
    """Whether the machine code gives what it should."""
    given, expected = arrays()
    text = render_kernel("hip", frame(body))
    MachineCodeDevice(mode, edit=edit).launch(text, "gfx950", spec(), given)  # type: ignore[arg-type]
    return np.array_equal(given["Y"], expected)


def test_the_emulator_copies() -> None:
    emulate()


@pytest.mark.parametrize("mode", ["late", "early"])
def test_the_machine_copies(mode: Mode) -> None:
    assert execute(mode=mode)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_show(fault: str) -> None:
    old, new, message = FAULTS[fault]
    assert old in BODY
    with pytest.raises(EmulatorError, match=message):
        emulate(BODY.replace(old, new))
    if "place" not in fault:
        assert not execute(BODY.replace(old, new))


def test_a_wait_that_is_missing_shows_in_the_machine_code() -> None:
    for wait in ("s_waitcnt vmcnt(1)", "s_waitcnt vmcnt(0)"):
        assert not execute(edit=lambda text, wait=wait: text.replace(wait, "s_nop 0"))
    with pytest.raises(IsaError, match="shared memory"):
        execute(edit=lambda text: text.replace("s_mov_b32 m0, ", "s_add_i32 m0, 0x1000, "))


def test_the_machine_code_is_what_it_says() -> None:
    """M0, five wait states, the load; no wait of clang's own between a copy and a read."""
    code = kernels(assembled(render_kernel("hip", frame()), "copies.hip", "gfx950"))["copy_pieces"]
    texts = [instruction.text for instruction in code.instructions]
    loads = [i for i, text in enumerate(texts) if text.startswith("buffer_load")]
    assert len(loads) == 2
    for i in loads:
        assert texts[i].startswith("buffer_load_dwordx4 v") and texts[i].endswith(" 0 offen lds")
        assert texts[i - 2].startswith("s_mov_b32 m0, s") and texts[i - 1] == "s_nop 3"
    assert [t for t in texts if "vmcnt" in t] == ["s_waitcnt vmcnt(1)", "s_waitcnt vmcnt(0)"]
