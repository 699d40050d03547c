"""From a program as the frontend leaves it to the text of one variant."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .. import config
from ..backends.emitter import EmittedProgram, emit_program, render
from ..backends.manifest import Fact, Variant
from ..backends.names import mangle
from ..errors import IRError, TilecError
from ..ir.core import Program
from ..ir.ops import builtin_registry
from ..ir.registry import Registry
from ..locks import cached_property, one_at_a_time
from ..passes.context import Assume, Facts, PassContext, Remark, facts_of
from ..passes.layout_constraints import register_layout_rules
from ..passes.lower_tiles import register_lowerings
from ..passes.pipeline import Observer, Run, run_pipeline
from ..passes.reproducer import EMISSION, failed_step
from ..target import Target
from .check_meaning import MeaningCheck

_SUFFIXES = {
    Assume.ALL: "",
    Assume.ALIGNED: "_large",
    Assume.READ: "_read",
    Assume.PROMISED: "_promised",
    Assume.NOTHING: "_generic",
}


@one_at_a_time
@cache
def standard_registry() -> Registry:
    """tilec's own ops with what passes know of them. Extend a copy of it, not this one."""
    registry = builtin_registry()
    register_layout_rules(registry)
    register_lowerings(registry)
    return registry


@dataclass(frozen=True)
class Lowered:
    """One variant of a program: its thread-level IR, its kernels, what it asks of arguments, and
    what was remarked.

    `seconds` is what passes and emission took.
    """

    program: Program
    emitted: EmittedProgram
    requires: tuple[Fact, ...]
    remarks: tuple[Remark, ...]
    seconds: float
    suffix: str = ""

    @cached_property
    def text(self) -> str:
        """The source file, in the language of the target."""
        return render(self.emitted)

    @cached_property
    def emulated_text(self) -> str:
        """The same kernels with the CPU prelude, for the emulator."""
        return render(self.emitted, "cpu")

    @property
    def file_name(self) -> str:
        stem, dot, extension = self.emitted.source_name.rpartition(".")
        return f"{stem}{self.suffix}{dot}{extension}"

    @cached_property
    def variant(self) -> Variant:
        """The variant as the manifest has it."""
        return self.emitted.variant(self.requires, self.file_name)


def lower_program(
    program: Program,
    target: Target,
    registry: Registry | None = None,
    *,
    assume: Assume = Assume.ALL,
    observers: tuple[Observer, ...] = (),
    checked: bool | None = None,
) -> Lowered:
    """Runs the passes and the emitter. The facts that `assume` grants hold and are required of the
    arguments.

    `checked` verifies the IR after every pass (by default where TILEC_CHECK is set); TILEC_CHECK=1
    also interprets before and after every tile-level pass. Raises TilecError.
    """
    registry = registry or standard_registry()
    remarks: list[Remark] = []
    facts = facts_of(program, assume)
    settings = config.current()
    context = PassContext(target, registry, facts, remarks.append)
    dump = settings.dump_dir()
    if dump is not None:
        kind = _SUFFIXES[assume].replace("_", "-")
        dump = dump / f"{mangle(program.name)}-{target.backend}-{target.arch}{kind}"
    if settings.check == "1":
        observers = (*observers, MeaningCheck(registry))
    start = time.perf_counter()
    lowered = run_pipeline(
        program,
        context,
        checked=bool(settings.check) if checked is None else checked,
        dump=dump,
        observers=observers,
        run=Run(),
    )
    emitted = _emitted(lowered, context, dump)
    result = Lowered(
        lowered,
        emitted,
        tuple(required(facts, emitted)),
        tuple(dict.fromkeys(remarks)),
        time.perf_counter() - start,
        _SUFFIXES[assume],
    )
    if dump is not None:
        (dump / result.file_name).write_text(result.text, encoding="utf-8")
    return result


def required(facts: Facts, emitted: EmittedProgram) -> Iterator[Fact]:
    """The facts that were relied on, of memory that there still is: a pass may have found later that
    none of a workspace is used."""
    names = set(emitted.interface.names.values())
    for kind, tensor, size in facts.taken:
        if tensor in names:
            yield Fact(kind, tensor, size)  # type: ignore[arg-type]


def _emitted(program: Program, context: PassContext, dump: Path | None) -> EmittedProgram:
    """The text of a lowered program; what is wrong with the program here is a pass's fault."""
    try:
        return emit_program(program, context.target, context.registry)
    except IRError as error:
        raise failed_step(EMISSION, program, context, error, dump) from error
    except TilecError:
        raise
    except Exception as error:
        raise failed_step(EMISSION, program, context, error, dump) from error
