"""The one pipeline of passes, for all targets, and the driver that runs it."""

from __future__ import annotations

import dataclasses
import difflib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import IRError, OutOfResources, TilecError
from ..ir.core import Program
from ..ir.print import print_program
from ..ir.registry import Registry
from ..ir.verify import verify
from .alternate_waves import alternate_waves
from .assign_roles import assign_roles
from .canonicalize import canonicalize
from .choose_instructions import choose_instructions
from .clip_boxes import clip_boxes
from .context import Pass, PassContext, Remark
from .drop_guards import drop_guards
from .fit_resources import FULL, fit_resources
from .flatten_memory import flatten_memory
from .gather_pairs import gather_pairs
from .hoist_addresses import hoist_addresses
from .infer_layouts import infer_layouts
from .interleave_reads import interleave_reads
from .issue_gemms import issue_gemms
from .lift_copies import lift_copies
from .lift_stores import lift_stores
from .load_once import load_once
from .lower_pipelines import lower_pipelines
from .lower_tiles import lower_tiles
from .make_persistent import make_persistent
from .multicast_loads import multicast_loads
from .overlap_fragments import overlap_fragments
from .overlap_gemms import overlap_gemms
from .overlap_launches import overlap_launches
from .pack_elements import pack_elements
from .pad_tiles import pad_tiles
from .place_barriers import place_barriers
from .plan_pipelines import plan_pipelines
from .plan_shared import plan_shared
from .promote_fragments import promote_fragments
from .publish_fragments import publish_fragments
from .reproducer import failed_step
from .schedule_stages import schedule_stages
from .share_last_wave import share_last_wave
from .simplify_indices import simplify_indices
from .split_addresses import split_addresses
from .split_buffers import split_buffers
from .split_loads import split_loads
from .split_loops import split_loops
from .split_nests import split_nests
from .split_slices import split_slices
from .spread_copies import spread_copies
from .stage_stores import stage_stores
from .start_engines import start_engines
from .start_gathers import start_gathers
from .vectorize import vectorize
from .wrap_integers import wrap_integers

PIPELINE: tuple[Pass, ...] = (
    canonicalize,
    drop_guards,  # first, so that nests are what they would be without guards
    gather_pairs,  # before promotion, since it makes fragments
    split_nests,  # and this, since it tells fragments from other memory by their handles
    publish_fragments,  # after it: a part of a nest may only read what the whole one writes
    promote_fragments,  # early: from here tiles are values, so that dependence is SSA
    pack_elements,  # what follows knows no element of less than a byte
    lift_copies,  # before planning, which looks for copies
    lift_stores,  # the like, for what is computed before it is stored
    canonicalize,
    split_slices,  # before it, which tells contents of whole buffers apart
    split_buffers,  # what one loop loads is its own then, and so a channel
    plan_pipelines,  # target-independent; needs whole statements, so before anything is lowered
    start_gathers,  # before it: the others are no loads to it
    choose_instructions,  # whether TMA feeds the launch decides persistence and roles
    multicast_loads,  # while blocks have their own indices, and before blocks go to clusters
    clip_boxes,  # likewise: that a block's tile starts inside is told by its index and the grid
    share_last_wave,  # before it, which leaves launches whose blocks wait for each other
    make_persistent,  # before roles: every role gets its copy of the loop over blocks
    assign_roles,
    canonicalize,  # each role sheds the scalars that only the other needs
    split_loads,
    fit_resources,  # before the schedule, which takes leads from slots
    issue_gemms,
    schedule_stages,
    pad_tiles,  # just before it: what plans loops goes by the program's own extents
    infer_layouts,  # sees the whole plan, so that a layout holds across stages and roles
    load_once,  # after it, since layouts say which iterations a thread runs
    start_engines,  # the last form that the interpreter runs is the one before
    stage_stores,  # needs the accumulator's layout to cut slabs
    lower_pipelines,
    overlap_gemms,  # after it, where a slot is variables and mbarriers: what goes with a gemm is seen
    split_loops,  # after it, so that no gemm is waited for between the two loops
    place_barriers,  # at tile level, where effects are whole statements
    canonicalize,
    lower_tiles,  # the only crossing from tile to thread level
    hoist_addresses,  # while the loops of copies are whole; what is left of them may be spread
    alternate_waves,  # before copies are spread: they belong to the reading half
    spread_copies,  # before anything is simplified: loops of copies and of fragments are whole
    overlap_fragments,  # after it, so that copies stand between the loads and what they feed
    interleave_reads,  # the like where the vendor's compiler orders instructions: it is told how
    simplify_indices,  # before vectorising: widths are proved on simplified indices
    vectorize,
    flatten_memory,
    split_addresses,  # before the sums are simplified, each part for itself
    simplify_indices,
    canonicalize,
    overlap_launches,  # behind it, so that roles keep their own arithmetic
    wrap_integers,  # behind all arithmetic: what knows of sums would not know them by their casts
    plan_shared,  # last: sizes are final
)


@dataclass
class Run:
    """What a run of the pipeline did: seconds by pass, in order."""

    times: list[tuple[str, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(t for _, t in self.times)


Observer = Callable[[str, Program, Program], None]
"""Called after every pass with its name, the program before and the program after."""


def run_pipeline(
    program: Program,
    context: PassContext,
    passes: Sequence[Pass] | None = None,
    *,
    after: str = "",
    checked: bool = True,
    dump: Path | None = None,
    observers: Sequence[Observer] = (),
    run: Run | None = None,
) -> Program:
    """Runs `passes` (by default the whole pipeline) in order; with `after`, up to and including the
    last pass of that name.

    `checked` verifies between passes. `dump` receives numbered IR, diffs and times. An error that
    is not a TilecError becomes an InternalError that names the pass and a folder with a reproducer:
    `dump`, or a new one.
    """
    run = run or Run()
    whole = pipeline_of(context.registry)
    chosen = list(_until(whole if passes is None else passes, after, whole))
    if dump is not None:
        _write(dump, "00_input", program, None)

    def attempt(context: PassContext) -> Program:
        now = program
        for number, pass_ in enumerate(chosen, start=1):
            before = now
            start = time.perf_counter()
            now = _guarded(pass_, before, context, checked, dump)
            run.times.append((pass_.__name__, time.perf_counter() - start))
            if dump is not None:
                _write(dump, f"{number:02}_{pass_.__name__}", now, before)
            for observer in observers:
                observer(pass_.__name__, before, now)
        return now

    lowered = _until_it_fits(attempt, context)
    if dump is not None:
        lines = [f"{seconds * 1e3:9.2f} ms  {name}" for name, seconds in run.times]
        (dump / "times.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lowered


def _until_it_fits(attempt: Callable[[PassContext], Program], context: PassContext) -> Program:
    """Where shared memory is full at last, another attempt with fewer slots, as long as that makes a
    difference. Remarks and facts are the last attempt's.
    """
    refused = ""
    known = dict(context.facts.taken)
    while True:
        remarks: list[Remark] = []
        try:
            return attempt(dataclasses.replace(context, remark=remarks.append))
        except OutOfResources as error:
            if error.code != FULL or error.message == refused:
                raise
            refused = error.message
            remarks.clear()
            context.facts.taken.clear()
            context.facts.taken.update(known)
            context = dataclasses.replace(context, fewer_slots=context.fewer_slots + 1)
        finally:
            for remark in remarks:
                context.remark(remark)


def pipeline_of(registry: Registry) -> tuple[Pass, ...]:
    """The pipeline with the passes that the registry inserts. Raises IRError for an insertion at a
    pass that there is not.
    """
    passes = list(PIPELINE)
    for where, anchor, pass_ in registry.passes:
        find_passes([anchor], passes)
        places = [n for n, p in enumerate(passes) if p.__name__ == anchor]
        passes.insert(places[0] if where == "before" else places[-1] + 1, pass_)
    return tuple(passes)


def find_passes(names: Sequence[str], pipeline: Sequence[Pass] = PIPELINE) -> tuple[Pass, ...]:
    """Passes of a pipeline by name, for `tilec opt`. Raises IRError with the list of names."""
    known = {p.__name__: p for p in pipeline}
    for name in names:
        if name not in known:
            raise IRError(
                "TLC0214", f"there is no pass {name!r}", hint="passes are " + ", ".join(known)
            )
    return tuple(known[name] for name in names)


def _until(passes: Sequence[Pass], after: str, whole: Sequence[Pass]) -> Iterator[Pass]:
    if not after:
        yield from passes
        return
    last = max((n for n, p in enumerate(passes) if p.__name__ == after), default=None)
    if last is None:
        find_passes([after], whole)
        raise IRError("TLC0214", f"pass {after!r} is not among those to run")
    yield from passes[: last + 1]


def _guarded(
    pass_: Pass, program: Program, context: PassContext, checked: bool, dump: Path | None
) -> Program:
    """Runs one pass; what goes wrong in it is told with its name."""
    try:
        after = pass_(program, dataclasses.replace(context, multiples=program.multiples))
        if checked:
            verify(after, context.registry)
        return after
    except IRError as error:
        raise failed_step(pass_.__name__, program, context, error, dump) from error
    except TilecError:
        raise
    except Exception as error:
        raise failed_step(pass_.__name__, program, context, error, dump) from error


def _write(folder: Path, name: str, program: Program, before: Program | None) -> None:
    text = print_program(program)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.tir").write_text(text, encoding="utf-8")
    except OSError as error:
        raise TilecError(
            "TLC0603",
            f"the programs between passes cannot be written to {folder}: {error.strerror}",
            hint="TILEC_DUMP, or --dump, names a folder that can be made and written",
        ) from error
    if before is not None:
        diff = difflib.unified_diff(
            print_program(before).splitlines(), text.splitlines(), "before", name, lineterm=""
        )
        (folder / f"{name}.diff").write_text("\n".join(diff) + "\n", encoding="utf-8")
