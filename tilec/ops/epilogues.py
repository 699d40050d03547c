"""Functions that a product is passed through while it is in registers, and when two are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import LanguageError, TilecError
from ..language.operand import Operand, is_number
from ..parser.python_captures import identity_of


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
        try:
            result = self.function(value, *index, **dict(zip(self.names, operands, strict=False)))
        except TilecError as error:  # the kernel calls its operands X0, X1, …
            error.message, error.hint = map(self._in_its_names, (error.message, error.hint))
            raise
        if not isinstance(result, Operand) and not is_number(result):
            raise LanguageError(
                "TLC0813",
                f"the epilogue gives {result!r}",
                hint="it returns the value of one element: an expression of T, or a number",
            )
        return result

    def _in_its_names(self, text: str) -> str:
        slots = {f"X{n}": name for n, name in enumerate(self.names)}
        return re.sub(r"\bX\d\b", lambda found: slots.get(found[0], found[0]), text)


def epilogue_of(function: Callable[..., Any], names: tuple[str, ...]) -> Epilogue:
    """`function` with its operands' names."""
    return Epilogue(function, names, identity_of(function))
