"""mixed: loads stand among products, each once, in their order, in the first half."""

from __future__ import annotations

import pytest

from tests.passes.matrix_steps import REGISTRY, unrolled
from tilec.ir.core import Block, Op
from tilec.ir.ops.control import Launch
from tilec.ir.ops.nvidia import LdMatrix, Mma
from tilec.parser.text import parse_program
from tilec.passes.mixed_products import mixed

LOOPS = """tilec.ir 1
program @trip(%A: global f16[1]) <level = thread> {{
  launch 1, 1, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {{
    %S = alloc <type = shared f16[65536]> : shared f16[65536]
    %a = alloc <type = local f16[512]> : local f16[512]
    %b = alloc <type = local f16[512]> : local f16[512]
    %acc = alloc <type = local f32[4096]> : local f32[4096]
    for 0, {columns}, 1 <unroll = 0> (%j: i32) {{
      %x = mul %j, 4 : i32
      %y = mul %j, 256 : i32
      ldmatrix %b, %x, %S[%y] <matrices = 2>
      yield
    }}
    for 0, {rows}, 1 <unroll = 0> (%i: i32) {{
      %z = mul %i, 8 : i32
      %w = mul %i, 512 : i32
      ldmatrix %a, %z, %S[%w] <matrices = 4>
      yield
    }}
{between}
    for 0, {rows}, 1 <unroll = 0> (%r: i32) {{
      for 0, {columns}, 1 <unroll = 0> (%c: i32) {{
        %p = mul %r, {columns} : i32
        %q = add %p, %c : i32
        %o = mul %q, 4 : i32
        %f = mul %r, 8 : i32
        %g = mul %c, 4 : i32
        mma %acc, %o, %a, %f, %b, %g <m = 16, n = 8, k = 16>
        yield
      }}
      yield
    }}
    yield
  }}
}}
"""


def trip(rows: int, columns: int, between: str = "") -> tuple[list[Op], list[Op]]:
    """The loads and the products of a trip."""
    text = LOOPS.format(rows=rows, columns=columns, between=between)
    (launch,) = parse_program(text, REGISTRY).body.ops
    assert isinstance(launch, Launch)
    ops = list(launch.body.ops[4:-1])
    return ops[:-1], ops[-1:]


def events(ops: list[Op]) -> list[tuple[str, int]]:
    """("a" or "b", first register) of loads, ("mma", accumulator) of products, as they are run."""
    found = []
    for op, known in unrolled(Block((), tuple(ops))):
        if isinstance(op, LdMatrix):
            found.append((op.registers.hint, known[op.offset]))
        elif isinstance(op, Mma):
            found.append(("mma", known[op.accumulator_offset]))
    return found


@pytest.mark.parametrize(
    ("rows", "columns"), [(4, 8), (1, 8), (8, 1), (2, 2), (2, 3), (3, 5), (1, 1), (5, 1)]
)
def test_every_load_and_product_once_in_their_order(rows: int, columns: int) -> None:
    load, multiply = trip(rows, columns)
    found = events(mixed(load, multiply))
    assert [e for e in found if e[0] != "mma"] == events(load)
    assert [e for e in found if e[0] == "mma"] == events(multiply)


def test_loads_stand_at_even_distances_in_the_first_half() -> None:
    """4 * 8 products and 12 loads: one before each of the first 12, which leaves 20."""
    found = [name for name, _ in events(mixed(*trip(4, 8)))]
    assert found == ["b", "mma"] * 8 + ["a", "mma"] * 4 + ["mma"] * 20
    found = [name for name, _ in events(mixed(*trip(8, 8)))]
    assert found == ["b", "mma", "mma"] * 8 + ["a", "mma", "mma"] * 8 + ["mma"] * 32


def test_of_more_loads_than_products_several_stand_before_each() -> None:
    assert [name for name, _ in events(mixed(*trip(1, 1)))] == ["b", "a", "mma"]
    found = [name for name, _ in events(mixed(*trip(1, 3)))]
    assert found == ["b", "b", "mma", "b", "a", "mma", "mma"]


def test_what_does_not_mix_stays_in_order() -> None:
    load, multiply = trip(4, 8, "barrier")
    after = mixed(load, multiply)
    assert len(after) == len(load) + 1 and all(
        x is y for x, y in zip(after, [*load, *multiply], strict=True)
    )
