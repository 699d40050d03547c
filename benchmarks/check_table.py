"""The kernels of benchmarks/gemm.py's table: their results, and whether they are the same every time.

    compute-sanitizer --tool racecheck --kernel-name kns=matmul python benchmarks/check_table.py
    python benchmarks/check_table.py --repeat 1000

The first checks each row's kernel on a product of about two tiles a dimension, ragged ones too, for the
sanitizers (memcheck, racecheck, synccheck, initcheck); the second calls each at the table's own size as
often, and compares all bits with the first result. Exit status 1 where a row is wrong or differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.gemm_contestants import Bench, make_operands, product, tolerance  # noqa: E402
from benchmarks.gemm_rows import TABLE, Row  # noqa: E402
from tilec import ops  # noqa: E402

ROWS, COLUMNS, DEPTH = 128, 256, 64
"""The table's largest tile, and k of a step."""


def small(row: Row) -> Iterator[Row]:
    """The row with two tiles a dimension, and with one that is not full; few rows stay few."""
    for m, n, k in ((2 * ROWS, 2 * COLUMNS, 4 * DEPTH), (ROWS + 8, COLUMNS + 16, 3 * DEPTH + 16)):
        yield replace(row, M=min(row.M, m), N=n + row.N % 2, K=k + row.K % 2)


def shared(row: Row) -> Iterator[tuple[Row, ops.Schedule]]:
    """The row with two tiles a dimension, by three blocks that share the fourth tile, where tiles of
    the table's own are many enough for that."""
    if min(row.M, row.N) >= 4096 and row.fast and row.K > 512 and row.K % 2 == 0:
        depth = DEPTH * (2 if "float8" in row.dtype else 1)
        schedule = ops.Schedule(ROWS, COLUMNS, depth, 4, 256, workers=3)
        yield replace(row, M=2 * ROWS, N=2 * COLUMNS, K=16 * depth), schedule


def problem(row: Row, schedule: ops.Schedule | None = None) -> str:
    """What is wrong with a row's result; empty where nothing is."""
    x = make_operands(row, made_on="cpu")
    c = torch.full((row.M, row.N), float("nan"), dtype=Bench.out_dtype(row)).cuda()
    product(row, x, c, schedule)()
    error = float((c.cpu().float() - x.expected).norm() / x.expected.norm())
    return "" if error <= tolerance(row) else f"is off by {error:.1e} of its norm"


def difference(row: Row, times: int) -> str:
    """Which call of `times` gives other bits than the first; empty where none does."""
    x = make_operands(row)
    x.expected = None
    c = torch.empty(row.M, row.N, device="cuda", dtype=Bench.out_dtype(row))
    launch = product(row, x, c)
    launch()
    first = c.view(torch.int16).clone()
    unequal = torch.zeros((), device="cuda", dtype=torch.int64)
    for _ in range(1, times):
        c.fill_(float("nan"))
        launch()
        unequal += (c.view(torch.int16) != first).any()
    return f"differs in {int(unequal)} of {times} calls" if int(unequal) else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=0, metavar="TIMES")
    arguments = parser.parse_args()
    checks: dict[str, Callable[[], str]] = {}
    for row in TABLE:
        if arguments.repeat:
            checks[row.name] = partial(difference, row, arguments.repeat)
            continue
        checks |= {part.name: partial(problem, part) for part in small(row)}
        checks |= {f"{part.name}:shared": partial(problem, part, s) for part, s in shared(row)}
    failed = 0
    for name, check in checks.items():
        found = check()
        failed += bool(found)
        print(f"{name:48} {found or 'right'}", flush=True)
    print(f"{len(checks)} rows, {failed} wrong")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
