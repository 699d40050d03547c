"""Loops of two products and more on sm_90a: which of them run beside the next iteration's, and that all
of them are right, at the trip counts where pipelines go wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.machines import SCHEDULES
from tests.kernels.test_vendor_compilers import check_nvidia
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice

TARGET = "cuda:sm_90a"
STAGES, ROWS, KEYS, D = 2, 64, 32, 64
TRIPS = (0, 1, 2, 3, 5)

Q = T.Tensor(("N", D), "float16")
K = T.Tensor(("S", D), "float16")
V = T.Tensor(("S", D), "float16")
OUT = T.Tensor(("N", D), "float32")


def attention_like(
    step: Callable[..., None], keys_are_values: bool = False, values_first: bool = False
) -> Any:
    """A kernel over blocks of queries and keys; `step(q, k, v, scores, weights, out, number)` is one
    iteration behind the copies, of the keys or of the values first."""
    body = tilec.macro(step)

    @tilec.kernel
    def program(Q: Q, K: K, V: V, Out: OUT, stages: int = STAGES):
        with T.Kernel(T.ceildiv(Q.shape[0], ROWS), threads=128) as block:
            q = T.alloc_shared((ROWS, D), "float16")
            k = T.alloc_shared((KEYS, D), "float16")
            v = T.alloc_shared((KEYS, D), "float16")
            scores = T.alloc_fragment((ROWS, KEYS), "float32")
            weights = T.alloc_fragment((ROWS, KEYS), "float16")
            out = T.alloc_fragment((ROWS, D), "float32")
            T.copy(Q[block * ROWS, 0], q)
            T.clear(out)
            for number in T.Pipelined(T.ceildiv(K.shape[0], KEYS), num_stages=stages):
                if values_first:
                    T.copy(V[number * KEYS, 0], v)
                T.copy(K[number * KEYS, 0], k)
                if keys_are_values:
                    body(q, k, k, scores, weights, out, number)
                else:
                    if not values_first:
                        T.copy(V[number * KEYS, 0], v)
                    body(q, k, v, scores, weights, out, number)
            T.copy(out, Out[block * ROWS, 0])

    return program


def chained(q, k, v, scores, weights, out, number):  # type: ignore[no-untyped-def]
    T.gemm(q, k, scores, transpose_B=True, clear_accum=True)
    T.copy(scores, weights)
    T.gemm(weights, v, out)


def halved(q, k, v, scores, weights, out, number):  # type: ignore[no-untyped-def]
    T.gemm(q, k, scores, transpose_B=True, clear_accum=True)
    for i, j in T.Parallel(ROWS, KEYS):
        scores[i, j] = T.max(scores[i, j], 0)
    for i, j in T.Parallel(ROWS, D):
        out[i, j] = out[i, j] * 0.5
    T.copy(scores, weights)
    T.gemm(weights, v, out)


def branched(q, k, v, scores, weights, out, number):  # type: ignore[no-untyped-def]
    """With a branch between the products, and scalars that depend on the iteration."""
    T.gemm(q, k, scores, transpose_B=True, clear_accum=True)
    if number % 2 == 1:
        for i, j in T.Parallel(ROWS, KEYS):
            scores[i, j] = scores[i, j] + number
    T.copy(scores, weights)
    T.gemm(weights, v, out)


def added(q, k, v, scores, weights, out, number):  # type: ignore[no-untyped-def]
    """Three products, of which the last two are one chain."""
    more = T.alloc_fragment((ROWS, KEYS), "float32")
    T.gemm(q, k, scores, transpose_B=True, clear_accum=True)
    T.gemm(q, k, more, transpose_B=True, clear_accum=True)
    for i, j in T.Parallel(ROWS, KEYS):
        scores[i, j] = scores[i, j] + more[i, j]
    T.copy(scores, weights)
    T.gemm(weights, v, out)


def counted_after(q, k, v, scores, weights, out, number):  # type: ignore[no-untyped-def]
    """The result is needed in its own iteration."""
    chained(q, k, v, scores, weights, out, number)
    for i, j in T.Parallel(ROWS, D):
        out[i, j] = out[i, j] + 1


def read_first(q, k, v, scores, weights, out, number):  # type: ignore[no-untyped-def]
    """The result is needed before the first product of the next iteration."""
    for i, j in T.Parallel(ROWS, D):
        out[i, j] = out[i, j] * 0.5
    chained(q, k, v, scores, weights, out, number)


def sometimes(q, k, v, scores, weights, out, number):  # type: ignore[no-untyped-def]
    T.gemm(q, k, scores, transpose_B=True, clear_accum=True)
    T.copy(scores, weights)
    if number % 2 == 0:
        T.gemm(weights, v, out)


def through_shared(q, k, v, scores, weights, out, number):  # type: ignore[no-untyped-def]
    """The weights lie in shared memory, where the next iteration writes its own."""
    kept = T.alloc_shared((ROWS, KEYS), "float16")
    T.gemm(q, k, scores, transpose_B=True, clear_accum=True)
    T.copy(scores, kept)
    T.gemm(kept, v, out)


def reference(name: str, q: Any, k: Any, v: Any) -> Any:
    """What the kernel named so makes, exactly."""
    out = np.zeros((q.shape[0], D))
    for number, start in enumerate(range(0, k.shape[0], KEYS)):
        keys, values = k[start : start + KEYS], v[start : start + KEYS]
        scores = q.astype(np.float64) @ keys.astype(np.float64).T
        if name == "halved":
            scores, out = np.maximum(scores, 0), out * 0.5
        elif name == "branched" and number % 2:
            scores = scores + number
        elif name == "added":
            scores = scores * 2
        elif name == "read_first":
            out = out * 0.5
        if name != "sometimes" or number % 2 == 0:
            out = out + scores @ (keys if name == "one_buffer" else values).astype(np.float64)
        if name == "counted_after":
            out = out + 1
    return out


OVERLAPPED = {"chained": chained, "halved": halved, "branched": branched, "added": added}
OTHERS = {
    "counted_after": counted_after, "read_first": read_first, "sometimes": sometimes,
    "through_shared": through_shared, "one_buffer": chained,
}  # fmt: skip


@pytest.mark.emulator
@pytest.mark.parametrize("name", [*OVERLAPPED, *OTHERS])
def test_products(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TILEC_CHECK", "1")
    kernel = attention_like({**OVERLAPPED, **OTHERS}[name], keys_are_values=name == "one_buffer")
    compiled = lower(kernel, (), TARGET, {"stages": STAGES})
    codes = [remark.code for remark in compiled.remarks]
    assert "TLC0323" in codes, "it has roles"
    assert ("TLC0329" in codes) == (name in OVERLAPPED)
    check_nvidia(compiled.lowered, "sm_90a", tmp_path)
    draw = np.random.default_rng(0)
    for number, trips in enumerate(TRIPS):
        rows, keys = (ROWS + 5, trips * KEYS) if number % 2 else (ROWS, max(0, trips * KEYS - 3))
        q, k, v = (draw.integers(-1, 2, (n, D)).astype(np.float16) for n in (rows, keys, keys))
        result = np.full((rows, D), -1, np.float32)
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        compiled.run_on(EmulatorDevice(TARGET, "a test", mode, order), (q, k, v, result))
        assert np.array_equal(result, reference(name, q, k, v)), (trips, mode, order)


@pytest.mark.emulator
@pytest.mark.parametrize(("stages", "values_first"), [(1, True), (1, False), (2, True)])
def test_a_slot_that_is_freed_late_is_not_waited_for_early(stages: int, values_first: bool) -> None:
    """Values in one slot, loaded before the keys: the producer would wait for the product that waits
    for the keys."""
    kernel = attention_like(chained, values_first=values_first)
    compiled = lower(kernel, (), TARGET, {"stages": stages})
    overlapped = "TLC0329" in [remark.code for remark in compiled.remarks]
    assert overlapped == (stages > 1 or not values_first)
    draw = np.random.default_rng(0)
    for trips in TRIPS:
        q, k, v = (
            draw.integers(-1, 2, (n, D)).astype(np.float16) for n in (ROWS, *[trips * KEYS] * 2)
        )
        result = np.full((ROWS, D), -1, np.float32)
        compiled.run_on(EmulatorDevice(TARGET, "a test"), (q, k, v, result))
        assert np.array_equal(result, reference("chained", q, k, v)), trips


def test_tiles_of_two_iterations_must_fit_the_registers() -> None:
    @tilec.kernel
    def wide(Q: T.Tensor(("N", 256), "float16"), K: T.Tensor(("S", 256), "float16"),
             Out: T.Tensor(("N", 256), "float32"), keys: int = 128):  # fmt: skip
        with T.Kernel(T.ceildiv(Q.shape[0], 64), threads=128) as block:
            q = T.alloc_shared((64, 256), "float16")
            k, v = (T.alloc_shared((keys, 256), "float16") for _ in range(2))
            scores = T.alloc_fragment((64, keys), "float32")
            weights = T.alloc_fragment((64, keys), "float16")
            out = T.alloc_fragment((64, 256), "float32")
            T.copy(Q[block * 64, 0], q)
            T.clear(out)
            for number in T.Pipelined(T.ceildiv(K.shape[0], keys), num_stages=2):
                T.copy(K[number * keys, 0], k)
                T.copy(K[number * keys, 0], v)
                chain(q, k, v, scores, weights, out, number)
            T.copy(out, Out[block * 64, 0])

    chain = tilec.macro(chained)
    for keys, code, other in ((64, "TLC0329", "TLC0328"), (128, "TLC0328", "TLC0329")):
        codes = [remark.code for remark in lower(wide, (), TARGET, {"keys": keys}).remarks]
        assert code in codes and other not in codes
