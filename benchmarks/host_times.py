"""What the host takes, on a machine with a GPU: from a decorator to its first result, cold and from
the disk cache, and a launch beside a bare cuLaunchKernel.

    python benchmarks/host_times.py
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SIZE = 256
LAUNCHES = 500  # fewer than a stream's queue holds, so that no launch waits for the GPU


def library() -> tuple[Any, Callable[[], None], Callable[[], Any]]:
    """cupy, or torch where there is none: the module, its synchronisation, and a maker of arrays of
    float16, with its context live."""
    try:
        import cupy

        cupy.zeros(1)
        return cupy, cupy.cuda.Device().synchronize, lambda: cupy.ones((SIZE, SIZE), "float16")
    except ImportError:
        import torch

        device: Any = {"device": "cuda", "dtype": torch.float16}
        return torch, torch.cuda.synchronize, lambda: torch.ones((SIZE, SIZE), **device)


def first_result() -> None:
    """Prints seconds of a fresh process: import, decorator to result, passes and emission."""
    start = time.perf_counter()
    importlib.import_module("tilec")
    imported = time.perf_counter() - start
    _, synchronise, array = library()
    importlib.import_module("tilec.language")
    a, b, c = array(), array(), array()
    synchronise()
    start = time.perf_counter()
    from examples.gemm import matmul

    matmul(a, b, c)
    synchronise()
    first = time.perf_counter() - start
    (found,) = matmul.remembered.plain.found.values()
    print(json.dumps([imported, first, found.compiled.lowered.seconds]))


def in_fresh_processes(runs: int, **environment: str) -> list[float]:
    """The least of each of `first_result`'s numbers over some processes, which have bytecode on the
    disk as an installed package has.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""}
    found = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), "first"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return [min(column) for column in zip(*found, strict=True)]


def microseconds(call: Callable[[], Any], synchronise: Callable[[], None]) -> float:
    """Host time of a call, the best of 20 rounds."""
    best = float("inf")
    for _ in range(20):
        synchronise()
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            call()
        best = min(best, time.perf_counter() - start)
    return best / LAUNCHES * 1e6


def launches() -> dict[str, float]:
    """Microseconds of a bare cuLaunchKernel by ctypes, a prepared launch and a checked call with
    three arrays, of one kernel, without and with a parameter that is named; and how many times the
    bare one."""
    _, synchronise, array = library()
    from examples.gemm import matmul

    a, b, c = array(), array(), array()
    matmul(a, b, c)
    prepared = matmul.compile(a, b, c).prepare(a, b, c)
    (call,) = prepared.launches
    bare = microseconds(call.on(0), synchronise)
    ready = microseconds(prepared, synchronise)
    checked = microseconds(lambda: matmul(a, b, c), synchronise)
    named = microseconds(lambda: matmul(a, b, c, block_K=64), synchronise)
    return {
        "bare_us": bare,
        "prepared_us": ready,
        "checked_us": checked,
        "named_us": named,
        "prepared_ratio": ready / bare,
        "checked_ratio": checked / bare,
    }


def host_times() -> dict[str, float]:
    """Everything, by name."""
    imported, cold, lowering = in_fresh_processes(5, TILEC_CACHE="0")
    with tempfile.TemporaryDirectory() as folder:
        in_fresh_processes(1, TILEC_CACHE_DIR=folder)
        _, cached, _ = in_fresh_processes(5, TILEC_CACHE_DIR=folder)
    return {
        "import_s": imported,
        "cold_s": cold,
        "lowering_s": lowering,
        "cached_s": cached,
        **launches(),
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["first"]:
        first_result()
    else:
        sys.path.insert(0, str(ROOT))
        print(json.dumps(host_times(), indent=1))
