"""What a kernel of a product is traced for: dtypes, strides, batches, the epilogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import language as T
from ..ir.dtypes import find_dtype
from .epilogues import Epilogue
from .schedules import Problem

EXTRAS = 8
"""How many arrays and numbers beside A and B a product can be given."""
SLOTS = tuple(f"X{n}" for n in range(EXTRAS))
SHORT_SUMS = ("e4m3", "e5m2", "e4m3fnuz", "e5m2fnuz")
"""Of these a matrix instruction may keep sums in fewer bits than float32 has."""
_SUMS = {"i8": "i32", "u8": "i32", "f64": "f64"}


@dataclass(frozen=True)
class Extra:
    """An operand of the epilogue as the kernel sees it: an array of `rank` dimensions, whose last
    has unit stride where it is `dense`; with rank 0 a number."""

    name: str
    dtype: str
    rank: int
    dense: bool = True

    def annotation(self, slot: str) -> Any:
        """What the kernel's parameter `slot` is."""
        if self.rank == 0:
            return find_dtype(self.dtype)
        strides: list[str | int] = [f"{slot}_stride{d}" for d in range(self.rank)]
        if self.dense:
            strides[-1] = 1
        shape = tuple(f"{slot}_extent{d}" for d in range(self.rank))
        return T.StridedTensor(shape, tuple(strides), self.dtype)


@dataclass(frozen=True)
class Form:
    """All that a kernel is traced for but its schedule; dtypes by their short names.

    `a`, `b` and `c` say where the unit stride is: in "rows" as of a row-major matrix, in "columns"
    (a and b then arrive transposed; c is never so), or "any". Of a batched product the operands
    named in `batched` have one dimension more, in front. Where rows of several matrices were
    `folded` into one, the last of `extras` is the number of rows of each. Those in `packed` have no
    vectors: A and B are copied into rows of whole lines of the cache before, C from such rows after.
    `astray`: those of A and B whose lines start anywhere in a sector of the cache. `exact`: the sums
    of a step are added in float32 outside of the instruction. `in_place`: what the epilogue reads may lie
    in the memory of the result, so that no element may be computed twice, be it by a block of a cluster
    beyond the grid, whose results are dropped.
    """

    dtypes: tuple[str, str]
    out: str
    a: str = "rows"
    b: str = "rows"
    c: str = "rows"
    batched: str = ""
    packed: str = ""
    astray: str = ""
    exact: bool = False
    in_place: bool = False
    folded: bool = False
    epilogue: Epilogue | None = None
    extras: tuple[Extra, ...] = ()

    @property
    def sums(self) -> str:
        """The dtype in which products are summed."""
        return _SUMS.get(self.dtypes[0], "f32")

    def annotation(self, name: str) -> Any:
        """What the parameter A, B or C is."""
        layout = {"A": self.a, "B": self.b, "C": self.c}[name]
        shape = {"A": ["M", "K"], "B": ["K", "N"], "C": ["M", "N"]}[name]
        strides: list[str | int] = [f"{name}_stride", 1]
        if layout == "columns":
            shape.reverse()
        if layout == "any" or name in self.packed:
            strides[1] = f"{name}_step"  # though it may be 1: no vector is tried
        if name in self.batched:
            shape, strides = ["Z", *shape], [f"{name}_batch", *strides]
        return T.StridedTensor(tuple(shape), tuple(strides), self.dtype_of(name))

    def dtype_of(self, name: str) -> str:
        """The dtype of A, B or C."""
        return {"A": self.dtypes[0], "B": self.dtypes[1], "C": self.out}[name]

    def problem(self, shapes: Mapping[str, Sequence[int]]) -> Problem:
        """The product of arrays of these shapes."""
        rows, columns = shapes["C"][-2:]
        depth = shapes["A"][-2 if self.a == "columns" else -1]
        batch = shapes["C"][0] if "C" in self.batched else 1
        return Problem(
            rows, columns, depth, self.dtypes[0], self.a, self.b, batch, self.exact,
            astray=self.astray, in_place=self.in_place, out_bytes=find_dtype(self.out).bytes,
        )  # fmt: skip

    def extra_annotations(self) -> dict[str, Any]:
        """What the parameters of the epilogue's operands are."""
        named = zip(self.extras, SLOTS, strict=False)
        return {slot: extra.annotation(slot) for extra, slot in named}

    def at(self, name: str, z: Any, row: Any, column: Any) -> tuple[Any, ...]:
        """The index of an element of A, B or C of product z."""
        return (z, row, column) if name in self.batched else (row, column)

    def unused(self) -> dict[str, None]:
        """The parameters that this form does not have."""
        return dict.fromkeys(SLOTS[len(self.extras) :])
