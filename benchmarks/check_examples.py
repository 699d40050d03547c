"""The examples on a GPU: each beside its reference in 64 bits, and some beside the vendor's speed.

Called by check_gpu.py; by itself it checks results alone, so that it can run under the sanitizers:

    compute-sanitizer --tool racecheck python benchmarks/check_examples.py

A case is a module of examples/, a kernel in it, what it is called with and what it must give; every
case, and every example's own `main`, runs by sm_80 and by sm_90a code.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from tests import modules  # noqa: E402
from tilec.runtime.compiled import CompiledKernel  # noqa: E402
from tilec.runtime.driver import lower  # noqa: E402

TARGETS = ("cuda:sm_80", "cuda:sm_90a")
RaceTwo = Callable[[Any, Any], dict[str, float]]


example = cache(modules.example)


def random(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Normal numbers on the GPU."""
    return torch.randn(*shape, device="cuda", dtype=torch.float32).to(dtype)


def unwritten(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """NaN, which no comparison lets pass."""
    return torch.full(shape, math.nan, device="cuda", dtype=dtype)


@dataclass(frozen=True)
class Case:
    """A call of an example's kernel: inputs, outputs, and the outputs in 64 bits."""

    label: str
    kernel: Any
    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    exact: tuple[np.ndarray, ...]
    slack: float  # how far an element may be, beside one rounding of the result
    constants: dict[str, Any] = field(default_factory=dict)

    def compiled(self, target: str) -> CompiledKernel:
        """The kernel for arguments like these."""
        arrays = (*self.inputs, *self.outputs)
        return lower(self.kernel, arrays, target, self.constants)

    def wrong(self, target: str) -> int:
        """How many elements are out of tolerance."""
        for output in self.outputs:
            output.fill_(math.nan)
        self.compiled(target)(*self.inputs, *self.outputs)
        torch.cuda.synchronize()
        bad = 0
        for output, exact in zip(self.outputs, self.exact, strict=True):
            rounding = torch.finfo(output.dtype).eps
            allowed = rounding * np.abs(exact) + self.slack
            found = output.double().cpu().numpy()
            bad += int((~(np.abs(found - exact) <= allowed)).sum())
        return bad


SIZES = ((1, 2), (5, 255), (37, 1000), (64, 4096), (3, 4104), (3, 20000))


def row_cases() -> Iterator[Case]:
    """Softmax, norms, sums and scans of rows."""
    for name in ("softmax", "online_softmax", "rms_norm", "layer_norm", "cumsum", "reductions"):
        module = example(name)
        kernel = module.sums if name == "reductions" else getattr(module, name)
        dtype = torch.float32 if name == "cumsum" else torch.float16
        vectors = {"rms_norm": 1, "layer_norm": 2}.get(name, 0)
        for m, n in SIZES:
            inputs = (random(m, n, dtype=dtype), *(random(n) for _ in range(vectors)))
            exact = module.reference(*(x.cpu().numpy() for x in inputs))
            if name == "reductions":
                outputs = tuple(unwritten(k, dtype=torch.float32) for k in (m, n))
            else:
                outputs, exact = (unwritten(m, n, dtype=dtype),), (exact,)
            slack = 4 * (8 + m + n) * np.finfo(np.float32).eps  # of 32-bit steps on numbers near 1
            yield Case(f"{name} {m}x{n}", kernel, inputs, outputs, exact, slack)


def attention_cases() -> Iterator[Case]:
    """Attention forward, causal or not, at lengths that no tile divides. An element is a mean of
    values by weights of 16 bits.
    """
    module = example("flash_attention")
    for n, s, d, causal in (
        (1, 1, 64, False), (127, 127, 64, True), (130, 70, 96, False), (257, 257, 128, True),
        (512, 512, 128, False), (129, 200, 256, False), (64, 64, 256, True),
    ):  # fmt: skip
        q, k, v = random(1, 2, n, d), random(1, 2, s, d), random(1, 2, s, d)
        exact = module.reference(*(x.cpu().numpy() for x in (q, k, v)), causal=causal)
        yield Case(
            f"flash_attention {n}x{s}x{d} causal {causal}", module.attention, (q, k, v),
            (unwritten(1, 2, n, d),), (exact,), 2.0**-10 * float(v.abs().max()), {"causal": causal},
        )  # fmt: skip


def mains(target: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """The `main` of every example that is for a target, which takes the library of arrays, runs ragged
    sizes and checks them; with cupy alone."""
    try:
        import cupy
    except ImportError:
        print("the examples' own checks need cupy", flush=True)
        return
    for file in sorted(modules.EXAMPLES.glob("*.py")):
        main = getattr(example(file.stem), "main", None)
        if target not in modules.example_targets(file.stem):
            continue
        if main is not None and "xp" in inspect.signature(main).parameters:
            yield f"{file.stem}.main", partial(main, cupy)


def checks() -> list[Callable[[], list[dict[str, Any]]]]:
    """All checks, in parts that can run in processes of their own."""
    return [
        partial(part, target)
        for target in TARGETS
        for part in (
            partial(check_cases, row_cases),
            partial(check_cases, attention_cases),
            check_mains,
        )
    ]


def check_cases(cases: Callable[[], Iterator[Case]], target: str) -> list[dict[str, Any]]:
    """One row a case: how many elements were wrong, or what failed."""
    return [checked(target, case.label, partial(case.wrong, target)) for case in cases()]


def check_mains(target: str) -> list[dict[str, Any]]:
    """One row an example's `main`."""
    rows = []
    os.environ["TILEC_TARGET"] = target
    for label, main in mains(target):
        with redirect_stdout(io.StringIO()):
            rows.append(checked(target, label, main))
    del os.environ["TILEC_TARGET"]
    return rows


def checked(target: str, label: str, run: Callable[[], object]) -> dict[str, Any]:
    """The row of one check, which returns how many elements were wrong, or raises."""
    failures = []
    try:
        if bad := run():
            failures.append(f"{bad} wrong")
    except Exception as error:  # noqa: BLE001  a case that does not run is a result
        failures.append(f"{type(error).__name__}: {str(error)[:300]}")
    if failures:
        print("FAIL", target, label, failures, file=sys.stderr, flush=True)
    return {"config": f"{target} {label}", "sizes": 1, "failures": failures}


def time_rows(race_two: RaceTwo, m: int = 8192, n: int = 4096) -> Iterator[dict[str, Any]]:
    """Kernels bound by memory beside a device copy that moves as many bytes."""
    x, y, w = random(m, n), unwritten(m, n), random(n)
    bare = torch.empty(x.numel(), dtype=torch.float16, device="cuda")
    copy = torch.empty_like(bare)
    for name, arrays in (("softmax", (x, y)), ("rms_norm", (x, w, y))):
        kernel = getattr(example(name), name)
        for target in TARGETS:
            launch = lower(kernel, arrays, target, {}).prepare(*arrays)
            row = race_two(launch, lambda: copy.copy_(bare))
            moved = 2 * x.numel() * 2
            yield {
                "config": f"{target} {name} {m}x{n}",
                **row,
                "GB/s": moved / row["ours_ms"] * 1e-6,
            }


def time_attention(race_two: RaceTwo) -> Iterator[dict[str, Any]]:
    """Attention forward, (B, H, N, D) in 16-bit floats, beside torch's own FlashAttention-2, and
    that of sm_90a beside cuDNN too.
    """
    module = example("flash_attention")
    for b, h, n, d, causal in (
        (4, 32, 4096, 128, False),
        (4, 32, 4096, 128, True),
        (4, 32, 4096, 64, False),
    ):
        q, k, v = (random(b, h, n, d) for _ in range(3))
        out = unwritten(b, h, n, d)
        attend = partial(
            torch.nn.functional.scaled_dot_product_attention, q, k, v, is_causal=causal
        )
        expected = through("FLASH_ATTENTION", attend)()
        for target in TARGETS:
            compiled = lower(module.attention, (q, k, v, out), target, {"causal": causal})
            launch = compiled.prepare(q, k, v, out)
            launch()
            error = float((out.float() - expected.float()).norm() / expected.float().norm())
            for peer in ("FLASH_ATTENTION", "CUDNN_ATTENTION")[: 1 + (target == "cuda:sm_90a")]:
                row = race_two(launch, through(peer, attend)) if error < 2e-3 else {"ratio": 0.0}
                flops = 4.0 * b * h * n * n * d / (2 if causal else 1)
                yield {
                    "config": f"{target} attention {b}x{h}x{n}x{d} causal {causal}", "peer": peer,
                    "error": error, **row,
                    "tflops": flops / row["ours_ms"] * 1e-9 if error < 2e-3 else 0.0,
                    "registers": compiled.launches[0].registers,
                    "spills": compiled.launches[0].spills,
                }  # fmt: skip


def through(backend: str, attend: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """`attend` by one of torch's backends."""

    def run() -> torch.Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.__members__[backend]):
            return attend()

    return run


if __name__ == "__main__":
    done = [row for check in checks() for row in check()]
    print(json.dumps({"cases": len(done), "failed": sum(bool(row["failures"]) for row in done)}))
    sys.exit(any(row["failures"] for row in done))
