"""Grids that the device decides: as many clusters as run at once, and blocks that must all run at once."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from tests.runtime.conftest import Stub
from tests.runtime.test_launch import CODE, SCALE, SIZES, A, manifest
from tilec.backends.manifest import Variant
from tilec.errors import OutOfResources
from tilec.runtime.cuda import CudaDriver
from tilec.runtime.gpu_device import GpuDevice
from tilec.runtime.launch import load


@pytest.fixture
def driver(stub: Stub) -> CudaDriver:
    stub.sizes(*SIZES)
    return CudaDriver(stub.path)


@pytest.mark.parametrize(("rows", "blocks"), [(1, 8), (40, 128)])
def test_as_many_clusters_as_run_at_once_are_launched(
    stub: Stub, driver: CudaDriver, rows: int, blocks: int
) -> None:
    """Of 33 clusters of four, one would find no neighbouring multiprocessors."""
    some = ("mul", ("min", ("mul", 2, "M"), 33), 4)
    spec = replace(SCALE, grid=(some, 1, 1), cluster=4)
    loaded = load(CODE, manifest(variants=(Variant((), "s.cu", (spec,)),)), driver)
    a = replace(A, shape=(rows, 1000))
    loaded(a, replace(a, pointer=A.pointer + (1 << 20)), 1.0)
    assert tuple(stub.launch().grid) == (blocks, 1, 1)


def test_how_many_clusters_run_at_once_is_asked_of_the_gpu_once(
    stub: Stub, driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of blocks with all of its shared memory; a target remembers which GPU to ask, also a copy
    of it."""
    monkeypatch.setattr("tilec.runtime.cuda.cuda_driver", lambda: driver)
    target = GpuDevice("cuda", 0, driver, "it is here").target
    ask = copy.deepcopy(target).resident_clusters
    assert ask is not None and (ask(8), ask(4)) == (15, 32)
    loads = stub.count("loads")
    assert (ask(8), ask(4), stub.count("loads")) == (15, 32, loads)
    assert target == replace(target, resident_clusters=None)


def test_blocks_that_wait_for_each_other_are_launched_together(
    stub: Stub, driver: CudaDriver
) -> None:
    """132 multiprocessors hold two blocks each; a grid of more is refused, by how many."""
    spec = replace(SCALE, grid=("M", 1, 1), cooperative=True)
    loaded = load(CODE, manifest(variants=(Variant((), "s.cu", (spec,)),)), driver)

    def call(rows: int) -> None:
        a = replace(A, shape=(rows, 1000))
        loaded(a, replace(a, pointer=A.pointer + (1 << 22)), 1.0)

    call(264)
    assert (tuple(stub.launch().grid), stub.launch().extra) == ((264, 1, 1), 2)
    with pytest.raises(OutOfResources, match=r"cuda:0 has room for 264: 1 too many") as refused:
        call(265)
    assert refused.value.code == "TLC0910"


@pytest.mark.parametrize(
    ("version", "together", "how"), [(12030, False, 3), (12030, True, 2), (12020, False, 0)]
)
def test_launches_that_may_begin_early(
    stub: Stub, driver: CudaDriver, version: int, together: bool, how: int
) -> None:
    """Those say so to the driver, if its graphs know them; blocks that wait for each other begin together."""
    driver.version = lambda: version  # type: ignore[method-assign]
    spec = replace(SCALE, grid=("M", 1, 1), early=True, cooperative=together)
    loaded = load(CODE, manifest(variants=(Variant((), "s.cu", (spec,)),)), driver)
    a = replace(A, shape=(7, 1000))
    c = replace(a, pointer=A.pointer + (1 << 20))
    loaded(a, c, 2.5, stream=9)
    loaded.prepare(a, c, 2.5)(stream=8)
    for index, stream in ((0, 9), (1, 8)):
        seen = stub.launch(index - 2)
        assert (tuple(seen.grid), tuple(seen.block)) == ((7, 1, 1), (256, 1, 1))
        assert (seen.extra, seen.stream, seen.parameter(1, "f4")) == (how, stream, 2.5)


def test_clusters_that_wait_for_each_other_are_launched_together(
    stub: Stub, driver: CudaDriver
) -> None:
    """All of them or none, where others would take the work in turn."""
    spec = replace(SCALE, grid=(("mul", "M", 4), 1, 1), cluster=4, cooperative=True)
    loaded = load(CODE, manifest(variants=(Variant((), "s.cu", (spec,)),)), driver)
    for rows in (32, 33):
        a = replace(A, shape=(rows, 1000))
        arguments = (a, replace(a, pointer=A.pointer + (1 << 20)), 1.0)
        if rows == 32:
            loaded(*arguments)
            assert tuple(stub.launch().grid) == (128, 1, 1)
        else:
            with pytest.raises(OutOfResources, match="room for 128: 4 too many"):
                loaded(*arguments)
