"""Memory as the interpreter holds it: elements, a shadow bit for each that was never written, and
who may touch it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..ir.core import Block, Value, walk
from ..ir.dtypes import DType
from ..ir.ops.memory import View, memory_type
from ..ir.types import Space
from .conflicts import AccessLog, Index, Names, Stretch
from .numbers import Array, Bits, garbage_value, widened

if TYPE_CHECKING:
    from .shared_bytes import SharedBytes

_SHARED = 1 << 24
"""Elements of a tensor that is converted as a whole, since blocks read parts of it again and again."""


class Guard(Protocol):
    """Says whether a handle (a slot of a ring) may be used now."""

    def check(self, frame: Any, memory: Memory, write: bool) -> None:
        """Raises ExecutionError where it may not."""


class Storage:
    """The elements behind one or more handles.

    `poison` marks elements that were never written; None means all were. Where views of smaller
    elements see it, it marks the `parts` of each element, along one more axis. Private memory (`lanes`
    not empty) has one copy a lane, on leading axes; it is `uniform` as long as every lane did the
    same to it.
    """

    __slots__ = (
        "_origin",
        "_wide",
        "blocks",
        "clocks",
        "common",
        "data",
        "lanes",
        "log",
        "names",
        "parts",
        "poison",
        "settled",
        "stretch",
        "uniform",
        "viewed",
    )

    def __init__(
        self, data: Array, poison: Bits | None, lanes: tuple[int, ...] = (), parts: int = 1
    ) -> None:
        self.data = data
        self.poison = poison
        self.parts = parts
        self.lanes = lanes
        self.uniform = True
        self.settled = False  # nobody writes it during this launch
        self.viewed = False  # another storage shares these elements
        self.log: AccessLog | None = None  # between lanes
        self.stretch: Stretch | None = None  # between threads, until they meet
        self.blocks: AccessLog | None = None  # between blocks
        self.names: Names | None = None  # of parameters that are given this one array
        self.common: SharedBytes | None = None  # with arrays that are other views of one memory
        self.clocks: Any = None  # between roles
        self._wide: Array | None = None
        self._origin: tuple[Storage, Index] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that indices address, without lanes."""
        return self.data.shape[len(self.lanes) :]

    def write(self, index: Index, value: Any, bad: Any, whole: bool = False) -> None:
        """Sets elements and their shadow bits. `whole`: the index names every element."""
        self.data[index] = value
        self._wide = self._origin = None
        if bad is not None:
            if self.poison is None:
                self.poison = self._marks(False)
            self.poison[index] = bad if self.parts == 1 else np.asarray(bad)[..., None]
        elif whole and not self.viewed:
            self.poison = None
        elif self.poison is not None:
            self.poison[index] = False

    def forget(self) -> None:
        """Makes the contents undefined."""
        self.data[...] = garbage_value(self.data.dtype)
        self.poison = self._marks(True)
        self._wide = self._origin = None

    def _marks(self, bad: bool) -> Bits:
        shape = self.data.shape if self.parts == 1 else (*self.data.shape, self.parts)
        return np.full(shape, bad, np.bool_)

    def renew(self) -> None:
        """Drops what was derived from the contents."""
        self._wide = self._origin = None

    def view(self, index: Index) -> Storage:
        """The same elements under an index of their own."""
        if self.poison is None:
            self.poison = self._marks(False)
        self.viewed = True
        self._wide = self._origin = None
        part = Storage(self.data[index], self.poison[index], self.lanes, self.parts)
        part.viewed = True
        return part

    def flat(self) -> Storage:
        """The same elements in one row."""
        whole = self.view((slice(None),) * self.data.ndim)
        row = (*self.lanes, -1)
        assert whole.poison is not None
        return Storage(whole.data.reshape(row), whole.poison.reshape(row), self.lanes)

    def reshaped(self, shape: tuple[int, ...], dtype: DType) -> Storage:
        """The same bits under another shape, as elements of another dtype: of those that `poison` has
        marks for, or of larger ones.
        """
        whole = self.view((slice(None),) * self.data.ndim)
        assert whole.poison is not None and not self.lanes
        data = whole.data.reshape(-1).view(dtype.numpy).reshape(shape)
        parts = whole.poison.size // data.size
        marks = whole.poison.reshape(shape if parts == 1 else (*shape, parts))
        other = Storage(data, marks, parts=parts)
        other.viewed = True
        return other

    def bad(self, index: Index) -> Bits | None:
        """The shadow bits of some elements, None where all are clear. A copy."""
        if self.poison is None:
            return None
        found = self.poison[index]
        if not found.any():
            return None
        return np.array(found if self.parts == 1 else found.any(-1))

    def came_from(self, source: Storage, index: Index) -> None:
        """Says that the whole contents were just copied from a settled storage: conversions are
        shared through it.
        """
        if not self.viewed and source.data.size <= _SHARED:
            self._origin = (source, index)

    def widened(self) -> Array:
        """All elements as BLAS multiplies them. Not to be changed by the caller."""
        if self._wide is None:
            if self._origin is not None:
                source, index = self._origin
                self._wide = source.widened()[index]
            else:
                self._wide = widened(self.data)
                if not self.settled:
                    wide, self._wide = self._wide, None
                    return wide
        return self._wide

    @property
    def identity(self) -> int:
        """One number for all that are views of one memory."""
        return id(self if self.common is None else self.common)

    def numbers(self, index: Index) -> list[int]:
        """A number of each element that `index` names, in the memory that `identity` names."""
        if self.common is None:
            numbers: Array = np.asarray(np.ravel_multi_index(index, self.shape))
        else:
            numbers = self.common.places(self.data)[index][..., 0]
        return [int(n) for n in np.unique(numbers)]

    def _new_log(self, use: str) -> AccessLog:
        if self.common is None:
            return AccessLog(self.shape)
        return self.common.log(use, self.data)

    def lane_log(self, episode: int, parties: int) -> AccessLog:
        if self.log is None:
            self.log = self._new_log("lanes")
        self.log.enter(episode, parties)
        return self.log

    def threads_log(
        self, episode: int, threads: int, alike: bool
    ) -> tuple[AccessLog, tuple[AccessLog, ...]]:
        """What `Stretch.enter` gives."""
        if self.stretch is None:
            self.stretch = Stretch(self._new_log("alone"), self._new_log("alike"))
        return self.stretch.enter(episode, threads, alike)


class Memory:
    """A handle: storage under a name. `guard` is present on slots of a ring."""

    __slots__ = ("dtype", "guard", "name", "space", "storage")

    def __init__(
        self, name: str, dtype: DType, space: Space, storage: Storage, guard: Guard | None = None
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.space = space
        self.storage = storage
        self.guard = guard

    @property
    def shape(self) -> tuple[int, ...]:
        return self.storage.shape

    def with_own_storage(self) -> Memory:
        """A handle on a copy of the elements."""
        old = self.storage
        poison = None if old.poison is None else np.array(old.poison)
        storage = Storage(np.array(old.data), poison, old.lanes)
        storage.uniform = old.uniform
        return Memory(self.name, self.dtype, self.space, storage, self.guard)


def undefined(
    shape: tuple[int, ...], dtype: DType, lanes: tuple[int, ...] = (), parts: int = 1
) -> Storage:
    """Fresh storage whose contents are garbage and marked so, each element in so many parts."""
    full = (*lanes, *shape)
    data = np.full(full, garbage_value(dtype.numpy), dtype.numpy)
    storage = Storage(data, None, lanes, parts)
    storage.forget()
    return storage


def smallest_elements(body: Block) -> dict[Value, int]:
    """How many bits the smallest elements have as which views see a fragment."""
    smallest: dict[Value, int] = {}
    roots: dict[Value, Value] = {}
    for op in walk(body):
        if isinstance(op, View):
            root = roots[op.result] = roots.get(op.memory, op.memory)
            least = smallest.get(root, memory_type(root).dtype.bits)
            smallest[root] = min(least, op.dtype.bits)
    return smallest
