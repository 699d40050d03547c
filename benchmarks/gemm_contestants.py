"""Who races in a row of benchmarks/gemm.py, on a GPU, with arrays of torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from math import log2
from pathlib import Path
from typing import Any

import torch

import tilec
import tilec.language as T
from benchmarks.gemm_rows import Row
from benchmarks.interleaved import Race, race
from tilec import ops
from tilec.runtime.timing import clock_of, measure

ROOT = Path(__file__).resolve().parents[1]
SHORT_US = 20.0  # below it a graph of so many launches is timed:
GRAPH = 50
ROUNDING = {"float16": 2e-3, "bfloat16": 1e-2}
"""Largest norm of the error, as a share of the result's, of a result that is rounded once."""


def tolerance(row: Row) -> float:
    """The largest error of a row: of one rounding to the result's 16 bits; fast sums of 8-bit floats
    drop in each instruction of 32 products what is below 2^-13 of the sum, a walk of K / 32 steps
    (measured, the vendor's too: 1.36e-3 at K = 4096, 2.06e-3 at 8192), to which twice that is given.
    """
    if row.kind == "fp8" and row.fast:
        return float(2**-12 * (row.K / 32) ** 0.5)
    return ROUNDING.get(row.dtype, ROUNDING["float16"])


def gelu(x: Any, i: Any, j: Any, bias: Any) -> Any:
    """GELU by tanh of x + bias, with the hyperbolic tangent that the vendor's epilogue has: both are
    2.0728e-4 of the result's norm off, an exact one 2.0727e-4.
    """
    h = 0.5 * x + 0.5 * bias[j]  # half of it, which saves a product
    return h + h * T.fast_tanh(h * (1.5957691216 + 0.2854192648 * (h * h)))


@dataclass
class Operands:
    """What a row multiplies; `expected` in float32."""

    a: Any
    b: Any
    bias: Any
    expected: Any


def make_operands(row: Row, made_on: str = "cuda") -> Operands:
    """Random A [M, K] and B [K, N] on the GPU, stored as the row's layout says, and their product;
    with `made_on` "cpu" no other kernel than the row's has to do with them.
    """
    torch.manual_seed(0)

    def matrix(rows: int, columns: int, transposed: bool) -> Any:
        shape = (columns, rows) if transposed else (rows, columns)
        wide = torch.float16 if row.kind == "fp8" else getattr(torch, row.dtype)
        held = torch.randn(*shape, device=made_on, dtype=wide).to(getattr(torch, row.dtype))
        if row.kind == "fused":  # sums about 1, where GELU bends
            held *= 2.0 ** round(-log2(row.K) / 4)
        return held.T if transposed else held

    a = matrix(row.M, row.K, row.layout[0] == "T")
    b = matrix(row.K, row.N, row.layout[1] == "T")
    wide = torch.float16 if row.kind == "fp8" else a.dtype
    wide = torch.float32 if made_on == "cpu" else wide
    expected = torch.matmul(a.to(wide), b.to(wide)).float()
    bias = None
    if row.kind == "fused":
        bias = torch.randn(row.N, device=made_on, dtype=torch.float16)
        expected = torch.nn.functional.gelu(expected + bias.float(), approximate="tanh")
        bias = bias.cuda()
    return Operands(a.cuda(), b.cuda(), bias, expected)


def cublas(row: Row, x: Operands, c: Any) -> Callable[[], object]:
    """The vendor's product, through torch."""
    if row.kind == "fp8":
        one = torch.ones((), device="cuda")
        return lambda: torch._scaled_mm(
            x.a, x.b, one, one, out_dtype=c.dtype, use_fast_accum=row.fast, out=c
        )
    if row.kind == "fused":
        return lambda: torch._addmm_activation(x.bias, x.a, x.b, use_gelu=True, out=c)
    return lambda: torch.matmul(x.a, x.b, out=c)


def example(row: Row, x: Operands, c: Any) -> Callable[[], object] | None:
    """examples/gemm.py with its heuristic, where it takes the row."""
    if (row.dtype, row.layout, row.kind) != ("float16", "NT", "plain"):
        return None
    spec = spec_from_file_location("tilec_example_gemm", ROOT / "examples" / "gemm.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules.get(spec.name)
    if module is None:
        module = sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(module)
    launch: Callable[[], object] = module.matmul.compile(x.a, x.b.T, c).prepare(x.a, x.b.T, c)
    return launch


def product(
    row: Row, x: Operands, c: Any, schedule: ops.Schedule | None = None
) -> Callable[[], object]:
    """tilec.ops.matmul."""
    options: dict[str, Any] = {"schedule": schedule}
    if row.kind == "fused":
        options |= {"epilogue": gelu, "bias": x.bias}
    found: Callable[[], object] = ops.prepare_matmul(x.a, x.b, out=c, exact=not row.fast, **options)
    return found


class Bench:
    """Measures rows. `peers` of cublas, triton and tilelang race where they are installed; tuning
    the last two may take `peer_seconds` in all."""

    def __init__(self, peers: Sequence[str], rounds: int, peer_seconds: float) -> None:
        self.peers = [p for p in peers if p == "cublas" or find_spec(p) is not None]
        self.rounds = rounds
        self.left = peer_seconds
        self.time = clock_of([torch.empty(1, device="cuda")])
        properties = torch.cuda.get_device_properties(0)
        self.machine = {
            "device": properties.name, "multiprocessors": properties.multi_processor_count,
            "torch": torch.__version__, "cuda": torch.version.cuda, "tilec": tilec.__version__,
            "rounds": rounds, "peers": self.peers,
        }  # fmt: skip

    def measure(self, row: Row) -> tuple[Race, dict[str, Any]]:
        """The race of a row. Raises AssertionError where a contestant of ours is wrong."""
        x = make_operands(row)
        c = torch.empty(row.M, row.N, device="cuda", dtype=self.out_dtype(row))
        notes: dict[str, Any] = {"left_out": {}, "error": {}}
        racers: dict[str, Callable[[], object]] = {}
        for name, make in (("ops", product), ("example", example)):
            launch = make(row, x, c)
            if launch is not None:
                notes["error"][name] = self._check(row, launch, c, x.expected)
                racers[name] = launch
        for peer in self.peers:
            try:
                racers[peer] = self._peer(peer, row, x, c, notes)
            except Exception as error:  # noqa: BLE001  a peer that does not run is to be reported
                notes["left_out"][peer] = f"{type(error).__name__}: {str(error)[:200]}"
        x.expected = None
        if row.bandwidth:
            source = torch.empty(row.bytes // 2, dtype=torch.uint8, device="cuda")
            target = torch.empty_like(source)
            racers["copy"] = lambda: target.copy_(source)
        clock = self.time
        if min(self._quick(launch) for launch in racers.values()) < SHORT_US:
            racers = {name: _graph(launch) for name, launch in racers.items()}
            clock = self._time_graph
            notes["graph"] = GRAPH
        return race(racers, clock, self.rounds), notes

    @staticmethod
    def out_dtype(row: Row) -> Any:
        return torch.bfloat16 if row.dtype == "bfloat16" else torch.float16

    def _check(self, row: Row, launch: Callable[[], object], c: Any, expected: Any) -> float:
        """The error of a result as a share of the expected one's norm, NaN where an element is not
        written. Raises AssertionError above the tolerance."""
        c.fill_(float("nan"))
        launch()
        error = float((c.float() - expected).norm() / expected.norm())
        assert error <= tolerance(row), f"the result is off by {error:.2e} of its norm"
        return error

    def _peer(
        self, peer: str, row: Row, x: Operands, c: Any, notes: dict[str, Any]
    ) -> Callable[[], object]:
        if peer == "cublas":
            launch = cublas(row, x, c)
            notes["error"][peer] = self._check(row, launch, c, x.expected)
            return launch
        if row.kind == "fused" or not row.fast:
            raise ValueError("its kernel here has no such form")
        best: tuple[float, str, Callable[[], object]] | None = None
        for name, launch, made in _tunable(peer, row, x, c):
            if best is not None and self.left <= 0:
                break
            started = time.monotonic()
            try:
                launch()
                result = c if made is None else made()
                error = float((result.float() - x.expected).norm() / x.expected.norm())
                if not error <= tolerance(row):
                    raise ValueError(f"{name} is off by {error:.2e}")
                took = self._quick(launch)
                if best is None or took < best[0]:
                    best = (took, name, launch)
            except Exception as problem:  # noqa: BLE001  as above, a configuration
                notes["left_out"][f"{peer} {name}"] = str(problem)[:200]
            self.left -= time.monotonic() - started
        if best is None:
            raise ValueError("no configuration runs")
        notes[peer] = best[1]
        return best[2]

    def _time_graph(self, launch: Callable[[], object]) -> float:
        return self.time(launch) / GRAPH

    def _quick(self, launch: Callable[[], object]) -> float:
        return measure(launch, self.time, 7).median


Tunable = Iterator[tuple[str, Callable[[], object], Callable[[], Any] | None]]


def _tunable(peer: str, row: Row, x: Operands, c: Any) -> Tunable:
    """The configurations of a peer: name, launch, and its result where that is not `c`."""
    if peer == "triton":
        from benchmarks import gemm_triton

        for name, launch in gemm_triton.launches(x.a, x.b, c):
            yield name, launch, None
    else:
        from benchmarks import gemm_tilelang

        yield from gemm_tilelang.launches(x.a, x.b, c, row.dtype)


def _graph(launch: Callable[[], object]) -> Callable[[], object]:
    """A graph of GRAPH launches, as one. It keeps `launch`, whose memory it uses."""
    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH):
            launch()

    def replay(_kept: Callable[[], object] = launch) -> None:
        graph.replay()

    return replay
