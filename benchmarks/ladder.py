"""What each step of the compiler is worth to the plain GEMM of examples/gemm.py, on a Hopper GPU.

    python benchmarks/ladder.py [--sizes MxNxK ...] [--output FILE]

Each contestant is the whole kernel with one step left out: a pass is not run, or its choice is undone.
All are checked and race in one interleaved run beside cuBLAS (torch.matmul with out=), the L2 flushed
before each launch. A line for each: microseconds, and how many times the whole kernel's time it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["TILEC_CACHE"] = "0"  # its keys do not know of what is left out here

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.gemm_contestants import Bench, cublas, make_operands  # noqa: E402
from benchmarks.gemm_rows import Row  # noqa: E402
from benchmarks.interleaved import race  # noqa: E402
from tests import modules  # noqa: E402
from tilec.passes import issue_gemms, make_persistent, pipeline, stage_stores  # noqa: E402
from tilec.runtime.compiled import CompiledKernel  # noqa: E402
from tilec.target import find_target  # noqa: E402

SIZES = ("4096x4096x4096", "8192x8192x8192", "8192x8192x512", "2048x2048x2048")
ROUNDS = 60
Step = Callable[[], AbstractContextManager[Any]]


def not_run(name: str) -> Step:
    """The pipeline less one pass."""
    kept = tuple(p for p in pipeline.PIPELINE if p.__name__ != name)
    return lambda: mock.patch.object(pipeline, "PIPELINE", kept)


def undone(module: Any, name: str, value: Any) -> Step:
    """A pass with a choice of its own made once and for all."""
    return lambda: mock.patch.object(module, name, value)


WITHOUT: dict[str, Step] = {
    "persistence": not_run("make_persistent"),
    "raster": undone(make_persistent, "_shares_operands", lambda launch: False),
    "a product in flight over the wait": undone(issue_gemms, "_carried", lambda *_: None),
    "stores by warpgroup": undone(stage_stores, "_are_apart", lambda *_: False),
}


def compiled(target: str, step: Step) -> CompiledKernel:
    """examples/gemm.py with its 128 x 256 x 64 tiles, 4 stages and 256 threads, less a step."""
    kernel = modules.example("gemm").matmul
    constants = {p.name: p.default for p in kernel.parameters if p.kind == "constant"}
    with step():
        found = CompiledKernel(kernel.trace(constants), find_target(target))
        found.variants  # noqa: B018  lowers it
    return found


def contestants() -> dict[str, CompiledKernel]:
    """The whole kernel, what lacks a step, and the same program by mma.sync and cp.async."""
    found = {"whole": compiled("cuda:sm_90a", nullcontext)}
    for name, step in WITHOUT.items():
        found[f"without {name}"] = compiled("cuda:sm_90a", step)
    found["without TMA, wgmma and roles"] = compiled("cuda:sm_80", nullcontext)
    return found


def measure(row: Row, kernels: dict[str, CompiledKernel], bench: Bench) -> dict[str, Any]:
    """Microseconds of all on one product, and their ratios. Raises AssertionError for a wrong one."""
    x = make_operands(row)
    c = torch.empty(row.M, row.N, device="cuda", dtype=torch.float16)
    racers: dict[str, Callable[[], object]] = {"cublas": cublas(row, x, c)}
    for name, kernel in kernels.items():
        launch = kernel.prepare(x.a, x.b.T, c)
        c.fill_(float("nan"))
        launch()
        error = float((c.float() - x.expected).norm() / x.expected.norm())
        assert error < 2e-3, f"{name} is off by {error:.1e}"
        racers[name] = launch
    result = race(racers, bench.time, ROUNDS)
    rows = {}
    for name in racers:
        ratio, times = result.ratio(name, "cublas"), 1 / result.ratio(name, "whole")
        rows[name] = {"us": result.median(name), "cublas": ratio, "times_whole": times}
        print(f"{row.name:32} {name:38} {result.median(name):9.1f} us  {ratio:.3f}  {times:.3f}")
    return {"row": row.name, "contestants": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    bench, kernels = Bench(["cublas"], ROUNDS, 0), contestants()
    rows = [Row("ladder", *map(int, size.split("x")), bar=0.0) for size in arguments.sizes]
    found = [measure(row, kernels, bench) for row in rows]
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(bench.machine | {"rows": found}, indent=1))


if __name__ == "__main__":
    main()
