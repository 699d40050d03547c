"""What attributes may hold, by the annotations of the op class."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from tilec.errors import IRError
from tilec.ir.attributes import attribute_key, attribute_types, coerce, conforms, describe
from tilec.ir.core import Op, attribute
from tilec.ir.dtypes import DType, f16
from tilec.ir.layout import RegisterLayout
from tilec.ir.ops import builtin_ops
from tilec.ir.types import MemoryType, Space, TileType


class Mode(Enum):
    NEAR = "near"
    FAR = "far"


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (True, bool, True),
        (1, bool, False),
        (1, float, True),
        (1.5, int, False),
        ((1, 2), tuple[int, ...], True),
        ((1, "a"), tuple[int, ...], False),
        ([1, 2], tuple[int, ...], False),
        ((1, "a"), tuple[int, str], True),
        ((1,), tuple[int, str], False),
        (None, RegisterLayout | None, True),
        (3, RegisterLayout | None, False),
        (f16, DType, True),
        (TileType(f16, (8,)), MemoryType, False),
        (Mode.FAR, Mode, True),
        ("far", Mode, False),
        ({}, object, True),
    ],
)
def test_conforms(value: object, annotation: Any, fits: bool) -> None:
    assert conforms(value, annotation) is fits


def test_coerce() -> None:
    assert type(coerce(1, float)) is float
    assert coerce("far", Mode) is Mode.FAR
    assert coerce("other", Mode) == "other"
    assert coerce((1, 2), tuple[float, ...]) == (1.0, 2.0)
    assert type(coerce((1, 2), tuple[float, ...])[0]) is float
    assert type(coerce(1, float | None)) is float
    assert type(coerce(1, int | float)) is int
    assert coerce(True, float) is True
    assert coerce("far", Mode | None) is Mode.FAR


def test_keys_are_exact_about_numbers() -> None:
    values = [0, False, 0.0, -0.0, float("nan"), (0,), ((0,),), "0", None]
    keys = [attribute_key(v) for v in values]
    assert len(set(keys)) == len(values)
    assert attribute_key(float("nan")) == attribute_key(float("nan"))


def test_every_builtin_annotation_resolves_and_defaults_conform() -> None:
    for cls in builtin_ops():
        annotations = attribute_types(cls)
        assert set(annotations) == {name for name, kind in cls.fields if kind == "attribute"}
        for name, annotation in annotations.items():
            if name in cls.defaults:
                assert conforms(cls.defaults[name], annotation), (cls.name, name)


class Unresolved(Op, name="test.unresolved"):
    """Its annotation names nothing."""

    mode: Nowhere = attribute()  # type: ignore[name-defined]


def test_an_annotation_that_names_nothing() -> None:
    with pytest.raises(IRError, match=r"annotations of op 'test\.unresolved' cannot be resolved"):
        attribute_types(Unresolved)


def test_descriptions() -> None:
    assert describe(int) == "int"
    assert describe(tuple[int, ...]) == "tuple[int, ...]"
    assert describe(Space) == "Space"
