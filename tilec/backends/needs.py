"""Which names of the prelude printed text uses, with the template arguments that pick one of a
family."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import UNKNOWN, TargetUnsupported
from ..ir.core import Op
from ..ir.ops.amd import Mfma
from ..ir.ops.memory import memory_type
from ..ir.ops.nvidia import Mma
from .dialect import Dialect, all_prelude_names
from .prelude import Need, NeedArgument

_USE = re.compile(r"\b([A-Za-z_]\w*)(?:<([^<>()]*)>)?")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
BY_TYPES = (Mma, Mfma)
"""Families that the prelude picks from by the types of the operands too."""


class Needs:
    """The needs of a body, in order of first use."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._names = dialect.names
        self._all_names = all_prelude_names()
        self._needs: dict[Need, None] = {}

    @property
    def found(self) -> tuple[Need, ...]:
        return tuple(self._needs)

    def add(self, text: str, op: Op | None = None) -> None:
        """Notes what `text`, printed for `op`, uses.

        Raises TargetUnsupported for a name that other preludes have and this one has not.
        """
        own = _matrix_need(op) if isinstance(op, BY_TYPES) else None
        if own is not None:
            self._needs[own] = None
        for name, arguments in self._uses(text, op):
            if own is None or name != own.name:
                self._needs[Need(name, arguments)] = None

    def _uses(self, text: str, op: Op | None) -> Iterator[tuple[str, tuple[NeedArgument, ...]]]:
        for name, arguments in _USE.findall(_STRING.sub('""', text).partition("//")[0]):
            if name in self._names:
                yield (
                    name,
                    tuple(_argument(a.strip()) for a in arguments.split(",")) if arguments else (),
                )
            elif name in self._all_names:
                what = f"{op.name} needs" if op is not None else "this needs"
                why = self._dialect.lacks.get(name)
                raise TargetUnsupported(
                    "TLC0515",
                    f"{what} {name}, which {self._dialect.name} has not{f': {why}' if why else ''}",
                    loc=op.loc if op is not None else UNKNOWN,
                    hint="the interpreter and the emulator of a CUDA target print" if why else "",
                )
            for argument in arguments.split(","):
                if argument.strip() in self._names:
                    yield argument.strip(), ()


def _matrix_need(op: Mma | Mfma) -> Need:
    """By the shape, the dtype of the accumulator, and those of A and B: one where they are alike."""
    names = [memory_type(v).dtype.name for v in (op.accumulator, op.a, op.b)]
    scaled = isinstance(op, Mfma) and op.scales
    short = names[1] == names[2] and not scaled
    name = "mfma_scaled" if scaled else op.name
    return Need(name, (op.m, op.n, op.k, *(names[:2] if short else names)))


def _argument(text: str) -> NeedArgument:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdigit() else text
