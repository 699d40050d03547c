"""Statements: what is named, what is inlined, the order of accesses, spellings, refusals."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.emitter_programs import Kernel, body, line, memory, named
from tilec.backends.emitter import emit_program, render
from tilec.backends.launcher.expressions import evaluate
from tilec.backends.names import Names, comment_text, mangle, plain_identifier
from tilec.errors import Loc, TargetUnsupported
from tilec.ir.build import Builder, scalar
from tilec.ir.core import Block, Level, Program, Value, at
from tilec.ir.dtypes import f16, f32, i32, i64
from tilec.ir.ops import arith, builtin_registry
from tilec.ir.ops.control import For, Launch, Role, Symbol, WarpUniform, Yield
from tilec.ir.ops.memory import Alloc, Atomic, Load, Store
from tilec.ir.ops.nvidia import TensorMap, TmaStore
from tilec.ir.ops.thread import Barrier, Shuffle
from tilec.ir.types import MemoryType, Space
from tilec.target import find_target


def arrays(*names: str) -> tuple[Value, ...]:
    return tuple(memory(f32, ("N",), name) for name in names)


# Names and order ----------------------------------------------------------------------------------


def test_a_load_keeps_its_place_before_a_store() -> None:
    a, c = arrays("A", "C")
    k = Kernel("order", a, c, symbols=("N",))
    first = k.load(a, 0, hint="first")
    k.store(k.b.const(1.0, f32), a, 0)
    k.store(first, c, 0)
    assert body(k).splitlines() == [
        "  const f32 first = A[0];",
        "  A[0] = 1.0f;",
        "  C[0] = first;",
    ]


def test_a_load_that_nothing_overtakes_stands_in_its_use() -> None:
    a, c = arrays("A", "C")
    k = Kernel("inline", a, c, symbols=("N",))
    k.store(k.b.mul(k.load(a, 3), k.load(a, 4)), c, 0)
    assert body(k) == "  C[0] = A[3] * A[4];"


def test_a_load_is_not_moved_into_a_branch_or_past_a_barrier() -> None:
    a, c = arrays("A", "C")
    k = Kernel("branch", a, c, symbols=("N",))
    early, late = k.load(a, 1, hint="early"), k.load(a, 2, hint="late")
    with k.b.when(k.b.compare("lt", k.thread(), 5)):
        k.store(early, c, 0)
    k.b.emit(Barrier())
    k.store(late, c, 1)
    text = body(k)
    assert text.index("early = A[1]") < text.index("if (")
    assert text.index("late = A[2]") < text.index("barrier()")


def test_a_loop_ends_at_the_least_integer() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("least", c, symbols=("N",))
    with k.b.loop(k.b.sub(0, k.symbol("N")), -(2**31), hint="j") as j:
        k.store(j, c, 0)
    assert "j < -2147483647 - 1; ++j" in body(k)


def test_arithmetic_used_in_a_loop_is_computed_before_it() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("hoist", c, symbols=("N",))
    outside = named(k.b.mul(k.thread(), 12), "outside")
    with k.b.loop(0, k.symbol("N"), hint="j") as j:
        inside = k.b.mul(j, 7)
        k.store(k.b.add(outside, inside), c, j)
    text = body(k)
    assert "const i32 outside = thread_id() * 12;" in text.split("for (")[0]
    assert "C[j] = outside + j * 7;" in text


def test_a_collective_stands_where_it_was() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("uniform", c, symbols=("N",))
    t = k.thread()
    warp = named(k.b.emit(WarpUniform(k.b.pure(arith.TruncDiv(t, k.b.const(32))))).result, "warp")
    with k.b.when(k.b.compare("eq", t, 0)):
        k.store(warp, c, 0)
    text = body(k)
    assert text.index("warp = warp_uniform(t / 32)") < text.index("if (t == 0)")


def test_names_follow_from_uses() -> None:
    c = memory(f32, ("M", "N"), "C")
    k = Kernel("named", c, symbols=("M", "N"))
    m_end, n_end = k.symbol("M"), k.symbol("N")
    row = k.b.add(k.b.mul(k.blocks[1], 64), k.b.mul(k.thread(), 3))
    column = k.b.add(k.b.mul(k.blocks[0], 64), k.b.mul(k.thread(), 5))
    inside = k.b.both(k.b.compare("lt", row, m_end), k.b.compare("lt", column, n_end))
    place = k.b.add(k.b.mul(row, n_end), column)
    k.store(k.load(k.flat(c), place, inside), k.flat(c), place)
    with k.b.loop(0, k.b.floordiv(m_end, 64), hint="k") as step:
        k.store(k.b.const(0.0, f32), k.flat(c), step)
    text = body(k)
    assert "const i32 m = " in text
    assert "const i32 n = " in text
    assert "const i32 C_index = m * N + n;" in text
    assert "k < k_end; ++k" in text


def test_a_trivial_expression_stands_wherever_it_is_used() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("trivial", c, symbols=("N",))
    t = k.thread()
    warp = k.b.shift_right(t, 5)
    kept = named(k.b.shift_right(t, 7), "kept")
    with k.b.loop(0, 4, hint="j") as j:
        k.store(k.b.add(warp, kept), c, k.b.add(k.b.add(j, warp), kept))
    text = body(k)
    assert "const i32 kept = t >> 7;" in text, "the program named it"
    assert "C[j + (t >> 5) + kept] = (t >> 5) + kept;" in text


def test_a_name_given_in_a_block_ends_with_it() -> None:
    """Bounds of loops have names; each of these loops stands in another block."""
    c = memory(i32, ("N",), "C")
    k = Kernel("bounds", c, symbols=("N", "M"))
    end = k.b.mul(k.symbol("N"), k.symbol("M"))
    for _ in range(2):
        with k.b.loop(0, 3, hint="i"), k.b.loop(0, end, hint="j") as j:
            k.store(j, c, j)
    text = body(k)
    assert text.count("    const i32 j_end = N * M;") == text.count("j < j_end") == 2


def test_a_variable_is_declared_with_its_first_value() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("variable", c, symbols=("N",))
    slot = k.alloc(i32, None, "slot")
    k.b.emit(Store(k.b.const(3), slot, ()))
    k.b.emit(Store(k.b.add(k.b.emit(Load(slot, ())).result, 1), slot, ()))
    late = k.alloc(i32, None, "late")
    with k.b.when(k.b.compare("lt", k.thread(), 3)):
        k.b.emit(Store(k.b.const(4), late, ()))
    k.store(k.b.emit(Load(late, ())).result, c, k.b.emit(Load(slot, ())).result)
    lines = [text.strip() for text in body(k).splitlines()]
    assert lines[:3] == ["i32 slot = 3;", "slot = slot + 1;", "i32 late;"]
    assert "late = 4;" in lines
    assert lines[-1] == "C[slot] = late;"


def test_what_nothing_uses_is_not_printed() -> None:
    (c,) = arrays("C")
    k = Kernel("dead", c, symbols=("N",))
    k.load(c, 7)
    k.alloc(f32, 16, "unused")
    k.b.mul(k.thread(), 3)
    k.store(k.b.const(0.0, f32), c, 0)
    assert body(k) == "  C[0] = 0.0f;"


def test_an_outer_loop_goes_on_with_the_inner_loops_variable() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("carry", c, symbols=("N",))
    b = k.b
    outer, inner = scalar(i32, "slot"), scalar(i32, "slot")
    with b.region() as inner_ops:
        b.emit(Yield((b.add(inner, 1),)))
    with b.region() as outer_ops:
        block = Block((scalar(i32, "k"), inner), tuple(inner_ops))
        b.emit(Yield((b.emit(For(b.const(0), b.const(4), b.const(1), (outer,), block)).result,)))
    block = Block((scalar(i32, "tile"), outer), tuple(outer_ops))
    last = b.emit(For(b.const(0), b.const(3), b.const(1), (b.const(0),), block)).result
    k.store(last, c, 0)
    text = body(k)
    assert text.count("i32 slot") == 1
    assert "slot1" not in text
    assert "slot = slot + 1;" in text


def test_a_value_that_is_read_again_keeps_its_variable() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("kept", c, symbols=("N",))
    b = k.b
    outer, inner = scalar(i32, "slot"), scalar(i32, "slot")
    with b.region() as inner_ops:
        b.emit(Yield((b.add(inner, 1),)))
    with b.region() as outer_ops:
        block = Block((scalar(i32, "k"), inner), tuple(inner_ops))
        moved = b.emit(For(b.const(0), b.const(4), b.const(1), (outer,), block)).result
        k.store(outer, c, 1)  # still what it was before the inner loop
        b.emit(Yield((moved,)))
    block = Block((scalar(i32, "tile"), outer), tuple(outer_ops))
    b.emit(For(b.const(0), b.const(3), b.const(1), (b.const(0),), block))
    text = body(k)
    assert "i32 slot1 = slot;" in text
    assert "C[1] = slot;" in text


def test_a_value_from_outside_a_loop_starts_each_of_its_trips() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("restart", c, symbols=("N",))
    b = k.b

    def count(init: Value, hint: str) -> Value:
        carried = scalar(i32, hint)
        with b.region() as ops:
            b.emit(Yield((b.add(carried, 1),)))
        body_ = Block((scalar(i32, "k"), carried), tuple(ops))
        return b.emit(For(b.const(0), b.const(4), b.const(1), (init,), body_)).result

    first = count(b.const(0), "first")
    with b.loop(0, 3, hint="tile") as tile:
        k.store(count(first, "again"), c, tile)  # the only use of `first`, three times
    text = body(k)
    assert "i32 again = first;" in text
    assert "C[tile] = again;" in text


def test_elements_of_memory_have_names_where_the_prelude_deduces_types() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("elements", c, symbols=("N",))
    t = k.thread()
    tile = k.alloc(i32, 32, "tile", 0)
    flag = k.b.compare("lt", t, 3)
    chosen = k.b.select(flag, k.load(c, 0, hint="x"), k.load(tile, 1, hint="y"))
    k.store(chosen, c, 2)
    k.store(k.b.emit(Shuffle(k.load(tile, t, hint="z"), k.b.const(0))).result, c, 3)
    text = body(k, shared_bytes=128)
    assert "C[2] = t < 3 ? x : y;" in text
    assert "shuffle(z, 0)" in text


def test_lines_stay_within_the_width() -> None:
    c = memory(i32, ("N",), "C")
    k = Kernel("wide", c, symbols=("N",))
    n, x = k.symbol("N"), k.thread()
    for i in range(40):
        x = k.b.add(k.b.floordiv(x, n), k.b.mul(n, 1000 + i))
    k.store(x, c, k.b.add(k.b.mul(n, 123456), 654321), k.b.compare("lt", x, n))
    lines = body(k).splitlines()
    assert len(lines) < 30
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("fetch", [False, True])
def test_what_is_named_for_width_is_not_spelled_again(fetch: bool) -> None:
    """An atomic's value and condition: each is computed once, and the value loaded once."""
    a, c = memory(i32, ("N",), "A"), memory(i32, ("N",), "C")
    k = Kernel("adds", a, c, symbols=("N",))
    n, x = k.symbol("N"), k.thread()
    far = k.b.add(k.b.mul(n, 222222), k.b.mul(x, 333333))
    inside = k.b.compare("lt", k.b.add(k.b.floordiv(x, n), 123456789), k.b.mul(n, 555555555))
    value = k.b.mul(k.load(a, far), k.b.add(k.b.mul(n, 1234567), 7654321))
    added = k.b.emit(Atomic(value, c, (far,), (inside,), fetch=fetch))
    if fetch:
        k.store(added.result, c, 0)
    text = body(k)
    assert max(map(len, text.splitlines())) <= 100
    assert [text.count(part) for part in ("123456789", "A[", "7654321")] == [1, 1, 1]


def test_names_of_users_clash_with_nothing() -> None:
    wicked = ["for", "min", "x y", "_t", "threadIdx", "é", "9", "a__b", ""]
    params = [memory(f32, ("N",), name) for name in wicked]
    k = Kernel("wicked", *params, symbols=("N",))
    for i, param in enumerate(params):
        k.store(k.b.const(float(i), f32), param, i)
    program = k.program((1, 1, 1), 32)
    (frame,) = emit_program(program, find_target("cuda:sm_80"), builtin_registry()).frames
    names = [p.name for p in frame.parameters]
    assert len(set(names)) == len(wicked)
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*_?", name) for name in names), (
        names
    )
    assert not set(names) & {"for", "min", "threadIdx"}


@given(st.text(), st.text())
def test_mangling_is_injective(a: str, b: str) -> None:
    assert (mangle(a) == mangle(b)) == (a == b)
    assert re.fullmatch(r"[A-Za-z0-9_]*", mangle(a))
    assert not mangle(a)[:1].isdigit()


def test_mangling_of_what_looks_mangled() -> None:
    assert (
        len({mangle(s) for s in (".", "_x2e_", "_x2e.", ".x2e_", "_x5f_x2e_", "1", "_x31_")}) == 7
    )
    assert mangle("matmul") == "matmul"


@given(st.text())
def test_identifiers_and_comments_are_harmless(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", plain_identifier(text))
    comment = comment_text(text)
    assert len(comment.splitlines()) <= 1
    assert "\\" not in comment


def test_names_are_free_again_after_their_block() -> None:
    names = Names()
    assert [names.new("i"), names.new("i"), names.new("f16")] == ["i", "i1", "f16_1"]
    with names.block():
        assert names.new("j") == "j"
        assert names.new("k", outside=True) == "k"
    assert [names.new("j"), names.new("k")] == ["j", "k1"]


def test_a_loops_comment_is_the_users_line_and_no_more() -> None:
    (c,) = arrays("C")
    k = Kernel("comment", c, symbols=("N",))
    with at(Loc("dir/evil\n#error \\", 3)), k.b.loop(0, 4) as i, k.b.loop(0, 4) as j:
        k.store(k.b.const(0.0, f32), c, k.b.add(i, j))
    text = body(k)
    assert len(re.findall("//", text)) == 1, "loops of one line share the comment"
    assert "\\" not in text
    assert "\n#error" not in text


# Roles --------------------------------------------------------------------------------------------


def role_text(*sizes: int, launched: int, target: str = "cuda:sm_80") -> str:
    c = memory(i32, ("N",), "C")
    k = Kernel("roles", c, symbols=("N",))
    first = 0
    for size in sizes:
        with k.b.region() as ops:
            k.store(k.thread(), c, first)
            k.b.emit(Yield(()))
        k.b.emit(Role(Block((), tuple(ops)), label=f"r{size}", first_thread=first, threads=size))
        first += size
    return body(k, target, threads=sizes[0], launched_threads=launched)


def test_roles_are_chosen_by_warpgroup_or_warp() -> None:
    text = role_text(256, 128, launched=384)
    assert "const i32 warpgroup = warp_uniform(thread_id() / 128);" in text
    assert "  if (warpgroup < 2) {  // role r256" in text
    assert "  } else {  // role r128" in text
    assert "const i32 t = thread_id() - 256;" in text
    warps = role_text(32, 96, 64, launched=256)
    assert "warp = warp_uniform(thread_id() / 32)" in warps
    conditions = re.findall(r"if \((.*)\) \{", warps)
    assert conditions == ["warp == 0", "warp >= 1 && warp < 4", "warp >= 4 && warp < 6"]
    assert "} else {" not in warps, "threads past the last role do nothing"


def test_roles_on_waves_of_64() -> None:
    assert "warp_uniform(thread_id() / 64)" in role_text(64, 192, launched=256, target="hip:gfx942")


# Programs -----------------------------------------------------------------------------------------


def test_launches_of_one_program_have_their_own_names_and_parameters() -> None:
    a, c, scratch = *arrays("A", "C"), Alloc(type=MemoryType(f32, ("N",), Space.GLOBAL))
    scratch.result.hint = "scratch"
    launches = []
    for source, target in ((a, scratch.result), (scratch.result, c)):
        k = Kernel("two", symbols=("N",))
        k.store(k.load(source, k.thread()), target, k.thread())
        launches.append(k.program((1, 1, 1), 32).body.ops[-1])
    program = Program("two", (a, c), Block((), (scratch, *launches)), ("N",), Level.THREAD)
    emitted = emit_program(program, find_target("cuda:sm_80"), builtin_registry())
    assert [launch.symbol for launch in emitted.launches] == ["two_kernel", "two_kernel_2"]
    assert [[a.name for a in launch.arguments] for launch in emitted.launches] == [
        ["A", "scratch"],
        ["C", "scratch"],
    ]
    manifest = emitted.manifest()
    assert [(p.name, p.access) for p in manifest.tensors] == [("A", "r"), ("C", "w")]
    assert [(w.name, w.access) for w in manifest.workspaces] == [("scratch", "rw")]
    assert render(emitted).count("__global__") == 2


def test_a_tensor_that_a_bulk_store_writes_is_written() -> None:
    c = memory(f16, ("N", 64), "C")
    k = Kernel("bulk", c, symbols=("N",))
    map_ = k.b.emit(TensorMap(c, box=(64, 64), swizzle=128)).result
    again = k.b.emit(TensorMap(c, box=(64, 64), swizzle=128)).result
    other = k.b.emit(TensorMap(c, box=(32, 64), swizzle=128)).result
    tile, zero = k.alloc(f16, 4096, "tile", 0), k.b.const(0)
    for m in (map_, again, other):
        k.b.emit(TmaStore(m, tile, (zero,), (zero, zero)))
    program = k.program((1, 1, 1), 32, shared_bytes=8192)
    emitted = emit_program(program, find_target("cuda:sm_90a"), builtin_registry())
    assert emitted.manifest().tensors[0].access == "w"
    assert [a.name for a in emitted.launches[0].arguments] == ["C_map", "C_map1"]


def test_grids_are_the_launchers_to_compute() -> None:
    b, n, m = Builder(), Symbol(label="N"), Symbol(label="M")
    with b.region() as ops:
        b.extend((n, m))
        x = b.ceildiv(n.result, 96)
        y = b.ceildiv(b.shift_right(m.result, 1), n.result)
        z = b.max(b.floormod(b.cast(b.sub(n.result, 5), i64), b.const(7, i64)), b.const(1, i64))
    launch = Launch((x, y, z), Block(tuple(scalar(i32) for _ in range(3)), ()), threads=32)
    program = Program("grid", (), Block((), (*ops, launch)), ("N", "M"), Level.THREAD)
    (spec,) = emit_program(program, find_target("cuda:sm_80"), builtin_registry()).launches
    assert spec.grid[:2] == (("ceildiv", "N", 96), ("ceildiv", ("floordiv", "M", 2), "N"))
    assert [evaluate(e, {"N": 97, "M": 1000}) for e in spec.grid] == [2, 6, 1]


def test_a_grid_that_the_launcher_cannot_compute_is_refused() -> None:
    b = Builder()
    with line(4):
        x = b.select(b.compare("lt", b.emit(Symbol(label="N")).result, 3), 1, 2)
    launch = Launch((x,), Block(tuple(scalar(i32) for _ in range(3)), ()), threads=32)
    program = Program("grid", (), Block((), (*b.ops, launch)), ("N",), Level.THREAD)
    with pytest.raises(TargetUnsupported, match=r"TLC0516.*select") as caught:
        emit_program(program, find_target("cuda:sm_80"), builtin_registry())
    assert caught.value.loc.line == 4
