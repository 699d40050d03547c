"""Reductions and row vectors on three machines, beside NumPy in 64 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tests.kernels.machines import SCHEDULES, TARGETS
from tilec.errors import TilecError
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice

pytestmark = pytest.mark.emulator
Array = np.ndarray[Any, Any]


def results(kernel: Any, arrays: tuple[Array, ...], out: Array, **constants: Any) -> list[Array]:
    """What each machine, in several schedules, and the interpreter write to `out`."""
    found = []
    for target in TARGETS:
        compiled = lower(kernel, (), target, constants)
        compiled.add_general()
        for mode, order in (SCHEDULES[0], SCHEDULES[-1]):
            mine = out.copy()
            EmulatorDevice(target, "a test", mode, order, seed=5).run(compiled, (*arrays, mine))
            found.append(mine)
    mine = out.copy()
    InterpreterDevice("", "a test").run(compiled, (*arrays, mine))
    return [*found, mine]


@tilec.kernel
def rows_and_columns(
    X: T.Tensor(("M", "N"), "float32"),
    Y: T.Tensor((2, "S"), "float32"),
    bm: int = 16,
    bn: int = 32,
    threads: int = 64,
    kind: str = "sum",
    space: str = "fragment",
):
    """Per tile: its rows' results in Y[0], its columns' in Y[1]."""
    M, N = X.shape
    with T.Kernel(T.ceildiv(N, bn), T.ceildiv(M, bm), threads=threads) as (bx, by):
        alloc = T.alloc_fragment if space == "fragment" else T.alloc_shared
        x = alloc((bm, bn), "float32")
        rows = alloc((bm,), "float32")
        columns = alloc((1, bn), "float32")
        T.copy(X[by * bm, bx * bn], x)
        T.reduce(x, rows, kind, dim=-1)
        T.reduce(x, columns, kind, dim=0)
        at = by * T.ceildiv(N, bn) + bx
        T.copy(rows, Y[0, at * (bm + bn)])
        T.copy(columns, Y[1, at * (bm + bn)])


@pytest.mark.parametrize(
    ("tile", "kind", "space"),
    [
        ((16, 32, 64), "sum", "fragment"),
        ((16, 32, 64), "max", "shared"),
        ((5, 12, 96), "min", "fragment"),
        ((1, 64, 128), "sum", "shared"),
        ((64, 1, 32), "sum", "fragment"),
        ((3, 7, 64), "max", "fragment"),
    ],
)
def test_rows_and_columns(tile: tuple[int, int, int], kind: str, space: str) -> None:
    bm, bn, threads = tile
    m, n = bm + (bm + 1) // 2, bn + 1
    x = np.random.default_rng(bm).integers(-9, 9, (m, n)).astype(np.float32)
    whole = np.zeros((2, bm, 2, bn), np.float32)
    whole.reshape(2 * bm, 2 * bn)[:m, :n] = x
    tiles = whole.transpose(0, 2, 1, 3).reshape(4, bm, bn)
    function = {"sum": np.sum, "max": np.max, "min": np.min}[kind]
    expected = np.full((2, 4 * (bm + bn)), -99, np.float32)
    for at, one in enumerate(tiles):
        first = at * (bm + bn)
        expected[0, first : first + bm] = function(one, axis=1)
        expected[1, first : first + bn] = function(one, axis=0)
    options = {"bm": bm, "bn": bn, "threads": threads, "kind": kind, "space": space}
    for found in results(rows_and_columns, (x,), np.full_like(expected, -99), **options):
        assert np.array_equal(found, expected)


@tilec.kernel
def merged(
    X: T.Tensor(("M", 64), "float16"),
    Y: T.Tensor(("M",), "float16"),
    bm: int = 8,
    kind: str = "sum",
    nan: bool = False,
):
    """The results of each row's two halves, merged with -1."""
    with T.Kernel(T.ceildiv(X.shape[0], bm), threads=64) as bx:
        x = T.alloc_fragment((bm, 32), "float16")
        y = T.alloc_fragment((bm,), "float16")
        T.fill(y, -1)
        for k in T.serial(2):
            T.copy(X[bx * bm, k * 32], x)
            T.reduce(x, y, kind, 1, clear=False, nan_propagate=nan)
        T.copy(y, Y[bx * bm])


@pytest.mark.parametrize("m", [1, 7, 8, 9, 15, 23])
def test_merging_with_what_is_there(m: int) -> None:
    x = np.random.default_rng(m).integers(-20, 20, (m, 64)).astype(np.float16)
    wide, minus = x.astype(np.float64), np.full((m, 1), -1.0)
    expected = {
        "sum": wide.sum(1) - 1,
        "max": np.maximum(wide.max(1), -1),
        "absmax": np.abs(np.hstack([wide, minus])).max(1),
        "abssum": np.abs(wide).sum(1) + 1,
    }
    for kind, exact in expected.items():
        for found in results(merged, (x,), np.zeros(m, np.float16), kind=kind):
            assert np.array_equal(found, exact)


def test_nans_of_16_bit_floats() -> None:
    x = np.full((8, 64), -3, np.float16)
    x[2, 40] = np.nan
    for nan in (False, True):
        for found in results(merged, (x,), np.zeros(8, np.float16), kind="max", nan=nan):
            assert np.flatnonzero(np.isnan(found)).tolist() == ([2] if nan else [])


@tilec.kernel
def flash(
    Q: T.Tensor(("M", "D"), "float16"),
    K: T.Tensor(("N", "D"), "float16"),
    V: T.Tensor(("N", "D"), "float16"),
    O: T.Tensor(("M", "D"), "float16"),
    bm: int = 64,
    bn: int = 64,
    d: int = 64,
    stages: int = 2,
    threads: int = 128,
    policy: T.GemmWarpPolicy = T.GemmWarpPolicy.FullRow,
):
    """Attention whose probabilities go through shared memory: row vectors beside accumulators."""
    M, N = Q.shape[0], K.shape[0]
    with T.Kernel(T.ceildiv(M, bm), threads=threads) as bx:
        Q_s = T.alloc_shared((bm, d), "float16")
        K_s = T.alloc_shared((bn, d), "float16")
        V_s = T.alloc_shared((bn, d), "float16")
        P_s = T.alloc_shared((bm, bn), "float16")
        s = T.alloc_fragment((bm, bn), "float32")
        o = T.alloc_fragment((bm, d), "float32")
        m, before, scale, l, row = (T.alloc_fragment((bm,), "float32") for _ in range(5))
        T.copy(Q[bx * bm, 0], Q_s)
        T.clear(o)
        T.clear(l)
        T.fill(m, -1e30)
        for k in T.Pipelined(T.ceildiv(N, bn), num_stages=stages):
            T.copy(K[k * bn, 0], K_s)
            T.copy(V[k * bn, 0], V_s)
            T.clear(s)
            T.gemm(Q_s, K_s, s, transpose_B=True, policy=policy)
            for i, j in T.Parallel(bm, bn):
                s[i, j] = T.if_then_else(k * bn + j < N, s[i, j], -1e30)
            T.copy(m, before)
            T.reduce_max(s, m, dim=1, clear=False)
            for i in T.Parallel(bm):
                scale[i] = T.exp(before[i] - m[i])
            for i, j in T.Parallel(bm, bn):
                s[i, j] = T.exp(s[i, j] - m[i])
            T.reduce_sum(s, row, dim=1)
            for i in T.Parallel(bm):
                l[i] = l[i] * scale[i] + row[i]
            T.copy(s, P_s)
            for i, j in T.Parallel(bm, d):
                o[i, j] *= scale[i]
            T.gemm(P_s, V_s, o, policy=policy)
        for i, j in T.Parallel(bm, d):
            o[i, j] /= l[i]
        T.copy(o, O[bx * bm, 0])


@pytest.mark.parametrize("policy", [T.GemmWarpPolicy.FullRow, T.GemmWarpPolicy.Square])
@pytest.mark.parametrize(("d", "stages", "m", "n"), [(64, 2, 100, 150), (32, 0, 65, 31)])
def test_row_vectors_follow_accumulators(
    d: int, stages: int, m: int, n: int, policy: T.GemmWarpPolicy
) -> None:
    """With layouts of mma, wgmma and MFMA, whichever warps share a row."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((rows, d)).astype(np.float16) for rows in (m, n, n))
    scores = q.astype(np.float64) @ k.astype(np.float64).T
    p = np.exp(scores - scores.max(1, keepdims=True))
    exact = p / p.sum(1, keepdims=True) @ v.astype(np.float64)
    out = np.zeros((m, d), np.float16)
    for found in results(flash, (q, k, v), out, d=d, stages=stages, policy=policy):
        error = np.abs(found.astype(np.float64) - exact)
        assert np.all(error <= 2e-3 * (np.abs(exact) + 1))  # p is rounded to 16 bits


@tilec.kernel
def two_nests(
    X: T.Tensor(("M", 32), "float32"),
    S: T.Tensor(("M",), "float32"),
    Y: T.Tensor((32, "M"), "float32"),
    bm: int = 16,
):
    """A row vector read along the rows of one nest and along the columns of another."""
    with T.Kernel(T.ceildiv(X.shape[0], bm), threads=64) as bx:
        x = T.alloc_fragment((bm, 32), "float32")
        y = T.alloc_fragment((32, bm), "float32")
        s = T.alloc_fragment((bm,), "float32")
        total = T.alloc_fragment((1,), "float32")
        T.copy(X[bx * bm, 0], x)
        T.copy(S[bx * bm], s)
        for i, j in T.Parallel(bm, 32):
            x[i, j] = x[i, j] + s[i]
        T.reduce_sum(s, total)
        T.reduce_max(x, s)
        for j, i in T.Parallel(32, bm):
            y[j, i] = s[i] * 2 + j + total[0]
        T.copy(y, Y[0, bx * bm])


@pytest.mark.parametrize("m", [1, 15, 16, 37])
def test_a_row_vector_in_two_nests(m: int) -> None:
    rng = np.random.default_rng(m)
    x, s = (rng.integers(-9, 9, shape).astype(np.float32) for shape in ((m, 32), (m,)))
    starts = np.arange(0, m, 16)
    total = np.repeat(np.add.reduceat(s, starts), 16)[:m]
    expected = (x.max(1) + s)[None, :] * 2 + np.arange(32)[:, None] + total
    for found in results(two_nests, (x, s), np.zeros((32, m), np.float32)):
        assert np.array_equal(found, expected)


def refused(reduce: Any) -> TilecError:
    @tilec.kernel
    def kernel(X: T.Tensor((8, 64), "float32")):
        with T.Kernel(1, threads=32):
            reduce(X, T.alloc_fragment((8, 64), "float32"), T.alloc_fragment((8,), "float32"))

    with pytest.raises(TilecError) as caught:
        kernel.trace({}, {})
    assert caught.value.code == "TLC0133"
    return caught.value


def test_refusals() -> None:
    refused(lambda X, x, y: T.reduce_sum(x, y, dim=0))
    refused(lambda X, x, y: T.reduce_sum(x, y, dim=2))
    refused(lambda X, x, y: T.reduce_sum(X, y))
    refused(lambda X, x, y: T.reduce_sum(x[0, 0], y))
    refused(lambda X, x, y: T.reduce_bitand(x, y))
    refused(lambda X, x, y: T.reduce(x, y, "mean"))
    assert "[8] or [8, 1]" in refused(lambda X, x, y: T.reduce_max(x, x)).hint


@tilec.kernel
def unset(Y: T.Tensor((8,), "float32")):
    with T.Kernel(1, threads=32):
        x = T.alloc_fragment((8, 64), "float32")
        y = T.alloc_fragment((8,), "float32")
        T.reduce_sum(x, y)
        T.copy(y, Y[0])


def test_reducing_what_was_never_written() -> None:
    compiled = lower(unset, (), "cuda:sm_80", {})
    with pytest.raises(TilecError) as caught:
        InterpreterDevice("", "a test").run(compiled, (np.zeros(8, np.float32),))
    assert caught.value.code == "TLC0743" and "a reduce" in caught.value.message


@tilec.kernel
def scans(
    X: T.Tensor(("M", 96), "float16"),
    Y: T.Tensor(("M", 96), "float32"),
    Z: T.Tensor(("M", 96), "int32"),
    bm: int = 8,
    reverse: bool = False,
    space: str = "fragment",
):
    """Y: sums along the rows of each tile; Z: the largest down its columns, in place."""
    with T.Kernel(T.ceildiv(X.shape[0], bm), threads=96) as bx:
        alloc = T.alloc_fragment if space == "fragment" else T.alloc_shared
        x = alloc((bm, 96), "float16")
        y = alloc((bm, 96), "float32")
        z = alloc((bm, 96), "int32")
        T.copy(X[bx * bm, 0], x)
        T.cumsum(x, y, dim=-1, reverse=reverse)
        T.copy(y, Y[bx * bm, 0])
        T.copy(x, z)
        T.cummax(z, dim=0, reverse=reverse)
        T.copy(z, Z[bx * bm, 0])


@pytest.mark.parametrize("space", ["fragment", "shared"])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans(reverse: bool, space: str) -> None:
    m, bm = 21, 8
    x = np.random.default_rng(0).integers(-20, 20, (m, 96)).astype(np.float16)
    turn = (lambda a, axis: np.flip(a, axis)) if reverse else (lambda a, axis: a)
    y = turn(np.cumsum(turn(x.astype(np.float64), 1), 1), 1)
    padded = np.zeros((24, 96), np.int32)
    padded[:m] = x
    tiles = padded.reshape(3, bm, 96)
    z = turn(np.maximum.accumulate(turn(tiles, 1), 1), 1).reshape(24, 96)[:m]
    for target in TARGETS:
        compiled = lower(scans, (), target, {"reverse": reverse, "space": space})
        devices = [EmulatorDevice(target, "a test", *SCHEDULES[-1], seed=5)]
        for device in (*devices, InterpreterDevice("", "a test")):
            found = np.zeros((m, 96), np.float32), np.zeros((m, 96), np.int32)
            device.run(compiled, (x, *found))
            assert np.array_equal(found[0], y) and np.array_equal(found[1], z)


@tilec.kernel
def pipelined(X: T.Tensor(("M", "N"), "float16"), Y: T.Tensor(("M",), "float32"), stages: int = 3):
    """Reductions of a buffer that a pipeline fills, by cp.async, TMA or registers."""
    M, N = X.shape
    with T.Kernel(T.ceildiv(M, 64), threads=128) as bx:
        tile = T.alloc_shared((64, 64), "float16")
        total = T.alloc_fragment((64,), "float32")
        T.clear(total)
        for k in T.Pipelined(T.ceildiv(N, 64), num_stages=stages):
            T.copy(X[bx * 64, k * 64], tile)
            T.reduce_sum(tile, total, dim=1, clear=False)
        T.copy(total, Y[bx * 64])


@pytest.mark.parametrize("stages", [2, 3])
def test_buffers_of_pipelines(stages: int) -> None:
    x = np.random.default_rng(0).integers(-9, 9, (100, 256)).astype(np.float16)
    for found in results(pipelined, (x,), np.zeros(100, np.float32), stages=stages):
        assert np.array_equal(found, x.astype(np.float64).sum(1))


@tilec.kernel
def outer_sum(X: T.Tensor((64,), "float32"), Y: T.Tensor((64, 64), "float32")):
    """One vector read along both loops of a nest."""
    with T.Kernel(1, threads=128):
        x = T.alloc_fragment((64,), "float32")
        y = T.alloc_fragment((64, 64), "float32")
        T.copy(X, x)
        for i, j in T.Parallel(64, 64):
            y[i, j] = 2 * x[i] + x[j]
        T.copy(y, Y)


def test_one_vector_along_both_loops() -> None:
    x = np.arange(64, dtype=np.float32)
    for found in results(outer_sum, (x,), np.zeros((64, 64), np.float32)):
        assert np.array_equal(found, 2 * x[:, None] + x)


@tilec.kernel
def in_turn(X: T.Tensor((32, 64), "float32"), Y: T.Tensor((32,), "float32")):
    """A carried row vector that tiles of two layouts give and take."""
    with T.Kernel(1, threads=64):
        x = T.alloc_fragment((32, 64), "float32")
        y = T.alloc_fragment((64, 32), "float32")
        s = T.alloc_fragment((32,), "float32")
        m = T.alloc_fragment((32,), "float32")
        T.copy(X, x)
        T.clear(s)
        for j, i in T.Parallel(64, 32):
            y[j, i] = X[i, j]
        for _ in T.serial(3):
            T.reduce_sum(x, s, dim=1, clear=False)
            T.reduce_max(y, m, dim=0)
            for i in T.Parallel(32):
                s[i] += m[i]
            for j, i in T.Parallel(64, 32):
                y[j, i] += s[i]
            for i, j in T.Parallel(32, 64):
                x[i, j] -= m[i]
        for i in T.Parallel(32):
            T.atomic_add(Y[i], s[i])  # once, though several threads hold it


def test_layouts_in_turn() -> None:
    given = np.random.default_rng(0).integers(-9, 9, (32, 64)).astype(np.float32)
    x, y, s = given.astype(np.float64), given.T.astype(np.float64), np.zeros(32)
    for _ in range(3):
        m = y.max(0)
        s = s + x.sum(1) + m
        x, y = x - m[:, None], y + s
    for found in results(in_turn, (given,), np.zeros(32, np.float32)):
        assert np.array_equal(found, s)


@tilec.kernel
def signed_zeros(
    X: T.Tensor((8, 33), "float32"),
    Y: T.Tensor((2, 8), "float32"),
    Z: T.Tensor((2, 8, 33), "float32"),
):
    """1 / x of extremes: of all in a row, of those so far, and of neighbours."""
    with T.Kernel(1, threads=64):
        tile = T.alloc_fragment((8, 33), "float32")
        most, least = T.alloc_fragment((8,), "float32"), T.alloc_fragment((8,), "float32")
        T.copy(X, tile)
        T.reduce_max(tile, most, dim=1)
        T.reduce_min(tile, least, dim=1)
        for i in T.Parallel(8):
            Y[0, i] = 1 / most[i]
            Y[1, i] = 1 / least[i]
        T.cummax(tile, dim=1)
        for i, j in T.Parallel(8, 33):
            Z[0, i, j] = 1 / tile[i, j]
            Z[1, i, j] = 1 / T.min(X[i, j], X[i, 32 - j])


def test_extremes_of_zeros_have_a_sign() -> None:
    """-0 is less than 0, in whichever order they come."""
    x = np.where(np.random.default_rng(0).random((8, 33)) < 0.9, np.float32(-0.0), np.float32(0))
    x[0], x[1], x[2, 7] = 0, -0.0, np.nan
    ends = np.where(np.signbit(x), -np.inf, np.inf)
    high, low = (np.where(np.isnan(x), end, ends) for end in (-np.inf, np.inf))
    for device, (_, y, z) in every_leg(
        signed_zeros, x, np.zeros((2, 8), x.dtype), np.zeros((2, 8, 33), x.dtype)
    ):
        assert np.array_equal(y, [high.max(1), low.min(1)]), device
        assert np.array_equal(z[0], np.maximum.accumulate(high, axis=1)), device
        assert np.array_equal(z[1], np.minimum(low, low[:, ::-1])), device
