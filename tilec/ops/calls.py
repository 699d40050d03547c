"""Products that were checked, and calls like an earlier one: its kernel, and how arrays are passed to
it, without a second look.

What a product comes to depends on shapes, strides, dtypes, devices and the low bits of addresses, on
options that are compared by value, and on what the epilogue says. Whether `out` lies apart is looked
at in every call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter, itemgetter
from typing import Any

from ..language.kernel import Kernel
from ..locks import Lock
from ..runtime.allocate import allocate
from ..runtime.arrays import ArrayView, adapter_if_array, adapter_of, is_array, view_array
from .epilogues import epilogue_of
from .matrices import Matrix, collide
from .operands import Options, number_dtype
from .schedules import Schedule

TURNS: dict[str, Callable[[Any], Any]] = {
    "T": attrgetter("T"),
    "row": itemgetter(0),
    "column": itemgetter((slice(None), 0)),
}
"""How a kernel may take a matrix of any library: transposed, or its first row or column."""
_LIBRARIES = ("numpy", "cupy", "torch")  # whose matrices have these ways
_ADDRESS_BITS = 127  # all that alignment is asked of
_MOST = 1024
_OPERANDS = ("a", "b", "out")


@dataclass(frozen=True)
class Given:
    """An argument of a launch that is one of what the call was given, turned by a name in TURNS, or
    as it is."""

    place: int
    turn: str = ""

    def of(self, given: Sequence[Any], pointers: Sequence[int]) -> Any:
        """The argument of a call that is given these, the arrays among them at these addresses."""
        return TURNS[self.turn](given[self.place]) if self.turn else given[self.place]


@dataclass(frozen=True)
class Placed:
    """An argument in the memory of an array that the call was given: from `offset` bytes on."""

    place: int
    offset: int
    view: ArrayView  # of an earlier call's

    def of(self, given: Sequence[Any], pointers: Sequence[int]) -> Any:
        """The argument of a call that is given these, the arrays among them at these addresses."""
        v = self.view
        return ArrayView(
            pointers[self.place] + self.offset, v.shape, v.strides, v.dtype, v.device, v.readonly,
            v.library, given[self.place],
        )  # fmt: skip


@dataclass(frozen=True)
class Fixed:
    """An argument that calls have in common."""

    value: Any

    def of(self, given: Sequence[Any], pointers: Sequence[int]) -> Any:
        """The argument."""
        return self.value


Way = Given | Placed | Fixed


@dataclass(frozen=True)
class Call:
    """A product that was checked: a kernel, whose arguments are the `matrices` of each launch, what
    the call was given beside them, and what is the same for all such calls; and the result. `turns`
    where a, b and out are passed as they are, but for a turn: in the order of the parameters which
    of the three it is, and how it is turned."""

    kernel: Kernel
    matrices: list[tuple[Matrix, ...]]
    result: Any
    beside: tuple[Any, ...] = ()
    fixed: tuple[Any, ...] = ()
    turns: tuple[tuple[int, str], ...] | None = None

    @property
    def launches(self) -> list[tuple[Any, ...]]:
        """The arguments of each launch."""
        last = (*self.beside, *self.fixed)
        return [(*(m.argument for m in launch), *last) for launch in self.matrices]

    def run(self, schedule: Schedule | None, stream: Any, device: str | None) -> Any:
        """Launches, and gives the result."""
        named = {"stream": stream, "device": device}
        given = {name: value for name, value in named.items() if value is not None}
        if schedule is not None:
            given |= asdict(schedule)
        for arguments in self.launches:
            self.kernel(*arguments, **given)
        return self.result

    def ways(self, arrays: Sequence[Any]) -> list[tuple[Way, ...]] | None:
        """How the arguments of each launch come from a, b and out, and from what was given beside
        them; None where another call's are not found so."""
        first = len(_OPERANDS)
        fixed = [Fixed(value) for value in self.fixed]
        if self.turns is not None:
            turned = [Given(*turn) for turn in self.turns]
            beside = [Given(first + n) for n in range(len(self.beside))]
            return [(*turned, *beside, *fixed)] * len(self.matrices)
        views = [view_array(array) for array in arrays]
        if views[0].library == "numpy":  # whose arrays are more than a place in memory
            return None
        placed = [
            Placed(first + n, 0, without_memory(view_array(value)))
            if is_array(value)
            else Given(first + n)
            for n, value in enumerate(self.beside)
        ]

        def place(m: Matrix) -> Placed:
            number = _OPERANDS.index(m.name)
            offset = m.view.pointer - views[number].pointer
            return Placed(number, offset, without_memory(m.view))

        return [(*map(place, launch), *placed, *fixed) for launch in self.matrices]


@dataclass(frozen=True)
class Remembered:
    """A call that may be repeated on other arrays of the same kind. `read` are those that `out` lay
    apart from, by their places, with the bytes that each reaches over; `bytes` those of `out`."""

    kernel: Kernel
    launches: list[tuple[Way, ...]]
    constants: Mapping[str, Any]
    read: tuple[tuple[int, int], ...]
    bytes: int
    made: ArrayView  # what is allocated where the caller has no `out`

    @classmethod
    def of(cls, call: Call, arrays: Sequence[Any], schedule: Schedule | None) -> Remembered | None:
        """A call that was made on a, b and out; None for one that is not repeated so."""
        launches = call.ways(arrays)
        if launches is None:
            return None
        out = view_array(arrays[2])
        constants = {} if schedule is None else asdict(schedule)
        read = {0: arrays[0], 1: arrays[1], **dict(enumerate(call.beside, len(_OPERANDS)))}
        views = {place: view_array(x) for place, x in read.items() if is_array(x)}
        reach = tuple((p, v.extent_bytes) for p, v in views.items() if not collide(v, out))
        return cls(call.kernel, launches, constants, reach, out.extent_bytes, without_memory(out))

    def repeat(
        self,
        arrays: Sequence[Any],
        beside: Sequence[Any],
        pointers: list[int],
        stream: Any,
        handle: int | None,
    ) -> Any:
        """The result of a call with other arrays, `out` the third of them if there is one; None
        where it may lie in the memory of the others."""
        out = arrays[2]
        if out is None:
            made = self.made
            out = allocate(made.library, made.device, made.shape, made.dtype, handle)
            pointers[2] = adapter_of(out).fingerprint(out)[0]
        else:
            start, end = pointers[2], pointers[2] + self.bytes
            for place, size in self.read:
                first = pointers[place]
                if first < end and start < first + size:
                    return None
        given = (arrays[0], arrays[1], out, *beside)
        named = self.constants if stream is None else {**self.constants, "stream": stream}
        for launch in self.launches:
            self.kernel(*[way.of(given, pointers) for way in launch], **named)
        return out


class Memory:
    """Calls by their keys, the latest ones."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, Remembered] = {}
        self._lock = Lock()  # held while calls are added and dropped

    def run(
        self,
        check: Callable[..., Call],
        arrays: tuple[Any, Any, Any],
        beside: tuple[Any, ...],
        options: Options,
        schedule: Schedule | None,
        stream: Any,
    ) -> Any:
        """The result of a call with a, b and out, or None in its place, and with `beside`: arrays
        and numbers in the order of the kernel's parameters. It may be like an earlier one; else it
        is what `check` says of a, b, those of `beside` that are no operands, and the options."""
        key, pointers = _key(check, arrays, beside, options, schedule)
        found = self._calls.get(key) if key is not None else None
        if found is not None:
            result = found.repeat(arrays, beside, pointers, stream, options.stream)
            if result is not None:
                return result
        more = beside[: len(beside) - len(options.operands)]
        call = check(*arrays[:2], *more, options)
        result = call.run(schedule, stream, None)
        new = None if key is None else Remembered.of(call, (*arrays[:2], result), schedule)
        if new is not None:
            with self._lock:
                while len(self._calls) >= _MOST:
                    self._calls.pop(next(iter(self._calls)))
                self._calls[key] = new
        return result


def without_memory(view: ArrayView) -> ArrayView:
    """The view of an array that nothing is kept alive by."""
    return replace(view, pointer=0, owner=None)


def _key(
    check: Callable[..., Call],
    arrays: Sequence[Any],
    beside: Sequence[Any],
    options: Options,
    schedule: Schedule | None,
) -> tuple[Hashable, list[int]]:
    """What a call depends on, and the addresses of what it is given; None for a key where these do
    not tell it."""
    parts: list[Any] = [check, options.out_dtype, options.in_dtype, options.exact, schedule]
    pointers = []
    if options.epilogue is not None or options.operands:
        if not callable(options.epilogue):
            return None, []
        parts.append(epilogue_of(options.epilogue, tuple(options.operands)))
    for value in (*arrays, *beside):
        pointer = 0
        adapter = adapter_if_array(value)
        if adapter is not None:
            if adapter.library not in _LIBRARIES:
                return None, []
            pointer, *rest = adapter.fingerprint(value)
            parts.extend((type(value), pointer & _ADDRESS_BITS, *rest))
        elif value is None:
            parts.append(None)
        else:
            dtype = number_dtype(value)
            if dtype is None:
                return None, []
            parts.append(dtype)
        pointers.append(pointer)
    key = tuple(parts)
    try:
        hash(key)
    except TypeError:
        return None, []
    return key, pointers
