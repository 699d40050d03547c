"""The interpreter of CDNA machine code itself: what it decodes, refuses and computes, and that a
wait which is missing or too weak shows.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.backends.hip.cdna import floats
from tests.backends.hip.cdna import waves as waves_module
from tests.backends.hip.cdna.decode import Code, IsaError, decode, read_line
from tests.backends.hip.cdna.device import MachineCodeDevice
from tests.backends.hip.cdna.launch import make_program, run_block
from tests.backends.hip.cdna.memory import GlobalMemory, SharedMemory
from tests.backends.hip.cdna.waves import Mode, Wave
from tests.backends.hip.test_hip_emulated import (
    DTYPES,
    MFMA,
    MFMA_SMALL,
    mfma_frame,
    mfma_key,
    mfma_places,
)
from tests.backends.hip.test_hip_isa import SHAPES
from tilec.backends.manifest import Argument, LaunchSpec
from tilec.backends.prelude import FrameParameter, KernelFrame, Need, render_kernel

LANE = np.arange(64)


def execute(
    text: str, waves: int = 1, mode: Mode = "late", words: np.ndarray | None = None
) -> list[Wave]:
    """Waves that have executed the lines of `text` as one block: v0 is the lane, s0 the number of
    the wave, s[2:3] the address of `words`; they share 4096 bytes of LDS."""
    code = Code("a test", "gfx942")
    for number, line in enumerate([*text.strip().splitlines(), "s_endpgm"], 1):
        line = line.strip()
        read_line(code, line if line.endswith(":") else f"\t{line}", number)
    program = make_program(code)
    memory, shared = GlobalMemory(), SharedMemory(4096)
    address = memory.add("words", np.arange(64, dtype=np.uint32) if words is None else words)
    found = [Wave(memory, shared, mode, seed=7) for _ in range(waves)]
    for number, wave in enumerate(found):
        wave.vector[0] = LANE
        wave.scalar[0] = number
        wave.set_pair(2, address)
    with np.errstate(all="ignore"):
        run_block(found, program, range(waves))
    return found


@pytest.mark.parametrize(
    "line",
    [
        "v_frobnicate_b32 v0, v1", "s_frobnicate_b32 s0, s1", "v_pk_frobnicate_f16 v0, v1, v2",
        "v_mfma_f32_64x64x4_f16 a[0:15], v[0:1], v[2:3], a[0:15]", "flat_load_dword v0, v[2:3]",
        "scratch_load_dword v0, off, s0", "ds_frobnicate_b32 v0, v1", "v_cmp_hm_f32_e32 vcc, v0, v1",
        "global_atomic_frobnicate v[2:3], v1, off", "s_setreg_imm32_b32 hwreg(HW_REG_MODE), 0",
    ],
)  # fmt: skip
def test_an_unknown_instruction_is_an_error_that_names_it(line: str) -> None:
    with pytest.raises(IsaError, match=line.split("_e32")[0].split()[0]):
        execute(line)


@pytest.mark.parametrize(
    "line",
    [
        "v_add_f32_e64 v0, v1, v2 mul:2", "v_pk_add_f32 v[0:1], v[2:3], v[4:5] clamp",
        "buffer_load_dword v1, v0, s[4:7], 0 idxen", "ds_read_b32 v1, v0 gds",
        "v_mfma_f32_32x32x8_f16 a[0:15], v[0:1], v[2:3], a[0:15] cbsz:1",
        "v_mov_b32_dpp v1, v0 wave_shr:1 row_mask:0xf bank_mask:0xf",
        "v_mov_b32_dpp v1, v0 row_shr:1 row_mask:0x3 bank_mask:0xf", "v_add_u32_e64 v0, -v1, v2",
    ],
)  # fmt: skip
def test_what_changes_an_instruction_is_known_or_refused(line: str) -> None:
    with pytest.raises(IsaError):
        execute(line)


def test_operands_and_modifiers_are_decoded() -> None:
    text = "v_fma_mix_f32 v9, -v10, |v9|, s[4:5] op_sel:[0,1,1] op_sel_hi:[1,1,1] clamp"
    found = decode(text)
    a, b, c, d = found.operands
    assert (found.mnemonic, a.first, b.negative, c.absolute, d.count) == (
        "v_fma_mix_f32",
        9,
        True,
        True,
        2,
    )
    assert found.flags("op_sel", ()) == (0, 1, 1) and found.modifiers["clamp"] == ""
    assert decode("v_mov_b32_e32 a3, -16").operands[0].first == 256 + 3
    assert decode("v_mov_b32_e32 v3, -16").operands[1].integer == -16
    assert decode("s_waitcnt vmcnt(3) lgkmcnt(0)").modifiers == {"vmcnt": "3", "lgkmcnt": "0"}
    assert decode("s_waitcnt 0x0f70").modifiers == {"vmcnt": "0"}
    assert (
        decode("ds_swizzle_b32 v1, v2 offset:swizzle(SWAP,16)").modifiers["offset"]
        == "swizzle(SWAP,16)"
    )


def test_fused_multiply_adds_round_once() -> None:
    random = np.random.default_rng(3)
    a, b = (random.standard_normal(3000).astype(np.float32) for _ in "ab")
    near = -(a.astype(np.float64) * b).astype(np.float32)
    for c in (near, np.nextafter(near, 0), random.standard_normal(3000).astype(np.float32)):
        scale = np.float32(2.0) ** random.integers(-30, 1, 3000).astype(np.float32)
        for x, y, z in zip((c * scale).tolist(), a.tolist(), b.tolist(), strict=True):
            exact = Fraction(y) * Fraction(z) + Fraction(x)
            got = floats.fma32(np.float32([y]), np.float32([z]), np.float32([x]))[0]
            below, above = (
                np.nextafter(got, np.float32(-np.inf)),
                np.nextafter(got, np.float32(np.inf)),
            )
            error = abs(Fraction(float(got)) - exact)
            assert error <= min(abs(Fraction(float(n)) - exact) for n in (below, above))


LOADS = """
v_lshlrev_b32_e32 v1, 2, v0
global_load_dword v2, v1, s[2:3]
global_load_dword v3, v1, s[2:3]
s_waitcnt vmcnt({first})
v_add_u32_e32 v4, v2, v2
s_waitcnt vmcnt({second})
v_add_u32_e32 v4, v4, v3
"""


@pytest.mark.parametrize("mode", ["late", "early"])
def test_a_weak_wait_for_loads_is_found(mode: Mode) -> None:
    (wave,) = execute(LOADS.format(first=1, second=0), mode=mode)
    assert np.array_equal(wave.vector[4], LANE * 3)
    for first, second in ((2, 0), (1, 1)):
        with pytest.raises(IsaError, match=r"v_add_u32_e32 v4.*still being loaded"):
            execute(LOADS.format(first=first, second=second), mode=mode)


def test_scalar_loads_return_in_any_order() -> None:
    text = "s_load_dword s4, s[2:3], 0x8\ns_load_dword s5, s[2:3], 0xc\ns_waitcnt lgkmcnt({})\ns_add_i32 s6, s4, s5"
    assert execute(text.format(0))[0].scalar[6] == 5
    with pytest.raises(IsaError, match="s_add_i32"):
        execute(text.format(1))


EXCHANGE = """
v_lshlrev_b32_e32 v1, 2, v0
v_lshl_or_b32 v2, s0, 8, v1
s_xor_b32 s1, s0, 1
v_lshl_or_b32 v3, s1, 8, v1
v_mov_b32_e32 v4, s0
ds_write_b32 v2, v4
{wait}
{barrier}
ds_read_b32 v5, v3
s_waitcnt lgkmcnt(0)
"""


def test_what_waves_exchange_needs_a_wait_and_a_barrier() -> None:
    """A write that is not waited for has not landed when the other wave reads, late."""

    def exchanged(wait: str, barrier: str, mode: Mode) -> bool:
        waves = execute(EXCHANGE.format(wait=wait, barrier=barrier), waves=2, mode=mode)
        return all(np.all(wave.vector[5] == 1 - number) for number, wave in enumerate(waves))

    for mode in ("late", "early"):
        assert exchanged("s_waitcnt lgkmcnt(0)", "s_barrier", mode)  # type: ignore[arg-type]
        assert not exchanged("s_waitcnt lgkmcnt(0)", "s_nop 0", mode)  # type: ignore[arg-type]
    assert not exchanged("s_nop 0", "s_barrier", "late")
    assert not exchanged("s_waitcnt vmcnt(0)", "s_barrier", "late")


def test_memory_ends_where_it_ends() -> None:
    for line, message in {
        "global_load_dword v2, v1, s[2:3] offset:4": "words, which has 256",
        "global_store_dwordx4 v1, v[4:7], s[2:3]": "words, which has 256",
        "global_load_dword v2, v0, s[2:3]": "no multiple of 4",
        "ds_read_b32 v2, v1 offset:3844": "shared memory, which has 4096",
        "ds_write_b128 v1, v[4:7]": "no multiple of 16",
        "global_load_dword v2, v[0:1], off": "where nothing is",
    }.items():
        with pytest.raises(IsaError, match=message):
            execute(f"v_lshlrev_b32_e32 v1, 2, v0\n{line}")


def test_a_loop_without_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves_module, "LIMIT", 1000)
    with pytest.raises(IsaError, match="not ended after 1000"):
        execute(".LBB0_1:\ns_branch .LBB0_1")


def test_lanes_that_are_not_active_keep_what_they_have() -> None:
    (wave,) = execute(
        "v_mov_b32_e32 v1, 5\nv_cmp_gt_u32_e32 vcc, 9, v0\ns_and_saveexec_b64 s[4:5], vcc\n"
        "v_add_u32_e32 v1, v1, v0\ns_cbranch_execz .LBB0_2\nv_readfirstlane_b32 s6, v1\n.LBB0_2:\n"
        "s_or_b64 exec, exec, s[4:5]\nv_mov_b32_e32 v2, v1"
    )
    assert np.array_equal(wave.vector[2], np.where(LANE < 9, 5 + LANE, 5))
    assert wave.scalar[6] == 5


def run_frame(frame: KernelFrame, arch: str, arrays: dict[str, np.ndarray]) -> None:
    spec = LaunchSpec(
        frame.name, tuple(Argument(p.kind, p.name, p.dtype) for p in frame.parameters),
        (1, 1, 1), frame.threads, frame.shared_bytes,
    )  # fmt: skip
    MachineCodeDevice().launch(render_kernel("hip", frame), arch, spec, arrays)


EVERY_MFMA = [(m, k, d, t, arch) for m, k, d, t in MFMA for arch in dict(SHAPES)[m, m, k, d, t]]


@pytest.mark.hip
@pytest.mark.parametrize(("m", "k", "d", "t", "arch"), EVERY_MFMA)
def test_every_mfma(m: int, k: int, d: str, t: str, arch: str) -> None:
    """Through the prelude and clang, against places that are written out from the manual."""
    places, out = mfma_places(m, k, d)
    random = np.random.default_rng(m + k)
    a, b = (random.integers(-4, 5, (m, k)).astype(DTYPES[t]) for _ in "ab")
    c = random.integers(-99, 100, (m, m)).astype(DTYPES[d])
    registers = {
        "A": a[places[..., 0], places[..., 1]].copy(),
        "B": b[places[..., 0], places[..., 1]].copy(),
        "D": c[out[..., 0], out[..., 1]].copy(),
    }
    run_frame(mfma_frame(m, k, d, t), arch, registers)
    expected = c.astype(np.int64) + a.astype(np.int64) @ b.astype(np.int64).T
    got = np.zeros_like(expected)
    got[out[..., 0], out[..., 1]] = registers["D"].astype(np.int64)
    assert np.array_equal(got, expected)


@pytest.mark.hip
@pytest.mark.parametrize(("m", "k", "t", "right"), MFMA_SMALL)
def test_every_mfma_of_two_dtypes(m: int, k: int, t: str, right: str) -> None:
    (places, out), (columns, _) = (mfma_places(m, k, "f32", x) for x in (t, right))
    random = np.random.default_rng(m + k)
    a, b = (random.integers(-4, 5, (m, k)).astype(DTYPES[x]) for x in (t, right))
    registers = {
        "A": a[places[..., 0], places[..., 1]].copy(),
        "B": b[columns[..., 0], columns[..., 1]].copy(),
        "D": np.ones((64, m * m // 64), np.float32),
    }
    (arch,) = dict(SHAPES)[mfma_key(m, k, "f32", t, right)]
    run_frame(mfma_frame(m, k, "f32", t, right=right), arch, registers)
    got = np.zeros((m, m))
    got[out[..., 0], out[..., 1]] = registers["D"]
    assert np.array_equal(got, a.astype(np.float64) @ b.astype(np.float64).T + 1)


def frame_of(body: str, dtype: str, *names: str) -> KernelFrame:
    pointers = (
        FrameParameter("pointer", "P", dtype, const=True),
        FrameParameter("pointer", "Q", dtype),
    )
    needs = tuple(Need(name) for name in ("thread_id", *names))
    return KernelFrame("probe", pointers, 64, 0, body, needs)


@pytest.mark.hip
@pytest.mark.parametrize("mask", [1, 2, 3, 4, 5, 8, 16, 32])
def test_lanes_exchange(mask: int) -> None:
    """By DPP, swizzles and bpermute, as the mask has it."""
    p, q = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    body = f"Q[thread_id()] = shuffle_xor(P[thread_id()], {mask});"
    run_frame(frame_of(body, "f32", "shuffle_xor"), "gfx942", {"P": p, "Q": q})
    assert np.array_equal(q, LANE ^ mask)


@pytest.mark.hip
def test_division_is_exact() -> None:
    """clang's steps (scale, reciprocal, fused multiply-adds, fixup) give the rounded quotient, for
    any bits, subnormal ones too."""
    random = np.random.default_rng(11)
    body = "Q[thread_id()] = P[thread_id()] / P[thread_id() + 64];"
    frame = frame_of(body, "f32")
    for _ in range(12):
        p = random.integers(0, 1 << 32, 128, dtype=np.uint32).view(np.float32)
        p[:6], p[64:70] = (0, 1, np.inf, 3, np.nan, 1e-40), (0, 0, 2, np.inf, 1, 1e-3)
        q = np.zeros(64, np.float32)
        run_frame(frame, "gfx942", {"P": p, "Q": q})
        with np.errstate(all="ignore"):
            expected = p[:64] / p[64:]
        assert np.array_equal(q, expected, equal_nan=True)
