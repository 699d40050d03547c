"""From a staged function to a program: parameters in, the function run once, launches out."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import LanguageError, Loc, TilecError, TypeMismatch
from ..ir.core import Block, Op, Program, Value
from ..ir.dtypes import HELD, PAIRS, DType, f16
from ..ir.ops.control import Define, Launch, Return
from ..ir.ops.memory import Alloc
from ..ir.types import Dim, MemoryType, ScalarType, Space
from .buffers import Buffer
from .dtypes import ElementType, spelled_dtype, storage_of
from .extents import Computed
from .global_memory import extent, finish, returned
from .operand import Expr, Operand, value_of, wrap
from .parameters import Parameter
from .places import locate_error
from .staging import Staged
from .tensors import ConstantNames, ConstDim, DimSpec, Dynamic, TensorSpec
from .trace import Trace, activate, close_matches, refuse

if TYPE_CHECKING:
    from .kernel import Kernel


class _Pending:
    """What a parameter holds until the body annotates it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        name = self._name
        raise refuse(
            "TLC0113",
            f"{name}.{attribute} is used before {name} is annotated",
            hint=f"move `{name}: T.Tensor(...)` up",
        )


class _Parameters:
    """Makes the values of parameters, in whatever order they come to be known."""

    def __init__(self, trace: Trace, kernel: Kernel) -> None:
        self.trace = trace
        self.kernel = kernel
        self.values: dict[str, Value] = {}
        self.specs: dict[str, TensorSpec] = {}
        self.computed: dict[Computed, str] = {}  # what symbols those dimensions are

    def make(self, name: str, annotation: TensorSpec | DType) -> Any:
        if isinstance(annotation, DType):
            if annotation in PAIRS:
                raise self._four_bits(name, annotation)
            value = self.values[name] = Value(ScalarType(annotation), name)
            self.trace.scalars.add(value)
            return Expr(value, self.trace.regions[0])
        type_ = self._memory_type(annotation)
        self._check_dimensions(name, type_)
        self.trace.declare(type_)
        for dim in (*annotation.shape, *(annotation.strides or ())):
            if isinstance(dim, Dynamic):
                self.trace.promise(dim.name, dim.multiple_of)
        value = self.values[name] = Value(type_, name)
        return Buffer(value, self.trace.regions[0], name, annotation.dtype)

    def _four_bits(self, name: str, dtype: DType) -> TypeMismatch:
        places = {p.name: p.loc for p in self.kernel.parameters}
        return TypeMismatch(
            "TLC0152",
            f"{name} is a scalar of {ElementType(dtype)}: a number is passed in whole bytes",
            loc=places[name],
            hint=f"declare it as {ElementType(f16 if dtype.is_float else HELD[dtype])!r}",
        )

    def _check_dimensions(self, name: str, type_: MemoryType) -> None:
        """Raises LanguageError where a symbol has a parameter's name: a launch is told both by name,
        and a compile-time parameter would not be the dimension, which may have any extent.
        """
        parameters = {p.name: p for p in self.kernel.parameters}
        for dim in (*type_.shape, *(type_.strides or ())):
            if dim in parameters:
                hint = f"give the dimension another name, {dim}_size"
                if parameters[dim].kind == "constant":
                    hint += f"; for the parameter's value annotate {name} in the body, with {dim} unquoted"
                raise LanguageError(
                    "TLC0113",
                    f"a dimension of {name} is called {dim}, as a parameter is",
                    loc=parameters[name].loc,
                    hint=hint,
                )

    def annotate(self, name: str, annotation: Any) -> Any:
        """A parameter that a statement of the body annotates."""
        found = annotation if isinstance(annotation, TensorSpec) else spelled_dtype(annotation)
        if found is None:
            raise refuse(
                "TLC0113",
                f"{annotation!r} does not annotate the parameter {name}",
                hint='T.Tensor(("M", "N"), "float16"), or a dtype for a scalar',
            )
        if name in self.values or name in self.specs:
            raise refuse("TLC0113", f"{name} is annotated twice", hint="keep one of the two")
        if isinstance(self.trace.const_dims, ConstantNames):
            if isinstance(found, TensorSpec):
                self.specs[name] = found
                for dim in found.shape:  # others follow from it
                    if isinstance(dim, str | Dynamic):
                        name = dim if isinstance(dim, str) else dim.name
                        self.trace.symbols.setdefault(name, None)
            return _Pending(name)
        made = self.make(name, found)
        self.define_computed()
        return made

    def define_computed(self) -> None:
        """Computes the dimensions that follow from others, once those are known. Raises LanguageError
        for a symbol that no tensor tells.
        """
        trace = self.trace
        for dim, label in self.computed.items():
            if trace.symbols.get(label) is not None:
                continue
            lost = [name for name in dim.names() if name not in trace.symbols]
            if lost:
                raise refuse(
                    "TLC0126",
                    f"the dimension {dim} needs {lost[0]}, which no tensor of {trace.name} tells",
                    hint=f"{lost[0]} must be a dimension by itself, of a tensor that stands before where "
                    "the body annotates them",
                    loc=self._place(dim),
                )
            value = value_of(dim.evaluate(lambda name: wrap(trace, trace.symbol(name))))
            trace.define(label, value)
            trace.promise(label, dim.multiple(trace.multiples))

    def _place(self, dim: Computed) -> Loc | None:
        """The parameter whose annotation has the dimension, if it stands in the signature."""
        for p in self.kernel.parameters:
            spec = p.annotation
            if isinstance(spec, TensorSpec) and dim in (*spec.shape, *(spec.strides or ())):
                return p.loc
        return None

    def _memory_type(self, spec: TensorSpec) -> MemoryType:
        strides = None if spec.strides is None else tuple(map(self._dim, spec.strides))
        shape = tuple(map(self._dim, spec.shape))
        return MemoryType(storage_of(spec.dtype), shape, Space.GLOBAL, strides=strides)

    def _dim(self, dim: DimSpec) -> Dim:
        if isinstance(dim, ConstDim):
            raise LanguageError(
                "TLC0126",
                f"the value of {dim.name} is not known",
                hint="T.const dimensions take their values from the arrays of a call, or from tilec.spec",
            )
        if isinstance(dim, Computed):
            return self.computed.setdefault(dim, self._unused(dim.identifier))
        if isinstance(dim, Operand) and not isinstance(dim, Dynamic):
            return extent(self.trace, "T.Tensor", dim)
        return dim.name if isinstance(dim, Dynamic) else dim

    def _unused(self, name: str) -> str:
        taken = {
            *self.trace.symbols,
            *self.computed.values(),
            *(p.name for p in self.kernel.parameters),
        }
        return name if name not in taken else self._unused(f"{name}_")

    def argument(self, parameter: Parameter, constants: Mapping[str, Any]) -> Any:
        if parameter.kind == "constant":
            value = constants.get(parameter.name, inspect.Parameter.empty)
            if value is inspect.Parameter.empty:
                raise LanguageError(
                    "TLC0113",
                    f"the compile-time parameter {parameter.name} is not given",
                    loc=parameter.loc,
                    hint="give it a value, or annotate it where it is an array: "
                    f'{parameter.name}: T.Tensor(("M", "N"), "float16")',
                )
            return value
        if parameter.annotation is None:
            return _Pending(parameter.name)
        return self.make(parameter.name, parameter.annotation)

    def in_order(self) -> tuple[Value, ...]:
        names = [p.name for p in self.kernel.parameters if p.kind != "constant"]
        lost = [name for name in names if name not in self.values]
        if lost:
            raise LanguageError(
                "TLC0113",
                f"the annotation of {lost[0]} was not reached",
                loc=self.kernel.loc,
                hint="annotate parameters at the top of the body, before any `return`",
            )
        return tuple(self.values[name] for name in names)


def _run(
    kernel: Kernel, staged: Staged, constants: Mapping[str, Any], dims: dict[str, int]
) -> tuple[Trace, _Parameters, Any]:
    """Runs the function once: what it built, and what it returned. Whatever it raises becomes a
    LanguageError at the user's place."""
    trace = Trace(kernel.name, {})
    trace.const_dims = dims
    parameters = _Parameters(trace, kernel)
    trace.annotate = parameters.annotate
    trace.until = code = staged.run.__code__
    with staged.loc, activate(trace):
        try:
            given = [(p, parameters.argument(p, constants)) for p in kernel.parameters]
            parameters.define_computed()
            only = inspect.Parameter.POSITIONAL_ONLY
            result = staged.run(
                *(value for p, value in given if p.kind_of_argument is only),
                **{p.name: value for p, value in given if p.kind_of_argument is not only},
            )
        except TilecError:
            raise
        except Exception as error:  # the user's own code may raise anything
            loc = locate_error(error.__traceback__, code)
            raise LanguageError(
                "TLC0112",
                f"{type(error).__name__} while {kernel.name} was traced: {error}",
                loc=loc if loc.known else staged.loc,
                hint=_way_out(error, kernel),
            ) from error
    return trace, parameters, result


OWN_PYTHON = "this is the program's own Python, which runs once, while the kernel is compiled"


def _way_out(error: Exception, kernel: Kernel) -> str:
    """What to do about an exception of Python's own, where that can be told."""
    match error:
        case NameError(name=str(name)):
            known = (*kernel.function.__code__.co_varnames, *kernel.function.__globals__)
            return close_matches(name, [n for n in known if n != name]) or "bind it before"
        case UnboundLocalError():
            return "bind it before it is read"
        case TypeError() | AttributeError() if "'Expr'" in str(error) and "'Buffer'" not in str(
            error
        ):
            return (
                "an Expr is a value of the kernel, one number: it has no elements, extents or methods, "
                "and meets only numbers"
            )
        case TypeError() if "'module' object is not callable" in str(error):
            return "the name is that of a Python module: docs/language.md lists what T has"
        case TypeError() if "'Buffer' has no len()" in str(error):
            return "A.shape[0] is the first extent of A"
        case TypeError() | IndexError() if "numpy.ndarray" in str(error) or "numpy.newaxis" in str(
            error
        ):
            return "make the array a tensor of the kernel, or take its elements by compile-time indices"
        case TypeError() if "'Buffer'" in str(error) or "'Slice'" in str(error):
            return (
                "buffers and their regions are no operands: compute with elements, "
                "`for i, j in T.Parallel(m, n): C[i, j] = A[i, j] * 2`; or give them to T.copy and others"
            )
        case TypeError() if "() " in str(error) and "argument" in str(error):
            return _signature(str(error), kernel)
        case TypeError() if "__array_ufunc__" in str(error) or "__round__" in str(error):
            return "functions of values of the kernel are the language's: T.exp, T.sqrt, T.round, …"
        case AttributeError(name=str(name), obj=obj) if "has no attribute" in str(error):
            return close_matches(name, [n for n in dir(obj) if not n.startswith("_")]) or OWN_PYTHON
        case RecursionError():
            return "recur on compile-time values that come to an end"
        case ValueError() if "to unpack" in str(error):
            return "as many names as values: T.Kernel gives one index for each extent of its grid"
        case AttributeError() if "has no setter" in str(error):
            return "a buffer is described where it is made; its elements are what is assigned"
    return OWN_PYTHON


def _signature(message: str, kernel: Kernel) -> str:
    """How a function of the language is called, where Python says that it was called wrong."""
    function, _, rest = message.partition("(")
    language = sys.modules[__package__ or ""]
    known = getattr(language, function, None)
    if not callable(known) or kernel.function.__globals__.get(function, known) is not known:
        return OWN_PYTHON
    signature = inspect.signature(known)
    if "unexpected keyword argument" in message:
        close = close_matches(rest.split("'")[1], [*signature.parameters])
        if close:
            return close
    told = (
        p.name if p.default is p.empty else f"{p.name}=…" for p in signature.parameters.values()
    )
    nothing = ", and gives nothing back" if signature.return_annotation == "None" else ""
    return f"it is T.{function}({', '.join(told)}){nothing}"


def build_program(
    kernel: Kernel, staged: Staged, constants: Mapping[str, Any], dims: Mapping[str, int]
) -> Program:
    """The program of a kernel for compile-time parameters and values of T.const."""
    trace, parameters, result = _run(kernel, staged, constants, dict(dims))
    with trace.left or staged.loc:
        outputs = returned(trace, result) if result is not None else ()
    with staged.loc:
        if trace.launches == 0:
            raise LanguageError(
                "TLC0118",
                f"{kernel.name} has no launch",
                hint="a kernel has at least one `with T.Kernel(...):`",
            )
        values = parameters.in_order()
        finish(trace, outputs, {*(v.hint for v in values), *trace.symbols})
    body = _body(trace, values)
    symbols = _symbols(trace, body)
    multiples = {name: trace.multiples[name] for name in symbols if name in trace.multiples}
    return Program(
        kernel.name, values, Block((), tuple(body)), symbols, loc=staged.loc, multiples=multiples
    )


def _dims(value: Value) -> tuple[Dim, ...]:
    type_ = value.type
    return (*type_.shape, *(type_.strides or ())) if isinstance(type_, MemoryType) else ()


def _body(trace: Trace, values: tuple[Value, ...]) -> list[Op]:
    """The launches, what computes their grids and their symbols, and the memory that they use."""
    used: set[Value] = set()
    extents = {dim for value in values for dim in _dims(value)}
    kept: list[Op] = []
    for op in reversed((*trace.symbol_ops, *trace.builder.ops)):
        wanted = isinstance(op, Define) and op.label in extents
        if wanted or isinstance(op, Launch | Return) or any(r in used for r in op.results):
            kept.append(op)
            used.update(v for inner in op.walk() for v in inner.inputs)
            extents.update(op.type.shape if isinstance(op, Alloc) else ())
    return kept[::-1]


def _symbols(trace: Trace, body: list[Op]) -> tuple[str, ...]:
    """The symbols of tensors, and the extents of the memory that is left."""
    defined = {op.label for op in trace.builder.ops if isinstance(op, Define)}
    kept = {op.label for op in body if isinstance(op, Define)}
    return tuple(name for name in trace.symbols if name not in defined or name in kept)


def probe_dims(kernel: Kernel, head: Staged, constants: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """The annotations in the body, with T.const giving names instead of values."""
    _, parameters, _ = _run(kernel, head, constants, ConstantNames())
    return parameters.specs
