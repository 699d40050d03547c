"""interleave_reads: which matrix loops are given an order, and that it has every instruction once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.kernels.instructions import count_instructions
from tests.passes import planned_kernels as kernels
from tests.passes.planning import specialised
from tilec.ir.core import Block, Level, Program, walk
from tilec.ir.ops.amd import Mfma, ScheduleGroup, SetPriority
from tilec.ir.ops.control import For
from tilec.ir.ops.thread import VectorLoad
from tilec.parser.text import parse_program
from tilec.passes.context import PassContext
from tilec.passes.interleave_reads import interleave_reads
from tilec.passes.pipeline import run_pipeline
from tilec.passes.spread_copies import holds, unrolled_trips
from tilec.runtime.lowering import standard_registry
from tilec.target import TARGETS, find_target

REGISTRY = standard_registry()
AMD = tuple(name for name in TARGETS if name.startswith("hip"))


def context(target: str) -> PassContext:
    return PassContext(find_target(target), REGISTRY)


def lowered(target: str, **constants: Any) -> Program:
    program = specialised(kernels.gemm_nt, **constants)
    return run_pipeline(program, context(target), after="interleave_reads")


def scheduled(program: Program) -> Counter[str]:
    """How many instructions of each kind are in groups: their counts, times the trips of the loops
    around them."""
    found: Counter[str] = Counter()

    def block(ops: Any, times: int) -> None:
        for op in ops:
            if isinstance(op, ScheduleGroup):
                found[op.kind] += op.count * times
            trips = int(op.stop.value) if isinstance(op, For) and op.unroll == 0 else 1  # type: ignore[attr-defined]
            for region in op.regions:
                block(region.ops, times * trips)

    block(program.body.ops, 1)
    return found


@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize(
    "constants",
    [
        {"bm": 128, "bn": 128, "bk": 64, "threads": 256}, {"bm": 64, "bn": 64, "bk": 64},
        {"bm": 64, "bn": 32, "bk": 64, "threads": 64}, {"bm": 32, "bn": 160, "bk": 96, "threads": 64},
    ],
    ids=str,
)  # fmt: skip
def test_every_instruction_is_in_one_group(target: str, constants: dict[str, int]) -> None:
    program = lowered(target, **constants)
    (loop,) = (
        op
        for op in walk(program.body)
        if unrolled_trips(op)
        and any(isinstance(o, VectorLoad) for o in op.walk())
        and holds(op, Mfma)
    )
    total = count_instructions(program.with_body(Block((), (loop,))))
    expected = {"matrices": total["mfma"], "reads": total["load_shared_16"]}
    assert scheduled(program) == expected | (
        {"loads": total["buffer_load"]} if total["buffer_load"] else {}
    )
    if constants["bm"] == 128:  # two slots, so that nothing stands between loads and products
        assert (total["buffer_load"] > 0) == (target != "hip:gfx950")
    assert [op.priority for op in walk(program.body) if isinstance(op, SetPriority)] == [1, 0]


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a"])
def test_other_compilers_are_told_nothing(target: str) -> None:
    program = lowered(target)
    assert not [op for op in walk(program.body) if isinstance(op, (ScheduleGroup, SetPriority))]


LOOP = """tilec.ir 1
program @p(%A: global f16[*]) <level = thread> {
  launch 1, 1, 1 <threads = 64, symbol = "p", launched_threads = 64> (%bx: i32, %by: i32, %bz: i32) {
    %s = alloc <type = shared f16[4096]> : shared f16[4096]
    %a = alloc <type = local f16[64]> : local f16[64]
    %acc = alloc <type = local f32[64]> : local f32[64]
    %p = compare %bx, 1 <predicate = "lt"> : bool
    for 0, $steps, 1 <unroll = $unroll> (%kk: i32) {
      for 0, $reads, 1 <unroll = 0> (%i: i32) {
        %at = mul %i, 8 : i32
        $read
        yield
      }
      for 0, $matrices, 1 <unroll = 0> (%j: i32) {
        mfma %acc, 0, %a, 0, %a, 0 <m = 32, n = 32, k = 8>
        yield
      }
      yield
    }
    yield
  }
}
"""
READ = "vector_load %a, 0, %s[%at], [] <count = 8>"


def ordered(
    steps: int = 4, reads: int = 6, matrices: int = 8, read: str = READ, unroll: int = 0
) -> list[tuple[str, int]]:
    text = LOOP
    for name, value in {
        "steps": steps, "reads": reads, "matrices": matrices, "read": read, "unroll": unroll
    }.items():  # fmt: skip
        text = text.replace(f"${name}", str(value))
    program = parse_program(text, REGISTRY, file="loop")
    assert program.level is Level.THREAD and [o for o in walk(program.body) if isinstance(o, Mfma)]
    after = interleave_reads(program, context("hip:gfx942"))
    return [(op.kind, op.count) for op in walk(after.body) if isinstance(op, ScheduleGroup)]


M, R = "matrices", "reads"


@pytest.mark.parametrize(
    ("reads", "matrices", "groups"),
    [
        (6, 8, [(R, 6), (M, 1), (R, 1), (M, 2), (M, 8)]),
        (8, 8, [(R, 8), (M, 1), (R, 1), (M, 8)]),
        (7, 4, [(R, 7), (M, 1), (R, 2), (M, 1), (R, 1), (M, 4)]),
        (12, 2, [(R, 12), (M, 1), (R, 6), (M, 2)]),
    ],
)
def test_reads_stand_early(reads: int, matrices: int, groups: list[tuple[str, int]]) -> None:
    assert ordered(reads=reads, matrices=matrices) == groups


def test_transposing_reads_count() -> None:
    assert ordered(read="load_transposed %a, 0, %s[%at]")[0] == (R, 6)


def test_where_no_order_is_known() -> None:
    assert ordered(steps=1) == []
    assert ordered(read="vector_load %a, 0, %s[%at], [] <count = 4>") == []
    assert ordered(read="%x = load %s[%at] : f16\n        store %x, %a[0]") == []
    assert ordered(unroll=1) == []
    within = (
        "if %p {\n          " + READ + "\n          yield\n        } {\n          yield\n        }"
    )
    assert ordered(read=within) == []
