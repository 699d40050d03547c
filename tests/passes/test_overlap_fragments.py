"""overlap_fragments: matrix instructions run one trip behind their loads, where that is right."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.passes.matrix_steps import REGISTRY, Steps, run, steps_loop, unrolled
from tilec.ir.core import Program, Value, walk
from tilec.ir.ops.control import Launch
from tilec.ir.ops.nvidia import LdMatrix, Mma
from tilec.passes.context import PassContext
from tilec.passes.overlap_fragments import overlap_fragments
from tilec.passes.spread_copies import spread_copies
from tilec.target import find_target


def buffers(program: Program) -> list[tuple[str, str, int]]:
    """(instruction, array, first register) of the fragment loads and products of one step."""
    found = []
    for op, known in unrolled(steps_loop(program).body):
        if isinstance(op, LdMatrix):
            found.append(("load", op.registers.hint, known[op.offset]))
        elif isinstance(op, Mma):
            found.append(("mma", op.a.hint, known[op.a_offset]))
            found.append(("mma", op.b.hint, known[op.b_offset]))
    return found


def test_products_use_what_the_trip_before_loaded() -> None:
    steps = Steps()
    after = run(overlap_fragments, steps.program())
    loaded: dict[str, int] = {"a_frag": 8, "b_frag": 4}  # the last trip of the step before
    loads = 0
    for instruction, array, register in buffers(after):
        if instruction == "mma":
            assert register == before[array]
        elif array == "a_frag":
            before = dict(loaded)
        if instruction == "load":
            assert register != before[array], "a buffer is loaded before its product"
            loaded[array], loads = register, loads + 1
    assert loads == 8 and loaded == {"a_frag": 8, "b_frag": 4}
    steps.check(after)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("trips", [2, 4, 6])
def test_the_products_are_the_same(trips: int, steps: int) -> None:
    case = Steps(trips, steps)
    program = case.program()
    case.check(program)
    case.check(run(overlap_fragments, program))
    case.check(run(overlap_fragments, run(spread_copies, program)))


def test_the_last_products_follow_the_loop() -> None:
    after = run(overlap_fragments, Steps().program())
    launch = after.body.ops[0]
    assert isinstance(launch, Launch)
    products = [op for op in launch.body.ops if isinstance(op, Mma)]
    known = dict(unrolled(launch.body))[products[0]]
    assert len(products) == 1
    assert (known[products[0].a_offset], known[products[0].b_offset]) == (8, 4)


@pytest.mark.parametrize("filled", ["0.0", "-0.0"])
@pytest.mark.parametrize("first", [0, 3])
def test_accumulators_keep_their_sign_where_no_step_runs(first: int, filled: str) -> None:
    case = Steps()
    fill, loop = "fill_registers %acc, 0, ", "for 0, $steps, 1 (%k"
    changes = {fill + "0.0": fill + filled, loop: loop.replace("0", f"{first}", 1)}
    program = case.program(changes)
    expected, _ = case.products(program)
    result, _ = case.products(run(overlap_fragments, program))
    assert result.tobytes() == expected.tobytes()


BY_MATRICES = "        ldmatrix %b_frag, 0, %B_s[%f2] <matrices = 2>\n"
BY_ELEMENTS = """        %g0 = floordiv %t, 4 : i32
        %g1 = mul %g0, $depth : i32
        %g2 = floormod %t, 4 : i32
        %g3 = mul %g2, 2 : i32
        %g4 = add %g1, %g3 : i32
        %g5 = add %g4, %b0 : i32
        %g6 = add %g5, %f0 : i32
        %g7 = add %g6, 8 : i32
        vector_load %b_frag, 0, %B_s[%g6], [] <count = 2>
        vector_load %b_frag, 2, %B_s[%g7], [] <count = 2>
"""


def test_loads_of_elements_are_fragment_loads() -> None:
    """Where ldmatrix does not serve: f64, tf32 with k apart. They take some more registers."""
    case = Steps()
    program = case.program({BY_MATRICES: BY_ELEMENTS})
    case.check(program)
    after = run(overlap_fragments, program)
    assert after.body is not program.body
    case.check(after)
    under = BY_ELEMENTS.replace("%B_s[%g7], []", "%B_s[%g7], [%all]")
    program = case.program({BY_MATRICES: under})
    assert run(overlap_fragments, program).body is program.body, "what is not loaded is zero"
    target = dataclasses.replace(find_target("cuda:sm_80"), max_registers=87)
    program = case.program({BY_MATRICES: BY_ELEMENTS})
    assert overlap_fragments(program, PassContext(target, REGISTRY)).body is program.body


MMA = "        mma %acc"
STAYING: dict[str, dict[str, str]] = {
    "no barrier": {"      barrier\n": ""},
    "the accumulator is used in the step": {
        "%full = ": "fill_registers %acc, 0, 0.0 <count = 4>\n      %full = "
    },
    "the fragment is used elsewhere": {
        MMA: "        undefined_registers %a_frag, 0 <count = 2>\n" + MMA
    },
    "part of a fragment stays from trip to trip": {
        "%A_s[%f1] <matrices = 4>": "%A_s[%f1] <matrices = 2>"
    },
    "a fragment is loaded in some trips": {
        "        ldmatrix %b_frag, 0, %B_s[%f2] <matrices = 2>\n": "        if %all {\n"
        "        ldmatrix %b_frag, 0, %B_s[%f2] <matrices = 2>\n        yield } { yield }\n"
    },
    "a fragment lives longer than a step": {
        "      %b_frag = alloc <type = local f16[4]> : local f16[4]\n": "",
        "    %row16": "    %b_frag = alloc <type = local f16[4]> : local f16[4]\n    %row16",
    },
    "the loop is not unrolled": {"<unroll = 0> (%kk: i32)": "<unroll = 4> (%kk: i32)"},
    "the product needs the step's number": {
        MMA: "        %z0 = mul %k, 0 : i32\n        %z1 = add %z0, %kk : i32\n"
        "        %z2 = compare %z1, 9 <predicate = \"lt\"> : bool\n        if %z2 {\n" + MMA,
        "<m = 16, n = 8, k = 16>\n": "<m = 16, n = 8, k = 16>\n        yield } { yield }\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("change", STAYING.values(), ids=STAYING.keys())
def test_what_must_stay_stays(change: dict[str, str]) -> None:
    program = Steps().program(change)
    assert run(overlap_fragments, program).body is program.body


def test_odd_trips_stay() -> None:
    program = Steps(trips=3).program()
    assert run(overlap_fragments, program).body is program.body


@pytest.mark.parametrize(("registers", "overlapped"), [(71, False), (72, True)])
def test_registers_decide(registers: int, overlapped: bool) -> None:
    """4 accumulators, 2 * (4 + 2) words of fragments, 56 for addresses: 72."""
    target = dataclasses.replace(find_target("cuda:sm_80"), max_registers=registers)
    program = Steps().program()
    after = overlap_fragments(program, PassContext(target, REGISTRY))
    assert (after.body is not program.body) == overlapped


def test_arrays_grow_and_nothing_else() -> None:
    """As many products and loads stand in the program as before, but for the last trip's."""

    def counts(program: Program) -> dict[str, Any]:
        ops = list(walk(program.body))
        arrays: dict[str, Value] = {
            op.registers.hint: op.registers for op in ops if isinstance(op, LdMatrix)
        }
        return {
            "loads": sum(isinstance(op, LdMatrix) for op in ops),
            "products": sum(isinstance(op, Mma) for op in ops),
            "shapes": {name: value.type.shape for name, value in arrays.items()},  # type: ignore[attr-defined]
        }  # fmt: skip

    before, after = Steps().program(), run(overlap_fragments, Steps().program())
    assert counts(before) == {"loads": 2, "products": 1, "shapes": {"a_frag": (8,), "b_frag": (4,)}}
    assert counts(after) == {"loads": 2, "products": 2, "shapes": {"a_frag": (16,), "b_frag": (8,)}}
