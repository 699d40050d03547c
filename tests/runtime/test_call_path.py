"""The path of a repeated call: how little runs on it, and that it asks the driver for nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import tilec
import tilec.language as T
from tilec.runtime import driver as calls

from .conftest import CupyArray, FakeCupy, Stub, adder


@tilec.kernel
def total(A: T.Tensor("N", "float32")):
    parts = T.alloc_global((T.ceildiv(A.shape[0], 128), 128), "float32")
    out = T.empty((128,), "float32")
    with T.Kernel(T.ceildiv(A.shape[0], 128), threads=128) as bx:
        for i in T.Parallel(128):
            parts[bx, i] = A[bx * 128 + i]
    with T.Kernel(1, threads=128):
        for i in T.Parallel(128):
            out[i] = parts[0, i]
    return out


def calls_made(call: Callable[[], Any]) -> list[str]:
    """The names of the Python functions that `call` runs."""
    seen: list[str] = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            seen.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen[1:-1]


def test_a_repeated_call_derives_nothing(stub: Stub, cupy: FakeCupy) -> None:
    add = adder()
    stub.sizes(8, 8, 8, 4)
    a, b, c = (CupyArray((1000,), 0x7F00_0000_0000 + 0x10000 * i) for i in range(3))
    add(a, b, c)
    add(a, b, c)
    seen = calls_made(lambda: add(a, b, c))
    fakes = {"_c_contiguous", "contiguous_strides", "<genexpr>", "<lambda>"}
    assert [name for name in seen if name not in fakes] == ["__call__", "call"], seen
    assert stub.count("launches") == 3
    assert [stub.launch().parameter(i, "u8") for i in range(3)] == [x.data.ptr for x in (a, b, c)]
    assert (tuple(stub.launch().grid), stub.launch().stream) == ((8, 1, 1), 40)
    prepared = next(iter(add.remembered.plain.found.values())).compiled.prepare(a, b, c)
    prepared()
    assert len(calls_made(prepared)) <= 4


def test_what_changes_is_seen_by_the_next_call(stub: Stub, cupy: FakeCupy) -> None:
    add = adder()
    stub.sizes(8, 8, 8, 4)
    arrays = [CupyArray((1000,), 0x7F00_0000_0000 + 0x10000 * i) for i in range(3)]
    add(*arrays)
    for array in arrays:
        array.shape = (2000,)
    add(*arrays, stream=9)
    assert (tuple(stub.launch().grid), stub.launch().stream) == ((16, 1, 1), 9)
    add(*arrays)
    assert stub.launch().stream == 40
    arrays[1].data.ptr += 4  # less aligned: the general variant
    add(*arrays)
    assert stub.launch().parameter(1, "u8") == arrays[1].data.ptr
    arrays[2].shape = (1000,)
    with pytest.raises(tilec.errors.ArgumentError, match=r"C has shape \(1000,\), expected \(N,\)"):
        add(*arrays)


def test_a_captured_call_after_a_warm_up_makes_its_outputs_and_nothing_else(
    stub: Stub, cupy: FakeCupy
) -> None:
    stub.sizes(8, 8)
    a = CupyArray((1000,), 0x7F00_0000_0000)
    first = total(a)
    assert [x.shape for x in cupy.made] == [(128,), (8, 128)] and first is cupy.made[0]
    assert stub.launch(0).parameter(1, "u8") == stub.launch(1).parameter(0, "u8")
    loads = stub.count("loads")
    workspace = stub.launch().parameter(0, "u8")
    stub.library.stub_capture(1)
    second = total(a)
    assert cupy.made[2:] == [second] and stub.count("loads") == loads
    assert stub.launch().parameter(0, "u8") == workspace
    longer = CupyArray((2000,), 0x7F00_0000_0000)
    total(longer)
    assert stub.launch().parameter(0, "u8") != workspace
    kept = next(iter(total.remembered.plain.found.values())).compiled.loaded()._outgrown
    assert [x.data.ptr for x in kept] == [workspace]  # the graph that was captured first uses it
    stub.library.stub_capture(0)
    total(a)
    graphs = stub.launch().parameter(0, "u8")
    assert graphs not in (workspace, cupy.made[4].data.ptr), "calls share no memory with graphs"
    compiled = next(iter(total.remembered.plain.found.values())).compiled
    prepared = compiled.prepare(a)
    made = len(cupy.made)
    stub.library.stub_capture(1)
    assert prepared() is prepared() and len(cupy.made) == made
    stub.library.stub_capture(0)
    assert calls.compile_program(compiled.program, compiled.target) is compiled


@pytest.mark.parametrize("cupy", [2], indirect=True)
def test_a_second_device_has_its_own_modules(stub: Stub, cupy: FakeCupy) -> None:
    add = adder()
    stub.sizes(8, 8, 8, 4)
    for device in (0, 1):
        arrays = [CupyArray((100,), 0x7F00_0000_0000 + 0x10000 * i, device) for i in range(3)]
        add(*arrays)
        assert stub.launch().stream == 40 + device
    mixed = [CupyArray((100,), 0x7F00_0000_0000, device) for device in (0, 1, 0)]
    with pytest.raises(tilec.errors.ArgumentError, match="B is on cuda:1, but A is on cuda:0"):
        add(*mixed)
