"""The constraint solver alone, on mock variables."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilec.ir.layout import (
    Choice,
    Constraint,
    Contains,
    Convert,
    Default,
    Derived,
    Equal,
    Fixed,
    OneOf,
    Option,
    RegisterLayout,
    System,
    Unsatisfiable,
    blocked,
    classify,
    mfma,
    mma_m16n8,
    replicated,
    solve,
)

ACC = mma_m16n8("c", 16, 16)
ROWS = blocked((16, 8), 32, 4)
COLUMNS = blocked((16, 8), 32, 4, order=(1, 0))
WIDE = blocked((16, 8), 32, 1)
POOL = (ACC, ROWS, COLUMNS, WIDE)


def transposed(layout: RegisterLayout) -> RegisterLayout:
    return layout.transpose((1, 0))


def row_sum(layout: RegisterLayout) -> RegisterLayout:
    return layout.reduce(1)


def test_equality_and_functions_propagate() -> None:
    system = System(
        (
            Equal("a", "b"),
            Derived("t", "b", transposed, transposed, exact=True),
            Derived("sum", "b", row_sum),
            Derived("u", "t", transposed),
            Fixed("a", ACC),
        )
    )
    solution = solve(system)
    assert solution.assignments == {
        "a": ACC,
        "b": ACC,
        "t": transposed(ACC),
        "sum": row_sum(ACC),
        "u": ACC,
    }
    assert (solution.cost, solution.conversions, solution.optimal) == (0.0, (), True)


def test_exact_inverses_propagate_and_others_propose() -> None:
    exact = System(
        (Derived("t", "b", transposed, transposed, exact=True), Fixed("t", transposed(ROWS)))
    )
    assert solve(exact).assignments["b"] == ROWS
    row = row_sum(ACC)
    proposed = (
        Derived("r", "tile", row_sum, lambda r: r.broadcast(1, 8)),
        Fixed("r", row),
    )
    tile = solve(System(proposed)).assignments["tile"]
    assert tile.shape == (16, 8)
    assert tile.reduce(1) == row
    # A proposal yields to what a constraint says.
    assert solve(System((*proposed, Fixed("tile", ACC)))).assignments["tile"] == ACC


def test_a_contradiction_names_both_constraints() -> None:
    load, gemm = Fixed("x", ROWS, "load at 9"), Fixed("y", ACC, "gemm at 14")
    with pytest.raises(Unsatisfiable) as caught:
        solve(System((load, Equal("x", "m"), Equal("m", "y"), gemm)))
    assert {caught.value.first, caught.value.second} == {load, gemm}
    assert "load at 9" in str(caught.value)
    assert "gemm at 14" in str(caught.value)


def test_contradictions_of_other_kinds() -> None:
    one_of = OneOf("x", ((ROWS, 0.0),), "candidates")
    with pytest.raises(Unsatisfiable, match="no candidate"):
        solve(System((Fixed("x", ACC), one_of)))
    impossible = Derived("y", "x", lambda layout: layout.reshape((3, 5)), why="reshape")
    with pytest.raises(Unsatisfiable, match=r"reshape.*sizes"):
        solve(System((Fixed("x", ACC), impossible)))
    nothing = Derived("y", "x", lambda layout: None)
    with pytest.raises(Unsatisfiable, match="no value"):
        solve(System((Fixed("x", ACC), nothing)))
    with pytest.raises(Unsatisfiable, match="lacks"):
        solve(System((Fixed("x", ACC), Fixed("y", ROWS), Contains("x", "y"))))
    disjoint = (OneOf("x", ((ROWS, 0.0), (ACC, 0.0))), OneOf("x", ((WIDE, 0.0),)))
    with pytest.raises(Unsatisfiable):
        solve(System(disjoint))


def test_nonsense_is_refused() -> None:
    choice = Choice("g", (Option("a", {"x": ACC}),))
    with pytest.raises(ValueError, match="one name"):
        System((choice, choice))
    with pytest.raises(ValueError, match="nothing to choose"):
        System((Choice("g", ()),))
    with pytest.raises(ValueError, match="nothing to choose"):
        System((OneOf("x", ()),))


def test_containment_is_proposed_and_checked() -> None:
    row = row_sum(ACC)
    held = replicated((16,), 32)
    assert solve(System((Fixed("b", row), Contains("a", "b")))).assignments["a"] == row
    both = System((Fixed("b", row), Fixed("a", held), Contains("a", "b")))
    assert solve(both).assignments["a"] == held


def test_defaults_serve_only_where_nothing_else_does() -> None:
    system = System((Default("a", ROWS), Convert("a", "b"), Default("c", WIDE), Fixed("b", ACC)))
    solution = solve(system)
    assert solution.assignments == {"a": ACC, "b": ACC, "c": WIDE}
    assert solution.conversions == ()


def test_what_is_derived_waits_for_what_it_is_derived_from() -> None:
    """A row vector in another layout is converted: it does not keep the loop from its default."""
    system = System(
        (
            Fixed("vector", blocked(ROWS.reduce(1).shape, ROWS.threads)),
            Convert("vector", "use"),
            Derived("use", "loop", row_sum),
            Default("loop", ROWS),
        )
    )
    found = solve(system).assignments
    assert found["loop"] == ROWS and found["use"] == row_sum(ROWS)


def test_the_largest_default_leads() -> None:
    """Row vectors follow the tile, whichever is named first."""
    vector = blocked(row_sum(ROWS).shape, ROWS.threads)
    system = System(
        (Default("sum", vector), Derived("sum", "tile", row_sum), Default("tile", ROWS))
    )
    assert solve(system).assignments == {"tile": ROWS, "sum": row_sum(ROWS)}


def test_soft_edges_never_fail() -> None:
    edges = tuple(Convert(f"v{i}", f"v{i + 1}") for i in range(9))
    solution = solve(System((*edges, Fixed("v0", ROWS), Fixed("v9", ACC))))
    assert len(solution.assignments) == 10
    assert len(solution.conversions) == 1
    assert solution.cost == classify(ROWS, ACC, 32).cost


def test_the_conversion_is_put_where_it_runs_least() -> None:
    system = System(
        (
            Fixed("loaded", ROWS),
            Convert("loaded", "outside", 1.0),
            Convert("outside", "inside", 16.0),
            Fixed("inside", ACC),
        )
    )
    solution = solve(system)
    assert solution.assignments["outside"] == ACC
    assert [edge.a for edge, _ in solution.conversions] == ["loaded"]


def test_a_choice_looks_at_what_it_causes() -> None:
    """On MFMA the swapped gemm keeps P in registers: S transposed is the next A operand."""
    c = mfma("c", 16, 16, 16, 16)
    a = mfma("a", 16, 16, 16, 16)
    first = Choice(
        "qk",
        (Option("plain", {"s": c}, 0.0), Option("swapped", {"s": transposed(c)}, 1.0)),
    )
    second = Choice("pv", (Option("plain", {"p": a}),))
    solution = solve(System((first, second, Equal("s", "e"), Convert("e", "p", 8.0)), 64))
    assert solution.choices == {"qk": "swapped", "pv": "plain"}
    assert solution.conversions == ()
    assert solution.cost == 1.0


def test_choices_that_contradict_are_skipped() -> None:
    choice = Choice("g", (Option("cheap", {"x": ROWS}, 0.0), Option("dear", {"x": ACC}, 9.0)))
    solution = solve(System((choice, Equal("x", "y"), OneOf("y", ((ACC, 1.0), (WIDE, 0.0))))))
    assert (solution.choices["g"], solution.cost) == ("dear", 10.0)


def brute_force(system: System) -> float | None:
    """The least cost over all assignments from the pool, straight from the constraints' words."""
    best = None
    for layouts in itertools.product(POOL, repeat=len(system.variables)):
        at = dict(zip(system.variables, layouts, strict=True))
        cost = 0.0
        for c in system.constraints:
            more = price(c, at)
            if more is None:
                break
            cost += more
        else:
            best = cost if best is None else min(best, cost)
    return best


def price(c: Constraint, at: dict[object, RegisterLayout]) -> float | None:
    match c:
        case Equal(a, b):
            return 0.0 if at[a] == at[b] else None
        case Contains(a, b):
            return 0.0 if at[a].contains(at[b]) else None
        case OneOf(var):
            return c.cost(at[var])
        case Convert(a, b, weight):
            return classify(at[a], at[b], 32).cost * weight
        case Choice():
            fits = [o.cost for o in c.options if all(at[v] == x for v, x in o.layouts.items())]
            return min(fits, default=None)
    raise AssertionError(c)


@st.composite
def systems(draw: st.DrawFn) -> System:
    """Up to four variables, each with candidates, so that a brute force has something to try."""
    names = "abcd"[: draw(st.integers(2, 4))]
    name = st.sampled_from(names)
    cost = st.sampled_from((0.0, 1.0, 3.0, 20.0))
    found: list[Constraint] = []
    for var in names:
        pool = draw(st.lists(st.sampled_from(POOL), min_size=1, max_size=4, unique=True))
        found.append(OneOf(var, tuple((x, draw(cost)) for x in pool)))
    for number in range(draw(st.integers(0, 5))):
        kind = draw(
            st.sampled_from(
                ("equal", "contains", "convert", "convert", "convert", "choice", "also")
            )
        )
        a, b = draw(name), draw(name)
        if kind == "equal":
            found.append(Equal(a, b))
        elif kind == "contains":
            found.append(Contains(a, b))
        elif kind == "convert":
            found.append(Convert(a, b, draw(st.sampled_from((1.0, 4.0)))))
        elif kind == "also":
            found.append(OneOf(a, tuple((x, draw(cost)) for x in POOL)))
        else:
            pairs = draw(st.lists(st.tuples(st.sampled_from(POOL), cost), min_size=1, max_size=3))
            options = tuple(Option(str(i), {a: x}, y) for i, (x, y) in enumerate(pairs))
            found.append(Choice(number, options))
    return System(tuple(draw(st.permutations(found))))


@settings(max_examples=120, deadline=None)
@given(systems())
def test_the_solution_is_the_cheapest(system: System) -> None:
    want = brute_force(system)
    if want is None:
        with pytest.raises(Unsatisfiable):
            solve(system)
        return
    solution = solve(system)
    assert solution.optimal
    assert solution.cost == pytest.approx(want)
    prices = [price(c, dict(solution.assignments)) for c in system.constraints]
    assert sum(x for x in prices if x is not None) == pytest.approx(want)
    assert None not in prices
    assert set(solution.assignments) == set(system.variables)


@settings(max_examples=60, deadline=None)
@given(systems())
def test_without_fuel_a_solution_is_still_found(system: System) -> None:
    want = brute_force(system)
    if want is None:
        with pytest.raises(Unsatisfiable):
            solve(system, fuel=0)
        return
    solution = solve(system, fuel=0)
    assert not solution.optimal
    total = 0.0
    for constraint in system.constraints:
        if isinstance(constraint, Choice):
            chosen = solution.choices[constraint.name]
            option = next(o for o in constraint.options if o.label == chosen)
            assert all(solution.assignments[v] == x for v, x in option.layouts.items())
            total += option.cost
            continue
        cost = price(constraint, dict(solution.assignments))
        assert cost is not None
        total += cost
    assert solution.cost == pytest.approx(total)
    assert total >= want - 1e-9


def test_a_ring_of_choices_is_solved_within_its_fuel() -> None:
    """Six matrix instructions, what lies between them, a reduction and a load for each."""
    shape = (64, 128)
    variants = [
        mma_m16n8("c", 16, 16).repeat((m, 4 // m), "thread").repeat((4 // m, 4 * m), "register")
        for m in (4, 2, 1)
    ]
    loads = tuple((blocked(shape, 128, v), 8.0 / v) for v in (8, 4, 2))
    found: list[Constraint] = []
    for i in range(6):
        options = tuple(Option(str(j), {("acc", i): x}, j) for j, x in enumerate(variants))
        found.append(Choice(i, options))
        found.append(Convert(("acc", i), ("between", i), 4.0))
        found.append(Convert(("between", i), ("acc", (i + 1) % 6), 4.0))
        found.append(Derived(("sum", i), ("between", i), row_sum))
        found.append(OneOf(("load", i), loads))
        found.append(Convert(("load", i), ("between", i)))
    solution = solve(System(tuple(found)))
    assert solution.optimal
    assert len(set(solution.choices.values())) == 1
    assert all(edge.a[0] == "load" for edge, _ in solution.conversions)  # type: ignore[index]
    assert solution.assignments["sum", 3] == row_sum(solution.assignments["between", 3])


def test_a_layout_with_no_image_is_passed_over() -> None:
    """The neighbour's layout would be free, but the function of it has no value."""
    system = System(
        (
            Fixed("a", ROWS),
            Fixed("b", ACC),
            Convert("a", "x", 9.0),
            Convert("x", "b"),
            Derived("y", "x", lambda layout: None if layout == ROWS else layout),
        )
    )
    assert solve(system).assignments["y"] == ACC


def test_many_independent_choices_stay_cheap() -> None:
    """Forty loads with two candidates each: the bound leads straight to the cheapest."""
    loads = tuple(OneOf(i, ((ROWS, 8.0), (WIDE, 16.0))) for i in range(40))
    edges = tuple(Convert(i, ("use", i)) for i in range(40))
    start = time.perf_counter()
    solution = solve(System((*loads, *edges)))
    assert solution.optimal
    assert solution.cost == 40 * 8.0
    assert time.perf_counter() - start < 2.0
