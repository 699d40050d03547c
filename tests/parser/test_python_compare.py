"""Comparisons of Python's objects, assertions, and what the hints of Python's own errors say; what `in`
means is in test_python_meaning.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tilec.errors import TilecError

from .programs import HEAD, body_text, in_frame, load, traced


@pytest.mark.parametrize(
    ("body", "code", "hint"),
    [
        ("m = 3\nL[0] = 1 if n is m else 0", "TLC0103", "by == and !="),
        ("m = 3\nif m is not n:\n    L[0] = 1", "TLC0103", "by == and !="),
        ("if n in range(65):\n    L[0] = 1", "TLC0103", "0 <= x < n"),
        ("if n in {4: 1}:\n    L[0] = 1", "TLC0125", "keys must be compile-time"),
        ("L[0] = {4: 1}.get(n, 7)", "TLC0125", "keys must be compile-time"),
        (
            "x = 0\nfor i in range(n):\n    f = lambda a=x: a + 1\n    x = f()",
            "TLC0104",
            "T.alloc_var",
        ),
        ("x = [0]\nfor i in range(n):\n    x = [x + 1 for x in x]", "TLC0104", "T.alloc_var"),
        ("if n > 2 and (z := n) > 3:\n    L[0] = z", "TLC0108", "a statement of its own"),
        ("while (z := L[0]) < 9:\n    L[0] = z + 1", "TLC0108", "a statement of its own"),
        ("L[0] = len(A)", "TLC0112", "A.shape[0]"),
        ("import numpy\nL[0] = numpy.arange(3)[n]", "TLC0112", "a tensor of the kernel"),
        ("import numpy\nx = numpy.arange(3) * L[0]", "TLC0112", "a tensor of the kernel"),
        ("x = S[0, :][n]", "TLC0115", "S[start + i, j]"),
        ("S[0, :][n] = 1", "TLC0115", "S[start + i, j]"),
        ("L[0] = T.exp(S)", "TLC0124", "A[i, j]"),
        ("if n > 1:\n    return", "TLC0109", "under `else`"),
        ("for i in T.serial(3):\n    L[0] = i\nelse:\n    L[1] = 1", "TLC0108", "behind the loop"),
    ],
)
def test_hints(tmp_path: Path, body: str, code: str, hint: str) -> None:
    with pytest.raises(TilecError) as caught:
        traced(load(tmp_path, in_frame(body)).k)
    assert caught.value.code == code and hint in (caught.value.hint or ""), str(caught.value)


@pytest.mark.parametrize(
    "condition",
    [
        "None is None and S is S and S is not F and n is not None and n is n",
        "'a' in 'abc' and 5 in range(10**9) and 2 not in {1: 0}",
    ],
)
def test_pythons_objects_are_compared_by_python(tmp_path: Path, condition: str) -> None:
    assert body_text(tmp_path, f"if {condition}:\n    L[0] = 1") == body_text(tmp_path, "L[0] = 1")


def test_an_assertion_is_python_s_or_the_kernel_s(tmp_path: Path) -> None:
    assert (
        body_text(tmp_path, "assert 1 < 2, n\nassert n > 3, f'n of {A.dtype}'")[:2]
        == body_text(tmp_path, "T.device_assert(n > 3, 'n of float16')")[:2]
    )
    with pytest.raises(TilecError, match="AssertionError while k was traced: odd"):
        traced(load(tmp_path, in_frame("assert 1 % 2 == 0, 'odd'")).k)


def test_parameters_by_position_alone(tmp_path: Path) -> None:
    text = "@tilec.kernel\ndef k(A: T.Tensor(4, 'int32'), n: T.int32, /, step: int = 2, *, by: int = 3):\n"
    body = "    with T.Kernel(1):\n        A[0] = n * step + by\n"
    a = np.zeros(4, np.int32)
    load(tmp_path, HEAD + text + body).k(a, 5, by=1)
    assert a[0] == 11


def test_an_assertion_of_an_extent_stands_in_the_launch(tmp_path: Path) -> None:
    text = "@tilec.kernel\ndef k(A: T.Tensor('N', 'int32')):\n    assert A.shape[0] % 32 == 0\n"
    with pytest.raises(TilecError, match="is asserted is known when the kernel runs") as caught:
        traced(load(tmp_path, HEAD + text + "    with T.Kernel(1):\n        A[0] = 0\n").k)
    assert (caught.value.code, caught.value.loc.column) == ("TLC0118", len("    assert "))
    assert "multiple_of" in (caught.value.hint or "")
