"""What the scalar, shuffle and plain memory names mean, in the emulator, against NumPy."""

from __future__ import annotations

from fractions import Fraction
from math import erf
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.backends.emulation import every_schedule
from tests.backends.probes_scalar import (
    FUNCTIONS,
    MOVE_PROBES,
    MOVES,
    PAIRED,
    SCALAR_PROBES,
    SCALARS,
    SMALL_FLOAT_PROBES,
    SMALL_FLOATS,
)
from tests.ir.test_conversion import EDGES, check_bits, every_pattern, saturated
from tilec.ir.conversion import convert_array
from tilec.ir.dtypes import find_dtype
from tilec.runtime.emulator import EmulatorError

pytestmark = pytest.mark.emulator

DTYPES: dict[str, Any] = {
    "bool": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "f16": np.float16,
    "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64,
    "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
    "e2m3": ml_dtypes.float6_e2m3fn, "e3m2": ml_dtypes.float6_e3m2fn,
}  # fmt: skip
INTEGERS = tuple(s for s in SCALARS if s[0] in "iu")
RANDOM = np.random.default_rng(5)


def make_values(dtype: str) -> NDArray[Any]:
    """Values that every type can hold once truncated, and for floats many with halfway
    roundings."""
    numpy = DTYPES[dtype]
    if dtype == "bool":
        return RANDOM.integers(0, 2, 67).astype(np.bool_)
    if dtype in INTEGERS:
        info = np.iinfo(numpy)
        special = [info.min, info.max, info.max - 1, 0, 1, 63, info.max // 3]
        wide = [(1 << b) + d for b in (9, 12, 25, 26, 33, 54, 62) for d in (-1, 0, 1, 3)]
        kept = [v for v in special + wide if info.min <= v <= info.max]
        return np.array(kept + list(RANDOM.integers(0, 100, 30)), numpy)
    values = np.concatenate(
        [RANDOM.uniform(0, 100, 60), RANDOM.uniform(0, 1e-4, 20), [0.0, 1.0, 2.5]]
    )
    halfway = 1 + RANDOM.integers(0, 256, 30) / 256 + 1 / 512
    tiny = [2.0**-24 * 1.5, 2.0**-25, 1 + 2.0**-9 + 2.0**-30, 1 + 2.0**-11 + 2.0**-40]
    with np.errstate(all="ignore"):
        return np.concatenate([values, halfway, tiny]).astype(numpy)


def make_outputs(count: int, targets: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The arrays of a conversion probe: Y one at a time, Z through registers by twos."""
    return {
        f"{v}_{t}": np.zeros(count, DTYPES[t])
        for t in targets
        for v in ("YZ" if t in PAIRED else "Y")
    }


def expect_conversion(
    x: NDArray[Any], source: str, target: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The exact conversion, and where it is defined (an integer target holds the value)."""
    numpy = DTYPES[target]
    everywhere = np.ones(x.shape, bool)
    if target in INTEGERS and source not in INTEGERS and source != "bool":
        info = np.iinfo(numpy)
        truncated = np.trunc(x.astype(np.float64))
        defined = (
            (truncated >= float(info.min))
            & (truncated <= float(info.max))
            & (np.abs(truncated) < 2.0**63)
        )
        return np.where(defined, truncated, 0).astype(numpy), defined
    if target == "bf16" and source in INTEGERS:
        return np.array([round_to_bf16(int(v)) for v in x], numpy), everywhere
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64) if source == "bf16" else x
        if target == "bf16" and source == "f64":
            return np.array([round_to_bf16(float(v)) for v in x], numpy), everywhere
        return wide.astype(numpy), everywhere


def round_to_bf16(value: float | int) -> Any:
    """Round to nearest even once, through exact arithmetic."""
    if value == 0:
        return ml_dtypes.bfloat16(0)
    exact = Fraction(value)
    exponent = max(int(np.floor(np.log2(float(abs(exact))))), -126)
    while abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while exponent > -126 and abs(exact) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 7)
    return ml_dtypes.bfloat16(float(round(exact / unit) * unit))


@pytest.mark.parametrize("source", SCALARS)
def test_conversions_round_once(source: str) -> None:
    x = make_values(source)
    outputs = make_outputs(len(x), SCALARS)
    SCALAR_PROBES.run(f"convert_{source}", {"X": x, "n": len(x), **outputs})
    for target in SCALARS:
        expected, defined = expect_conversion(x, source, target)
        for v in "YZ" if target in PAIRED else "Y":
            got = outputs[f"{v}_{target}"]
            np.testing.assert_array_equal(
                got[defined], expected[defined], err_msg=f"{source} to {target} ({v})"
            )


@pytest.mark.parametrize("source", ["f16", "bf16", "f32", "f64"])
def test_floats_to_integers_saturate(source: str) -> None:
    x = convert_array(np.array(EDGES), find_dtype(source))
    outputs = make_outputs(len(x), SCALARS)
    SCALAR_PROBES.run(f"convert_{source}", {"X": x, "n": len(x), **outputs})
    for target in INTEGERS:
        assert outputs[f"Y_{target}"].tolist() == convert_array(x, find_dtype(target)).tolist()


@pytest.mark.parametrize("source", ["f16", "bf16", "f32", "i32"])
def test_small_floats_saturate(source: str) -> None:
    if source == "f32":
        x = np.arange(0, 1 << 32, 40503, dtype=np.uint64).astype(np.uint32).view(np.float32)
    elif source == "i32":
        x = np.concatenate([np.arange(-600, 600), 65536 - np.arange(9000), [1 << 30]]).astype(
            np.int32
        )
    else:
        x = every_pattern(find_dtype(source))
        poison = {"f16": 0x7ED5, "bf16": 0x7FD5}[
            source
        ]  # the emulator's own NaN: nothing was written
        x = x[(x.view(np.uint16) & 0x7FFF) != poison]
    outputs = make_outputs(len(x), SMALL_FLOATS)
    SMALL_FLOAT_PROBES.run(f"convert_{source}", {"X": x, "n": len(x), **outputs})
    for name, got in outputs.items():
        check_bits(got, saturated(x, find_dtype(name[2:])), canonical=True)


@pytest.mark.parametrize("source", SMALL_FLOATS)
def test_small_floats_widen(source: str) -> None:
    """Every byte: of two bits above a value nothing comes."""
    x = np.arange(256, dtype=np.uint8).view(DTYPES[source])
    outputs = make_outputs(len(x), ("f16", "bf16", "f32", "f64", "i32"))
    SMALL_FLOAT_PROBES.run(f"convert_{source}", {"X": x, "n": len(x), **outputs})
    for name, got in outputs.items():
        expected = convert_array(x, find_dtype(name[2:]))
        if got.dtype.kind in "iu":
            assert got.tolist() == expected.tolist()
        else:
            check_bits(got, expected)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_arithmetic_rounds_once(dtype: str) -> None:
    numpy = DTYPES[dtype]
    draws = np.random.default_rng(1)  # the same in whatever order tests run: 0 / 0 is not drawn
    for scale in (1.0, 1e-3, 300.0):
        a = draws.normal(0, scale, 32).astype(numpy)
        b = draws.normal(0, scale, 32).astype(numpy)
        b[:3] = a[:3]
        y, p = np.zeros(256, numpy), np.zeros(192, np.bool_)
        SCALAR_PROBES.run(f"arithmetic_{dtype}", {"A": a, "B": b, "Y": y, "P": p})
        with np.errstate(over="ignore", divide="ignore"):  # a small f16 may be 0
            expected = np.concatenate(
                [a + b, a - b, a * b, a / b, -a, np.minimum(a, b), np.maximum(a, b), np.abs(a)]
            )
        assert y.tobytes() == expected.tobytes()
        assert p.tolist() == np.concatenate([a < b, a <= b, a > b, a >= b, a == b, a != b]).tolist()


def test_functions() -> None:
    x = RANDOM.uniform(0.05, 4.0, 32).astype(np.float32)
    y = np.zeros(32 * (len(FUNCTIONS) + 2), np.float32)
    SCALAR_PROBES.run("functions", {"X": x, "Y": y})
    wide = x.astype(np.float64)
    special = {
        "rsqrt": 1 / np.sqrt(wide),
        "erf": np.array([erf(v) for v in wide]),
        "round": np.rint(wide),
    }
    for i, name in enumerate(FUNCTIONS):
        expected = special[name] if name in special else getattr(np, name)(wide)
        np.testing.assert_allclose(
            y[32 * i : 32 * i + 32], expected, rtol=1e-6, atol=1e-6, err_msg=name
        )
    rest = y[32 * len(FUNCTIONS) :]
    np.testing.assert_allclose(rest[:32], wide**1.5, rtol=1e-6)
    np.testing.assert_allclose(rest[32:], wide * wide + 0.25, rtol=1e-7)


def test_integers() -> None:
    a = RANDOM.integers(-50, 50, 32).astype(np.int32)
    b = np.where(a % 2 == 0, 7, -3).astype(np.int32)
    y, u = np.zeros(224, np.int32), np.zeros(32, np.uint32)
    f = RANDOM.standard_normal(32).astype(np.float32)
    before = f.copy()
    SCALAR_PROBES.run("integers", {"A": a, "B": b, "Y": y, "U": u, "F": f})
    rows = [
        a // b,
        a % b,
        np.minimum(a, 3),
        np.maximum(a, b),
        abs(a),
        (a & 12) | (b << 2),
        np.maximum(a, 0),
    ]
    assert y.tolist() == np.concatenate(rows).tolist()
    assert u.tolist() == before.view(np.uint32).tolist()
    assert f.tolist() == (-before).tolist()


@pytest.mark.finding
def test_division_by_zero_is_found() -> None:
    a = np.ones(32, np.int32)
    arguments = {
        "A": a,
        "B": a * 0,
        "Y": np.zeros(224, np.int32),
        "U": a.view(np.uint32),
        "F": a.view(np.float32),
    }
    with pytest.raises(EmulatorError, match="divides by zero"):
        SCALAR_PROBES.run("integers", arguments)


def test_shuffles_and_ids() -> None:
    x, g = (
        RANDOM.standard_normal(64).astype(np.float32),
        RANDOM.standard_normal(64).astype(np.float16),
    )
    d, p = RANDOM.standard_normal(64), RANDOM.integers(-128, 128, 64).astype(np.int8)
    lane = np.arange(64) % 32
    warp = np.arange(64) // 32 * 32
    for mode, order in every_schedule():
        y, h, i = np.zeros(128, np.float32), np.zeros(128, np.float16), np.zeros(128, np.int32)
        e, q = np.zeros(128, np.float64), np.zeros(128, np.int8)
        given = {"X": x, "Y": y, "G": g, "H": h, "I": i, "D": d, "E": e, "P": p, "Q": q}
        SCALAR_PROBES.run("shuffles", given, mode, order)
        assert e.tolist() == np.concatenate([d[warp + (lane ^ 1)], d[warp + lane // 2]]).tolist()
        assert q.tolist() == np.concatenate([p[warp + (lane ^ 8)], p[warp + 31]]).tolist()
        assert (
            y.tolist() == np.concatenate([x[warp + (lane + 5) % 32], x[warp + (lane ^ 3)]]).tolist()
        )
        assert (
            h.tolist() == np.concatenate([g[warp + lane // 4 * 4], g[warp + (lane ^ 16)]]).tolist()
        )
        assert i.tolist() == [*(warp // 32 * 100 + 3), *(warp + 1)]


@pytest.mark.finding  # which block writes last is the emulator's to say
def test_blocks_of_a_grid() -> None:
    x, g = np.zeros(64, np.float32), np.zeros(64, np.float16)
    i = np.zeros(128, np.int32)
    arguments = {
        "X": x,
        "Y": np.zeros(128, np.float32),
        "G": g,
        "H": np.zeros(128, np.float16),
        "I": i,
        "D": np.zeros(64),
        "E": np.zeros(128),
        "P": np.zeros(64, np.int8),
        "Q": np.zeros(128, np.int8),
    }
    SCALAR_PROBES.run("shuffles", arguments, "late", "forward", (2, 3, 4), races=False)
    assert i[0] == 10 + 2 + 2 + 3 + 3 + 4
    SCALAR_PROBES.run("shuffles", arguments, "late", "reverse", (2, 3, 4), races=False)
    assert i[0] == 2 + 3 + 4


@pytest.mark.parametrize("name", MOVES)
def test_moves(name: str) -> None:
    _, dtype, width_text = name.split("_")
    width, numpy = int(width_text), DTYPES[dtype]
    x = RANDOM.integers(0, 100, 32 * width).astype(numpy)
    y = np.full(32 * width, 77).astype(numpy)
    MOVE_PROBES.run(name, {"X": x, "Y": y}, "late", "random")
    rows = x.reshape(32, width).copy()
    rows[7] = 0
    expected = rows[::-1].copy()
    expected[30] = 1
    expected[31] = x[:width]
    expected[29, 0] = x[1]
    assert y.reshape(32, width).tolist() == expected.tolist()


@pytest.mark.finding
def test_a_misaligned_pointer_is_found() -> None:
    x = np.zeros(32 * 8 + 1, np.float16)[1:]
    with pytest.raises(EmulatorError, match="address is no multiple"):
        MOVE_PROBES.run("move_f16_8", {"X": x, "Y": np.zeros(256, np.float16)})


@pytest.mark.finding
def test_a_short_array_is_found() -> None:
    with pytest.raises(EmulatorError, match=r"reads X\[248 .. 256\), which has 255 elements"):
        MOVE_PROBES.run(
            "move_f16_8", {"X": np.zeros(255, np.float16), "Y": np.zeros(256, np.float16)}
        )


@pytest.mark.finding
def test_a_read_only_array_is_found() -> None:
    y = np.zeros(256, np.float16)
    y.flags.writeable = False
    with pytest.raises(EmulatorError, match="read-only"):
        MOVE_PROBES.run("move_f16_8", {"X": np.zeros(256, np.float16), "Y": y})
