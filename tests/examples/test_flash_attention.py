"""examples/flash_attention.py on every leg, at ragged lengths, and what vendors' compilers make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
from tests import modules
from tests.kernels.legs import one_leg, turns
from tests.kernels.machines import TARGETS
from tilec.ir.core import walk
from tilec.ir.dtypes import find_dtype
from tilec.ir.ops.tile import ConvertLayout
from tilec.parser.text import parse_program
from tilec.passes.check_hazards import check_hazards
from tilec.passes.context import Facts, PassContext
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import lower
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target

example = modules.example("flash_attention")

# queries, keys, head dimension, causal, dtype, whether heads come before rows
CASES = [
    (130, 70, 128, False, "float16", True),
    (129, 129, 128, True, "float16", True),
    (65, 129, 96, True, "float16", False),
    (33, 64, 256, False, "bfloat16", True),
    (64, 64, 256, True, "float16", True),
    (1, 1, 64, True, "float16", True),
    (127, 200, 64, True, "bfloat16", False),
    (100, 40, 64, True, "float16", True),  # the first 60 queries see no key
    (5, 0, 64, False, "float16", True),
]


def operands(case: tuple[Any, ...], heads: int = 2) -> tuple[np.ndarray, ...]:
    """Random Q, K, V, and a result of NaN."""
    N, S, D, _, dtype, heads_first = case
    random = np.random.default_rng(N + S + D)

    def one(rows: int) -> np.ndarray:
        shape = (1, heads, rows, D) if heads_first else (1, rows, heads, D)
        return random.standard_normal(shape).astype(np.float32).astype(find_dtype(dtype).numpy)

    q, k, v = one(N), one(S), one(S)
    return q, k, v, np.full(q.shape, np.nan, q.dtype)


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "case"), turns(CASES))
def test_attention(device: str, case: tuple[Any, ...]) -> None:
    *_, causal, dtype, heads_first = case
    given = operands(case)
    expected = example.reference(*given[:3], causal, heads_first)
    constants = {"causal": causal, "dtype": dtype, "heads_first": heads_first}
    *_, found = one_leg(device, example.attention, *given, **constants)
    example.check(found, expected, given[2])


def test_the_check_finds_a_wrong_element() -> None:
    q, k, v, _ = operands((8, 8, 64, False, "float16", True))
    expected = example.reference(q, k, v)
    right = expected.astype(np.float16)
    assert example.check(right, expected, v) < 1e-3
    for wrong in (np.nan, right[0, 0, 3, 5] + 0.01):
        other = right.copy()
        other[0, 0, 3, 5] = wrong
        with pytest.raises(AssertionError, match="1 of 1024"):
            example.check(other, expected, v)


def compiled(target: str, D: int, causal: bool, **constants: Any) -> CompiledKernel:
    arrays = tuple(tilec.spec((4, 32, 4096, D), "float16") for _ in range(4))
    return lower(example.attention, arrays, target, {"causal": causal, **constants})


@pytest.mark.parametrize("target", TARGETS)
def test_weights_go_from_product_to_product_in_registers(target: str) -> None:
    kernel = compiled(target, 128, True)
    program = parse_program(kernel.ir(after="infer_layouts"), kernel.registry, "attention.tir")
    assert not [op for op in walk(program.body) if isinstance(op, ConvertLayout)]


@pytest.mark.parametrize("after", ["schedule_stages", "place_barriers"])
@pytest.mark.parametrize("target", TARGETS)
def test_no_hazard(target: str, after: str) -> None:
    kernel = compiled(target, 64, True)
    program = parse_program(kernel.ir(after=after), kernel.registry, "attention.tir")
    context = PassContext(find_target(target), kernel.registry, Facts())
    assert check_hazards(program, context) is program


def test_one_barrier_an_iteration() -> None:
    """Of the loop over keys on sm_80: it orders both copies, and nothing else needs one."""
    text = compiled("cuda:sm_80", 128, True).source
    loop = text[text.index("for (i32 k = 0; k < k_end; ++k)") :].split("\n  }\n")[0]
    assert loop.count("barrier();") == 1 and loop.count("cp_async_wait<0>();") == 1
    assert "bz < B" not in text and "by < H" not in text  # the grid says so


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("D", [64, 96, 128, 256])
@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a"])
def test_nothing_spills_on_nvidia(target: str, D: int, causal: bool) -> None:
    variant = compiled(target, D, causal).lowered
    binary = find_nvrtc().compile(variant.text, variant.file_name, target.partition(":")[2])
    (resources,) = binary.resources
    assert (resources.spill_stores, resources.spill_loads, resources.stack) == (0, 0, 0)
    assert binary.findings == ()


@pytest.mark.hip
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("D", [64, 128, 256])
def test_nothing_spills_on_amd(D: int, causal: bool) -> None:
    variant = compiled("hip:gfx942", D, causal).lowered
    (isa,) = find_amd_clang().assemble(variant.text, variant.file_name, "gfx942").kernels
    assert (isa.vgpr_spills, isa.sgpr_spills, isa.scratch) == (0, 0, 0)
    assert isa.count("v_mfma") > 0
