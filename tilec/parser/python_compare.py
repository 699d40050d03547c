"""Comparisons of a kernel's text: as Python's, but that `in` looks for values of the kernel by `==`, and
that `is` is not taken for it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from ..language.operand import Operand, is_number
from ..language.trace import refuse

OF_OBJECTS = ("Is", "IsNot", "In", "NotIn")  # what Python would decide by itself
_MEMBERS = 64  # with how many others `in` compares a value of the kernel


def _is_same(x: Any, y: Any) -> bool:
    """`x is y`. Raises LanguageError of a value of the kernel and a number: it is never one."""
    if (isinstance(x, Operand) and is_number(y)) or (isinstance(y, Operand) and is_number(x)):
        raise refuse(
            "TLC0103",
            "`is` asks whether two objects of Python are one, not whether two values are equal",
            hint="compare values of the kernel by == and !=",
        )
    return x is y


def _traced(x: Any, y: Any) -> bool:
    """Whether `x in y` is known only when the kernel runs. Raises LanguageError where it is, and too
    much is compared.
    """
    if not isinstance(y, tuple | list | set | frozenset | range):
        return False
    if not isinstance(x, Operand) and (
        isinstance(y, range) or not any(isinstance(v, Operand) for v in y)
    ):
        return False
    if len(y) > _MEMBERS:
        raise refuse(
            "TLC0103",
            f"a value of the kernel is compared with each of {len(y)} others",
            hint="compare it with the ends of a range: 0 <= x < n",
        )
    return True


def _is_member(x: Any, y: Any) -> Any:
    """`x in y`."""
    if not _traced(x, y):
        return x in y
    return functools.reduce(operator.or_, (x == v for v in y), False)


def _is_no_member(x: Any, y: Any) -> Any:
    """`x not in y`."""
    if not _traced(x, y):
        return x not in y
    return functools.reduce(operator.and_, (x != v for v in y), True)


COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "Lt": operator.lt, "LtE": operator.le, "Gt": operator.gt, "GtE": operator.ge,
    "Eq": operator.eq, "NotEq": operator.ne, "Is": _is_same,
    "IsNot": lambda x, y: not _is_same(x, y), "In": _is_member, "NotIn": _is_no_member,
}  # fmt: skip
