"""Kernels that the frontend does not take."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
from tilec.errors import LanguageError


def refused(function: Any) -> str:
    """What a function is refused with, as a kernel, at a known place."""
    with pytest.raises(LanguageError) as caught:
        tilec.kernel(function).lower_to_ir()
    assert caught.value.loc.known
    return caught.value.message
