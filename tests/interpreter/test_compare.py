"""The tolerances of the language: they pass what is rounded and fail what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tilec.errors import WrongResult
from tilec.interpreter import assert_close, assert_exact, tolerance
from tilec.ir.dtypes import DType, bf16, f16, f32, f64, i32

FLOATS = [f16, bf16, f32, f64]


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounded_results_pass_and_three_units_off_fail(dtype: DType) -> None:
    reference = np.random.default_rng(0).standard_normal((50, 50)) * 100
    limit = tolerance(reference, 0, None, None, dtype)
    assert_close(reference.astype(dtype.numpy), reference, limit, dtype)
    eps = float(np.spacing(np.asarray(1, dtype.numpy)))
    wrong = reference.astype(dtype.numpy).astype(np.float64)
    wrong[3, 4] *= 1 + 3 * eps
    if dtype is not f64:
        with pytest.raises(
            WrongResult, match=r"wrong in 1 of 2500 elements, most at \[3, 4\]"
        ) as error:
            assert_close(wrong, reference, limit, dtype)
        assert error.value.code == "TLC0760" and error.value.exit_status == 5


@pytest.mark.parametrize("dtype", [f16, bf16, f32])
def test_dots_in_f32_pass_in_any_order_and_a_dropped_product_fails(dtype: DType) -> None:
    random, k = np.random.default_rng(1), 512
    a = random.standard_normal((16, k)).astype(dtype.numpy).astype(np.float64)
    b = random.standard_normal((k, 16)).astype(dtype.numpy).astype(np.float64)
    reference = a @ b
    limit = tolerance(reference, k, a, b, dtype)
    for order in (slice(None), slice(None, None, -1)):
        total = np.zeros((16, 16), np.float32)
        for n in np.arange(k)[order]:
            total += np.outer(a[:, n], b[n]).astype(np.float32)
        assert_close(total.astype(dtype.numpy), reference, limit, dtype)
    products = np.outer(a[:, 0], b[0])
    largest = np.unravel_index(np.argmax(np.abs(products)), products.shape)
    dropped = reference.copy()
    dropped[largest] -= products[largest]
    at = ", ".join(map(str, largest))
    with pytest.raises(WrongResult, match=rf"wrong in 1 of 256 elements, most at \[{at}\]"):
        assert_close(dropped.astype(dtype.numpy), reference, limit, dtype)


def test_the_bound_itself() -> None:
    a, b = np.array([[2.0, -3.0]]), np.array([[5.0], [7.0]])
    limit = tolerance(a @ b, 2, a, b, f16)
    assert limit[0, 0] == 2.0**-10 * 11 + 2 * 2.0**-23 * 31 + 2.0**-25
    assert tolerance(a @ b, 2, a, b, f16, f16)[0, 0] == 2.0**-10 * 11 + 2 * 2.0**-10 * 31 + 2.0**-25
    assert (tolerance(np.ones((2, 2)), 2, None, None, i32) == 0).all()


def test_nan_never_passes() -> None:
    nan, one = np.array([np.nan]), np.array([1.0])
    for got, expected in ((nan, one), (nan, nan), (one, nan)):
        with pytest.raises(WrongResult):
            assert_close(got, expected, np.inf, f32)


def test_infinities() -> None:
    up = np.array([np.inf])
    assert_close(up, up, 0.0, f16)
    assert_close(up, np.array([70000.0]), 0.0, f16)
    assert_close(-up, np.array([-65500.0]), 4.0, f16)
    with pytest.raises(WrongResult):
        assert_close(-up, np.array([-65500.0]), 3.0, f16)
    for got, expected in ((up, -up), (up, np.array([60000.0])), (np.array([65504.0]), up)):
        with pytest.raises(WrongResult):
            assert_close(got, expected, 1.0, f16)


def test_shapes_must_agree() -> None:
    with pytest.raises(WrongResult, match="shape") as error:
        assert_close(np.zeros(3), np.zeros((3, 1)), 1.0, f32)
    assert error.value.code == "TLC0761"


def test_exact_means_bits() -> None:
    assert_exact(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]))
    with pytest.raises(
        WrongResult, match=r"differs in 1 of 2 elements, first at \[1\]: -0.0, not 0.0"
    ):
        assert_exact(np.array([1.0, -0.0]), np.array([1.0, 0.0]))
    with pytest.raises(WrongResult, match="float32"):
        assert_exact(np.zeros(2, np.float32), np.zeros(2))
