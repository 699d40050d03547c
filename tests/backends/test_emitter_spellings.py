"""Spellings from registries, and what is refused with the user's line."""

from __future__ import annotations

import pytest

from tests.backends.emitter_programs import FILE, Kernel, body, line, memory, scale
from tilec.backends.dialect import INNER_NAMES, all_prelude_names, find_dialect
from tilec.backends.emitter import emit_program, render
from tilec.backends.prelude import prelude_names
from tilec.errors import IRError, TargetUnsupported
from tilec.ir.core import Block, Level, Op, Value, attribute, operand
from tilec.ir.dtypes import bool_, f16, f32, i32
from tilec.ir.opaque import OpaqueOp
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.control import If, ThreadId, Yield
from tilec.ir.ops.memory import Alloc, Store
from tilec.ir.ops.thread import Barrier
from tilec.ir.types import MemoryType, ScalarType, Space, Type
from tilec.target import find_target


class Popcount(Op, name="test.popcount", pure=True):
    """The number of ones: an op from outside."""

    x: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        return (ScalarType(i32),)


class Nap(Op, name="test.nap"):
    """A statement from outside, with an attribute that a text must not take as it is."""

    note: str = attribute(default="")


def popcount_kernel() -> Kernel:
    c = memory(i32, ("N",), "C")
    k = Kernel("count", c, symbols=("N",))
    with line(7):
        k.store(k.b.emit(Popcount(k.b.add(k.thread(), 1))).result, c, 0)
    return k


def test_an_op_without_a_spelling_is_refused_at_its_line() -> None:
    with pytest.raises(TargetUnsupported, match=r"TLC0513.*test\.popcount") as caught:
        body(popcount_kernel())
    assert (caught.value.loc.file, caught.value.loc.line) == (FILE, 7)
    assert "spelling:cuda" in caught.value.hint


def test_the_dialects_spelling_comes_first() -> None:
    registry = builtin_registry()
    registry.table("spelling")[Popcount] = "count_ones({x})"
    assert "C[0] = count_ones(thread_id() + 1);" in body(popcount_kernel(), registry=registry)
    registry.table("spelling:cuda")[Popcount] = lambda op, names: f"__popc({names(op.x)})"
    assert "C[0] = __popc(thread_id() + 1);" in body(popcount_kernel(), registry=registry)
    assert "count_ones" in body(popcount_kernel(), "hip:gfx942", registry)


def test_attributes_do_not_slip_into_text() -> None:
    registry = builtin_registry()
    registry.table("spelling")[Nap] = "nap<{note}>()"
    k = Kernel("nap")
    k.b.emit(Nap(note="1>(); system()"))
    with pytest.raises(TargetUnsupported, match="TLC0514"):
        body(k, registry=registry)


def test_opaque_ops_are_refused() -> None:
    k = Kernel("opaque")
    k.b.emit(OpaqueOp("acme.gather", (), {"text": "rm()"}))
    with pytest.raises(TargetUnsupported, match=r"TLC0513.*acme\.gather"):
        body(k)


def test_a_name_that_the_machine_lacks_is_refused() -> None:
    k = Kernel("meet")
    k.b.emit(Barrier(barrier=1, threads=64))
    assert body(k) == "  named_barrier<1, 64>();"
    with pytest.raises(TargetUnsupported, match=r"TLC0515.*named_barrier.*hip"):
        body(k, "hip:gfx942")


@pytest.mark.parametrize(
    ("type_", "offset", "code"),
    [
        (MemoryType(f32, (4, 4), Space.SHARED), 0, "TLC0520"),
        (MemoryType(f32, (16,), Space.SHARED), -1, "TLC0521"),
        (MemoryType(f32, (16,), Space.FRAGMENT), 0, "TLC0520"),
    ],
)
def test_memory_that_is_not_lowered_is_refused(type_: MemoryType, offset: int, code: str) -> None:
    k = Kernel("alloc")
    memory_ = k.b.emit(Alloc(type=type_, offset=offset)).result
    index = (k.b.const(0),) * len(type_.shape)
    k.b.emit(Store(k.b.const(0.0, f32), memory_, index))
    with pytest.raises(IRError, match=code):
        body(k)


def test_a_program_of_another_level_is_refused() -> None:
    program = scale().with_body(scale().body, Level.TILE)
    with pytest.raises(IRError, match="TLC0523"):
        emit_program(program, find_target("cuda:sm_80"), builtin_registry())


def test_a_condition_with_nothing_to_do_is_left_out() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("empty", c, symbols=("N",))
    nothing = Block((), (Yield(()),))
    with k.b.region() as ops:
        k.store(k.b.const(1), c, 0)
        k.b.emit(Yield(()))
    flag = k.b.compare("lt", k.thread(), 3)
    k.b.emit(If(flag, nothing, nothing))
    k.b.emit(If(k.b.compare("eq", k.thread(), 4), nothing, Block((), tuple(ops))))
    text = body(k)
    assert "< 3" not in text
    assert "if (!(t == 4)) {" in text
    assert "else" not in text


def test_every_op_of_the_thread_level_prints() -> None:
    """An op that may stand at thread level has a text, or a place of its own in the emitter."""
    own = {
        "yield", "for", "while", "if", "launch", "role", "symbol", "thread_id", "hardware_block",
        "define", "return", "warp_uniform", "alloc", "load", "store", "slot", "flatten", "tensor_map",
        "assume",
    }  # fmt: skip
    for cls in builtin_registry().ops:
        if cls.level is not Level.TILE:
            assert cls.name in own or getattr(cls, "text", ""), cls.name


def test_inner_names_are_in_the_preludes_and_free_for_users() -> None:
    tables = {name for d in ("cuda", "hip", "cpu") for name in prelude_names(d)}
    assert tables >= INNER_NAMES
    assert not INNER_NAMES & all_prelude_names()
    assert find_dialect("hip").names <= all_prelude_names()
    assert {f16.name, bool_.name} <= find_dialect("cuda").names
    with pytest.raises(TargetUnsupported, match="TLC0517"):
        find_dialect("metal")
    assert ThreadId.name == "thread_id"


def test_the_version_in_emitted_text_is_the_packages() -> None:
    import tilec

    assert f"by tilec {tilec.__version__}" in render(
        emit_program(scale(), find_target("cuda:sm_80"), builtin_registry())
    )
