"""Calls like an earlier one: they launch what the long way would, and leave to it what is unlike."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.errors import ArgumentError, ExecutionError, LanguageError
from tilec.runtime import driver
from tilec.runtime.arrays import view_array

from .conftest import CupyArray, FakeCupy, Stub, adder, binding_of, does_without

BASE = 0x7F00_0000_0000
OVERLAP = "C, which the kernel writes, lies partly in the memory of A"


def vectors(n: int, base: int = BASE) -> list[CupyArray]:
    return [CupyArray((n,), base + 0x100000 * i) for i in range(3)]


def addresses(stub: Stub, count: int = 3) -> list[object]:
    return [stub.launch().parameter(i, "u8") for i in range(count)]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], bool]:
    """Whether a call of a kernel takes the short way."""
    return does_without(monkeypatch, driver, "call")


def test_shapes_in_turn_are_all_found_the_short_way(stub: Stub, cupy: FakeCupy, short: Any) -> None:
    stub.sizes(8, 8, 8, 4)
    add = adder()
    kinds = [vectors(n, BASE + 0x1000000 * n) for n in (1, 127, 128, 1000)]
    for arrays in kinds:
        assert not short(lambda arrays=arrays: add(*arrays))
    for arrays in kinds * 2:
        assert short(lambda arrays=arrays: add(*arrays))
        assert addresses(stub) == [a.data.ptr for a in arrays]
        assert tuple(stub.launch().grid) == (-(-arrays[0].shape[0] // 128), 1, 1)
        assert stub.launch().parameter(3, "i4") == arrays[0].shape[0]


def test_a_heuristic_is_asked_for_every_shape_and_then_no_more(
    stub: Stub, cupy: FakeCupy, short: Any
) -> None:
    stub.sizes(8, 8, 8, 4)

    @tilec.heuristic(lambda target, shapes: {"block": 128 if shapes["A"][0] > 256 else 64})
    @tilec.kernel
    def add(A: T.Tensor("N", "float32"), B: T.Tensor("N", "float32"), C: T.Tensor("N", "float32"),
            block: int):  # fmt: skip
        with T.Kernel(T.ceildiv(A.shape[0], block), threads=block) as bx:
            for i in T.Parallel(block):
                C[bx * block + i] = A[bx * block + i] + B[bx * block + i]

    small, large = vectors(100), vectors(1000)
    add(*small)
    add(*large)
    for arrays, block in ((small, 64), (large, 128), (small, 64)):
        assert short(lambda arrays=arrays: add(*arrays))
        assert stub.launch().block[0] == block


def test_a_compiled_kernel_repeats_itself_too(
    stub: Stub, cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.sizes(8, 8, 8, 4)
    compiled = adder().compile(target="cuda:sm_80")
    arrays = vectors(1000)
    compiled(*arrays)
    monkeypatch.setattr("tilec.runtime.compiled.select_device", None)
    compiled(*arrays)
    compiled(*arrays, stream=7)
    assert (stub.count("launches"), stub.launch().stream) == (3, 7)
    assert addresses(stub) == [a.data.ptr for a in arrays]


def test_what_is_unlike_is_refused_as_ever(stub: Stub, cupy: FakeCupy, short: Any) -> None:
    stub.sizes(8, 8, 8, 4)
    add = adder()
    a, b, c = vectors(1000)
    add(a, b, c)
    launched = stub.count("launches")
    b.dtype = np.dtype(np.float16)
    with pytest.raises(ArgumentError, match="B has dtype f16, expected f32"):
        add(a, b, c)
    b.dtype = np.dtype(np.float32)
    b.strides = (8,)
    with pytest.raises(ArgumentError, match="B has strides"):
        add(a, b, c)
    b.strides = (4,)
    with pytest.raises(ArgumentError, match="B is on cpu, but A is on cuda:0"):
        add(a, np.zeros(1000, np.float32), c)
    with pytest.raises(ArgumentError, match="not given: C"):
        add(a, b)
    with pytest.raises(ArgumentError, match="not given: A, B, C"):
        add()
    with pytest.raises(ArgumentError, match="stream is str"):
        add(a, b, c, stream="mine")
    assert stub.count("launches") == launched
    assert short(lambda: add(a, b, c))


def test_arrays_that_come_to_overlap_are_refused(stub: Stub, cupy: FakeCupy, short: Any) -> None:
    stub.sizes(8, 8, 8, 4)
    add = adder()
    a, b, c = vectors(1024)
    add(a, b, c)
    launched = stub.count("launches")
    for distance in (16, -16, 128, -128, 3968, -3968):
        c.data.ptr = a.data.ptr + distance
        with pytest.raises(ArgumentError, match=OVERLAP):
            add(a, b, c)
        with pytest.raises(ArgumentError, match=OVERLAP):
            add(a, b, c, stream=3)
    assert stub.count("launches") == launched
    for distance in (0, 4096, -4096):  # one array twice, and neighbours
        c.data.ptr = a.data.ptr + distance
        assert short(lambda: add(a, b, c))
    assert stub.count("launches") == launched + 3


def test_strides_count_where_rows_have_gaps(stub: Stub, cupy: FakeCupy, short: Any) -> None:
    stub.sizes(8, 8, 4)

    @tilec.kernel
    def copy(A: T.StridedTensor(("M", 64), ("S", 1), "float32"), B: T.Tensor(("M", 64), "float32")):
        with T.Kernel(A.shape[0], threads=64) as bx:
            for i in T.Parallel(64):
                B[bx, i] = A[bx, i]

    a, b = CupyArray((10, 64), BASE), CupyArray((10, 64), BASE + 0x100000)
    for stride in (256, 512, 1024, 512, 256):
        a.strides = (stride, 4)
        copy(a, b)
        assert stub.launch().parameter(2, "i4") == stride // 4
        b.data.ptr += 128
        assert short(lambda: copy(a, b))
        assert stub.launch().parameter(2, "i4") == stride // 4
        assert addresses(stub, 2) == [a.data.ptr, b.data.ptr]


def test_arrays_of_several_types(stub: Stub, cupy: FakeCupy) -> None:
    """Each is read in its own way, whichever comes first; views of them are a type of their own."""
    stub.sizes(8, 8, 8, 4)
    add = adder()
    for n in (1000, 2000):
        a, b, c = vectors(n, BASE + 0x1000000 * n)
        for arrays in ((a, view_array(b), c), (view_array(a), b, view_array(c)), (a, b, c)) * 2:
            add(*arrays)
            assert addresses(stub) == [a.data.ptr, b.data.ptr, c.data.ptr]
            assert stub.launch().parameter(3, "i4") == n


def test_settings_are_heard(
    stub: Stub, cupy: FakeCupy, short: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.sizes(8, 8, 8, 4)
    add = adder()
    arrays = vectors(1000)
    add(*arrays)
    with tilec.device("cuda"):
        assert not short(lambda: add(*arrays))
        assert short(lambda: add(*arrays))
    assert not short(lambda: add(*arrays))
    monkeypatch.setenv("TILEC_DEVICE", "nothing")
    with pytest.raises(tilec.errors.TilecError, match="there is no device 'nothing'"):
        add(*arrays)


def test_a_constant_that_changes_is_seen(stub: Stub, cupy: FakeCupy, short: Any) -> None:
    stub.sizes(8)
    block = 64

    @tilec.kernel
    def fill(A: T.Tensor((1024,), "float32")):
        with T.Kernel(1024 // block, threads=block) as bx:
            for i in T.Parallel(block):
                A[bx * block + i] = 1

    a = CupyArray((1024,), BASE)
    fill(a)
    assert short(lambda: fill(a))
    block = 128
    assert not short(lambda: fill(a))
    assert (stub.launch().grid[0], stub.launch().block[0]) == (8, 128)
    assert short(lambda: fill(a))
    assert stub.launch().block[0] == 128
    del block
    with pytest.raises(LanguageError, match="block"):
        fill(a)


def test_a_kernel_in_a_kernel_is_refused_after_a_launch_too(stub: Stub, cupy: FakeCupy) -> None:
    stub.sizes(8, 8, 8, 4)
    add = adder()
    arrays = vectors(1000)
    add(*arrays)
    launched = stub.count("launches")

    @tilec.kernel
    def outer(A: T.Tensor("N", "float32")):
        with T.Kernel(1):
            add(*arrays)

    with pytest.raises(LanguageError, match="the kernel add is called in a kernel"):
        outer.lower(target="cuda:sm_80")
    assert stub.count("launches") == launched


def test_a_launch_that_fails_is_told(stub: Stub, cupy: FakeCupy) -> None:
    stub.sizes(8, 8, 8, 4)
    add = adder()
    arrays = vectors(1000)
    add(*arrays)
    (plan,) = add.remembered.plain.repeat._plans.values()
    (blocks,) = plan.idle
    blocks.bound, blocks.ready = (40, (lambda: 700,)), (40, lambda: 700)
    with pytest.raises(ExecutionError, match="when launching add_kernel"):
        add(*arrays)
    add(*arrays)  # with other argument blocks
    assert addresses(stub) == [a.data.ptr for a in arrays]
    stub.library.stub_fail_next(400)  # a thread without a context: it gets one
    add(*arrays)
    assert stub.count("launches") == 3


def test_no_array_is_kept_alive(stub: Stub, cupy: FakeCupy) -> None:
    stub.sizes(8, 8, 8, 4)
    add = adder()
    for _ in range(3):
        arrays = vectors(1000)
        gone = [weakref.ref(a) for a in arrays]
        add(*arrays)
        add(*arrays)
        del arrays
        gc.collect()
        assert [ref() for ref in gone] == [None] * 3


def test_threads_have_argument_blocks_of_their_own(stub: Stub, cupy: FakeCupy) -> None:
    """With a launch that lets other threads run in its middle."""
    stub.sizes(8, 8, 8, 4)
    add = adder()
    add(*vectors(1000))
    loaded = add.remembered.plain.repeat._loaded
    seen: list[tuple[int, int]] = []
    wait = threading.Event().wait

    def launch(stream: int, parameters: Any) -> int:
        wait(0.002)
        seen.append((stream, ctypes.c_uint64.from_address(parameters[0]).value))
        return 0

    loaded.driver.binding = binding_of(launch)
    for plan in loaded._plans.values():
        plan.idle.clear()

    def call(index: int) -> None:
        add(*vectors(1000, index * 0x1000000), stream=index)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(1, 65)))
    assert sorted(seen) == [(index, 0x1000000 * index) for index in range(1, 65)]
