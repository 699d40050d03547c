"""The manifest: what is refused, and the way through JSON and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilec.backends.launcher.expressions import OPERATIONS
from tilec.backends.manifest import (
    MANIFEST_VERSION,
    MOST_ALIGNED,
    MULTIPROCESSORS,
    Argument,
    Expr,
    Fact,
    LaunchSpec,
    Manifest,
    ScalarParam,
    Step,
    TensorMapSpec,
    TensorParam,
    Variant,
)

TENSOR_MAP = TensorMapSpec("A", (128, 64), 128, clipped=(0,))
LAUNCH = LaunchSpec(
    "scale_kernel",
    (
        Argument("tensor_map", "A_map", tensor_map=TENSOR_MAP),
        Argument("pointer", "C"),
        Argument("symbol", "N", "i64"),
        Argument("scalar", "factor", "f32"),
    ),
    (("ceildiv", "N", 128), ("min", MULTIPROCESSORS, ("ceildiv", "M", 64)), 1),
    256,
    49152,
)
PARTIAL = TensorParam("partial", "f32", (MULTIPROCESSORS, "N"), "rw")
MANIFEST = Manifest(
    MANIFEST_VERSION,
    "scale",
    "cuda:sm_90a",
    (
        TensorParam("A", "f16", ("M", "N"), "r"),
        TensorParam("C", "f16", ("M", ("mul", 2, "N")), "w", ("ldc", 1)),
        ScalarParam("factor", "f32"),
    ),
    ("M", "N", "ldc"),
    (
        Variant(
            (Fact("aligned", "A", 16), Fact("whole", "C", 4), Fact("below", "C", 1 << 31)),
            "scale.cu",
            (LAUNCH,),
            (PARTIAL,),
        ),
        Variant((), "scale.1.cu", (replace(LAUNCH, threads=64, block=(32, 2, 1)),), (PARTIAL,)),
    ),
    ("C",),
    steps=(Step("scale.py:7", ("mul", "M", "N")),),
)


def test_a_manifest_survives_json() -> None:
    text = MANIFEST.to_json()
    assert Manifest.from_json(text) == MANIFEST
    assert Manifest.from_json(text).to_json() == text


def test_inputs_are_the_parameters_that_are_not_outputs() -> None:
    assert [param.name for param in MANIFEST.inputs] == ["A", "factor"]
    assert [tensor.name for tensor in MANIFEST.tensors] == ["A", "C"]
    assert LAUNCH.block_extents == (256, 1, 1)


def test_workspaces_are_those_of_all_variants_by_name() -> None:
    assert MANIFEST.workspaces == (PARTIAL,)
    assert replace(MANIFEST, variants=()).workspaces == ()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 1, "manifest version 1; this tilec reads 3"),
        (("program",), 3, r"manifest\.program: a string was expected, not an integer"),
        (("params", 0, "dtype"), "f17", "unknown dtype 'f17'"),
        (("params", 0, "shape"), ["M", ["pow", "N", 2]], "not an operation: 'pow'"),
        (("params", 0, "shape"), ["M", ["add", ["pow", "N", 2], 1]], "not an operation: 'pow'"),
        (("params", 0, "shape"), ["M", ["add", 1, ["pow", "N", 2]]], "not an operation: 'pow'"),
        (("params", 0, "shape"), ["M", True], r"params\[0\]\.shape\[1\]: not an expression"),
        (("params", 0, "shape"), ["M", "Q"], r"A: undeclared names \['Q'\]"),
        (("variants", 0, "source"), "../x.cu", "not the name of a file"),
        (("variants", 0, "requires", 0, "bytes"), 24, "no power of two"),
        (("variants", 0, "launches", 0, "threads"), 128.5, "an integer was expected"),
        (("variants", 0, "launches", 0, "grid"), [1, 1], "a grid of 2 extents"),
        (
            ("variants", 1, "launches", 0, "block"),
            [32, 1, 1],
            "a block of 32x1x1 is not 64 threads",
        ),
        (
            ("variants", 0, "launches", 0, "arguments", 0, "tensor_map", "swizzle"),
            48,
            "swizzle of 48",
        ),
        (
            ("variants", 0, "launches", 0, "arguments", 0, "tensor_map", "clipped"),
            [1],
            r"a box of rank 2 clipped along \(1,\)",
        ),
        (("variants", 0, "launches", 0, "arguments", 1, "kind"), "eval", "unknown kind 'eval'"),
        (("variants", 0, "launches", 0, "arguments", 1, "name"), "D", "undeclared argument 'D'"),
        (("steps", 0, "expression", 1), "R", "scale.py:7: undeclared names"),
        (("outputs",), ["factor"], "outputs that are no tensor parameter"),
        (("symbols",), ["M", "N", "ldc", "A"], "declared twice"),
    ],
)
def test_a_damaged_manifest_is_refused_by_path(
    path: tuple[str | int, ...], value: object, message: str
) -> None:
    data = json.loads(MANIFEST.to_json())
    holder = data
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize("field", ["program", "params", "variants", "outputs"])
def test_missing_and_unknown_fields_are_refused(field: str) -> None:
    data = json.loads(MANIFEST.to_json())
    value = data.pop(field)
    with pytest.raises(ValueError, match=f"{field!r} is missing"):
        Manifest.from_json(json.dumps(data))
    with pytest.raises(ValueError, match=r"unknown fields \['extra'\]"):
        Manifest.from_json(json.dumps({**data, field: value, "extra": 1}))


expressions = st.recursive(
    st.integers(-50, 50) | st.sampled_from(["M", "N"]),
    lambda inner: st.tuples(st.sampled_from(sorted(OPERATIONS)), inner, inner),
    max_leaves=12,
)


@given(expressions)
def test_expressions_survive_json(expr: Expr) -> None:
    tensor = TensorParam("A", "f16", (expr,), "r")
    manifest = Manifest(MANIFEST_VERSION, "p", "cuda:sm_80", (tensor,), ("M", "N"), ())
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_facts_about_addresses_are_about_their_lower_bits() -> None:
    assert Fact("aligned", "A", 128).bytes == MOST_ALIGNED
    with pytest.raises(ValueError, match="aligned: multiples of 256, at most 128"):
        Fact("aligned", "A", 256)
