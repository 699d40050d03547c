"""Which elements of a fragment the iterations of a Parallel nest access."""

from __future__ import annotations

from ..errors import LayoutConflict
from ..ir.core import Value, constant_of, walk
from ..ir.ops.control import Parallel
from ..ir.ops.memory import Load, Store, memory_type


def accessed_along(nest: Parallel, handle: Value) -> tuple[int | None, ...] | None:
    """The loop dimension along each dimension of a fragment (None along one of extent 1 that is
    indexed by 0); None where it is not accessed. `handle` is one that the nest's body uses.

    Raises:
        LayoutConflict: an iteration accesses several elements, or `along` says why not.
    """
    found = {
        along(op, nest)
        for op in walk(nest.body)
        if isinstance(op, (Load, Store)) and op.memory is handle
    }
    if len(found) > 1:
        raise LayoutConflict(
            "TLC0404",
            f"fragment {handle.hint!r} is indexed in two ways in one nest",
            loc=nest.loc,
            hint="read from one fragment and write another",
        )
    return found.pop() if found else None


def along(access: Load | Store, nest: Parallel) -> tuple[int | None, ...]:
    """The same of one access.

    Raises:
        LayoutConflict: the nest's iterations do not have one element each, and all of them.
    """
    indices = nest.body.params[: len(nest.extents)]
    fragment = access.memory
    shape = memory_type(fragment).shape
    dims: list[int | None] = []
    for index, extent in zip(access.indices, shape, strict=True):
        if index not in indices and not (extent == 1 and constant_of(index) == 0):
            raise LayoutConflict(
                "TLC0403",
                f"fragment {fragment.hint!r} is indexed by something else than the loop variables",
                loc=access.loc,
                hint="what the nest only reads may be indexed in any way; an element that it writes is "
                "written by one iteration, as is known at compile time, and read by no other",
            )
        dims.append(indices.index(index) if index in indices else None)
    varied = [d for d in dims if d is not None]
    if len(set(varied)) < len(varied):
        raise LayoutConflict(
            "TLC0407",
            f"fragment {fragment.hint!r} is indexed twice by one loop variable",
            loc=nest.loc,
            hint="a nest covers its fragments: one loop variable for each dimension",
        )
    if any(d is not None and nest.extents[d] != n for d, n in zip(dims, shape, strict=True)):
        raise LayoutConflict(
            "TLC0405",
            f"a nest over {nest.extents} touches a part of fragment {fragment.hint!r} of "
            f"{tuple(shape)}",
            loc=nest.loc,
            hint="let the nest cover the fragment",
        )
    return tuple(dims)
