"""The two programs of examples/ as the frontend leaves them."""

from __future__ import annotations

from typing import Any

from tests.modules import example
from tilec.ir.print import print_program

from .programs import traced


def test_gemm(golden: Any) -> None:
    kernel = example("gemm").matmul
    assert print_program(traced(kernel)) == golden("tir")
    assert print_program(traced(kernel, block_N=128, stages=2)) == golden("tir", "small")


def test_dequantize_gemm(golden: Any) -> None:
    assert print_program(traced(example("dequantize_gemm").main)) == golden("tir")
