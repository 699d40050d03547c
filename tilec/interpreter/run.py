"""Running a tile-level program on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArgumentError
from ..ir.conversion import pack_pairs, unpack_pairs
from ..ir.core import Access, Program, Value, walk
from ..ir.dtypes import HOLDERS, PAIRS, i4
from ..ir.ops.control import Define, Return
from ..ir.ops.memory import memory_type
from ..ir.registry import Registry
from ..ir.types import MemoryType, ScalarType, Space
from .frame import Finding, Frame, Run
from .memory import Memory, Storage
from .numbers import Array
from .roles import finish
from .rules import install
from .shared_bytes import meeting, share_bytes


def _ignore(finding: Finding) -> None:
    """Where findings go when nobody listens."""


def run_program(
    program: Program,
    arguments: Mapping[str, Any],
    *,
    registry: Registry,
    seed: int = 0,
    check_bounds: bool = False,
    remark: Callable[[Finding], None] = _ignore,
) -> tuple[Array, ...]:
    """Runs `program`, writing results into the arrays of `arguments`; gives what it returns.

    arguments: by the names of the parameters, arrays of the declared dtypes (those that
    NumPy lacks may come as their bits) and numbers. Symbols are bound from the shapes, or given by name. `seed` orders
    blocks and roles. `check_bounds` makes element accesses outside global memory errors. `remark`
    is told of what is no error.

    Raises ArgumentError for arguments that do not fit, ExecutionError (TLC074x, TLC075x) for what
    the program does wrong.
    """
    install(registry)
    run = Run(
        registry=registry,
        random=np.random.default_rng(seed),
        check_bounds=check_bounds,
        remark=remark,
        symbols=bind_symbols(program, arguments),
    )
    frame = Frame(run)
    _bind(frame, program, arguments)
    with np.errstate(all="ignore"):
        finish(frame, frame.execute(program.body))
    _pack_back(frame, program, arguments)
    return tuple(_result(frame.memory(value)) for value in returned(program))


def returned(program: Program) -> tuple[Value, ...]:
    """The memory that a program allocates and gives to its caller."""
    end = program.body.terminator
    return end.inputs if isinstance(end, Return) else ()


def bind_symbols(program: Program, arguments: Mapping[str, Any]) -> dict[str, int]:
    """The value of every symbol: from the first array whose shape names it, else an argument of its
    name.

    Raises ArgumentError where shapes and ranks do not agree.
    """
    symbols: dict[str, int] = {}
    defined = {op.label for op in program.body.ops if isinstance(op, Define)}
    for param in program.params:
        type_ = param.type
        if not isinstance(type_, MemoryType):
            continue
        shape = np.shape(_argument(param, arguments))
        if type_.dtype in PAIRS and shape:
            shape = (*shape[:-1], 2 * shape[-1])
        if len(shape) != len(type_.shape):
            raise ArgumentError(
                "TLC0731",
                f"{param.hint} has {len(shape)} dimensions, not {len(type_.shape)}",
                loc=program.loc,
            )
        for axis, (dim, extent) in enumerate(zip(type_.shape, shape, strict=True)):
            expected = symbols.setdefault(dim, extent) if isinstance(dim, str) else dim
            if extent != expected:
                raise ArgumentError(
                    "TLC0731",
                    f"dimension {axis} of {param.hint} is {extent}, not {expected}"
                    + (f" ({dim})" if isinstance(dim, str) else ""),
                    loc=program.loc,
                )
    for param in program.params:
        if isinstance(param.type, MemoryType) and param.type.strides is not None:
            data = _argument(param, arguments)
            for dim, step in zip(param.type.strides, np.asarray(data).strides, strict=True):
                if isinstance(dim, str) and dim not in defined:
                    symbols.setdefault(dim, step // data.itemsize)
    for name in program.symbols:
        if name not in symbols and name not in defined:
            if name not in arguments:
                raise ArgumentError("TLC0732", f"symbol {name!r} has no value", loc=program.loc)
            symbols[name] = int(arguments[name])
    _check_multiples(program, symbols)
    return symbols


def _check_multiples(program: Program, symbols: Mapping[str, int]) -> None:
    for name, multiple in program.multiples.items():
        if symbols.get(name, 0) % multiple:
            raise ArgumentError(
                "TLC0731", f"{name} is {symbols[name]}, no multiple of {multiple}", loc=program.loc
            )


def _argument(param: Value, arguments: Mapping[str, Any]) -> Any:
    if param.hint not in arguments:
        raise ArgumentError("TLC0730", f"argument {param.hint!r} is missing")
    return arguments[param.hint]


def _bind(frame: Frame, program: Program, arguments: Mapping[str, Any]) -> None:
    """Gives parameters their values. One array passed twice is one memory."""
    written = {
        e.memory for op in walk(program.body) for e in op.effects() if e.access is Access.WRITE
    }
    storages: dict[tuple[Any, ...], Storage] = {}
    views: list[_Given] = []
    for param in program.params:
        given, type_ = _argument(param, arguments), param.type
        if isinstance(type_, ScalarType):
            frame.define(param, type_.dtype.numpy.type(given))
            continue
        assert isinstance(type_, MemoryType)
        data = _array(param, type_, given, param in written)
        key = (data.__array_interface__["data"][0], data.shape, data.strides, type_.dtype)
        if key not in storages:
            held = unpack_pairs(data, type_.dtype) if type_.dtype in PAIRS else data
            storages[key] = Storage(held, None)
        storage = storages[key]
        memory = Memory(param.hint, type_.dtype, Space.GLOBAL, storage)
        frame.define(param, memory)
        frame.run.globals_[param] = memory
        views.append(_Given(param, data, storage, param in written))
    _share(views)


class _Given(NamedTuple):
    """An array that a parameter is given, as the caller has it, and what the interpreter made of it."""

    param: Value
    data: np.ndarray[Any, Any]
    storage: Storage
    written: bool


def _share(views: Sequence[_Given]) -> None:
    """Tells storages that are different views of one memory so. Raises ArgumentError where 4-bit
    elements, which the interpreter holds apart, are in it and it is written.
    """
    for group in meeting([view.data for view in views]):
        held = [views[n] for n in group]
        storages = list(dict.fromkeys(view.storage for view in held))
        if len(storages) == 1 or not any(view.written for view in held):
            continue
        packed = [v.param.hint for v in held if memory_type(v.param).dtype in PAIRS]
        if packed:
            others = ", ".join(v.param.hint for v in held if v.param.hint != packed[0])
            raise ArgumentError(
                "TLC0736",
                f"{packed[0]} shares memory with {others}, and the interpreter holds 4-bit elements "
                "apart",
                hint="pass a copy, or one array for both",
            )
        share_bytes(storages)


def _result(memory: Memory) -> Array:
    data = memory.storage.data
    if memory.dtype not in PAIRS:
        return data
    packed = pack_pairs(data)
    return packed.view(np.int8) if memory.dtype is i4 else packed  # as every device returns it


def _pack_back(frame: Frame, program: Program, arguments: Mapping[str, Any]) -> None:
    """Writes 4-bit elements, which the interpreter holds one a byte, back into the arguments."""
    for param in program.params:
        type_, given = param.type, _argument(param, arguments)
        if isinstance(type_, MemoryType) and type_.dtype in PAIRS and given.flags.writeable:
            given.view(np.uint8)[...] = pack_pairs(frame.memory(param).storage.data)


def _array(param: Value, type_: MemoryType, given: Any, written: bool) -> np.ndarray[Any, Any]:
    if not isinstance(given, np.ndarray):
        raise ArgumentError(
            "TLC0733", f"{param.hint} is a {type(given).__name__}, not a NumPy array"
        )
    data = given
    holder = data.dtype in [holder.numpy for holder in HOLDERS.get(type_.dtype, ())]
    if holder:
        data = data.view(type_.dtype.numpy)
    if data.dtype != type_.dtype.numpy or type_.dtype in PAIRS and not holder:
        raise ArgumentError("TLC0734", f"{param.hint} has dtype {data.dtype}, not {type_.dtype}")
    if written and not data.flags.writeable:
        raise ArgumentError("TLC0735", f"{param.hint} is written, and its array is read-only")
    return data
