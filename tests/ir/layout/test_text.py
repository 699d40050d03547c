"""Layouts as text and as attributes: exact round trips, and refusals."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tilec.ir.layout import (
    RegisterLayout,
    SharedLayout,
    format_layout,
    from_attributes,
    kind_of,
    mma_m16n8,
    parse_layout,
    to_attributes,
)

from .strategies import register_layouts, shared_layouts

FAST = settings(max_examples=60, deadline=None)


@FAST
@given(register_layouts())
def test_register_round_trip(layout: RegisterLayout) -> None:
    assert from_attributes("register", dict(to_attributes(layout))) == layout
    text = format_layout(layout)
    assert parse_layout(text) == layout
    assert format_layout(parse_layout(text)) == text


@FAST
@given(shared_layouts())
def test_shared_round_trip(layout: SharedLayout) -> None:
    assert from_attributes(kind_of(layout), dict(to_attributes(layout))) == layout
    text = format_layout(layout)
    assert parse_layout(text) == layout
    assert format_layout(parse_layout(text)) == text


def test_the_form() -> None:
    assert format_layout(mma_m16n8("c", 16, 16)) == (
        "register<shape=[16, 8], modes=[[2, 8], [4, 2]], thread=[1, 2], reg=[0, 3]>"
    )
    assert format_layout(SharedLayout.swizzled((64, 128), 16, 128)) == (
        "shared<shape=[64, 128], modes=[[64], [2, 64]], strides=[[64], [4096, 1]], "
        "swizzle=[3, 3, 3]>"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "register",
        "tensor<shape=[4], modes=[[4]], thread=[0], reg=[]>",
        "register<shape=[4], modes=[[4]], thread=[0]>",
        "register<shape=[4], modes=[[4]], thread=[0], reg=[], extra=[1]>",
        "register<shape=[4], shape=[4], modes=[[4]], thread=[0], reg=[]>",
        "register<shape=[4], modes=[4], thread=[0], reg=[]>",
        "register<shape=[[4]], modes=[[4]], thread=[0], reg=[]>",
        "register<shape=[4], modes=[[2]], thread=[0], reg=[]>",
        "register<shape=[4] modes=[[4]], thread=[0], reg=[]>",
        "register<shape=[4,], modes=[[4]], thread=[0], reg=[]>",
        "shared<shape=[4], modes=[[4]], strides=[[1]], swizzle=[1, 2]>",
        "shared<shape=[4], modes=[[4]], strides=[[1, 2]], swizzle=[0, 0, 0]>",
        "shared<shape=[4], modes=[[4]], strides=[[1]], swizzle=[3, 0, 1]>",
    ],
)
def test_refusals(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_layout(text)
