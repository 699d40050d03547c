"""Functions that a product is passed through while it is in registers, and when two are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ..errors import LanguageError
from ..ir.core import Access, Op
from ..ir.effects import space_of, touched
from ..ir.types import Space
from ..language.operand import Operand, is_number
from ..language.trace import current
from ..parser.python_captures import identity_of

in_force: ContextVar[Callable[..., Any] | None] = ContextVar("in_force", default=None)
"""The epilogue of the call that is made."""


@dataclass(frozen=True)
class Epilogue:
    """A function of the sum, its indices and operands by name. Equal where the functions are:
    of one text, with equal values of the names that it uses.

    Of equal ones the call's own is traced: what another reads may have changed since it was equal.
    """

    function: Callable[..., Any] = field(compare=False)
    names: tuple[str, ...]
    identity: Hashable

    def apply(self, value: Any, index: Sequence[Any], operands: Sequence[Any]) -> Any:
        """The value that is stored at `index`. Raises LanguageError for what is no scalar, and for
        a function that writes: tiles overlap, and reach over the end of a matrix, so that it is
        computed more than once for some elements, and for some that are not there."""
        function, given = self.function, in_force.get()
        if given is not None and identity_of(given) == self.identity:
            function = given
        traced = current("an epilogue").region.ops
        before = len(traced)
        result = function(value, *index, **dict(zip(self.names, operands, strict=False)))
        for op in traced[before:]:
            if _writes(op):
                raise LanguageError(
                    "TLC0813",
                    "the epilogue writes to an array",
                    hint="it returns the value of one element; write others by a kernel of your own",
                    loc=op.loc,
                )
        if not isinstance(result, Operand) and not is_number(result):
            raise LanguageError(
                "TLC0813",
                f"the epilogue gives {result!r}",
                hint="it returns the value of one element: an expression of T, or a number",
            )
        return result


def _writes(op: Op) -> bool:
    return any(space_of(memory) is Space.GLOBAL for memory in touched(op, Access.WRITE))


def in_their_names(text: str, names: Sequence[str]) -> str:
    """What is said of a kernel's operands X0, X1, … with the names that the caller gave them."""
    slots = {f"X{n}": name for n, name in enumerate(names)}
    return re.sub(r"\bX\d\b", lambda found: slots.get(found[0], found[0]), text)


def epilogue_of(function: Callable[..., Any], names: tuple[str, ...]) -> Epilogue:
    """`function` with its operands' names."""
    return Epilogue(function, names, identity_of(function))
