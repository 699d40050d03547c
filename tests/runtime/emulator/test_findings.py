"""What the emulator reports: each kind of finding, and the things that must not be one."""

# ruff: noqa: E501 (a line a case)

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.backends.emulation import Probe, Probes, every_schedule, needs_of
from tilec.backends.manifest import Argument, LaunchSpec
from tilec.backends.prelude import Need, render_source
from tilec.runtime.emulator import EmulatorError, build, run

pytestmark = pytest.mark.emulator

_SHARED = "shared<{t}> S = shared_buffer<{t}>(0, 32); regs<{t}, 4> r; const i32 t = thread_id();"


def body_of(text: str, dtype: str = "f32") -> str:
    return "  " + _SHARED.replace("{t}", dtype) + "\n  " + text + "\n"


FINDINGS = {
    "float_register": ("f32", "Y[t] = r[1];", r"uninitialised value to Y\[0\]"),
    "float_through_arithmetic": ("f32", "Y[t] = r[1] * 0.0f + X[t];", "uninitialised value to Y"),
    "half_through_conversion": ("f16", "Y[t] = convert<f16>(convert<f32>(r[1]) + 1.0f);", "uninit"),
    "half_arithmetic": ("f16", "Y[t] = max(r[1], X[t]) - X[t];", "uninitialised value to Y"),
    "maximum": ("f32", "Y[t] = max(X[t], r[0]);", "uninitialised value to Y"),
    "function": ("f32", "Y[t] = exp2(r[0]);", "uninitialised value to Y"),
    "comparison": ("f32", "Y[t] = r[0] > 0.0f ? 1.0f : 0.0f;", "compares an uninitialised f32"),
    "to_integer": ("f32", "Y[t] = X[convert<i32>(r[0])];", "converts an uninitialised float"),
    "integer_register": ("i32", "Y[t] = r[2] + 1;", "uses an uninitialised value of a register"),
    "integer_index": ("i32", "Y[r[0]] = 1;", "uses an uninitialised value of a register"),
    "integer_moved": ("i32", "copy_registers<2>(r, 0, r, 2); store_global<2>(Y, 2 * t, r, 0, t < 16);", "uninit.*Y"),
    "shared_never_written": ("i32", "Y[t] = S[t];", "uninitialised value of shared memory"),
    "shared_float": ("f32", "load_shared<4>(r, 0, S, t % 8 * 4); Y[t] = r[t % 4];", "uninit.*Y"),
    "shared_poisoned": ("i32", "store_shared<4>(S, 0, r, 0); load_shared<4>(r, 0, S, 0); Y[t] = r[0];", "uses an"),
    "conversion_of_registers": ("i8", "regs<f32, 4> f; convert_registers<4>(r, 0, f, 0); Y[t] = r[0];", "uses an"),
    "shared_index": ("f32", "S[t + 1] = X[t];", r"shared elements \[32 .. 33\) of a buffer of 32"),
    "global_index": ("f32", "Y[t - 1] = X[t];", r"writes Y\[-1 .. 0\), which has 32 elements"),
    "register_index": ("f32", "r[t] = X[t];", "register index 4 outside 0 to 3"),
    "store_to_const": ("f32", "Y[t] = X[t]; if (t == 31) { Z[0] = 1; }", "writes Z.* read-only"),
    "shared_alignment": ("f32", "load_shared<4>(r, 0, S, 2);", "shared bytes from 8 in one access of 16"),
    "not_uniform": ("f32", "Y[warp_uniform(t)] = X[t];", "warp_uniform of a value that differs"),
    "shuffle_lane": ("f32", "Y[t] = shuffle(X[t], t + 1);", "shuffle asks lane 32 of 32"),
    "divergent_shuffle": ("f32", "if (t < 9) { Y[t] = shuffle(X[t], 0); } else { warp_sync(); }", "divergent coll"),
    "half_a_warp": ("f32", "if (t < 9) { Y[t] = shuffle(X[t], 0); }", "deadlock; threads 0 to 8: waits at shuffle, 9 of 32 lanes came; threads 9 to 31: finished"),
    "barrier_not_reached": ("f32", "if (t > 0) { barrier(); }", "thread 0: finished; threads 1 to 31: waits at barrier"),
    "named_barrier_of_few": ("f32", "named_barrier<1, 64>();", "in a block of 32 threads"),
    "buffer_too_long": ("f32", "shared<f32> T = shared_buffer<f32>(64, 64);", r"bytes \[64, 320\); the launch has 256"),
    "odd_buffer": ("f32", "shared<f32> T = shared_buffer<f32>(2, 4);", "4-byte elements at byte 2"),
    "descriptor": ("f32", "make_descriptor<128>(S, 1, 16, 1024);", "a wgmma descriptor of address 4"),
    "mbarrier_of_none": ("f32", "shared<mbarrier> b = shared_buffer<mbarrier>(128, 1); mbarrier_arrive(b, 0);", "never initialised"),
    "mbarrier_overwritten": ("f32", "shared<mbarrier> b = shared_buffer<mbarrier>(0, 1); if (t == 0) { mbarrier_init(b, 0, 1); } warp_sync(); S[t] = X[t];", "which hold an mbarrier"),
    "mbarrier_twice": ("f32", "shared<mbarrier> b = shared_buffer<mbarrier>(0, 1); mbarrier_init(b, 0, 1);", "again"),
}  # fmt: skip

CLEAN = {
    "select_shared": (
        "f32",
        "S[t] = X[t]; Y[t] = t < 7 ? S[t] : 0.0f; Y[t] = t < 9 ? Y[t] * 2.0f : X[t] + 1.0f;",
    ),
    "predicated_shared": (
        "i8",
        "store_shared<4>(S, 4 * t, r, 0, t > 31); load_shared<4>(r, 0, S, 4 * t, t > 31); Y[t] = r[t % 4];",
    ),
    "select": ("f32", "Y[t] = t < 99 ? X[t] : r[0];"),
    "moves_only": ("i32", "copy_registers<2>(r, 0, r, 2); Y[t] = X[t];"),
    "nan_is_a_value": ("f32", "Y[t] = log(-X[t] - 1.0f) * 0.0f;"),
    "predicated": ("i32", "store_global<4>(Y, 4 * t, r, 0, t > 31); Y[t] = X[t];"),
    "written_before": ("i32", "S[t] = X[t]; warp_sync(); Y[t] = S[31 - t];"),
    "assignments": (
        "i32",
        "r[0] = X[t]; r[0] += 2; r[0] = r[0] * 3 - r[0]; Y[t] = r[0]; Y[t] -= 1;",
    ),
    "half_assignments": ("f16", "r[0] = X[t]; r[1] = r[0]; r[1] += r[0]; Y[t] = r[1];"),
}


def _probe(dtype: str, text: str) -> Probe:
    body = body_of(text, dtype)
    pointers = {"X": f"const {dtype}", "Y": dtype} | (
        {"Z": f"const {dtype}"} if "Z[" in text else {}
    )
    return Probe(body, needs_of(body), pointers, shared_bytes=256)


# A name that must not compile on a GPU (a store to const) stands here beside the others: on the
# CPU the class of the pointer refuses it when it runs.
PROBES = Probes(
    {name: _probe(dtype, text) for name, (dtype, text, _) in FINDINGS.items()}
    | {name: _probe(dtype, text) for name, (dtype, text) in CLEAN.items()}
)
NUMPY: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "i8": np.int8}


def make_arguments(dtype: str) -> dict[str, Any]:
    names = ("X", "Y", "Z")
    return {name: np.arange(32).astype(NUMPY[dtype]) for name in names}


@pytest.mark.parametrize("name", FINDINGS)
def test_finding(name: str) -> None:
    dtype, _, expected = FINDINGS[name]
    arguments = make_arguments(dtype)
    with pytest.raises(EmulatorError) as raised:
        PROBES.run(name, arguments)
    assert re.search(expected, raised.value.message), raised.value.message
    assert raised.value.message.startswith(f"kernel {name}, block (0, 0, 0)")
    assert arguments["Y"].tolist() == list(range(32)), "a failed launch leaves the arrays alone"


@pytest.mark.parametrize("name", CLEAN)
def test_clean(name: str) -> None:
    dtype, _ = CLEAN[name]
    results = []
    for mode, order in every_schedule():
        arguments = make_arguments(dtype)
        PROBES.run(name, arguments, mode, order)
        results.append(arguments["Y"].tobytes())
    assert len(set(results)) == 1


def test_results_of_assignments() -> None:
    arguments = make_arguments("i32")
    PROBES.run("assignments", arguments)
    assert arguments["Y"].tolist() == [(x + 2) * 2 - 1 for x in range(32)]


def test_a_race_shows_as_disagreement_or_in_any_order() -> None:
    """Two warps, no barrier: whether warp 1 sees what warp 0 wrote depends on the order."""
    body = """
  shared<i32> S = shared_buffer<i32>(0, 64);
  const i32 t = thread_id();
  S[t] = 1;
  warp_sync();
  S[(t + 32) % 64] = 2;
  Y[t] = S[t];
"""
    race = Probes({"race": Probe(body, needs_of(body), {"Y": "i32"}, threads=64, shared_bytes=256)})
    results = set()
    for mode, order in every_schedule():
        y = np.zeros(64, np.int32)
        race.run("race", {"Y": y}, mode, order, races=False)
        results.add(y.tobytes())
        with pytest.raises(EmulatorError, match=r"data race: writes shared byte .* wrote"):
            race.run("race", {"Y": y}, mode, order)
    assert len(results) > 1


RACES = {
    "read_after_write": (
        "S2[t] = 1; Y[t] = S2[t ^ 1];",
        r"shared byte \d+, which thread \d+ (read|wrote)",
    ),
    "write_after_read": (
        "r[0] = S2[t ^ 1]; S2[t] = r[0]; Y[t] = 1;",
        r"shared byte \d+, which thread \d+ (read|wrote)",
    ),
    "a_shuffle_is_no_barrier": (
        "S[t] = 1; shuffle(t, 0); Y[t] = S[t ^ 1];",
        r"reads shared byte .* wrote",
    ),
    "half_of_a_word": (
        "H[t] = 1; barrier(); if (t % 2 == 0) H[t] = 2; else Y[t] = H[t - 1];",
        r"shared byte \d+, which",
    ),
    "one_element_of_all_threads": ("Y[0] = t;", r"writes Y byte \d+, which thread \d+ wrote"),
    "blocks_that_write_one_place": (
        "if (t == 0) { Y[0] = 1 + block_id<0>(); }",
        r"byte 0, which thread 0 of block \(\d, 0, 0\) wrote",
    ),
    "a_block_that_reads_anothers": (
        "if (t == 0) { Y[block_id<0>()] = Y[(block_id<0>() + 1) % 3]; }",
        r"Y byte \d, which thread 0 of block \(\d, 0, 0\) (read|wrote)",
    ),
    "an_atomic_and_a_store": ("atomic_add(Y, 0, 1); if (t == 3) { Y[0] = 2; }", "data race"),
}
UNRACED = {
    "threads_and_blocks_that_agree": "Y[0] = 1; H[0] = 5; barrier(); Y[1] = H[0];",
    "two_bytes_of_a_word": "H[t] = 1; barrier(); H[t] = H[t]; Y[t + 64 * block_id<0>()] = H[t];",
    "a_warp_that_meets": "S[t] = 1; warp_sync(); Y[t + 64 * block_id<0>()] = S[t ^ 1];",
    "a_block_that_meets": "S[t] = 1; barrier(); r[0] = S[63 - t]; barrier(); S[t] = r[0]; Y[t + 64 * block_id<0>()] = 1;",
    "many_read_what_one_wrote": "if (t == 0) { S[0] = 1; } barrier(); r[0] = S[0]; barrier(); if (t == 9) { S[0] = 2; } Y[t + 64 * block_id<0>()] = r[0];",
    "atomics_of_all": "atomic_add(Y, 0, 1); atomic_max(Y, 1, t);",
    "atomics_on_shared_memory": "if (t == 0) { S[0] = 0; } barrier(); atomic_add(S, 0, 1); barrier(); Y[t + 64 * block_id<0>()] = S[0];",
}
_RACE_HEAD = "  shared<i32> S = shared_buffer<i32>(0, 64); shared<i32> S2 = shared_buffer<i32>(256, 64); shared<i8> H = shared_buffer<i8>(512, 64); regs<i32, 1> r; const i32 t = thread_id();\n  S2[t] = 0; barrier();\n  "


def _race_probes() -> Probes:
    bodies = {**{n: text for n, (text, _) in RACES.items()}, **UNRACED}
    return Probes(
        {
            name: Probe(
                _RACE_HEAD + text + "\n",
                (*needs_of(_RACE_HEAD + text), Need("i8")),
                {"Y": "i32"},
                threads=64,
                shared_bytes=576,
            )
            for name, text in bodies.items()
        }
    )


RACE_PROBES = _race_probes()


def race_of(name: str, mode: Any, order: Any) -> str:
    try:
        RACE_PROBES.run(name, {"Y": np.zeros(256, np.int32)}, mode, order, (3, 1, 1))
    except EmulatorError as error:
        return error.message
    return ""


@pytest.mark.parametrize("name", RACES)
def test_a_race_is_found_in_every_schedule(name: str) -> None:
    for mode, order in every_schedule():
        assert re.search(RACES[name][1], race_of(name, mode, order))


_LINES_HEAD = "  shared<i32> S = shared_buffer<i32>(0, 64);\n  const i32 t = thread_id();\n"
LINES = {
    "race": (
        "S[t] = 0;\n  barrier();\n  // mine.py:7\n  S[t] = 1;\n  // mine.py:9\n  Y[t] = S[63 - t];",
        r"thread \d+, at mine.py:[79]: .* at mine.py:[79], and",
    ),
    "divergent_collective": (
        "if (t % 32 < 9) {\n    // mine.py:4\n    Y[t] = shuffle(t, 0);\n  } else {\n    // mine.py:6\n    warp_sync();\n  }",
        r"at mine.py:[46]: divergent collective: .* wait at (shuffle at mine.py:4|warp_sync at mine.py:6)",
    ),
    "divergent_barrier": (
        "// mine.py:3\n  if (t % 2 == 0) {\n    // mine.py:4\n    barrier();\n  }\n  Y[t] = 1;",
        r"deadlock; thread 0: waits at barrier\(\), 32 of 64 threads came at mine.py:4; thread 1: finished",
    ),
    "crossed_barriers": (
        "if (t < 32) {\n    // mine.py:4\n    named_barrier<1, 64>();\n    named_barrier<2, 64>();\n  } else {\n"
        "    // mine.py:7\n    named_barrier<2, 64>();\n    named_barrier<1, 64>();\n  }\n  Y[t] = 1;",
        r"deadlock; threads 0 to 31: waits at named_barrier<1, 64>\(\), 32 threads came at mine.py:4; "
        r"threads 32 to 63: waits at named_barrier<2, 64>\(\), 32 threads came at mine.py:7$",
    ),
}  # fmt: skip
LINES_PROBES = Probes(
    {
        name: Probe(
            f"{_LINES_HEAD}  {text}\n",
            needs_of(_LINES_HEAD + text),
            {"Y": "i32"},
            threads=64,
            shared_bytes=256,
        )
        for name, (text, _) in LINES.items()
    }
)


@pytest.mark.parametrize("name", LINES)
def test_findings_name_the_lines_of_the_program(name: str) -> None:
    """A comment of the text that is a place is where each thread is from then on."""
    for mode, order in every_schedule():
        with pytest.raises(EmulatorError) as found:
            LINES_PROBES.run(name, {"Y": np.zeros(64, np.int32)}, mode, order)
        assert re.search(LINES[name][1], found.value.message), found.value.message


@pytest.mark.parametrize("name", UNRACED)
def test_what_is_ordered_is_no_race(name: str) -> None:
    assert {race_of(name, mode, order) for mode, order in every_schedule()} == {""}


def test_waves_of_64_lanes() -> None:
    body = "  Y[thread_id()] = shuffle(X[thread_id()], 63 - thread_id() % 64);\n  warp_sync();\n"
    probe = Probe(body, needs_of(body), {"X": "const i32", "Y": "i32"}, threads=128)
    library = build(render_source("cpu", [probe.frame("wave")], warp_size=64))
    x, y = np.arange(128, dtype=np.int32), np.zeros(128, np.int32)
    run(library, probe.launch("wave"), {"X": x, "Y": y})
    assert y.tolist() == [*range(63, -1, -1), *range(127, 63, -1)]


def test_a_launch_that_does_not_fit() -> None:
    spec = LaunchSpec(
        "assignments", (Argument("pointer", "X"), Argument("pointer", "Y")), (1, 1, 1), 64, 256
    )
    with pytest.raises(
        EmulatorError, match=r"has 32 threads, 256 bytes .* the launch, 64, 256 and 2"
    ):
        run(PROBES.library, spec, make_arguments("i32"))


def test_a_block_that_is_too_large() -> None:
    body = body_of("Y[t] = X[t];")
    pointers = {"X": "const f32", "Y": "f32"}
    probes = Probes({"large": Probe(body, needs_of(body), pointers, shared_bytes=300_000)})
    with pytest.raises(EmulatorError, match=r"300000 bytes .* the emulator has 1024 and 262144"):
        probes.run("large", make_arguments("f32"))


def test_scalars_of_every_type() -> None:
    body = "  if (thread_id() == 0) Y[0] = a + convert<f64>(b) + convert<f64>(c) + convert<f64>(d) + (e ? 0.5 : 0.25);\n"
    scalars = {"a": "f64", "b": "bf16", "c": "i64", "d": "u8", "e": "bool"}
    probe = Probe(body, (*needs_of(body), Need("bf16")), {"Y": "f64"}, scalars)
    y = np.zeros(1)
    values = {"a": 0.125, "b": 2.0, "c": 1 << 40, "d": 200, "e": 1}
    Probes({"scalars": probe}).run("scalars", {"Y": y, **values})
    assert y[0] == 0.125 + 2 + (1 << 40) + 200 + 0.5
