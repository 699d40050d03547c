"""The checker of hazards: it takes what the pipeline makes, and refuses every seeded fault."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

import tilec
import tilec.language as T
from tests import modules
from tests.kernels.machines import TARGETS as MACHINES
from tests.kernels.test_gathers import experts, pages
from tests.passes.planning import specialised
from tests.passes.seeded_cluster_faults import CLUSTERS
from tests.passes.seeded_faults import FOLDER, LOWERED, PLANNED, Fault
from tests.passes.seeded_gather_faults import GATHERS
from tests.passes.test_multicast_loads import gemm as clustered
from tilec.errors import HazardError, IRError
from tilec.ir.core import Level, Program, walk
from tilec.ir.ops.control import Launch
from tilec.ir.verify import verify
from tilec.parser.text import parse_program
from tilec.passes.check_hazards import CHECKS, check_hazards, check_plan, checked_sizes
from tilec.passes.context import PassContext
from tilec.passes.hazards.cases import Bounds
from tilec.passes.hazards.slicing import Slice
from tilec.passes.pipeline import run_pipeline
from tilec.runtime.lowering import standard_registry
from tilec.target import TARGETS, find_target

REGISTRY = standard_registry()
SYNCHRONISES = re.compile(
    " *((cluster_)?barrier|warp_sync|fence|mbarrier_|bulk_|cp_async_(wait|commit|arrive)|buffer_copy_wait|commit|free"
    "|store %[0-9]+, %ring)"
)


def context(target: str) -> PassContext:
    return PassContext(find_target(target), REGISTRY)


def target_of(base: str) -> str:
    """The target that a file of faults/ was made for; sm_80 where its name tells none."""
    return next((name for name in TARGETS if base.endswith(name.split(":")[1])), "cuda:sm_80")


def read(text: str, name: str) -> Program:
    program = parse_program(text, REGISTRY, file=name)
    verify(program, REGISTRY)
    return program


def base(name: str) -> Program:
    return read((FOLDER / f"{name}.tir").read_text(encoding="utf-8"), name)


example = cache(modules.example)


def gemm(stages: int, **constants: int) -> Program:
    given = {"block_M": 128, "block_N": 128, "block_K": 64, "threads": 256, "stages": stages}
    program: Program = example("gemm").matmul.trace(given | constants)
    return program


def check_each_pass(program: Program, target: str) -> list[str]:
    """Runs the pipeline as far as there are checks, with one after each pass that has one."""
    checked = []

    def observe(name: str, before: Program, after: Program) -> None:
        if name in CHECKS:
            assert CHECKS[name](after, context(target)) is after
            checked.append(name)

    run_pipeline(program, context(target), after="alternate_waves", observers=[observe])
    return checked


# What must be accepted ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.tir")))
def test_programs_without_a_fault_pass(name: str) -> None:
    program = base(name)
    assert check_hazards(program, context(target_of(name))) is program


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stages", range(6))
def test_gemm_passes(stages: int, target: str) -> None:
    assert check_each_pass(gemm(stages), target) == list(CHECKS)


@pytest.mark.parametrize("target", TARGETS)
def test_dequantizing_gemm_passes(target: str) -> None:
    assert check_each_pass(example("dequantize_gemm").main.trace({}), target) == list(CHECKS)


@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize("kernel", [experts, pages], ids=["rows", "pages"])
def test_gathers_pass(kernel: Any, target: str) -> None:
    assert check_each_pass(specialised(kernel), target) == list(CHECKS)


@tilec.kernel
def counted(
    Q: T.Tensor(("S", 64), "float16"), K: T.Tensor(("n", 64), "float16"),
    C: T.Tensor(("S", 64), "float32"), count: T.int32,
):  # fmt: skip
    """Two products a trip, of which the second runs beside the next trip's first; trips by a number."""
    with T.Kernel(T.ceildiv(Q.shape[0], 64), threads=128) as by:
        Q_s, K_s, V_s = (T.alloc_shared((64, 64), "float16") for _ in range(3))
        scores = T.alloc_fragment((64, 64), "float32")
        halves = T.alloc_fragment((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.copy(Q[by * 64, 0], Q_s)
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(count, 64), num_stages=2):
            T.copy(K[k * 64, 0], K_s)
            T.gemm(Q_s, K_s, scores, transpose_B=True, clear_accum=True)
            T.copy(scores, halves)
            T.copy(K[k * 64, 0], V_s)
            T.gemm(halves, V_s, acc)
        T.copy(acc, C[by * 64, 0])


@pytest.mark.parametrize("target", MACHINES)
def test_trips_that_a_parameter_counts_pass(target: str) -> None:
    """A condition on the number and a loop of it go by the same number."""
    assert check_each_pass(counted.lower_to_ir(), target) == list(CHECKS)


@pytest.mark.parametrize("cluster", [(2, 1), (1, 2), (2, 2), (1, 8)])
def test_gemm_in_clusters_passes(cluster: tuple[int, int]) -> None:
    assert check_each_pass(specialised(clustered, cluster=cluster), "cuda:sm_90a") == list(CHECKS)


@pytest.mark.parametrize("threads", [128, 384])
def test_other_numbers_of_warpgroups_pass(threads: int) -> None:
    tile = {"block_M": 64 * threads // 128, "block_N": 64, "threads": threads}
    assert check_each_pass(gemm(3, **tile), "cuda:sm_90a") == list(CHECKS)


# What must be refused -----------------------------------------------------------------------------


FAULTS = PLANNED + LOWERED + CLUSTERS + GATHERS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.base}: {f.name}")
def test_fault_is_refused(fault: Fault) -> None:
    program = read(fault.text, fault.base)
    with pytest.raises(HazardError) as caught:
        check_hazards(program, context(target_of(fault.base)))
    assert caught.value.code in fault.codes.split()
    assert caught.value.loc.file == fault.base and caught.value.loc.known


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.tir")))
def test_every_synchronising_line_is_needed(name: str) -> None:
    """Each barrier, wait, commit, fence, arrival and step of a ring's place, removed by itself."""
    lines = (FOLDER / f"{name}.tir").read_text(encoding="utf-8").splitlines(keepends=True)
    needed = [number for number, line in enumerate(lines) if SYNCHRONISES.match(line)]
    assert needed
    for number in needed:
        program = read("".join(lines[:number] + lines[number + 1 :]), name)
        with pytest.raises(HazardError):
            check_hazards(program, context(target_of(name)))


def test_faults_are_seeded_at_both_levels_of_every_machine() -> None:
    for faults in (PLANNED, LOWERED):
        assert {target_of(fault.base) for fault in faults} >= set(MACHINES)
    names = [(fault.base, fault.name) for fault in PLANNED + LOWERED]
    assert len(set(names)) == len(names) >= 50


def test_error_says_who_what_and_when() -> None:
    fault = next(f for f in LOWERED if f.name == "no wait for room")
    with pytest.raises(HazardError) as caught:
        check_hazards(read(fault.text, fault.base), context("cuda:sm_90a"))
    assert "producer" in caught.value.message and "slot 0 of A_s" in caught.value.message
    assert "K = 193" in caught.value.hint  # four iterations, one more than there are slots


def test_deadlock_names_every_role_that_waits() -> None:
    fault = next(f for f in LOWERED if f.name == "a producer in the wrong phase")
    with pytest.raises(HazardError) as caught:
        check_hazards(read(fault.text, fault.base), context("cuda:sm_90a"))
    assert "consumer waits for full[0]" in caught.value.message
    assert "producer waits for empty[0]" in caught.value.message


def test_unsynchronised_program_is_refused_whatever_its_channels() -> None:
    """Without channels the check of plans has nothing to say, the other one has."""
    plain = run_pipeline(gemm(0), context("cuda:sm_80"), after="schedule_stages")
    assert check_plan(plain, context("cuda:sm_80")) is plain
    with pytest.raises(HazardError, match="before what copy"):
        check_hazards(plain, context("cuda:sm_80"))


def test_thread_level_is_not_checked_in_silence() -> None:
    plain = base("lowered_sm_80")
    threads = plain.with_body(plain.body, Level.THREAD)
    with pytest.raises(IRError, match="tile level"):
        check_hazards(threads, context("cuda:sm_80"))


# Roles that follow data ---------------------------------------------------------------------------

GUARD = """        %live = load %mask[%{index}] : i32
        %go = compare %live, 0 <predicate = "ne"> : bool
        if %go {{
{body}          yield
        }} {{
          yield
        }}
"""


def guarded(index: str, offset: int) -> Program:
    """lowered_writers with puts only where `mask[j + offset]`, and gets where `mask[k]`."""
    text = (FOLDER / "lowered_writers_sm_90a.tir").read_text(encoding="utf-8")
    text = text.replace("(%A: global", "(%mask: global i32[K], %A: global")
    lines, out, inside = text.splitlines(keepends=True), "", ""
    for line in lines:
        if line.startswith("        %slot_1 ="):
            inside = line
        elif inside and line == "        yield\n":
            shift = f"        %{index} = add %j, {offset} : i32\n"
            out += shift + GUARD.format(index=index, body=inside).replace("%go", "%go_1").replace(
                "%live", "%live_1"
            )
            out, inside = out + line, ""
        elif inside:
            inside += line
        else:
            out += line
    return read(_guard_reader(out), "guarded")


def _guard_reader(text: str) -> str:
    start = text.index("        %slot = floormod %k, 2")
    end = text.index("        yield %next\n")
    body = text[start:end]
    head = GUARD[: GUARD.index("        if")].format(index="k")
    arms = (
        "          yield %next\n        } {\n          yield %acc\n        } : tile f32[64, 64]\n"
    )
    branch = f"        %kept = if %go {{\n{body}{arms}"
    return (
        text[:start]
        + head
        + branch
        + "        yield %kept\n"
        + text[end + len("        yield %next\n") :]
    )


def test_roles_that_follow_the_same_data_pass() -> None:
    program = guarded("at", 0)
    assert check_hazards(program, context("cuda:sm_90a")) is program


def test_roles_that_follow_different_data_are_refused() -> None:
    with pytest.raises(HazardError):
        check_hazards(guarded("at", 1), context("cuda:sm_90a"))


# Trip counts --------------------------------------------------------------------------------------


def test_trip_counts_of_interest_are_met() -> None:
    program = base("lowered_sm_90a")
    (sizes,) = checked_sizes(program).values()
    part = Slice(program.body)
    (launch,) = (op for op in walk(program.body) if isinstance(op, Launch))
    bounds = Bounds(program, launch, part)
    tiles, inner = (
        [loop for loop in part.loops if loop.body.params[0].hint == n] for n in ("tile", "k")
    )
    met = {(bounds.trips(tiles[0], s), bounds.trips(inner[0], s)) for s in sizes}
    every = {(t, k) for t in (1, 3) for k in (0, 1, 2, 3, 4, 7)}
    assert met == every | {(2, 0), (2, 1), (2, 4), (4, 1)}


def test_number_of_blocks_is_an_input_where_the_grid_is_constant() -> None:
    program = example("dequantize_gemm").main.trace({})
    lowered = run_pipeline(program, context("cuda:sm_90a"), after="place_barriers")
    (sizes,) = checked_sizes(lowered).values()
    assert len(sizes) >= 1 and all(s["clusters", ""] >= 1 for s in sizes)


@pytest.mark.parametrize("edits", [(), ("<pending = 1>", "<pending = 2>")])
def test_loops_that_run_as_often_as_data_says(edits: tuple[str, ...]) -> None:
    """A count from an array takes all counts of interest too: some fault shows at each of them."""
    text = (FOLDER / "plan_sm_90a.tir").read_text(encoding="utf-8")
    text = text.replace("(%A: global", "(%counts: global i32[M], %A: global")
    text = text.replace("%16 = floordiv %15, 64 : i32", "%16 = load %counts[%by_1] : i32")
    text = re.sub(r"%(\d+) = floordiv %(\d+), 64 : i32", r"%\1 = load %counts[%by_2] : i32", text)
    text = text.replace(*edits) if edits else text
    program = read(text, "counted")
    if not edits:
        assert check_hazards(program, context("cuda:sm_90a")) is program
        return
    with pytest.raises(HazardError) as caught:
        check_hazards(program, context("cuda:sm_90a"))
    assert caught.value.code == "TLC0352" and "arrays of 2" in caught.value.hint


def test_counts_that_no_argument_gives_are_left_out() -> None:
    text = (FOLDER / "lowered_sm_80.tir").read_text(encoding="utf-8")
    program = read(text.replace("%4 = add %K, 31", "%4 = add 128, 31"), "constant")
    (sizes,) = checked_sizes(program).values()
    assert len(sizes) == 1
