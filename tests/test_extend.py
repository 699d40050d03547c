"""tilec.extend: what it refuses, and what a registry holds after an extension was installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec import extend
from tilec.errors import TilecError
from tilec.passes.pipeline import PIPELINE, pipeline_of
from tilec.runtime.lowering import standard_registry
from tilec.target import TARGETS, find_target


class Odd(extend.Unary, name="unit.odd", pure=True):
    """x."""

    text = "{x}"
    x: extend.Value = extend.operand()

    def evaluate(self, *inputs: Any) -> Any:
        return inputs[0]


def keep(program: extend.Program, context: extend.PassContext) -> extend.Program:
    return program


def later(program: extend.Program, context: extend.PassContext) -> extend.Program:
    return program


def names(registry: extend.Registry) -> list[str]:
    return [p.__name__ for p in pipeline_of(registry)]


def test_passes_stand_where_they_are_put() -> None:
    unit = extend.Extension("unit")
    unit.add_pass(keep, before="canonicalize")
    unit.add_pass(later, after="unit.keep")
    unit.add_pass(later, after="canonicalize")
    registry = standard_registry().copy()
    extend.install(unit, registry)
    extend.install(unit, registry)  # once is enough
    found = names(registry)
    assert found[:3] == ["unit.keep", "unit.later", "canonicalize"]
    last = len(found) - 1 - found[::-1].index("canonicalize")
    assert found[last + 1] == "unit.later"
    assert len(found) == len(PIPELINE) + 3
    assert names(standard_registry()) == [p.__name__ for p in PIPELINE]


def test_an_op_and_its_rules_are_entries_of_one_registry() -> None:
    unit = extend.Extension("unit")
    unit.op(Odd)
    unit.spell(Odd, "odd({x})", backend="hip")
    unit.lower(Odd)(keep)
    unit.layouts(Odd)(keep)
    unit.interpret(Odd)(keep)
    registry = standard_registry().copy()
    extend.install(unit, registry)
    assert registry.find("unit.odd") is Odd and standard_registry().find("unit.odd") is None
    assert registry.lookup("spelling:hip", Odd) == "odd({x})"
    assert all(registry.lookup(t, Odd) is keep for t in ("lower", "layouts", "interpret"))


def outside() -> None:
    extend.emit(Odd(extend.value(1)))


def taken() -> None:
    class Other(extend.Unary, name="unit.odd", pure=True):
        """x."""

        x: extend.Value = extend.operand()

    registry = standard_registry().copy()
    for cls in (Odd, Other):
        unit = extend.Extension("unit")
        unit.op(cls)
        extend.install(unit, registry)


def other_target() -> None:
    from dataclasses import replace

    unit = extend.Extension("unit")
    unit.target(replace(find_target("cuda:sm_80"), registers=1))
    extend.install(unit, standard_registry().copy())


REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("TLC0215", lambda: extend.Extension("not a name")),
    ("TLC0215", lambda: extend.Extension("tilec")),
    ("TLC0215", lambda: extend.Extension("acme").op(Odd)),
    ("TLC0216", lambda: extend.Extension("unit").op(int)),  # type: ignore[type-var]
    ("TLC0217", lambda: extend.Extension("unit").add_pass(keep)),
    ("TLC0217", lambda: extend.Extension("unit").add_pass(keep, before="x", after="y")),
    ("TLC0214", lambda: extend.Extension("unit").add_pass(keep, after="nothing")),
    ("TLC0210", taken),
    ("TLC0502", other_target),
    ("TLC0102", outside),
]


@pytest.mark.parametrize(("code", "wrong"), REFUSED)
def test_what_is_refused(code: str, wrong: Callable[[], object]) -> None:
    before = dict(TARGETS)
    with pytest.raises(TilecError) as caught:
        wrong()
    assert caught.value.code == code
    assert before == TARGETS


fixed = extend.Extension("unit").dtype(
    "fixed",
    "int8",
    decode=lambda bits: T.cast(bits, "float32") * 0.03125,
    encode=lambda x: T.cast(x * 32.0, "int8"),
)


@tilec.kernel
def stored(A: T.Tensor((8,), fixed), B: T.Tensor((8,), "float32"), C: T.Tensor((8,), fixed)):
    with T.Kernel(1, threads=32):
        S = T.alloc_shared((8,), fixed)
        F = T.alloc_fragment((8,), fixed)
        T.copy(A, S)
        T.copy(S, F)
        T.fill(C, 0.5)
        for i in T.Parallel(8):
            B[i] = F[i] + fixed(0.99)
            if i < 4:
                C[i] = F[i]


def test_a_stored_dtype_is_decoded_and_encoded() -> None:
    bits = np.array([-128, -64, -1, 0, 1, 32, 64, 127], np.int8)
    b, c = np.zeros(8, np.float32), np.zeros(8, np.int8)
    stored(bits, b, c)
    assert np.array_equal(b, bits / np.float32(32) + np.float32(31 / 32))
    assert c.tolist() == [-128, -64, -1, 0, 16, 16, 16, 16]
    assert str(fixed) == "unit.fixed"


@tilec.kernel
def converted(A: T.Tensor((8,), fixed), B: T.Tensor((8,), "int8")):
    with T.Kernel(1, threads=32):
        T.copy(A, B)


@tilec.kernel
def multiplied(A: T.Tensor((16, 16), "float32")):
    with T.Kernel(1, threads=32):
        X = T.alloc_shared((16, 16), fixed)
        C = T.alloc_fragment((16, 16), "float32")
        T.gemm(X, X, C)
        T.copy(C, A)


wide = extend.Extension("unit").dtype("wide", "int32", decode=lambda x: x, encode=lambda x: x)


@tilec.kernel
def added(A: T.Tensor((8,), wide)):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(8):
            T.atomic_add(A[i], 1)


@pytest.mark.parametrize("kernel", [converted, multiplied, added], ids=lambda k: k.name)
def test_bits_are_never_taken_for_values(kernel: Any) -> None:
    with pytest.raises(TilecError) as caught:
        kernel.lower(target="cuda:sm_80")
    assert caught.value.code == "TLC0139" and "unit." in caught.value.message
    assert caught.value.loc.known
