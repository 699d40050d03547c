"""The arguments of a call: arrays of one device and library, of the dtypes that the parameters have,
that fit each other (launcher/arguments.py); the variant that takes them, or why none does.

Messages are in the kernel's own names, as in
`matmul: B has shape (64, 32), expected (N, K) = (64, 128), with K = 128 from A`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..backends.launcher.arguments import (
    INTEGERS,
    bind_names,
    failed_facts,
    launches_nothing,
    number_of,
    row_bytes,
)
from ..backends.launcher.arrays import PACKED, check_place, contiguous_strides
from ..backends.launcher.unfit import Unfit
from ..backends.manifest import (
    MULTIPROCESSORS,
    Fact,
    Manifest,
    Param,
    ScalarParam,
    TensorParam,
    Variant,
)
from ..errors import ArgumentError
from ..ir.dtypes import DTYPES, HOLDERS, long_name
from ..language.spec import ArraySpec
from .arrays import ArrayDevice, ArrayView, is_array, item_bytes, view_array

_WIDE = ("f16", "bf16", "f32", "tf32", "f64")  # what a usual number fits without a closer look


@contextmanager
def told_of(program: str) -> Iterator[None]:
    """What is unfit becomes an ArgumentError that names the program."""
    try:
        yield
    except Unfit as problem:
        raise _refuse(program, problem.message, problem.hint) from None


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
    views, scalars = _read(program, inputs, arguments)
    device, library = _check_places(program, views)
    env = {name: value for name, value in scalars.items() if isinstance(value, int)}
    with told_of(program):
        return Bound(bind_names(manifest, views, env), views, scalars, device, library)


def check_examples(manifest: Manifest, examples: Sequence[object]) -> None:
    """Raises ArgumentError for what no call could be like: examples are arguments, or
    `tilec.spec`, from anywhere."""
    inputs = manifest.inputs
    given = [
        _view_of(e) if isinstance(e, ArraySpec) and isinstance(p, TensorParam) else e
        for p, e in zip(inputs, examples, strict=True)
    ]
    views, scalars = _read(manifest.program, inputs, given)
    env = {name: value for name, value in scalars.items() if isinstance(value, int)}
    with told_of(manifest.program):
        bind_names(manifest, views, env)


def _view_of(spec: ArraySpec) -> ArrayView:
    """An array like it, at no address."""
    shape, dtype = spec.shape, spec.dtype.name
    if dtype in PACKED and shape:  # arrives as bytes of two elements
        shape, dtype = (*shape[:-1], -(-shape[-1] // 2)), "u8"
    strides = contiguous_strides(shape, item_bytes(dtype))
    return ArrayView(0, shape, strides, dtype, ArrayDevice("cpu"), False, "", spec)


def _read(
    program: str, inputs: Sequence[Param], arguments: Sequence[object]
) -> tuple[dict[str, ArrayView], dict[str, int | float]]:
    """The arrays and the numbers among arguments, by name, checked each by itself."""
    views: dict[str, ArrayView] = {}
    scalars: dict[str, int | float] = {}
    for param, argument in zip(inputs, arguments, strict=True):
        if isinstance(param, ScalarParam):
            scalars[param.name] = check_scalar(program, param, argument)
            continue
        if not isinstance(argument, ArrayView) and not is_array(argument):
            raise _refuse(
                program,
                f"{param.name} is {type(argument).__name__}, expected an array of {param.dtype}",
                "pass an array of NumPy, cupy, torch or JAX, or anything with __dlpack__",
            )
        views[param.name] = view_array(argument)
        _check_element(program, param, views[param.name])
    return views, scalars


def check_scalar(program: str, param: ScalarParam, value: object) -> int | float:
    """`value` as the number that `param` is passed as. Raises ArgumentError where that would change
    it."""
    limits = INTEGERS.get(param.dtype)
    # The usual case first: this is on the path of every call.
    if limits is not None and type(value) is int and limits[0] <= value < limits[1]:
        return value
    if limits is None and type(value) is float and abs(value) < 65504.0 and param.dtype in _WIDE:
        return value
    if is_array(value) or not hasattr(value, "__index__") and not hasattr(value, "__float__"):
        raise _refuse(
            program,
            f"{param.name} is {type(value).__name__}, expected a number ({param.dtype})",
            "x.item() is the number that an array of one element holds" if is_array(value) else "",
        )
    with told_of(program):
        return number_of(param, value)


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
        failed = failed_facts(variant, seen)
        if not failed or env is not None and launches_nothing(variant, env):
            return variant
        failures += [describe_fact(fact, seen[fact.tensor]) for fact in failed]
    told = "no variant takes these arguments: " + "; ".join(dict.fromkeys(failures))
    hint = "pass aligned arrays, or compile for these: kernel.compile(tilec.spec(..., align=1))"
    if any(view.empty for view in seen.values()):
        hint = "TMA has no map of an array without elements: leave out the call, or use T.copy"
    error = _refuse(manifest.program, told, hint)
    raise NoVariant(error.code, error.message, hint=error.hint)


def refused_facts(
    manifest: Manifest, variant: Variant, views: Mapping[str, ArrayView], env: Mapping[str, int]
) -> list[Fact]:
    """What keeps a variant from taking arguments; nothing where its grids are empty."""
    if launches_nothing(variant, env):
        return []
    return failed_facts(variant, _as_addressed(manifest, views))


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
    row = row_bytes(view)
    if fact.kind == "whole":
        return f"{fact.tensor} is {row} bytes long, expected a multiple of {fact.bytes}"
    if view.pointer % fact.bytes:
        return (
            f"{fact.tensor} starts at {view.pointer:#x}, expected a multiple of {fact.bytes} bytes"
        )
    return (
        f"{fact.tensor} has strides of {view.strides} bytes and rows of {row}, expected multiples "
        f"of {fact.bytes}, no outer stride of 0"
    )


def _check_element(program: str, param: TensorParam, view: ArrayView) -> None:
    name = param.name
    holders = [holder.name for holder in HOLDERS.get(DTYPES[param.dtype], ())]
    if view.dtype not in (param.dtype, *holders):
        raise _refuse(
            program,
            f"{name} has dtype {view.dtype}, expected {param.dtype}",
            "pass bytes of two elements, the first in the low half: tilec.quantize.pack makes them"
            if param.dtype in PACKED
            else f"convert it to {long_name(param.dtype)}, or declare the parameter as it is",
        )
    with told_of(program):
        check_place(param, view)
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


def _refuse(program: str, message: str, hint: str = "") -> ArgumentError:
    return ArgumentError("TLC0803", f"{program}: {message}", hint=hint)
