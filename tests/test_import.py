"""`import tilec` is quick and light, whatever is installed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MILLISECONDS = 150
HEAVY = ("cupy", "torch", "jax", "jinja2", "lark", "click", "hypothesis")
PROGRAM = """
import json, sys, time
start = time.process_time()
import tilec
end = time.process_time()
print(json.dumps([1e3 * (end - start), sorted(sys.modules)]))
"""


def import_once() -> tuple[float, set[str]]:
    """(milliseconds, names of all modules) of one `import tilec` in a fresh process.

    Processor time with one BLAS thread: on an idle machine that is the wall time, and the
    neighbours of a busy one do not count.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True
    )
    milliseconds, modules = json.loads(done.stdout)
    return milliseconds, set(modules)


def test_import_is_quick_and_light() -> None:
    runs = [import_once() for _ in range(7)]
    modules = runs[0][1]
    assert "tilec" in modules
    loaded = sorted(name for name in HEAVY if name in modules)
    assert not loaded, f"import tilec also imports {loaded}: import them where they are used"
    median = statistics.median(milliseconds for milliseconds, _ in runs)
    assert median < MILLISECONDS, f"import tilec takes {median:.0f} ms (limit {MILLISECONDS})"
