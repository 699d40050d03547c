"""The two programs of examples/ as the frontend leaves them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tilec.ir.print import print_program

from .programs import traced

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gemm(golden: Any) -> None:
    kernel = example("gemm").matmul
    assert print_program(traced(kernel)) == golden("tir")
    assert print_program(traced(kernel, block_N=128, stages=2)) == golden("tir", "small")


def test_dequantize_gemm(golden: Any) -> None:
    assert print_program(traced(example("dequantize_gemm").main)) == golden("tir")
