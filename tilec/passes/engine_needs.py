"""What wgmma and TMA ask of a gemm and of a copy: the reason, in the user's names, where they cannot.

A gemm needs a wgmma of its dtypes, an operand B in shared memory, a split over whole warpgroups,
registers for its accumulator and operands that descriptors can address. A copy needs boxes: a tensor
of aligned rows, a region of whole rows of 16 bytes, a buffer that it fills, or of which it fills whole
rows, and whose layout boxes write.
"""

from __future__ import annotations

from ..ir.core import Value, constant_of
from ..ir.layout import SharedLayout, WgmmaOperand, choose_swizzle, tma_boxes
from ..ir.ops.gemm import SIDES, Gemm
from ..ir.ops.memory import memory_type
from ..ir.ops.nvidia import ASYNC_BYTES, WARPGROUP
from ..ir.ops.tile import Copy, StoreTile
from ..ir.types import MemoryType
from ..target import Target
from .context import PassContext
from .matrix_operands import descriptors_of
from .role_registers import wgmma_registers
from .value_ranges import ValueRanges
from .variants import REGISTER_BITS, accumulator_type, gemm_shape, is_converted, variants_of
from .vector_access import is_aligned, is_zeros, rows_of

BOX = 256  # most elements of a TMA box along one dimension
BOX_ROWS = 8  # of which a part of a box is a multiple
BESIDE = 32  # registers of a consumer beside its accumulator, at least


def dtypes_of(gemm: Gemm) -> str:
    """The dtypes of a gemm in words."""
    operands = " and ".join(dict.fromkeys(str(gemm.dtype_of(side)) for side in SIDES))
    return f"{operands} into {accumulator_type(gemm).dtype}"


def gemm_refusal(
    gemm: Gemm, threads: int, registers: int, target: Target, ranges: ValueRanges
) -> str:
    """Why wgmma cannot do a gemm of `threads` threads that have `registers` each; empty if it can."""
    if is_converted(gemm, "wgmma", target):
        return f"there is no wgmma of {dtypes_of(gemm)}"
    if gemm.scales:
        return "there is no wgmma with scales"
    if not isinstance(gemm.b.type, MemoryType):
        return "operand B of a gemm is in registers, and wgmma reads it from shared memory"
    m, n, k = gemm_shape(gemm)
    if not variants_of(gemm, "wgmma", threads, target):
        return f"wgmma cannot split {m} x {n} x {k} over {threads // WARPGROUP} warpgroups"
    held = m * n * accumulator_type(gemm).dtype.bits // (REGISTER_BITS * threads)
    if held > registers - BESIDE:
        return (
            f"a tile of {m} x {n} needs {held} accumulators a thread, and {threads} threads have "
            f"{registers} registers each"
        )
    return _layout_refusal(gemm, ranges)


def _layout_refusal(gemm: Gemm, ranges: ValueRanges) -> str:
    """Why wgmma cannot read an operand in its order, in the layout that the program gives its
    memory, or from where it starts.
    """
    for side in SIDES:
        matrix = gemm.matrix(side)
        type_ = matrix.value.type
        if not isinstance(type_, MemoryType):
            continue
        shape, bits = tuple(int(d) for d in type_.shape), type_.dtype.bits
        layout = type_.layout or SharedLayout.swizzled(shape, bits, choose_swizzle(shape, bits))
        found = descriptors_of(matrix, layout, ranges.is_multiple)
        if not isinstance(found, WgmmaOperand):
            return f"wgmma cannot read operand {side.upper()} of a gemm: {found}"
    return ""


def tma_refusal(
    op: Copy | StoreTile,
    tensor: Value,
    dims: tuple[int, ...],
    shape: tuple[int, ...],
) -> str:
    """Why TMA cannot move a region of `shape` along `dims` of a tensor, wherever that lies; empty if
    it can.
    """
    type_ = memory_type(tensor)
    name = tensor.hint
    if len(type_.shape) > 5:
        return f"{name} has more than 5 dimensions"
    if dims[-1] != len(type_.shape) - 1:
        return f"the region's last dimension is not the contiguous one of {name}"
    if any(extent % -(-extent // BOX) for extent in shape[:-1] if extent):
        return f"a region of {name} has more than {BOX} rows, which are not whole boxes"
    if shape[-1] * type_.dtype.bytes % ASYNC_BYTES:
        return f"a row of the region of {name} is not a multiple of {ASYNC_BYTES} bytes"
    if isinstance(op, Copy):
        buffer = memory_type(op.destination if tensor is op.source else op.source)
        if buffer.dtype != type_.dtype:
            return f"the copy of {name} converts {type_.dtype} to {buffer.dtype}"
        if not is_zeros(op.safe_value):
            return f"{name} has a safe value other than 0"
        if op.shape != buffer.shape and not (tensor is op.source and _fills_rows(op)):
            return f"the copy of {name} fills a part of its buffer"
        boxes = tma_boxes(buffer.layout, type_.dtype.bits) if buffer.layout is not None else None
        if buffer.layout is not None and (boxes is None or boxes.part(op.shape) is None):
            return f"TMA cannot write the layout that the program gives the buffer of {name}"
    if not type_.unit_stride:
        return f"the elements of a row of {name} do not lie side by side"
    return ""


def _fills_rows(load: Copy) -> bool:
    """Whether a load fills whole rows of its buffer, from a row on with which a box can begin: after eight
    rows every swizzle repeats. All rows are those of one box, of which it takes a part.
    """
    type_ = memory_type(load.destination)
    *outer, height, _ = (int(d) for d in type_.shape) if len(type_.shape) > 1 else (1, 1)
    starts = [constant_of(i) for i in load.destination_indices]
    whole = (*type_.shape[:-2], load.shape[-2], type_.shape[-1]) if len(load.shape) > 1 else ()
    if load.shape != whole or None in starts or any(n > 1 for n in outer) or height > BOX:
        return False
    *others, start, column = (int(s or 0) for s in starts)
    return not any((*others, column)) and start % load.shape[-2] == load.shape[-2] % BOX_ROWS == 0


def entry_refusal(gemm: Gemm, threads: int, start: int, target: Target) -> str:
    """Why the wgmma that `threads` threads would use cannot stand in a kernel whose threads have `start`
    registers when they begin; empty if it can.
    """
    variants = variants_of(gemm, "wgmma", threads, target)
    columns = variants[0][0][2] if variants else 0
    needed = wgmma_registers(columns)
    if needed <= start:
        return ""
    return f"a wgmma of {columns} columns needs {needed} registers when threads start, and they have {start}"


def alignment_refusal(tensor: Value, context: PassContext) -> str:
    """Why TMA cannot take a tensor from wherever an argument may lie; empty where arguments lie as
    it needs them, which becomes a fact of the launch.
    """
    if is_aligned(tensor, ASYNC_BYTES, context):
        return ""
    return f"{tensor.hint} may be aligned to less than {ASYNC_BYTES} bytes"


def require_aligned(tensor: Value, context: PassContext) -> str:
    """Makes the alignment that TMA needs a fact of every variant of the launch; why it cannot be
    one, or empty.
    """
    type_ = memory_type(tensor)
    for extent in rows_of(type_):
        if isinstance(extent, int) and extent * type_.dtype.bytes % ASYNC_BYTES:
            return f"rows of {tensor.hint} are not multiples of {ASYNC_BYTES} bytes"
    context.facts.require_aligned(tensor.hint, ASYNC_BYTES)
    return ""


def start_refusal(tensor: Value, indices: tuple[Value, ...], ranges: ValueRanges) -> str:
    """Why TMA cannot begin a box there: an H100 takes a start within a row that is no multiple of
    16 bytes for an illegal instruction (tests/backends/test_probe_hopper.py).
    """
    if not ranges.is_multiple(indices[-1], ASYNC_BYTES // memory_type(tensor).dtype.bytes):
        return f"a region of {tensor.hint} may start inside {ASYNC_BYTES} bytes of a row"
    return ""
