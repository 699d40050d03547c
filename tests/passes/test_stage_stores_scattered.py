"""Stores that threads would scatter go through shared memory past its use, and store the same."""

from __future__ import annotations

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, run, tensor
from tests.passes.planning import found
from tilec.ir.core import Program, walk
from tilec.ir.dtypes import DType, f16, f32, i8
from tilec.ir.layout import RegisterLayout, blocked, mfma, mma_m16n8
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.tile import Copy, Fill, LoadTile, StoreTile
from tilec.ir.types import Space
from tilec.ir.verify import verify
from tilec.passes.context import PassContext, Remark
from tilec.passes.stage_stores import is_scattered, stage_stores
from tilec.target import find_target

MMA = mma_m16n8("c", 16, 16).repeat((2, 1), "thread").repeat((1, 16), "register")  # 32 x 128
MFMA = mfma("c", 32, 32, 8, 16)
SCATTERED = [
    (MMA, 16, 32, True),  # 4 bytes a lane, 16 a row
    (MMA, 32, 32, False),  # 8 bytes a lane, 32 a row: a sector
    (MMA, 8, 32, True),  # 2 bytes a lane
    (MFMA, 16, 64, True),  # 2 bytes a lane
    (MFMA, 32, 64, False),  # 4 bytes a lane, 128 a row
    (blocked((64, 64), 64, 8), 16, 64, False),  # 16 bytes a lane
    (blocked((64, 64), 64, 1), 32, 32, False),  # 4 bytes a lane, 128 a row
]


@pytest.mark.parametrize(("layout", "bits", "warp", "scattered"), SCATTERED)
def test_what_is_scattered(layout: RegisterLayout, bits: int, warp: int, scattered: bool) -> None:
    assert is_scattered(layout, bits, warp) is scattered


def staged(
    layout: RegisterLayout, dtype: DType = f16, *, room: int = 65536, late: bool = False,
    in_loop: bool = False,
) -> tuple[Program, list[Remark]]:  # fmt: skip
    """C = A in registers of `layout`, behind a use of a buffer of `room` bytes (`late`: and before
    another), staged for sm_80; the remarks.
    """
    s = Sketch()
    rows, columns = layout.shape
    a, c = (tensor(x, dtype, rows, columns) for x in "AC")
    with s.launch(1, threads=layout.threads) as _:
        operand = s.shared("operand", f32, room // 4)
        s.emit(Fill(operand, s.const(0.0, f32)))
        at = (s.const(0), s.const(0))
        tile = s.emit(LoadTile(a, at, shape=layout.shape, dims=(0, 1), layout=layout)).result
        store = StoreTile(tile, c, at, dims=(0, 1))
        if in_loop:
            with s.loop(0, 2, hint="turn"):
                s.emit(store)
        else:
            s.emit(store)
        if late:
            s.emit(Fill(operand, s.const(1.0, f32)))
    remarks: list[Remark] = []
    registry = builtin_registry()
    context = PassContext(find_target("cuda:sm_80"), registry, remark=remarks.append)
    program = stage_stores(s.program(a, c), context)
    verify(program, registry)
    return program, remarks


@pytest.mark.parametrize(("dtype", "slabs"), [(f16, 2), (i8, 1)], ids=str)  # of 128 bytes
@pytest.mark.parametrize("room", [65536, 16384, 4096])
def test_every_element_is_stored(room: int, dtype: DType, slabs: int) -> None:
    program, remarks = staged(MMA, dtype, room=room)
    assert not remarks and len(found(program, Copy)) == slabs
    assert len(found(program, Alloc)) == 1 + min(slabs, room // (32 * 128))
    a = np.random.default_rng(room).integers(-99, 99, (32, 128)).astype(dtype.numpy)
    c = np.full_like(a, 100)
    run(program, A=a, C=c)
    assert np.array_equal(a, c)


def test_in_a_loop_a_block_that_is_alone_has_room() -> None:
    """122880 bytes let no other block onto the multiprocessor, 163840 leave less than a slab."""
    program, remarks = staged(MMA, room=122880, in_loop=True)
    assert not remarks and len(found(program, Copy)) == 2 and len(found(program, Alloc)) == 3
    a = np.random.default_rng(2).standard_normal((32, 128)).astype(np.float16)
    c = np.full_like(a, np.nan)
    run(program, A=a, C=c)
    assert np.array_equal(a, c)
    program, remarks = staged(MMA, room=163840, in_loop=True)
    assert not found(program, Copy) and [r.code for r in remarks] == ["TLC0425"]


def test_warps_side_by_side_store_slabs_of_rows() -> None:
    layout = MFMA.repeat((1, 4), "thread").repeat((4, 1), "register")  # 128 x 128
    program, remarks = staged(layout)
    assert not remarks and len(found(program, Copy)) == 2
    stages = [op for op in found(program, Alloc) if "stage" in op.results[0].hint]
    assert [op.type.shape for op in stages if isinstance(op, Alloc)] == [(64, 128)] * 2
    a = np.random.default_rng(1).standard_normal((128, 128)).astype(np.float16)
    c = np.full_like(a, np.nan)
    run(program, A=a, C=c)
    assert np.array_equal(a, c)


def test_all_slabs_that_have_room_are_written_before_the_first_is_copied() -> None:
    program, _ = staged(MMA)
    kinds = [op.name for op in walk(program.body) if isinstance(op, (StoreTile, Copy))]
    assert kinds == ["store_tile", "store_tile", "copy", "copy"]
    narrow, _ = staged(MMA, room=4096)
    kinds = [op.name for op in walk(narrow.body) if isinstance(op, (StoreTile, Copy))]
    assert kinds == ["store_tile", "copy"] * 2


@pytest.mark.parametrize(
    "options", [{"room": 2048}, {"late": True}, {"in_loop": True}], ids=["small", "late", "loop"]
)
def test_without_a_buffer_past_its_use_the_store_is_direct(options: dict[str, int]) -> None:
    program, remarks = staged(MMA, **options)  # type: ignore[arg-type]
    assert len(found(program, StoreTile)) == 1 and not found(program, Copy)
    assert [r.code for r in remarks] == ["TLC0425"]
    assert "no buffer of 4096 bytes is past its use" in remarks[0].message


def test_a_store_that_is_not_scattered_is_left_alone() -> None:
    for layout, dtype in ((MMA, f32), (blocked((32, 128), 64, 8), f16)):
        program, remarks = staged(layout, dtype)
        assert not found(program, Copy) and not remarks


def test_the_buffers_are_shared_and_unmanaged() -> None:
    """Their barriers are place_barriers', their places plan_shared's."""
    program, _ = staged(MMA)
    stages = [op for op in found(program, Alloc) if "stage" in op.results[0].hint]
    assert len(stages) == 2
    for op in stages:
        assert isinstance(op, Alloc) and not op.managed and op.type.space is Space.SHARED
        assert op.type.shape == (32, 64) and op.type.layout is not None
