"""Whether two programs mean the same: both run on the same small random inputs (TILEC_CHECK)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import WrongResult
from ..ir.core import Op, Program, Value, walk
from ..ir.dtypes import PAIRS, DType, u8
from ..ir.ops import builtin_registry
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Atomic
from ..ir.ops.reduce import Reduction
from ..ir.registry import Registry
from ..ir.types import InflightType, MemoryType, ScalarType, TileType
from .compare import EPSILON, SMALLEST, assert_close, assert_exact
from .numbers import Array
from .run import returned, run_program

_EXTENTS = (1, 7, 16, 33, 64, 100, 129)


def random_arguments(program: Program, seed: int) -> dict[str, Any]:
    """Small arguments for a program: symbols get sizes that divide no tile, and some that do.

    Floats are small integers, so that sums of products are exact in any order; integers of 32 bits
    and more are small and not negative, as indices and counts are; others take all their values.
    """
    random = np.random.default_rng(seed)
    sizes = {
        name: int(random.choice(_EXTENTS)) * program.multiples.get(name, 1)
        for name in program.symbols
    }
    for param in program.params:
        if isinstance(param.type, MemoryType):
            for dim in param.type.shape:
                if isinstance(dim, str) and dim not in sizes:
                    sizes[dim] = int(random.choice(_EXTENTS))
            last = param.type.shape[-1] if param.type.shape else 0
            if param.type.dtype in PAIRS and isinstance(last, str):
                sizes[last] += sizes[last] % 2
    found: dict[str, Any] = dict(sizes)
    for param in program.params:
        type_ = param.type
        if isinstance(type_, MemoryType):
            shape = tuple(sizes[d] if isinstance(d, str) else d for d in type_.shape)
            if type_.dtype in PAIRS:
                found[param.hint] = _random(random, (*shape[:-1], shape[-1] // 2), u8)
                continue
            found[param.hint] = _random(random, shape, type_.dtype)
        elif isinstance(type_, ScalarType):
            found[param.hint] = _random(random, (), type_.dtype)[()]
    return found


def _random(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    if dtype.is_float:
        return np.asarray(random.integers(-4, 5, shape)).astype(dtype.numpy)
    if dtype.kind == "bool" or dtype.bits >= 32:
        return np.asarray(random.integers(0, 2 if dtype.kind == "bool" else 8, shape)).astype(
            dtype.numpy
        )
    info = np.iinfo(dtype.numpy)
    return np.asarray(random.integers(int(info.min), int(info.max) + 1, shape)).astype(dtype.numpy)


def same_meaning(
    before: Program,
    after: Program,
    seed: int,
    *,
    registry: Registry | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Runs both programs on copies of the same arguments (random ones unless given) and compares
    what they wrote.

    All results must agree in every bit, unless the program sums floats by ops that leave the order
    open (products of matrices, reductions, scans, atomics). Then floats may differ by one unit in
    their own last place, and by 16 in that of the largest element in the coarsest dtype in which
    anything is summed. Raises WrongResult where they do not agree, and lets the ExecutionError of a
    program that is at fault on these inputs pass.
    """
    registry = builtin_registry() if registry is None else registry
    given = dict(arguments) if arguments is not None else random_arguments(before, seed)
    one, two = _copies(given), _copies(given)
    made = run_program(before, one, registry=registry, seed=seed)
    made_after = run_program(after, two, registry=registry, seed=seed + 1)
    summed = [dtype for op in walk(before.body) if (dtype := _summed_in(op)) and dtype.is_float]
    for param in before.params:
        if isinstance(param.type, MemoryType):
            _compare(param, one[param.hint], two[param.hint], summed)
    for value, x, y in zip(returned(before), made, made_after, strict=True):
        _compare(value, x, y, summed)


def _copies(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.array(x) if isinstance(x, np.ndarray) else x for name, x in arguments.items()}


def _summed_in(op: Op) -> DType | None:
    """The dtype of the sums of an op that may take their terms in any order."""
    match op:
        case Gemm():
            return _dtype(op.accumulator)
        case Reduction() if op.kind in ("sum", "abssum"):
            return op.dtype
        case Atomic() if op.kind == "add":
            return _dtype(op.memory)
        case _:
            return None


def _dtype(value: Value) -> DType:
    type_ = value.type
    type_ = type_.tile if isinstance(type_, InflightType) else type_
    assert isinstance(type_, (MemoryType, TileType))
    return type_.dtype


def _compare(param: Value, one: Array, two: Array, summed: list[DType]) -> None:
    assert isinstance(param.type, MemoryType)
    dtype = param.type.dtype
    if not dtype.is_float or not summed:
        assert_exact(two, one, param.hint)
        return
    if np.array_equal(one.view(np.uint8), two.view(np.uint8)):
        return
    a, b = one.astype(np.float64), two.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        raise WrongResult("TLC0760", f"{param.hint} has NaNs in other places")
    a, b = np.nan_to_num(a, nan=0.0), np.nan_to_num(b, nan=0.0)
    finite = np.abs(a[np.isfinite(a)])
    largest = float(finite.max()) if finite.size else 0.0
    coarsest = max(_unit(np.asarray(largest), each) for each in summed)
    assert_close(b, a, _unit(one, dtype) + 16 * coarsest, dtype, param.hint)


def _unit(x: Array, dtype: DType) -> Array:
    """One unit in the last place of each number, in `dtype`; of integers, whose sums are exact, 0.
    NumPy's own is 0 of the largest 6-bit and 4-bit floats.
    """
    if not dtype.is_float:
        return np.zeros(x.shape)
    finite = np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    _, exponent = np.frexp(np.maximum(np.abs(finite), SMALLEST[dtype.name]))
    unit: Array = np.maximum(np.ldexp(EPSILON[dtype.name], exponent - 1), SMALLEST[dtype.name])
    return unit
