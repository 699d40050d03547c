"""The numbers that a parameter takes are those of its dtype."""

from __future__ import annotations

import numpy as np
import pytest

from tilec.backends.launcher.arguments import FLOATS, INTEGERS, WITHOUT_INFINITY, WITHOUT_NAN
from tilec.backends.launcher.arrays import PACKED
from tilec.ir.dtypes import DTYPES, PAIRS


def test_tables_of_dtypes_are_those_of_the_ir() -> None:
    assert tuple(dtype.name for dtype in PAIRS) == PACKED
    assert [name for name in FLOATS if not DTYPES[name].has_infinity] == list(WITHOUT_INFINITY)
    assert [name for name in FLOATS if not DTYPES[name].has_nan] == list(WITHOUT_NAN)


@pytest.mark.parametrize("name", INTEGERS)
def test_limits_of_integers_are_numpys(name: str) -> None:
    limits = (
        (0, 1)
        if name == "bool"
        else (np.iinfo(DTYPES[name].numpy).min, np.iinfo(DTYPES[name].numpy).max)
    )
    assert INTEGERS[name] == (limits[0], limits[1] + 1)
