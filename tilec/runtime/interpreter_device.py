"""The interpreter as a Device: NumPy in, NumPy out, no compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import config
from ..backends.grids import launch_blocks
from ..backends.interface import Interface
from ..backends.launcher.limits import check_blocks
from ..backends.manifest import Manifest
from ..errors import ArgumentError, TargetUnsupported
from ..interpreter import run_program
from ..ir.core import Program
from ..ir.ops.control import Launch
from ..target import Target, find_target
from .allocate import as_result
from .check_args import bind_arguments, told_of
from .devices import DEFAULT_TARGET, register_device, stated_target


class InterpreterDevice:
    """Runs the meaning of a program. `argument` may name the target that heuristics see."""

    name = "interpreter"

    def __init__(self, argument: str, why: str) -> None:
        self.why = why
        self._target = argument

    @property
    def target(self) -> Target:
        return (
            find_target(self._target)
            if self._target
            else stated_target() or find_target(DEFAULT_TARGET)
        )

    def run(self, compiled: Any, arrays: Sequence[object], stream: object = None) -> Any:
        """Interprets the program on NumPy arrays, in place; returns what it returns."""
        manifest = compiled.interface
        bound = bind_arguments(manifest, arrays)
        _check_grids(compiled.program, manifest, bound.environment(1))
        named = {p.name: a for p, a in zip(manifest.inputs, arrays, strict=True)}
        for name, value in named.items():
            if not isinstance(value, (np.ndarray, np.generic, int, float, bool)):
                raise ArgumentError(
                    "TLC0806",
                    f"{name} is a {type(value).__module__} array; the interpreter takes NumPy's",
                    hint="copy it to the host first",
                )
        plain = {
            n: v.view(np.ndarray) if isinstance(v, np.ndarray) else v for n, v in named.items()
        }
        made = run_program(
            compiled.program,
            plain,  # a matrix, a recarray would index in its own way
            registry=compiled.registry,
            check_bounds="bounds" in config.current().check,
        )
        return as_result(made)


def _check_grids(program: Program, manifest: Manifest, env: Mapping[str, int]) -> None:
    """Raises ArgumentError for more blocks than 32 bits count, in which the program's extents are."""
    host = Interface(program).host
    for op in program.body.ops:
        if isinstance(op, Launch):
            try:
                blocks = launch_blocks(op, host)
            except TargetUnsupported:
                continue  # a launcher cannot tell: there is none for this program
            with told_of(manifest.program):
                check_blocks(manifest, op.symbol or program.name, blocks, blocks, 1, env)


register_device("interpreter", InterpreterDevice)
