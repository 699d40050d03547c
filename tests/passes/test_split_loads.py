"""split_loads: loads through registers are fetched one iteration and deposited another."""

from __future__ import annotations

from typing import Any

import pytest

from tests.passes import planned_kernels as kernels
from tests.passes.planning import Planned, keeps_meaning, plan, specialised
from tilec.ir.ops.memory import Load
from tilec.ir.ops.pipeline import Channel, Put, Receive, Send, Stage
from tilec.ir.ops.tile import Copy, LoadTile, StoreTile
from tilec.ir.types import TileType


def split(kernel: Any, target: str, *, assume: bool = True, **constants: Any) -> Planned:
    return plan(specialised(kernel, **constants), "split_loads", target, assume=assume)


def labels(result: Planned) -> list[str]:
    return [s.label for s in result.all(Stage)]


def stage(result: Planned, label: str) -> list[str]:
    (found,) = [s for s in result.all(Stage) if s.label == label]
    return [op.name for op in found.body.ops if not op.pure and op.name != "yield"]


def test_a_load_through_registers_is_two_stages() -> None:
    result = split(kernels.gemm_nt, "hip:gfx942")
    assert labels(result) == ["fetch", "deposit", "mma"]
    assert stage(result, "fetch") == ["load_tile", "send"] * 2
    assert stage(result, "deposit") == ["put", "receive", "store_tile", "commit"] * 2
    assert not result.all(Copy)
    tiles = [c for c in result.all(Channel) if isinstance(c.type.memory, TileType)]
    assert [(c.label, c.type.slots) for c in tiles] == [("A_registers", 1), ("B_registers", 1)]
    for sent, received in zip(result.all(Send), result.all(Receive), strict=True):
        assert sent.channel is received.channel


def test_what_is_copied_asynchronously_stays_a_load() -> None:
    result = split(kernels.mixed, "cuda:sm_80")
    assert labels(result) == ["fetch", "deposit", "load", "mma"]
    assert stage(result, "load").count("copy") == 1
    assert stage(result, "fetch") == ["load", "load_tile", "send"]
    assert stage(result, "deposit") == ["put", "receive", "store_tile", "commit"]
    assert len(result.all(LoadTile)) == len(result.all(StoreTile)) - 1 == 1


def test_a_conversion_happens_on_deposit() -> None:
    result = split(kernels.mixed, "cuda:sm_80")
    (load,) = result.all(LoadTile)
    assert isinstance(load.result.type, TileType) and load.result.type.dtype.name == "i8"
    (deposit,) = [s for s in result.all(Stage) if s.label == "deposit"]
    assert [op.name for op in deposit.body.ops if op.name in ("cast", "receive")] == [
        "receive",
        "cast",
    ]


def test_nothing_is_split_that_needs_no_registers() -> None:
    for target in ("cuda:sm_80", "cuda:sm_90a"):
        assert labels(split(kernels.gemm_nt, target)).count("load") == 1
        assert not split(kernels.gemm_nt, target).all(Send)


def test_a_copy_among_other_statements_is_left_to_its_stage() -> None:
    result = split(kernels.used_after, "hip:gfx942")
    assert labels(result) == ["fetch", "deposit", "mma"]
    assert stage(result, "mma")[0] == "copy"


def test_what_registers_cannot_hold_beside_the_accumulators_loads_when_it_deposits() -> None:
    wide = {"bm": 128, "bn": 256, "bk": 64, "threads": 256}
    result = split(kernels.gemm_nt, "cuda:sm_80", assume=False, **wide)
    assert labels(result) == ["fetch", "deposit", "mma"]
    # 255 - 128 accumulators - 32 of fragments - 48 for addresses hold the 32 elements of A and their
    # 4 addresses of 64 bits, not the 64 and 8 of B too.
    assert (
        "B is not loaded ahead: 80 registers a thread, 47 left" in result.remark("TLC0325").message
    )
    assert stage(result, "fetch") == ["load_tile", "send"]
    both = ["put", "receive", "store_tile", "commit"]
    assert stage(result, "deposit") == [*both, "put", "copy", "commit"]
    (channel,) = [c for c in result.all(Channel) if isinstance(c.type.memory, TileType)]
    assert channel.label == "A_registers"
    keeps_meaning(specialised(kernels.gemm_nt, **wide), result.program)
    assert split(kernels.gemm_nt, "cuda:sm_80", assume=False, threads=256).codes == []
    # Of 512 threads each has 128 registers: 64 + 24 + 48 leave none.
    result = split(kernels.gemm_nt, "cuda:sm_80", assume=False, **{**wide, "threads": 512})
    assert labels(result) == ["deposit", "mma"]
    assert {r.message for r in result.remarks if r.code == "TLC0325"} == {
        "A is not loaded ahead: 20 registers a thread, 0 left",
        "B is not loaded ahead: 40 registers a thread, 0 left",
    }
    assert "TLC0325" not in split(kernels.gemm_nt, "hip:gfx942", **wide).codes


@pytest.mark.parametrize(
    "kernel",
    [kernels.gemm_nt, kernels.mixed, kernels.used_after, kernels.from_table],
    ids=lambda k: k.name,
)
@pytest.mark.parametrize(("target", "assume"), [("hip:gfx942", True), ("cuda:sm_80", False)])
def test_the_meaning_stays(kernel: Any, target: str, assume: bool) -> None:
    result = split(kernel, target, assume=assume)
    keeps_meaning(kernel.lower_to_ir(), result.program)
    for one in result.all(Stage):
        puts = [op for op in one.body.ops if isinstance(op, Put)]
        assert not puts or one.label in ("deposit", "load", "make")


def test_an_address_is_read_where_it_is_needed_and_nowhere_else() -> None:
    for target in ("hip:gfx942", "cuda:sm_80"):
        result = split(kernels.mixed, target)
        readers = [
            s.label for s in result.all(Stage) if any(isinstance(op, Load) for op in s.walk())
        ]
        assert readers == ["fetch"], target
