"""Arguments against parameters: binds symbols, and refuses what does not fit, in the kernel's own
names.

Messages say the parameter, what was expected and what came, as in
`matmul: B has shape (64, 32), expected (N, K) = (64, 128), with K = 128 from A`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..backends.launch_limits import (
    WIDE,
    blocks_problem,
    evaluate,
    format_expr,
    names_in,
    solve,
    steps_problem,
    symbol_problem,
)
from ..backends.manifest import (
    DTYPE_BYTES,
    MULTIPROCESSORS,
    Expr,
    Fact,
    LaunchSpec,
    Manifest,
    ScalarParam,
    TensorParam,
    Variant,
)
from ..errors import ArgumentError
from ..ir.dtypes import DTYPES, PAIRS
from .arrays import ArrayDevice, ArrayView, contiguous_strides, is_array, view_array
from .overlaps import kept_apart, overlapping

_BYTES = ("i8", "u8")
PACKED = tuple(dtype.name for dtype in PAIRS)  # two to a byte, along the last dimension
# Libraries without these types keep them in others; between two of them nothing is reinterpreted.
_HOLDERS = {
    "e4m3": _BYTES, "e5m2": _BYTES, "e4m3fnuz": _BYTES, "e5m2fnuz": _BYTES, "e2m3": _BYTES,
    "e3m2": _BYTES, "i4": _BYTES, "u4": _BYTES, "e2m1": (*_BYTES, "e2m1x2"), "tf32": ("f32",), "bf16": ("i16", "u16"),
}  # fmt: skip
_INTEGERS = {"i8": (-(1 << 7), 1 << 7), "i16": (-(1 << 15), 1 << 15), "i32": (-(1 << 31), 1 << 31),
             "i64": (-(1 << 63), 1 << 63), "u8": (0, 1 << 8), "u16": (0, 1 << 16),
             "u32": (0, 1 << 32),
             "u64": (0, 1 << 64), "bool": (0, 2)}  # fmt: skip
IN_PARTS = "pass the array in parts"
_WIDE = ("f16", "bf16", "f32", "tf32", "f64")  # what a usual number fits without a closer look
# From these on a finite number rounds to infinity, or to NaN or the largest where there is none.
_FLOATS = {
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


@dataclass(frozen=True)
class Bound:
    """Checked arguments: symbols and integer scalars by value, arrays and scalars by name."""

    symbols: Mapping[str, int]
    views: Mapping[str, ArrayView]
    scalars: Mapping[str, int | float]
    device: ArrayDevice | None
    library: str

    def environment(self, multiprocessors: int) -> dict[str, int]:
        """What the names in a manifest's expressions mean."""
        env = {MULTIPROCESSORS: multiprocessors, **self.symbols}
        env.update({name: value for name, value in self.scalars.items() if isinstance(value, int)})
        return env


def bind_arguments(manifest: Manifest, arguments: Sequence[object]) -> Bound:
    """`arguments`, one for each of `manifest.inputs`, checked against them. Raises
    ArgumentError."""
    inputs = manifest.inputs
    program = manifest.program
    if len(arguments) != len(inputs):
        names = ", ".join(p.name for p in inputs)
        raise _refuse(program, f"takes {len(inputs)} arguments ({names}), {len(arguments)} came")
    views: dict[str, ArrayView] = {}
    scalars: dict[str, int | float] = {}
    tensors: list[TensorParam] = []
    for param, argument in zip(inputs, arguments, strict=True):
        if isinstance(param, ScalarParam):
            scalars[param.name] = check_scalar(program, param, argument)
            continue
        if not isinstance(argument, ArrayView) and not is_array(argument):
            raise _refuse(
                program,
                f"{param.name} is {type(argument).__name__}, expected an array of {param.dtype}",
            )
        views[param.name] = view_array(argument)
        tensors.append(param)
        _check_element(program, param, views[param.name])
    device, library = _check_places(program, views)
    env = {name: value for name, value in scalars.items() if isinstance(value, int)}
    symbols = _bind_symbols(manifest, tensors, views, env)
    for name, (value, origin) in symbols.items():
        _need(program, symbol_problem(name, value, origin=f", from {origin}"), IN_PARTS)
    for param in tensors:
        _check_shape(
            program,
            param,
            views[param.name],
            {**env, **{k: v for k, (v, _) in symbols.items()}},
            symbols,
        )
    _check_multiples(manifest, symbols)
    _check_overlaps(program, tensors, views)
    values = {name: value for name, (value, _) in symbols.items()}
    for name, expr in manifest.derived:
        values[name] = evaluate(expr, {**env, **values})
        _need(program, symbol_problem(name, values[name]), IN_PARTS)  # kernels compute it, too
    return Bound(values, views, scalars, device, library)


def check_launch(manifest: Manifest, launch: LaunchSpec, env: Mapping[str, int]) -> None:
    """Raises ArgumentError where blocks are launched, and they, or a symbol that their kernel takes,
    are too many."""
    check_blocks(manifest, launch.symbol, launch.grid, launch.blocks, launch.cluster, env)
    if min(evaluate(extent, env) for extent in launch.grid) <= 0:
        return
    for argument in launch.arguments:
        if argument.kind == "symbol":
            problem = symbol_problem(argument.name, env[argument.name], argument.dtype)
            _need(manifest.program, problem, IN_PARTS)


def check_blocks(
    manifest: Manifest, symbol: str, grid: Sequence[Expr], blocks: Sequence[Expr] | None,
    cluster: int, env: Mapping[str, int],
) -> None:  # fmt: skip
    """Raises ArgumentError for more blocks than go, or than 32 bits count."""
    scalars = [param for param in manifest.params if isinstance(param, ScalarParam)]
    wide = {param.name for param in scalars if param.dtype in WIDE}
    problem = blocks_problem(symbol, grid, blocks, cluster, env, wide)
    _need(manifest.program, problem, "give each block more of the work")


def check_scalar(program: str, param: ScalarParam, value: object) -> int | float:
    """`value` as the number that `param` is passed as. Raises ArgumentError where that would change
    it."""
    limits = _INTEGERS.get(param.dtype)
    # The usual case first: this is on the path of every call.
    if limits is not None and type(value) is int and limits[0] <= value < limits[1]:
        return value
    if limits is None and type(value) is float and abs(value) < 65504.0 and param.dtype in _WIDE:
        return value
    if is_array(value) or not hasattr(value, "__index__") and not hasattr(value, "__float__"):
        raise _refuse(
            program, f"{param.name} is {type(value).__name__}, expected a number ({param.dtype})"
        )
    if param.dtype == "bool" and isinstance(value, np.bool_):
        return int(value)
    if limits is None:
        real = float(value)  # type: ignore[arg-type]
        dtype = DTYPES[param.dtype]
        outside = abs(real) >= _FLOATS[dtype.name] and (
            math.isfinite(real) or not dtype.has_infinity
        )
        if outside or math.isnan(real) and not dtype.has_nan:
            raise _refuse(program, f"{param.name} is {real:g}, which {param.dtype} cannot hold")
        return real
    if not hasattr(value, "__index__"):
        raise _refuse(program, f"{param.name} is {value!r}, expected an integer ({param.dtype})")
    number = operator.index(value)
    if not limits[0] <= number < limits[1]:
        raise _refuse(program, f"{param.name} is {number}, which {param.dtype} cannot hold")
    return number


def fact_holds(fact: Fact, view: ArrayView) -> bool:
    """Whether `view` is as `fact` says."""
    if fact.kind == "below":
        return view.extent_bytes < fact.bytes
    # Nothing can be said of an array of no elements: it has no address, and TMA no map of it.
    if view.empty or view.pointer % fact.bytes:
        return False
    outer = zip(view.shape[:-1], view.strides[:-1], strict=True)
    if any(s % fact.bytes or (s <= 0 and n > 1) for n, s in outer):
        return False
    return len(view.shape) < 2 or view.shape[-1] * view.itemsize % fact.bytes == 0


class NoVariant(ArgumentError):
    """The arguments are right, but no variant that was compiled takes them."""


def pick_variant(
    manifest: Manifest, views: Mapping[str, ArrayView], env: Mapping[str, int] | None = None
) -> Variant:
    """The first variant whose facts all hold, or whose grids are empty where names mean `env`.
    Raises NoVariant with the facts that do not hold.
    """
    failures: list[str] = []
    seen = _as_addressed(manifest, views)
    for variant in manifest.variants:
        failed = [fact for fact in variant.requires if not fact_holds(fact, seen[fact.tensor])]
        if not failed or env is not None and _launches_nothing(variant, env):
            return variant
        failures += [describe_fact(fact, seen[fact.tensor]) for fact in failed]
    told = "no variant takes these arguments: " + "; ".join(dict.fromkeys(failures))
    hint = "pass aligned arrays, or compile for these: kernel.compile(tilec.spec(..., align=1))"
    if any(view.empty for view in seen.values()):
        hint = "TMA has no map of an array without elements: leave out the call, or use T.copy"
    error = _refuse(manifest.program, told, hint)
    raise NoVariant(error.code, error.message, hint=error.hint)


def _launches_nothing(variant: Variant, env: Mapping[str, int]) -> bool:
    return all(min(evaluate(n, env) for n in launch.grid) <= 0 for launch in variant.launches)


def _as_addressed(manifest: Manifest, views: Mapping[str, ArrayView]) -> dict[str, ArrayView]:
    """`views` with the strides by which a program addresses them: where it states none, those of
    row-major order, whatever an array says of its dimensions of one element.
    """
    seen = dict(views)
    for tensor in (*manifest.tensors, *manifest.workspaces):
        view = seen.get(tensor.name)
        if view is not None and tensor.strides is None:
            strides = contiguous_strides(view.shape, view.itemsize)
            seen[tensor.name] = replace(view, strides=strides)
    return seen


def describe_fact(fact: Fact, view: ArrayView) -> str:
    """Why `view` is not as `fact` says, in words."""
    if view.empty:
        return f"{fact.tensor} has no elements"
    if fact.kind == "below":
        return f"{fact.tensor} spans {view.extent_bytes} bytes, expected fewer than {fact.bytes}"
    if view.pointer % fact.bytes:
        return (
            f"{fact.tensor} starts at {view.pointer:#x}, expected a multiple of {fact.bytes} bytes"
        )
    row = view.shape[-1] * view.itemsize if view.shape else 0
    return (
        f"{fact.tensor} has strides of {view.strides} bytes and rows of {row}, expected multiples "
        f"of {fact.bytes}, no outer stride of 0"
    )


def _check_element(program: str, param: TensorParam, view: ArrayView) -> None:
    name = param.name
    if view.dtype != param.dtype and view.dtype not in _HOLDERS.get(param.dtype, ()):
        raise _refuse(
            program,
            f"{name} has dtype {view.dtype}, expected {param.dtype}",
            "pass bytes of two elements, the first in the low half: tilec.quantize.pack makes them"
            if param.dtype in PACKED
            else "",
        )
    if len(view.shape) != len(param.shape):
        expected = _shape_text(param.shape)
        raise _refuse(
            program,
            f"{name} has shape {view.shape}, expected {len(param.shape)} dimensions {expected}",
        )
    if view.pointer % view.itemsize and not view.empty:
        raise _refuse(
            program,
            f"{name} starts at {view.pointer:#x}, no multiple of the {view.itemsize} bytes of its "
            "elements",
            "pass a copy",
        )
    if view.readonly and "w" in param.access:
        raise _refuse(
            program,
            f"{name} is read-only, and the kernel writes it",
            "pass a copy that can be written",
        )


def _check_places(program: str, views: Mapping[str, ArrayView]) -> tuple[ArrayDevice | None, str]:
    first: tuple[str, ArrayView] | None = None
    for name, view in views.items():
        if first is None:
            first = (name, view)
        elif view.device != first[1].device:
            raise _refuse(
                program, f"{name} is on {view.device}, but {first[0]} is on {first[1].device}",
                "move them to one device",
            )  # fmt: skip
        elif view.library != first[1].library:
            raise _refuse(
                program,
                f"{name} is an array of {view.library}, but {first[0]} of {first[1].library}",
                "pass arrays of one library; its from_dlpack converts without a copy",
            )  # fmt: skip
    return (first[1].device, first[1].library) if first else (None, "numpy")


def _check_overlaps(
    program: str, tensors: Sequence[TensorParam], views: Mapping[str, ArrayView]
) -> None:
    addresses = [views[tensor.name].pointer for tensor in tensors]
    found = overlapping(kept_apart(tensors, views), addresses)
    if found is not None:
        raise _refuse(
            program,
            f"{tensors[found.written].name}, which the kernel writes, lies partly in the memory of "
            f"{tensors[found.other].name}",
            "pass a copy, or one array for both",
        )


def _bind_symbols(
    manifest: Manifest,
    tensors: Sequence[TensorParam],
    views: Mapping[str, ArrayView],
    env: Mapping[str, int],
) -> dict[str, tuple[int, str]]:
    """Value of every symbol and the parameter it came from: bare dimensions first, then what can be
    solved for (K from 2 * K)."""
    bound: dict[str, tuple[int, str]] = {}
    sizes = [(expr, size, t.name) for t in tensors for expr, size in _sizes(t, views[t.name])]
    symbols = set(manifest.symbols)
    for expr, size, name in sizes:
        if isinstance(expr, str) and expr in symbols and expr not in bound:
            bound[expr] = (size, name)
    pending = True
    while pending:
        pending = False
        known = {**env, **{symbol: value for symbol, (value, _) in bound.items()}}
        for expr, size, name in sizes:
            unknown = {n for n in names_in(expr) if n not in known}
            if len(unknown) == 1 and (symbol := unknown.pop()) in symbols:
                value = solve(expr, size, known)
                if value is not None:
                    bound[symbol] = (value, name)
                    pending = True
                    break
    missing = [symbol for symbol in manifest.symbols if symbol not in bound]
    if missing:
        raise _refuse(manifest.program, f"no argument tells the value of {', '.join(missing)}")
    return bound


def _sizes(param: TensorParam, view: ArrayView) -> list[tuple[Expr, int]]:
    """Expressions of a parameter with the sizes that came: extents, then strides in elements."""
    sizes = list(zip(param.shape, view.shape, strict=True))
    if param.dtype in PACKED and isinstance(param.shape[-1], tuple):
        sizes[-1] = (param.shape[-1][1], 2 * view.shape[-1])
    if param.strides is not None:
        itemsize = DTYPE_BYTES[param.dtype]
        steps = zip(param.strides, view.strides, view.shape, strict=True)
        # The stride of a single element says nothing, and may be anything.
        sizes += [(expr, stride // itemsize if n > 1 else min(max(0, stride // itemsize), 1 << 30))
                  for expr, stride, n in steps]  # fmt: skip
    return sizes


def _check_multiples(manifest: Manifest, symbols: Mapping[str, tuple[int, str]]) -> None:
    for name, multiple in manifest.multiples:
        value, tensor = symbols[name]
        if value % multiple:
            raise _refuse(
                manifest.program,
                f"{name} = {value} from {tensor} is no multiple of {multiple}, as "
                f"T.dynamic({name!r}, multiple_of={multiple}) says",
                f"pad {tensor}, or leave out multiple_of",
            )


def _check_shape(
    program: str,
    param: TensorParam,
    view: ArrayView,
    env: Mapping[str, int],
    symbols: Mapping[str, tuple[int, str]],
) -> None:
    expected = tuple(evaluate(expr, env) for expr in param.shape)
    for expr in (*param.shape, *(param.strides or ())):
        _need(program, steps_problem(f"an extent of {param.name}", expr, env))
    if param.dtype in PACKED and isinstance(param.shape[-1], tuple):
        elements = evaluate(param.shape[-1][1], env)
        if elements % 2:
            raise _refuse(
                program,
                f"a row of {param.name} is {elements} elements of {param.dtype}; two share a byte",
                "pass an even number of columns",
            )
    if view.shape != expected:
        names = dict.fromkeys(
            name for expr in param.shape for name in names_in(expr) if name in symbols
        )
        origins = [
            f"{n} = {symbols[n][0]} from {symbols[n][1]}"
            for n in names
            if symbols[n][1] != param.name
        ]
        written = _shape_text(param.shape)
        values = f" = {expected}" if names else ""
        because = f", with {', '.join(origins)}" if origins else ""
        raise _refuse(
            program, f"{param.name} has shape {view.shape}, expected {written}{values}{because}"
        )
    if view.empty:
        return
    if param.strides is None:
        if not view.contiguous:
            raise _refuse(
                program,
                f"{param.name} has strides of {view.strides} bytes, "
                "expected row-major without gaps",
                "pass a contiguous copy, or declare the parameter as T.StridedTensor",
            )  # fmt: skip
        return
    _check_strides(program, param, view, env)


def _check_strides(
    program: str, param: TensorParam, view: ArrayView, env: Mapping[str, int]
) -> None:
    assert param.strides is not None
    itemsize = DTYPE_BYTES[param.dtype]
    for expr, extent, stride in zip(param.strides, view.shape, view.strides, strict=True):
        if extent > 1 and stride < 0:
            raise _refuse(
                program,
                f"{param.name} has strides of {view.strides} bytes, expected none below 0",
                "pass a copy",
            )
        wanted = evaluate(expr, env) * itemsize
        if extent > 1 and stride != wanted:
            raise _refuse(
                program,
                f"{param.name} has strides of {view.strides} bytes, expected {format_expr(expr)} "
                f"elements = {wanted} bytes where it has {stride}",
            )
    if "w" in param.access and overlaps(view):
        raise _refuse(
            program,
            f"{param.name} has strides of {view.strides} bytes for shape {view.shape}: its "
            "elements may overlap, and the kernel writes it",
            "pass a copy that can be written",
        )


def overlaps(view: ArrayView) -> bool:
    """Whether two indices may mean one element: some stride is within the reach of smaller ones."""
    reach = view.itemsize
    for stride, extent in sorted(zip(view.strides, view.shape, strict=True)):
        if extent > 1:
            if stride < reach:
                return True
            reach += (extent - 1) * stride
    return False


def _shape_text(shape: tuple[Expr, ...]) -> str:
    inner = ", ".join(format_expr(expr) for expr in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def _need(program: str, problem: str, hint: str = "") -> None:
    """Raises ArgumentError if there is a problem."""
    if problem:
        raise _refuse(program, problem, hint)


def _refuse(program: str, message: str, hint: str = "") -> ArgumentError:
    return ArgumentError("TLC0803", f"{program}: {message}", hint=hint)
