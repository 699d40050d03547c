"""What an op's attributes may hold: the annotations of its class, read once, checked and converted.

The text format and the verifier ask the same questions, so they are answered here: is this value
what the annotation says, and which value does plain data (an int for a float, a string for an enum)
stand for.
"""

from __future__ import annotations

import types
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import IRError
from .core import Constant, Op

_resolved: dict[type[Op], dict[str, Any]] = {}  # a class's annotations never change
_converting: dict[type[Op], dict[str, Any]] = {}


def attribute_types(cls: type[Op]) -> dict[str, Any]:
    """The resolved annotation of every attribute of an op class.

    Raises IRError (TLC0211) where an annotation names what its module does not have at run time.
    """
    if cls in _resolved:
        return _resolved[cls]
    try:
        hints = get_type_hints(cls)
    except NameError as error:
        raise IRError(
            "TLC0211",
            f"the annotations of op {cls.name!r} cannot be resolved: {error}",
            hint="import what they name outside `if TYPE_CHECKING`",
        ) from error
    found = {name: hints[name] for name, kind in cls.fields if kind == "attribute"}
    _resolved[cls] = found
    return found


def conforms(value: object, annotation: Any) -> bool:
    """Whether a value is what an annotation says. A bool is no int; an int passes for a float."""
    if annotation is Any or annotation is object:
        return True
    if annotation is None or annotation is type(None):
        return value is None
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(conforms(value, option) for option in get_args(annotation))
    if origin is tuple:
        return _conforms_tuple(value, get_args(annotation))
    if isinstance(value, bool):
        return annotation is bool
    if annotation is float:
        return isinstance(value, (int, float))
    return isinstance(value, origin or annotation)


def _conforms_tuple(value: object, items: tuple[Any, ...]) -> bool:
    if not isinstance(value, tuple):
        return False
    if len(items) == 2 and items[1] is Ellipsis:
        return all(conforms(item, items[0]) for item in value)
    return len(items) == len(value) and all(map(conforms, value, items))


def coerce(value: Any, annotation: Any) -> Any:
    """`value` as the annotation has it: an int as a float, an enum member from its value. Else
    unchanged."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        options = get_args(annotation)
        if any(conforms(value, option) and option is not float for option in options):
            return value
        return next((new for new in (coerce(value, o) for o in options) if new is not value), value)
    if annotation is float and type(value) is int:
        return float(value)
    if (
        isinstance(annotation, type)
        and issubclass(annotation, Enum)
        and not isinstance(value, Enum)
    ):
        return next((member for member in annotation if member.value == value), value)
    if origin is tuple and isinstance(value, tuple):
        items = get_args(annotation)
        if len(items) == 2 and items[1] is Ellipsis:
            return tuple(coerce(item, items[0]) for item in value)
        if len(items) == len(value):
            return tuple(map(coerce, value, items))
    return value


def describe(annotation: Any) -> str:
    """An annotation in words short enough for an error message."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace(f"{__package__}.", "")


def number_key(value: bool | int | float) -> tuple[str, str]:
    """A key under which numbers are equal only if kind and bits are: 1 is not True, 0.0 is not
    -0.0, nan is nan."""
    return type(value).__name__, repr(value)


def constant_key(value: Constant) -> tuple[object, ...]:
    """A key under which constants of the same type and value are equal."""
    return (value.type, *number_key(value.value))


def attribute_key(value: Any) -> Any:
    """A hashable key of an attribute's value, exact about numbers."""
    if isinstance(value, (bool, int, float)) and not isinstance(value, Enum):
        return number_key(value)
    if isinstance(value, (tuple, list)):
        return tuple(attribute_key(item) for item in value)
    return value


def attributes_key(op: Op) -> tuple[Any, ...]:
    """A hashable key of all attributes of an op: equal for ops whose attributes mean the same."""
    if len(op.links) == len(op.fields):
        return ()
    return tuple(
        (name, attribute_key(value)) for name, value in sorted(normal_attributes(op).items())
    )


def normal_attributes(op: Op) -> dict[str, Any]:
    """The attributes of an op in the form its annotations ask for."""
    values = op.attributes
    cls = type(op)
    annotations = _converting.get(cls)
    if annotations is None:
        annotations = {n: a for n, a in attribute_types(cls).items() if _converts(a)}
        _converting[cls] = annotations
    return {n: coerce(v, annotations[n]) if n in annotations else v for n, v in values.items()}


def _converts(annotation: Any) -> bool:
    """Whether `coerce` can change anything: the annotation mentions float or an enum."""
    if annotation is float or (isinstance(annotation, type) and issubclass(annotation, Enum)):
        return True
    return any(_converts(part) for part in get_args(annotation))
