"""The kernels of a user's file, their compile-time parameters from the command line, and inputs
made for them.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np

from ..backends.interface import Interface
from ..backends.launcher.expressions import evaluate
from ..errors import ArgumentError, LanguageError, Loc, TilecError
from ..ir.core import Program, Value
from ..ir.dtypes import PAIRS
from ..ir.types import MemoryType, ScalarType
from ..language.kernel import Kernel
from ..language.tensors import ConstDim, Dynamic
from ..language.trace import close_matches
from ..runtime.devices import Device
from ..runtime.devices import device as device_context
from ..runtime.gpu_device import GpuDevice
from ..runtime.plugins import load_plugins

DEFAULT_EXTENT = 256  # of a symbol that -D does not give
LARGE_EXTENT = 4096  # what a heuristic is told of such a symbol: what is built is for any size

FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
TARGETS = click.option(
    "--target",
    "targets",
    multiple=True,
    default=("cuda:sm_90a",),
    show_default=True,
    help="May be repeated.",
)
DEVICE = click.option(
    "--device",
    default="",
    help="interpreter, emulator:cuda:sm_90a, cuda, hip, …; by default what is there.",
)
DEFINES = click.option(
    "-D",
    "defines",
    multiple=True,
    metavar="NAME=VALUE",
    help="A compile-time parameter, or the value of a symbol.",
)


def asked_device(name: str) -> AbstractContextManager[None]:
    """`tilec.device(name)` for what --device says; nothing where it is left out."""
    return device_context(name) if name else nullcontext()


@dataclass(frozen=True)
class Source:
    """A user's file, executed: its module and its kernels by name."""

    module: ModuleType
    kernels: dict[str, Kernel]

    @property
    def main(self) -> Callable[[], Any] | None:
        """The file's `main`, where it is a plain function."""
        found = getattr(self.module, "main", None)
        return found if callable(found) and not isinstance(found, Kernel) else None

    @property
    def reference(self) -> Callable[..., Any] | None:
        """The file's `reference`: from the inputs, in order, what the kernel's outputs must be."""
        found = getattr(self.module, "reference", None)
        return found if callable(found) else None


def load_file(path: Path) -> Source:
    """Executes a user's file, plugins being loaded before. Raises LanguageError, at the line of the
    file, for what it raises.
    """
    load_plugins()
    file = path.resolve()
    levels = _levels_of_imports(file)
    folders = [str(file.parent)]
    # a name that no other file has: two files called gemm.py, or one called json.py, are no matter
    name = f"{path.stem} at {file}"
    if levels:
        root = _root_of_package(file, levels)
        folders.append(str(root))
        name = ".".join(file.relative_to(root).with_suffix("").parts)
    sys.path[:0] = folders
    try:
        module = _import(name, path) if levels else _execute(name, path)
    finally:
        for folder in folders:
            sys.path.remove(folder)
    kernels = {name: value for name, value in vars(module).items() if isinstance(value, Kernel)}
    return Source(module, kernels)


def _execute(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LanguageError("TLC0190", f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    run_users(lambda: spec.loader.exec_module(module), path)  # type: ignore[union-attr]
    return module


def _import(name: str, path: Path) -> ModuleType:
    """A file that is a module of a package, by its name there."""
    run_users(lambda: importlib.import_module(name), path)
    module = sys.modules[name]
    if not Path(str(module.__file__)).samefile(path):
        raise LanguageError(
            "TLC0191",
            f"{path.name} imports from its package, and {name} is {module.__file__}",
            hint="give the folder of the package a name that no other package has",
        )
    return module


def _levels_of_imports(file: Path) -> int:
    """How many packages up a file imports from: 0 where it does not say `from .`, or is no Python."""
    try:
        nodes = ast.walk(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError):
        return 0
    return max((node.level for node in nodes if isinstance(node, ast.ImportFrom)), default=0)


def _root_of_package(file: Path, levels: int) -> Path:
    """The folder in which the outermost package of a file lies."""
    folders = file.parents
    depth = min(levels, len(folders) - 1)
    while depth < len(folders) - 1 and (folders[depth] / "__init__.py").exists():
        depth += 1
    return folders[depth]


AT_THE_TOP = "the file is executed before its kernels are found: mend what it does at the top"


def run_users(function: Callable[[], object], path: Path, hint: str = AT_THE_TOP) -> None:
    """Calls code of the user's file. Raises LanguageError, at the line of the file, for what it
    raises itself; an exception that comes out of tilec is tilec's own.
    """
    try:
        function()
    except TilecError:
        raise
    except SyntaxError as wrong:
        column = max((wrong.offset or 1) - 1, 0)
        loc = Loc(wrong.filename or str(path), wrong.lineno or 1, column)
        raise LanguageError(
            "TLC0190",
            f"not Python: {wrong.msg}",
            loc=loc,
            hint="correct this line or the one before it",
        ) from wrong
    except (Exception, SystemExit) as cause:
        if _is_ours(cause, path):
            raise
        what = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        raise LanguageError(
            "TLC0191",
            f"{path.name} raises {what}",
            loc=_place(cause, path),
            hint=hint,
        ) from cause


def _is_ours(error: BaseException, path: Path) -> bool:
    """Whether tilec's own code, and what that called, raised the error: not the user's file."""
    package = str(Path(__file__).resolve().parents[1])
    trace, ours = error.__traceback__, False
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file != __file__:
            ours = file.startswith(package) or (ours and file != str(path.absolute()))
        trace = trace.tb_next
    return ours


def _place(error: BaseException, path: Path) -> Loc:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path.absolute()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return Loc(str(path), line)


def need_kernels(source: Source, path: Path, defines: dict[str, Any]) -> dict[str, Kernel]:
    """The file's kernels. Raises LanguageError where there is none, and click.BadParameter for a
    name that is defined for none of them.
    """
    if not source.kernels:
        raise LanguageError(
            "TLC0192", f"{path.name} has no kernel", hint="decorate a function with @tilec.kernel"
        )
    known = {name for kernel in source.kernels.values() for name in _names(kernel, defines)}
    for name in defines:
        if name not in known:
            text = f"{path.name} has no kernel with a parameter or dimension {name!r}"
            close = close_matches(name, known)
            raise click.BadParameter(f"{text}: {close}" if close else text, param_hint="-D")
    return source.kernels


def _names(kernel: Kernel, defines: dict[str, Any]) -> Iterator[str]:
    """What can be defined for a kernel: its parameters and the dimensions and strides of tensors."""
    yield from (p.name for p in kernel.parameters)
    for spec in kernel.tensor_specs(kernel.constants_with(defines)).values():
        for dim in (*spec.shape, *(spec.strides or ())):
            if isinstance(dim, str):
                yield dim
            elif isinstance(dim, Dynamic) or type(dim) is ConstDim:
                yield dim.name


def read_defines(defines: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE options as numbers, bools or strings. Raises click.BadParameter."""
    found: dict[str, Any] = {}
    for text in defines:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        found[name] = _number(value)
    return found


def _number(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def trace(
    kernel: Kernel, defines: dict[str, Any], target: Any, extent: int | None = None
) -> Program:
    """The kernel's program for the compile-time parameters among `defines`. Dimensions of T.const come
    from them too, else they are `extent`; where that is None, ArgumentError is raised.
    """
    constants = _constants(kernel, defines, target)
    dims = {n: v for n, v in defines.items() if isinstance(v, int) and n not in constants}
    for spec in kernel.tensor_specs(constants).values():
        for name in (d.name for d in spec.shape if type(d) is ConstDim and d.name not in dims):
            if extent is None:
                what = f"the dimension {name}, for whose value it is compiled, is not given"
                hint = f"add -D {name}=VALUE"
                raise ArgumentError("TLC0301", f"{kernel.name}: {what}", hint=hint, loc=kernel.loc)
            dims[name] = extent
    return kernel.trace(constants, dims)


def _constants(kernel: Kernel, defines: dict[str, Any], target: Any) -> dict[str, Any]:
    """Compile-time parameters: of `defines`, else of the first configuration that is searched, else
    the heuristic's, else the defaults."""
    path = Path(kernel.function.__code__.co_filename)
    shapes = {
        name: tuple(_extent(d, defines, LARGE_EXTENT) for d in spec.shape)
        for name, spec in kernel.tensor_specs(kernel.constants_with(defines)).items()
    }
    chosen: dict[str, Any] = {}

    def choose() -> None:
        try:
            ask()
        except ArgumentError as error:
            error.loc = error.loc if error.loc.known else kernel.loc
            raise

    def ask() -> None:
        if kernel.heuristic is not None:
            found = kernel.heuristic(target, shapes)
            chosen.update(kernel.check_choice(found, "the heuristic"))
        if kernel.tuning is not None:
            chosen.update(kernel.tuning.candidates(kernel, target, shapes)[0])

    run_users(choose, path, "it is called with the target and the shapes of the tensors: mend it")
    found = kernel.constants_with({**chosen, **defines})
    for p in kernel.parameters:
        if p.kind == "constant" and p.name not in {*chosen, *defines} and not p.has_default:
            an_array = f'{p.name}: T.Tensor(("M", "N"), "float16")'
            raise LanguageError(
                "TLC0113",
                f"the compile-time parameter {p.name} is not given",
                loc=p.loc,
                hint=f"add -D {p.name}=VALUE, or annotate it where it is an array: {an_array}",
            )
    return found


def _extent(dim: Any, defines: dict[str, Any], unknown: int = DEFAULT_EXTENT) -> int:
    if isinstance(dim, int):
        return dim
    name = str(getattr(dim, "name", dim))
    extent = defines.get(name, unknown)
    if isinstance(extent, bool) or not isinstance(extent, int) or extent < 0:
        raise click.BadParameter(
            f"{name}={extent}: an extent is an integer of 0 or more", param_hint="-D"
        )
    return extent


def make_inputs(program: Program, defines: dict[str, Any]) -> dict[str, Any]:
    """Random arguments by name: floats around 0, integers and 4-bit elements over their whole range,
    the latter in bytes of two.
    """
    random = np.random.default_rng(0)
    computed = Interface(program).derived
    known = {**{d: _extent(d, defines) for d in program.symbols}, **defines}
    known |= {name: evaluate(expr, known) for name, expr in computed.items()}
    try:
        return {p.hint: _input(p, known, random) for p in program.params}
    except MemoryError as problem:
        raise ArgumentError(
            "TLC0807",
            f"{program.name}: there is no memory for its arrays: {problem}",
            hint="give smaller extents: -D NAME=VALUE",
            loc=program.loc,
        ) from problem


def _input(param: Value, defines: dict[str, Any], random: np.random.Generator) -> Any:
    type_ = param.type
    if isinstance(type_, ScalarType):
        value = defines.get(param.hint, 1)
        if not isinstance(value, (int, float) if type_.dtype.is_float else int):
            raise click.BadParameter(f"{param.hint}={value} is no {type_.dtype}", param_hint="-D")
        return float(value) if type_.dtype.is_float else int(value)
    assert isinstance(type_, MemoryType)
    shape = tuple(_extent(d, defines) for d in type_.shape)
    if type_.dtype in PAIRS:  # every byte is two elements
        return random.integers(0, 256, (*shape[:-1], shape[-1] // 2)).astype(np.uint8)
    dtype = type_.dtype.numpy
    if type_.dtype.is_float:
        return (random.standard_normal(shape) / 8).astype(np.float32).astype(dtype)
    if type_.dtype.kind == "bool":
        return random.integers(0, 2, shape).astype(dtype)
    info = np.iinfo(dtype)
    return random.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def on_device(device: Device, inputs: Mapping[str, Any]) -> list[Any]:
    """Inputs as a device takes them without copies of its own: on a GPU as arrays of cupy, elements
    that it has not as bits.
    """
    if not isinstance(device, GpuDevice):
        return list(inputs.values())
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device.index):
        return [cupy.asarray(_bits(x)) if isinstance(x, np.ndarray) else x for x in inputs.values()]


def _bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    plain = array.dtype.kind in "iub" or array.dtype.name in ("float16", "float32", "float64")
    return array if plain else array.view(f"u{array.dtype.itemsize}")
