"""The elementwise and thread-level examples, on three machines and the interpreter, beside their
references in 64 bits, at ragged sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.examples.test_rows import example
from tests.kernels.legs import compile_texts, every_leg
from tilec.runtime.driver import lower

pytestmark = pytest.mark.emulator
Array = np.ndarray[Any, Any]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float16)


def body(text: str) -> str:
    return text.partition("__global__")[2]


@pytest.mark.parametrize("size", [(64, 64, 64), (1, 1, 1), (63, 65, 513), (65, 127, 64), (7, 9, 0)])
def test_split_k_gemm(size: tuple[int, int, int]) -> None:
    module, (m, n, k) = example("split_k_gemm"), size
    rng = np.random.default_rng(sum(size))
    a = rng.integers(-4, 5, (m, k)).astype(np.float16)
    b = rng.integers(-4, 5, (k, n)).astype(np.float16)
    start = np.zeros((m, n), np.float32)
    for device, (*_, c) in every_leg(module.split_k_gemm, a, b, start, split=3):
        assert np.array_equal(c, module.reference(a, b)), device


@pytest.mark.parametrize("size", [(1, 1), (4, 256), (3, 255), (5, 257), (8, 1000), (2, 0)])
def test_gemv(size: tuple[int, int]) -> None:
    module = example("gemv")
    a, x = random(*size), random(size[1], seed=1)
    for _, (_, _, y) in every_leg(module.gemv, a, x, np.full(size[0], np.nan, np.float32)):
        module.check(a, x, y)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (63, 65), (130, 7), (128, 72)])
def test_transpose(size: tuple[int, int]) -> None:
    module, a = example("transpose"), random(*size)
    for device, (_, b) in every_leg(module.transpose, a, np.full(size[::-1], np.nan, np.float16)):
        assert np.array_equal(b, module.reference(a)), device


@pytest.mark.parametrize("size", [(1, 1), (4, 256), (3, 255), (9, 520)])
@pytest.mark.parametrize("name", ["add", "add_bias", "gelu_chain"])
def test_elementwise(name: str, size: tuple[int, int]) -> None:
    module = example("elementwise")
    m, n = size
    inputs = {
        "add": (random(m, n), random(m, n, seed=1)),
        "add_bias": (random(m, n), random(n), random(m, 1)),
        "gelu_chain": (random(m, n),),
    }[name]
    exact = getattr(module, f"reference_{name}")(*inputs)
    empty = np.full((m, n), np.nan, np.float16)
    for _, (*_, c) in every_leg(getattr(module, name), *inputs, empty, block_N=256, threads=64):
        module.check(c, exact)


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


def test_the_transposed_tile_has_no_bank_conflicts() -> None:
    """A warp's 32 elements, along a row or a column of the tile, lie in 32 banks of 4 bytes, two
    neighbours of a row in one."""
    lowered = lower(example("transpose").transpose, (), "cuda:sm_80", {})
    pitch = 64 + 2
    assert f"* {pitch}" in body(lowered.variants[0].text)
    lanes = np.arange(32)
    column_words = {int(lane) * pitch * 2 // 4 % 32 for lane in lanes}
    assert len(column_words) == 32
