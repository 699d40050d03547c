"""What operations ask of the layouts of their values, apart from any IR.

A variable is any hashable name. Hard constraints relate layouts; a soft edge (`Convert`) allows any
two and prices the difference. `solver.solve` finds an assignment.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from .register import RegisterLayout

Variable: TypeAlias = Hashable
Map: TypeAlias = Callable[[RegisterLayout], RegisterLayout | None]
"""A function of layouts; None or a ValueError where it has no value."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """`var` has this layout."""

    var: Variable
    layout: RegisterLayout
    why: str = ""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that the constraint relates."""
        return (self.var,)

    def __str__(self) -> str:
        return self.why or f"{self.var} is fixed"


@dataclass(frozen=True, slots=True)
class Equal:
    """`a` and `b` have one layout."""

    a: Variable
    b: Variable
    why: str = ""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that the constraint relates."""
        return (self.a, self.b)

    def __str__(self) -> str:
        return self.why or f"{self.a} equals {self.b}"


@dataclass(frozen=True, slots=True)
class Derived:
    """`a` = `forward(b)`: a transpose, a reduction, a reshape.

    `inverse(a)`, where given, proposes a layout of b. Where `exact` is set it is the only one whose
    image is a, and is imposed.
    """

    a: Variable
    b: Variable
    forward: Map
    inverse: Map | None = None
    exact: bool = False
    why: str = ""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that the constraint relates."""
        return (self.a, self.b)

    def __str__(self) -> str:
        return self.why or f"{self.a} is derived from {self.b}"


@dataclass(frozen=True, slots=True)
class Contains:
    """Every thread holds, in `a`, all elements that it holds in `b`: a read without exchange."""

    a: Variable
    b: Variable
    why: str = ""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that the constraint relates."""
        return (self.a, self.b)

    def __str__(self) -> str:
        return self.why or f"{self.a} contains {self.b}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """`var` has one of these layouts, each at its cost."""

    var: Variable
    candidates: tuple[tuple[RegisterLayout, float], ...]
    why: str = ""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that the constraint relates."""
        return (self.var,)

    def cost(self, layout: RegisterLayout) -> float | None:
        """The least cost at which `layout` is a candidate; None where it is none."""
        return min((cost for other, cost in self.candidates if other == layout), default=None)

    def __str__(self) -> str:
        return self.why or f"{self.var} is one of {len(self.candidates)}"


@dataclass(frozen=True, slots=True)
class Default:
    """`var` has this layout unless something else determines it."""

    var: Variable
    layout: RegisterLayout
    why: str = ""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that the constraint relates."""
        return (self.var,)

    def __str__(self) -> str:
        return self.why or f"{self.var} by default"


@dataclass(frozen=True, slots=True)
class Convert:
    """A soft edge: `b` is made from `a` by a conversion, priced by its kind times `weight`.

    `weight` is how often it runs, relative to an edge of weight 1.
    """

    a: Variable
    b: Variable
    weight: float = 1.0
    why: str = ""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that the constraint relates."""
        return (self.a, self.b)

    def __str__(self) -> str:
        return self.why or f"{self.a} converts to {self.b}"


@dataclass(frozen=True, slots=True)
class Option:
    """One way of a joint choice: layouts for several variables, at a cost."""

    label: str
    layouts: Mapping[Variable, RegisterLayout]
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Exactly one of the options holds: the variants of a matrix instruction, for example."""

    name: Hashable
    options: tuple[Option, ...]
    why: str = ""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that the options assign."""
        return tuple(dict.fromkeys(var for option in self.options for var in option.layouts))

    def __str__(self) -> str:
        return self.why or f"choice {self.name}"


Constraint: TypeAlias = Fixed | Equal | Derived | Contains | OneOf | Default | Convert | Choice


@dataclass(frozen=True, slots=True)
class System:
    """Constraints that are to hold together, on a machine with warps of `warp_size` lanes."""

    constraints: tuple[Constraint, ...]
    warp_size: int = 32
    variables: tuple[Variable, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = dict.fromkeys(v for c in self.constraints for v in c.variables)
        object.__setattr__(self, "variables", tuple(names))
        choices = [c.name for c in self.constraints if isinstance(c, Choice)]
        if len(set(choices)) != len(choices):
            raise ValueError("two choices have one name")
        for c in self.constraints:
            empty = (isinstance(c, Choice) and not c.options) or (
                isinstance(c, OneOf) and not c.candidates
            )
            if empty:
                raise ValueError(f"{c} offers nothing to choose from")

    def components(self) -> list[System]:
        """Its parts that share no variable: their costs add, so each is searched alone."""
        leader: dict[Variable, Variable] = {v: v for v in self.variables}

        def find(var: Variable) -> Variable:
            while leader[var] != var:
                leader[var] = leader[leader[var]]
                var = leader[var]
            return var

        for constraint in self.constraints:
            for var in constraint.variables:
                leader[find(var)] = find(constraint.variables[0])
        groups: dict[Variable, list[Constraint]] = {}
        for constraint in self.constraints:
            # A choice whose options assign nothing stands alone.
            name = find(constraint.variables[0]) if constraint.variables else constraint
            groups.setdefault(name, []).append(constraint)
        return [System(tuple(group), self.warp_size) for group in groups.values()]


class Unsatisfiable(ValueError):
    """Two constraints cannot hold together.

    Attributes:
        variable: the one whose layout they disagree on.
        first, second: the two constraints. They may be one, where it is at odds with itself.
    """

    def __init__(
        self, variable: Variable, first: Constraint, second: Constraint, reason: str
    ) -> None:
        super().__init__(f"layout of {variable}: {first}; {second}: {reason}")
        self.variable = variable
        self.first = first
        self.second = second
        self.reason = reason
