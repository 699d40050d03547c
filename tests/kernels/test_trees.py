"""Threads that join what others hold, step by step, in shared memory: as CUDA programmers write it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tests.kernels.machines import TARGETS
from tests.passes.planning import line_of
from tilec.errors import HazardError
from tilec.runtime.driver import lower

pytestmark = pytest.mark.emulator

A_T, C_T = T.Tensor(("N",), "float32"), T.Tensor(("B",), "float32")


@tilec.kernel
def halving(A: A_T, C: C_T, threads: int = 128):
    """Sums of 128 numbers: each step the lower half of the threads adds what the upper half has."""
    with T.Kernel(C.shape[0], threads=threads) as b:
        t = T.get_thread_binding()
        S = T.alloc_shared((threads,), "float32")
        S[t] = A[b * threads + t]
        s = T.alloc_var("int32", threads // 2)
        while s > 0:
            if t < s:
                S[t] += S[t + s]
            s = s // 2
        if t == 0:
            C[b] = S[0]


@tilec.kernel
def own_barriers(A: A_T, C: C_T, threads: int = 128):
    """The same with the program's own barriers, and a loop over bits."""
    with T.Kernel(C.shape[0], threads=threads) as b:
        t = T.get_thread_binding()
        S = T.alloc_shared((threads,), "float32")
        S[t] = A[b * threads + t]
        s = T.alloc_var("int32", threads)
        T.sync_threads()
        for _ in T.serial(threads.bit_length() - 1):
            s = s // 2
            if t < s:
                S[t] += S[t + s]
            T.sync_threads()
        if t == 0:
            C[b] = S[0]


@tilec.kernel
def interleaved(A: A_T, C: C_T, threads: int = 128):
    """Neighbours first: the elements that a step reads and writes are 2 s apart."""
    with T.Kernel(C.shape[0], threads=threads) as b:
        t = T.get_thread_binding()
        S = T.alloc_shared((threads,), "float32")
        S[t] = A[b * threads + t]
        s = T.alloc_var("int32", 1)
        while s < threads:
            i = 2 * s * t
            if i + s < threads:
                S[i] = S[i] + S[i + s]
            s = s * 2
        if t == 0:
            C[b] = S[0]


@pytest.mark.parametrize("kernel", [halving, own_barriers, interleaved], ids=lambda k: k.name)
@pytest.mark.parametrize("threads", [1, 2, 32, 128])
def test_trees_of_sums(kernel: Any, threads: int) -> None:
    a = np.random.default_rng(0).integers(-9, 9, 3 * threads).astype(np.float32)
    expected = a.reshape(3, threads).sum(1)
    for leg, (_, c) in every_leg(kernel, a, np.full(3, np.nan, np.float32), threads=threads):
        assert np.array_equal(c, expected), leg


@pytest.mark.parametrize("kernel", [halving, own_barriers, interleaved], ids=lambda k: k.name)
def test_one_barrier_a_step(kernel: Any) -> None:
    for target, text in compile_texts(kernel).items():
        body = text[text.rindex("_kernel") :]
        loop = body[body.index("while" if kernel is not own_barriers else "for (") :]
        assert loop[: loop.index("\n  }\n")].count("barrier();") == 1, target


@tilec.kernel
def meeting(A: A_T, C: C_T):
    """Thread s writes what thread 0 reads."""
    with T.Kernel(C.shape[0], threads=128) as b:
        t = T.get_thread_binding()
        S = T.alloc_shared((256,), "float32")
        S[t] = A[b * 128 + t]
        s = T.alloc_var("int32", 64)
        while s > 0:
            if t <= s:
                S[t] += S[t + s]
            s = s // 2
        C[b] = S[0]


@tilec.kernel
def from_outside(A: A_T, C: C_T, n: T.int32):
    """Steps that only the call knows."""
    with T.Kernel(C.shape[0], threads=128) as b:
        t = T.get_thread_binding()
        S = T.alloc_shared((128,), "float32")
        S[t] = A[b * 128 + t]
        s = T.alloc_var("int32", n)
        while s > 0:
            if t < s:
                S[t] += S[t + s]
            s = s // 2
        C[b] = S[0]


@tilec.kernel
def other_steps(A: A_T, C: C_T):
    """The step is what only some threads have set it to: another one for those."""
    with T.Kernel(C.shape[0], threads=128) as b:
        t = T.get_thread_binding()
        S = T.alloc_shared((256,), "float32")
        S[t] = A[b * 128 + t]
        s = T.alloc_var("int32", 64)
        if t > 3:
            s = 1
        for _ in T.serial(2):
            if t < 64:
                S[t] += S[t + s]
        C[b] = S[0]


@pytest.mark.parametrize("kernel", [meeting, from_outside, other_steps], ids=lambda k: k.name)
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_not_known_to_be_apart_is_refused(kernel: Any, target: str) -> None:
    with pytest.raises(HazardError) as caught:
        lower(kernel, (), target, {})
    assert caught.value.code == "TLC0340"
    assert line_of(caught.value.loc) == "S[t] += S[t + s]"
