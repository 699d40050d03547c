"""Calls from several threads, of kernels that none of them has called before.

Whatever instruction of the runtime a thread comes to, it may wait there for the others (`together`).
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec import ops
from tilec.backends.manifest import Manifest
from tilec.language import kernel as kernel_module
from tilec.language import staging
from tilec.ops import calls as products
from tilec.parser import python
from tilec.runtime import build, calls, compiled, driver, launch, stored
from tilec.runtime.arrays import ArrayView
from tilec.runtime.binary import Binary
from tilec.runtime.check_args import bind_arguments
from tilec.runtime.plan import made_views
from tilec.runtime.stored import StoredVariant
from tilec.target import find_target

from .conftest import CupyArray, FakeCupy, Stub, device_array

BASE = 0x7F00_0000_0000
THREADS = 6
REAL = compiled.CompiledKernel.compiled
WATCHED = {
    module.__file__
    for module in (
        kernel_module,
        staging,
        python,
        calls,
        compiled,
        driver,
        launch,
        stored,
        products,
    )
}


def together(work: Sequence[Callable[[], Any]], seed: int = 0) -> list[Any]:
    """What each of `work` gives, in a thread of its own. Raises what the first of them raised."""
    results: list[Any] = [None] * len(work)
    problems: list[Exception] = []
    start = threading.Barrier(len(work))

    def run(index: int) -> None:
        luck = random.Random(f"{seed} {index}").random

        def dawdle(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "call":
                frame.f_trace_opcodes = frame.f_code.co_filename in WATCHED
                return dawdle if frame.f_trace_opcodes else None
            if event == "opcode" and luck() < 0.01:
                time.sleep(0.01 * luck())
            return dawdle

        start.wait()
        sys.settrace(dawdle)
        try:
            results[index] = work[index]()
        except Exception as problem:  # noqa: BLE001 (of another thread)
            problems.append(problem)
        finally:
            sys.settrace(None)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for problem in problems:
        raise problem
    return results


@pytest.fixture
def compiles(cupy: FakeCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with a cache of its own and a compiler that writes down what it is given."""
    made: list[str] = []

    def compile_variant(text: str, target: object, name: str, **_: object) -> Binary:
        made.append(name)
        time.sleep(0.005)
        return Binary(b"cubin", "")

    monkeypatch.setenv("TILEC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(build, "compile_variant", compile_variant)
    monkeypatch.setattr(compiled.CompiledKernel, "compiled", REAL)
    return made


def adder() -> Any:
    @tilec.kernel
    def add(A: T.Tensor("N", "float32"), B: T.Tensor("N", "float32"), C: T.Tensor("N", "float32"),
            block: int = 512):  # fmt: skip
        with T.Kernel(T.ceildiv(A.shape[0], block), threads=128) as bx:
            for i in T.Parallel(block):
                C[bx * block + i] = A[bx * block + i] + B[bx * block + i]

    return add


def vectors(index: int = 0, off: int = 0, n: int = 1000) -> list[CupyArray]:
    return [CupyArray((n,), BASE + 0x1000000 * (index + 1) + 0x100000 * i + off) for i in range(3)]


def launched(stub: Stub) -> list[tuple[object, int]]:
    """The address of A and the blocks of each launch."""
    launches = map(stub.launch, range(stub.count("launches")))
    return sorted((seen.parameter(0, "u8"), seen.grid[0]) for seen in launches)


@pytest.mark.parametrize("seed", range(3))
def test_first_calls_are_one_compilation(stub: Stub, compiles: list[str], seed: int) -> None:
    stub.sizes(8, 8, 8, 4)
    add = adder()
    arrays = [vectors(i) for i in range(THREADS)]
    together([lambda a=a: add(*a) for a in arrays], seed)
    assert compiles == ["add.cu"]
    assert launched(stub) == [(a[0].data.ptr, 2) for a in arrays]


def test_first_calls_of_what_is_stored(
    stub: Stub, compiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread finds out what the cache has, while the others ask for it."""
    stub.sizes(8, 8, 8, 4)
    adder()(*vectors())

    class Slow(StoredVariant):
        def __getattribute__(self, name: str) -> Any:
            time.sleep(0.1 if name == "binary" else 0)
            return super().__getattribute__(name)

    def read(*what: Any) -> StoredVariant | None:
        found = stored.read_variant(*what)
        return None if found is None else Slow(found.variant, found.binary)

    monkeypatch.setattr(compiled, "read_variant", read)
    add = adder()
    together([lambda i=i: add(*vectors(i)) for i in range(THREADS)])
    assert compiles == ["add.cu"] and stub.count("launches") == 1 + THREADS


@pytest.mark.parametrize("seed", range(3))
def test_first_calls_that_need_the_general_variant(
    stub: Stub, compiles: list[str], seed: int
) -> None:
    stub.sizes(8, 8, 8, 4)
    add = adder()
    arrays = [vectors(i, off=4 * (i % 2)) for i in range(THREADS)]
    together([lambda a=a: add(*a) for a in arrays], seed)
    assert sorted(compiles) == ["add.cu", "add_generic.cu"]
    assert launched(stub) == [(a[0].data.ptr, 2) for a in arrays]
    again = tilec.kernel(add.function)
    together([lambda a=a: again(*a) for a in arrays], seed)
    assert len(compiles) == 2 and stub.count("launches") == 2 * THREADS


@pytest.mark.parametrize("seed", range(3))
def test_first_calls_of_a_compiled_kernel(stub: Stub, compiles: list[str], seed: int) -> None:
    stub.sizes(8, 8, 8, 4)
    made = adder().lower(target="cuda:sm_80")
    arrays = [vectors(i, off=4 * (i % 2)) for i in range(THREADS)]

    def call(index: int) -> None:
        if index < THREADS // 2:
            made(*arrays[index])
        else:
            made.prepare(*arrays[index])()

    together([lambda i=i: call(i) for i in range(THREADS)], seed)
    assert sorted(compiles) == ["add.cu", "add_generic.cu"]
    assert launched(stub) == [(a[0].data.ptr, 2) for a in arrays]


def test_first_calls_of_several_specialisations(stub: Stub, compiles: list[str]) -> None:
    stub.sizes(8, 8, 8, 4)
    add = adder()
    blocks = [128, 256, 512] * 2
    together([lambda i=i: add(*vectors(i), block=blocks[i]) for i in range(len(blocks))])
    assert compiles == ["add.cu"] * 3
    assert [blocks_of for _, blocks_of in launched(stub)] == [8, 4, 2] * 2
    assert len({id(add.trace({"block": block})) for block in blocks}) == 3


def filling() -> tuple[Any, Callable[[], None]]:
    """A kernel whose blocks have 64 threads, and what makes them 128."""
    block = 64

    @tilec.kernel
    def fill(A: T.Tensor((1024,), "float32")):
        with T.Kernel(1024 // block, threads=block) as bx:
            for i in T.Parallel(block):
                A[bx * block + i] = 1

    def widen() -> None:
        nonlocal block
        block = 128

    return fill, widen


@pytest.mark.parametrize("seed", range(6))
def test_a_constant_that_changes_among_calls_is_seen_by_all(
    stub: Stub, compiles: list[str], seed: int
) -> None:
    stub.sizes(8)
    fill, widen = filling()

    def change() -> None:
        time.sleep(0.01 * random.Random(seed).random())
        with fill.lock:  # not in the middle of a trace
            widen()

    a = CupyArray((1024,), BASE)
    together([change, *[lambda: [fill(a) for _ in range(3)]] * 3], seed)
    for _ in range(2):
        fill(a)
        assert (stub.launch().grid[0], stub.launch().block[0]) == (8, 128)


def test_a_call_that_is_overtaken_by_a_change_leaves_nothing_behind(
    stub: Stub, compiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its trace and its launch another thread calls the kernel, with another constant."""
    stub.sizes(8)
    fill, widen = filling()

    real = driver._compiled_for
    a = CupyArray((1024,), BASE)
    changes = [widen]

    def overtaken(*arguments: Any) -> Any:
        if changes:
            changes.pop()()
            other = threading.Thread(target=fill, args=(a,))
            other.start()
            other.join()
        return real(*arguments)

    monkeypatch.setattr(driver, "_compiled_for", overtaken)
    fill(a)
    assert [stub.launch(i).block[0] for i in range(2)] == [128, 64]
    for _ in range(2):
        fill(a)
        assert stub.launch().block[0] == 128


def test_variants_that_another_thread_adds_while_one_is_picked(compiles: list[str]) -> None:
    """As the emulator picks them: of a question that it asked of the first one alone."""
    made = compiled.CompiledKernel(adder().trace({"block": 512}), find_target("cuda:sm_80"))
    asked: list[str] = []

    class Picker:
        def run(self, program: Any, arrays: Any, stream: object) -> str:
            bound = bind_arguments(program.interface, arrays)
            env = bound.environment(4)

            def views(manifest: Manifest) -> Mapping[str, ArrayView]:
                asked.append(manifest.variants[0].source)
                program.add_general()  # as another thread might
                return made_views(manifest, bound, env)

            return program.picked(views, env).file_name

    odd = [device_array((1000,), "f32", BASE + 0x10000 * i + 4) for i in range(3)]
    assert made.run_on(Picker(), odd) == "add_generic.cu"
    assert asked[0] == "add.cu"


def test_launches_that_share_a_workspace_are_not_mixed(
    stub: Stub, cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of several threads on one stream, eager ones and prepared ones."""

    @tilec.kernel
    def total(A: T.Tensor("N", "float32"), B: T.Tensor((128,), "float32")):
        parts = T.alloc_global((T.ceildiv(A.shape[0], 128), 128), "float32")
        with T.Kernel(T.ceildiv(A.shape[0], 128), threads=128) as bx:
            for i in T.Parallel(128):
                parts[bx, i] = A[bx * 128 + i]
        with T.Kernel(1, threads=128):
            for i in T.Parallel(128):
                B[i] = parts[0, i]

    seen: list[tuple[str, int]] = []

    def launch(symbol: str) -> int:
        seen.append((symbol, threading.get_ident()))
        time.sleep(0.002)
        return 0

    a = [
        [CupyArray((n,), BASE + 0x10000 * i + 64 * n) for n in (1000, 128)] for i in range(THREADS)
    ]
    total(*a[0])
    loaded = total.remembered.plain.repeat._loaded
    monkeypatch.setattr(
        loaded.driver, "binding", lambda f, grid, spec: lambda *_: partial(launch, spec.symbol)
    )
    for plan in loaded._plans.values():
        plan.idle.clear()
    prepared = loaded.prepare(*a[0])
    for call in (lambda i: total(*a[i]), lambda i: prepared()):
        seen.clear()
        together([lambda i=i, call=call: call(i) for i in range(THREADS)])
        first, second = seen[::2], seen[1::2]
        assert [thread for _, thread in first] == [thread for _, thread in second]
        assert len({symbol for symbol, _ in first}) == len({symbol for symbol, _ in second}) == 1


def is_interrupted(call: Callable[..., Any], arguments: Sequence[Any], last: int) -> bool:
    """Whether a call comes to the watched place of that number, where it is interrupted: there are as
    many as Python looks for signals at, where functions begin and C's have returned."""
    places = count(1)

    def interrupt(frame: FrameType, event: str, argument: Any) -> None:
        here = event in ("call", "c_return") and frame.f_code.co_filename in WATCHED
        if here and next(places) == last:
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        call(*arguments)
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_an_interrupted_call_leaves_the_kernel_to_others(stub: Stub, compiles: list[str]) -> None:
    """At every place in a first call, of a kernel whose launches share a workspace. What it reads has
    changed when it is called again."""
    block = 128

    def summing() -> Any:
        @tilec.kernel
        def total(A: T.Tensor("N", "float32"), B: T.Tensor((128,), "float32")):
            parts = T.alloc_global((T.ceildiv(A.shape[0], block), 128), "float32")
            with T.Kernel(T.ceildiv(A.shape[0], block), threads=128) as bx:
                for i in T.Parallel(128):
                    parts[bx, i] = A[bx * block + i]
            with T.Kernel(1, threads=128):
                for i in T.Parallel(128):
                    B[i] = parts[0, i]

        return total

    a = [CupyArray((n,), BASE + 64 * n) for n in (1000, 128)]
    summing()(*a)
    for place in count(1):
        total = summing()
        if not is_interrupted(total, a, place):
            break
        block = 384 - block
        stub.reset()
        thread = threading.Thread(target=total, args=a, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), f"a lock is held after place {place}"
        assert [stub.launch(i).grid[0] for i in range(2)] == [-(-1000 // block), 1], place
    assert place > 150


def test_a_table_is_looked_at_while_another_thread_changes_it() -> None:
    table: dict[int, int] = dict.fromkeys(range(2000), 2)

    @tilec.kernel
    def fill(A: T.Tensor((64,), "float32")):
        with T.Kernel(1, threads=64):
            for i in T.Parallel(64):
                A[i] = table[0]

    fill.trace({})
    bindings, stop = fill.bindings, threading.Event()

    def change() -> None:
        while not stop.is_set():
            table.update((n, 3) for n in range(-50, 0))
            for n in range(-50, 0):
                del table[n]

    thread, interval = threading.Thread(target=change), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        end, found = time.monotonic() + 10, set[bool]()
        while False not in found and time.monotonic() < end:
            found |= {staging.as_they_are(bindings) is bindings for _ in range(200)}
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert False in found and staging.as_they_are(bindings) is bindings


def test_products_are_forgotten_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(dict[Any, Any]):
        def __iter__(self) -> Iterator[Any]:
            found = super().__iter__()
            time.sleep(0.005)
            return found

        def __setitem__(self, key: Any, value: Any) -> None:
            time.sleep(0.005)
            super().__setitem__(key, value)

    memory = products.Memory()
    memory._calls = Slow()
    monkeypatch.setattr(products, "_MOST", 1)
    monkeypatch.setitem(ops.matmul.__globals__, "remembered", memory)

    def multiply(n: int) -> None:
        for k in (n, n + THREADS, n):
            a = np.ones((2, k), np.float32)
            assert (ops.matmul(a, a.T) == k).all()

    together([lambda n=n: multiply(n) for n in range(1, THREADS + 1)])
    assert len(memory._calls) == 1
