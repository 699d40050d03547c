"""A launch begins before the one in front of it ends (programmatic dependent launch; CUDA programming guide).

Needs: thread level, barriers and addresses final. Leaves: in launches that TMA feeds, and in those that load
nothing, `wait_grids` in front of the first op that reaches global memory, or of the first role: blocks are
placed and make their mbarriers while the launch before is still running. Where a block is done soon,
`launch_dependents` behind it: the next launch's blocks take their places as those of this one leave.

    mbarrier_init ... ; barrier                mbarrier_init ... ; barrier
    role <label = "consumer"> { ... }     ->   wait_grids ; if %short { launch_dependents }
    role <label = "producer"> { ... }          role <label = "consumer"> { ... } ...

Launches of which threads alone read tensors stay as they are: they gain little, and would lose that the C
compiler takes what they read to be constant (`ld.global.nc`, which might move in front of the wait).

What blocks of one row or column share finds them elsewhere on the machine if they start as others
leave, which costs long ones up to a fifth of their time, so they do not say so (docs/decisions.md 100).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Level, Op, Program, Value, at, constant_of, walk
from ..ir.ops.control import For, Launch, Role, While, map_launches
from ..ir.ops.nvidia import LaunchDependents, MbarrierExpect, TmaLoad, TmaStore, WaitGrids
from ..ir.rewrite import in_order
from .context import PassContext
from .coordinates import both
from .dependence import is_global, reads, writes
from .index_builder import IndexBuilder

SHORT_BYTES = 640 << 10
"""What a block loads for a tile, at most, that is done soon (docs/decisions.md 100)."""


def overlap_launches(program: Program, context: PassContext) -> Program:
    """Lets launches begin early, on targets whose launches can."""
    assert program.level is Level.THREAD, "overlap_launches works on threads' programs"
    if not context.target.dependent_launches:
        return program
    return map_launches(program, lambda launch: _launch(launch, context))


def _launch(launch: Launch, context: PassContext) -> Launch:
    inside = list(walk(launch.body))
    fed = any(isinstance(op, TmaLoad) for op in inside)
    if not fed and any(map(is_global, reads(launch))):
        return launch
    b = IndexBuilder(context.multiples)
    for op in inside:
        b.note(op)
    waited = False
    with b.inside(launch), b.region() as ops:
        for op in launch.body.ops:
            if not waited and (op.terminator or isinstance(op, Role) or _reaches_memory(op)):
                waited = True
                with at(launch.loc):
                    b.emit(WaitGrids())
                    _let_next_begin(launch, b)
            b.emit(op)
    return launch.replace(body=launch.body.with_ops(ops))  # type: ignore[return-value]


def _reaches_memory(op: Op) -> bool:
    """Whether `op`, or one in its regions, reads or writes global memory."""
    by_tma = any(isinstance(inner, TmaLoad | TmaStore) for inner in op.walk())
    return by_tma or any(map(is_global, (*reads(op), *writes(op))))


def _let_next_begin(launch: Launch, b: IndexBuilder) -> None:
    """Lets the next launch begin if the blocks of this one are done soon, where that follows from what
    the kernel is given.
    """
    inner = {p for op in walk(launch.body) for region in op.regions for p in region.params}
    short: Value | None = None
    loops = list(_copying_loops(launch.body))
    made: dict[Value, Value | None] = {}
    for loop in loops:
        trips = _before_all(loop.stop, inner, b, made)
        if trips is None or constant_of(loop.start) != 0 or constant_of(loop.step) != 1:
            return
        sizes = [
            b.range_of(op.size).high for op in walk(loop.body) if isinstance(op, MbarrierExpect)
        ]
        most = SHORT_BYTES // (len(loops) * max(1, sum(sizes)))
        short = both(b, short, b.compare("le", trips, most))
    if short is None:
        if not any(isinstance(op, For | While) for op in walk(launch.body)):
            b.emit(LaunchDependents())
    else:
        with b.when(short):
            b.emit(LaunchDependents())


def _copying_loops(block: Block) -> Iterator[For]:
    """The innermost loops whose iterations expect bytes."""
    for op in block.ops:
        inner = [loop for region in op.regions for loop in _copying_loops(region)]
        yield from inner
        if not inner and isinstance(op, For):
            if any(isinstance(part, MbarrierExpect) for part in walk(op.body)):
                yield op


def _before_all(
    value: Value, inner: set[Value], b: IndexBuilder, made: dict[Value, Value | None]
) -> Value | None:
    """`value` computed from what is known where the launch begins; None where it needs more. `made` has
    what was computed so before: a value that is used twice is computed once.
    """

    def needs(value: Value) -> tuple[Value, ...]:
        op = b.definitions.get(value)
        return op.inputs if op is not None and op.pure and not op.regions else ()

    for one in in_order(value, made, needs):
        made[one] = _computed(one, inner, b, made)
    return made[value]


def _computed(
    value: Value, inner: set[Value], b: IndexBuilder, made: dict[Value, Value | None]
) -> Value | None:
    op = b.definitions.get(value)
    if op is None:
        return None if value in inner else value
    if not op.pure or op.regions:
        return None
    names: Renaming = {}
    for operand in op.inputs:
        found = made[operand]
        if found is None:
            return None
        names[operand] = found
    copy = clone_op(op, names)
    for result in copy.results:
        result.hint = ""  # the name is the other's
    return b.pure(copy)
