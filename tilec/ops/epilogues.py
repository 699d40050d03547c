"""Functions that a product is passed through while it is in registers, and when two are the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from ..errors import LanguageError
from ..language.operand import Operand, is_number


@dataclass(frozen=True)
class Epilogue:
    """A function of the sum, its indices and operands by name. Equal where the functions are:
    of one text, with equal values of the names that it uses.
    """

    function: Callable[..., Any] = field(compare=False)
    names: tuple[str, ...]
    identity: Hashable

    def apply(self, value: Any, index: Sequence[Any], operands: Sequence[Any]) -> Any:
        """The value that is stored at `index`. Raises LanguageError for what is no scalar."""
        result = self.function(value, *index, **dict(zip(self.names, operands, strict=False)))
        if not isinstance(result, Operand) and not is_number(result):
            raise LanguageError(
                "TLC0813",
                f"the epilogue gives {result!r}",
                hint="it returns the value of one element: an expression of T, or a number",
            )
        return result


def epilogue_of(function: Callable[..., Any], names: tuple[str, ...]) -> Epilogue:
    """`function` with its operands' names."""
    return Epilogue(function, names, _identity(function, set()))


def _identity(value: object, seen: set[int]) -> Hashable:
    """Equal for two values that trace to the same program. What is neither a function nor a plain
    number or text stands for itself."""
    if isinstance(value, FunctionType):
        if id(value) in seen:  # it calls itself, or one that calls it
            return value.__code__
        seen.add(id(value))
        code = value.__code__
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        used = {n: value.__globals__[n] for n in _names(code) if n in value.__globals__}
        parts = (*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        return (
            code,
            tuple(_identity(part, seen) for part in parts),
            tuple((name, _identity(part, seen)) for name, part in sorted(used.items())),
        )
    if isinstance(value, bool | int | float | complex | str | bytes | None):
        return (type(value), repr(value))
    if isinstance(value, tuple):
        return tuple(_identity(part, seen) for part in value)
    return _Itself(value)


def _names(code: CodeType) -> set[str]:
    """The global names and attributes that a function and those written in it use."""
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


@dataclass(frozen=True, eq=False)
class _Itself:
    """Equal to the same object alone, which it keeps alive."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
