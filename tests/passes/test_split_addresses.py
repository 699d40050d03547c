"""split_addresses: the threads' part of an index apart from the rest, their sum the same."""

from __future__ import annotations

import pytest

from tests.passes.matrix_steps import REGISTRY, Steps, run
from tilec.errors import TypeMismatch
from tilec.ir.core import Program, constant, walk
from tilec.ir.dtypes import f16, i32
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.nvidia import LdMatrix
from tilec.ir.print import print_program
from tilec.ir.types import MemoryType, Space
from tilec.parser.text import parse_program
from tilec.passes.split_addresses import split_addresses
from tilec.passes.uniformity import differing


def loads(program: Program) -> list[LdMatrix]:
    return [op for op in walk(program.body) if isinstance(op, LdMatrix)]


@pytest.mark.parametrize("trips", [2, 3])
def test_the_program_is_the_same(trips: int) -> None:
    case = Steps(trips=trips)
    case.check(run(split_addresses, case.program()))


def test_the_parts_are_of_threads_and_of_none() -> None:
    after = run(split_addresses, Steps().program())
    (launch,) = after.body.ops
    differ = differing(launch.regions[0])
    for op in loads(after):
        assert set(op.lane) <= differ and len(op.lane) == 1
        assert differ.isdisjoint(op.indices)


def test_a_second_time_changes_nothing() -> None:
    after = run(split_addresses, Steps().program())
    assert run(split_addresses, after).body is after.body


ONE_PART = {
    "no thread in it": {"%f1 = add %f0, %a4": "%f1 = add %f0, 0", "%B_s[%f2]": "%B_s[%f0]"},
    "a constant beside": {"%f1 = add %f0, %a4": "%f1 = add %a1, 8", "%B_s[%f2]": "%B_s[%b1]"},
}


@pytest.mark.parametrize("change", ONE_PART.values(), ids=ONE_PART.keys())
def test_an_index_of_one_part_stays(change: dict[str, str]) -> None:
    program = Steps().program(change)
    assert run(split_addresses, program).body is program.body


def test_the_text_is_read_again() -> None:
    after = run(split_addresses, Steps().program())
    text = print_program(after)
    assert text.count("], [%") >= 2
    assert print_program(parse_program(text, REGISTRY)) == text


def test_memory_of_two_dimensions_has_no_part_of_lanes() -> None:
    registers = Alloc(type=MemoryType(f16, (8,), Space.LOCAL)).result
    memory = Alloc(type=MemoryType(f16, (8, 64), Space.SHARED)).result
    zero = constant(0, i32)
    LdMatrix(registers, zero, memory, (zero, zero), matrices=4)
    with pytest.raises(TypeMismatch, match="flat memory"):
        LdMatrix(registers, zero, memory, (zero, zero), matrices=4, lane=(zero,))
