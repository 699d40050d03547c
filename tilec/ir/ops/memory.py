"""Memory: allocation, element loads and stores, views."""

from __future__ import annotations

import math

from ...errors import TypeMismatch
from ..core import Access, Effect, Level, Op, Value, attribute, operand, operands
from ..dtypes import DType
from ..types import MemoryType, ScalarType, Space, Type


def memory_type(value: Value) -> MemoryType:
    """The type of a memory handle. Raises TypeMismatch for anything else."""
    if isinstance(value.type, MemoryType):
        return value.type
    raise TypeMismatch("TLC0230", f"a {value.type} is not memory")


def check_indices(memory: Value, indices: tuple[Value, ...]) -> MemoryType:
    """The memory's type, once the number and types of the indices are right."""
    type_ = memory_type(memory)
    if len(indices) != len(type_.shape):
        raise TypeMismatch("TLC0231", f"{len(indices)} indices into {type_}")
    for index in indices:
        if not (isinstance(index.type, ScalarType) and index.type.dtype.is_integer):
            raise TypeMismatch("TLC0232", f"an index is a {index.type}, not an integer")
    return type_


class Alloc(Op, name="alloc"):
    """Memory of the block (shared), of each thread (local) or a fragment handle. Its contents are
    undefined.

    `offset` is the byte offset in the block's shared memory, -1 until plan_shared has chosen it. A
    `managed` buffer has its synchronisation from lower_pipelines, or from the program itself;
    place_barriers leaves it alone. `arrivals`: of mbarriers that the program uses itself, how many
    each of them expects in a phase; start_engines makes them. Managed buffers of one `place` (any but
    -1) begin at the same byte: whoever gave it to them keeps their uses apart.
    """

    type: MemoryType = attribute()
    offset: int = attribute(default=-1)
    managed: bool = attribute(default=False)
    arrivals: tuple[int, ...] = attribute(default=())
    place: int = attribute(default=-1)

    def infer(self) -> tuple[Type, ...]:
        return (self.type,)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.ALLOCATE),)


class Load(Op, name="load"):
    """The element of `memory` at `indices`. Outside global memory: `safe_value`. Outside other
    memory: an error.

    `in_bounds` says that the indices are proved to be inside or that `predicate` (at most one bool)
    guards them: where it is false the result is `safe_value` and memory is not touched.
    """

    memory: Value = operand()
    indices: tuple[Value, ...] = operands()
    predicate: tuple[Value, ...] = operands(default=())
    safe_value: float | int = attribute(default=0.0)
    in_bounds: bool = attribute(default=False)

    def infer(self) -> tuple[Type, ...]:
        return (ScalarType(check_indices(self.memory, self.indices).dtype),)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.memory),)


class Store(Op, name="store"):
    """Writes `value` to `memory` at `indices`. Outside global memory, or where `predicate` is
    false, it is dropped.
    """

    value: Value = operand()
    memory: Value = operand()
    indices: tuple[Value, ...] = operands()
    predicate: tuple[Value, ...] = operands(default=())
    in_bounds: bool = attribute(default=False)

    def infer(self) -> tuple[Type, ...]:
        type_ = check_indices(self.memory, self.indices)
        if self.value.type != ScalarType(type_.dtype):
            raise TypeMismatch(
                "TLC0233", f"a {self.value.type} stored into {type_}", hint="cast it"
            )
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.memory),)


ATOMICS = ("add", "max", "min", "or", "load", "store")
ORDERS = ("relaxed", "acquire", "release", "acq_rel", "seq_cst")
"""Orders of memory, as in C++ and PTX; between the threads of one device."""


class Atomic(Op, name="atomic"):
    """memory[indices] becomes `kind` of itself and `value`, in one step: "add", "max", "min" (of
    floats a NaN gives way to a number), "or" (of integers), "store" (the value) or "load" (itself:
    the value is not used). Outside global memory, or where `predicate` is false, it is dropped.

    Integers wrap around, floats round to nearest even once. With `fetch`, and of a load, the result
    is what the element held before, 0 where the op is dropped. `order` says what of other memory is
    ordered: a release, what the block has done before, against what a block does after it has
    acquired, from this element, what was released there or made of it by atomics.
    """

    value: Value = operand()
    memory: Value = operand()
    indices: tuple[Value, ...] = operands()
    predicate: tuple[Value, ...] = operands(default=())
    kind: str = attribute(default="add")
    fetch: bool = attribute(default=False)
    order: str = attribute(default="relaxed")
    in_bounds: bool = attribute(default=False)

    @property
    def releases(self) -> bool:
        """Whether what was done before is shown to those who acquire."""
        return self.order in ("release", "acq_rel", "seq_cst")

    @property
    def acquires(self) -> bool:
        """Whether what was released is seen from here on."""
        return self.order in ("acquire", "acq_rel") or (
            self.order == "seq_cst" and self.kind != "store"
        )

    @property
    def text(self) -> str:
        """The call of the prelude that does it."""
        order = "" if self.order == "relaxed" else f"<{self.order}>"
        value = "" if self.kind == "load" else ", {value}"
        return f"atomic_{self.kind}{order}({{memory}}, {{indices}}{value})"

    def infer(self) -> tuple[Type, ...]:
        type_ = check_indices(self.memory, self.indices)
        if self.kind not in ATOMICS:
            raise TypeMismatch("TLC0234", f"there is no atomic {self.kind!r}")
        if type_.space not in (Space.GLOBAL, Space.SHARED) or type_.dtype.bits < 16:
            raise TypeMismatch("TLC0234", f"there is no atomic on {type_}")
        if self.kind == "or" and type_.dtype.is_float:
            raise TypeMismatch("TLC0234", f"there is no atomic 'or' on {type_}")
        unordered = {"load": ("release", "acq_rel"), "store": ("acquire", "acq_rel")}
        if self.order not in ORDERS or self.order in unordered.get(self.kind, ()):
            raise TypeMismatch("TLC0234", f"no atomic {self.kind} has the order {self.order!r}")
        if self.value.type != ScalarType(type_.dtype):
            raise TypeMismatch("TLC0233", f"a {self.value.type} for {type_}", hint="cast it")
        gives = self.kind == "load" or (self.fetch and self.kind != "store")
        return (ScalarType(type_.dtype),) if gives else ()

    def effects(self) -> tuple[Effect, ...]:
        kind = f"{self.kind}, fetched" if self.fetch else self.kind
        read = Effect(Access.READ, self.memory, atomic=kind)
        write = Effect(Access.WRITE, self.memory, atomic=kind)
        return (read,) if self.kind == "load" and not self.acquires else (read, write)


ElementAccess = Load | Store | Atomic
"""Ops that touch one element, which `in_bounds` and `predicate` speak of."""


class Slot(Op, name="slot", pure=True):
    """Buffer `index` of a ring: `ring` has one more dimension, outermost."""

    ring: Value = operand()
    index: Value = operand()
    layout_of_slot: object = attribute(default=None)

    def infer(self) -> tuple[Type, ...]:
        type_ = memory_type(self.ring)
        return (MemoryType(type_.dtype, type_.shape[1:], type_.space, self.layout_of_slot),)  # type: ignore[arg-type]


class Flatten(Op, name="flatten", pure=True):
    """The same memory as one row of elements, in the order its layout stores them."""

    memory: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        type_ = memory_type(self.memory)
        if type_.space is Space.GLOBAL:
            return (MemoryType(type_.dtype, ("*",), Space.GLOBAL),)
        shape = [d for d in type_.shape if isinstance(d, int)]
        size = 1
        for extent in shape:
            size *= extent
        if type_.layout is not None:
            size = type_.layout.size
        return (MemoryType(type_.dtype, (size,), type_.space),)


class View(Op, name="view", level=Level.TILE, pure=True):
    """The same fragment under another shape, in row-major order, its bits as elements of `dtype`, the
    lowest first.
    """

    memory: Value = operand()
    shape: tuple[int, ...] = attribute()
    dtype: DType = attribute()

    def infer(self) -> tuple[Type, ...]:
        type_ = memory_type(self.memory)
        size = math.prod(int(d) for d in type_.shape) if type_.space is Space.FRAGMENT else -1
        if size * type_.dtype.bits != math.prod(self.shape) * self.dtype.bits:
            raise TypeMismatch("TLC0235", f"a view of {type_} as {self.dtype}{list(self.shape)}")
        return (MemoryType(self.dtype, self.shape, type_.space),)


OPS: tuple[type[Op], ...] = (Alloc, Load, Store, Atomic, Slot, Flatten, View)
