"""The canonical text of programs."""

from __future__ import annotations

import pytest

from tests.ir.programs import GEMM_TEXT, gemm, handle
from tilec.errors import IRError, Loc
from tilec.ir.build import scalar
from tilec.ir.core import Block, Op, Program, Value, at, attribute, constant
from tilec.ir.dtypes import DType, bf16, bool_, f16, f32, f64, i8, i32, i64, mbarrier, u8
from tilec.ir.layout import mma_m16n8
from tilec.ir.opaque import OpaqueOp
from tilec.ir.ops.arith import Add
from tilec.ir.ops.control import Yield
from tilec.ir.ops.memory import Load
from tilec.ir.ops.tile import ConvertLayout
from tilec.ir.print import print_constant, print_op, print_program
from tilec.ir.types import ChannelType, InflightType, MemoryType, ScalarType, Space, TileType


def text_of(*ops: Op, params: tuple[Value, ...] = ()) -> str:
    return print_program(Program("p", params, Block((), ops)))


def test_the_gemm() -> None:
    assert print_program(gemm()) == GEMM_TEXT


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (128, i32, "128"),
        (-1, i32, "-1"),
        (3, i8, "3:i8"),
        (255, u8, "255:u8"),
        (-(2**63), i64, "-9223372036854775808:i64"),
        (1.5, f32, "1.5"),
        (0.1, f32, "0.1"),
        (1e20, f32, "1e+20"),
        (-0.0, f32, "-0.0"),
        (0.5, f16, "0.5:f16"),
        (65504.0, f16, "6.55e+04:f16"),
        (0.1, f64, "0.1:f64"),
        (1.0, bf16, "1.0:bf16"),
        (float("inf"), f32, "inf:f32"),
        (float("-inf"), f16, "-inf:f16"),
        (float("nan"), f16, "nan:f16"),
        (True, bool_, "true"),
        (False, bool_, "false"),
    ],
)
def test_constants(value: float, dtype: DType, text: str) -> None:
    assert print_constant(constant(value, dtype)) == text


def test_names_come_from_hints_and_are_unique() -> None:
    hints = ["x", "x", "x_1", "", "7", "größe", "2d", ""]
    params = tuple(scalar(i32, hint) for hint in hints)
    head = text_of(params=params).splitlines()[1]
    names = [part.split(":")[0].strip() for part in head[head.index("(") + 1 :].split(",")][:8]
    assert names == ["%x", "%x_1", "%x_1_1", "%0", "%1", "%gr__e", "%_2d", "%2"]


def test_types() -> None:
    layout = mma_m16n8("c", 16, 16)
    tile = TileType(f32, (16, 8), layout)
    params = (
        Value(ScalarType(mbarrier), "bar"),
        Value(tile, "t"),
        Value(InflightType(TileType(f32, (64, 8))), "w"),
        Value(ChannelType(MemoryType(f16, (128, 64), Space.SHARED), 4), "c"),
        Value(ChannelType(tile, 2), "r"),
        Value(MemoryType(f16, ("*", "a b", 3), Space.GLOBAL), "g"),
    )
    text = text_of(params=params)
    assert (
        "(%bar: mbarrier, %t: tile f32[16, 8] #register0, %w: inflight f32[64, 8], "
        "%c: channel<4> shared f16[128, 64], %r: channel<2> tile f32[16, 8] #register0, "
        '%g: global f16[*, "a b", 3])' in text
    )
    assert text.splitlines()[1].startswith("#register0 = register<shape=[16, 8], ")


def test_a_layout_in_an_attribute_has_an_alias() -> None:
    tile = Value(TileType(f32, (16, 8)), "t")
    op = ConvertLayout(tile, layout=mma_m16n8("c", 16, 16))
    assert "convert_layout %t <layout = #register0> : tile f32[16, 8] #register0" in text_of(
        op, params=(tile,)
    )


class Every(Op, name="test.every"):
    """An op with attributes of every kind."""

    a: object = attribute()
    b: float = attribute(default=0.0)
    c: tuple[object, ...] = attribute(default=())


def test_attribute_values() -> None:
    value = (1, -2.5, 'say "hi"\n', True, False, None, f16, ScalarType(f16), ((), (1,)))
    op = Every(a=value, b=1, c=(float("inf"),))
    assert print_op(op) == (
        'test.every <a = [1, -2.5, "say \\"hi\\"\\n", true, false, none, f16, scalar f16, '
        "[[], [1]]], b = 1.0, c = [inf]>"
    )
    assert print_op(Every(a=True, b=0)) == "test.every <a>"
    assert print_op(Every(a=False, b=-0.0)) == "test.every <a = false, b = -0.0>"


def test_an_attribute_without_a_text_form_is_refused_where_it_stands() -> None:
    with at(Loc("k.py", 3, 4)):
        op = Every(a={1: 2})
    with pytest.raises(IRError) as caught:
        print_op(op)
    assert caught.value.code == "TLC0212"
    assert caught.value.loc == Loc("k.py", 3, 4)


def test_groups() -> None:
    memory = handle("A", f16, 8, 8)
    x, y = scalar(i32, "x"), scalar(i32, "y")
    assert print_op(Load(memory, (x, y))) == "%0 = load %A[%x, %y] : f16"
    assert print_op(Yield((x, y))) == "yield %x, %y"
    assert print_op(Yield(())) == "yield"
    assert print_op(OpaqueOp("acme.f", [x, (y, x), ()])) == "acme.f %x, [%y, %x], []"
    assert print_op(OpaqueOp("acme.f", [memory, (y,)])) == "acme.f %A[%y]"
    assert print_op(OpaqueOp("acme.f", [(y,)])) == "acme.f [%y]"


def test_locations_and_notes_are_comments() -> None:
    x = scalar(i32, "x")
    with at(Loc("k.py", 7, 2)):
        op = Add(x, x)
    program = Program("p", (x,), Block((), (op,)))
    text = print_program(program, locations=True, notes={op: "one\ntwo"})
    assert text.splitlines()[2:5] == [
        "  %0 = add %x, %x : i32  // k.py:7:3",
        "  // ^ one",
        "  // ^ two",
    ]
