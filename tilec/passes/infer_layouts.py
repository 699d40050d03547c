"""Every tile and every shared buffer gets a layout.

Needs: planned and scheduled loops. Leaves: a register layout on every tile type, a shared layout on
every shared memory type, `variant` on every gemm, `layout` on every Parallel nest, and
`convert_layout` where two ops disagree.

    %x = gemm %a, %b, %acc : tile f32[8, 8]  ->  %x = gemm %a, %b, %acc <variant = [...]> : tile f32[8, 8] #acc

Ops state constraints (layout_constraints.py), the solver of tilec.ir.layout chooses the cheapest
assignment, role by role. Shared layouts follow from who reads the buffer: operands of matrix
instructions are swizzled by the widest span that divides their rows (the same function of addresses
serves ldmatrix, TMA and wgmma), or, where lanes read elements, by the one with the fewest conflicts;
those that MFMA takes by rows of m or n lie in chunks of k (packed_operands.py), which decides the layout
of what fills them; the user's annotation comes first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UNKNOWN, LayoutConflict
from ..ir.core import Block, Op, Program, Value, at, walk
from ..ir.layout import RegisterLayout, SharedLayout, choose_swizzle, quietest_layout, tma_boxes
from ..ir.layout.constraints import Fixed, System, Unsatisfiable
from ..ir.layout.solver import Solution, solve
from ..ir.ops.control import Launch, Parallel, Role, map_launches
from ..ir.ops.gemm import Gemm, Side
from ..ir.ops.memory import Alloc, Slot, memory_type
from ..ir.ops.pipeline import Channel, Get
from ..ir.ops.tile import ConvertLayout, Copy, LoadTile, Splat, StoreTile, Undefined
from ..ir.types import ChannelType, InflightType, MemoryType, Space, TileType, Type
from ..target import Target
from .context import PassContext, Remark
from .dependence import is_shared, is_tile
from .duplicate_splats import splats_duplicated
from .layout_constraints import constraints_of, demand, uses_in, why
from .packed_operands import Packing, buffer_of, packed_operands
from .protocols import PERIOD_BYTES
from .variants import multiplied_dtype, operand_layout, read_by_matrices, variants_of


def infer_layouts(program: Program, context: PassContext) -> Program:
    """Chooses all layouts of every launch."""
    return map_launches(program, lambda launch: _launch(launch, context))


def _launch(launch: Launch, context: PassContext) -> Launch:
    launch = launch.replace(body=splats_duplicated(launch.body))  # type: ignore[assignment]
    packed = packed_operands(launch, context.target)
    shared = _shared_layouts(launch, context.target)
    shared |= {buffer: packing.memory for buffer, packing in packed.items()}
    owners = buffer_of(launch)
    filled = {handle: packed[owner] for handle, owner in owners.items() if owner in packed}
    inference = _Inference(context, shared, filled)
    roles = [op for op in launch.body.ops if isinstance(op, Role)]
    for role in roles:
        inference.solve(role.body, role.threads)
    if not roles:
        inference.solve(launch.body, launch.threads)
    return launch.replace(body=inference.rebuild(launch.body))  # type: ignore[return-value]


# Shared memory


def _shared_layouts(launch: Launch, target: Target) -> dict[Value, SharedLayout]:
    """The layout of every alloc and channel of shared memory, and of every slot of an alloc, by its
    handle. The slots of an alloc are laid out as buffers of their own, one after the other.
    """
    operands = _gemm_operands(launch)
    slots = [op for op in walk(launch.body) if isinstance(op, Slot)]
    made_of = {op.result: op.ring for op in slots}
    rings = set(made_of.values())
    by_tma = [op for op in walk(launch.body) if isinstance(op, Copy) and op.instruction == "tma"]
    filled = {made_of.get(op.destination, op.destination) for op in by_tma}
    stored = {
        made_of.get(op.source, op.source) for op in by_tma if is_shared(op.source)
    }  # written by fragments, whose rows of 16 bytes meet in banks
    found: dict[Value, SharedLayout] = {}
    for op in walk(launch.body):
        if isinstance(op, Alloc) and is_shared(op.result):
            type_ = op.type
        elif isinstance(op, Channel) and isinstance(op.type.memory, MemoryType):
            type_ = op.type.memory
        else:
            continue
        if type_.layout is not None:
            found[op.result] = type_.layout
            continue
        whole = tuple(int(d) for d in type_.shape)
        shape = whole[1:] if op.result in rings else whole
        layout = SharedLayout.row_major(shape)
        if op.result in operands and len(shape) > 1:
            engine = op.result in filled or op.result in stored
            layout = _operand_layout(*operands[op.result], shape, target, engine)
        elif op.result in stored and len(shape) > 1:
            layout = _stored_layout(shape, type_.dtype.bits)
        if op.result in rings:
            layout = layout.stacked(whole[0], PERIOD_BYTES * 8 // type_.dtype.bits)
        found[op.result] = layout
    for slot in slots:
        part = found[slot.ring].part()
        if part is None:
            raise LayoutConflict(
                "TLC0438",
                f"the layout of {slot.ring.hint} does not put its buffers one after the other",
                loc=slot.loc,
                hint="annotate a layout whose outermost stride is a multiple of its swizzle's period",
            )
        found[slot.result] = part
    return found


def _stored_layout(shape: tuple[int, ...], bits: int) -> SharedLayout:
    """The layout of a buffer that TMA stores from: of the widest swizzle, if it has its boxes."""
    layout = _widest(shape, bits)
    return layout if tma_boxes(layout, bits) is not None else SharedLayout.row_major(shape)


def _widest(shape: tuple[int, ...], bits: int) -> SharedLayout:
    return SharedLayout.swizzled(shape, bits, choose_swizzle(shape, bits))


def _gemm_operands(launch: Launch) -> dict[Value, tuple[Gemm, Side, int]]:
    """Allocs and channels that a gemm reads, with the first that does, the operand it is, and how
    many threads do it.
    """
    made_of: dict[Value, Value] = {}
    found: dict[Value, tuple[Gemm, Side, int]] = {}
    for part in launch.body.ops:
        threads = part.threads if isinstance(part, Role) else launch.threads
        for op in part.walk():
            if isinstance(op, (Get, Slot)):
                made_of[op.result] = op.channel if isinstance(op, Get) else op.ring
            elif isinstance(op, Gemm):
                found.setdefault(made_of.get(op.a, op.a), (op, "a", threads))
                found.setdefault(made_of.get(op.b, op.b), (op, "b", threads))
    return found


def _operand_layout(
    gemm: Gemm, side: Side, threads: int, shape: tuple[int, ...], target: Target, by_tma: bool
) -> SharedLayout:
    """The layout of an operand: of the widest swizzle, which is best for whatever reads rows of 16
    bytes; where lanes read elements of fragments, the one under which they meet in banks least.
    """
    matrix = gemm.matrix(side)
    bits = memory_type(matrix.value).dtype.bits
    dtype = multiplied_dtype(gemm, gemm.instruction, target, side)
    if gemm.instruction != "mma" or dtype is None or read_by_matrices(gemm, side, dtype):
        return _widest(shape, bits)
    variants = variants_of(gemm, gemm.instruction, threads, target)
    if math.prod(shape) != matrix.mn * matrix.k or len(shape) != 2 or not variants:
        return _widest(shape, bits)
    access = operand_layout(gemm, variants[0][0], side, dtype.bits)
    return quietest_layout(shape, bits, access, by_tma)


# Tiles


@dataclass
class _Inference:
    """Layouts found so far, and the program rebuilt with them."""

    context: PassContext
    shared: dict[Value, SharedLayout]
    filled: Mapping[Value, Packing]
    """How tiles must lie that are stored through these handles."""

    def __post_init__(self) -> None:
        self.layouts: dict[object, RegisterLayout] = {}
        self.uses: dict[Op, list[tuple[int, Value]]] = {}
        self.variants: dict[Op, tuple[object, ...]] = {}
        self.names: dict[Value, Value] = {}

    def solve(self, block: Block, threads: int) -> None:
        """Adds the solution for one role's block."""
        constraints = (
            *constraints_of(block, threads, self.context),
            *(
                Fixed(op.tile, self.filled[op.destination].registers, why=why(op))
                for op in walk(block)
                if isinstance(op, StoreTile) and op.destination in self.filled
            ),
        )
        if not constraints:
            return
        try:
            solution = solve(System(constraints, self.context.target.warp_size))
        except Unsatisfiable as error:
            places = {why(op): op.loc for op in walk(block)}
            raise LayoutConflict(
                "TLC0406",
                f"{error.first} and {error.second} need different layouts of one tile",
                loc=places.get(error.first.why, UNKNOWN),
                hint="move elements between the two by a T.Parallel nest, or by way of shared memory",
            ) from error
        self.layouts.update(solution.assignments)
        self.uses.update(uses_in(constraints))
        self._note_variants(block, threads, solution)

    def _note_variants(self, block: Block, threads: int, solution: Solution) -> None:
        for op in walk(block):
            if isinstance(op, Gemm):
                for variant, _ in variants_of(op, op.instruction, threads, self.context.target):
                    if str(variant) == solution.choices[op]:
                        self.variants[op] = variant

    # Rebuilding

    def rebuild(self, block: Block) -> Block:
        """The block with types that carry their layouts, and conversions where they are due."""
        params = []
        for param in block.params:
            self.names[param] = Value(self._typed(param), param.hint)
            params.append(self.names[param])
        ops: list[Op] = []
        for op in block.ops:
            with at(op.loc):
                ops.extend(self._op(op))
        return Block(tuple(params), tuple(ops))

    def _typed(self, value: Value) -> Type:
        layout = self.layouts.get(value)
        if layout is not None and isinstance(value.type, TileType):
            return value.type.with_layout(layout)
        if layout is not None and isinstance(value.type, InflightType):
            return InflightType(value.type.tile.with_layout(layout))
        return value.type

    def _op(self, op: Op) -> list[Op]:
        values: dict[str, Any] = {}
        conversions: list[Op] = []
        converted = self._conversions(op, conversions)
        position = 0  # among the op's inputs

        def taken(value: Value) -> Value:
            nonlocal position
            position += 1
            return converted.get(position - 1, self.names.get(value, value))

        for name, kind in op.fields:
            old = getattr(op, name)
            match kind:
                case "operand":
                    values[name] = taken(old)
                case "operands":
                    values[name] = tuple(taken(v) for v in old)
                case "region":
                    values[name] = self.rebuild(old)
                case _:
                    values[name] = old
        values.update(self._attributes(op))
        new = type(op).build(values, op)
        for old_result, result in zip(op.results, new.results, strict=True):
            result.hint = old_result.hint
            if is_tile(old_result):
                result.type = self._typed(old_result)
            self.names[old_result] = result
        return [*conversions, new]

    def _attributes(self, op: Op) -> dict[str, Any]:
        match op:
            case Splat() | LoadTile():
                return {"layout": self.layouts.get(op.result)}
            case Undefined():
                return {"type": self._typed(op.result)}
            case Alloc() if op.result in self.shared:
                return {"type": op.type.with_layout(self.shared[op.result])}
            case Channel():
                memory = op.type.memory
                if isinstance(memory, MemoryType) and memory.space is Space.SHARED:
                    return {
                        "type": ChannelType(
                            memory.with_layout(self.shared[op.result]), op.type.slots
                        )
                    }
                return {"type": ChannelType(self._channel_tile(op), op.type.slots)}
            case Slot():
                return {"layout_of_slot": self.shared[op.result]}
            case Parallel():
                return {"layout": self.layouts.get(("loop", op))}
            case Gemm():
                return {"variant": self.variants[op]}
        return {}

    def _channel_tile(self, channel: Channel) -> TileType:
        """The type of a channel of registers, with the layout of what is sent."""
        tile = channel.type.memory
        assert isinstance(tile, TileType)
        layout = self.layouts.get(channel.result)
        return tile.with_layout(layout) if layout is not None else tile

    def _conversions(self, op: Op, ops: list[Op]) -> dict[int, Value]:
        """Converted operands by position, where what the op demands is not what the value has."""
        converted: dict[int, Value] = {}
        for number, value in self.uses.get(op, ()):
            wanted = self.layouts.get(demand(op, number))
            if wanted is not None and wanted != self.layouts.get(value):
                convert = ConvertLayout(self.names.get(value, value), layout=wanted)
                convert.result.hint = value.hint
                ops.append(convert)
                converted[number] = convert.result
                self.context.remark(
                    Remark(
                        "TLC0410", f"{value.hint or 'a tile'} changes layout for {op.name}", op.loc
                    )
                )
        return converted
