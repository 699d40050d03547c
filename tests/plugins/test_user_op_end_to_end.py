"""An op from outside the package, from IR text to three machines: a GEMM with `acme.clip` on its
result.

Nothing of tilec is edited: the op is one class, its spelling the class's `text` (and, for HIP, an
entry of the registry's table), its lowering the family's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilec.interpreter import run_program
from tilec.ir.core import Program, Value, operand
from tilec.ir.ops.arith import Unary
from tilec.ir.print import print_program
from tilec.parser.text import parse_program
from tilec.passes.context import Assume
from tilec.runtime import emulator
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.lowering import lower_program, standard_registry
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target

TEXT = """tilec.ir 1
program @clipped(%A: global f16[M, K], %B: global f16[N, K], %C: global f16[M, N]) <level = tile, symbols = [M, N, K]> {
  %M = symbol <label = "M"> : i32
  %N = symbol <label = "N"> : i32
  %K = symbol <label = "K"> : i32
  %0 = add %N, 63 : i32
  %1 = floordiv %0, 64 : i32
  %2 = add %M, 63 : i32
  %3 = floordiv %2, 64 : i32
  launch %1, %3, 1 <threads = 128> (%bx: i32, %by: i32, %bz: i32) {
    %A_s = alloc <type = shared f16[64, 32]> : shared f16[64, 32]
    %B_s = alloc <type = shared f16[64, 32]> : shared f16[64, 32]
    %acc = alloc <type = fragment f32[64, 64]> : fragment f32[64, 64]
    fill %acc, 0.0
    %4 = add %K, 31 : i32
    %5 = floordiv %4, 32 : i32
    %6 = mul %by, 64 : i32
    %7 = mul %bx, 64 : i32
    for 0, %5, 1 <kind = "pipelined", stages = 2> (%k: i32) {
      %8 = mul %k, 32 : i32
      copy %A[%6, %8], %A_s[0, 0] <shape = [64, 32], source_dims = [0, 1], destination_dims = [0, 1]>
      copy %B[%7, %8], %B_s[0, 0] <shape = [64, 32], source_dims = [0, 1], destination_dims = [0, 1]>
      gemm %A_s, %B_s, %acc <transpose_b>
      yield
    }
    parallel <extents = [64, 64]> (%i: i32, %j: i32) {
      %9 = load %acc[%i, %j] : f32
      %10 = acme.clip %9 : f32
      store %10, %acc[%i, %j]
      yield
    }
    copy %acc[0, 0], %C[%6, %7] <shape = [64, 64], source_dims = [0, 1], destination_dims = [0, 1]>
    yield
  }
}
"""


class Clip(Unary, name="acme.clip", pure=True):
    """x held between -1 and 2."""

    text = "max(min({x}, 2.0f), -1.0f)"
    x: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return np.clip(inputs[0], np.float32(-1), np.float32(2))


def program() -> tuple[Program, Any]:
    """The parsed program, and a registry that knows its op."""
    registry = standard_registry().copy()
    registry.register(Clip)
    registry.table("spelling:hip")[Clip] = "min(max({x}, -1.0f), 2.0f)"
    return parse_program(TEXT, registry), registry


def operands(m: int, n: int, k: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Small integers, so that sums are exact, and what the program makes of them."""
    random = np.random.default_rng(m + n + k)
    a, b = (random.integers(-1, 2, s).astype(np.float16) for s in ((m, k), (n, k)))
    exact = np.clip(a.astype(np.float32) @ b.astype(np.float32).T, -1, 2).astype(np.float16)
    return {"A": a, "B": b, "C": np.full((m, n), np.nan, np.float16)}, exact


def test_text_and_interpreter() -> None:
    parsed, registry = program()
    assert print_program(parsed) == TEXT
    arrays, exact = operands(70, 65, 40)
    run_program(parsed, arrays, registry=registry)
    assert np.array_equal(arrays["C"], exact)


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a", "hip:gfx942"])
@pytest.mark.parametrize("assume", [True, False])
def test_emitted_text(target: str, assume: bool) -> None:
    parsed, registry = program()
    aim = find_target(target)
    lowered = lower_program(
        parsed, aim, registry, assume=Assume.ALL if assume else Assume.NOTHING, checked=True
    )
    assert ("min(max(" if aim.backend == "hip" else "max(min(") in lowered.text
    library = emulator.build(lowered.emulated_text)
    m, n, k = (72, 64, 40) if assume else (70, 65, 33)
    for mode in ("late", "early"):
        arrays, exact = operands(m, n, k)
        emulator.run(library, lowered.variant.launches[0], {**arrays, "M": m, "N": n, "K": k}, mode)
        assert np.array_equal(arrays["C"], exact)


def test_vendors_take_it() -> None:
    parsed, registry = program()
    nvrtc, clang = find_nvrtc(), find_amd_clang()
    assert nvrtc is not None and clang is not None
    for target, compiler in (("cuda:sm_80", nvrtc), ("cuda:sm_90a", nvrtc), ("hip:gfx942", clang)):
        aim = find_target(target)
        text = lower_program(parsed, aim, registry).text
        assert not compiler.compile(text, "clipped", aim.arch).findings
