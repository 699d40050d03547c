"""How a tile lies in the registers of a group of threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from .factors import Entry, Factors, Label, label, number, validate
from .term import BoolArray, IntArray, Term


class Digit(NamedTuple):
    """One mode: `extent` values, worth `scale` along `dim` and `stride` in `source`."""

    dim: int
    extent: int
    scale: int
    source: Literal["thread", "register"]
    stride: int
    top: bool
    """Whether it is the most significant digit of its source."""


@dataclass(frozen=True, slots=True)
class RegisterLayout:
    """A map from (thread, register) to the coordinates of a tile.

    Every dimension is factored into modes, outermost first, and the modes of all dimensions are
    numbered in one sequence. A thread index is a number in mixed radix whose digits, most
    significant first, are the modes listed in `thread`; a register index likewise for `reg`. An
    entry -n of `thread` is a digit of extent n on which no coordinate depends: n copies.

    | layout | shape | modes | thread | reg |
    |---|---|---|---|---|
    | accumulator of mma.m16n8, 32 threads x 4 registers | 16, 8 | (2, 8), (4, 2) | 1, 2 | 0, 3 |
    | accumulator of a 16x16 MFMA, 64 x 4 | 16, 16 | (4, 4), (16) | 0, 2 | 1 |
    | one row of 64 in 32 threads, twice | 64 | (32, 2) | -2, 0 | 1 |

    Layouts are kept in lowest terms (no mode of extent 1, none that could join its neighbour), so
    two layouts are equal exactly when they are the same map. `coords` is the meaning; everything
    else is a shortcut that the tests compare with it.

    Raises:
        ValueError: the fields do not describe a layout.
    """

    shape: tuple[int, ...]
    modes: tuple[tuple[int, ...], ...]
    thread: tuple[int, ...]
    reg: tuple[int, ...]

    def __post_init__(self) -> None:
        validate(self.shape, self.modes, self.thread, self.reg)
        modes, thread, reg = number(label(self.modes, self.thread, self.reg))
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "modes", modes)
        object.__setattr__(self, "thread", thread)
        object.__setattr__(self, "reg", reg)

    @classmethod
    def of_factors(cls, factors: Factors) -> RegisterLayout:
        """The layout of labelled factors."""
        shape = tuple(math.prod(factors.extents[x] for x in dim) for dim in factors.dims)
        return cls(shape, *number(factors))

    def factors(self, prefix: Label = ()) -> Factors:
        """The layout as labelled factors, for rearranging."""
        return label(self.modes, self.thread, self.reg, prefix)

    # Sizes

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements of the tile."""
        return math.prod(self.shape)

    @property
    def threads(self) -> int:
        """The number of threads that hold the tile."""
        flat = self._extents()
        return math.prod(-m if m < 0 else flat[m] for m in self.thread)

    @property
    def registers(self) -> int:
        """The number of elements that each thread holds."""
        flat = self._extents()
        return math.prod(flat[m] for m in self.reg)

    @property
    def replication(self) -> int:
        """The number of threads that hold each element."""
        return math.prod(-m for m in self.thread if m < 0)

    def _extents(self) -> tuple[int, ...]:
        return tuple(extent for dim in self.modes for extent in dim)

    # Meaning

    def coords(self) -> IntArray:
        """The coordinates of each register of each thread: int [threads, registers, rank].

        The array is shared and read-only.
        """
        return _coords(self)

    def digits(self, dim: int) -> tuple[Digit, ...]:
        """The modes of a dimension, outermost first."""
        return tuple(digit for digit in _digits(self) if digit.dim == dim % self.rank)

    def coordinate_terms(self, dim: int) -> tuple[Term, ...]:
        """Terms over "thread" and "register" whose sum is the coordinate along `dim`."""
        return tuple(
            Term(d.source, d.stride, None if d.top else d.extent, d.scale) for d in self.digits(dim)
        )

    def thread_terms(self) -> tuple[Term, ...]:
        """Terms over coordinates whose sum is the first thread (replica 0) that holds them."""
        return self._owner_terms("thread")

    def register_terms(self) -> tuple[Term, ...]:
        """Terms over coordinates whose sum is the register that holds them."""
        return self._owner_terms("register")

    def _owner_terms(self, source: Literal["thread", "register"]) -> tuple[Term, ...]:
        digits = [digit for digit in _digits(self) if digit.source == source]
        return tuple(
            Term(
                d.dim,
                d.scale,
                None if d.scale * d.extent == self.shape[d.dim] else d.extent,
                d.stride,
            )
            for d in sorted(digits, key=lambda digit: -digit.stride)
        )

    def replica_terms(self) -> tuple[Term, ...]:
        """Terms over "thread" whose sum is the replica; none where nothing is replicated.

        Only threads of replica 0 need to store.
        """
        replica = self.replication
        stride = self.threads
        terms = []
        flat = self._extents()
        for position, entry in enumerate(self.thread):
            extent = -entry if entry < 0 else flat[entry]
            stride //= extent
            if entry < 0:
                replica //= extent
                terms.append(Term("thread", stride, extent if position else None, replica))
        return tuple(terms)

    def is_primary(self) -> BoolArray:
        """Which threads hold replica 0: bool [threads]."""
        threads = np.arange(self.threads, dtype=np.int64)
        return np.asarray(_total(self.replica_terms(), threads) == 0)

    def owner(self, coords: IntArray) -> tuple[IntArray, IntArray]:
        """The first thread and the register that hold each coordinate: [..., rank] to [...]."""
        zero = np.zeros(coords.shape[:-1], dtype=np.int64)
        thread, register = zero.copy(), zero.copy()
        for terms, out in ((self.thread_terms(), thread), (self.register_terms(), register)):
            for term in terms:
                assert isinstance(term.source, int)
                out += term.value(coords[..., term.source])
        return thread, register

    def contains(self, other: RegisterLayout) -> bool:
        """Whether every thread holds, here, all the elements that it holds in `other`."""
        if self.shape != other.shape or self.threads != other.threads:
            return False
        home, _ = self.owner(other.coords())
        threads = np.arange(self.threads, dtype=np.int64)
        own = _total(self._thread_digits(), threads)
        return bool(np.array_equal(home, np.broadcast_to(own[:, None], home.shape)))

    def _thread_digits(self) -> tuple[Term, ...]:
        """Terms over "thread": the thread with its replication digits at zero."""
        return tuple(
            Term("thread", d.stride, None if d.top else d.extent, d.stride)
            for d in _digits(self)
            if d.source == "thread"
        )

    def vector_width(self, dim: int = -1) -> int:
        """The longest power of two of consecutive registers that lie consecutively along `dim`.

        Every run starts at a coordinate that is a multiple of its length.
        """
        digits = self.digits(dim)
        inner = digits[-1] if digits else None
        if inner is None or inner.source != "register" or inner.stride != 1:
            return 1
        return inner.extent & -inner.extent

    # Algebra

    def compose(self, inner: RegisterLayout) -> RegisterLayout:
        """`inner` tiled by this layout: one copy of `inner` at each of its coordinates.

        Thread and register indices of this layout become the more significant part.

        Raises:
            ValueError: the ranks differ.
        """
        if self.rank != inner.rank:
            raise ValueError(f"cannot tile rank {inner.rank} by rank {self.rank}")
        a, b = self.factors((0,)), inner.factors((1,))
        return RegisterLayout.of_factors(
            Factors(
                tuple(x + y for x, y in zip(a.dims, b.dims, strict=True)),
                {**a.extents, **b.extents},
                a.thread + b.thread,
                a.reg + b.reg,
            )
        )

    def repeat(
        self,
        counts: Sequence[int],
        over: Literal["thread", "register"],
        order: Sequence[int] | None = None,
    ) -> RegisterLayout:
        """Copies of this layout side by side, `counts[d]` along dimension d.

        Args:
            counts: one number a dimension.
            over: whether further threads or further registers hold the copies; either way at the
                more significant end.
            order: the dimensions from the slowest to the fastest of the new indices; row-major
                where it is not given.

        Raises:
            ValueError: `counts` or `order` does not match the rank.
        """
        order = tuple(range(self.rank)) if order is None else tuple(order)
        if len(counts) != self.rank or sorted(order) != list(range(self.rank)):
            raise ValueError(f"counts {tuple(counts)}, order {order} do not fit rank {self.rank}")
        modes = tuple((count,) for count in counts)
        thread, reg = (order, ()) if over == "thread" else ((), order)
        return RegisterLayout(tuple(counts), modes, thread, reg).compose(self)

    def transpose(self, perm: Sequence[int]) -> RegisterLayout:
        """The layout whose dimension d is this one's `perm[d]`, threads and registers unmoved."""
        if sorted(perm) != list(range(self.rank)):
            raise ValueError(f"{tuple(perm)} is not a permutation of {self.rank} dimensions")
        f = self.factors()
        dims = tuple(f.dims[d] for d in perm)
        return RegisterLayout.of_factors(Factors(dims, f.extents, f.thread, f.reg))

    def reshape(self, shape: Sequence[int]) -> RegisterLayout:
        """The same elements in row-major order under another shape.

        Raises:
            ValueError: the sizes differ, or a boundary of `shape` cuts a mode unevenly.
        """
        if math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"{self.shape} and {tuple(shape)} have different sizes")
        f = self.factors()
        rest = [x for dim in f.dims for x in dim]
        dims: list[tuple[Label, ...]] = []
        for extent in reversed(shape):
            taken: list[Label] = []
            while extent > 1:
                have = f.extents[rest[-1]]
                if extent % have and have % extent:
                    raise ValueError(f"{tuple(shape)} cuts a mode of {self} unevenly")
                if have > extent:
                    last = rest.pop()
                    f = f.split(last, extent)
                    rest += [(*last, 0), (*last, 1)]
                    have = extent
                taken.insert(0, rest.pop())
                extent //= have
            dims.insert(0, tuple(taken))
        return RegisterLayout.of_factors(Factors(tuple(dims), f.extents, f.thread, f.reg))

    def slice_registers(
        self, dim: int, start: int, extent: int
    ) -> tuple[RegisterLayout, tuple[int, ...]] | None:
        """The sub-tile [start, start + extent) along `dim`, where it is a choice of registers.

        Returns:
            Its layout and, for each of its registers, the register here; None where some thread
            would hold more of it than another.
        """
        dim %= self.rank
        if not (start >= 0 and extent >= 1 and start + extent <= self.shape[dim]):
            raise ValueError(f"[{start}, {start + extent}) is outside dimension {dim} of {self}")
        f = self.factors()
        base = 0
        if extent == self.shape[dim]:
            return self, tuple(range(self.registers))
        for name, digit in zip(f.dims[dim], self.digits(dim), strict=True):
            if digit.source != "register":
                return None
            first, last = start // digit.scale, (start + extent - 1) // digit.scale
            base += (first % digit.extent) * digit.stride
            whole = start % digit.scale == 0 and extent % digit.scale == 0
            if whole:
                return self._selected(dim, name, last - first + 1, base)
            if first != last:
                return None
        return None

    def _selected(
        self, dim: int, cut: Label, count: int, base: int
    ) -> tuple[RegisterLayout, tuple[int, ...]]:
        """Fix the modes above `cut`, which takes `count` values; `base` is the first register."""
        f = self.factors()
        position = f.dims[dim].index(cut)
        fixed = set(f.dims[dim][:position])
        extents = {**f.extents, cut: count}
        strides = strides_of(f, f.reg)
        kept = [entry for entry in f.reg if entry not in fixed]
        registers = [base]
        for entry in kept:
            size = extents[entry] if isinstance(entry, tuple) else -entry
            registers = [r + i * strides[entry] for r in registers for i in range(size)]
        dims = tuple(x[position:] if d == dim else x for d, x in enumerate(f.dims))
        layout = RegisterLayout.of_factors(Factors(dims, extents, f.thread, tuple(kept)))
        return layout, tuple(registers)

    def reduce(self, dim: int, keep: bool = False) -> RegisterLayout:
        """The layout of a reduction along `dim`: its threads become copies, its registers vanish.

        Args:
            dim: the dimension that is reduced.
            keep: leave it with extent 1 instead of removing it.
        """
        dim %= self.rank
        f = self.factors()
        gone = set(f.dims[dim])
        thread = tuple(-f.extent(x) if x in gone else x for x in f.thread)
        reg = tuple(x for x in f.reg if x not in gone)
        dims = (*f.dims[:dim], *(((),) if keep else ()), *f.dims[dim + 1 :])
        return RegisterLayout.of_factors(Factors(dims, f.extents, thread, reg))

    def along(self, dims: Sequence[int | None]) -> RegisterLayout:
        """The layout of what is read at indices `dims` of every element: dimension d of it runs
        along this one's `dims[d]`, or has extent 1 where that is None. Dimensions that are not
        named become copies.
        """
        f = self.factors()
        kept = {name for d in dims if d is not None for name in f.dims[d]}
        thread = tuple(x if isinstance(x, int) or x in kept else -f.extent(x) for x in f.thread)
        reg = tuple(x for x in f.reg if x in kept)
        named = tuple(() if d is None else f.dims[d] for d in dims)
        return RegisterLayout.of_factors(Factors(named, f.extents, thread, reg))

    def reduction_registers(self, dim: int) -> tuple[tuple[int, ...], ...]:
        """For each register of `reduce(dim)`, the registers here that fold into it, in order."""
        f = self.factors()
        gone = set(f.dims[dim % self.rank])
        strides = strides_of(f, f.reg)
        kept, folded = [0], [0]
        for entry in f.reg:
            if entry not in gone:
                kept = [r + i * strides[entry] for r in kept for i in range(f.extent(entry))]
        for name in f.dims[dim % self.rank]:
            if name in strides:
                steps = [i * strides[name] for i in range(f.extent(name))]
                folded = [r + step for r in folded for step in steps]
        return tuple(tuple(r + s for s in folded) for r in kept)

    def broadcast(
        self, dim: int, extent: int, like: RegisterLayout | None = None
    ) -> RegisterLayout:
        """A layout with a new dimension `dim` of `extent` that needs no data from other threads.

        `like` is returned where its reduction along `dim` needs only what each thread already
        holds. Otherwise copies are given the new dimension, and registers what is left of it; the
        reduction of that layout along `dim` is this layout.
        """
        shape = (*self.shape[:dim], extent, *self.shape[dim:])
        if like is not None and like.shape == shape and self.contains(like.reduce(dim)):
            return like
        f = self.factors((0,))
        extents = dict(f.extents)
        names: list[Label] = []
        thread: list[Entry] = []
        rest = extent
        for entry in reversed(f.thread):
            share = math.gcd(rest, -entry) if isinstance(entry, int) else 1
            if isinstance(entry, int) and share > 1:
                name = (1, len(names))
                extents[name] = share
                names.insert(0, name)
                thread = [entry // share, name, *thread]
                rest //= share
            else:
                thread.insert(0, entry)
        inner = (1, len(names))
        extents[inner] = rest
        dims = (*f.dims[:dim], (*names, inner), *f.dims[dim:])
        return RegisterLayout.of_factors(Factors(dims, extents, tuple(thread), (*f.reg, inner)))

    def replicate(self, count: int) -> RegisterLayout:
        """The layout held by `count` times as many threads, copies at the most significant end."""
        if count < 1:
            raise ValueError(f"cannot make {count} copies")
        return RegisterLayout(self.shape, self.modes, (-count, *self.thread), self.reg)


@lru_cache(maxsize=4096)
def _digits(layout: RegisterLayout) -> tuple[Digit, ...]:
    """Every mode of the layout, in the order of their numbers."""
    f = layout.factors()
    strides = {"thread": strides_of(f, f.thread), "register": strides_of(f, f.reg)}
    top = {name[0] for name in (f.thread, f.reg) if name}
    out = []
    for dim, names in enumerate(f.dims):
        scale = layout.shape[dim]
        for name in names:
            extent = f.extents[name]
            scale //= extent
            source: Literal["thread", "register"] = (
                "thread" if name in strides["thread"] else "register"
            )
            out.append(Digit(dim, extent, scale, source, strides[source][name], name in top))
    return tuple(out)


def strides_of(f: Factors, entries: Sequence[Entry]) -> dict[Entry, int]:
    """What a step of each label is worth in the index whose digits are `entries`."""
    strides: dict[Entry, int] = {}
    stride = 1
    for entry in reversed(entries):
        if not isinstance(entry, int):
            strides[entry] = stride
        stride *= f.extent(entry)
    return strides


@lru_cache(maxsize=256)
def _coords(layout: RegisterLayout) -> IntArray:
    out = np.zeros((layout.threads, layout.registers, layout.rank), dtype=np.int64)
    thread = np.arange(layout.threads, dtype=np.int64)[:, None]
    register = np.arange(layout.registers, dtype=np.int64)[None, :]
    for dim in range(layout.rank):
        for term in layout.coordinate_terms(dim):
            out[..., dim] += term.value(thread if term.source == "thread" else register)
    out.setflags(write=False)
    return out


def _total(terms: Sequence[Term], source: IntArray) -> IntArray:
    total = np.zeros_like(source)
    for term in terms:
        total = total + term.value(source)
    return total
