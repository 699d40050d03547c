"""What a product is given, checked: shapes, dtypes, places; what its epilogue reads; its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import ArgumentError, Loc, TilecError
from ..ir.dtypes import HOLDERS, find_dtype, long_name
from ..language.dtypes import element_type
from ..language.places import locate_outside
from ..runtime.allocate import allocate, hand_over
from ..runtime.arrays import ArrayView, is_array, view_array
from .epilogues import Epilogue, epilogue_of, in_force, in_their_names
from .forms import EXTRAS, Extra
from .matrices import Matrix, collide

RESULTS = {
    "f16": "f16", "bf16": "bf16", "f32": "f32", "tf32": "f32", "f64": "f64", "i8": "i32",
    "u8": "i32", "e4m3": "f16", "e5m2": "f16", "e4m3fnuz": "f16", "e5m2fnuz": "f16",
}  # fmt: skip
"""The dtypes that are multiplied, and that of the result where none is asked for."""


_MATMUL = "matmul: "  # whose arguments they are, unless the call says otherwise


def refuse(message: str, hint: str = "", code: str = "TLC0810") -> ArgumentError:
    """The error of arguments that do not fit."""
    return ArgumentError(code, _MATMUL + message, hint=hint)


@dataclass(frozen=True)
class Options:
    """What a product is given beside its two operands; `operands` are those of the epilogue."""

    out: Any = None
    out_dtype: object = None
    in_dtype: object = None
    epilogue: Callable[..., Any] | None = None
    exact: bool = False
    operands: Mapping[str, Any] = field(default_factory=dict)
    stream: int | None = None
    tiled: bool = False  # a schedule is given, so there are to be tiles

    @classmethod
    def among(cls, given: Mapping[str, Any]) -> Options:
        """Options by name; what is none is an operand."""
        names = {"out", "out_dtype", "in_dtype", "epilogue", "exact"} & given.keys()
        operands = {name: value for name, value in given.items() if name not in names}
        return cls(**{name: given[name] for name in names}, operands=operands)


class AtTheCall:
    """Context of a call of `name` with an epilogue and its operands: what is wrong with arguments is
    wrong at the call, in its names, whoever notices."""

    def __init__(
        self, name: str, epilogue: Callable[..., Any] | None, operands: Iterable[str]
    ) -> None:
        self._name = name
        self._epilogue = epilogue
        self._operands = operands
        self._token: Token[Callable[..., Any] | None] | None = None

    def __enter__(self) -> None:
        if self._epilogue is not None:
            self._token = in_force.set(self._epilogue)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            in_force.reset(self._token)
        if not isinstance(error, TilecError):
            return
        if error.message.startswith(_MATMUL):
            error.message = f"{self._name}: {error.message.removeprefix(_MATMUL)}"
        names = tuple(self._operands)
        error.message = in_their_names(error.message, names)
        error.hint = in_their_names(error.hint, names)
        if isinstance(error, ArgumentError) or _is_ours(error.loc):
            error.loc = locate_outside(str(__package__))


def _is_ours(loc: Loc) -> bool:
    """Whether a place is unknown, or in the programs of this package: not the user's."""
    return not loc.known or Path(loc.file).parent == Path(__file__).parent


def read_matrix(name: str, array: Any) -> Matrix:
    """An argument as matrices."""
    view = read_array(name, array)
    if len(view.shape) < 2:
        raise refuse(
            f"{name} has shape {view.shape}, expected a matrix",
            f"{name}[None, :] is a row, {name}[:, None] a column",
        )
    return Matrix(name, view)


def read_dtypes(a: Matrix, b: Matrix, in_dtype: object) -> tuple[str, str]:
    """The dtypes that are multiplied; short names, as all below. They differ only where both are
    8-bit floats."""
    given = in_dtype if isinstance(in_dtype, tuple) else (in_dtype, in_dtype)
    if len(given) != 2:
        raise refuse(f"in_dtype={in_dtype!r}", "one dtype, or those of a and b")
    left, right = (
        m.view.dtype if spec is None else element_type(spec).name
        for m, spec in zip((a, b), given, strict=True)
    )
    for dtype in (left, right):
        if dtype not in RESULTS:
            known = ", ".join(long_name(name) for name in RESULTS)
            raise refuse(f"{long_name(dtype)} is not multiplied", f"dtypes are {known}", "TLC0811")
    if left != right and not {left, right} <= {"e4m3", "e5m2"}:
        raise refuse(f"a has dtype {left}, b has {right}", "convert one of them")
    return left, right


def read_shape(a: Matrix, b: Matrix) -> tuple[int, ...]:
    """The shape of the product."""
    if a.columns != b.rows:
        raise refuse(
            f"a has {a.columns} columns and b {b.rows} rows: shapes {a.view.shape} and "
            f"{b.view.shape}",
            "the last dimension of a is summed with the second last of b; b.T is a view",
        )
    try:
        batch = np.broadcast_shapes(a.batch, b.batch)
    except ValueError:
        raise refuse(
            f"a has a batch of {a.batch}, b of {b.batch}",
            "extents before the last two must be equal, or 1",
        ) from None
    return (*batch, a.rows, b.columns)


def check_place(view: ArrayView, a: Matrix, name: str) -> None:
    """Refuses an array that is elsewhere than `a`, or another library's."""
    if view.device != a.view.device:
        raise refuse(f"{name} is on {view.device}, a on {a.view.device}", "move one of them")
    if view.library != a.view.library:
        raise refuse(
            f"{name} is an array of {view.library}, a of {a.view.library}",
            "pass arrays of one library; its from_dlpack converts without a copy",
        )


def check_apart(made: Matrix, **read: ArrayView) -> None:
    """Refuses a result in the memory of what is read while it is written, by name."""
    for name, view in read.items():
        if collide(view, made.view):
            raise refuse(
                f"out lies in the memory of {name}, which is read while out is written",
                "pass another array",
            )


def read_epilogue(options: Options, indices: str) -> Epilogue | None:
    """The epilogue, which is called with a sum, an index for each of the letters, and operands."""
    operands = options.operands
    if options.epilogue is None:
        if operands:
            raise refuse(
                f"there is no option {next(iter(operands))!r}",
                "arrays and numbers by name are operands of an epilogue, and there is none",
            )
        return None
    shown = ", ".join(["x", *indices, *operands])
    if not callable(options.epilogue):
        raise refuse(f"epilogue is {options.epilogue!r}", f"a function of ({shown})", "TLC0812")
    try:
        signature(options.epilogue).bind(None, *indices, **operands)
    except TypeError as problem:
        raise refuse(
            f"the epilogue cannot be called with ({shown}): {problem}",
            "x is the sum, behind it stand its indices, and the operands come by name",
            "TLC0812",
        ) from problem
    except ValueError:  # a callable that does not tell its parameters: its call will
        pass
    return epilogue_of(options.epilogue, tuple(operands))


def read_extras(operands: Mapping[str, Any], a: Matrix) -> tuple[tuple[Extra, ...], list[Any]]:
    """The operands of an epilogue as the kernel sees them, and as they are passed."""
    if len(operands) >= EXTRAS:
        hint = "stack some of them in one array"
        raise refuse(f"{len(operands)} operands, and {EXTRAS - 1} are the most", hint, "TLC0812")
    extras, values = [], []
    for name, value in operands.items():
        if not is_array(value):
            dtype = _number(name, value)
            # Beside sums of 64 bits a number keeps its own.
            dtype = "f64" if (dtype, a.view.dtype) == ("f32", "f64") else dtype
            extras.append(Extra(name, dtype, 0))
            values.append(as_number(value))
            continue
        view = read_array(name, value)
        check_place(view, a, name)
        if not view.shape:
            raise refuse(f"{name} has no dimension", f"{name}.reshape(1), read as {name}[0]")
        dense = view.strides[-1] == view.itemsize or view.shape[-1] <= 1
        extras.append(Extra(name, find_dtype(view.dtype).name, len(view.shape), dense))
        values.append(value)
    return tuple(extras), values


def make_result(
    a: Matrix, shape: tuple[int, ...], dtype: str, options: Options
) -> tuple[Any, Matrix, str]:
    """The caller's array for the result, its matrices, and the dtype that they are written as."""
    wanted = None if options.out_dtype is None else element_type(options.out_dtype).name
    if options.out is not None:
        made = read_matrix("out", options.out)
        check_place(made.view, a, "out")
        if made.view.shape != shape:
            raise refuse(f"out has shape {made.view.shape}, the product {shape}")
        if made.view.readonly:
            raise refuse("out is read-only", "pass an array that can be written")
        if made.view.overlaps_itself:
            steps = f"strides of {made.view.strides} bytes for shape {shape}"
            raise refuse(f"out has {steps}: its elements may overlap", "pass another array")
        if wanted is None:  # an array like a's holds what a's is read as
            alike = made.view.dtype == a.view.dtype and dtype != "tf32"
            return options.out, made, dtype if alike else made.view.dtype
        holders = (holder.name for holder in HOLDERS.get(find_dtype(wanted), ()))
        if made.view.dtype not in (wanted, *holders):
            raise refuse(
                f"out has dtype {made.view.dtype}, and out_dtype is {wanted}",
                "leave out_dtype out, or pass an array that holds it",
            )
        return options.out, made, wanted
    kind = wanted or RESULTS[dtype]
    if a.view.library != "numpy" and a.view.device.kind == "cpu":
        raise refuse(
            f"a is an array of {a.view.library} in the host's memory",
            "pass a NumPy array (the interpreter runs it), or one on a GPU",
        )
    storage = storage_of(a, kind, dtype)
    array = allocate(a.view.library, a.view.device, shape, storage, options.stream)
    return hand_over(a.view.library, array), Matrix("out", view_array(array)), kind


def storage_of(a: Matrix, kind: str, dtype: str) -> str:
    """The dtype of an array that is made for results of `kind`: the one that `a` has where that
    holds them already, bits where the library of `a` has no such dtype."""
    if kind == dtype != "tf32":
        return a.view.dtype
    if kind == "tf32":
        return "f32"
    if a.view.library in _WITH_SHORT_FLOATS or kind not in _BITS:
        return kind
    return _BITS[kind]


_WITH_SHORT_FLOATS = ("numpy", "torch")  # NumPy through ml_dtypes
_BITS = {"bf16": "u16", "e4m3": "u8", "e5m2": "u8", "e4m3fnuz": "u8", "e5m2fnuz": "u8"}


def read_array(name: str, array: Any) -> ArrayView:
    """An argument as the runtime sees it. Raises ArgumentError for what is no array, and for strides below 0."""
    if not is_array(array):
        raise refuse(
            f"{name} is {type(array).__name__}, expected an array",
            "pass an array of NumPy, cupy, torch or JAX",
        )
    view = view_array(array)
    if any(s < 0 and n > 1 for s, n in zip(view.strides, view.shape, strict=True)):
        raise refuse(f"{name} has strides of {view.strides} bytes, some below 0", "pass a copy")
    # The stride of a single element says nothing, and may be anything.
    strides = tuple(max(0, s) for s in view.strides)
    return view if strides == view.strides else replace(view, strides=strides)


def as_number(value: Any) -> Any:
    """A number of NumPy's as one of Python's; all else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def number_dtype(value: object) -> str | None:
    """The dtype that a number is passed as; None for what is no number of a kernel's."""
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | np.integer):
        if not -(1 << 63) <= value < 1 << 63:
            return None
        return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"
    return "f32" if isinstance(value, float | np.floating) else None


def _number(name: str, value: object) -> str:
    dtype = number_dtype(value)
    if dtype is not None:
        return dtype
    if isinstance(value, int | np.integer):
        raise refuse(f"{name} is {value}, which 64 bits cannot hold", "pass a float")
    raise refuse(
        f"{name} is {type(value).__name__}, expected an array or a number",
        "what the epilogue's own code computes with may also be read from outside of it",
    )
