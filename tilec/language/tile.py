"""Tile statements: `T.copy`, `T.fill`, `T.clear`, `T.gemm`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from ..errors import LanguageError
from ..ir.build import scalar
from ..ir.core import Block, Value, constant
from ..ir.dtypes import i32
from ..ir.ops.arith import Add, Not
from ..ir.ops.control import For, Parallel, Yield
from ..ir.ops.memory import Load, Store
from ..ir.ops.tile import Copy, Fill, Gemm
from ..ir.types import Space
from .arithmetic import truth
from .buffers import Buffer, Element, Slice, index_value, stored_value
from .linear import difference
from .operand import Operand, convert, value_of
from .trace import Trace, current


@dataclass(frozen=True)
class Area:
    """One side of a copy. `extents` is None for an element, which is a start address."""

    buffer: Buffer
    indices: tuple[Value, ...]
    extents: tuple[int, ...] | None
    bits: bool = False  # the bits of elements are moved, whatever they mean

    @property
    def memory(self) -> Value:
        return self.buffer.handle(bits=self.bits)

    @property
    def kept(self) -> tuple[int, ...]:
        """The dimensions along which it has more than one element."""
        return tuple(d for d, n in enumerate(self.extents or ()) if n != 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents along those."""
        return tuple((self.extents or ())[d] for d in self.kept)


def _area(trace: Trace, what: str, x: Any) -> Area:
    if isinstance(x, Element):
        return Area(x.buffer, x.indices, None)
    if isinstance(x, Buffer):
        zeros = tuple(constant(0, i32) for _ in x.type.shape)
        extents = tuple(_static(x, dim) for dim in x.type.shape)
        return Area(x, zeros, extents)
    if isinstance(x, Slice):
        return _slice_area(trace, x)
    raise LanguageError(
        "TLC0117",
        f"{what} takes a buffer, a region of one or an element of one, not {x!r}",
    )


def _static(buffer: Buffer, dim: int | str) -> int:
    if isinstance(dim, int):
        return dim
    raise LanguageError(
        "TLC0117",
        f"the extent {dim} of {buffer.label} is known only at run time: a tile has a fixed shape",
        hint=f"give the start, {buffer.name or 'A'}[i, j], and the other side gives the extents",
    )


def _slice_area(trace: Trace, region: Slice) -> Area:
    indices: list[Value] = []
    extents: list[int] = []
    buffer = region.buffer
    for d, (key, dim) in enumerate(zip(region.keys, buffer.type.shape, strict=True)):
        if not isinstance(key, slice):
            indices.append(index_value(buffer, d, key))
            extents.append(1)
            continue
        if key.step is not None and not (isinstance(key.step, int) and key.step == 1):
            raise LanguageError("TLC0117", f"a slice of {buffer.label} has a step")
        start = index_value(buffer, d, 0 if key.start is None else key.start)
        indices.append(start)
        extents.append(_extent(trace, buffer, d, dim, start, key.stop))
    return Area(buffer, tuple(indices), tuple(extents))


def _extent(
    trace: Trace, buffer: Buffer, dimension: int, dim: int | str, start: Value, stop: Any
) -> int:
    if stop is None:
        last: Value = value_of(_static(buffer, dim))
    else:
        last = convert(value_of(stop), i32)
    extent = difference(last, start, trace.definitions)
    if extent is None:
        raise LanguageError(
            "TLC0117",
            f"the extent of the slice in dimension {dimension} of {buffer.label} is not a "
            "compile-time number",
            hint="write it as [start : start + extent]",
        )
    if extent < 1:
        raise LanguageError("TLC0117", f"a slice of {buffer.label} has an extent of {extent}")
    if isinstance(dim, int) and extent > dim and buffer.type.space is not Space.GLOBAL:
        raise LanguageError("TLC0116", f"a slice of {extent} elements of {buffer.label}: {dim}")
    return extent


def _from_other(what: str, area: Area, other: Area) -> Area:
    """An element as the area of the other side's extents, aligned from the last dimension. Those
    of 1 count, A[i, j] for a tile of (8, 1) being a column, unless there are too many dimensions.
    """
    rank = len(area.indices)
    shape = other.extents or (1,)
    if len(shape) > rank:
        shape = other.shape or (1,)
    if len(shape) > rank:
        raise LanguageError(
            "TLC0117",
            f"{what} of {len(shape)} dimensions {_times(shape)} to or from an element of "
            f"{area.buffer.label}, which has {rank}",
        )
    return Area(area.buffer, area.indices, (1,) * (rank - len(shape)) + shape)


def _times(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(n) for n in shape) + ")"


def paired_areas(trace: Trace, what: str, src: Any, dst: Any) -> tuple[Area, Area]:
    """Both sides of a move, an element being given the extents of the other side."""
    source, target = _area(trace, what, src), _area(trace, what, dst)
    if source.extents is None and target.extents is None:
        raise LanguageError(
            "TLC0117",
            f"{what} between two elements has no extent",
            hint="give a buffer or a slice on one side, or assign the element",
        )
    if source.extents is None:
        source = _from_other(what, source, target)
    elif target.extents is None:
        target = _from_other(what, target, source)
    if source.shape != target.shape:
        raise LanguageError(
            "TLC0117",
            f"{what} of {_times(source.extents or ())} from {source.buffer.label} to "
            f"{_times(target.extents or ())} of {target.buffer.label}",
            hint="dimensions of extent 1 aside, both sides must have the same shape",
        )
    return source, target


def copy(
    src: Any,
    dst: Any,
    *,
    coalesced_width: int | None = None,
    disable_tma: bool = False,
    eviction_policy: str | None = None,
    prefer_instruction: str | None = None,
    annotations: Any = None,
    loop_layout: Any = None,
) -> None:
    """Copies a tile between two memories, converting the dtype.

    Args:
        src, dst: a buffer, a region `A[i : i + 64, k]`, or an element `A[i, j]` as the start
            address, the other side giving the extents. Dimensions of extent 1 are skipped where the
            two sides, or the start address and the extents, have not as many.
        coalesced_width, disable_tma, eviction_policy, prefer_instruction: hints on how it is done;
            they change no result, and tilec decides by itself.

    Raises:
        LanguageError: shapes that differ, an extent that is not a compile-time number.
    """
    trace = current("T.copy")
    if annotations or loop_layout is not None:
        raise LanguageError("TLC0117", "T.copy takes no annotations and no loop_layout")
    trace.need_launch("T.copy")
    with trace.here():
        source, target = paired_areas(trace, "T.copy", src, dst)
        if source.buffer.elements == target.buffer.elements:
            source, target = replace(source, bits=True), replace(target, bits=True)
        if Space.LOCAL in (source.buffer.type.space, target.buffer.type.space):
            _copy_by_thread(trace, source, target)
            return
        trace.need_tile_level("T.copy")
        if Space.FRAGMENT in (source.buffer.type.space, target.buffer.type.space):
            _copy_fragment(trace, source, target)
        else:
            _emit_copy(
                trace,
                source,
                target,
                source.shape or (1,),
                source.kept or (len(source.indices) - 1,),
                target.kept or (len(target.indices) - 1,),
            )


def _emit_copy(
    trace: Trace,
    source: Area,
    target: Area,
    shape: tuple[int, ...],
    source_dims: tuple[int, ...],
    target_dims: tuple[int, ...],
) -> None:
    trace.builder.emit(
        Copy(
            source.memory,
            source.indices,
            target.memory,
            target.indices,
            (),
            shape=shape,
            source_dims=source_dims,
            destination_dims=target_dims,
            safe_value=trace.safe_value(source.memory),
        )
    )


def _copy_fragment(trace: Trace, source: Area, target: Area) -> None:
    """A copy of a fragment, all of whose dimensions take part, those of extent 1 too: of a region
    of the same rank, or element by element.
    """
    if source.extents == target.extents:
        dims = tuple(range(len(source.indices)))
        _emit_copy(trace, source, target, source.extents or (), dims, dims)
        return
    whole = [
        len(area.kept) == len(area.indices)
        for area in (source, target)
        if area.buffer.type.space is Space.FRAGMENT
    ]
    if all(whole):
        _emit_copy(trace, source, target, source.shape, source.kept, target.kept)
        return
    each_in_parallel(
        trace, source.shape, lambda indices: _move_element(trace, source, target, indices)
    )


def _move_element(trace: Trace, source: Area, target: Area, indices: tuple[Value, ...]) -> None:
    """One element of a copy, converted."""
    safe = trace.safe_value(source.memory)
    op = Load(source.memory, shifted(trace, source, indices), safe_value=safe)
    value = convert(trace.builder.emit(op).result, target.buffer.type.dtype)
    trace.builder.emit(Store(value, target.memory, shifted(trace, target, indices)))


def _copy_by_thread(trace: Trace, source: Area, target: Area) -> None:
    """A copy that each thread does for itself, element by element."""
    for area in (source, target):
        if area.buffer.type.space is Space.FRAGMENT:
            raise LanguageError("TLC0119", "T.copy between a fragment and a thread's own memory")

    each_in_series(
        trace, source.shape, lambda indices: _move_element(trace, source, target, indices)
    )


def shifted(trace: Trace, area: Area, offsets: tuple[Value, ...]) -> tuple[Value, ...]:
    """The indices of the element of an area at `offsets` along its `shape`."""
    indices = list(area.indices)
    for d, offset in zip(area.kept, offsets, strict=True):
        indices[d] = trace.pure(Add(indices[d], convert(offset, i32)))
    return tuple(indices)


def each_in_series(
    trace: Trace, shape: tuple[int, ...], body: Callable[[tuple[Value, ...]], None]
) -> None:
    """`body` for every index of `shape`, in serial loops of a thread."""

    def level(indices: tuple[Value, ...]) -> None:
        if len(indices) == len(shape):
            body(indices)
            return
        index = scalar(i32, "ijkl"[len(indices)] if len(indices) < 4 else "i")
        with trace.builder.region() as ops:
            level((*indices, index))
        bounds = (constant(0, i32), constant(shape[len(indices)], i32), constant(1, i32))
        trace.builder.emit(For(*bounds, (), Block((index,), (*ops, Yield(())))))

    level(())


def fill(buffer: Any, value: Any) -> None:
    """Sets every element of a buffer, or of a region of one, to `value`.

    Raises:
        LanguageError: no buffer, or an extent that is known only at run time.
    """
    trace = current("T.fill")
    trace.need_launch("T.fill")
    with trace.here():
        area = _area(trace, "T.fill", buffer)
        stored = stored_value(value, area.buffer.elements)
        area = replace(area, bits=True)
        if area.extents is None:
            raise LanguageError(
                "TLC0117", "T.fill of one element", hint="assign it: A[i, j] = value"
            )

        def write(indices: tuple[Value, ...]) -> None:
            trace.builder.emit(Store(stored, area.memory, shifted(trace, area, indices)))

        if area.buffer.type.space is Space.LOCAL:
            each_in_series(trace, area.shape, write)
            return
        trace.need_tile_level("T.fill")
        if isinstance(buffer, Buffer):
            trace.builder.emit(Fill(area.memory, stored))
            return
        each_in_parallel(trace, area.shape, write)


def each_in_parallel(
    trace: Trace, shape: tuple[int, ...], body: Callable[[tuple[Value, ...]], None]
) -> None:
    """`body` for every index of `shape`, in a Parallel nest."""
    extents = shape or (1,)
    indices = tuple(scalar(i32, name) for name, _ in zip("ijklmnop", extents, strict=False))
    with trace.builder.region() as ops:
        body(indices if shape else ())
    trace.builder.emit(Parallel((), (), Block(indices, (*ops, Yield(()))), extents=extents))


def clear(buffer: Any) -> None:
    """Sets every element of a buffer, or of a region of one, to 0."""
    fill(buffer, 0)


class GemmWarpPolicy(Enum):
    """How T.gemm divides its result among the warps."""

    Square = "square"
    FullRow = "full_row"
    FullCol = "full_col"


def gemm(
    A: Any,
    B: Any,
    C: Any,
    transpose_A: bool = False,
    transpose_B: bool = False,
    policy: GemmWarpPolicy = GemmWarpPolicy.Square,
    clear_accum: Any = False,
    k_pack: int = 1,
    mbar: Any = None,
) -> None:
    """C += op(A) @ op(B), done when it returns.

    Args:
        A: shared memory or fragment (M, K), or (K, M) with `transpose_A`.
        B: shared memory or fragment (K, N), or (N, K) with `transpose_B`.
        C: fragment (M, N).
        policy: the warps as a square, or all along the rows or the columns of C.
        clear_accum: start from zero instead of C; may be a condition of the kernel.
        k_pack: a hint of other compilers on packing along K; it changes no result.

    Raises:
        LanguageError: an argument of another kind.
        TypeMismatch: shapes or dtypes that do not fit.
    """
    trace = current("T.gemm")
    trace.need_tile_level("T.gemm")
    with trace.here():
        for name, x in (("A", A), ("B", B), ("C", C)):
            _check_matrix(name, x)
        a, b = A.type.dtype, B.type.dtype
        if a != b:
            raise LanguageError("TLC0131", f"T.gemm of {a} and {b}", hint="convert one of them")
        if not isinstance(policy, GemmWarpPolicy):
            raise LanguageError("TLC0131", f"T.gemm with policy={policy!r}")
        if mbar is not None:
            raise LanguageError("TLC0131", "T.gemm takes no barrier: it is done when it returns")
        keep: tuple[Value, ...] = ()
        if isinstance(clear_accum, Operand):
            keep = (trace.pure(Not(truth(clear_accum))),)
            clear_accum = False
        trace.builder.emit(
            Gemm(
                A.handle(),
                B.handle(),
                C.handle(),
                keep,
                transpose_a=bool(transpose_A),
                transpose_b=bool(transpose_B),
                clear=bool(clear_accum),
                policy=policy.value,
            )
        )


def _check_matrix(name: str, x: Any) -> None:
    spaces = (Space.FRAGMENT,) if name == "C" else (Space.FRAGMENT, Space.SHARED)
    wanted = "a fragment" if name == "C" else "shared memory or a fragment"
    if not isinstance(x, Buffer):
        raise LanguageError("TLC0131", f"{name} of T.gemm is {x!r}, and must be {wanted}, whole")
    if x.type.space not in spaces:
        raise LanguageError(
            "TLC0131", f"{name} of T.gemm is {x.label} in {x.scope()} memory, and must be {wanted}"
        )
