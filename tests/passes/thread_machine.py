"""Runs flattened thread-level programs of one role in NumPy: all threads of a block in lockstep,
under masks.

It checks what hardware would not forgive: indices outside memory, vectors at addresses that are no
multiple of their size, two threads that store to one element at once, barriers that some threads do
not reach. Asynchronous copies land when they are issued. Memory starts as `garbage`, so that a test
sees what was not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilec.ir.core import Block, Constant, Op, Program, Value
from tilec.ir.dtypes import DType
from tilec.ir.layout import Swizzle
from tilec.ir.ops import amd, arith, control, memory, nvidia, thread
from tilec.ir.types import MemoryType, ScalarType, Space

GARBAGE = 77


class Machine:
    """One launch's machine. `tensors` are by parameter name, changed in place."""

    def __init__(
        self, program: Program, tensors: dict[str, np.ndarray], symbols: dict[str, int]
    ) -> None:
        self.program = program
        self.symbols = symbols
        self.memory: dict[Value, np.ndarray] = {}
        self.scalars: dict[Value, Any] = {}
        self.stored: dict[str, np.ndarray] = {}
        self.names: dict[int, str] = {}
        self.counts: dict[str, int] = {}
        for param in program.params:
            if isinstance(param.type, MemoryType):
                assert tensors[param.hint].flags.c_contiguous
                flat = tensors[param.hint].reshape(-1)
                self.memory[param] = flat
                self.stored[param.hint] = np.zeros(flat.size, int)
                self.names[id(flat)] = param.hint
            else:
                self.scalars[param] = tensors[param.hint]

    def run(self) -> None:
        for op in self.program.body.ops:
            if isinstance(op, control.Launch):
                grid = [int(self.number(v)) for v in op.grid]
                for bz, by, bx in np.ndindex(*reversed(grid)):
                    self._block(op, (bx, by, bz))
            else:
                self._thread(op, np.ones(1, bool))

    def number(self, value: Value) -> Any:
        return np.asarray(
            self.scalars[value] if not isinstance(value, Constant) else value.value
        ).reshape(-1)[0]

    def _block(self, launch: control.Launch, place: tuple[int, int, int]) -> None:
        self.threads = launch.threads
        for param, index in zip(launch.body.params, place, strict=True):
            self.scalars[param] = np.int32(index)
        self.ops(launch.body, np.ones(launch.threads, bool))

    # Values ---------------------------------------------------------------------------------------

    def get(self, value: Value, mask: np.ndarray) -> np.ndarray:
        if isinstance(value, Constant):
            assert isinstance(value.type, ScalarType)
            return np.full(mask.shape, value.value, value.type.dtype.numpy)
        return np.broadcast_to(np.asarray(self.scalars[value]), mask.shape)

    def where(self, predicate: Sequence[Value], mask: np.ndarray) -> np.ndarray:
        for p in predicate:
            mask = mask & self.get(p, mask)
        return mask

    def ops(self, block: Block, mask: np.ndarray) -> Sequence[Value]:
        for op in block.ops:
            if isinstance(op, control.Yield):
                return op.values
            self._thread(op, mask)
        return ()

    def _thread(self, op: Op, mask: np.ndarray) -> None:
        self.counts[op.name] = self.counts.get(op.name, 0) + 1
        handler = getattr(self, "_" + op.name, None)
        if handler is not None:
            handler(op, mask)
        elif isinstance(op, arith.Elementwise):
            with np.errstate(all="ignore"):
                self.scalars[op.result] = np.asarray(
                    op.evaluate(*(self.get(v, mask) for v in op.inputs))
                )
        elif not isinstance(op, (nvidia.CpAsyncCommit, nvidia.CpAsyncWait, thread.WarpSync)):
            raise NotImplementedError(op.name)

    # Structure ------------------------------------------------------------------------------------

    def _for(self, op: control.For, mask: np.ndarray) -> None:
        index = self.get(op.start, mask).copy()
        stop, step = self.get(op.stop, mask), self.get(op.step, mask)
        carried = [self.get(v, mask) for v in op.inits]
        while True:
            active = mask & (index < stop)
            if not active.any():
                break
            self.scalars[op.body.params[0]] = index.copy()
            self.scalars.update(zip(op.body.params[1:], carried, strict=True))
            new = [self.get(v, mask) for v in self.ops(op.body, active)]
            carried = [np.where(active, n, c) for n, c in zip(new, carried, strict=True)]
            index = index + step
        self.scalars.update(zip(op.results, carried, strict=True))

    def _if(self, op: control.If, mask: np.ndarray) -> None:
        condition = self.get(op.condition, mask)
        results = []
        for block, side in ((op.then, mask & condition), (op.orelse, mask & ~condition)):
            values = self.ops(block, side) if side.any() else None
            results.append([self.get(v, mask) for v in values] if values is not None else None)
        for i, result in enumerate(op.results):
            sides = [r[i] if r is not None else None for r in results]
            then = sides[0] if sides[0] is not None else sides[1]
            orelse = sides[1] if sides[1] is not None else sides[0]
            self.scalars[result] = np.where(condition, then, orelse)

    def _thread_id(self, op: control.ThreadId, mask: np.ndarray) -> None:
        self.scalars[op.result] = np.arange(mask.size, dtype=np.int32)

    def _symbol(self, op: control.Symbol, mask: np.ndarray) -> None:
        self.scalars[op.result] = np.int32(self.symbols[op.label])

    def _warp_uniform(self, op: control.WarpUniform, mask: np.ndarray) -> None:
        x = self.get(op.x, mask)
        warps = x[: x.size // 32 * 32].reshape(-1, 32)
        assert (warps == warps[:, :1]).all(), "warp_uniform of a value that varies"
        self.scalars[op.result] = x

    def _barrier(self, op: thread.Barrier, mask: np.ndarray) -> None:
        assert mask.all(), "a barrier that some threads do not reach"

    # Memory ---------------------------------------------------------------------------------------

    def _alloc(self, op: memory.Alloc, mask: np.ndarray) -> None:
        type_ = op.type
        assert len(type_.shape) <= 1, f"{type_} is not flat"
        size = int(type_.shape[0]) if type_.shape else 1
        shape = (mask.size, size) if type_.space is Space.LOCAL else (size,)
        if type_.dtype.kind != "opaque":
            self.memory[op.result] = np.full(shape, GARBAGE, type_.dtype.numpy)

    def _flatten(self, op: memory.Flatten, mask: np.ndarray) -> None:
        self.memory[op.result] = self.memory[op.memory]

    def _make_buffer(self, op: amd.MakeBuffer, mask: np.ndarray) -> None:
        self.memory[op.result] = self.memory[op.memory]

    def _at(self, handle: Value, indices: Sequence[Value], mask: np.ndarray, width: int) -> Any:
        """A selector [active threads, width] of elements of a memory."""
        array = self.memory[handle]
        assert isinstance(handle.type, MemoryType)
        assert len(indices) == len(handle.type.shape) <= 1, (
            f"{len(indices)} indices into {handle.type}"
        )
        active = np.flatnonzero(mask)
        start = (
            self.get(indices[0], mask)[active].astype(np.int64)
            if indices
            else np.zeros(active.size, np.int64)
        )
        size = array.shape[-1]
        assert ((start >= 0) & (start + width <= size)).all(), (
            f"{start} + {width} in {handle!r} of {size}"
        )
        assert (start % width == 0).all(), f"a vector of {width} at {start} of {handle!r}"
        places = start[:, None] + np.arange(width)
        return (active[:, None], places) if array.ndim == 2 else (places,)

    def _read(
        self, handle: Value, indices: Sequence[Value], mask: np.ndarray, width: int
    ) -> np.ndarray:
        return self.memory[handle][self._at(handle, indices, mask, width)]

    def _write(
        self,
        handle: Value,
        indices: Sequence[Value],
        mask: np.ndarray,
        width: int,
        data: np.ndarray,
    ) -> None:
        at = self._at(handle, indices, mask, width)
        array = self.memory[handle]
        if array.ndim == 1:
            assert np.unique(at[0]).size == at[0].size, (
                f"two threads store to one element of {handle!r}"
            )
            if id(array) in self.names:
                np.add.at(self.stored[self.names[id(array)]], at[0], 1)
        array[at] = data

    def _registers(self, array: Value, offset: Value, mask: np.ndarray, count: int) -> Any:
        active = np.flatnonzero(mask)
        start = self.get(offset, mask)[active].astype(np.int64)
        assert (start >= 0).all() and (start + count <= self.memory[array].shape[1]).all(), (
            "registers outside"
        )
        return active[:, None], start[:, None] + np.arange(count)

    def _load(self, op: memory.Load, mask: np.ndarray) -> None:
        allowed = self.where(op.predicate, mask)
        dtype = op.result.type.dtype  # type: ignore[attr-defined]
        result = np.full(mask.shape, op.safe_value, dtype.numpy)
        result[allowed] = self._read(op.memory, op.indices, allowed, 1)[:, 0]
        self.scalars[op.result] = result

    def _store(self, op: memory.Store, mask: np.ndarray) -> None:
        allowed = self.where(op.predicate, mask)
        self._write(op.memory, op.indices, allowed, 1, self.get(op.value, mask)[allowed][:, None])

    def _vector_load(self, op: Any, mask: np.ndarray) -> None:
        predicate = (op.predicate,) if isinstance(op.predicate, Value) else op.predicate
        source = op.buffer if isinstance(op, amd.BufferLoad) else op.memory
        self._check_bytes(source, op.count, predicate)
        allowed = self.where(predicate, mask)
        self.memory[op.registers][self._registers(op.registers, op.offset, mask, op.count)] = 0
        data = self._read(source, op.indices, allowed, op.count)
        self.memory[op.registers][self._registers(op.registers, op.offset, allowed, op.count)] = (
            data
        )

    def _vector_store(self, op: Any, mask: np.ndarray) -> None:
        predicate = (op.predicate,) if isinstance(op.predicate, Value) else op.predicate
        target = op.buffer if isinstance(op, amd.BufferStore) else op.memory
        self._check_bytes(target, op.count, predicate)
        allowed = self.where(predicate, mask)
        data = self.memory[op.registers][
            self._registers(op.registers, op.offset, allowed, op.count)
        ]
        self._write(target, op.indices, allowed, op.count, data)

    _buffer_load, _buffer_store = _vector_load, _vector_store

    def _buffer_copy(self, op: amd.BufferCopy, mask: np.ndarray) -> None:
        """Lane l's bytes go to the wave's place and 16 l further."""
        assert mask.all(), "a wave copies with all its lanes"
        place = np.broadcast_to(self.get(op.destination_indices[0], mask), mask.shape)
        waves = place.reshape(-1, 64)
        assert (waves == waves[:, :1]).all(), "lanes of a wave name different places"
        allowed = self.where((op.predicate,), mask)
        data = np.zeros((mask.size, op.count))
        data[allowed] = self._read(op.buffer, op.indices, allowed, op.count)
        at = (waves + np.arange(64) * op.count).reshape(-1)[:, None] + np.arange(op.count)
        assert np.unique(at).size == at.size, "two lanes copy to one element"
        self.memory[op.destination][at] = data

    def _buffer_copy_wait(self, op: amd.BufferCopyWait, mask: np.ndarray) -> None:
        pass  # copies land at once

    def _check_bytes(self, handle: Value, count: int, predicate: Sequence[Value]) -> None:
        dtype: DType = handle.type.dtype  # type: ignore[attr-defined]
        shared = handle.type.space is Space.SHARED  # type: ignore[attr-defined]
        assert not (shared and predicate), "shared vectors have no predicate"
        assert dtype.bytes * count in (1, 2, 4, 8, 16), f"{count} elements of {dtype} at once"

    def _convert_registers(self, op: thread.ConvertRegisters, mask: np.ndarray) -> None:
        data = self.memory[op.source][self._registers(op.source, op.source_offset, mask, op.count)]
        at = self._registers(op.destination, op.destination_offset, mask, op.count)
        self.memory[op.destination][at] = data.astype(self.memory[op.destination].dtype)

    def _fill_registers(self, op: thread.FillRegisters, mask: np.ndarray) -> None:
        at = self._registers(op.registers, op.offset, mask, op.count)
        self.memory[op.registers][at] = self.get(op.value, mask)[mask][:, None]

    # NVIDIA ---------------------------------------------------------------------------------------

    def _cp_async(self, op: nvidia.CpAsync, mask: np.ndarray) -> None:
        width = op.size // op.source.type.dtype.bytes  # type: ignore[attr-defined]
        mask = self.where(op.enabled, mask)
        allowed = self.where(op.predicate, mask)
        zeros = np.zeros((int(mask.sum()), width))
        self._write(op.destination, op.destination_indices, mask, width, zeros)
        data = self._read(op.source, op.source_indices, allowed, width)
        self._write(op.destination, op.destination_indices, allowed, width, data)

    def _rows(self, op: Any, mask: np.ndarray) -> np.ndarray:
        """Element offsets [warps, matrices, row, column] of the 8x8 matrices whose rows the lanes
        give.
        """
        assert mask.all(), "matrices are moved by whole warps"
        given = (*op.indices, *getattr(op, "lane", ()))
        index = sum(self.get(v, mask).astype(np.int64) for v in given)
        start = np.broadcast_to(index, mask.shape).reshape(-1, 32)[:, : 8 * op.matrices]
        assert (start % 8 == 0).all(), "a row of a matrix is 16 bytes, aligned"
        return start.reshape(-1, op.matrices, 8, 1) + np.arange(8)

    def _lanes(self, op: Any, mask: np.ndarray) -> tuple[Any, Any]:
        """(threads, registers) of element [warp, matrix, row, column] of the matrices."""
        at = self._registers(op.registers, op.offset, mask, 2 * op.matrices)
        first = at[1][:, 0].reshape(-1, 32)
        warp, matrix, row, column = np.indices((first.shape[0], op.matrices, 8, 8))
        lane = row * 4 + column // 2
        return warp * 32 + lane, first[warp, lane] + matrix * 2 + column % 2

    def _ldmatrix(self, op: nvidia.LdMatrix, mask: np.ndarray) -> None:
        data = self.memory[op.memory][self._rows(op, mask)]
        self.memory[op.registers][self._lanes(op, mask)] = (
            data.swapaxes(-1, -2) if op.transposed else data
        )

    def _mma(self, op: nvidia.Mma, mask: np.ndarray) -> None:
        """mma.m16n8k16 of 16-bit operands: the fragments of PTX ISA, "Matrix fragments"."""
        assert mask.all() and (op.m, op.n, op.k) == (16, 8, 16)
        warp, lane, e = np.indices((mask.size // 32, 32, 8))
        a, b, c = np.zeros((len(warp), 16, 16)), np.zeros((len(warp), 8, 16)), slice(0, 4)
        row, column = lane // 4 + e // 2 % 2 * 8, lane % 4 * 2 + e % 2 + e // 4 * 8
        at = [
            self._registers(memory, offset, mask, count)
            for memory, offset, count in (
                (op.a, op.a_offset, 8), (op.b, op.b_offset, 4),
                (op.accumulator, op.accumulator_offset, 4),
            )
        ]  # fmt: skip
        a[warp, row, column] = self.memory[op.a][at[0]].reshape(warp.shape)
        other = (warp[..., c], lane[..., c] // 4, (lane % 4 * 2 + e % 2 + e // 2 * 8)[..., c])
        b[other] = self.memory[op.b][at[1]].reshape(warp[..., c].shape)
        product = np.einsum("wmk,wnk->wmn", a, b)[warp[..., c], row[..., c], column[..., c]]
        self.memory[op.accumulator][at[2]] += product.reshape(at[2][0].shape[0], 4)

    def _stmatrix(self, op: nvidia.StMatrix, mask: np.ndarray) -> None:
        data = self.memory[op.registers][self._lanes(op, mask)]
        self.memory[op.memory][self._rows(op, mask)] = (
            data.swapaxes(-1, -2) if op.transposed else data
        )

    def _tensor_map(self, op: nvidia.TensorMap, mask: np.ndarray) -> None:
        self.scalars[op.result] = 0
        self.__dict__.setdefault("maps", {})[op.result] = op

    def _box(self, op: Any, handle: Value, indices: Sequence[Value], mask: np.ndarray) -> Any:
        """(tensor offsets, which are inside, shared offsets) of the elements of a box."""
        assert mask.sum() == 1, "the copy engine is fed by one thread"
        description: nvidia.TensorMap = self.__dict__["maps"][op.tensor_map]
        type_ = description.memory.type
        assert isinstance(type_, MemoryType)
        lane = int(np.flatnonzero(mask)[0])
        start = [int(self.get(c, mask)[lane]) for c in reversed(op.coordinates)]
        extents = [d if isinstance(d, int) else self.symbols[d] for d in type_.shape]
        inner = np.indices(description.box).reshape(len(extents), -1)
        at = inner + np.asarray(start)[:, None]
        inside = ((at >= 0) & (at < np.asarray(extents)[:, None])).all(axis=0)
        offsets = np.ravel_multi_index(np.where(inside, at, 0), extents)
        base = int(self.get(indices[0], mask)[lane])
        linear = base + np.arange(inner.shape[1])
        span = Swizzle.for_bytes(description.swizzle, type_.dtype.bits)
        assert (linear < self.memory[handle].size).all(), "a box outside shared memory"
        return self.memory[description.memory], offsets, inside, span.apply(linear)

    def _tma_load(self, op: nvidia.TmaLoad, mask: np.ndarray) -> None:
        tensor, offsets, inside, linear = self._box(
            op, op.destination, op.destination_indices, mask
        )
        self.memory[op.destination][linear] = np.where(inside, tensor[offsets], 0)

    def _tma_store(self, op: nvidia.TmaStore, mask: np.ndarray) -> None:
        tensor, offsets, inside, linear = self._box(op, op.source, op.source_indices, mask)
        tensor[offsets[inside]] = self.memory[op.source][linear][inside]
