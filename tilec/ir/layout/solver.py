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

FUEL = 2000
"""States that are expanded in the order of cost before the search turns greedy.

Two or three matrix instructions with a dozen variants each and the loads around them need some
hundreds. A state costs 0.1 ms, so this bounds the time that a kernel of many loops can take at a
fraction of a second; what is found after it is still a solution, perhaps not the cheapest.
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
    return _Search(system).run(fuel)


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
        self.least_option = {c.name: min(o.cost for o in c.options) for c in self.choices}
        self.least_candidate = [(c.var, min(x for _, x in c.candidates)) for c in self.several]
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
        candidates = sum(x for var, x in self.least_candidate if var not in state.layouts)
        return state.cost + options + candidates

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
        for choice in self.choices:
            if choice.name not in state.choices:
                return iter([(o.layouts, choice, o) for o in choice.options])
        for several in self.several:
            if several.var not in state.layouts:
                return iter([({several.var: x}, several, None) for x, _ in several.candidates])
        for default in (False, True):
            for var in self.system.variables:
                if var in state.layouts:
                    continue
                proposals = self.proposals(state, var, default)
                if proposals:
                    return iter([({var: x}, c, None) for x, c in proposals.items()])
        return None

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
            case Fixed() | Default() | Convert() | Choice():
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
