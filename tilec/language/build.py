"""From a staged function to a program: parameters in, the function run once, launches out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import LanguageError, TilecError
from ..ir.core import Block, Op, Program, Value
from ..ir.dtypes import DType
from ..ir.ops.control import Launch
from ..ir.types import MemoryType, ScalarType, Space
from .buffers import Buffer
from .dtypes import ElementType
from .operand import Expr
from .parameters import Parameter
from .places import locate_error
from .staging import Staged
from .tensors import ConstantNames, ConstDim, Dynamic, TensorSpec
from .trace import Trace, activate, refuse

if TYPE_CHECKING:
    from .kernel import Kernel


class _Pending:
    """What a parameter holds until the body annotates it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        name = self._name
        raise refuse("TLC0113", f"{name}.{attribute} is used before {name} is annotated")


class _Parameters:
    """Makes the values of parameters, in whatever order they come to be known."""

    def __init__(self, trace: Trace, kernel: Kernel) -> None:
        self.trace = trace
        self.kernel = kernel
        self.values: dict[str, Value] = {}
        self.specs: dict[str, TensorSpec] = {}

    def make(self, name: str, annotation: TensorSpec | DType) -> Any:
        if isinstance(annotation, DType):
            value = self.values[name] = Value(ScalarType(annotation), name)
            return Expr(value, self.trace.regions[0])
        type_ = _memory_type(annotation)
        self.trace.declare(type_)
        value = self.values[name] = Value(type_, name)
        return Buffer(value, self.trace.regions[0], name)

    def annotate(self, name: str, annotation: Any) -> Any:
        """A parameter that a statement of the body annotates."""
        if isinstance(annotation, ElementType):
            annotation = annotation.ir
        if not isinstance(annotation, TensorSpec | DType):
            raise refuse("TLC0113", f"{annotation!r} does not annotate the parameter {name}")
        if name in self.values or name in self.specs:
            raise refuse("TLC0113", f"{name} is annotated twice")
        if isinstance(self.trace.const_dims, ConstantNames):
            if isinstance(annotation, TensorSpec):
                self.specs[name] = annotation
            return _Pending(name)
        return self.make(name, annotation)

    def argument(self, parameter: Parameter, constants: Mapping[str, Any]) -> Any:
        if parameter.kind == "constant":
            return constants[parameter.name]
        if parameter.annotation is None:
            return _Pending(parameter.name)
        return self.make(parameter.name, parameter.annotation)

    def in_order(self) -> tuple[Value, ...]:
        names = [p.name for p in self.kernel.parameters if p.kind != "constant"]
        lost = [name for name in names if name not in self.values]
        if lost:
            raise LanguageError(
                "TLC0113", f"the annotation of {lost[0]} was not reached", loc=self.kernel.loc
            )
        return tuple(self.values[name] for name in names)


def _memory_type(spec: TensorSpec) -> MemoryType:
    dims: list[int | str] = []
    for dim in spec.shape:
        if isinstance(dim, ConstDim):
            raise LanguageError("TLC0126", f"the value of {dim.name} is not known")
        dims.append(dim.name if isinstance(dim, Dynamic) else dim)
    return MemoryType(spec.dtype, tuple(dims), Space.GLOBAL)


def _run(
    kernel: Kernel, staged: Staged, constants: Mapping[str, Any], dims: dict[str, int]
) -> tuple[Trace, _Parameters]:
    """Runs the function once. Whatever it raises becomes a LanguageError at the user's place."""
    trace = Trace(kernel.name, {})
    trace.const_dims = dims
    parameters = _Parameters(trace, kernel)
    trace.annotate = parameters.annotate
    trace.until = code = staged.run.__code__
    with staged.loc, activate(trace):
        try:
            arguments = {p.name: parameters.argument(p, constants) for p in kernel.parameters}
            result = staged.run(**arguments)
        except TilecError:
            raise
        except Exception as error:  # the user's own code may raise anything
            loc = locate_error(error.__traceback__, code)
            raise LanguageError(
                "TLC0112",
                f"{type(error).__name__} while {kernel.name} was traced: {error}",
                loc=loc if loc.known else staged.loc,
            ) from error
        if result is not None:
            raise LanguageError(
                "TLC0130",
                f"{kernel.name} returns a value: outputs are written to tensor parameters",
            )
    return trace, parameters


def build_program(
    kernel: Kernel, staged: Staged, constants: Mapping[str, Any], dims: Mapping[str, int]
) -> Program:
    """The program of a kernel for compile-time parameters and values of T.const."""
    trace, parameters = _run(kernel, staged, constants, dict(dims))
    with staged.loc:
        if trace.launches == 0:
            raise LanguageError(
                "TLC0118",
                f"{kernel.name} has no launch",
                hint="a kernel has at least one `with T.Kernel(...):`",
            )
        values = parameters.in_order()
    body = Block((), tuple(_body(trace)))
    return Program(kernel.name, values, body, tuple(trace.symbols), loc=staged.loc)


def _body(trace: Trace) -> list[Op]:
    """The launches, and what computes their grids and their symbols."""
    used: set[Value] = set()
    kept: list[Op] = []
    for op in reversed((*trace.symbol_ops, *trace.builder.ops)):
        if isinstance(op, Launch) or any(result in used for result in op.results):
            kept.append(op)
            used.update(v for inner in op.walk() for v in inner.inputs)
    return kept[::-1]


def probe_dims(kernel: Kernel, head: Staged, constants: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """The annotations in the body, with T.const giving names instead of values."""
    _, parameters = _run(kernel, head, constants, ConstantNames())
    return parameters.specs
