"""Arrays of any library as the matrices of a product: shape, batch, where the unit stride is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product as every_index
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..backends.launcher.arguments import fact_holds
from ..backends.manifest import Fact
from ..passes.cluster_gains import SECTOR_BYTES
from ..runtime.arrays import ArrayView

VECTOR_BYTES = 16
"""Of what copies of tiles are made, be they of threads or of TMA."""


@dataclass(frozen=True)
class Matrix:
    """The matrices in the last two dimensions of an array; the dimensions before are its batch."""

    name: str
    view: ArrayView

    @property
    def rows(self) -> int:
        """Rows of each matrix."""
        return self.view.shape[-2]

    @property
    def columns(self) -> int:
        """Columns of each matrix."""
        return self.view.shape[-1]

    @property
    def batch(self) -> tuple[int, ...]:
        """Extents of the batch."""
        return self.view.shape[:-2]

    @property
    def layout(self) -> str:
        """Where the unit stride is: in "rows" or "columns" or, for neither, "any". A matrix of one
        row or column may be taken both ways: then its longer lines count."""
        item, extents, steps = self.view.itemsize, self.view.shape, self.view.strides
        in_rows = steps[-1] == item or extents[-1] <= 1
        in_columns = steps[-2] == item or extents[-2] <= 1
        if in_rows and (not in_columns or extents[-1] >= extents[-2]):
            return "rows"
        return "columns" if in_columns else "any"

    @property
    def in_vectors(self) -> bool:
        """Whether rows, or columns where those are contiguous, are whole vectors."""
        view = self.transposed.view if self.layout == "columns" else self.view
        if self.layout == "any" or view.empty:
            return False
        return fact_holds(Fact("aligned", self.name, VECTOR_BYTES), view)

    @property
    def in_sectors(self) -> bool:
        """Whether rows, or columns where those are contiguous, start where sectors of the cache do."""
        view = self.transposed.view if self.layout == "columns" else self.view
        return all(n % SECTOR_BYTES == 0 for n in (view.pointer, *view.strides[:-1]))

    def steps(self, batch: Sequence[int]) -> list[int]:
        """Bytes between the matrices that this one is, spread over a batch of these extents."""
        missing = [1] * (len(batch) - len(self.batch))
        own = zip([*missing, *self.batch], [*missing, *self.view.strides[:-2]], strict=True)
        return [step if extent > 1 else 0 for extent, step in own]

    def reshaped(self, shape: Sequence[int], strides: Sequence[int]) -> Matrix:
        """Elements of the same memory, from the same first one; strides in bytes."""
        view, owner = self.view, self.view.owner
        if view.library == "numpy":
            array = cast("np.ndarray[Any, Any]", owner)
            bits = array.view(f"u{array.itemsize}")  # as_strided does not know every dtype
            owner = as_strided(bits, shape, strides).view(array.dtype)
        changed = replace(view, shape=tuple(shape), strides=tuple(strides), owner=owner)
        return Matrix(self.name, changed)

    def picked(self, index: Sequence[int]) -> Matrix:
        """What has this index in as many dimensions, the first ones."""
        view, n = self.view, len(index)
        offset = sum(i * step for i, step in zip(index, view.strides, strict=False))
        owner: Any = view.owner
        changed = replace(
            view,
            pointer=view.pointer + offset,
            shape=view.shape[n:],
            strides=view.strides[n:],
            owner=owner[tuple(index)] if view.library == "numpy" else owner,
        )
        return Matrix(self.name, changed)

    @property
    def transposed(self) -> Matrix:
        """Rows and columns exchanged."""
        (*batch, rows, columns), (*steps, row, column) = self.view.shape, self.view.strides
        return self.reshaped((*batch, columns, rows), (*steps, column, row))

    @property
    def argument(self) -> Any:
        """The array as a kernel takes it."""
        return self.view.owner if self.view.library == "numpy" else self.view


def collide(a: ArrayView, b: ArrayView) -> bool:
    """Whether two arrays may have a byte in common. Columns of one array beside columns of it that
    are others' do not."""
    if a.empty or b.empty or a.device != b.device:
        return False
    if a.pointer >= b.pointer + b.extent_bytes or b.pointer >= a.pointer + a.extent_bytes:
        return False
    lines = [(v.strides[-2], v.shape[-1] * v.itemsize) for v in (a, b) if len(v.shape) >= 2]
    if len(lines) == 2 and lines[0][0] == lines[1][0] > 0:
        pitch, (width, other) = lines[0][0], (lines[0][1], lines[1][1])
        apart = all(step % pitch == 0 for v in (a, b) for step in v.strides[:-2]) and all(
            v.strides[-1] == v.itemsize for v in (a, b)
        )
        shift = (b.pointer - a.pointer) % pitch
        return not (apart and width <= shift <= pitch - other)
    return True


def collapse(
    batch: Sequence[int], a: Matrix, b: Matrix, c: Matrix
) -> list[tuple[Matrix, Matrix, Matrix]]:
    """The products of a batch as few products of one dimension of batch or none.

    Dimensions over which all three go on in one step become one; an operand that is the same for
    all has none. Where b is the same for all and the rows of a follow each other through the whole
    batch, and those of c too, they are taken for the rows of one matrix.
    """
    matrices = (a, b, c)
    groups: list[tuple[int, tuple[int, ...]]] = []  # outermost first: extent, steps of the three
    steps = zip(*(m.steps(batch) for m in matrices), strict=True)
    for extent, step in zip(batch, steps, strict=True):
        if extent == 1:
            continue
        if groups and groups[-1][1] == tuple(s * extent for s in step):
            groups[-1] = (groups[-1][0] * extent, step)
        else:
            groups.append((extent, step))
    *outer, (extent, step) = groups or [(1, (0, 0, 0))]
    whole = []
    for n, m in enumerate(matrices):
        shape, strides = [g[0] for g in outer], [g[1][n] for g in outer]
        if step[n]:
            shape.append(extent)
            strides.append(step[n])
        sides = m.view.shape[-2:], m.view.strides[-2:]
        whole.append(m.reshaped((*shape, *sides[0]), (*strides, *sides[1])))
    indices = every_index(*(range(g[0]) for g in outer))
    return [_folded(*(m.picked(index) for m in whole)) for index in indices]


def _folded(a: Matrix, b: Matrix, c: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    if not (a.batch and c.batch) or b.batch:
        return a, b, c
    pitches = []
    for m in (a, c):
        step, row, _ = m.view.strides
        pitches.append(step if m.rows == 1 else row)
        if m.layout != "rows" and m.rows > 1 or step != m.rows * pitches[-1]:
            return a, b, c
    rows = a.batch[0] * a.rows
    a, c = (
        m.reshaped((rows, m.columns), (pitch, m.view.strides[-1]))
        for m, pitch in zip((a, c), pitches, strict=True)
    )
    return a, b, c
