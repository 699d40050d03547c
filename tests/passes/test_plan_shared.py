"""plan_shared: places, lives, and the barriers between lives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tilec.errors import OutOfResources
from tilec.ir.core import Op, Program, walk
from tilec.ir.ops.control import Launch
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.nvidia import CpAsyncWait
from tilec.ir.verify import verify
from tilec.parser.text import parse_program
from tilec.passes.context import PassContext
from tilec.passes.plan_shared import plan_shared
from tilec.runtime.lowering import standard_registry
from tilec.target import find_target

REGISTRY = standard_registry()


def planned(body: str, target: str = "cuda:sm_80", level: str = "thread") -> Program:
    """The planned program of a launch with buffers a, b, c of 4096 bytes and s of 40."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    text = (
        f"tilec.ir 1\nprogram @p(%A: global f32[1024], %n: i32) <level = {level}> {{\n"
        "  launch 1, 1, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {\n"
        "    %s = alloc <type = shared f32[10]> : shared f32[10]\n"
        + "".join(
            f"    %{name} = alloc <type = shared f32[1024]> : shared f32[1024]\n" for name in "abc"
        )
        + f"    %r = alloc <type = local f32[4]> : local f32[4]\n    %t = thread_id : i32\n{lines}"
        "  }\n}\n"
    )
    program = plan_shared(parse_program(text, REGISTRY), PassContext(find_target(target), REGISTRY))
    verify(program, REGISTRY)
    return program


def offsets(program: Program) -> dict[str, int]:
    return {
        op.result.hint: op.offset
        for op in walk(program.body)
        if isinstance(op, Alloc) and op.offset is not None and op.result.hint in "abcs"
    }


def statements(program: Program) -> list[Op]:
    (launch,) = (op for op in program.body.ops if isinstance(op, Launch))
    return [op for op in launch.body.ops if not isinstance(op, Alloc)]


def names(program: Program) -> list[str]:
    return [op.name for op in statements(program)]


def store(name: str) -> str:
    return f"vector_store %{name}[%t], %r, 0, [] <count = 1>"


def load(name: str) -> str:
    return f"vector_load %r, 0, %{name}[%t], [] <count = 1>"


def lines(*ops: str) -> str:
    return "\n".join(ops)


def test_lives_apart_share_a_place_behind_a_barrier() -> None:
    program = planned(lines(store("a"), load("a"), store("b"), load("b"), store("c")))
    assert offsets(program) == {"a": 0, "b": 0, "c": 0, "s": 4096}
    assert names(program) == [
        "thread_id", "vector_store", "vector_load", "barrier", "vector_store", "vector_load",
        "barrier", "vector_store",
    ]  # fmt: skip
    (launch,) = (op for op in program.body.ops if isinstance(op, Launch))
    assert launch.shared_bytes == 4096 + 40


def test_one_barrier_is_between_many_lives() -> None:
    program = planned(lines(store("a"), store("b"), load("b"), load("a"), store("c")))
    assert offsets(program)["c"] == 0
    assert names(program).count("barrier") == 1 and names(program)[-2:] == [
        "barrier",
        "vector_store",
    ]


def test_lives_that_meet_lie_apart() -> None:
    program = planned(lines(store("a"), store("b"), load("a"), store("c"), load("b"), load("c")))
    assert offsets(program) == {"a": 0, "b": 4096, "c": 0, "s": 8192}, "c comes when a has gone"


@pytest.mark.parametrize("seed", range(8))
def test_each_buffer_has_the_lowest_place_that_those_before_it_leave(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = {f"m{i}": 1024 * int(n) for i, n in enumerate(random.integers(2, 6, 12))}
    allocs = [
        f"%{m} = alloc <type = shared f32[{n // 4}]> : shared f32[{n // 4}]"
        for m, n in sizes.items()
    ]
    used = [*sizes, *random.choice([*sizes], 8)]
    random.shuffle(used)
    used += "abc"
    program = planned(lines(*allocs, *map(store, used)))
    places = {op.result.hint: op.offset for op in walk(program.body) if isinstance(op, Alloc)}
    sizes = {**dict.fromkeys("abc", 4096), **sizes}
    lives = {m: (used.index(m), len(used) - 1 - used[::-1].index(m)) for m in sizes}
    before: list[str] = []
    for m in sizes:
        first, last = lives[m]
        taken = [
            (places[o], places[o] + sizes[o])
            for o in before
            if lives[o][0] <= last and first <= lives[o][1]
        ]
        free = (
            at
            for at in itertools.count(0, 1024)
            if all(at + sizes[m] <= start or end <= at for start, end in taken)
        )
        assert places[m] == next(free), m
        before.append(m)


def test_a_life_reaches_over_the_loops_and_branches_it_is_in() -> None:
    loop = lines(
        "for 0, %n, 1 (%i: i32) {",
        '  %x = compare %i, %t <predicate = "lt"> : bool',
        "  if %x {",
        f"    {load('b')}",
        "    yield",
        "  } {",
        f"    {store('a')}",
        "    yield",
        "  }",
        "  yield",
        "}",
    )
    program = planned(lines(loop, store("c")))
    assert offsets(program) == {"a": 0, "b": 4096, "c": 0, "s": 8192}
    assert names(program)[-2:] == ["barrier", "vector_store"]


@pytest.mark.parametrize("committed", [True, False])
def test_asynchronous_copies_have_landed_before_the_place_is_another_buffers(
    committed: bool,
) -> None:
    """Also where their commit stands in a loop that may have no trip."""
    copy = lines(
        '%all = compare %t, 0 <predicate = "ge"> : bool',
        "%at = mul %t, 4 : i32",
        "cp_async %a[%at], %A[%at], [%all] <size = 16>",
        "cp_async_commit" if committed else "for 0, %n, 1 (%i: i32) { cp_async_commit yield }",
    )
    program = planned(lines(copy, store("b")))
    assert offsets(program)["a"] == offsets(program)["b"] == 0
    assert names(program)[-4:] == ["cp_async_commit", "cp_async_wait", "barrier", "vector_store"]
    wait = statements(program)[-3]
    assert isinstance(wait, CpAsyncWait) and wait.pending == 0


def test_handles_made_of_a_buffer_are_the_buffer() -> None:
    body = lines("%flat = flatten %a : shared f32[1024]", store("flat"), store("b"), load("flat"))
    program = planned(body)
    assert offsets(program)["a"] != offsets(program)["b"]


def test_with_engines_or_roles_all_buffers_live_throughout() -> None:
    engine = lines(
        "%map = tensor_map %A <box = [32], swizzle = 0> : tensor_map",
        "tma_store %map, %a[0], [0]",
        store("b"),
    )
    assert offsets(planned(engine, "cuda:sm_90a"))["b"] == 4096
    roles = lines(
        'role <label = "one", first_thread = 0, threads = 32> {',
        f"  {store('a')}",
        "  yield",
        "}",
        'role <label = "other", first_thread = 32, threads = 32> {',
        f"  {store('b')}",
        "  yield",
        "}",
    )
    placed = offsets(planned(roles, "cuda:sm_90a"))
    assert sorted(placed.values()) == [0, 4096, 8192, 12288]


def test_small_boxes_of_tma_begin_at_128_bytes() -> None:
    body = lines(
        "%v = alloc <type = shared f32[8]> : shared f32[8]",
        "%w = alloc <type = shared f32[8]> : shared f32[8]",
        "%map = tensor_map %A <box = [8], swizzle = 0> : tensor_map",
        "tma_store %map, %w[0], [0]",
        store("s"),
        store("v"),
    )
    placed = {
        op.result.hint: op.offset
        for op in walk(planned(body, "cuda:sm_90a").body)
        if isinstance(op, Alloc) and op.offset is not None
    }
    after = placed["s"] + 40
    assert placed["v"] == -(-after // 16) * 16, "what threads alone touch"
    assert placed["w"] == -(-(placed["v"] + 32) // 128) * 128


def test_buffers_without_use_have_a_place() -> None:
    placed = offsets(planned(store("a")))
    assert set(placed) == {"a", "b", "c", "s"}


@pytest.mark.parametrize("buffers", [40, 41])
def test_what_does_not_fit_is_refused_with_its_size(buffers: int) -> None:
    body = lines(
        *(f"%x{i} = alloc <type = shared f32[1024]> : shared f32[1024]" for i in range(buffers - 3)),
        *(store(f"x{i}") for i in range(buffers - 3)), store("a"), store("b"), store("c"),
        *(load(f"x{i}") for i in range(buffers - 3)), load("a"), load("b"), load("c"),
    )  # fmt: skip
    if buffers == 40:
        planned(body)
        return
    with pytest.raises(OutOfResources, match=r"167976 bytes.* 1064 more than the 166912"):
        planned(body)


def branch(condition: str, then: str, otherwise: str) -> str:
    return lines(f"if {condition} {{", then, "yield", "} {", otherwise, "yield", "}")


UNIFORM = '%u = compare %bx, %n <predicate = "lt"> : bool'
OF_A_THREAD = '%u = compare %t, %n <predicate = "lt"> : bool'
LOADED = '%x = load %r[0] <in_bounds> : f32\n%u = compare %x, 0.0 <predicate = "lt"> : bool'
OF_A_VECTOR = lines("vector_load %r, 0, %A[%t], [] <count = 1>", LOADED)
CONVERTED = lines(
    "%q = alloc <type = local f32[4]> : local f32[4]",
    "vector_load %q, 0, %A[%t], [] <count = 1>",
    "convert_registers %r, 0, %q, 0 <count = 1>",
    LOADED,
)


def test_branches_of_which_a_block_takes_one_share_a_place_without_a_barrier() -> None:
    own = branch("%u", lines(store("a"), load("a")), lines(store("b"), load("b")))
    program = planned(lines(UNIFORM, own, store("c")))
    assert offsets(program) == {"a": 0, "b": 0, "c": 0, "s": 4096}
    assert (
        names(program)[-2:] == ["barrier", "vector_store"] and names(program).count("barrier") == 1
    )


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (store("c"), {"a": 0, "b": 0, "c": 0, "s": 4096}),
        (lines(load("b"), store("c")), {"a": 0, "b": 0, "c": 4096, "s": 8192}),
    ],
)
def test_branches_within_branches(other: str, found: dict[str, int]) -> None:
    condition = '%v = compare %by, 3 <predicate = "lt"> : bool'
    inner = branch("%v", store("b"), other)
    program = planned(lines(UNIFORM, condition, branch("%u", store("a"), inner)))
    assert offsets(program) == found


@pytest.mark.parametrize(
    ("condition", "around", "then"),
    [
        (OF_A_THREAD, "", store("a")),  # threads take both
        (OF_A_VECTOR, "", store("a")),  # each thread's own
        (CONVERTED, "", store("a")),
        (UNIFORM, "for 0, %n, 1 (%i: i32) {", store("a")),  # the next trip may take the other one
        (UNIFORM, "", lines(store("a"), load("b"))),  # of both branches
    ],
)
def test_branches_that_may_both_be_taken_share_nothing(
    condition: str, around: str, then: str
) -> None:
    own = branch("%u", then, store("b"))
    program = planned(lines(condition, lines(around, own, "yield", "}") if around else own))
    assert {offsets(program)["a"], offsets(program)["b"]} == {0, 4096}


def test_a_life_in_a_branch_and_behind_it_is_in_no_branch() -> None:
    program = planned(lines(UNIFORM, branch("%u", store("a"), store("b")), load("a")))
    assert {offsets(program)["a"], offsets(program)["b"]} == {0, 4096}
