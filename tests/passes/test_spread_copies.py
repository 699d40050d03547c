"""spread_copies: each trip of a matrix loop gets its share, and nothing moves that must not."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.passes.matrix_steps import Steps, run, steps_loop, unrolled
from tilec.ir.core import Program, walk
from tilec.ir.ops.amd import BufferCopy, BufferLoad
from tilec.ir.ops.control import For
from tilec.ir.ops.nvidia import CpAsync
from tilec.parser.text import parse_program
from tilec.passes.context import PassContext
from tilec.passes.overlap_fragments import overlap_fragments
from tilec.passes.spread_copies import spread_copies
from tilec.runtime.lowering import standard_registry
from tilec.target import find_target


def order(program: Program) -> list[str]:
    """One step, a letter an instruction: Copy, Load fragment, Multiply, commit (;), wait, barrier."""
    letters = {
        "cp_async": "C", "ldmatrix": "L", "mma": "M", "cp_async_commit": ";", "cp_async_wait": "w",
        "barrier": "b",
    }  # fmt: skip
    ops = unrolled(steps_loop(program).body)
    return "".join(letters.get(op.name, "") for op, _ in ops).replace("M", "M ").split()


def test_every_trip_gets_its_share() -> None:
    steps = Steps(pending=1)
    assert order(steps.program())[0] == "wbCCCCCC;LLM"
    after = run(spread_copies, steps.program())
    # 4 copies of A and 2 of B over all trips but the first: 2 in each, behind its products
    assert order(after) == ["wbLLM", "LLM", "CCLLM", "CCLLM", "CC;"]
    steps.check(after)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (Steps(padding=1, pending=1), ["wbLLM", "LLM", "CCCLLM", "CCCLLM", "C;"]),
        (Steps(padding=5, pending=1), ["wbLLM", "LLM", "CCCCLLM", "CCCCLLM", "CCC;"]),
        (Steps(trips=3, pending=1), ["wbLLM", "LLM", "CCCLLM", "CC;"]),
        (Steps(trips=2, pending=1), ["wbLLM", "LLM", "CCC;"]),
        # the wait at the top of the next step is for these copies: the first half of the trips
        (Steps(), ["wbLLM", "CCCLLM", "CCCLLM", "LLM", ";"]),
        (Steps(padding=5), ["wbLLM", "CCCCCCLLM", "CCCCCLLM", "LLM", ";"]),
        (Steps(trips=2), ["wbLLM", "CCCLLM", ";"]),
    ],
)
def test_shares_that_are_not_even(steps: Steps, expected: list[str]) -> None:
    program = steps.program()
    copies = steps.copies + steps.copies_of_b
    after = run(spread_copies, program)
    assert "".join(expected).count("C") == copies
    assert order(after) == expected
    steps.check(program)
    steps.check(after)
    steps.check(run(overlap_fragments, after))


def test_copies_keep_their_condition() -> None:
    program = run(spread_copies, Steps(pending=1).program())
    (more,) = (op.result for op in steps_loop(program).body.ops if op.name == "compare")
    copies = [op for op in walk(steps_loop(program).body) if isinstance(op, CpAsync)]
    assert [op.enabled for op in copies] == [(more,), (more,)]
    assert all(len(op.predicate) == 1 for op in copies)


def test_copies_without_a_condition() -> None:
    text = {"if %more {": "", "        yield\n      } {\n        yield\n      }\n": ""}
    program = run(spread_copies, Steps(pending=1).program(text))
    assert order(program) == ["wbLLM", "LLM", "CCLLM", "CCLLM", "CC;"]
    copies = [op for op in walk(steps_loop(program).body) if isinstance(op, CpAsync)]
    assert [op.enabled for op in copies] == [(), ()]


COMMIT = "      cp_async_commit\n      %full"
STAYING = {
    "a wait": {COMMIT: COMMIT.replace("%full", "cp_async_wait <pending = 1>\n      %full")},
    "a barrier": {COMMIT: COMMIT.replace("%full", "barrier\n      %full")},
    "a store of the loop": {
        "        mma": "        vector_store %A_s[%f1], %a_frag, 0, [] <count = 8>\n        mma"
    },
    "a store beside the copies": {
        "        %from_a": "        vector_store %A_s[%start], %acc16, 0, [] <count = 8>\n        %from_a",
        "    fill_registers": "    %acc16 = alloc <type = local f16[8]> : local f16[8]\n    fill_registers",
    },
    "a division that may fail": {"floormod %next, 2": "floormod %next, %k"},
    "a loop that is not unrolled": {"<unroll = 0> (%kk: i32)": "<unroll = 4> (%kk: i32)"},
    "copies in a rolled loop": {"<unroll = 0> (%i: i32)": "<unroll = 4> (%i: i32)"},
}


@pytest.mark.parametrize("change", STAYING.values(), ids=STAYING.keys())
def test_what_must_stay_stays(change: dict[str, str]) -> None:
    program = Steps(pending=1).program(change)
    assert run(spread_copies, program).body is program.body


BUFFERS = """tilec.ir 1
program @p(%A: global f16[*]) <level = thread> {
  launch 1, 1, 1 <threads = 64, symbol = "p", launched_threads = 64> (%bx: i32, %by: i32, %bz: i32) {
    %s = alloc <type = shared f16[8192]> : shared f16[8192]
    %a = alloc <type = local f16[64]> : local f16[64]
    %acc = alloc <type = local f32[64]> : local f32[64]
    %view = make_buffer %A, 8192 : global f16[*]
    for 0, 4, 1 (%step: i32) {
      buffer_copy_wait <pending = $pending>
      barrier
      for 0, 6, 1 <unroll = 0> (%i: i32) {
        %at = mul %i, 512 : i32
        %p = compare %step, 3 <predicate = "lt"> : bool
        buffer_copy %s[%at], %view[%at], %p <count = 8>
        yield
      }
      for 0, 4, 1 <unroll = 0> (%kk: i32) {
        vector_load %a, 0, %s[%kk], [] <count = 1>
        mfma %acc, 0, %a, 0, %a, 0 <m = 32, n = 32, k = 8>
        yield
      }
      yield
    }
    yield
  }
}
"""


@pytest.mark.parametrize(
    ("pending", "shares"),
    [
        (
            6,
            [0, 2, 2, 2],
        ),  # the next step waits for an earlier one's copies: all trips but the first
        (0, [3, 3, 0, 0]),  # for these: the first half of the trips
    ],
)
def test_copies_without_groups_stand_before_their_loop(pending: int, shares: list[int]) -> None:
    """gfx950's: in every trip its share, each place and predicate as before."""
    text = BUFFERS.replace("$pending", str(pending))
    program = parse_program(text, standard_registry(), file="buffers")
    after = spread_copies(program, PassContext(find_target("hip:gfx950"), standard_registry()))
    (step,) = (op for op in walk(after.body) if isinstance(op, For) and op.unroll == 1)
    (loop,) = (op for op in step.body.ops if isinstance(op, For))
    found: list[list[int]] = []
    for number in range(4):
        counted: Counter[str] = Counter()
        places: list[int] = []
        for op, known in unrolled(loop.body, {loop.body.params[0]: number}):
            counted[op.name] += 1
            if isinstance(op, BufferCopy):
                places.append(int(known[op.destination_indices[0]]))
        assert counted["mfma"] == 1
        found.append(places)
    assert [len(places) for places in found] == shares
    assert [place for places in found for place in places] == [512 * i for i in range(6)]


LOADS = BUFFERS.replace("buffer_copy_wait <pending = $pending>", "").replace(
    "buffer_copy %s[%at], %view[%at], %p", "buffer_load $registers, %at, %view[%at], %p"
).replace("    %view", "    %later = alloc <type = local f16[4096]> : local f16[4096]\n    %view")  # fmt: skip


@pytest.mark.parametrize(("registers", "moves"), [("%later", True), ("%a", False)])
def test_loads_into_registers_that_the_loop_does_not_touch(registers: str, moves: bool) -> None:
    """They stand in the first half of the trips, for the next step stores them; others stay."""
    text = LOADS.replace("$registers", registers)
    program = parse_program(text, standard_registry(), file="loads")
    after = spread_copies(program, PassContext(find_target("hip:gfx942"), standard_registry()))
    if not moves:
        assert after.body is program.body
        return
    (loop,) = (op for op in walk(after.body) if isinstance(op, For) and op.unroll == 1)
    loads = [
        isinstance(op, BufferLoad)
        for op, _ in unrolled(loop.body)
        if op.name in ("buffer_load", "mfma")
    ]
    assert loads == [False, *[True] * 3, False, *[True] * 3, False, False]
