"""What an epilogue reads of Python is part of the kernel: which functions share one, and what is seen
when it changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.ops.test_matmul import check, normal
from tilec import ops
from tilec.errors import ArgumentError


def test_functions_of_equal_text_and_values_share_a_kernel() -> None:
    from tilec.ops.epilogues import epilogue_of

    def scaled(factor: float) -> Callable[..., Any]:
        return lambda x, i, j: x * factor

    one, same, other = (epilogue_of(scaled(f), ()) for f in (2.0, 2.0, 3.0))
    assert one == same and hash(one) == hash(same) and one != other
    a, b = normal(4, 8), normal(8, 4, seed=1)
    for factor in (2.0, 3.0):
        check(ops.matmul(a, b, epilogue=scaled(factor)), a, b, lambda x, f=factor: x * f)


def test_of_equal_functions_the_calls_own_is_traced() -> None:
    """What the first of them reads may have changed, when a tile of another size is traced."""

    def scaled(factor: float) -> tuple[Callable[..., Any], Callable[[float], None]]:
        def change(value: float) -> None:
            nonlocal factor
            factor = value

        return lambda x, i, j: x * factor, change

    a, b = normal(4, 8), normal(8, 4, seed=1)
    (first, change), (second, _) = scaled(2.5), scaled(2.5)
    check(ops.matmul(a, b, epilogue=first), a, b, lambda x: x * 2.5)
    change(7.0)
    for schedule in (None, ops.Schedule(16, 16, 16, 2, 32)):
        found = ops.matmul(a, b, epilogue=second, schedule=schedule)
        check(found, a, b, lambda x: x * 2.5)


def test_numbers_of_64_bits_keep_them_beside_sums_that_have_them() -> None:
    a, b = normal(4, 8, dtype="float64"), normal(8, 4, seed=1, dtype="float64")
    for third in (1 / 3, np.float64(1 / 3)):
        found = ops.matmul(a, b, by=third, epilogue=lambda x, i, j, by: x * 0 + by)
        assert (found == 1 / 3).all()
    a, b = a.astype(np.float32), b.astype(np.float32)
    with pytest.raises(ArgumentError, match=r"by is 1e\+300, which f32 cannot hold"):
        ops.matmul(a, b, by=1e300, epilogue=lambda x, i, j, by: x * by)


def test_a_number_of_the_module_that_changes_is_seen() -> None:
    a, b = normal(4, 8), normal(8, 4, seed=1)
    for factor in (1.0, 5.0):
        globals()["FACTOR"] = factor
        found = ops.matmul(a, b, epilogue=lambda x, i, j: x * FACTOR)
        check(found, a, b, lambda x, f=factor: x * f)


class Scale:
    """Keeps a factor in an attribute, a list, a property; and is one to be called."""

    def __init__(self) -> None:
        self.inner, self.held = SimpleNamespace(factor=1.0), [1.0]

    @property
    def computed(self) -> float:
        return self.held[0] * 1.0

    def factor(self) -> float:
        return self.inner.factor  # type: ignore[no-any-return]

    def __call__(self, x: Any, i: Any, j: Any) -> Any:
        return x * self.factor()


SCALE = Scale()


@pytest.mark.parametrize(
    "epilogue",
    [
        SCALE, SCALE.__call__, lambda x, i, j: x * SCALE.held[0],
        lambda x, i, j: x * SCALE.computed, lambda x, i, j, held=SCALE.held: x * held[0],
        functools.partial(lambda held, x, i, j: x * held[0], SCALE.held),
    ],
)  # fmt: skip
def test_what_an_epilogue_reads_of_python_may_change(epilogue: Callable[..., Any]) -> None:
    a, b = normal(4, 8), normal(8, 4, seed=1)
    for factor in (1.0, 5.0):
        SCALE.inner.factor = SCALE.held[0] = factor
        check(ops.matmul(a, b, epilogue=epilogue), a, b, lambda x, f=factor: x * f)


@pytest.mark.parametrize("length", [1, 5000])
def test_epilogues_that_read_different_lists_are_different(length: int) -> None:
    a, b = normal(4, 8), normal(8, 4, seed=1)
    for table in ([2.0] * length, [3.0] * length):
        found = ops.matmul(a, b, epilogue=lambda x, i, j, held=table: x * held[0])
        check(found, a, b, lambda x, f=table[0]: x * f)
