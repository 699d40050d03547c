"""What the program says of barriers and copies is given to the threads that do it.

Needs: layouts inferred, on a machine that has what the program asks for by name. Leaves: its mbarriers
made at the top of the launch by one thread and shown to all; each of its copies by TMA under the
condition that the thread is the first of its role; and `managed` the buffers whose synchronisation is
the program's: those that its copies fill, and those that several roles use. What threads write to these
and an engine reads is shown to it by a fence before the arrivals of those threads.

    %full = alloc <arrivals = [1, 1]>       %full = alloc
    role {                             ->   if thread 0 { mbarrier_init %full, 0 <count = 1> ; ... }
      copy %A[...], %s, [%full, %slot]      barrier
        <instruction = "tma"> }             role { if thread 0 { copy %A[...], %s, [%full, %slot] } }
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.build import Builder
from ..ir.core import Access, Block, Op, Program, Value, at, walk, with_results
from ..ir.ops.control import If, Launch, Role, ThreadId, map_launches
from ..ir.ops.memory import Alloc, Slot
from ..ir.ops.nvidia import FenceProxyAsync, MbarrierArrive, MbarrierExpect, MbarrierInit
from ..ir.ops.thread import Barrier
from ..ir.ops.tile import Copy
from .context import PassContext
from .dependence import is_shared
from .protocols import making_barriers
from .thread_copies import thread_copies


def start_engines(program: Program, context: PassContext) -> Program:
    """Does so in every launch that says itself what is done when."""
    return map_launches(program, lambda launch: _launch(launch) if launch.explicit else launch)


def _launch(launch: Launch) -> Launch:
    owned = _owned(launch)
    allocs = [op for op in launch.body.ops if isinstance(op, Alloc)]
    b = Builder()
    with at(launch.loc):
        made = [b.emit(_settled(op, owned)) for op in allocs]
        barriers = [op for op in made if op.arrivals]
        if barriers:
            with making_barriers(b):
                for alloc in barriers:
                    _make(b, alloc)
    read = {buffer for _, buffer in _touched(launch.body, owned, Access.READ, "async")}
    rest = []
    for op in launch.body.ops:
        writers = {inner for inner, _ in _touched(Block((), (op,)), read, Access.WRITE, "generic")}
        if op not in allocs:
            rest.append(op.map_regions(_shown) if writers else op)
    body = _started(launch.body.with_ops(rest), owned)
    return launch.replace(body=body.with_ops([*b.ops, *body.ops]))  # type: ignore[return-value]


def _owned(launch: Launch) -> set[Value]:
    """The shared buffers that the program's copies fill, or that several roles use."""
    made_of = {op.result: op.ring for op in walk(launch.body) if isinstance(op, Slot)}
    found: set[Value] = set()
    users: dict[Value, set[Op]] = {}
    for part in launch.body.ops:
        for op in part.walk():
            if isinstance(op, Copy) and op.barrier:
                found.add(made_of.get(op.destination, op.destination))
            for value in op.inputs if isinstance(part, Role) else ():
                if is_shared(value):
                    users.setdefault(made_of.get(value, value), set()).add(part)
    return found | {value for value, parts in users.items() if len(parts) > 1}


def _touched(
    block: Block, buffers: set[Value], access: Access, proxy: str
) -> Iterator[tuple[Op, Value]]:
    """The ops of a block that access one of some buffers so, with the buffer."""
    made_of = {op.result: op.ring for op in walk(block) if isinstance(op, Slot)}
    for op in walk(block):
        for effect in op.effects():
            if effect.memory is None or (effect.access, effect.proxy) != (access, proxy):
                continue
            buffer = made_of.get(effect.memory, effect.memory)
            if buffer in buffers:
                yield op, buffer


def _arrives(op: Op) -> bool:
    """Whether other roles may go on, by this op, to what the threads have written."""
    return (
        isinstance(op, MbarrierArrive)
        or (isinstance(op, MbarrierExpect) and op.arrives)
        or (isinstance(op, Barrier) and op.barrier > 0)
    )


def _shown(block: Block) -> Block:
    """The block with a fence before every arrival, and before a branch that some arrive in: by all
    threads that may have written."""
    ops: list[Op] = []
    for op in block.ops:
        with at(op.loc):
            if _arrives(op) or (isinstance(op, If) and any(map(_arrives, op.walk()))):
                ops.append(FenceProxyAsync())
            ops.append(op.map_regions(_shown))
    return block.with_ops(ops)


def _settled(op: Alloc, owned: set[Value]) -> Alloc:
    if op.result not in owned or op.managed:
        return op
    with at(op.loc):
        return with_results(op.replace(managed=True), op.results)  # type: ignore[return-value]


def _make(b: Builder, alloc: Alloc) -> None:
    """Makes the barriers of an alloc, in a loop where they are alike."""
    with at(alloc.loc):
        if len(set(alloc.arrivals)) == 1:
            with b.loop(0, len(alloc.arrivals), hint="slot") as slot:
                b.emit(MbarrierInit(alloc.result, slot, count=alloc.arrivals[0]))
            return
        for number, count in enumerate(alloc.arrivals):
            b.emit(MbarrierInit(alloc.result, b.const(number), count=count))


def _started(block: Block, owned: set[Value]) -> Block:
    """The block with each copy by the engine under the condition that the thread is the first, and
    what threads copy asynchronously to buffers of the program's own awaited at once.
    """
    b = Builder()
    for op in block.ops:
        with at(op.loc):
            if isinstance(op, Copy) and op.instruction == "tma":
                thread = b.emit(ThreadId()).result
                with b.when(b.compare("eq", thread, 0)):
                    b.emit(op)
            elif isinstance(op, Copy) and op.destination in owned and (kind := thread_copies(op)):
                b.extend((op, *kind.land_all()))
            else:
                b.emit(op.map_regions(lambda inner: _started(inner, owned)))
    return block.with_ops(b.ops)
