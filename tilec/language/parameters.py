"""The parameters of a kernel, as they are known at decoration."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from ..errors import LanguageError, Loc, TilecError
from ..ir.dtypes import DType
from .dtypes import ElementType, spelled_dtype
from .staging import Parsed
from .tensors import TensorSpec


@dataclass(frozen=True)
class Parameter:
    """One parameter: `kind` is "tensor", "scalar" (run-time) or "constant" (compile-time).

    `annotation` is a TensorSpec or a DType; for a tensor or scalar that the body annotates it is
    None, and the kind is "tensor" until the trace knows better.
    """

    name: str
    kind: str
    annotation: TensorSpec | DType | None
    default: Any
    kind_of_argument: Any
    loc: Loc

    @property
    def has_default(self) -> bool:
        return self.default is not inspect.Parameter.empty


def read_parameters(function: FunctionType, parsed: Parsed) -> tuple[Parameter, ...]:
    """The parameters in order. Raises LanguageError for annotations that have no meaning."""
    found = []
    for p in inspect.signature(function).parameters.values():
        loc = parsed.places.get(p.name, parsed.loc)
        if p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise LanguageError(
                "TLC0113",
                f"the kernel {function.__name__} has the parameter *{p.name}",
                loc=parsed.loc,
                hint="a kernel's parameters are fixed and named",
            )
        kind, annotation = _kind(function, p, parsed, loc)
        if kind != "constant" and p.default is not inspect.Parameter.empty:
            raise LanguageError(
                "TLC0113",
                f"the {kind} {p.name} has a default: it is a run-time argument",
                loc=loc,
                hint="pass it at each call; a number that is annotated int or float is compiled in, "
                "and may have a default",
            )
        found.append(Parameter(p.name, kind, annotation, p.default, p.kind, loc))
    return tuple(found)


def _kind(
    function: FunctionType, p: inspect.Parameter, parsed: Parsed, loc: Loc
) -> tuple[str, TensorSpec | DType | None]:
    annotation = _annotation(function, p, parsed, loc)
    if p.name in parsed.in_body:
        if isinstance(annotation, TensorSpec | ElementType):
            raise LanguageError(
                "TLC0113",
                f"{p.name} is annotated twice",
                loc=loc,
                hint="in the signature, or at the top of the body",
            )
        return "tensor", None
    if isinstance(annotation, TensorSpec):
        return "tensor", annotation
    dtype = spelled_dtype(annotation)
    if dtype is not None:
        return "scalar", dtype
    if isinstance(annotation, str):
        raise LanguageError(
            "TLC0113", f"the annotation of {p.name} is {annotation!r}, which is no element type", loc=loc,
            hint='a dtype is a scalar of the kernel: T.int32, "int32"; anything else is known when it is '
            "compiled: int, float, str",
        )  # fmt: skip
    if callable(annotation) and getattr(annotation, "__name__", "") in ("Tensor", "StridedTensor"):
        raise LanguageError(
            "TLC0113",
            f"the annotation of {p.name} has no shape",
            loc=loc,
            hint='T.Tensor(("M", "N"), "float16")',
        )
    return "constant", None


def _annotation(function: FunctionType, p: inspect.Parameter, parsed: Parsed, loc: Loc) -> Any:
    """The annotation's value: what Python made of it, or what its text means in its scope."""
    value = function.__annotations__.get(p.name)
    if not isinstance(value, str):
        return value
    try:
        return parsed.annotations[p.name]()
    except TilecError:
        raise
    except Exception as error:  # the user's expression may raise anything
        raise LanguageError(
            "TLC0113",
            f"the annotation of {p.name} fails: {type(error).__name__}: {error}",
            loc=loc,
            hint="it is evaluated when the kernel is decorated, and sees what the decorator sees",
        ) from error
