"""From constraints on layouts to an assignment: propagation, then search in the order of cost."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from .constraints import (
    Choice,
    Constraint,
    Contains,
    Convert,
    Default,
    Derived,
    Equal,
    Fixed,
    Map,
    OneOf,
    Option,
    System,
    Unsatisfiable,
    Variable,
)
from .conversion import Conversion, classify
from .register import RegisterLayout

FUEL = 1000
"""States that are expanded in the order of cost before the search turns greedy.

Two or three matrix instructions with a dozen variants each and the loads around them need some
hundreds. A state costs 0.1 ms, so this bounds what a kernel of many loops can take at 0.1 s for
each set of connected values; what is found after it is a solution too, perhaps not the cheapest.
"""


@dataclass(frozen=True, slots=True)
class Solution:
    """Layouts that satisfy a system.

    `assignments` has every variable that anything determines. `conversions` lists the soft edges
    whose ends differ. `optimal` is False where the search ran out of fuel.
    """

    assignments: Mapping[Variable, RegisterLayout]
    choices: Mapping[Hashable, str]
    conversions: tuple[tuple[Convert, Conversion], ...]
    cost: float
    optimal: bool


@dataclass(slots=True)
class _State:
    layouts: dict[Variable, RegisterLayout] = field(default_factory=dict)
    origins: dict[Variable, Constraint] = field(default_factory=dict)
    """What first determined each layout, before propagation carried it on."""
    choices: dict[Hashable, str] = field(default_factory=dict)
    cost: float = 0.0
    depth: int = 0

    def child(self) -> _State:
        return _State(
            dict(self.layouts), dict(self.origins), dict(self.choices), self.cost, self.depth + 1
        )


Branch = tuple[Mapping[Variable, RegisterLayout], Constraint, Option | None]


def solve(system: System, fuel: int = FUEL) -> Solution:
    """The cheapest assignment that satisfies the hard constraints.

    Cost is that of the options and candidates chosen, and of the conversions on soft edges. A
    variable that only soft edges reach takes the layout of a neighbour, one that nothing reaches
    its default; so a system whose only relations are soft always has a solution.

    Args:
        system: the constraints.
        fuel: states to expand before the search turns greedy.

    Raises:
        Unsatisfiable: with two constraints that disagree.
    """
    parts = [_Search(part).run(fuel) for part in system.components()]
    return Solution(
        {v: x for part in parts for v, x in part.assignments.items()},
        {n: x for part in parts for n, x in part.choices.items()},
        tuple(pair for part in parts for pair in part.conversions),
        sum(part.cost for part in parts),
        all(part.optimal for part in parts),
    )


class _Search:
    """One run: the constraints by variable, and the conflict to report."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.touching: dict[Variable, list[Constraint]] = {v: [] for v in system.variables}
        for constraint in system.constraints:
            for var in dict.fromkeys(constraint.variables):
                self.touching[var].append(constraint)
        self.choices = [c for c in system.constraints if isinstance(c, Choice)]
        self.several = [c for c in system.constraints if isinstance(c, OneOf)]
        self.candidates = {c.var: c for c in self.several}
        self.least_option = {c.name: min(o.cost for o in c.options) for c in self.choices}
        self.edges = {
            var: [e for e in touching if isinstance(e, Convert) and e.a != e.b]
            for var, touching in self.touching.items()
        }
        size = {c.var: c.layout.size for c in system.constraints if isinstance(c, Default)}
        # The largest first: row vectors follow the tiles that they go with.
        self.by_default = sorted(system.variables, key=lambda v: -size.get(v, 0))
        self.loose = [v for v in system.variables if self.is_loose(v)]
        self.conflict: Unsatisfiable | None = None
        self.conflict_depth = -1

    def run(self, fuel: int) -> Solution:
        """Best first while there is fuel, then depth first from the most advanced state."""
        order = itertools.count()
        queue: list[tuple[float, int, int, _State]] = []
        root = self.root()
        if root is not None:
            heapq.heappush(queue, (self.bound(root), 0, next(order), root))
        while queue and fuel > 0:
            fuel -= 1
            state = heapq.heappop(queue)[-1]
            branches = self.branches(state)
            if branches is None:
                return self.solution(state, optimal=True)
            for child in self.children(state, branches):
                entry = (self.bound(child), -child.depth, next(order), child)
                heapq.heappush(queue, entry)
        waiting = [entry[-1] for entry in sorted(queue, key=lambda e: (e[1], e[0], e[2]))]
        return self.greedy(waiting)

    def greedy(self, waiting: list[_State]) -> Solution:
        """The first solution depth first, cheapest branch first."""
        stack = waiting[::-1]
        while stack:
            state = stack.pop()
            branches = self.branches(state)
            if branches is None:
                return self.solution(state, optimal=False)
            children = sorted(self.children(state, branches), key=self.bound)
            stack.extend(reversed(children))
        assert self.conflict is not None
        raise self.conflict

    def root(self) -> _State | None:
        """What holds before any choice, or None where that is a contradiction already."""
        state = _State()
        for constraint in self.system.constraints:
            if not isinstance(constraint, Fixed):
                continue
            try:
                self.impose(state, {constraint.var: constraint.layout}, constraint)
            except Unsatisfiable as conflict:
                self.remember(conflict, state)
                return None
        return state

    def bound(self, state: _State) -> float:
        """A lower bound on the cost of what a state can become."""
        options = sum(x for name, x in self.least_option.items() if name not in state.choices)
        left = [self.least(state, c) for v, c in self.candidates.items() if v not in state.layouts]
        return state.cost + options + sum(left)

    def least(self, state: _State, several: OneOf) -> float:
        """The least that a variable's candidates can cost, with the edges to what is known."""
        known = []
        for edge in self.edges[several.var]:
            other = state.layouts.get(edge.b if several.var == edge.a else edge.a)
            if other is not None:
                known.append((edge, other))
        least = float("inf")
        for layout, cost in several.candidates:
            for edge, other in known:
                ends = (layout, other) if several.var == edge.a else (other, layout)
                cost += classify(*ends, self.system.warp_size).cost * edge.weight
            least = min(least, cost)
        return least

    def children(self, state: _State, branches: Iterator[Branch]) -> Iterator[_State]:
        """The states after each branch that contradicts nothing."""
        for layouts, constraint, option in branches:
            child = state.child()
            if option is not None and isinstance(constraint, Choice):
                child.choices[constraint.name] = option.label
                child.cost += option.cost
            try:
                self.impose(child, layouts, constraint)
            except Unsatisfiable as conflict:
                self.remember(conflict, child)
                continue
            yield child

    def remember(self, conflict: Unsatisfiable, state: _State) -> None:
        """Keep the conflict that the search got furthest with: it is the one to explain."""
        if state.depth > self.conflict_depth:
            self.conflict, self.conflict_depth = conflict, state.depth

    # What can be decided next

    def branches(self, state: _State) -> Iterator[Branch] | None:
        """The ways to go on; None where everything is decided."""
        # A loose variable is decided as soon as its neighbours are: its edges then show their cost,
        # so that the bound of a state tells early what the choices so far lead to.
        between = self.between(state)
        if between is not None:
            return between
        for choice in self.choices:
            if choice.name not in state.choices:
                return iter([(o.layouts, choice, o) for o in choice.options])
        return (
            self.soft(state, False)
            or self.one_of(state)
            or self.soft(state, True)
            or self.soft(state, False, underived=True)
            or self.soft(state, True, underived=True)
        )

    def is_loose(self, var: Variable) -> bool:
        """Whether only soft edges and its own candidates constrain a variable.

        What is derived from it, and from nothing else, does not count.
        """
        if sum(isinstance(c, OneOf) for c in self.touching[var]) > 1:
            return False
        for constraint in self.touching[var]:
            match constraint:
                case Convert() | OneOf() | Default():
                    pass
                case Derived(a, b) if b == var != a and len(self.touching[a]) == 1:
                    pass
                case _:
                    return False
        return bool(self.edges[var])

    def between(self, state: _State) -> Iterator[Branch] | None:
        """The layouts for a loose variable whose neighbours are all known or have candidates.

        Where all are known, nothing else depends on it, and only the cheapest needs to be tried.
        """
        for var in self.loose:
            if var in state.layouts:
                continue
            others = [e.b if var == e.a else e.a for e in self.edges[var]]
            known = [other for other in others if other in state.layouts]
            several = self.candidates.get(var)
            if len(known) == len(others):
                own = several or OneOf(var, tuple((state.layouts[o], 0.0) for o in known))
                best = min(own.candidates, key=lambda c: self.rank(state, OneOf(own.var, (c,))))
                return iter([({var: best[0]}, several or self.edges[var][0], None)])
            if (
                several is None
                and known
                and all(o in state.layouts or o in self.candidates for o in others)
            ):
                return self.suggested(state, var)
        return None

    def one_of(self, state: _State) -> Iterator[Branch] | None:
        """The candidates of the first variable that has some and no layout yet."""
        for several in self.several:
            if several.var not in state.layouts:
                return iter([({several.var: x}, several, None) for x, _ in several.candidates])
        return None

    def soft(
        self, state: _State, default: bool, underived: bool = False
    ) -> Iterator[Branch] | None:
        """The proposals for the first variable that has some, or its default.

        A variable that is derived from another waits until that one is decided, which may have no
        layout that it is derived from; `underived` lets it go first.
        """
        for var in self.by_default if default else self.system.variables:
            if var in state.layouts or (var in self.candidates and not default):
                continue
            if not underived and self.awaits(state, var):
                continue
            proposals = self.proposals(state, var, default)
            if proposals and default:
                return iter([({var: x}, c, None) for x, c in proposals.items()])
            if proposals:
                return self.suggested(state, var)
        return None

    def awaits(self, state: _State, var: Variable) -> bool:
        """Whether a variable is derived from one that has no layout yet."""
        return any(
            isinstance(c, Derived) and c.a == var and c.b not in state.layouts
            for c in self.touching[var]
        )

    def suggested(self, state: _State, var: Variable) -> Iterator[Branch]:
        """Every proposal for a variable, of neighbours that are known and of those that are not."""
        proposals = self.proposals(state, var, False)
        for constraint in self.touching[var]:
            proposals |= self.later(state, var, constraint, proposals)
        for c in self.touching[var]:
            if (
                isinstance(c, Derived)
                and c.b == var
                and not any(_image(c.forward, x)[0] for x in proposals)
            ):
                proposals |= self.wanted(state, c)
        return iter([({var: x}, c, None) for x, c in proposals.items()])

    def later(
        self,
        state: _State,
        var: Variable,
        constraint: Constraint,
        known: Mapping[RegisterLayout, Constraint],
    ) -> dict[RegisterLayout, Constraint]:
        """Further proposals: candidates of a neighbour on a soft edge that is still undecided."""
        if not isinstance(constraint, Convert):
            return {}
        other = constraint.b if var == constraint.a else constraint.a
        several = self.candidates.get(other)
        if several is None or other in state.layouts:
            return {}
        return {x: constraint for x, _ in several.candidates if x not in known}

    def wanted(self, state: _State, derived: Derived) -> dict[RegisterLayout, Constraint]:
        """Proposals for a variable from whose own none follows for `derived.a`: what would give that
        the layout of a neighbour on a soft edge, or its default.
        """
        near = [c.layout for c in self.touching[derived.a] if isinstance(c, Default)]
        ends = (v for edge in self.edges[derived.a] for v in (edge.a, edge.b))
        near += [state.layouts[v] for v in ends if v in state.layouts]
        images = [_image(derived.inverse, x)[0] for x in near] if derived.inverse else []
        return {x: derived for x in images if x is not None}

    def rank(self, state: _State, single: OneOf) -> tuple[bool, float]:
        """The order of one candidate of a loose variable: what is derived from it, then cost."""
        ((layout, _),) = single.candidates
        derived = [
            c for c in self.touching[single.var] if isinstance(c, Derived) and c.b == single.var
        ]
        lost = any(_image(c.forward, layout)[0] is None for c in derived)
        return lost, self.least(state, single)

    def proposals(
        self, state: _State, var: Variable, default: bool
    ) -> dict[RegisterLayout, Constraint]:
        """Layouts that neighbours suggest for a variable that nothing determines."""
        found: dict[RegisterLayout, Constraint] = {}
        for constraint in self.touching[var]:
            layout: RegisterLayout | None = None
            if default:
                if isinstance(constraint, Default):
                    layout = constraint.layout
            elif isinstance(constraint, (Convert, Contains)):
                other = constraint.b if var == constraint.a else constraint.a
                layout = state.layouts.get(other)
            elif isinstance(constraint, Derived) and constraint.inverse is not None:
                known = state.layouts.get(constraint.a)
                layout = None if known is None else _image(constraint.inverse, known)[0]
            if layout is not None:
                found.setdefault(layout, constraint)
        return found

    # Propagation

    def impose(
        self, state: _State, layouts: Mapping[Variable, RegisterLayout], origin: Constraint
    ) -> None:
        """Assign and propagate to a fixed point, adding what the newly decided edges cost.

        Raises:
            Unsatisfiable: a hard constraint cannot hold.
        """
        fresh: list[Variable] = []
        for var, layout in layouts.items():
            self.assign(state, fresh, var, layout, origin, origin)
        position = 0
        while position < len(fresh):
            var = fresh[position]
            position += 1
            for constraint in self.touching[var]:
                self.propagate(state, fresh, var, constraint)
        state.cost += self.price(state, fresh)

    def assign(
        self,
        state: _State,
        fresh: list[Variable],
        var: Variable,
        layout: RegisterLayout,
        origin: Constraint,
        via: Constraint,
    ) -> None:
        """Give `var` its layout, or find that it has another."""
        known = state.layouts.get(var)
        if known is None:
            state.layouts[var] = layout
            state.origins[var] = origin
            fresh.append(var)
        elif known != layout:
            first = state.origins[var]
            second = origin if origin is not first else via
            raise Unsatisfiable(var, first, second, f"{known} is not {layout}")

    def propagate(
        self, state: _State, fresh: list[Variable], var: Variable, constraint: Constraint
    ) -> None:
        """Draw the conclusions of one constraint from the layout of `var`."""
        layout, origin = state.layouts[var], state.origins[var]
        match constraint:
            case Equal(a, b):
                self.assign(state, fresh, b if var == a else a, layout, origin, constraint)
            case Derived():
                self.derive(state, fresh, var, constraint)
            case Contains(a, b):
                whole, part = state.layouts.get(a), state.layouts.get(b)
                if whole is not None and part is not None and not whole.contains(part):
                    reason = f"{whole} lacks elements of {part}"
                    raise Unsatisfiable(a, state.origins[a], constraint, reason)
            case OneOf():
                if constraint.cost(layout) is None:
                    raise Unsatisfiable(var, origin, constraint, f"{layout} is no candidate")
            case _:
                pass

    def derive(
        self, state: _State, fresh: list[Variable], var: Variable, constraint: Derived
    ) -> None:
        """Propagate through a function of layouts, both ways where it is exact."""
        origin = state.origins[var]
        if var == constraint.b:
            image, reason = _image(constraint.forward, state.layouts[var])
            if image is None:
                raise Unsatisfiable(constraint.a, origin, constraint, reason)
            self.assign(state, fresh, constraint.a, image, origin, constraint)
        elif constraint.exact and constraint.inverse is not None:
            image, reason = _image(constraint.inverse, state.layouts[var])
            if image is None:
                raise Unsatisfiable(constraint.b, origin, constraint, reason)
            self.assign(state, fresh, constraint.b, image, origin, constraint)

    def price(self, state: _State, fresh: list[Variable]) -> float:
        """The cost of candidates and soft edges that the fresh variables settle."""
        total = 0.0
        new = set(fresh)
        for var in fresh:
            for constraint in self.touching[var]:
                if isinstance(constraint, OneOf):
                    total += constraint.cost(state.layouts[var]) or 0.0
                if not isinstance(constraint, Convert):
                    continue
                other = constraint.b if var == constraint.a else constraint.a
                # An edge between two fresh variables is met twice: its first end pays.
                if other in state.layouts and not (other in new and var != constraint.a):
                    total += self.conversion(state, constraint).cost * constraint.weight
        return total

    def conversion(self, state: _State, edge: Convert) -> Conversion:
        """What a soft edge between two known layouts needs."""
        return classify(state.layouts[edge.a], state.layouts[edge.b], self.system.warp_size)

    def solution(self, state: _State, optimal: bool) -> Solution:
        """The result, with the conversions that are left."""
        conversions = []
        for edge in self.system.constraints:
            if isinstance(edge, Convert) and edge.a in state.layouts and edge.b in state.layouts:
                conversion = self.conversion(state, edge)
                if conversion.kind != "same":
                    conversions.append((edge, conversion))
        return Solution(state.layouts, state.choices, tuple(conversions), state.cost, optimal)


def _image(function: Map, layout: RegisterLayout) -> tuple[RegisterLayout | None, str]:
    """The value of a function of layouts, or None and why it has none."""
    try:
        image = function(layout)
    except ValueError as error:
        return None, str(error)
    return image, f"it has no value for {layout}"
