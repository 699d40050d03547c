"""Arguments of statements that are true or false when a kernel is compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from .operand import Operand
from .trace import refuse


def flag(what: str, name: str, given: Any) -> bool:
    """The argument `name` of the statement `what`, which is True or False. Raises LanguageError for
    anything else, since Python would take a misplaced buffer, a word or a list for True."""
    if isinstance(given, bool | np.bool_ | int | np.integer) and given in (0, 1):
        return bool(given)
    if isinstance(given, Operand):
        raise refuse(
            "TLC0168",
            f"{what} with {name}={given!r}, which is known only when the kernel runs",
            hint="True or False, known at compile time; or an `if` with the statement in both branches",
        )
    raise refuse(
        "TLC0168",
        f"{what} with {name}={given!r}, which is neither True nor False",
        hint=f"{name}=True or {name}=False; other arguments go by name too where their order is in doubt",
    )
