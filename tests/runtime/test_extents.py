"""Extents at their ends: none at all, and those near 2^31, without memory that large."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.errors import ArgumentError
from tilec.passes.context import Assume
from tilec.passes.ranges import SYMBOL_LIMIT
from tilec.runtime.arrays import ArrayView
from tilec.runtime.binary import Binary
from tilec.runtime.check_args import NoVariant, bind_arguments, pick_variant
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.cuda import CudaDriver
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.launch import load
from tilec.runtime.lowering import lower_program
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target

from .conftest import Stub, device_array

DEVICES = (
    "interpreter",
    "emulator:cuda:sm_80",
    "emulator:cuda:sm_90a",
    "emulator:hip:gfx942",
)


@tilec.kernel
def transpose(A: T.Tensor(("M", "N"), "float32"), C: T.Tensor(("N", "M"), "float32")):
    with T.Kernel(T.ceildiv(A.shape[0], 32), T.ceildiv(A.shape[1], 32), threads=128) as (bx, by):
        for i, j in T.Parallel(32, 32):
            C[by * 32 + j, bx * 32 + i] = A[bx * 32 + i, by * 32 + j]


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_no_elements(device: str) -> None:
    for m, n in ((0, 5), (5, 0), (0, 0), (1, 1), (33, 31)):
        a = np.random.default_rng(m).standard_normal((m, n)).astype(np.float32)
        c = np.full((n, m), np.nan, np.float32)
        with tilec.device(device):
            transpose(a, c)
        assert np.array_equal(c, a.T)


def variants() -> CompiledKernel:
    compiled = transpose.lower(target="cuda:sm_80")
    compiled.add_general()
    return compiled


def arrays(m: int, n: int) -> tuple[ArrayView, ArrayView]:
    return device_array((m, n), "f32"), device_array((n, m), "f32", 0x7FF0_0000_0000)


@pytest.mark.parametrize("device", DEVICES[1:])
def test_a_variant_is_lowered_when_it_is_its_turn(device: str) -> None:
    """What is picked so is what the launcher picks among all."""
    target = find_target(device.partition(":")[2])
    program = transpose.lower(target=target.name).program
    whole = CompiledKernel(program, target)
    whole.add_general()

    def chosen(one: CompiledKernel, m: int, n: int, skew: int) -> tuple[str, str]:
        views = dict(zip("AC", arrays(m, n), strict=True))
        views["C"] = replace(views["C"], pointer=views["C"].pointer + skew)
        env = {"M": m, "N": n}
        return one.picked(lambda _: views, env).file_name, pick_variant(
            whole.manifest, views, env
        ).source

    cases = [(m, n, k) for m in (64, 63, 1 << 23, 0) for n in (64, 63, 1 << 12) for k in (0, 4, 8)]
    for case in cases:
        one = CompiledKernel(program, target)
        one.add_general()
        lazy, picked = chosen(one, *case)
        assert lazy == picked, case
        assert (len(one._lowered) == 1) == (lazy == whole.lowered.file_name), case
    misaligned = CompiledKernel(program, target)
    misaligned.add_general()
    chosen(misaligned, 64, 63, 0)
    assert Assume.ALIGNED not in misaligned._lowered
    with pytest.raises(NoVariant):
        chosen(CompiledKernel(program, target), 64, 63, 0)


@tilec.kernel
def through_memory(A: T.Tensor(("M", "N"), "float32"), C: T.Tensor(("N", "M"), "float32")):
    M, N = A.shape
    half = T.alloc_global((N, M), "float32")
    for source, target in ((A, half), (half, C)):
        with T.Kernel(N, T.ceildiv(M, 32), threads=32) as (n, by):
            for i in T.Parallel(32):
                m = by * 32 + i
                target[n, m] = source[m, n] if source is A else source[n, m]


@pytest.mark.emulator
def test_a_variant_may_have_a_workspace_that_the_first_has_not() -> None:
    target = find_target("cuda:sm_80")
    compiled = CompiledKernel(transpose.lower(target=target.name).program, target)
    compiled.add_general()
    other = through_memory.lower(target=target.name).program
    compiled._lowered[Assume.NOTHING] = lower_program(other, target, assume=Assume.NOTHING)
    a = np.arange(64 * 63, dtype=np.float32).reshape(64, 63)
    c = np.zeros((63, 64), np.float32)
    EmulatorDevice(target.name, "a test").run(compiled, (a, c))
    assert np.array_equal(c, a.T)


def test_offsets_of_64_bits_where_32_do_not_reach() -> None:
    compiled = variants()
    small, large, general = compiled.variants

    def chosen(m: int, n: int) -> str:
        manifest = compiled.manifest
        return pick_variant(manifest, bind_arguments(manifest, arrays(m, n)).views).source

    assert chosen(4096, 1 << 17 - 4) == small.file_name
    assert chosen((1 << 29) // 64 - 4, 64) == small.file_name  # 2^31 bytes less 1024
    assert chosen((1 << 29) // 64, 64) == large.file_name  # 2^31 bytes
    assert chosen(1 << 20, 1 << 14) == large.file_name  # 2^34 elements
    assert chosen((1 << 29) // 64, 63) == general.file_name  # rows of 252 bytes
    body = general.text[general.text.index("transpose_kernel") :]
    assert re.search(r"A\[\w+ \* convert<i64>\(N\) \+ \w+\]", body), body
    body = large.text[large.text.index("transpose_kernel") :]
    assert "convert<i64>(N)" in body and "load_global<4>" in body
    assert "i64" not in small.text[small.text.index("transpose_kernel") :]


def test_extents_that_are_numbers_decide_at_compile_time() -> None:
    @tilec.kernel
    def huge(A: T.Tensor((70000, 70000), "int8"), C: T.Tensor((70000, 70000), "int8")):
        with T.Kernel(70000, threads=128) as bx:
            for i in T.Parallel(70000):
                C[bx, i] = A[bx, i]

    text = huge.lower(target="cuda:sm_80").source
    assert "i64" in text[text.index("huge_kernel") :]
    assert find_nvrtc().compile(text, "huge.cu", "sm_80").code


def test_extents_that_ranges_do_not_hold_for_are_refused(stub: Stub) -> None:
    """`extent + tile - 1` must be an i32 for every tile up to 65536."""
    compiled = variants()
    loaded = load(Binary(b"cubin", ""), compiled.manifest, CudaDriver(stub.path))
    stub.sizes(8, 8, 4, 4)
    loaded(*arrays(SYMBOL_LIMIT - 1, 1))
    assert tuple(stub.launch().grid) == (-(-(SYMBOL_LIMIT - 1) // 32), 1, 1)
    with pytest.raises(
        ArgumentError, match=rf"M is {SYMBOL_LIMIT}, from A, expected less than"
    ) as caught:
        loaded(*arrays(SYMBOL_LIMIT, 1))
    assert "in parts" in caught.value.hint
    loaded(*arrays(0, SYMBOL_LIMIT - 1))
    assert stub.count("launches") == 1


@tilec.kernel
def rows_of_one(A: T.Tensor(("M",), "int8"), C: T.Tensor(("M",), "int8")):
    M = A.shape[0]
    with T.Kernel(T.ceildiv(M, 128), threads=128) as bx:
        for i in T.Parallel(128):
            C[bx * 128 + i] = A[bx * 128 + i]


@tilec.kernel
def doubled(A: T.Tensor(("M",), "int8"), first: T.int32):
    out = T.empty((A.shape[0] * 2,), "int8")
    with T.Kernel(1, threads=32):
        for i in T.Parallel(32):
            out[first + i] = A[i]
    return out


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_they_are_refused_on_every_machine(device: str) -> None:
    """Else `M + 127` wraps, and no block runs."""
    whole = np.zeros(SYMBOL_LIMIT, np.int8)
    with tilec.device(device), pytest.raises(ArgumentError, match=r"M is \d+, from A") as caught:
        rows_of_one(whole, whole)
    assert "in parts" in caught.value.hint


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES[1:])
def test_extents_that_a_kernel_computes_are_refused_too(device: str) -> None:
    whole = np.zeros(SYMBOL_LIMIT // 2 + 1, np.int8)
    with tilec.device(device), pytest.raises(ArgumentError, match="expected less than"):
        doubled(whole, 0)


@tilec.kernel
def ones(A: T.Tensor(("M", "N"), "int8")):
    C = T.empty((A.shape[0], 1 << 20, 1 << 20), "float64")
    with T.Kernel(1, threads=32):
        for i in T.Parallel(32):
            C[0, 0, i] = 1.0
    return C


@pytest.mark.parametrize("device", ["interpreter", "emulator:cuda:sm_80"])
def test_memory_that_there_is_not(device: str) -> None:
    with tilec.device(device), pytest.raises(ArgumentError, match="TLC0807") as caught:
        ones(np.zeros((1 << 12, 1), np.int8))
    assert "ones: there is no memory for its arrays" in str(caught.value)
    assert "smaller" in caught.value.hint
