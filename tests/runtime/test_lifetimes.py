"""How long what is made of a kernel lives, and what copies take along."""

from __future__ import annotations

import copy
import gc
import linecache
import weakref
from typing import Any

import numpy as np
import pytest

import tilec
from tilec.language import kernel as kernel_module
from tilec.language import places
from tilec.parser import python_captures
from tilec.runtime.compiled import CompiledKernel
from tilec.target import find_target

from .conftest import CupyArray, FakeCupy, Stub
from .stored_program import add

SM_80 = find_target("cuda:sm_80")


def cell(text: str) -> dict[str, Any]:
    """The names of a notebook's cell, which is run anew."""
    linecache.cache["<cell>"] = (len(text), None, text.splitlines(True), "<cell>")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, "<cell>", "exec"), names)  # noqa: S102
    return names


FILL = """
import tilec.language as T, tilec
@tilec.kernel
def fill(A: T.Tensor("N", "float32")):
    parts = T.alloc_global((64,), "float32")
    with T.Kernel(1, threads=64):
        for i in T.Parallel(64):
            parts[i] = {value}
    with T.Kernel(1, threads=64):
        for i in T.Parallel(64):
            A[i] = parts[i]
"""


def test_what_was_made_of_a_kernel_goes_with_it(stub: Stub, cupy: FakeCupy) -> None:
    """Programs, text, machine code on the device and workspaces there."""
    stub.sizes(8)
    array, host = CupyArray((64,), 0x7F00_0000_0000), np.zeros(64, np.float32)
    alive: list[weakref.ref[Any]] = []
    for value in range(20):
        fill = cell(FILL.format(value=value))["fill"]
        fill(host)
        assert host[0] == value
        fill(array)
        found = [one.compiled for one in fill.remembered.plain.found.values()]
        alive += map(weakref.ref, [fill, *found, *(one.program for one in found)])
        alive.append(weakref.ref(cupy.made.pop()))
        alive.append(weakref.ref(fill.lower(target="cuda:sm_90a")))
    del fill, found
    gc.collect()
    assert len(alive) > 100 and [ref() for ref in alive if ref() is not None] == []


def test_a_kernel_has_a_bounded_number_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "MOST_PROGRAMS", 3)
    one = tilec.kernel(add.function)
    a = np.ones(8, np.float32)
    programs = []
    for block in (128, 256, 512, 1024, 128):
        c = np.zeros(8, np.float32)
        one(a, a, c, block=block)
        assert c.tolist() == [2] * 8
        programs.append(weakref.ref(one.trace({"block": block})))
    assert programs[-1]() is one.trace({"block": 128})
    gc.collect()
    assert [ref() is not None for ref in programs] == [False, False, False, True, True]


def test_code_that_places_are_known_of_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_MOST", 4)
    a, gone = np.zeros(64, np.float32), []
    for value in range(8):
        names = cell(FILL.format(value=value))
        names["fill"](a)
        gone.append(weakref.ref(names["fill"].staged.run.__code__))
        assert a[0] == value and len(places._cache) <= 4
    python_captures._names_of.cache_clear()  # it keeps code too, unless an earlier test's is equal
    gc.collect()
    assert gone[0]() is None


def test_copies_of_what_was_compiled() -> None:
    made = CompiledKernel(add.lower_to_ir(), SM_80)
    source = made.source
    for other in (copy.copy(made), copy.deepcopy(made)):
        assert other is not made and other.source == source
        assert other.add_general() and len(other.variants) == 2 and len(made.variants) == 1
    program = made.program
    program.made["key"] = made
    assert copy.copy(program).made == copy.deepcopy(program).made == {}


def test_copies_of_what_has_been_launched(stub: Stub, cupy: FakeCupy) -> None:
    stub.sizes(8, 8, 8, 4)
    made = CompiledKernel(add.lower_to_ir(), SM_80)
    arrays = [CupyArray((1000,), 0x7F00_0000_0000 + 0x10000 * i) for i in range(3)]
    for _ in range(2):
        made(*arrays)
    for one in (copy.deepcopy(made), copy.copy(made)):
        one(*arrays)
        one(*arrays)
    assert stub.count("launches") == 6
