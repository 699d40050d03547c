"""Whether a planned or lowered program can read too early, overwrite too early, or wait in vain.

Needs: a program with pipelines (after schedule_stages), or one whose barriers are placed. Leaves it
unchanged. Knows effects, channels and the meaning of the synchronising ops, and nothing of how they
came to stand where they do.

    for 0, %n, 1 (%k) {               ->  HazardError TLC0352: copy in the block writes slot 0 of
      copy %A[...] -> %A_s[%k % 2]        A_s, and nothing orders that after gemm ...
      ... }                               hint: found with K = 129, M = 1, N = 1

Each launch is executed abstractly with sizes that give its loops the trip counts 0, 1, 2,
slots - 1, slots, slots + 1 and 2 slots + 1, and loops around them 1, 2, 3 and slots + 1 turns, as
far as arguments can.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import HazardError, IRError
from ..ir.core import Level, Op, Program, walk
from ..ir.ops.control import Launch, Role
from ..ir.ops.memory import Slot, memory_type
from ..ir.ops.pipeline import Channel
from ..target import Target
from .context import Pass, PassContext
from .hazards.cases import Case, Sizes, cases_of, counting_parameters, counts_of, data_of
from .hazards.exchanges import ExchangeMachine, exchange_buffers, exchange_slice
from .hazards.halves import HalvesMachine, alternates, halves_slice
from .hazards.machine import Settled, SyncMachine
from .hazards.plan_rules import check_rules
from .hazards.plan_run import PlanMachine
from .hazards.slicing import Slice


def check_hazards(program: Program, context: PassContext) -> Program:
    """`check_plan` where the program has channels, else `check_synchronisation`.

    Raises HazardError as they do, IRError (TLC0292) for a program of the thread level.
    """
    planned = any(isinstance(op, Channel) for op in walk(program.body))
    return (check_plan if planned else check_synchronisation)(program, context)


def check_plan(program: Program, context: PassContext) -> Program:
    """Proves a planned program free of hazards and deadlocks at the trip counts above.

    Raises HazardError: TLC0350 (ends of channels, roles), TLC0351 (got too early), TLC0352 (put or
    freed too early), TLC0357 (deadlock), TLC0359 (tiles in flight).
    """
    _need_tiles(program)
    for launch in _launches(program):
        check_rules(launch)
        _check_registers(launch, context.target)
    part = Slice(program.body)

    def run(launch: Launch, case: Case) -> None:
        PlanMachine(part, case, launch, context.target.warp_size).run(_prefix(program, part))

    return _each_case(program, part, run)


def check_synchronisation(program: Program, context: PassContext) -> Program:
    """Proves a lowered program of the tile level free of hazards and deadlocks, as `check_plan`.

    Raises HazardError: TLC0351 (read too early), TLC0352 (overwritten too early), TLC0353 (no
    barrier between threads), TLC0354 (no proxy fence), TLC0355 (mbarriers), TLC0356 (barriers),
    TLC0357 (deadlock), TLC0358 (slots), TLC0359 (engines at work when the block ends), TLC0360 (parts
    of different tiles).
    """
    _need_tiles(program)
    for launch in _launches(program):
        _check_registers(launch, context.target)
    part = Slice(program.body)
    settled: Settled = set()

    def run(launch: Launch, case: Case) -> None:
        machine = SyncMachine(part, case, launch, context.target.warp_size, settled)
        machine.run(_prefix(program, part))

    return _each_case(program, part, run)


def check_exchanges(program: Program, context: PassContext) -> Program:
    """Proves of a program that lower_tiles made that what reductions, scans and conversions exchange
    through shared memory of their own is read after it is written, and overwritten after it is read.

    Raises HazardError: TLC0351 (read, never written), TLC0353 (no barrier between threads), TLC0356
    (barriers), TLC0358 (places that are not known).
    """
    buffers = exchange_buffers(program)
    if not buffers:
        return program
    part = exchange_slice(program, buffers)

    def run(launch: Launch, case: Case) -> None:
        machine = ExchangeMachine(part, case, launch, context.target.warp_size, buffers)
        machine.run(_prefix(program, part))

    return _each_case(program, part, run)


def check_halves(program: Program, context: PassContext) -> Program:
    """Proves of a program whose waves alternate that what the halves of a block do to shared memory is
    ordered, and that they come to as many barriers.

    Raises HazardError: TLC0353 (no barrier between two accesses), TLC0356 (a barrier of some threads
    of a half), TLC0357 (deadlock), TLC0358 (a slot that is not known).
    """
    if not any(alternates(launch) for launch in _launches(program)):
        return program
    part = halves_slice(program, exchange_buffers(program))

    def run(launch: Launch, case: Case) -> None:
        HalvesMachine(part, case, launch, context.target.warp_size).run(_prefix(program, part))

    return _each_case(program, part, run)


CHECKS: dict[str, Pass] = {
    "schedule_stages": check_plan,
    "place_barriers": check_synchronisation,
    "lower_tiles": check_exchanges,
    "alternate_waves": check_halves,
}
"""Which check holds after which pass."""


def checked_sizes(program: Program) -> dict[str, list[Sizes]]:
    """The sizes with which each launch is executed, by the launch's name."""
    return {
        launch.symbol: list(cases_of(program, launch, Slice(program.body), _slots(launch)))
        for launch in _launches(program)
    }


def _need_tiles(program: Program) -> None:
    if program.level is not Level.TILE:
        raise IRError("TLC0292", "hazards are checked at the tile level", loc=program.loc)


def _check_registers(launch: Launch, target: Target) -> None:
    """Roles that set registers have no more together than the block's threads start with."""
    roles = [op for op in launch.body.ops if isinstance(op, Role)]
    held = sum(role.registers * role.threads for role in roles)
    threads = sum(role.threads for role in roles)
    if not held:
        return
    resident = max(1, launch.resident)
    start = min(256, target.registers // (resident * threads) // 8 * 8)
    if held > start * threads:
        raise HazardError(
            "TLC0357",
            f"deadlock: the roles take {held} registers, and with {resident} resident blocks the "
            f"{threads} threads of one start with {start} each",
            loc=launch.loc,
        )


def _each_case(program: Program, part: Slice, run: Callable[[Launch, Case], None]) -> Program:
    for launch in _launches(program):
        slots = _slots(launch)
        contents, most = data_of(program, launch, part, slots), counts_of(slots)[-1]
        counting = counting_parameters(program, launch, part)
        for sizes in cases_of(program, launch, part, slots):
            known = {param: sizes[kind] for param, kind in counting.items()}
            for data in contents:
                case = Case(sizes, known, data, most)
                run(launch, case)
                if not case.uses_data:
                    break
    return program


def _launches(program: Program) -> list[Launch]:
    return [op for op in program.body.ops if isinstance(op, Launch)]


def _prefix(program: Program, part: Slice) -> list[Op]:
    """The kept scalars before the launches."""
    return [op for op in part.ops[program.body] if not isinstance(op, Launch)]


def _slots(launch: Launch) -> set[int]:
    """Lengths of the launch's rings."""
    found = {op.type.slots for op in walk(launch.body) if isinstance(op, Channel)}
    return found | {
        int(memory_type(op.ring).shape[0]) for op in walk(launch.body) if isinstance(op, Slot)
    }
