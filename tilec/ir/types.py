"""Types of values: scalars, handles of memory, register tiles, results in flight, channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from .dtypes import DType
from .layout.register import RegisterLayout
from .layout.shared import SharedLayout

Dim = int | str
"""An extent: a number, or the name of a symbol that the launch binds."""


class Space(Enum):
    """Where memory lives. A fragment handle exists only in the surface language
    (promote_fragments).
    """

    GLOBAL = "global"
    SHARED = "shared"
    LOCAL = "local"  # one thread's array
    FRAGMENT = "fragment"


class Type:
    """Base of all value types."""


@dataclass(frozen=True)
class ScalarType(Type):
    """One element: a value of each thread, or of the block."""

    dtype: DType

    def __str__(self) -> str:
        return self.dtype.name


@dataclass(frozen=True)
class MemoryType(Type):
    """A handle of memory: `shared f16[128, 64] #layout`, `global f16[M, N] strides [ld, 1]`.

    `strides`, of global memory only, are in elements; None is row-major without gaps.
    """

    dtype: DType
    shape: tuple[Dim, ...]
    space: Space
    layout: SharedLayout | None = None
    strides: tuple[Dim, ...] | None = None

    def __str__(self) -> str:
        return f"{self.space.value} {_array(self.dtype, self.shape)}{strides_text(self.strides)}"

    @property
    def unit_stride(self) -> bool:
        """Whether elements along the last dimension are known to lie side by side."""
        return self.strides is None or self.strides[-1:] == (1,)

    def with_layout(self, layout: SharedLayout | None) -> MemoryType:
        return replace(self, layout=layout)


@dataclass(frozen=True)
class TileType(Type):
    """A value spread over the threads of a block (or role) in registers: `tile f32[128, 256]
    #layout`.
    """

    dtype: DType
    shape: tuple[int, ...]
    layout: RegisterLayout | None = None

    def __str__(self) -> str:
        return f"tile {_array(self.dtype, self.shape)}"

    def with_layout(self, layout: RegisterLayout | None) -> TileType:
        return replace(self, layout=layout)


@dataclass(frozen=True)
class InflightType(Type):
    """A tile that an asynchronous instruction is still writing: usable by the next gemm on it, or
    by `wait`.
    """

    tile: TileType

    def __str__(self) -> str:
        return f"inflight {_array(self.tile.dtype, self.tile.shape)}"


@dataclass(frozen=True)
class ChannelType(Type):
    """A ring of `slots` equal buffers between a writing and a reading stage: `channel<4> shared
    f16[128, 64]`.

    Of shared memory (put and get), or of tiles that stay in registers (send and receive).
    """

    memory: MemoryType | TileType
    slots: int

    def __str__(self) -> str:
        return f"channel<{self.slots}> {self.memory}"


def strides_text(strides: tuple[Dim, ...] | None) -> str:
    """` strides [ld, 1]` as it follows a shape; nothing where there are none."""
    return "" if strides is None else f" strides [{', '.join(map(str, strides))}]"


def _array(dtype: DType, shape: tuple[Dim, ...]) -> str:
    return f"{dtype}[{', '.join(str(d) for d in shape)}]"


def refines(refined: Type, plain: Type) -> bool:
    """Whether `refined` is `plain`, or `plain` with a layout where it has none."""
    if refined == plain:
        return True
    match refined, plain:
        case MemoryType(), MemoryType() if plain.layout is None:
            return refined.with_layout(None) == plain
        case TileType(), TileType() if plain.layout is None:
            return refined.with_layout(None) == plain
        case InflightType(), InflightType():
            return refines(refined.tile, plain.tile)
        case ChannelType(), ChannelType():
            return refined.slots == plain.slots and refines(refined.memory, plain.memory)
    return False
