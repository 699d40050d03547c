"""The elementwise and thread-level examples: how wide and how free of conflicts they access memory,
and what vendors' compilers make of them. What they compute is in test_sweep.py."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.legs import compile_texts
from tests.modules import example
from tilec.runtime import emulator


def body(text: str) -> str:
    return text.partition("__global__")[2]


@pytest.mark.parametrize(
    ("name", "kernel", "loads"),
    [("elementwise", "add", 2), ("elementwise", "gelu_chain", 1), ("gemv", "gemv", 2)],
)
def test_accesses_are_16_bytes_wide(name: str, kernel: str, loads: int) -> None:
    """And the vendors' compilers take the texts without spills."""
    texts = compile_texts(getattr(example(name), kernel))
    for target in ("cuda:sm_80", "cuda:sm_90a"):
        assert body(texts[target]).count("load_global<8>(") == loads
        assert body(texts[target]).count("store_global<8>(") == (name == "elementwise")


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("split_k_gemm", "split_k_gemm"), ("transpose", "transpose"), ("elementwise", "add_bias")],
)
def test_the_vendors_compile_them(name: str, kernel: str) -> None:
    compile_texts(getattr(example(name), kernel))


@pytest.mark.emulator
@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_bank_conflicts_of_the_transposed_tile(target: str) -> None:
    """Rows are written free of conflicts. Lanes read every eighth element of a column, so that each
    stores 16 bytes: with rows of 33 words every eighth of them begins in one of four banks, which
    makes two lanes meet, where rows of 32 would make all eight."""
    a = np.arange(128 * 192, dtype=np.float16).reshape(128, 192)
    b = np.zeros((192, 128), np.float16)
    with emulator.counted() as counts:
        example("transpose").transpose(a, b, device=f"emulator:{target}")
    assert np.array_equal(b, a.T)
    shared = [count for count in counts.accesses if count.shared]
    assert {c.instruction == "load": c.worst for c in shared} == {True: 2, False: 1}
    assert counts.excess_sectors == 0
