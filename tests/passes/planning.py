"""What the tests of the planning passes share: programs run through the first passes of the
pipeline, what is found in them, and whether they still mean the same.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from tilec.errors import Loc, TilecError
from tilec.interpreter import same_meaning
from tilec.ir.core import Op, Program, walk
from tilec.ir.print import print_program
from tilec.passes.context import Assume, Facts, Pass, PassContext, Remark
from tilec.passes.pipeline import PIPELINE, run_pipeline
from tilec.runtime.lowering import standard_registry
from tilec.target import Target, find_target

REGISTRY = standard_registry()
NAMES = [p.__name__ for p in PIPELINE]
PLANNING = PIPELINE[: NAMES.index("load_once") + 1]
"""The passes whose result is still a tile-level program that the interpreter runs."""

OpT = TypeVar("OpT", bound=Op)


@dataclass
class Planned:
    """A program after some passes, and what they remarked."""

    program: Program
    remarks: list[Remark]
    facts: Facts

    def all(self, kind: type[OpT]) -> list[OpT]:
        return found(self.program, kind)

    def one(self, kind: type[OpT]) -> OpT:
        (op,) = self.all(kind)
        return op

    @property
    def codes(self) -> list[str]:
        return [r.code for r in self.remarks]

    @property
    def text(self) -> str:
        return print_program(self.program)

    def remark(self, code: str) -> Remark:
        """The only remark with this code."""
        (remark,) = dict.fromkeys(r for r in self.remarks if r.code == code)
        return remark


def found(program: Program, kind: type[OpT]) -> list[OpT]:
    """The ops of a class, in order."""
    return [op for op in walk(program.body) if isinstance(op, kind)]


def specialised(kernel: Any, **constants: Any) -> Program:
    """The kernel's program, with some of its compile-time parameters given."""
    defaults = {p.name: p.default for p in kernel.parameters if p.kind == "constant"}
    program: Program = kernel.trace({**defaults, **constants})
    return program


def plan(
    program: Program,
    after: str,
    target: str | Target = "cuda:sm_80",
    *,
    assume: bool = True,
    passes: Sequence[Pass] = PLANNING,
) -> Planned:
    """The program after the (last) planning pass of that name, verified between passes."""
    remarks: list[Remark] = []
    facts = Facts(Assume.ALL if assume else Assume.NOTHING)
    aim = find_target(target) if isinstance(target, str) else target
    context = PassContext(aim, REGISTRY, facts, remarks.append)
    result = run_pipeline(program, context, passes, after=after)
    return Planned(result, remarks, facts)


def run_pass(
    pass_: Pass, program: Program, target: str = "cuda:sm_80", *, assume: bool = True
) -> Planned:
    """One pass alone, verified."""
    return plan(program, pass_.__name__, target, assume=assume, passes=(pass_,))


def keeps_meaning(before: Program, after: Program, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Fails unless the interpreter gives the same for both, on random arguments."""
    for seed in seeds:
        same_meaning(before, after, seed, registry=REGISTRY)


def refused(code: str, run: Callable[[], Any]) -> TilecError:
    """The error that `run` ends in; it must have this code."""
    with pytest.raises(TilecError) as caught:
        run()
    assert caught.value.code == code, str(caught.value)
    return caught.value


def line_of(loc: Loc) -> str:
    """The source line of a place."""
    return linecache.getline(loc.file, loc.line).strip()
