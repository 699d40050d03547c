"""A loop of steps at thread level, one warp: wait, barrier, copies for the next step, matrix
instructions on this one's; texts with a piece replaced, run, and unrolled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.passes.thread_machine import Machine
from tilec.ir.core import Block, Constant, Op, Program, Value
from tilec.ir.ops import arith, builtin_registry
from tilec.ir.ops.control import For, If
from tilec.ir.verify import verify
from tilec.parser.text import parse_program
from tilec.passes.context import PassContext
from tilec.target import find_target

REGISTRY = builtin_registry()

TEXT = """tilec.ir 1
program @steps(%A: global f16[$A], %B: global f16[$B], %C: global f32[128]) <level = thread> {
  launch 1, 1, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {
    %t = thread_id : i32
    %A_s = alloc <type = shared f16[2 * $a]> : shared f16[2 * $a]
    %B_s = alloc <type = shared f16[2 * $b]> : shared f16[2 * $b]
    %acc = alloc <type = local f32[4]> : local f32[4]
    fill_registers %acc, 0, 0.0 <count = 4>
    %row16 = floormod %t, 16 : i32
    %half = floordiv %t, 16 : i32
    %row8 = floormod %t, 8 : i32
    %eighth = floordiv %t, 8 : i32
    %second = floormod %eighth, 2 : i32
    %start = mul %t, 8 : i32
    %all = compare %t, 0 <predicate = "ge"> : bool
    for 0, $copies, 1 <unroll = 0> (%i0: i32) {
      %c0 = mul %i0, 256 : i32
      %c1 = add %c0, %start : i32
      cp_async %A_s[%c1], %A[%c1], [%all] <size = 16>
      yield
    }
    for 0, $half_copies, 1 <unroll = 0> (%i1: i32) {
      %c2 = mul %i1, 256 : i32
      %c3 = add %c2, %start : i32
      cp_async %B_s[%c3], %B[%c3], [%all] <size = 16>
      yield
    }
    cp_async_commit
    for 0, $steps, 1 (%k: i32) {
      cp_async_wait <pending = $pending>
      barrier
      %next = add %k, 1 : i32
      %more = compare %next, $steps <predicate = "lt"> : bool
      if %more {
        %slot = floormod %next, 2 : i32
        %from_a = mul %next, $a : i32
        %to_a = mul %slot, $a : i32
        %from_b = mul %next, $b : i32
        %to_b = mul %slot, $b : i32
        for 0, $copies, 1 <unroll = 0> (%i: i32) {
          %d0 = mul %i, 256 : i32
          %d1 = add %d0, %start : i32
          %d2 = add %d1, %to_a : i32
          %d3 = add %d1, %from_a : i32
          cp_async %A_s[%d2], %A[%d3], [%all] <size = 16>
          yield
        }
        for 0, $half_copies, 1 <unroll = 0> (%j: i32) {
          %e0 = mul %j, 256 : i32
          %e1 = add %e0, %start : i32
          %e2 = add %e1, %to_b : i32
          %e3 = add %e1, %from_b : i32
          cp_async %B_s[%e2], %B[%e3], [] <size = 16>
          yield
        }
        yield
      } {
        yield
      }
      cp_async_commit
      %full = floormod %k, 2 : i32
      %a0 = mul %full, $a : i32
      %b0 = mul %full, $b : i32
      %a_frag = alloc <type = local f16[8]> : local f16[8]
      %b_frag = alloc <type = local f16[4]> : local f16[4]
      %a1 = mul %row16, $depth : i32
      %a2 = mul %half, 8 : i32
      %a3 = add %a1, %a2 : i32
      %a4 = add %a3, %a0 : i32
      %b1 = mul %row8, $depth : i32
      %b2 = mul %second, 8 : i32
      %b3 = add %b1, %b2 : i32
      %b4 = add %b3, %b0 : i32
      for 0, $trips, 1 <unroll = 0> (%kk: i32) {
        %f0 = mul %kk, 16 : i32
        %f1 = add %f0, %a4 : i32
        %f2 = add %f0, %b4 : i32
        ldmatrix %a_frag, 0, %A_s[%f1] <matrices = 4>
        ldmatrix %b_frag, 0, %B_s[%f2] <matrices = 2>
        mma %acc, 0, %a_frag, 0, %b_frag, 0 <m = 16, n = 8, k = 16>
        yield
      }
      yield
    }
    %row = floordiv %t, 4 : i32
    %pair = floormod %t, 4 : i32
    %o0 = mul %row, 8 : i32
    %o1 = mul %pair, 2 : i32
    %o2 = add %o0, %o1 : i32
    %o3 = add %o2, 64 : i32
    vector_store %C[%o2], %acc, 0, [] <count = 2>
    vector_store %C[%o3], %acc, 2, [] <count = 2>
    yield
  }
}
"""


@dataclass(frozen=True)
class Steps:
    """`steps` products of 16 x 16 `trips` by 8 x 16 `trips`, `padding` further copies for A."""

    trips: int = 4
    steps: int = 3
    padding: int = 0
    pending: int = 0

    @property
    def copies(self) -> int:
        return self.trips + self.padding

    @property
    def copies_of_b(self) -> int:
        return -(-self.trips // 2)

    def program(self, changes: Mapping[str, str] | None = None) -> Program:
        """The program; `changes` replaces pieces of its text, each of which stands there once."""
        text = TEXT
        for old, new in (changes or {}).items():
            assert text.count(old) == 1, f"{text.count(old)} of {old!r}"
            text = text.replace(old, new)
        a, b = self.copies * 256, self.copies_of_b * 256
        numbers = {
            "2 * $a": 2 * a, "2 * $b": 2 * b, "$A": a * self.steps, "$B": b * self.steps, "$a": a, "$b": b,
            "$copies": self.copies, "$half_copies": self.copies_of_b, "$steps": self.steps,
            "$pending": self.pending, "$depth": 16 * self.trips, "$trips": self.trips,
        }  # fmt: skip
        for name in sorted(numbers, key=len, reverse=True):
            text = text.replace(name, str(numbers[name]))
        program = parse_program(text, REGISTRY)
        verify(program, REGISTRY)
        return program

    def check(self, program: Program) -> None:
        """Runs it on random small numbers, whose product is exact."""
        result, exact = self.products(program)
        assert np.array_equal(result, exact)

    def products(self, program: Program) -> tuple[np.ndarray, np.ndarray]:
        """What it makes of random small numbers, and their product."""
        random = np.random.default_rng(self.trips)
        a = random.integers(-4, 5, (self.steps, self.copies * 256)).astype(np.float16)
        b = random.integers(-4, 5, (self.steps, self.copies_of_b * 256)).astype(np.float16)
        c = np.full(128, np.nan, np.float32)
        Machine(program, {"A": a, "B": b, "C": c}, {}).run()
        rows = a[:, : self.trips * 256].reshape(self.steps, 16, -1).astype(np.float32)
        columns = b[:, : self.trips * 128].reshape(self.steps, 8, -1).astype(np.float32)
        return c.reshape(16, 8), np.einsum("smk,snk->mn", rows, columns)


def run(pass_: Any, program: Program, target: str = "cuda:sm_80") -> Program:
    """The program after a pass, verified."""
    after: Program = pass_(program, PassContext(find_target(target), REGISTRY))
    verify(after, REGISTRY)
    return after


def steps_loop(program: Program) -> For:
    """The loop of steps: the only one of the launch that is not unrolled."""
    (launch,) = program.body.ops
    (loop,) = (op for op in launch.regions[0].ops if isinstance(op, For) and op.unroll == 1)
    return loop


def unrolled(block: Block, known: Mapping[Value, int] | None = None) -> Iterator[tuple[Op, Any]]:
    """The ops of a block with effects, its unrolled loops run and conditions decided where they are
    known; each with what is known there.
    """
    env = dict(known or {})

    def number(value: Value) -> Any:
        return value.value if isinstance(value, Constant) else env.get(value)

    for op in block.ops:
        if isinstance(op, For) and op.unroll == 0:
            for index in range(number(op.start), number(op.stop), number(op.step)):
                yield from unrolled(op.body, {**env, op.body.params[0]: index})
        elif isinstance(op, If):
            condition = number(op.condition)
            if condition is None or condition:
                yield from unrolled(op.then, env)
        elif isinstance(op, arith.Elementwise):
            inputs = [number(v) for v in op.inputs]
            if None not in inputs:
                env[op.result] = op.evaluate(*map(np.asarray, inputs)).item()
        elif op.effects():
            yield op, {**env, **{v: v.value for v in op.inputs if isinstance(v, Constant)}}
