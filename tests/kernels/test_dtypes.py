"""Element types end to end: parameters, shared memory, fragments, variables, arithmetic, casts both
ways; the interpreter's results, bit by bit, from the emulated text of three machines."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.backends.hip.cdna.device import MachineCodeDevice
from tests.ir.test_conversion import saturated
from tests.kernels.machines import TARGETS
from tilec.ir.conversion import convert_array
from tilec.ir.dtypes import arithmetic_dtype, find_dtype
from tilec.language.dtypes import ElementType
from tilec.language.kernel import Kernel
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice

pytestmark = pytest.mark.emulator
BM, BN = 32, 64
SIZES = ((1, 1), (31, 63), (33, 65), (64, 128), (0, 64))
NAMES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "tfloat32",
)  # fmt: skip
FNUZ = ("float8_e4m3fnuz", "float8_e5m2fnuz")
SIX_BITS = ("float6_e2m3fn", "float6_e3m2fn")


@cache
def lowered(make: Callable[..., Kernel], target: str, *arguments: str) -> CompiledKernel:
    compiled = lower(make(*arguments), (), target, {})
    compiled.add_general()
    return compiled


def run_everywhere(
    make: Callable[..., Kernel],
    arguments: tuple[str, ...],
    arrays: Callable[[], tuple[Any, ...]],
    targets: tuple[str, ...] = TARGETS,
) -> tuple[Any, ...]:
    """The interpreter's results, after the emulated texts gave the same bits."""
    expected = arrays()
    InterpreterDevice("", "a test").run(lowered(make, TARGETS[0], *arguments), expected)
    for target in targets:
        found = arrays()
        EmulatorDevice(target, "a test", "late", "forward", seed=3).run(
            lowered(make, target, *arguments), found
        )
        for i, (one, two) in enumerate(zip(expected, found, strict=True)):
            assert one.tobytes() == two.tobytes(), f"argument {i} on {target}"
    return expected


def moves(*dtypes: str) -> Kernel:
    d0, d1, d2, d3 = dtypes

    @tilec.kernel
    def through(
        A0: T.Tensor(("M", "N"), d0), B0: T.Tensor(("M", "N"), d0), C0: T.Tensor(("M", "N"), d0),
        A1: T.Tensor(("M", "N"), d1), B1: T.Tensor(("M", "N"), d1), C1: T.Tensor(("M", "N"), d1),
        A2: T.Tensor(("M", "N"), d2), B2: T.Tensor(("M", "N"), d2), C2: T.Tensor(("M", "N"), d2),
        A3: T.Tensor(("M", "N"), d3), B3: T.Tensor(("M", "N"), d3), C3: T.Tensor(("M", "N"), d3),
    ):  # fmt: skip
        M, N = A0.shape
        with T.Kernel(T.ceildiv(N, BN), T.ceildiv(M, BM), threads=128) as (bx, by):
            for A, B, C in ((A0, B0, C0), (A1, B1, C1), (A2, B2, C2), (A3, B3, C3)):
                s = T.alloc_shared((BM, BN), A.dtype)
                f = T.alloc_fragment((BM, BN), A.dtype)
                T.copy(A[by * BM, bx * BN], s)
                T.copy(s, f)
                T.copy(f, B[by * BM, bx * BN])
                for i, j in T.Parallel(BM, BN):
                    C[by * BM + i, bx * BN + j] = s[i, BN - 1 - j]

    return through


def any_bits(dtype: str, m: int, n: int) -> np.ndarray:
    """Values of all kinds, but no NaN: one is the emulator's mark of what was never written."""
    kind = find_dtype(dtype).numpy
    raw = np.random.default_rng(m + n).integers(0, 256, (m, n * kind.itemsize), np.uint8)
    if dtype == "bool":
        return raw > 127
    a = raw.view(kind)
    with np.errstate(invalid="ignore"):
        wide = a.astype(np.float64)
    return np.where(np.isnan(wide), kind.type(1), a).astype(kind)


def mirrored(a: np.ndarray) -> np.ndarray:
    """Every row, in pieces of BN with zeros at its end, each in reverse."""
    m, n = a.shape
    whole = np.zeros((m, -(-n // BN) * BN), a.dtype)
    whole[:, :n] = a
    return np.ascontiguousarray(
        whole.reshape(m, -(-n // BN), BN)[:, :, ::-1].reshape(whole.shape)[:, :n]
    )


@pytest.mark.parametrize(
    "dtypes", [*(NAMES[i::4] for i in range(4)), (*FNUZ, *SIX_BITS)], ids=", ".join
)
def test_moves_are_exact(dtypes: tuple[str, ...]) -> None:
    for m, n in SIZES:
        inputs = [any_bits(dtype, m, n) for dtype in dtypes]
        found = run_everywhere(
            moves,
            dtypes,
            lambda given=inputs: tuple(
                x for a in given for x in (a, np.zeros_like(a), np.zeros_like(a))
            ),
        )
        for i, a in enumerate(inputs):
            assert found[3 * i + 1].tobytes() == a.tobytes(), (dtypes[i], m, n)
            assert found[3 * i + 2].tobytes() == mirrored(a).tobytes(), (dtypes[i], m, n)


TO = ("int8", "uint32", "bfloat16", "float64", "float8_e4m3fn", *SIX_BITS)


def casts(source: str) -> Kernel:
    @tilec.kernel
    def cast(
        A: T.Tensor(("M", "N"), source),
        B0: T.Tensor(("M", "N"), TO[0]), C0: T.Tensor(("M", "N"), TO[0]),
        B1: T.Tensor(("M", "N"), TO[1]), C1: T.Tensor(("M", "N"), TO[1]),
        B2: T.Tensor(("M", "N"), TO[2]), C2: T.Tensor(("M", "N"), TO[2]),
        B3: T.Tensor(("M", "N"), TO[3]), C3: T.Tensor(("M", "N"), TO[3]),
        B4: T.Tensor(("M", "N"), TO[4]), C4: T.Tensor(("M", "N"), TO[4]),
        B5: T.Tensor(("M", "N"), TO[5]), C5: T.Tensor(("M", "N"), TO[5]),
        B6: T.Tensor(("M", "N"), TO[6]), C6: T.Tensor(("M", "N"), TO[6]),
    ):  # fmt: skip
        M, N = A.shape
        with T.Kernel(T.ceildiv(N, BN), T.ceildiv(M, BM), threads=128) as (bx, by):
            f = T.alloc_fragment((BM, BN), source)
            T.copy(A[by * BM, bx * BN], f)
            for B, C in ((B0, C0), (B1, C1), (B2, C2), (B3, C3), (B4, C4), (B5, C5), (B6, C6)):
                x = T.alloc_var(B.dtype)
                T.copy(f, B[by * BM, bx * BN])
                for i, j in T.Parallel(BM, BN):
                    x = T.cast(f[i, j], B.dtype)
                    C[by * BM + i, bx * BN + j] = x

    return cast


def interesting(source: str) -> np.ndarray:
    dtype = find_dtype(source)
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        kept = {info.min, info.max, 0, 1, 100, info.max // 3, info.min // 3, info.max - 1}
        return np.array(sorted(kept), dtype.numpy)
    if dtype.kind == "bool":
        return np.array([True, False])
    values = [0.0, -0.0, 0.3, -0.3, 1.5, 447.0, 464.0, -1000.0, 6e4, 1e-3, 2.0**-17, 3e9, -5e18]
    return convert_array(np.array([*values, 1e20, 1 + 2.0**-8 + 2.0**-40]), dtype)


@pytest.mark.parametrize("source", [*NAMES, *FNUZ, *SIX_BITS])
def test_casts(source: str) -> None:
    a = np.resize(interesting(source), (5, 9))
    kinds = [find_dtype(to) for to in TO]
    _, *found = run_everywhere(
        casts,
        (source,),
        lambda: (a, *(np.zeros(a.shape, k.numpy) for k in kinds for _ in range(2))),
        TARGETS[:1],
    )
    for i, kind in enumerate(kinds):
        assert found[2 * i].tobytes() == convert_array(a, kind).tobytes(), kind
        assert found[2 * i + 1].tobytes() == convert_array(a, kind).tobytes(), kind


def arithmetic(*dtypes: str) -> Kernel:
    d0, d1, d2 = dtypes
    w0, w1, w2 = (str(ElementType(arithmetic_dtype(find_dtype(d)))) for d in dtypes)

    @tilec.kernel
    def compute(
        A0: T.Tensor((2, "N"), d0), C0: T.Tensor((5, "N"), w0), D0: T.Tensor(("N",), "bool"),
        A1: T.Tensor((2, "N"), d1), C1: T.Tensor((5, "N"), w1), D1: T.Tensor(("N",), "bool"),
        A2: T.Tensor((2, "N"), d2), C2: T.Tensor((5, "N"), w2), D2: T.Tensor(("N",), "bool"),
    ):  # fmt: skip
        N = A0.shape[1]
        with T.Kernel(T.ceildiv(N, 128), threads=128) as bx:
            for A, C, D in ((A0, C0, D0), (A1, C1, D1), (A2, C2, D2)):
                for i in T.Parallel(128):
                    x = A[0, bx * 128 + i]
                    y = A[1, bx * 128 + i]
                    C[0, bx * 128 + i] = x + y
                    C[1, bx * 128 + i] = x * y - x
                    C[2, bx * 128 + i] = T.max(x, y)
                    C[3, bx * 128 + i] = T.min(x, 3)
                    C[4, bx * 128 + i] = T.if_then_else(x < y, x, y)
                    D[bx * 128 + i] = x < y

    return compute


@pytest.mark.parametrize(
    "dtypes",
    [*(NAMES[1 + i :: 5] for i in range(5)), (*FNUZ, SIX_BITS[0]), (*SIX_BITS, "float32")],
    ids=", ".join,
)
def test_arithmetic(dtypes: tuple[str, ...]) -> None:
    """On values so small that nothing rounds; types without arithmetic compute in f32."""
    n = 131
    random = np.random.default_rng(1)
    kinds = [find_dtype(d) for d in dtypes]
    pairs = [
        random.integers(0 if k.kind == "uint" else -9, 10, (2, n)).astype(k.numpy) for k in kinds
    ]
    wide = [arithmetic_dtype(k).numpy for k in kinds]

    def arrays() -> tuple[Any, ...]:
        rows = (
            (a, np.zeros((5, n), w), np.zeros(n, np.bool_))
            for a, w in zip(pairs, wide, strict=True)
        )
        return tuple(array for row in rows for array in row)

    found = run_everywhere(arithmetic, dtypes, arrays, TARGETS[::2])
    for i, w in enumerate(wide):
        x, y = pairs[i].astype(w)
        three = np.full(n, 3).astype(w)
        expected = [x + y, x * y - x, np.maximum(x, y), np.minimum(x, three), np.where(x < y, x, y)]
        assert found[3 * i + 1].tobytes() == np.stack(expected).astype(w).tobytes(), dtypes[i]
        assert found[3 * i + 2].tolist() == (x < y).tolist(), dtypes[i]


@tilec.kernel
def to_and_from_six_bits(
    H: T.Tensor(("N",), "float16"), B: T.Tensor(("N",), "bfloat16"), C: T.Tensor((256,), "uint8"),
    H0: T.Tensor(("N",), SIX_BITS[0]), H1: T.Tensor(("N",), SIX_BITS[1]),
    B0: T.Tensor(("N",), SIX_BITS[0]), B1: T.Tensor(("N",), SIX_BITS[1]),
    C0: T.Tensor((256,), "float16"), C1: T.Tensor((256,), "bfloat16"),
):  # fmt: skip
    (N,) = H.shape
    with T.Kernel(T.ceildiv(N, 1024), threads=128) as bx:
        for X, made in ((H, (H0, H1)), (B, (B0, B1))):
            f = T.alloc_fragment((1024,), X.dtype)
            T.copy(X[bx * 1024], f)
            for Y in made:
                T.copy(f, Y[bx * 1024])
        if bx == 0:
            for i in T.Parallel(256):
                C0[i] = T.reinterpret(C[i], SIX_BITS[0])
            for i in T.Parallel(256):
                C1[i] = T.reinterpret(C[i], SIX_BITS[1])


@pytest.mark.hip
def test_six_bits_of_and_to_every_number() -> None:
    """All f16 and bf16 but the emulator's own NaN, all bytes; by clang's machine code a seventh of them."""
    bits = np.arange(1 << 16).astype(np.uint16)
    every = [
        bits[(bits & 0x7FFF) != poison].view(kind)
        for kind, poison in ((np.float16, 0x7ED5), (ml_dtypes.bfloat16, 0x7FD5))
    ]
    codes = np.arange(256).astype(np.uint8)
    kinds = [find_dtype(d) for d in SIX_BITS]
    compiled = {t: lower(to_and_from_six_bits, (), t, {}) for t in (*TARGETS, "hip:gfx950")}
    devices: list[tuple[Any, int]] = [(InterpreterDevice("", "a test"), 1)]
    devices += [(EmulatorDevice(target, "a test"), 1) for target in compiled]
    devices += [(MachineCodeDevice(target=t), 7) for t in compiled if t.startswith("hip")]
    for device, step in devices:
        x = [a[::step].copy() for a in every]
        made = [np.zeros(a.size, k.numpy) for a in x for k in kinds]
        wide = [np.zeros(256, np.float16), np.zeros(256, ml_dtypes.bfloat16)]
        target = next((t for t in compiled if t in device.name), TARGETS[0])
        compiled[target].run_on(device, (*x, codes, *made, *wide))
        for i, (a, k) in enumerate(itertools.product(x, kinds)):
            assert made[i].tobytes() == saturated(a, k).tobytes(), (device.name, a.dtype, k)
        for found, k in zip(wide, kinds, strict=True):
            exact = (codes & 63).view(k.numpy).astype(np.float32).astype(found.dtype)
            assert found.tobytes() == exact.tobytes(), (device.name, k)


def test_what_is_above_six_bits_moves_and_means_nothing() -> None:
    """On every leg: bytes whose two upper bits are set, moved and computed with."""
    every = np.arange(256).astype(np.uint8).reshape(4, 64)

    @tilec.kernel
    def doubled(A: T.Tensor((4, 64), SIX_BITS[0]), B: T.Tensor((4, 64), SIX_BITS[0]),
                C: T.Tensor((4, 64), "float32"), D: T.Tensor((4, 64), "bool")):  # fmt: skip
        with T.Kernel(1, threads=64):
            s = T.alloc_shared((4, 64), SIX_BITS[0])
            T.copy(A, s)
            T.copy(s, B)
            for i, j in T.Parallel(4, 64):
                C[i, j] = s[i, j] + s[i, j]
                D[i, j] = s[i, j] == A[i, j]

    values = (every & 63).view(ml_dtypes.float6_e2m3fn).astype(np.float32)
    for target in (None, *TARGETS):
        b, c, d = np.zeros_like(every), np.zeros((4, 64), np.float32), np.zeros((4, 64), np.bool_)
        with tilec.device("interpreter" if target is None else f"emulator:{target}"):
            doubled(every, b, c, d)
        assert b.tobytes() == every.tobytes() and d.all()
        assert c.tobytes() == (values + values).tobytes()


@pytest.mark.parametrize(
    ("dtype", "own", "bits", "other"),
    [
        ("float8_e4m3fn", ml_dtypes.float8_e4m3fn, (np.uint8, np.int8), ml_dtypes.float8_e5m2),
        ("bfloat16", ml_dtypes.bfloat16, (np.uint16, np.int16), np.float16),
    ],
)
def test_integers_hold_the_bits_of_other_dtypes(
    dtype: str, own: Any, bits: Any, other: Any
) -> None:
    a = np.arange(128, dtype=own).reshape(2, 64)
    kernel = moves(*[dtype] * 4)
    for device in ("interpreter", f"emulator:{TARGETS[0]}"):
        for kind in (own, *bits):
            moved = [[a.view(kind), *np.zeros((2, 2, 64), kind)] for _ in range(4)]
            kernel(*itertools.chain(*moved), device=device)
            assert [x.tobytes() for _, x, _ in moved] == [a.tobytes()] * 4
        with pytest.raises(tilec.TilecError, match=r"A0 has dtype .*, expected"):
            kernel(*[a.view(other)] * 12, device=device)


def unsaturated(target: str) -> Kernel:
    @tilec.kernel
    def cast(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), target)):
        (N,) = A.shape
        with T.Kernel(T.ceildiv(N, 128), threads=128) as bx:
            for i in T.Parallel(128):
                B[bx * 128 + i] = T.cast(A[bx * 128 + i], target, "rn", sat=False)

    return cast


@pytest.mark.parametrize(
    "target", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
)
def test_casts_that_do_not_saturate(target: str) -> None:
    limits = np.array(
        [240, 247, 248, 448, 464, 464.5, 57344, 61439, 61440, 1e30, np.inf, 1, 0], np.float32
    )
    a = np.concatenate([limits, -limits, [np.nan]]).astype(np.float32)
    kind = find_dtype(target).numpy
    _, b = run_everywhere(unsaturated, (target,), lambda: (a, np.zeros(a.size, kind)), TARGETS[::2])
    np.testing.assert_array_equal(b.astype(np.float32), a.astype(kind).astype(np.float32))


def test_roundings_other_than_to_nearest_are_refused() -> None:
    @tilec.kernel
    def towards_zero(A: T.Tensor((8,), "float32"), B: T.Tensor((8,), "float16")):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(8):
                B[i] = T.cast(A[i], "float16", "rz")

    with pytest.raises(tilec.TilecError, match=r"TLC0150.*'rz'"):
        towards_zero.lower(target="cuda:sm_80")
