"""Arguments against parameters: numbers that a dtype holds, what names mean, the variant that takes
them.

Messages say the parameter, what was expected and what came, as in
`B has shape (64, 32), expected (N, K) = (64, 128), with K = 128 from A`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import Strided, check_shape, sizes_of
from .expressions import evaluate, names_in, solve
from .limits import INDEX_LIMIT, check_steps, check_symbol
from .overlaps import check_overlaps
from .unfit import Unfit

INTEGERS = {
    **{f"i{bits}": (-(1 << bits - 1), 1 << bits - 1) for bits in (8, 16, 32, 64)},
    **{f"u{bits}": (0, 1 << bits) for bits in (8, 16, 32, 64)},
    "bool": (0, 2),
}
"""The least value of each dtype, and the first past the largest."""
# From these on a finite number rounds to infinity, or to NaN or the largest where there is none.
FLOATS = {
    "f16": 65520.0,
    "bf16": (2 - 2**-8) * 2.0**127,
    "f32": (2 - 2**-24) * 2.0**127,
    "tf32": (2 - 2**-24) * 2.0**127,
    "f64": math.inf,
    "e4m3": math.nextafter(464.0, math.inf),  # which itself rounds to 448, whose last bit is 0
    "e5m2": 61440.0,
    "e4m3fnuz": 248.0,
    "e5m2fnuz": 61440.0,
    "e2m3": 7.75,
    "e3m2": 30.0,
}
WITHOUT_INFINITY = ("e4m3", "e4m3fnuz", "e5m2fnuz", "e2m3", "e3m2")
WITHOUT_NAN = ("e2m3", "e3m2")
IN_64_BITS = "let 64 bits compute it, as T.cast(M, 'int64') * N does"
_VAST = "a number of very many digits"


def number_of(param: Any, value: Any) -> int | float:
    """`value` as the number that a parameter is passed as. Raises Unfit where that would change
    it."""
    name, dtype, limits = param.name, param.dtype, INTEGERS.get(param.dtype)
    if dtype == "bool" and isinstance(value, np.bool_):
        return int(value)
    if limits is None:
        try:
            real = float(value)
        except OverflowError:
            raise Unfit(f"{name} is {_VAST}, which {dtype} cannot hold") from None
        outside = abs(real) >= FLOATS[dtype] and (math.isfinite(real) or dtype in WITHOUT_INFINITY)
        if outside or math.isnan(real) and dtype in WITHOUT_NAN:
            raise Unfit(f"{name} is {real:g}, which {dtype} cannot hold")
        return real
    if not hasattr(value, "__index__"):
        raise Unfit(f"{name} is {value!r}, expected an integer ({dtype})")
    number = operator.index(value)
    if not limits[0] <= number < limits[1]:
        told = number if abs(number) < 1 << 128 else _VAST
        raise Unfit(f"{name} is {told}, which {dtype} cannot hold")
    return number


def bind_names(
    manifest: Any, arrays: Mapping[str, Strided], numbers: Mapping[str, Any]
) -> dict[str, int]:
    """What symbols and derived names mean, of arrays and numbers by the names of their parameters.
    Raises Unfit for arrays that do not fit."""
    tensors = [param for param in manifest.params if param.name in arrays]
    found = bind_symbols(manifest.symbols, tensors, arrays, numbers)
    for name, (value, origin) in found.items():
        check_symbol(name, value, origin=f", from {origin}")
    names = {name: value for name, (value, _) in found.items()}
    for param in tensors:
        check_shape(param, arrays[param.name], {**numbers, **names}, found)
    for name, multiple in manifest.multiples:
        value, origin = found[name]
        if value % multiple:
            raise Unfit(
                f"{name} = {value} from {origin} is no multiple of {multiple}, as "
                f"T.dynamic({name!r}, multiple_of={multiple}) says",
                f"pad {origin}, or leave out multiple_of",
            )
    check_overlaps(tensors, arrays)
    for name, expression in manifest.derived:
        names[name] = evaluate(expression, {**numbers, **names})
        check_symbol(name, names[name])  # kernels compute it, too
    for step in manifest.steps:
        check_steps(step.place, step.expression, {**numbers, **names}, INDEX_LIMIT, IN_64_BITS)
    return names


def bind_symbols(
    symbols: Sequence[str], tensors: Sequence[Any], arrays: Mapping[str, Strided],
    numbers: Mapping[str, Any],
) -> dict[str, tuple[int, str]]:  # fmt: skip
    """Value of every symbol and the parameter it came from: bare dimensions first, then what can be
    solved for (K from 2 * K). Raises Unfit where a symbol stays unknown."""
    bound: dict[str, tuple[int, str]] = {}
    sizes = [(expr, size, t.name) for t in tensors for expr, size in sizes_of(t, arrays[t.name])]
    for expr, size, name in sizes:
        if isinstance(expr, str) and expr in symbols and expr not in bound:
            bound[expr] = (size, name)
    pending = True
    while pending:
        pending = False
        known = {**numbers, **{symbol: value for symbol, (value, _) in bound.items()}}
        for expr, size, name in sizes:
            unknown = {n for n in names_in(expr) if n not in known}
            if len(unknown) == 1 and (symbol := unknown.pop()) in symbols:
                value = solve(expr, size, known)
                if value is not None:
                    bound[symbol] = (value, name)
                    pending = True
                    break
    missing = [symbol for symbol in symbols if symbol not in bound]
    if missing:
        raise Unfit(f"no argument tells the value of {', '.join(missing)}")
    return bound


def fact_holds(fact: Any, array: Strided) -> bool:
    """Whether `array` is as `fact` says."""
    if fact.kind == "below":
        return array.extent_bytes < int(fact.bytes)
    if fact.kind == "whole":
        return row_bytes(array) % int(fact.bytes) == 0
    # Nothing can be said of an array of no elements: it has no address, and TMA no map of it.
    if array.empty or array.pointer % fact.bytes:
        return False
    outer = zip(array.shape[:-1], array.strides[:-1], strict=True)
    if any(s % fact.bytes or (s <= 0 and n > 1) for n, s in outer):
        return False
    return len(array.shape) < 2 or row_bytes(array) % int(fact.bytes) == 0


def row_bytes(array: Strided) -> int:
    """The length of a row; of an array without dimensions 0."""
    return array.shape[-1] * array.itemsize if array.shape else 0


def failed_facts(variant: Any, arrays: Mapping[str, Strided]) -> list[Any]:
    """What a variant requires and is not so."""
    return [fact for fact in variant.requires if not fact_holds(fact, arrays[fact.tensor])]


def launches_nothing(variant: Any, names: Mapping[str, Any]) -> bool:
    """Whether all grids of a variant are empty: then no fact matters."""
    return all(min(evaluate(n, names) for n in launch.grid) <= 0 for launch in variant.launches)
