"""The language of the compiler: programs, ops, types, layouts, their text, their rules.

    from ..ir import Builder, Program, print_program
    from ..ir.verify import verify

This door has what most readers need, loaded at first use. The modules behind it are one topic each
and open too; what is called as its module is had from there (verify, rewrite, clone):

    core, types, dtypes       values, ops, blocks, programs; what values are
    ops.*                     every op, by family; the docstrings are the meaning
    build, rewrite, clone     making IR, remaking it, copying it
    attributes, compare       what attributes may hold; whether two programs are the same
    print, verify, opaque     text, rules, ops that a reader does not know
    registry, layout          which ops exist; where elements lie

`region_rules` is the verifier's own. Names with a leading underscore are nobody else's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .build import Builder, fold, fresh, scalar
    from .clone import clone_block, clone_op
    from .compare import same_block, same_program
    from .core import (
        Access,
        Block,
        Constant,
        Effect,
        Level,
        Op,
        Program,
        Value,
        at,
        attribute,
        constant,
        constant_of,
        operand,
        operands,
        region,
        walk,
        with_results,
    )
    from .dtypes import DTYPES, DType, find_dtype, promote
    from .layout import RegisterLayout, SharedLayout
    from .opaque import OpaqueOp
    from .ops import builtin_ops, builtin_registry
    from .print import VERSION, print_op, print_program
    from .registry import Registry
    from .rewrite import Replacement, defining_ops, free_values, substitute, transform, uses
    from .types import (
        ChannelType,
        InflightType,
        MemoryType,
        ScalarType,
        Space,
        TileType,
        Type,
        refines,
    )

__all__ = [
    "DTYPES",
    "VERSION",
    "Access",
    "Block",
    "Builder",
    "ChannelType",
    "Constant",
    "DType",
    "Effect",
    "InflightType",
    "Level",
    "MemoryType",
    "Op",
    "OpaqueOp",
    "Program",
    "RegisterLayout",
    "Registry",
    "Replacement",
    "ScalarType",
    "SharedLayout",
    "Space",
    "TileType",
    "Type",
    "Value",
    "at",
    "attribute",
    "builtin_ops",
    "builtin_registry",
    "clone_block",
    "clone_op",
    "constant",
    "constant_of",
    "defining_ops",
    "find_dtype",
    "fold",
    "free_values",
    "fresh",
    "operand",
    "operands",
    "print_op",
    "print_program",
    "promote",
    "refines",
    "region",
    "same_block",
    "same_program",
    "scalar",
    "substitute",
    "transform",
    "uses",
    "walk",
    "with_results",
]
_MODULES = (
    "core",
    "types",
    "dtypes",
    "build",
    "clone",
    "compare",
    "opaque",
    "print",
    "registry",
    "rewrite",
    "layout",
    "ops",
)


def __getattr__(name: str) -> object:
    if name in __all__:
        for module in _MODULES:
            found = vars(import_module(f".{module}", __name__)).get(name)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
