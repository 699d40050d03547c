"""TILEC_CHECK=1: after every pass that leaves a tile-level program, the interpreter runs what was
there before it and what is there now, and compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ExecutionError, InternalError, WrongResult
from ..interpreter import same_meaning
from ..ir.core import Program
from ..ir.registry import Registry

LAST = "load_once"
"""The last pass whose result the interpreter runs; then come barriers and slots."""


@dataclass
class MeaningCheck:
    """An observer of a run of the pipeline. Raises InternalError (TLC9002) for a pass that changes
    what the program means on small random arguments.

    `seeds` choose the arguments and the order of blocks. Arguments on which the program is at fault
    by itself (an index out of range, say) say nothing about a pass and are passed over. `checked`
    names the passes that were compared.
    """

    registry: Registry
    seeds: Sequence[int] = (0, 1)
    done: bool = False

    def __post_init__(self) -> None:
        self.checked: list[str] = []

    def __call__(self, name: str, before: Program, after: Program) -> None:
        if self.done:
            return
        self.done = name == LAST
        if after is before:
            return
        for seed in self.seeds:
            self._compare(name, before, after, seed)
        self.checked.append(name)

    def _compare(self, name: str, before: Program, after: Program, seed: int) -> None:
        try:
            same_meaning(before, after, seed, registry=self.registry)
        except WrongResult as error:
            raise self._changed(name, after, error) from error
        except ExecutionError as error:
            if not self._at_fault(before, seed):
                raise self._changed(name, after, error) from error

    def _at_fault(self, program: Program, seed: int) -> bool:
        """Whether the program, run twice, already breaks a rule on these arguments."""
        try:
            same_meaning(program, program, seed, registry=self.registry)
        except ExecutionError:
            return True
        return False

    def _changed(
        self, name: str, program: Program, error: WrongResult | ExecutionError
    ) -> InternalError:
        return InternalError(
            "TLC9002",
            f"pass {name} changes what the program means: {error.message}",
            loc=program.loc,
            hint="set TILEC_DUMP=folder to see the program before and after it",
        )
