"""Checks the emitted kernels on a GPU at every size of the tests, and times them beside cuBLAS.

    python benchmarks/check_gpu.py [--quick] [--jobs N] [--output FILE]

Writes docs/measurements/<commit>.json. Correctness: every configuration of the GEMM and the
dequantising kernel at the sizes of tests/kernels/programs.py, and the other examples at regular and
boundary sizes (check_examples.py), by sm_80 and by sm_90a code. Speed: median over interleaved pairs
of t_peer / t_ours, random data, the L2 flushed before every launch, results checked before timing;
peers are torch.matmul(out=) (cuBLAS), a device copy, torch's FlashAttention-2. The sizes are checked
by several processes at once, which compile most of the time; speed by one, before them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import check_examples  # noqa: E402
from benchmarks.host_times import host_times  # noqa: E402
from benchmarks.interleaved import race  # noqa: E402
from tests.kernels import programs  # noqa: E402
from tilec.ir.dtypes import find_dtype  # noqa: E402
from tilec.runtime.compiled import CompiledKernel  # noqa: E402
from tilec.runtime.driver import compile_program  # noqa: E402
from tilec.runtime.timing import clock_of  # noqa: E402
from tilec.target import Target, find_target  # noqa: E402

TARGETS = ("cuda:sm_80", "cuda:sm_90a")
PAIRS = 120


def to_gpu(array: np.ndarray) -> torch.Tensor:
    """A copy on the GPU, bfloat16 too."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).cuda().view(torch.bfloat16)
    return torch.from_numpy(array).cuda()


def to_host(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).cpu().numpy().view(find_dtype("bfloat16").numpy)
    return tensor.cpu().numpy()


def compiled(kernel: Any, target: str, constants: dict[str, int]) -> CompiledKernel:
    defaults = {p.name: p.default for p in kernel.parameters if p.kind == "constant"}
    return compile_program(kernel.trace({**defaults, **constants}), find_target(target))


def wrong(c: np.ndarray, exact: np.ndarray, allowed: np.ndarray) -> int:
    """How many elements are out of tolerance. NaN never passes."""
    with np.errstate(all="ignore"):
        return int((~(np.abs(c.astype(np.float64) - exact) <= allowed)).sum())


Checks = list[Callable[[], list[dict[str, Any]]]]


def gemm_checks(quick: bool) -> Checks:
    return [
        partial(check_gemm, target, dtype, transpose_b, tile, stages, quick)
        for target in TARGETS
        for dtype in ("float16", "bfloat16")
        for transpose_b in (True, False)
        for tile in programs.TILES
        for stages in ((4,) if quick else programs.STAGES)
    ]


def check_gemm(
    target: str, dtype: str, transpose_b: bool, tile: programs.Tile, stages: int, quick: bool
) -> list[dict[str, Any]]:
    label = f"{target} {dtype} {'NT' if transpose_b else 'NN'} {tile.m}x{tile.n}x{tile.k} stages {stages}"
    failures: list[str] = []
    count = 0
    try:
        program = compiled(programs.gemm(dtype, transpose_b), target, tile.constants(stages))
        chosen = programs.few_sizes(tile, stages) if quick else programs.sizes(tile, stages)
        for m, n, k in chosen:
            a, b, c = programs.operands(m, n, k, dtype, transpose_b, seed=count)
            gpu = [to_gpu(x) for x in (a, b, c)]
            program(*gpu)
            torch.cuda.synchronize()
            bad = wrong(to_host(gpu[2]), *programs.reference(a, b, transpose_b))
            count += 1
            if bad:
                failures.append(f"{m}x{n}x{k}: {bad} wrong")
        log = [f.text for v in program.manifest.variants for f in program.compiled(v).findings]
    except Exception as error:  # noqa: BLE001  a configuration that does not run is a result
        failures.append(f"{type(error).__name__}: {str(error)[:300]}")
        log = []
    if failures:
        print("FAIL", label, failures[:3], flush=True)
    return [{"config": label, "sizes": count, "failures": failures, "findings": log}]


def check_origin() -> list[dict[str, Any]]:
    rows = []
    for target in TARGETS:
        for m, n, k in (
            (128, 128, 64),
            (1024, 1024, 1024),
            (129, 127, 192),
            (1, 1, 64),
            (640, 384, 320),
        ):
            row: dict[str, Any] = {
                "config": f"{target} origin {m}x{n}x{k}",
                "failures": [],
                "sizes": 1,
            }
            try:
                program = compiled(programs.origin(m, n, k), target, {})
                values, b = programs.packed(n, k)
                a, _, c = programs.operands(m, n, k, "float16", True)
                gpu = [to_gpu(x) for x in (a, b, c)]
                program(*gpu)
                torch.cuda.synchronize()
                bad = wrong(to_host(gpu[2]), *programs.reference(a, values, True))
                if bad:
                    row["failures"].append(f"{bad} wrong")
            except Exception as error:  # noqa: BLE001  as above
                row["failures"].append(f"{type(error).__name__}: {str(error)[:300]}")
            if row["failures"]:
                print("FAIL", row, flush=True)
            rows.append(row)
    return rows


def check_sizes(checks: Checks, jobs: int) -> list[dict[str, Any]]:
    """The rows of all checks, in their order; each check runs in one of `jobs` processes."""
    fresh = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=fresh) as pool:
        running = [pool.submit(check) for check in checks]
        return [row for done in running for row in done.result()]


def race_two(ours: Callable[[], object], peer: Callable[[], object]) -> dict[str, float]:
    """Two launches timed in turn: the medians in milliseconds, and of the ratios."""
    clock = clock_of([torch.empty(1, device="cuda")])
    result = race({"ours": ours, "peer": peer}, clock, PAIRS)
    return {
        "ours_ms": result.median("ours") * 1e-3,
        "peer_ms": result.median("peer") * 1e-3,
        "ratio": result.ratio("ours", "peer"),
    }


def on_this_gpu(target: str) -> Target:
    """The target as calls see it that ask for its code here (TILEC_TARGET)."""
    count = torch.cuda.get_device_properties(0).multi_processor_count
    return replace(find_target(target), multiprocessors=count, present=True)


def time_gemm(target: str, m: int, n: int, k: int, stages: int = 4) -> dict[str, Any]:
    a = torch.randn(m, k, device="cuda", dtype=torch.float16)
    b = torch.randn(n, k, device="cuda", dtype=torch.float16)
    c, expected = (torch.zeros(m, n, device="cuda", dtype=torch.float16) for _ in range(2))
    torch.matmul(a, b.T, out=expected)
    constants = programs.TILES[0].constants(stages)
    program = programs.gemm().compile(a, b, c, target=on_this_gpu(target), **constants)
    return timed(
        program,
        (a, b, c),
        expected,
        lambda: torch.matmul(a, b.T, out=expected),
        2.0 * m * n * k,
        target,
    )


def time_origin(target: str, m: int, n: int, k: int) -> dict[str, Any]:
    program = compiled(programs.origin(m, n, k), target, {})
    values, packed = programs.packed(n, k)
    a = torch.randn(m, k, device="cuda", dtype=torch.float16)
    b, full = to_gpu(packed), to_gpu(values)
    c, expected = (torch.zeros(m, n, device="cuda", dtype=torch.float16) for _ in range(2))
    torch.matmul(a, full.T, out=expected)
    return timed(
        program,
        (a, b, c),
        expected,
        lambda: torch.matmul(a, full.T, out=expected),
        2.0 * m * n * k,
        target,
    )


def timed(
    program: CompiledKernel,
    arrays: tuple[torch.Tensor, ...],
    expected: torch.Tensor,
    peer: Any,
    flops: float,
    target: str,
) -> dict[str, Any]:
    launch = program.prepare(*arrays)
    launch()
    torch.cuda.synchronize()
    error = float((arrays[2].float() - expected.float()).norm() / expected.float().norm())
    if not error < 1e-3:
        return {"target": target, "error": error, "ratio": 0.0}
    row = race_two(launch, peer)
    row["tflops"] = flops / row["ours_ms"] * 1e-9
    row["peer_tflops"] = flops / row["peer_ms"] * 1e-9
    resources = program.launches[-1]  # before it, at most counters are cleared
    return {
        "target": target, "error": error, **row, "registers": resources.registers, "spills": resources.spills,
        "shared_bytes": resources.shared_bytes,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a handful of sizes and one number of stages"
    )
    parser.add_argument("--no-sizes", action="store_true", help="only speed")
    parser.add_argument(
        "--jobs",
        type=int,
        default=max(1, (os.cpu_count() or 2) - 2),
        help="processes for the sizes",
    )
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    started = time.time()
    report: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
    }  # fmt: skip
    report["gemm_speed"] = []
    for target in ("cuda:sm_90a", "cuda:sm_80"):
        for m, n, k in (
            (8192, 8192, 8192), (4096, 4096, 4096), (4000, 5000, 3000), (4095, 4097, 4099),
        ):  # fmt: skip
            row = {"shape": [m, n, k], **attempt(time_gemm, target, m, n, k)}
            print(json.dumps(row), flush=True)
            report["gemm_speed"].append(row)
    report["origin_speed"] = []
    for target in ("cuda:sm_90a", "cuda:sm_80"):
        row = {"shape": [4096] * 3, **attempt(time_origin, target, 4096, 4096, 4096)}
        print(json.dumps(row), flush=True)
        report["origin_speed"].append(row)
    report["example_speed"] = []
    for timing in (check_examples.time_rows, check_examples.time_attention):
        found = attempt(lambda timing=timing: {"rows": list(timing(race_two))})
        for row in found.get("rows", [found]):
            print(json.dumps(row), flush=True)
            report["example_speed"].append(row)
    report["host"] = attempt(host_times)
    print(json.dumps(report["host"]), flush=True)
    if not arguments.no_sizes:
        checks = [*check_examples.checks(), check_origin, *gemm_checks(arguments.quick)]
        report["sizes"] = check_sizes(checks, arguments.jobs)
    checked = report.get("sizes", [])
    bad = [r for r in checked if r["failures"]]
    report["seconds"] = time.time() - started
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout
    output = (
        arguments.output or ROOT / "docs" / "measurements" / f"{commit.strip() or 'worktree'}.json"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(
        f"{sum(r['sizes'] for r in checked)} sizes in {len(checked)} configurations, {len(bad)} configurations wrong"
    )
    print(f"written {output.name}, {report['seconds']:.0f} s")
    return 1 if bad else 0


def attempt(function: Any, *arguments: Any) -> dict[str, Any]:
    """The function's result, or what went wrong: a peer or a target that does not run is a fact to
    report.
    """
    try:
        result: dict[str, Any] = function(*arguments)
        return result
    except Exception as error:  # noqa: BLE001  as above
        return {"failed": f"{type(error).__name__}: {str(error)[:400]}"}


if __name__ == "__main__":
    sys.exit(main())
