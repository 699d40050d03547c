"""Names in generated text: identifiers of C that clash with nothing, handed out by scope."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .dialect import all_prelude_names

_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t
char32_t class co_await co_return co_yield compl concept const const_cast consteval constexpr
constinit continue decltype default delete do double dynamic_cast else enum explicit export extern
false float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr
operator or or_eq private protected public register reinterpret_cast requires restrict return short
signed sizeof static static_assert static_cast struct switch template this thread_local throw true
try typedef typeid typename typeof union unsigned using virtual void volatile wchar_t while xor
xor_eq
"""
_MACHINE = """
here
threadIdx blockIdx blockDim gridDim warpSize tilec std main device host global shared constant
DEVICE INLINE WARP NULL EOF NAN INFINITY HUGE_VAL errno stdin stdout stderr assert linux unix
"""


def reserved_names() -> frozenset[str]:
    """What no variable may be called: keywords, names of the preludes, what the CPU's headers and
    frame use (`here`)."""
    return all_prelude_names().union(_KEYWORDS.split(), _MACHINE.split())


def plain_identifier(text: str, default: str = "x") -> str:
    """`text` with everything but letters, digits and single underscores replaced; never empty,
    never reserved by C."""
    name = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9_]", "_", text)).lstrip("_")
    if not name:
        return default
    return name if name[0].isalpha() else f"{default}{name}"


def mangle(name: str) -> str:
    """A C identifier for any string, different for different strings: `_x2e_` stands for a dot."""
    escaped = re.sub(r"[^A-Za-z0-9_]|_(?=x)", lambda m: f"_x{ord(m[0]):x}_", name)
    return f"_x{ord(escaped[0]):x}_{escaped[1:]}" if escaped[:1].isdigit() else escaped


def comment_text(text: str) -> str:
    """`text` as it may stand in a line comment: printable, and with nothing that could end or
    continue the line."""
    return "".join(c if c.isprintable() and c != "\\" else "_" for c in text)


class Names:
    """The names in use, by block: one is free again where the block that it was made in ends."""

    def __init__(self) -> None:
        self._reserved = reserved_names()
        self._scopes: list[set[str]] = [set()]
        self._counts: list[dict[str, int]] = [{}]  # of the last names like a hint
        self._ends: list[list[Callable[[], None]]] = [[]]

    def new(self, hint: str, default: str = "x", *, outside: bool = False) -> str:
        """A name like `hint` that nothing visible here has; `outside`: of the block around."""
        base = plain_identifier(hint, default)
        count = max(counts.get(base, 0) for counts in self._counts)
        while True:
            name = f"{base}{'_' if base[-1].isdigit() else ''}{count}" if count else base
            if name not in self._reserved and not any(name in scope for scope in self._scopes):
                break
            count += 1
        self._scopes[-2 if outside else -1].add(name)
        if not outside:  # of the block around more may be free once this one has ended
            self._counts[-1][base] = count
        return name

    @contextmanager
    def block(self) -> Iterator[None]:
        """Names made inside are free again after it."""
        self._scopes.append(set())
        self._counts.append({})
        self._ends.append([])
        try:
            yield
        finally:
            self._scopes.pop()
            self._counts.pop()
            for undo in reversed(self._ends.pop()):
                undo()

    def at_end(self, undo: Callable[[], None]) -> None:
        """Has `undo` called where the block that is open now ends."""
        self._ends[-1].append(undo)
