"""Extending tilec from outside: ops, their rules, passes, dtypes and targets, with no edit to it.

An `Extension` is a list of additions, all under one namespace. `install` enters them into a
registry; tilec's own by default, so that every later compilation knows them. An installed package
does it by an entry point of the group "tilec.plugins" that names its Extension.

    from tilec import extend

    acme = extend.Extension("acme")

    @acme.op
    class Clip(extend.Unary, name="acme.clip", pure=True):
        "x held between -1 and 2."
        text = "max(min({x}, 2.0f), -1.0f)"           # in the language of all preludes
        x: extend.Value = extend.operand()
        def evaluate(self, *inputs): return np.clip(inputs[0], -1, 2)

    def clip(x):                                      # what kernels call
        return extend.emit(Clip(extend.value(x)))

What is exported here is what an extension may rely on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .errors import IRError, TargetUnsupported, TilecError
from .ir.core import (
    Access,
    Block,
    Effect,
    Level,
    Op,
    Program,
    Value,
    attribute,
    operand,
    operands,
    region,
    walk,
)
from .ir.dtypes import DType
from .ir.layout.constraints import Constraint, Derived
from .ir.ops.arith import Binary, Unary
from .ir.registry import Registry
from .ir.rewrite import rewrite
from .ir.types import MemoryType, ScalarType, TileType, Type
from .language.dtypes import ElementType, StoredType, element_type
from .language.operand import value_of, wrap
from .language.trace import current
from .passes.context import Pass, PassContext, Remark
from .passes.layout_constraints import demand, use
from .passes.pipeline import PIPELINE, find_passes
from .runtime.lowering import standard_registry
from .runtime.stored import withhold
from .target import TARGETS, MatrixInstruction, Target, register_target

__all__ = [
    "Access", "Binary", "Block", "Constraint", "DType", "Derived", "Effect", "ElementType",
    "Extension", "Level", "MatrixInstruction", "MemoryType", "Op", "PassContext", "Program",
    "Registry", "Remark", "ScalarType", "Target", "TileType", "TilecError", "Type", "Unary",
    "Value", "attribute", "demand", "emit", "install", "operand", "operands", "region", "rewrite",
    "use", "value", "walk",
]  # fmt: skip

_OpClass = TypeVar("_OpClass", bound=type[Op])
_Rule = TypeVar("_Rule", bound=Callable[..., Any])


@dataclass(eq=False)
class Extension:
    """Additions under one namespace: what is called in IR, or on the command line, is called
    `namespace.name`. The methods collect; `install` enters.
    """

    namespace: str
    _ops: list[type[Op]] = field(default_factory=list)
    _entries: list[tuple[str, type[Op], Any]] = field(default_factory=list)
    _passes: list[tuple[str, str, Pass]] = field(default_factory=list)
    _targets: list[Target] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.namespace.isidentifier() or self.namespace == "tilec":
            raise IRError("TLC0215", f"{self.namespace!r} is no namespace of an extension")

    def op(self, cls: _OpClass) -> _OpClass:
        """Adds an op class, as a decorator. Its printed name begins with the namespace. Raises
        IRError for a class that is none of this tilec's ops, or has another's name.
        """
        if not (isinstance(cls, type) and issubclass(cls, Op)):
            raise IRError(
                "TLC0216",
                f"{getattr(cls, '__name__', cls)!r} is no op of this tilec",
                hint=f"derive it from {Op.__module__}.Op, by way of this copy's extend",
            )
        self._named(cls.name)
        self._ops.append(cls)
        return cls

    def lower(self, cls: type[Op]) -> Callable[[_Rule], _Rule]:
        """The rule that makes thread-level ops of a tile op: `rule(op, lowering)`."""
        return self._rule("lower", cls)

    def interpret(self, cls: type[Op]) -> Callable[[_Rule], _Rule]:
        """The op's meaning where `evaluate` is not enough: `rule(frame, op)`."""
        return self._rule("interpret", cls)

    def layouts(self, cls: type[Op]) -> Callable[[_Rule], _Rule]:
        """What a tile op asks of layouts: `rule(op, group)` gives Constraints."""
        return self._rule("layouts", cls)

    def spell(self, cls: type[Op], text: str, backend: str = "") -> None:
        """How the op is written, where its class's `text` does not serve: on one backend ("cuda",
        "hip", "cpu"), or on all.
        """
        self._entries.append((f"spelling:{backend}" if backend else "spelling", cls, text))

    def add_pass(self, function: Pass, *, before: str = "", after: str = "") -> Pass:
        """Adds a pass to the pipeline: before the first or after the last pass of a name. It is
        called `namespace.function`. Raises IRError where there is no such pass.
        """
        if bool(before) == bool(after):
            raise IRError("TLC0217", "a pass is added either before or after another")
        anchor = before or after
        own = {name.__name__ for _, _, name in self._passes}
        if anchor not in own:
            find_passes([anchor], PIPELINE)
        named: Pass = _NamedPass(f"{self.namespace}.{function.__name__}", function)
        self._passes.append(("before" if before else "after", anchor, named))
        return named

    def dtype(
        self,
        name: str,
        storage: object,
        *,
        decode: Callable[[Any], Any],
        encode: Callable[[Any], Any],
    ) -> ElementType:
        """A dtype whose elements lie in memory as those of `storage` (arrays of that dtype are
        passed to kernels). `decode(bits)` and `encode(value)` take and give scalars of the kernel:
        they are traced where an element is read or written.

            fixed = acme.dtype("fixed", "int8", decode=lambda bits: T.cast(bits, "float32") / 32,
                               encode=lambda x: T.cast(x * 32, "int8"))
            def kernel(A: T.Tensor(("N",), fixed)): ...
        """
        held = element_type(storage)
        own = StoredType(
            f"{self.namespace}.{name}", held.bits, "stored", held, decode=decode, encode=encode
        )
        return ElementType(own)

    def target(self, target: Target) -> Target:
        """Adds a target. Its name, `backend:arch`, is that of an architecture which the vendor's
        compiler knows, so it carries no namespace.
        """
        self._targets.append(target)
        return target

    def _rule(self, table: str, cls: type[Op]) -> Callable[[_Rule], _Rule]:
        def enter(rule: _Rule) -> _Rule:
            self._entries.append((table, cls, rule))
            return rule

        return enter

    def _named(self, name: str) -> None:
        if not name.startswith(self.namespace + "."):
            raise IRError(
                "TLC0215",
                f"{name!r} is not in the namespace of the extension {self.namespace!r}",
                hint=f'call it "{self.namespace}.{name.rpartition(".")[2]}"',
            )


class _NamedPass:
    """A pass under the name that it has in a pipeline."""

    def __init__(self, name: str, function: Pass) -> None:
        self.__name__ = name
        self._function = function

    def __call__(self, program: Program, context: PassContext) -> Program:
        return self._function(program, context)


def install(extension: Extension, registry: Registry | None = None) -> None:
    """Enters an extension into a registry: tilec's own, which every kernel is compiled with, or
    another that is passed about by hand. Targets are known by name afterwards. A name that
    something else has is refused, and then nothing is entered. Raises TilecError.
    """
    own = standard_registry()
    registry = own if registry is None else registry
    for op in extension._ops:
        if registry.find(op.name) not in (None, op):
            raise IRError("TLC0210", f"two ops are called {op.name!r}")
    for target in extension._targets:
        if TARGETS.get(target.name, target) != target:
            raise TargetUnsupported("TLC0502", f"there is another target {target.name!r}")
    if registry is own:
        withhold(extension.namespace)
    for op in extension._ops:
        registry.register(op)
    for table, op, entry in extension._entries:
        registry.table(table)[op] = entry
    known = [pass_ for _, _, pass_ in registry.passes]
    for where, anchor, pass_ in extension._passes:
        if pass_ not in known:
            registry.insert_pass(where, anchor, pass_)
    for target in extension._targets:
        register_target(target)


def value(x: object, dtype: object = None) -> Value:
    """The IR value of a scalar of the kernel or a number, converted to `dtype` where one is given.
    Raises LanguageError for anything else.
    """
    return value_of(x, None if dtype is None else element_type(dtype))


def emit(op: Op) -> Any:
    """Puts an op where the kernel is being traced; what it gives, as the language has it (None for
    an op without results). Raises LanguageError outside of a kernel, TypeMismatch for operands that
    the op does not take.
    """
    trace = current(op.name)
    with trace.here():
        made = trace.builder.emit(op)
        return wrap(trace, made.result) if made.results else None
