"""Names of TileLang and Triton that the language lacks are refused with what to write instead."""

from __future__ import annotations

import re

import pytest

import tilec.language as T
from tilec.errors import LanguageError
from tilec.language.absent import ABSENT, FAMILIES, instead_of


def test_a_name_that_is_not_there_is_refused_with_what_is() -> None:
    for name, expected in {
        "alloc_tmem": "T.gemm",
        "sync_grid": "cooperative=True",
        "ptx_ldmatrix": "choose the instruction",
        "program_id": "as (bx, by)",
        "atomic_ad": "did you mean T.atomic_add",
    }.items():
        with pytest.raises(LanguageError, match=f"the language has no T.{name}") as caught:
            getattr(T, name)
        assert expected in caught.value.hint
    assert not hasattr(T, "nothing_like_it")


def test_what_is_to_be_written_instead_is_there() -> None:
    for hint in (*ABSENT.values(), *FAMILIES.values()):
        for name in re.findall(r"\bT\.(\w+)", hint):
            assert hasattr(T, name), hint


def test_no_family_takes_a_name_that_is_there() -> None:
    assert not [name for name in T.__all__ if instead_of(name)]
