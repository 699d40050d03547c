"""What NVIDIA machines have: cp.async, ldmatrix, mma.sync; mbarriers, TMA. Sources: PTX ISA 8.0,
chapter 9.7.
"""

from __future__ import annotations

from ...errors import TypeMismatch
from ..core import Access, Effect, Level, Op, Value, attribute, operand, operands
from ..dtypes import tensor_map
from ..types import ScalarType, Type
from .memory import check_indices
from .thread import Statement, check_registers

WARP, WARPGROUP = 32, 128
"""Threads of a warp, and those that issue one wgmma (PTX ISA, 9.7.15)."""
CP_ASYNC_BYTES = (4, 8, 16)
ASYNC_BYTES = 16  # alignment that TMA needs, and that copies of threads are used for


class CpAsync(Statement, name="cp_async", level=Level.THREAD):
    """`size` bytes (4, 8, 16) from global to shared memory without registers. Where `predicate` is
    false: zeros. Where `enabled` (at most one bool, only beside a predicate) is false: nothing.

    PTX 9.7.9.25.3, cp.async. Lands at the wait for its group, or with the arrival that follows it.
    `reused`: it may be kept near, in L1, for the next that copies the same.
    """

    destination: Value = operand()
    destination_indices: tuple[Value, ...] = operands()
    source: Value = operand()
    source_indices: tuple[Value, ...] = operands()
    predicate: tuple[Value, ...] = operands()
    size: int = attribute()
    enabled: tuple[Value, ...] = operands(default=())
    reused: bool = attribute(default=False)

    @property
    def text(self) -> str:  # type: ignore[override]
        return ("cp_async_reused" if self.reused else "cp_async") + (
            "<{size}>({destination}, {destination_indices}, {source}, {source_indices}"
            "{, predicate}{, enabled})"
        )

    def infer(self) -> tuple[Type, ...]:
        check_indices(self.destination, self.destination_indices)
        check_indices(self.source, self.source_indices)
        if self.enabled and not self.predicate:
            raise TypeMismatch("TLC0271", "a copy that may be disabled states its predicate too")
        if self.size not in CP_ASYNC_BYTES:
            raise TypeMismatch("TLC0270", f"cp.async moves 4, 8 or 16 bytes, not {self.size}")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.source), Effect(Access.WRITE, self.destination))


class CpAsyncCommit(Statement, name="cp_async_commit"):
    """Closes this thread's group of asynchronous copies (an empty one counts too)."""

    text = "cp_async_commit()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class CpAsyncWait(Statement, name="cp_async_wait"):
    """Waits until at most `pending` of this thread's groups are in flight."""

    text = "cp_async_wait<{pending}>()"
    pending: int = attribute()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class CpAsyncArrive(Statement, name="cp_async_arrive"):
    """One arrival of this thread, once all asynchronous copies that it has started have landed. It does
    not wait, and counts among the arrivals that the barrier was made for. PTX 9.7.13.15.16,
    cp.async.mbarrier.arrive.noinc.
    """

    text = "cp_async_arrive({barriers}, {index})"
    barriers: Value = operand()
    index: Value = operand()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE, self.barriers),)


class LdMatrix(Statement, name="ldmatrix", level=Level.THREAD):
    """`matrices` (1, 2, 4) 8x8 matrices of 16-bit elements; the indices are this lane's own row.
    `lane` (at most one integer, in flat memory): what is added to the index, and differs between
    the lanes. PTX 9.7.14.5.15.
    """

    registers: Value = operand()
    offset: Value = operand()
    memory: Value = operand()
    indices: tuple[Value, ...] = operands()
    matrices: int = attribute()
    transposed: bool = attribute(default=False)
    lane: tuple[Value, ...] = operands(default=())

    @property
    def text(self) -> str:  # type: ignore[override]
        name = "ldmatrix_trans" if self.transposed else "ldmatrix"
        return name + "<{matrices}>({registers}, {offset}, {memory}{ + lane}, {indices})"

    def infer(self) -> tuple[Type, ...]:
        check_registers(self.registers)
        check_indices(self.memory, self.indices)
        if self.lane and len(self.indices) != 1:
            raise TypeMismatch("TLC0272", "a lane's own part of an index needs flat memory")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.memory), Effect(Access.WRITE, self.registers))


class StMatrix(Statement, name="stmatrix", level=Level.THREAD):
    """Stores `matrices` 8x8 matrices of 16-bit elements; the indices are this lane's own row. PTX
    9.7.14.5.16.
    """

    memory: Value = operand()
    indices: tuple[Value, ...] = operands()
    registers: Value = operand()
    offset: Value = operand()
    matrices: int = attribute()
    transposed: bool = attribute(default=False)

    @property
    def text(self) -> str:  # type: ignore[override]
        name = "stmatrix_trans" if self.transposed else "stmatrix"
        return name + "<{matrices}>({memory}, {indices}, {registers}, {offset})"

    def infer(self) -> tuple[Type, ...]:
        check_registers(self.registers)
        check_indices(self.memory, self.indices)
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.memory), Effect(Access.READ, self.registers))


class MatrixStatement(Statement):
    """D += A B on register fragments: m x n x k at the given offsets."""

    accumulator: Value
    accumulator_offset: Value
    a: Value
    a_offset: Value
    b: Value
    b_offset: Value
    m: int
    n: int
    k: int

    def infer(self) -> tuple[Type, ...]:
        for registers in (self.accumulator, self.a, self.b):
            check_registers(registers)
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (
            Effect(Access.READ, self.a), Effect(Access.READ, self.b),
            Effect(Access.READ, self.accumulator), Effect(Access.WRITE, self.accumulator),
        )  # fmt: skip


class Mma(MatrixStatement, name="mma", level=Level.THREAD):
    """mma.sync, PTX 9.7.14.5: row.col fragments over a warp."""

    text = (
        "mma<{m}, {n}, {k}>({accumulator}, {accumulator_offset}, {a}, {a_offset}, {b}, {b_offset})"
    )
    accumulator: Value = operand()
    accumulator_offset: Value = operand()
    a: Value = operand()
    a_offset: Value = operand()
    b: Value = operand()
    b_offset: Value = operand()
    m: int = attribute()
    n: int = attribute()
    k: int = attribute()


class MbarrierInit(Statement, name="mbarrier_init"):
    """Makes barrier `index` of a ring expect `count` arrivals a phase. By one thread, before any
    other use.
    """

    text = "mbarrier_init({barriers}, {index}, {count})"
    barriers: Value = operand()
    index: Value = operand()
    count: int = attribute()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE, self.barriers),)


class MbarrierInitFence(Statement, name="mbarrier_init_fence"):
    """Makes initialised barriers visible to the async proxy."""

    text = "mbarrier_init_fence()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class MbarrierArrive(Statement, name="mbarrier_arrive"):
    """One arrival of this thread; with `block` (at most one) on the barrier that the block of that
    rank in the cluster has there.
    """

    barriers: Value = operand()
    index: Value = operand()
    block: tuple[Value, ...] = operands(default=())

    @property
    def text(self) -> str:  # type: ignore[override]
        name = "mbarrier_arrive_remote" if self.block else "mbarrier_arrive"
        return name + "({barriers}, {index}{, block})"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE, self.barriers),)


class MbarrierExpect(Statement, name="mbarrier_expect"):
    """One arrival (unless `arrives` is false), and `size` bytes that asynchronous copies must bring
    before the phase completes.
    """

    barriers: Value = operand()
    index: Value = operand()
    size: Value = operand()
    arrives: bool = attribute(default=True)

    @property
    def text(self) -> str:  # type: ignore[override]
        name = "mbarrier_expect" if self.arrives else "mbarrier_announce"
        return name + "({barriers}, {index}, {size})"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE, self.barriers),)


class MbarrierWait(Statement, name="mbarrier_wait"):
    """Waits until the phase of the given parity is complete."""

    text = "mbarrier_wait({barriers}, {index}, {parity})"
    barriers: Value = operand()
    index: Value = operand()
    parity: Value = operand()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE, self.barriers),)


class FenceProxyAsync(Statement, name="fence_proxy_async"):
    """What this thread has written to shared memory before, or has seen of other threads' asynchronous
    copies, is seen by the async proxy after.
    """

    text = "fence_proxy_async()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class TensorMap(Op, name="tensor_map", pure=True):
    """How the host describes boxes of a global tensor: a kernel parameter made at launch.

    `box`: extents along the tensor's dimensions, outermost first, along those in `clipped` at most the
    tensor's own (but 1 at least); `swizzle`: bytes of the pattern's span (0 none).
    """

    memory: Value = operand()
    box: tuple[int, ...] = attribute()
    swizzle: int = attribute(default=0)
    clipped: tuple[int, ...] = attribute(default=())

    def infer(self) -> tuple[Type, ...]:
        return (ScalarType(tensor_map),)


class ClusterBarrier(Statement, name="cluster_barrier"):
    """All threads of all blocks of the cluster meet here. Of what they did before they see the
    mbarriers that were made and shown (MbarrierInitFence), and no other memory.
    """

    text = "cluster_barrier()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class TmaLoad(Statement, name="tma_load", level=Level.THREAD):
    """One box from global to shared memory, by one thread, completing on an mbarrier. Coordinates
    innermost first. With `mask` (at most one) the box lands at the same place, and completes on the
    same barrier, in every block of the cluster whose rank has its bit set.
    """

    destination: Value = operand()
    destination_indices: tuple[Value, ...] = operands()
    tensor_map: Value = operand()
    barriers: Value = operand()
    index: Value = operand()
    coordinates: tuple[Value, ...] = operands()
    mask: tuple[Value, ...] = operands(default=())

    @property
    def text(self) -> str:  # type: ignore[override]
        name = "tma_load_multicast" if self.mask else "tma_load"
        return name + (
            "<{rank}>({destination}, {destination_indices}, {tensor_map}, {barriers}, {index}"
            "{, mask}, {coordinates})"
        )

    @property
    def rank(self) -> int:
        return len(self.coordinates)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.destination, "async"),)


class TmaStore(Statement, name="tma_store", level=Level.THREAD):
    """One box from shared to global memory, by one thread. Coordinates innermost first."""

    text = "tma_store<{rank}>({tensor_map}, {source}, {source_indices}, {coordinates})"
    tensor_map: Value = operand()
    source: Value = operand()
    source_indices: tuple[Value, ...] = operands()
    coordinates: tuple[Value, ...] = operands()

    @property
    def rank(self) -> int:
        return len(self.coordinates)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.source, "async"),)


class BulkCommit(Statement, name="bulk_commit"):
    """Closes this thread's group of bulk stores."""

    text = "bulk_commit()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class BulkWait(Statement, name="bulk_wait"):
    """Waits until at most `pending` groups of bulk stores are in flight; `read`: until they have
    read their sources.
    """

    pending: int = attribute()
    read: bool = attribute(default=False)

    @property
    def text(self) -> str:  # type: ignore[override]
        return "bulk_wait_read<{pending}>()" if self.read else "bulk_wait<{pending}>()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class PrefetchTensorMap(Statement, name="prefetch_tensor_map", level=Level.THREAD):
    """Brings a tensor map into the descriptor cache."""

    text = "prefetch_tensor_map({tensor_map})"
    tensor_map: Value = operand()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class WaitGrids(Statement, name="wait_grids"):
    """The launches before this one are over, and what they wrote is there (PTX ISA, griddepcontrol.wait):
    returns at once in a launch that did not begin early. Every thread says so before it reaches global
    memory.
    """

    text = "wait_grids()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class LaunchDependents(Statement, name="launch_dependents"):
    """Once all blocks have said so, or are over, the next launch may begin (PTX ISA,
    griddepcontrol.launch_dependents).
    """

    text = "launch_dependents()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class SetRegisters(Statement, name="set_registers"):
    """setmaxnreg: this warpgroup has `count` registers a thread from here on."""

    count: int = attribute()
    increase: bool = attribute(default=False)

    @property
    def text(self) -> str:  # type: ignore[override]
        return "register_increase<{count}>()" if self.increase else "register_decrease<{count}>()"

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


OPS: tuple[type[Op], ...] = (
    CpAsync, CpAsyncCommit, CpAsyncWait, CpAsyncArrive, LdMatrix, StMatrix, Mma, MbarrierInit, MbarrierInitFence,
    MbarrierArrive, MbarrierExpect, MbarrierWait, FenceProxyAsync, ClusterBarrier, TensorMap, TmaLoad, TmaStore,
    BulkCommit, BulkWait, PrefetchTensorMap, WaitGrids, LaunchDependents, SetRegisters,
)  # fmt: skip
