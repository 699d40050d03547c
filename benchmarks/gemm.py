"""GEMM beside cuBLAS, Triton and TileLang, in one interleaved run on this machine's GPU.

    python benchmarks/gemm.py [--rows WORD...] [--quick] [--peers cublas,triton] [--output FOLDER]
    python benchmarks/gemm.py --shapes 2560x2560x2560 300x4096x4096:NN:bfloat16

A line for each row of the table, or for each shape that is given, then a table; FOLDER gets
gemm.json and, where matplotlib is installed, gemm.png. Two columns are ours: `ops` is
tilec.ops.matmul, `example` is examples/gemm.py with its heuristic, where that takes the row's dtype
and layout; neither is tuned for the run, the peers are.

A ratio is the median, over rounds of all contestants in turn, of the peer's time to ours: above 1
ours is faster. Before each launch the L2 cache is flushed; below 20 us a graph of 50 launches is
timed instead. Data are random, every contestant's result is checked before it is timed. Exit status
1 where a row failed; a bar that is missed is shown, and is no failure.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gemm_rows import LARGE_MEAN, MET, PEER_BAR, Row, given, select  # noqa: E402
from benchmarks.interleaved import Race  # noqa: E402

ROUNDS, QUICK_ROUNDS = 100, 20
PEERS = ("cublas", "triton", "tilelang")
Result = dict[str, Any]
Measure = Callable[[Row], tuple[Race, dict[str, Any]]]
"""Races the contestants of a row; also gives what is to be noted (schedules, who was left out)."""


def measure_row(row: Row, measure: Measure) -> Result:
    """What a row came to. One that fails is a result too: `failed` says why."""
    result: Result = {"row": row.name, "group": row.group, "bar": row.bar}
    try:
        race, notes = measure(row)
    except Exception as error:  # noqa: BLE001  a row that fails must not cost the others
        return {**result, "failed": f"{type(error).__name__}: {str(error)[:400]}"}
    result |= {"us": {name: race.median(name) for name in race.times}, **notes}
    for ours in ("ops", "example"):
        if ours in race.times:
            peers = [name for name in PEERS if name in race.times]
            result[ours] = {peer: race.ratio(ours, peer) for peer in peers}
    if "copy" in race.times and "ops" in race.times:
        result["bandwidth"] = race.ratio("ops", "copy")
    result["missed"] = missed(row, result)
    return result


def missed(row: Row, result: Mapping[str, Any]) -> list[str]:
    """The bars that the row does not meet, in words."""
    bars = {"cublas": row.bar, "triton": PEER_BAR, "tilelang": PEER_BAR}
    ratios = result.get("ops", {})
    found = [
        f"{peer} {ratios[peer]:.3f} < {bar:.2f}"
        for peer, bar in bars.items()
        if peer in ratios and not ratios[peer] >= bar - MET
    ]
    if "cublas" not in ratios:
        found.insert(0, "cublas did not race")
    if row.bandwidth and not result.get("bandwidth", 0.0) >= row.bandwidth - MET:
        found.append(f"bandwidth {result.get('bandwidth', 0.0):.3f} < {row.bandwidth:.2f}")
    return found


def geometric_mean(ratios: Sequence[float]) -> float:
    """The geometric mean; NaN of none."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan


def line(row: Row, result: Result) -> str:
    """A row's line."""
    if "failed" in result:
        return f"{row.name:44} FAILED {result['failed']}"
    times = result["us"]
    cells = [f"{name} {us:.1f}us" for name, us in times.items()]
    for ours in ("ops", "example"):
        cells += [f"{ours}/{peer} {ratio:.3f}" for peer, ratio in result.get(ours, {}).items()]
    if "bandwidth" in result:
        cells.append(f"of copy {result['bandwidth']:.3f}")
    if "ops" in times:
        cells.append(f"{row.flops / times['ops'] * 1e-6:.0f} TFLOP/s")
    verdict = "MISSED " + "; ".join(result["missed"]) if result["missed"] else "met"
    return f"{row.name:44} {'  '.join(cells)}  {verdict}"


def table(results: Sequence[Result]) -> str:
    """All rows in Markdown: times in microseconds, ratios to each peer."""
    heads = ["row", "ops us", *(f"ops / {p}" for p in PEERS), "example / cublas", "of copy", "bar"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for r in results:
        if "failed" in r:
            lines.append(f"| {r['row']} | failed |" + " |" * (len(heads) - 2))
            continue
        values = [
            r["us"].get("ops"), *(r.get("ops", {}).get(p) for p in PEERS),
            r.get("example", {}).get("cublas"), r.get("bandwidth"), r["bar"],
        ]  # fmt: skip
        cells = ["" if v is None else f"{v:.3g}" if v >= 10 else f"{v:.3f}" for v in values]
        lines.append(f"| {r['row']} | " + " | ".join(cells) + " |")
    large = [
        r["ops"]["cublas"]
        for r in results
        if r["group"] == "large" and "cublas" in r.get("ops", {})
    ]
    if large:
        mean = geometric_mean(large)
        lines.append(f"\nlarge, geometric mean: {mean:.3f} (bar {LARGE_MEAN})")
    return "\n".join(lines)


def plot(results: Sequence[Result], path: Path) -> str:
    """A bar for each row and peer; says in a line what was done."""
    if find_spec("matplotlib") is None:
        return "no plot: matplotlib is not installed"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [r for r in results if r.get("ops")]
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.4 * len(shown)))
    for n, peer in enumerate(PEERS):
        places = [i + 0.27 * n for i, r in enumerate(shown) if peer in r["ops"]]
        widths = [r["ops"][peer] for r in shown if peer in r["ops"]]
        axes.barh(places, widths, height=0.25, label=f"time of {peer} / time of tilec.ops.matmul")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks([i + 0.27 for i in range(len(shown))], [r["row"] for r in shown])
    axes.invert_yaxis()
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    return f"plot: {path.name}"


def run(rows: Sequence[Row], measure: Measure, folder: Path, machine: Mapping[str, Any]) -> int:
    """Measures rows, prints and writes what they came to; the exit status."""
    started = time.monotonic()
    results = []
    for row in rows:
        results.append(measure_row(row, measure))
        print(line(row, results[-1]), flush=True)
    print("\n" + table(results))
    folder.mkdir(parents=True, exist_ok=True)
    report = {**machine, "seconds": time.monotonic() - started, "rows": results}
    (folder / "gemm.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(plot(results, folder / "gemm.png"))
    failed = sum("failed" in r for r in results)
    short = sum(bool(r.get("missed")) for r in results)
    print(f"{len(results)} rows, {failed} failed, {short} below a bar, {report['seconds']:.0f} s")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=[], help="rows with any of these in the name")
    parser.add_argument("--shapes", nargs="+", default=[], help="MxNxK[:layout[:dtype]], no rows")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, no TileLang")
    parser.add_argument("--peers", default=",".join(PEERS), help="which peers, with commas")
    parser.add_argument("--peer-seconds", type=float, default=60, help="for tuning peers, in all")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    if options.rows and options.shapes:
        parser.error("--rows and --shapes are either or")
    try:
        rows = [given(shape) for shape in options.shapes] or select(options.rows)
    except ValueError as unknown:
        parser.error(str(unknown))
    peers = [peer for peer in options.peers.split(",") if peer]
    if unknown := set(peers) - set(PEERS):
        parser.error(f"no peer {', '.join(sorted(unknown))}; peers are {', '.join(PEERS)}")
    if options.quick:
        peers = [peer for peer in peers if peer != "tilelang"]
    if find_spec("torch") is None:
        parser.error("the arrays are torch's: pip install torch, on a machine with an NVIDIA GPU")
    from benchmarks.gemm_contestants import Bench

    bench = Bench(peers, QUICK_ROUNDS if options.quick else ROUNDS, options.peer_seconds)
    return run(rows, bench.measure, options.output, bench.machine)


if __name__ == "__main__":
    sys.exit(main())
