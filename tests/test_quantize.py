"""Packing in NumPy, unpacking in NumPy and in kernels."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilec
import tilec.language as T
from tilec.errors import LanguageError
from tilec.ir.core import walk
from tilec.ir.dtypes import DTYPES
from tilec.ir.ops.arith import Elementwise
from tilec.ir.ops.memory import Load, Store
from tilec.quantize import pack, packed_to_unsigned_convert, unpack


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.booleans(), st.randoms())
def test_unpack_undoes_pack(nbit: int, groups: int, signed: bool, random: Any) -> None:
    low = -(1 << (nbit - 1)) if signed else 0
    shape = (2, groups * 8 // nbit)
    values = np.array(
        [random.randrange(low, low + (1 << nbit)) for _ in range(shape[0] * shape[1])]
    )
    values = values.reshape(shape)
    packed = pack(values, nbit)
    assert packed.dtype == np.int8 and packed.shape == (2, groups)
    assert np.array_equal(unpack(packed, nbit, signed), values)
    assert np.array_equal(unpack(packed.view(np.uint8), nbit, signed), values)


def test_the_low_half_is_first() -> None:
    assert pack(np.array([[1, 15]]), 4).view(np.uint8).tolist() == [[0xF1]]


@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "int4", "uint4"])
def test_elements_of_ml_dtypes(dtype: str) -> None:
    raw = np.arange(256, dtype=np.uint8)
    elements = unpack(raw).view(getattr(ml_dtypes, dtype))
    assert pack(elements).tobytes() == raw.tobytes()
    with pytest.raises(ValueError, match="pack takes integers"):
        pack(elements, 2)


@pytest.mark.parametrize(
    ("values", "nbit"),
    [([16, 0], 4), ([-9, 0], 4), ([1, 2, 3], 4), ([1], 3)],
)
def test_pack_refuses(values: list[int], nbit: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        pack(np.array(values), nbit)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="integers"):
        pack(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="bytes"):
        unpack(np.array([1, 2], np.int32))


@pytest.mark.parametrize("storage", ["int", "uint"])
@pytest.mark.parametrize("nbit", [1, 2, 4, 8])
def test_the_kernel_side_takes_the_same_bits(storage: str, nbit: int) -> None:
    """The ops that it traces, evaluated on every byte and position."""
    convert = packed_to_unsigned_convert(storage, 8)

    @tilec.kernel
    def k(A: T.Tensor("N", f"{storage}8"), p: T.int32, C: T.Tensor("N", "float16")):
        with T.Kernel(1):
            C[0] = convert(nbit, A[0], p, dtype="float16")

    program = k.lower_to_ir()
    ops = [op for op in walk(program.body) if isinstance(op, Elementwise | Load | Store)]
    packed = np.arange(256, dtype=np.uint8).view(DTYPES[f"{storage[0]}8"].numpy)
    for position in range(8 // nbit):
        values: dict[Any, Any] = {program.params[1]: np.full(256, position, np.int32)}
        for op in ops:
            if isinstance(op, Load):
                values[op.result] = packed
            elif isinstance(op, Store):
                result = values[op.value]
            else:
                values[op.results[0]] = op.evaluate(*(_input(values, v) for v in op.inputs))
        assert np.array_equal(result, unpack(packed, nbit).reshape(256, -1)[:, position])


def _input(values: dict[Any, Any], value: Any) -> Any:
    if value in values:
        return values[value]
    return value.type.dtype.numpy.type(value.value)


def test_wrong_storage_is_refused() -> None:
    with pytest.raises(LanguageError, match="nothing is packed"):
        packed_to_unsigned_convert("float", 8)

    @tilec.kernel
    def k(A: T.Tensor("N", "int32")):
        with T.Kernel(1):
            A[0] = packed_to_unsigned_convert("int", 8)(4, A[0], 0, "int32")

    with pytest.raises(LanguageError) as caught:
        k.lower_to_ir()
    assert caught.value.code == "TLC0132" and caught.value.loc.line > 0


def test_no_rows() -> None:
    packed = pack(np.zeros((0, 8), np.int8))
    assert packed.shape == (0, 4) and unpack(packed).shape == (0, 8)
