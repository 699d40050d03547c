"""Floats of 8, 6 and 4 bits in integer arithmetic, as the CUDA and HIP preludes print it: the text itself, compiled
by clang for this machine, against ml_dtypes; exhaustively for sources of 16 bits."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.backends.host_text import compile_here
from tests.ir.test_conversion import EDGES, SMALL, check_bits, every_pattern, nearest, saturated
from tilec.backends.prelude import Need, render_prelude
from tilec.ir.conversion import convert_array
from tilec.ir.dtypes import DTYPES, DType, bf16, f16, f32, f64

pytestmark = pytest.mark.hip
INTEGERS = tuple(
    d.name for d in DTYPES.values() if d.is_integer and d.bits >= 8 and "x" not in d.name
)
# What the CUDA text asks of its machine, before sm_89: here only conversions from f32 are made.
STAND_INS = {
    "cuda": """
#define __device__
#define __forceinline__ inline
static inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
static inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
static inline unsigned long long __double_as_longlong(double x) { return __builtin_bit_cast(unsigned long long, x); }
static inline double __longlong_as_double(unsigned long long x) { return __builtin_bit_cast(double, x); }
template <class T> float not_here(T);
#define __double2float_rz not_here
#define __ll2float_rz not_here
#define __ll2float_ru not_here
#define __ll2float_rd not_here
#define __ull2float_rz not_here
#define __ull2float_ru not_here
#define __ull2float_rd not_here
#define __int2float_rz not_here
#define __int2float_ru not_here
#define __int2float_rd not_here
#define __uint2float_rz not_here
#define __uint2float_ru not_here
#define __uint2float_rd not_here
""",
    "hip": "#define __device__\n",
}
SOURCES = {"cuda": (f32,), "hip": (f16, bf16, f32, f64, DTYPES["i32"], DTYPES["u64"])}
HALVES = (f16, bf16)


def probe(to: str, source: str) -> str:
    return (
        f"void {to}_from_{source}(const {source}* x, {to}* y, int n)"
        " { regs<%s, 3> s; regs<%s, 3> d;"
        % (source, to)
        + f" for (int i = 0; i < n; ++i) {{ s[0] = s[1] = s[2] = x[i]; y[i] = convert<{to}>(x[i]);"
        " convert_registers<3>(d, 0, s, 0);"
        " for (int e = 0; e < 3; ++e)"
        " if (__builtin_memcmp(&d[e], &y[i], sizeof *y)) __builtin_trap(); } }"
    )


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    return {d: build(d, tmp_path_factory.mktemp(f"small-{d}")) for d in SOURCES}


def build(dialect: str, folder: Path) -> ctypes.CDLL:
    """The conversions that the text of a prelude makes on its own, without instructions for them."""
    sources = [d.name for d in SOURCES[dialect]]
    pairs = [(to.name, s) for to in SMALL for s in sources]
    pairs += [(to, f.name) for f in SMALL for to in ("f32", "f64")]
    pairs += [(to.name, f.name) for to in SMALL for f in SMALL]
    names = [*(f.name for f in SMALL), "convert", "regs", "convert_registers", *sources]
    if dialect == "hip":
        pairs += [(to, s) for to in INTEGERS for s in (*sources[:4], *(f.name for f in SMALL))]
        pairs += [(to.name, f.name) for f in SMALL for to in HALVES]
        names += INTEGERS
    prelude = render_prelude(dialect, [Need(n) for n in names])
    body = "\n".join(probe(to, s) for to, s in pairs)
    return compile_here(STAND_INS[dialect], prelude, body, folder)


def call(library: ctypes.CDLL, to: DType, source: DType, x: NDArray[Any]) -> NDArray[Any]:
    result = np.empty(x.size, to.numpy)
    held = np.ascontiguousarray(x)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (held, result)]
    getattr(library, f"{to}_from_{source}")(*pointers, ctypes.c_int(x.size))
    return result


Libraries = dict[str, ctypes.CDLL]


@pytest.mark.parametrize("target", SMALL, ids=str)
@pytest.mark.parametrize("dialect", SOURCES)
def test_to_small_floats(libraries: Libraries, dialect: str, target: DType) -> None:
    library = libraries[dialect]
    for half in HALVES:
        x = every_pattern(half)
        expected = saturated(x, target)
        check_bits(call(library, target, f32, x.astype(np.float32)), expected, canonical=True)
        if half in SOURCES[dialect]:
            check_bits(call(library, target, half, x), expected, canonical=True)
    step = np.arange(0, 1 << 32, 40503, dtype=np.uint64).astype(np.uint32).view(np.float32)
    check_bits(call(library, target, f32, step), saturated(step, target), canonical=True)
    for other in SMALL:
        if other != target:
            x = every_pattern(other)
            check_bits(call(library, target, other, x), saturated(x, target), canonical=True)


@pytest.mark.parametrize("source", SMALL, ids=str)
@pytest.mark.parametrize("dialect", SOURCES)
def test_from_small_floats(libraries: Libraries, dialect: str, source: DType) -> None:
    x = every_pattern(source)
    for target in (f32, f64, *(h for h in HALVES if h in SOURCES[dialect])):
        got = call(libraries[dialect], target, source, x)
        check_bits(got, x.astype(np.float32).astype(target.numpy))


@pytest.mark.parametrize("source", [d for d in SMALL if d.code_bits < 8], ids=str)
@pytest.mark.parametrize("dialect", SOURCES)
def test_bits_beyond_a_value_are_ignored(libraries: Libraries, dialect: str, source: DType) -> None:
    every = np.arange(256).astype(np.uint8)
    low = every & np.uint8((1 << source.code_bits) - 1)
    for target in (f32, f64, *(h for h in HALVES if h in SOURCES[dialect])):
        got, expected = (call(libraries[dialect], target, source, x) for x in (every, low))
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("target", SMALL, ids=str)
def test_wide_sources_round_once(libraries: Libraries, target: DType) -> None:
    hip = libraries["hip"]
    ties = np.array([1 + (2 * k + 1) * 2.0**-e for k in range(8) for e in (3, 4)])
    x = np.concatenate([ties * (1 + s * 2.0**-40) for s in (-1, 0, 1)])
    assert call(hip, target, f64, x).astype(float).tolist() == [nearest(v, target) for v in x]
    for name in ("i32", "u64"):
        whole = np.array([0, 1, 17, 19, 447, 449, 465, 57345, (1 << 31) - 1], DTYPES[name].numpy)
        got = call(hip, target, DTYPES[name], whole).astype(float).tolist()
        assert got == [nearest(int(v), target) for v in whole]


@pytest.mark.parametrize("target", INTEGERS)
def test_floats_to_integers(libraries: Libraries, target: str) -> None:
    values = np.array(EDGES)
    for source in (f16, bf16, f32, f64, *SMALL):
        x = convert_array(values, source)
        got = call(libraries["hip"], DTYPES[target], source, x)
        assert got.tolist() == convert_array(x, DTYPES[target]).tolist(), source
