"""Whether two pieces of IR are the same but for names of values and locations."""

from __future__ import annotations

from .attributes import attributes_key, constant_key
from .core import Block, Constant, Op, Program, Value


def same_program(a: Program, b: Program) -> bool:
    """Whether two programs have the same name, level, symbols, parameters and structure."""
    if (a.name, a.level, a.symbols) != (b.name, b.level, b.symbols) or a.multiples != b.multiples:
        return False
    pairs: dict[Value, Value] = {}
    return _same_values(a.params, b.params, pairs) and _same_blocks(a.body, b.body, pairs)


def same_block(a: Block, b: Block) -> bool:
    """Whether two blocks have the same structure; values defined outside must be the same."""
    return _same_blocks(a, b, {})


def _same_values(a: tuple[Value, ...], b: tuple[Value, ...], pairs: dict[Value, Value]) -> bool:
    """Pairs up values that are defined here."""
    if [v.type for v in a] != [v.type for v in b]:
        return False
    pairs.update(zip(a, b, strict=True))
    return True


def _same_blocks(a: Block, b: Block, pairs: dict[Value, Value]) -> bool:
    return (
        len(a.ops) == len(b.ops)
        and _same_values(a.params, b.params, pairs)
        and all(_same_ops(x, y, pairs) for x, y in zip(a.ops, b.ops, strict=True))
    )


def _same_ops(a: Op, b: Op, pairs: dict[Value, Value]) -> bool:
    if type(a) is not type(b) or a.name != b.name or a.fields != b.fields:
        return False
    if len(a.regions) != len(b.regions) or attributes_key(a) != attributes_key(b):
        return False
    for name, kind in a.fields:
        x, y = getattr(a, name), getattr(b, name)
        if kind == "operand" and not _same_use(x, y, pairs):
            return False
        if kind == "operands" and not (
            len(x) == len(y) and all(_same_use(v, w, pairs) for v, w in zip(x, y, strict=True))
        ):
            return False
        if kind == "region" and not _same_blocks(x, y, pairs):
            return False
    return _same_values(a.results, b.results, pairs)


def _same_use(a: Value, b: Value, pairs: dict[Value, Value]) -> bool:
    if isinstance(a, Constant) or isinstance(b, Constant):
        both = isinstance(a, Constant) and isinstance(b, Constant)
        return both and constant_key(a) == constant_key(b)  # type: ignore[arg-type]
    return pairs.get(a, a) is b
