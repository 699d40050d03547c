"""What comparisons of Python's objects are refused, and what the hints of Python's own errors say; what
`in` means is in test_python_meaning.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilec.errors import TilecError

from .programs import body_text, in_frame, load, traced


@pytest.mark.parametrize(
    ("body", "code", "hint"),
    [
        ("L[0] = 1 if n is L[1] else 0", "TLC0103", "by == and !="),
        ("m = 3\nif m is not n:\n    L[0] = 1", "TLC0103", "by == and !="),
        ("if n in range(65):\n    L[0] = 1", "TLC0103", "0 <= x < n"),
        ("L[0] = len(A)", "TLC0112", "A.shape[0]"),
        ("import numpy\nL[0] = numpy.arange(3)[n]", "TLC0112", "a tensor of the kernel"),
        ("import numpy\nx = numpy.arange(3) * L[0]", "TLC0112", "a tensor of the kernel"),
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
        "None is None and S is S and S is not F and n is not None",
        "'a' in 'abc' and 5 in range(10**9) and 2 not in {1: 0}",
    ],
)
def test_pythons_objects_are_compared_by_python(tmp_path: Path, condition: str) -> None:
    assert body_text(tmp_path, f"if {condition}:\n    L[0] = 1") == body_text(tmp_path, "L[0] = 1")
