"""Which elements of a fragment the iterations of a Parallel nest access."""

from __future__ import annotations

from ..errors import LayoutConflict
from ..ir.core import Value, constant_of, walk
from ..ir.ops.control import Parallel
from ..ir.ops.memory import Load, Store


def accessed_along(nest: Parallel, handle: Value) -> tuple[int | None, ...] | None:
    """The loop dimension along each dimension of a fragment (None along one of extent 1 that is
    indexed by 0); None where it is not accessed. `handle` is one that the nest's body uses.

    Raises:
        LayoutConflict: not each iteration has one element, or some elements have no iteration.
    """
    indices = nest.body.params[: len(nest.extents)]
    shape = handle.type.shape  # type: ignore[attr-defined]
    found: set[tuple[int | None, ...]] = set()
    for op in walk(nest.body):
        if isinstance(op, (Load, Store)) and op.memory is handle:
            single = [
                n == 1 and constant_of(i) == 0 for i, n in zip(op.indices, shape, strict=True)
            ]
            if any(i not in indices and not one for i, one in zip(op.indices, single, strict=True)):
                raise LayoutConflict(
                    "TLC0403",
                    f"fragment {handle.hint!r} is indexed by something else than the loop "
                    "variables",
                    loc=op.loc,
                    hint="let what the nest writes be indexed by its loop variables; what it only reads "
                    "may be indexed in any way",
                )
            found.add(tuple(indices.index(i) if i in indices else None for i in op.indices))
    if not found:
        return None
    if len(found) > 1:
        raise LayoutConflict(
            "TLC0404",
            f"fragment {handle.hint!r} is indexed in two ways in one nest",
            loc=nest.loc,
            hint="read from one fragment and write another",
        )
    (dims,) = found
    varied = [d for d in dims if d is not None]
    if len(set(varied)) < len(varied):
        raise LayoutConflict(
            "TLC0407",
            f"fragment {handle.hint!r} is indexed twice by one loop variable",
            loc=nest.loc,
            hint="a nest covers its fragments: one loop variable for each dimension",
        )
    if any(d is not None and nest.extents[d] != n for d, n in zip(dims, shape, strict=True)):
        raise LayoutConflict(
            "TLC0405",
            f"a nest over {nest.extents} touches a part of fragment {handle.hint!r} of "
            f"{tuple(shape)}",
            loc=nest.loc,
            hint="let the nest cover the fragment",
        )
    return dims
