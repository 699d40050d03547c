"""Ops of a package that is not tilec: one elementwise, one that reads memory and has a region."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np

from tilec.errors import TypeMismatch
from tilec.ir.core import (
    Access,
    Block,
    Effect,
    Op,
    Value,
    attribute,
    operand,
    operands,
    region,
)
from tilec.ir.layout import SharedLayout
from tilec.ir.ops.arith import Unary
from tilec.ir.ops.memory import check_indices
from tilec.ir.types import ScalarType, Type


class Relu(Unary, name="acme.relu", pure=True):
    """x where it is positive, else `slope` times x."""

    text = "acme_relu({x}, {slope})"
    x: Value = operand()
    slope: float = attribute(default=0.0)

    def evaluate(self, *inputs: Any) -> Any:
        (x,) = inputs
        return np.where(np.greater(x, 0), x, np.asarray(x * self.slope, np.asarray(x).dtype))


class Nearest(Enum):
    EVEN = "even"
    ZERO = "zero"


class Gather(Op, name="acme.gather"):
    """The elements of `memory` at the indices that `body` makes of each of `seeds`, added up."""

    memory: Value = operand()
    seeds: tuple[Value, ...] = operands()
    body: Block = region()
    rounding: Nearest = attribute(default=Nearest.EVEN)
    layout: SharedLayout | None = attribute(default=None)
    weights: tuple[float, ...] = attribute(default=())

    def infer(self) -> tuple[Type, ...]:
        if len(self.body.params) != 1:
            raise TypeMismatch("ACME001", "gather's body takes one seed")
        end = self.body.terminator
        type_ = check_indices(self.memory, end.inputs if end is not None else ())
        return (ScalarType(type_.dtype),)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.memory),)


OPS = (Relu, Gather)
