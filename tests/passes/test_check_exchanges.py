"""What lower_tiles exchanges through shared memory of its own: each of its barriers is needed, and
proved to suffice."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.kernels.machines import TARGETS
from tests.passes.test_check_hazards import context, example
from tilec.errors import HazardError, LanguageError
from tilec.ir.build import Builder
from tilec.ir.core import Op, Program, constant, walk
from tilec.ir.dtypes import i32
from tilec.ir.ops.control import ThreadId
from tilec.ir.ops.memory import Store
from tilec.ir.ops.thread import Barrier, VectorStore
from tilec.ir.rewrite import transform
from tilec.language.kernel import Kernel
from tilec.passes.check_hazards import CHECKS, check_exchanges
from tilec.passes.hazards.exchanges import exchange_buffers
from tilec.passes.pipeline import run_pipeline


@tilec.kernel
def once(X: T.Tensor((2, 1024), "float32"), Y: T.Tensor((2,), "float32")):
    with T.Kernel(1, threads=256):
        x, y = T.alloc_fragment((2, 1024), "float32"), T.alloc_fragment((2,), "float32")
        T.copy(X, x)
        T.reduce_sum(x, y, dim=1)
        T.copy(y, Y)


@tilec.kernel
def columns_in_a_loop(X: T.Tensor(("M", 64), "float32"), Y: T.Tensor((64,), "float32")):
    with T.Kernel(1, threads=128):
        x, y = T.alloc_fragment((64, 64), "float32"), T.alloc_fragment((64,), "float32")
        T.clear(y)
        for i in T.serial(T.ceildiv(X.shape[0], 64)):
            T.copy(X[i * 64, 0], x)
            T.reduce_max(x, y, dim=0, clear=False)
        T.copy(y, Y)


@tilec.kernel
def scans_in_a_loop(X: T.Tensor(("M", 512), "float32"), Y: T.Tensor(("M", 512), "float32")):
    with T.Kernel(1, threads=128):
        x = T.alloc_fragment((1, 512), "float32")
        for i in T.serial(X.shape[0]):
            T.copy(X[i, 0], x)
            T.cumsum(x, dim=1, reverse=True)
            T.copy(x, Y[i, 0])


@tilec.kernel
def scan_in_a_branch(
    X: T.Tensor((1, 512), "float32"), Y: T.Tensor((1, 512), "float32"), n: T.int32
):
    with T.Kernel(1, threads=128):
        x = T.alloc_fragment((1, 512), "float32")
        T.copy(X, x)
        if n > 2:
            T.cumsum(x, dim=1)
        T.copy(x, Y)


@tilec.kernel
def conversion_in_a_loop(X: T.Tensor(("M", 64), "float32"), Y: T.Tensor(("M", 64), "float32")):
    """What was reduced along rows is used along columns: other threads need it."""
    with T.Kernel(1, threads=128):
        x = T.alloc_fragment((64, 64), "float32")
        rows, columns = T.alloc_fragment((64,), "float32"), T.alloc_fragment((64,), "float32")
        for i in T.serial(T.ceildiv(X.shape[0], 64)):
            T.copy(X[i * 64, 0], x)
            T.reduce_sum(x, rows, dim=1)
            for a in T.Parallel(64):
                columns[a] = rows[a] * 2
            for a, b in T.Parallel(64, 64):
                x[a, b] = x[a, b] - columns[b]
            T.copy(x, Y[i * 64, 0])


KERNELS = (once, columns_in_a_loop, scans_in_a_loop, scan_in_a_branch, conversion_in_a_loop)


def lowered(kernel: Any, target: str, **constants: Any) -> Program:
    given = {p.name: p.default for p in kernel.parameters if p.kind == "constant"} | constants
    return run_pipeline(kernel.trace(given), context(target), after="lower_tiles")


def barriers(program: Program) -> list[Barrier]:
    return [op for op in walk(program.body) if isinstance(op, Barrier)]


def changed(program: Program, old: Op, new: tuple[Op, ...] = ()) -> Program:
    """The program with ops in the place of one that gives nothing."""
    body = transform(program.body, lambda op: new if op is old else None)
    assert body is not program.body
    return program.with_body(body)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_programs_pass_and_need_each_barrier(kernel: Any, target: str) -> None:
    """These programs have no other shared memory, so all their barriers are of exchanges."""
    program = lowered(kernel, target)
    assert exchange_buffers(program)
    assert check_exchanges(program, context(target)) is program
    assert len(barriers(program)) == (2 if "loop" in kernel.name else 1)
    for barrier in barriers(program):
        with pytest.raises(HazardError, match="with no barrier since") as caught:
            check_exchanges(changed(program, barrier), context(target))
        error = caught.value
        assert error.code == "TLC0353" and error.loc.known and error.hint.startswith("found with")


def stores(program: Program) -> list[Op]:
    buffers = exchange_buffers(program)
    kinds = (Store, VectorStore)
    return [op for op in walk(program.body) if isinstance(op, kinds) and op.memory in buffers]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_other_faults_are_refused(kernel: Any, target: str) -> None:
    program, (store, *_) = lowered(kernel, target), stores(lowered(kernel, target))
    store = stores(program)[0]
    with pytest.raises(HazardError, match="nothing has been written") as caught:
        check_exchanges(changed(program, store), context(target))
    assert caught.value.code == "TLC0351"
    # Every thread writes the same place.
    zero = tuple(constant(0, i32) for _ in store.indices)
    with pytest.raises(HazardError) as caught:
        check_exchanges(changed(program, store, (store.replace(indices=zero),)), context(target))
    assert caught.value.code in ("TLC0351", "TLC0353")
    # Only some come to the barrier.
    last = barriers(program)[-1]
    b = Builder()
    thread = b.emit(ThreadId()).result
    with b.when(b.compare("lt", thread, 64)):
        b.emit(Barrier())
    with pytest.raises(HazardError, match="64 of the") as caught:
        check_exchanges(changed(program, last, b.ops), context(target))
    assert caught.value.code == "TLC0356"


@pytest.mark.parametrize("target", TARGETS)
def test_examples_pass(target: str) -> None:
    checked = 0
    for name in ("layer_norm", "softmax", "reductions", "cumsum", "rms_norm"):
        kernels = [k for k in vars(example(name)).values() if isinstance(k, Kernel)]
        for kernel in kernels:
            try:
                program = lowered(kernel, target)
            except LanguageError:  # its dimensions are those of arguments
                continue
            assert check_exchanges(program, context(target)) is program
            checked += bool(exchange_buffers(program))
    assert checked


def test_it_stands_behind_the_pass_that_makes_them() -> None:
    assert CHECKS["lower_tiles"] is check_exchanges
