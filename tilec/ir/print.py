"""Programs as text, in one canonical form: parsing it gives the same program back.

    tilec.ir 1
    #shared0 = shared<shape=[128, 64], modes=[[128], [64]], strides=[[64], [1]], swizzle=[3, 3, 3]>
    program @copy(%A: global f16[M, 64], %B: global f16[M, 64]) <level = tile, symbols = [M]> {
      %m = symbol <label = "M"> : i32
      launch %m, 1, 1 <threads = 128> (%bx: i32, %by: i32, %bz: i32) {
        %s = alloc <type = shared f16[128, 64] #shared0> : shared f16[128, 64] #shared0
        fill %s, 0.0:f16
      }
    }

An op is `results = name operands <attributes> (parameters) { region } : result types`. A group of
operands stands in brackets, directly after a memory handle that it may index; where the group is
all that an op has, it stands bare. Trailing empty groups and attributes that have their default are
left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np

from ..errors import IRError
from .attributes import attribute_key, normal_attributes
from .core import Block, Constant, Op, Program, Value
from .dtypes import DType, f16, f32, i32
from .layout.register import RegisterLayout
from .layout.shared import SharedLayout
from .layout.text import format_layout, kind_of
from .opaque import OpaqueOp
from .types import ChannelType, Dim, InflightType, MemoryType, ScalarType, TileType, Type

VERSION = 1
"""The version of the text format, on its first line."""

Layout = RegisterLayout | SharedLayout
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS = frozenset({"true", "false", "inf", "nan"})
_SHORT_FLOATS = {f16: np.float16, f32: np.float32}


def print_program(
    program: Program, *, locations: bool = False, notes: Mapping[Op, str] | None = None
) -> str:
    """The canonical text of a program, ending in a newline.

    `locations` adds each op's place as a comment, `notes` a comment under the ops that they are
    keyed by; a reader skips both.
    """
    return Printer(locations, notes or {}).program(program)


def print_op(op: Op) -> str:
    """One op with its regions, for messages. Values of elsewhere print by their hints."""
    return "\n".join(Printer(False, {}).op_lines(op, 0))


class Printer:
    """Prints one program: names values and layouts as it meets them."""

    def __init__(self, locations: bool, notes: Mapping[Op, str]) -> None:
        self._locations = locations
        self._notes = {id(op): note for op, note in notes.items()}
        self._names: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}
        self._aliases: dict[Layout, str] = {}

    def program(self, program: Program) -> str:
        params = self._params(program.params)
        symbols = ", ".join(map(_word, program.symbols))
        head = f"program @{_word(program.name)}({params}) <level = {program.level.value}"
        head += f", symbols = [{symbols}]" if symbols else ""
        if program.multiples:
            multiples = (str(program.multiples.get(name, 1)) for name in program.symbols)
            head += f", multiples = [{', '.join(multiples)}]"
        head += "> {"
        body = self._block_lines(program.body, 1)
        aliases = [f"{alias} = {format_layout(layout)}" for layout, alias in self._aliases.items()]
        return "\n".join([f"tilec.ir {VERSION}", *aliases, head, *body, "}", ""])

    # Values and types -----------------------------------------------------------------------------

    def define(self, value: Value) -> str:
        """The name of a value, new where it has none: its hint, or a number."""
        if value in self._names:
            return self._names[value]
        base = re.sub(r"[^A-Za-z0-9_]", "_", value.hint)
        if not base or base.isdigit():
            base, name = "", ""
        else:
            base = base if _IDENTIFIER.fullmatch(base) else f"_{base}"
            name = base
        while not name or name in self._taken:
            count = self._next.get(base, 1 if base else 0)
            self._next[base] = count + 1
            name = f"{base}_{count}" if base else str(count)
        self._taken.add(name)
        self._names[value] = name
        return name

    def value(self, value: Value) -> str:
        return print_constant(value) if isinstance(value, Constant) else f"%{self.define(value)}"

    def _params(self, values: Sequence[Value]) -> str:
        return ", ".join(f"%{self.define(v)}: {self.type(v.type)}" for v in values)

    def type(self, type_: Type) -> str:
        """A type with the alias of its layout."""
        match type_:
            case ScalarType():
                return type_.dtype.name
            case MemoryType():
                return f"{type_.space.value} {self._array(type_)}"
            case TileType():
                return f"tile {self._array(type_)}"
            case InflightType():
                return f"inflight {self._array(type_.tile)}"
            case ChannelType():
                return f"channel<{type_.slots}> {self.type(type_.memory)}"
        raise IRError("TLC0212", f"a {type(type_).__name__} has no text form")

    def _array(self, type_: MemoryType | TileType) -> str:
        layout = f" {self.alias(type_.layout)}" if type_.layout is not None else ""
        strides = ""
        if isinstance(type_, MemoryType) and type_.strides is not None:
            strides = f" strides [{', '.join(map(_dim, type_.strides))}]"
        return f"{type_.dtype.name}[{', '.join(map(_dim, type_.shape))}]{strides}{layout}"

    def alias(self, layout: Layout) -> str:
        """The alias of a layout: its kind and a number, in order of first use."""
        if layout not in self._aliases:
            kind = kind_of(layout)
            number = sum(alias.startswith(f"#{kind}") for alias in self._aliases.values())
            self._aliases[layout] = f"#{kind}{number}"
        return self._aliases[layout]

    # Ops ------------------------------------------------------------------------------------------

    def _block_lines(self, block: Block, depth: int) -> list[str]:
        return [line for op in block.ops for line in self.op_lines(op, depth)]

    def op_lines(self, op: Op, depth: int) -> list[str]:
        """The lines of an op and its regions, indented by `depth` steps."""
        indent = "  " * depth
        text = f"{_op_name(op)}{self._operands(op)}{self._attributes(op)}"
        if op.results:
            # Numbers follow the order of the text, so results get theirs before what is inside.
            text = ", ".join(f"%{self.define(v)}" for v in op.results) + f" = {text}"
        lines = [indent + text]
        for block in op.regions:
            params = f" ({self._params(block.params)})" if block.params else ""
            lines[-1] += f"{params} {{"
            lines += [*self._block_lines(block, depth + 1), f"{indent}}}"]
        if op.results:
            lines[-1] += " : " + ", ".join(self.type(v.type) for v in op.results)
        if self._locations and op.loc.known:
            lines[0] += f"  // {op.loc}"
        lines[1:1] = [f"{indent}// ^ {line}" for line in self._notes.get(id(op), "").splitlines()]
        return lines

    def _operands(self, op: Op) -> str:
        kinds = [(name, kind) for name, kind in op.fields if kind in ("operand", "operands")]
        items: list[Any] = [getattr(op, name) for name, _ in kinds]
        if not isinstance(op, OpaqueOp):
            if len(items) == 1 and kinds[0][1] == "operands":
                items = list(items[0])
            while items and items[-1] == ():
                items.pop()
        parts: list[str] = []
        handle = False
        for item in items:
            if isinstance(item, tuple):
                group = f"[{', '.join(map(self.value, item))}]"
                if handle:
                    parts[-1] += group
                else:
                    parts.append(group)
                handle = False
            else:
                parts.append(self.value(item))
                handle = isinstance(item.type, MemoryType)
        return f" {', '.join(parts)}" if parts else ""

    def _attributes(self, op: Op) -> str:
        parts = []
        for name, value in normal_attributes(op).items():
            default = op.defaults.get(name, _NONE)
            if default is not _NONE and attribute_key(value) == attribute_key(default):
                continue
            with op.loc:
                parts.append(name if value is True else f"{name} = {self._attribute(value)}")
        return f" <{', '.join(parts)}>" if parts else ""

    def _attribute(self, value: Any) -> str:
        match value:
            case None:
                return "none"
            case Enum():
                return self._attribute(value.value)
            case bool():
                return "true" if value else "false"
            case int() | float():
                return repr(value)
            case str():
                return json.dumps(value)
            case tuple() | list():
                return f"[{', '.join(map(self._attribute, value))}]"
            case DType():
                return value.name
            case RegisterLayout() | SharedLayout():
                return self.alias(value)
            case ScalarType():
                return f"scalar {value.dtype.name}"
            case Type():
                return self.type(value)
        raise IRError("TLC0212", f"a {type(value).__name__} has no text form: {value!r}")


_NONE = object()


def print_constant(value: Constant) -> str:
    """A constant as it stands among operands: `128` (i32), `1.5` (f32), `true`, else with its
    dtype: `3:i8`."""
    assert isinstance(value.type, ScalarType)
    dtype, number = value.type.dtype, value.value
    if dtype.kind == "bool":
        return "true" if number else "false"
    if dtype.kind == "opaque":
        raise IRError("TLC0212", f"a constant of type {dtype} has no text form")
    if dtype.is_integer:
        return str(int(number)) if dtype == i32 else f"{int(number)}:{dtype}"
    number = float(number)
    if number != number or number in (float("inf"), float("-inf")):
        return f"{number!r}:{dtype}"
    short = _SHORT_FLOATS.get(dtype)
    text = str(short(number)) if short else repr(number)
    return text if dtype == f32 else f"{text}:{dtype}"


def _op_name(op: Op) -> str:
    return op.name.removeprefix("tilec.")


def _dim(extent: Dim) -> str:
    return str(extent) if isinstance(extent, int) or extent == "*" else _word(extent)


def _word(text: str) -> str:
    """A name as it is where it is an identifier, else quoted."""
    plain = _IDENTIFIER.fullmatch(text) and text not in _KEYWORDS
    return text if plain else json.dumps(text)
