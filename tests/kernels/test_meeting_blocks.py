"""Blocks that meet in global memory: what one releases another acquires, on every machine, in any
order of the blocks; what nothing orders is refused by the interpreter and found by the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts
from tests.kernels.machines import TARGETS
from tilec.errors import ExecutionError
from tilec.runtime.driver import lower
from tilec.runtime.emulator import ORDERS, EmulatorError
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice

pytestmark = pytest.mark.emulator
INTERPRETER = InterpreterDevice("", "a test")


@tilec.kernel
def grid_barrier(
    X: T.Tensor(("N",), "int32"),
    Y: T.Tensor(("N",), "int32"),
    arrived: T.Tensor((1,), "int32"),
    release: str = "release",
    acquire: str = "acquire",
    block: int = 64,
):
    """Y[i] = X[i + block] + 1, by way of a workspace that another block has filled."""
    N = X.shape[0]
    blocks = T.ceildiv(N, block)
    W = T.alloc_global((N,), "int32")
    with T.Kernel(blocks, threads=block, cooperative=True) as b:
        t = T.get_thread_binding()
        W[b * block + t] = X[b * block + t] + 1
        if t == 0:
            T.atomic_add(arrived[0], 1, memory_order=release)
            while T.atomic_load(arrived[0], acquire) < blocks:
                pass
        Y[b * block + t] = W[(b * block + t + block) % N]


@tilec.kernel
def fenced_barrier(
    X: T.Tensor(("N",), "int32"),
    Y: T.Tensor(("N",), "int32"),
    arrived: T.Tensor((1,), "int32"),
    block: int = 64,
):
    """The same by fences, the element or-ed together."""
    N = X.shape[0]
    blocks = T.ceildiv(N, block)
    W = T.alloc_global((N,), "int32")
    with T.Kernel(blocks, threads=block, cooperative=True) as b:
        t = T.get_thread_binding()
        W[b * block + t] = X[b * block + t] + 1
        T.threadfence()
        if t == 0:
            T.atomic_or(arrived[0], 1 << b)
            while T.atomic_load(arrived[0], "relaxed") != (1 << blocks) - 1:
                pass
        T.threadfence()
        Y[b * block + t] = W[(b * block + t + block) % N]


@tilec.kernel
def split_k(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
    arrived: T.Tensor(("tiles",), "int32"),
    order: str = "acq_rel",
    split: int = 3,
):
    """C = A @ B.T, K cut among blocks. The last to arrive at a tile adds the parts, in their order;
    nobody waits. It leaves `arrived` as it was, zeros."""
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    rows, columns = T.ceildiv(M, 64), T.ceildiv(N, 64)
    parts = T.alloc_global((split, rows * 64, columns * 64), "float32")
    with T.Kernel(columns, rows, split, threads=128) as (bx, by, part):
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        before = T.alloc_shared((1,), "int32")
        sums = T.alloc_fragment((64, 64), "float32")
        one = T.alloc_fragment((64, 64), "float32")
        T.clear(sums)
        for step in T.Pipelined(T.ceildiv(T.ceildiv(K, 32) - part, split), num_stages=2):
            T.copy(A[by * 64, (step * split + part) * 32], A_s)
            T.copy(B[bx * 64, (step * split + part) * 32], B_s)
            T.gemm(A_s, B_s, sums, transpose_B=True)
        T.copy(sums, parts[part, by * 64, bx * 64])
        if T.get_thread_binding() == 0:
            tile = by * columns + bx
            before[0] = T.atomic_add(arrived[tile], 1, memory_order=order, return_prev=True)
        if before[0] == split - 1:
            T.clear(sums)
            for p in T.serial(split):
                T.copy(parts[p, by * 64, bx * 64], one)
                for i, j in T.Parallel(64, 64):
                    sums[i, j] += one[i, j]
            T.copy(sums, C[by * 64, bx * 64])
            if T.get_thread_binding() == 0:
                T.atomic_store(arrived[by * columns + bx], 0, "relaxed")


@tilec.kernel
def prefix_sum(
    X: T.Tensor(("N",), "int32"),
    Y: T.Tensor(("N",), "int32"),
    state: T.Tensor(("S",), "int32"),
    block: int = 64,
):
    """Y[i] = X[0] + ... + X[i] in one pass (Merrill and Garland, "Single-pass Parallel Prefix Scan
    with Decoupled Look-back", 2016). state[0] numbers the blocks as they come; state[1 + b] says of
    block b whether its sum is known (1), or the sum of all up to it (2). A block waits for those
    alone that came before it."""
    N = X.shape[0]
    blocks = T.ceildiv(N, block)
    own = T.alloc_global((blocks,), "int32")
    upto = T.alloc_global((blocks,), "int32")
    with T.Kernel(blocks, threads=block) as _:
        t = T.get_thread_binding()
        x = T.alloc_fragment((block,), "int32")
        S = T.alloc_shared((block,), "int32")
        place = T.alloc_shared((1,), "int32")
        before = T.alloc_shared((1,), "int32")
        if t == 0:
            place[0] = T.atomic_add(state[0], 1, return_prev=True)
        b = place[0]
        T.copy(X[b * block], x)
        T.cumsum(x, S, dim=0)
        if t == 0:
            own[b] = S[block - 1]
            T.atomic_store(state[1 + b], 1, "release")
            total = T.alloc_var("int32")
            total = 0
            j = T.alloc_var("int32")
            j = b - 1
            while j >= 0:
                known = T.atomic_load(state[1 + j], "acquire")
                if known == 2:
                    total = total + upto[j]
                    j = -1
                else:
                    if known == 1:
                        total = total + own[j]
                        j = j - 1
            before[0] = total
            upto[b] = total + S[block - 1]
            T.atomic_store(state[1 + b], 2, "release")
        if b * block + t < N:
            Y[b * block + t] = before[0] + S[t]


@cache
def lowered(kernel: Any, target: str, constants: tuple[tuple[str, Any], ...]) -> Any:
    found = lower(kernel, (), target, dict(constants))
    found.add_general()  # for arrays that are not aligned
    return found


def launch(kernel: Any, device: Any, *arrays: Any, **constants: Any) -> None:
    """Runs a kernel on a device, in place."""
    device.run(lowered(kernel, device.target.name, tuple(constants.items())), arrays)


def every_machine(residents: int = 0) -> Iterator[EmulatorDevice]:
    """Every emulated target with three orders of blocks; all blocks may be there together, or so
    many."""
    for target in TARGETS:
        for order in ORDERS:
            yield EmulatorDevice(target, "a test", "late", order, 5, residents=residents)


def on_every_leg(kernel: Any, *arrays: Any) -> Iterator[tuple[str, list[Any]]]:
    """Each device with copies of the arrays as the kernel leaves them there."""
    for device in (INTERPRETER, *every_machine()):
        own = [np.array(x) for x in arrays]
        launch(kernel, device, *own)
        yield device.name, own


@pytest.mark.parametrize("n", [64, 256, 320])
def test_grid_barrier(n: int) -> None:
    x = np.arange(n, dtype=np.int32)
    for kernel in (grid_barrier, fenced_barrier):
        for device, (_, y, _) in on_every_leg(kernel, x, x, np.zeros(1, np.int32)):
            assert np.array_equal(y, np.roll(x + 1, -64)), device


@pytest.mark.parametrize("orders", [("relaxed", "acquire"), ("release", "relaxed")])
def test_what_is_not_released_or_acquired(orders: tuple[str, str]) -> None:
    x = np.arange(256, dtype=np.int32)
    constants = dict(zip(("release", "acquire"), orders, strict=True))
    with pytest.raises(ExecutionError, match=r"reads global W\[\d+\], which block \d writes"):
        launch(grid_barrier, INTERPRETER, x, np.array(x), np.zeros(1, np.int32), **constants)
    for device in every_machine():
        with pytest.raises(EmulatorError, match=r"data race: (reads|writes) W byte"):
            launch(grid_barrier, device, x, np.array(x), np.zeros(1, np.int32), **constants)


def test_a_grid_barrier_needs_every_block() -> None:
    x = np.arange(256, dtype=np.int32)
    device = EmulatorDevice("cuda:sm_80", "a test", residents=3)
    with pytest.raises(
        EmulatorError, match=r"reads arrived\[0\] .* which holds 3 .* 1 blocks have"
    ):
        launch(grid_barrier, device, x, np.array(x), np.zeros(1, np.int32))


def test_launches_say_which_grids_must_be_resident() -> None:
    for target in TARGETS:
        for kernel, wanted in ((grid_barrier, True), (fenced_barrier, True), (prefix_sum, False)):
            lowered = lower(kernel, (), target, {})
            assert [s.cooperative for s in lowered.manifest.variants[0].launches] == [wanted]


@pytest.mark.parametrize("shape", [(64, 64, 96), (65, 63, 31), (127, 130, 225), (1, 1, 1)])
def test_split_k_in_one_launch(shape: tuple[int, int, int]) -> None:
    """The same bits in every order of the blocks, also where each runs to its end before another."""
    m, n, k = shape
    rng = np.random.default_rng(k)
    a, b = (rng.standard_normal((rows, k)).astype(np.float16) for rows in (m, n))
    exact, size = (
        a.astype(float) @ b.astype(float).T,
        np.abs(a.astype(float)) @ np.abs(b.astype(float)).T,
    )
    bits: dict[str, set[bytes]] = {}
    for device, (_, _, c, arrived) in on_every_leg(
        split_k, a, b, np.zeros((m, n), np.float16), np.zeros(9, np.int32)
    ):
        assert not arrived.any(), device
        assert (
            np.abs(c - exact) <= 2.0**-11 * np.abs(exact) + k * 2.0**-23 * size + 2.0**-24
        ).all(), device
        bits.setdefault(device, set()).add(c.tobytes())
    for device in every_machine(residents=1):
        c, arrived = np.zeros((m, n), np.float16), np.zeros(9, np.int32)
        launch(split_k, device, a, b, c, arrived)
        bits[device.name].add(c.tobytes())
    assert {name: len(found) for name, found in bits.items()} == dict.fromkeys(bits, 1)


def test_split_k_without_an_order() -> None:
    a, c = np.ones((64, 96), np.float16), np.zeros((64, 64), np.float16)
    with pytest.raises(ExecutionError, match="reads global parts"):
        launch(split_k, INTERPRETER, a, a, c, np.zeros(1, np.int32), order="relaxed")
    for device in every_machine():
        with pytest.raises(EmulatorError, match="data race: reads parts byte"):
            launch(split_k, device, a, a, c, np.zeros(1, np.int32), order="relaxed")


@pytest.mark.parametrize("n", [1, 63, 64, 65, 127, 997])
def test_prefix_sum_in_one_pass(n: int) -> None:
    x = np.random.default_rng(n).integers(-99, 100, n).astype(np.int32)
    state = np.zeros(1 + -(-n // 64), np.int32)
    for device, (_, y, after) in on_every_leg(prefix_sum, x, np.zeros(n, np.int32), state):
        assert np.array_equal(y, np.cumsum(x)), device
        assert after[0] == after.size - 1 and (after[1:] == 2).all(), device
    for device in every_machine(residents=1):
        y = np.zeros(n, np.int32)
        launch(prefix_sum, device, x, y, np.array(state))
        assert np.array_equal(y, np.cumsum(x)), device.order


def test_texts() -> None:
    """The vendors' compilers take them, and the threads meet where one shows what all have done."""
    texts = {
        kernel.name: compile_texts(kernel)
        for kernel in (grid_barrier, fenced_barrier, split_k, prefix_sum)
    }
    for target in TARGETS:
        text = texts["grid_barrier"][target]
        body = text[text.index("grid_barrier_kernel(") :]
        assert body.index("barrier_for_stores();") < body.index("atomic_add<release>")
        assert body.index("atomic_load<acquire>") < body.index("  barrier();")
    text = texts["split_k"]["cuda:sm_90a"]
    shown = text.index("atomic_add<acq_rel>(")
    assert text.rindex("tma_store<3>(parts_map", 0, shown) < text.rindex(
        "bulk_wait<0>();", 0, shown
    )


def test_loads_do_not_run_ahead_of_an_acquire() -> None:
    @tilec.kernel
    def chunks(
        F: T.Tensor((8,), "int32"), X: T.Tensor((8, 64), "float16"), Y: T.Tensor((8, 64), "float16")
    ):
        with T.Kernel(1, threads=64):
            S = T.alloc_shared((64,), "float16")
            for k in T.Pipelined(8, num_stages=2):
                if T.get_thread_binding() == 0:
                    while T.atomic_load(F[k], "acquire") == 0:
                        pass
                T.copy(X[k, 0], S)
                T.copy(S, Y[k, 0])

    found = lower(chunks, (), "cuda:sm_80", {})
    assert any("an atomic in it orders memory" in r.message for r in found.remarks)
    text = found.variants[0].text
    body = text[text.index("chunks_kernel(") :]
    acquired = body.index("atomic_load<acquire>")
    assert acquired < body.index("  barrier();", acquired) < body.index("cp_async<")


def test_a_ring_that_nobody_begins() -> None:
    @tilec.kernel
    def ring(F: T.Tensor((4,), "int32")):
        with T.Kernel(4, threads=32) as b:
            if T.get_thread_binding() == 0:
                while T.atomic_load(F[b], "acquire") == 0:
                    pass
                T.atomic_store(F[(b + 1) % 4], 1, "release")

    with pytest.raises(
        ExecutionError, match=r"block \(\d, 0, 0\) waits for F to change at .*; block"
    ) as found:
        launch(ring, INTERPRETER, np.zeros(4, np.int32))
    assert found.value.code == "TLC0751"
    first = np.array([1, 0, 0, 0], np.int32)
    launch(ring, INTERPRETER, first)
    assert first.all()
