"""share_last_wave: blocks without a tile of the last wave help those that have one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import one_leg, turns
from tests.passes.planning import keeps_meaning, plan, refused, run_pass, specialised
from tilec.ir.ops.control import IF_POSSIBLE, Launch
from tilec.ir.ops.memory import Alloc
from tilec.passes.share_last_wave import share_last_wave

F16, F32 = "float16", "float32"
A_TYPE, B_TYPE = T.Tensor(("M", "K"), F16), T.Tensor(("N", "K"), F16)


@tilec.kernel
def product(A: A_TYPE, B: B_TYPE, C: T.Tensor(("M", "N"), F16), stream_k: Any = 5, stages: int = 3):
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128, stream_k=stream_k) as (bx, by):
        A_s, B_s = T.alloc_shared((64, 32), F16), T.alloc_shared((64, 32), F16)
        acc = T.alloc_fragment((64, 64), F32)
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=stages):
            T.copy(A[by * 64, k * 32], A_s)
            T.copy(B[bx * 64, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


@tilec.kernel
def gated(
    A: A_TYPE,
    B: B_TYPE,
    G: B_TYPE,
    parts: T.Tensor(("N",), F32),
    arrived: T.Tensor(("M", "N"), F16),
    stream_k: Any = 5,
):
    """Two sums, and something that every helper loads too; names that the compiler's own take."""
    M, N, K = A.shape[0], B.shape[0], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128, stream_k=stream_k) as (bx, by):
        A_s, B_s, G_s = (T.alloc_shared((64, 32), F16) for _ in range(3))
        bias = T.alloc_shared((64,), F32)
        acc, gate = T.alloc_fragment((64, 64), F32), T.alloc_fragment((64, 64), F32)
        T.clear(acc)
        T.clear(gate)
        T.copy(parts[bx * 64], bias)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=2):
            T.copy(A[by * 64, k * 32], A_s)
            T.copy(B[bx * 64, k * 32], B_s)
            T.copy(G[bx * 64, k * 32], G_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
            T.gemm(A_s, G_s, gate, transpose_B=True)
        for i, j in T.Parallel(64, 64):
            acc[i, j] = (acc[i, j] + bias[j]) * T.max(gate[i, j], 0.0)
        T.copy(acc, arrived[by * 64, bx * 64])


@tilec.kernel
def scaled(
    A: A_TYPE,
    B: T.Tensor(("N", "K"), "int8"),
    S: T.Tensor(("M",), F32),
    C: T.Tensor(("M", "N"), F32),
    stream_k: Any = 5,
):
    """An operand that threads make, products that are scaled before they are added, without the first
    step."""
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128, stream_k=stream_k) as (bx, by):
        A_s, B_s = T.alloc_shared((64, 32), F16), T.alloc_shared((64, 32), F16)
        coded = T.alloc_shared((64, 32), "int8")
        acc, one = T.alloc_fragment((64, 64), F32), T.alloc_fragment((64, 64), F32)
        T.clear(acc)
        for k in T.Pipelined(1, T.ceildiv(K, 32), num_stages=2):
            T.copy(A[by * 64, k * 32], A_s)
            T.copy(B[bx * 64, k * 32], coded)
            for i, j in T.Parallel(64, 32):
                B_s[i, j] = T.cast(coded[i, j], F16) * 0.125
            T.gemm(A_s, B_s, one, transpose_B=True, clear_accum=True)
            for i, j in T.Parallel(64, 64):
                acc[i, j] += one[i, j] * S[by * 64 + i]
        T.copy(acc, C[by * 64, bx * 64])


@tilec.kernel
def chained(A: T.Tensor(("Z", "M", "K"), F16), stream_k: Any = 5):
    """A batch of products of rows with each other, and their products; both launches share."""
    Z, M, K = A.shape
    first, second = T.empty((Z, M, M), F16), T.empty((Z, M, M), F16)
    for source, target, depth in ((A, first, K), (first, second, M)):
        grid = (T.ceildiv(M, 64), T.ceildiv(M, 64), Z)
        with T.Kernel(*grid, threads=128, stream_k=stream_k) as (bx, by, z):
            A_s, B_s = T.alloc_shared((64, 32), F16), T.alloc_shared((64, 32), F16)
            acc = T.alloc_fragment((64, 64), F32)
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(depth, 32), num_stages=2):
                T.copy(source[z, by * 64, k * 32], A_s)
                T.copy(source[z, bx * 64, k * 32], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, target[z, by * 64, bx * 64])
    return first, second


def small(*shape: int, dtype: Any = np.float16, seed: int = 0) -> np.ndarray:
    """Integers whose sums are exact."""
    return np.random.default_rng(seed + sum(shape)).integers(-4, 5, shape).astype(dtype)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


def cases(m: int, n: int, k: int) -> Iterator[tuple[Any, tuple[np.ndarray, ...], np.ndarray]]:
    """Kernels, their arguments, and what the last one becomes."""
    a, b, g = small(m, k), small(n, k, seed=1), small(n, k, seed=2)
    bias, s = small(n, dtype=np.float32), small(m, dtype=np.float32)
    out = np.full((m, n), np.nan, np.float16)
    plain = wide(a) @ wide(b).T
    yield product, (a, b, out), plain
    a, b, g = (x / np.float16(16) for x in (a, b, g))
    yield gated, (a, b, g, bias, out), (plain / 256 + bias) * np.maximum(wide(a) @ wide(g).T, 0)
    q = small(n, k, dtype=np.int8)
    rest = wide(a[:, 32:]) @ wide(q[:, 32:]).T / 8
    yield scaled, (a, q, s, np.full((m, n), np.nan, np.float32)), rest * s[:, None]


SHAPES = [(1, 1, 1), (65, 130, 300), (200, 72, 0), (193, 200, 264), (0, 5, 9), (64, 64, 520)]


@pytest.mark.parametrize("workers", [1, 2, 5, 7, 40])
def test_any_number_of_blocks_gives_the_product(workers: int) -> None:
    for shape in SHAPES:
        for kernel, arrays, expected in cases(*shape):
            found = one_leg("interpreter", kernel, *arrays, stream_k=workers)[-1]
            np.testing.assert_allclose(wide(found), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "case"), turns([*enumerate(SHAPES)]))
def test_on_every_machine(device: str, case: tuple[int, tuple[int, int, int]]) -> None:
    number, shape = case
    kernel, arrays, expected = [*cases(*shape)][number % 3]
    found = one_leg(device, kernel, *arrays, stream_k=5 + 2 * (number % 2))[-1]
    np.testing.assert_allclose(wide(found), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.emulator
@pytest.mark.parametrize("device", ["interpreter", "emulator:cuda:sm_90a"])
def test_launches_share_one_after_the_other(device: str) -> None:
    a = small(3, 70, 136) / np.float16(8)
    with tilec.device(device):
        first, second = chained(a, stream_k=7)
    once = np.einsum("zmk,znk->zmn", wide(a), wide(a))
    np.testing.assert_allclose(wide(first), once, rtol=1e-3)
    again = np.einsum("zmk,znk->zmn", wide(first), wide(first))
    np.testing.assert_allclose(wide(second), again, rtol=2e-3, atol=1e-1)


@pytest.mark.parametrize("target", ["cuda:sm_90a", "cuda:sm_80", "hip:gfx942"])
def test_the_meaning_stays(target: str) -> None:
    for kernel, stages in ((product, 3), (product, 0), (scaled, None)):
        constants = {} if stages is None else {"stages": stages}
        before = plan(specialised(kernel, **constants), "clip_boxes", target)
        after = plan(specialised(kernel, **constants), "share_last_wave", target)
        assert after.codes.count("TLC0338") == 1
        clear, shared = after.all(Launch)
        assert clear.symbol == f"{shared.symbol}_clear" and shared.stream_k == 0
        keeps_meaning(before.program, after.program, seeds=(0, 1))


def test_what_is_left_as_it_is() -> None:
    """One pass over a launch that asks for nothing, or for none, or was done before."""
    for asked in (None, False, 0):
        planned = plan(specialised(product, stream_k=asked), "share_last_wave")
        assert len(planned.all(Launch)) == 1 and "TLC0338" not in planned.codes
    once = plan(specialised(product), "share_last_wave").program
    again = plan(once, "share_last_wave", passes=(share_last_wave,)).program
    assert again is once


def test_as_many_blocks_as_multiprocessors() -> None:
    planned = plan(specialised(product, stream_k=True), "share_last_wave", "cuda:sm_90a")
    assert "132 blocks" in planned.remark("TLC0338").message
    (parts,) = {op.type.shape for op in planned.all(Alloc) if op.type.shape[1:] == (64, 64)}
    assert parts == (264, 64, 64)


# What cannot be shared


@tilec.kernel
def special(
    A: A_TYPE,
    C: T.Tensor(("M", 64), F32),
    ends: T.Tensor((8,), "int32"),
    kind: str = "",
):
    options: dict[str, Any] = {"stream_k": True}
    if kind == "pinned":
        options["persistent"] = False
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128, **options) as bx:
        A_s = T.alloc_shared((64, 32), F16)
        acc = T.alloc_fragment((64, 64), F32)
        T.clear(acc)
        steps = T.ceildiv(A.shape[1], 32)
        if kind == "uneven":
            steps = T.min(steps, bx + 1)
        elif kind == "told":
            steps = ends[0]
        for k in T.Pipelined(steps, num_stages=2):
            T.copy(A[bx * 64, k * 32], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])
        if kind == "waiting" and T.get_thread_binding() == 0:
            while T.atomic_load(ends[0], "acquire") < bx:
                pass


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("pinned", "persistent=False"),
        ("uneven", "follows from the block"),
        ("told", "follows from the block"),
        ("waiting", "wait for each other"),
    ],
)
def test_what_cannot_be_shared_is_refused(kind: str, why: str) -> None:
    error = refused(
        "TLC0528", lambda: plan(specialised(special, kind=kind), "share_last_wave", "cuda:sm_90a")
    )
    assert why in error.message and error.loc.known and "stream_k" in error.hint


def test_nor_is_a_launch_in_clusters() -> None:
    program = plan(specialised(product), "clip_boxes", "cuda:sm_90a").program
    (old,) = (op for op in program.body.ops if isinstance(op, Launch))
    body = [op.replace(cluster=(2, 1, 1)) if op is old else op for op in program.body.ops]
    clustered = program.with_body(program.body.with_ops(body))
    error = refused("TLC0528", lambda: run_pass(share_last_wave, clustered, "cuda:sm_90a"))
    assert "run in clusters" in error.message and error.loc == old.loc


@pytest.mark.parametrize("asked", [-1, 2.5, "all", (1,)])
def test_a_number_of_blocks_or_none(asked: Any) -> None:
    error = refused("TLC0118", lambda: specialised(product, stream_k=asked))
    assert repr(asked) in error.message and "stream_k=True" in error.hint


def test_if_possible_is_no_demand() -> None:
    for kind in ("pinned", "uneven", "waiting"):
        program = specialised(special, kind=kind)
        ops = [
            op.replace(stream_k=IF_POSSIBLE) if isinstance(op, Launch) else op
            for op in program.body.ops
        ]
        asked = program.with_body(program.body.with_ops(ops))
        assert "TLC0338" not in plan(asked, "share_last_wave", "cuda:sm_90a").codes
    program = specialised(product, stream_k=None)
    ops = [
        op.replace(stream_k=IF_POSSIBLE) if isinstance(op, Launch) else op
        for op in program.body.ops
    ]
    asked = program.with_body(program.body.with_ops(ops))
    assert "TLC0338" in plan(asked, "share_last_wave", "cuda:sm_90a").codes
