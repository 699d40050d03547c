"""What passes rebuild programs with: substitution, transformation op by op, who uses what.

    def drop_negation_of_zero(op: Op) -> Answer:
        return op.x if isinstance(op, Neg) and constant_of(op.x) == 0 else None

    body = transform(body, drop_negation_of_zero)

Blocks and ops are frozen, so all of these return new blocks and share what did not change. Values
keep their objects where their types are unchanged; where an op is replaced, the uses of its results
follow, in nested regions too.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import IRError
from .clone import Renaming
from .core import Block, Constant, Op, Value, walk

STEP_LIMIT = 100_000


@dataclass(frozen=True)
class Replacement:
    """Ops to stand in an op's place, and the values that stand for its results."""

    ops: Sequence[Op]
    values: Sequence[Value]


Answer = Op | Sequence[Op] | Value | Replacement | None
"""What a rule says of an op: keep it (None), put one or several ops in its place (the last one's
results stand for its own), a value for its only result, or a Replacement."""


def transform(block: Block, rule: Callable[[Op], Answer], mapping: Renaming | None = None) -> Block:
    """`block` with `rule` applied once to every op, inner ops before the op that holds them.

    A rule sees its op with the operands and regions already replaced; what it returns is not seen
    again. `mapping` may hold substitutions to begin with; it ends as what stands for what.
    """
    return _Rebuilder(rule, {} if mapping is None else mapping, once=True).block(block)


def rewrite(block: Block, rule: Callable[[Op], Answer], limit: int = STEP_LIMIT) -> Block:
    """As `transform`, with `rule` applied again to what it returned, until it keeps everything.

    Ops in regions of what it returned are not visited again. Raises IRError (TLC0213) after `limit`
    replacements: rules that undo each other.
    """
    return _Rebuilder(rule, {}, once=False, limit=limit).block(block)


def substitute(block: Block, mapping: Mapping[Value, Value]) -> Block:
    """`block` with the uses of some values replaced by others, all at once."""
    return _Rebuilder(lambda op: None, dict(mapping), once=True, chained=False).block(block)


class _Rebuilder:
    def __init__(
        self,
        rule: Callable[[Op], Answer],
        mapping: Renaming,
        *,
        once: bool,
        limit: int = STEP_LIMIT,
        chained: bool = True,
    ) -> None:
        self._rule = rule
        self._mapping = mapping
        self._once = once
        self._left = limit
        self._chained = chained

    def value(self, value: Value) -> Value:
        """What stands for a value now."""
        found = self._mapping.get(value)
        if found is None:
            return value
        while self._chained and found in self._mapping:
            found = self._mapping[found]
        return found

    def block(self, block: Block) -> Block:
        ops = [new for op in block.ops for new in self._op(op)]
        return block.with_ops(ops)

    def _op(self, op: Op) -> list[Op]:
        rebuilt = op.map(self.value, self.block)
        self._stand_for(op.results, rebuilt.results)
        pending, done = [rebuilt], list[Op]()
        while pending:
            current = pending.pop()
            answer = self._rule(current)
            if answer is None:
                done.append(current)
                continue
            replacement = _replacement(current, answer)
            self._stand_for(current.results, replacement.values)
            if self._once:
                done.extend(replacement.ops)
                continue
            self._left -= 1
            if self._left < 0:
                raise IRError("TLC0213", f"rewriting {op.name} does not come to an end", loc=op.loc)
            pending.extend(o.map(self.value) for o in reversed(replacement.ops))
        return done

    def _stand_for(self, old: Sequence[Value], new: Sequence[Value]) -> None:
        for a, b in zip(old, new, strict=True):
            if a is not b:
                self._mapping[a] = b
                b.hint = b.hint or a.hint


def _replacement(op: Op, answer: Op | Sequence[Op] | Value | Replacement) -> Replacement:
    if isinstance(answer, Replacement):
        return answer
    if isinstance(answer, Value):
        return Replacement((), (answer,))
    ops = (answer,) if isinstance(answer, Op) else tuple(answer)
    values = ops[-1].results if ops and op.results else ()
    if len(values) != len(op.results):
        raise IRError("TLC0213", f"what replaces {op.name} does not give its results", loc=op.loc)
    return Replacement(ops, values)


def uses(block: Block) -> dict[Value, list[Op]]:
    """The ops that use each value, in order, in nested regions too: once for every operand."""
    found: dict[Value, list[Op]] = {}
    for op in walk(block):
        for value in op.inputs:
            if not isinstance(value, Constant):
                found.setdefault(value, []).append(op)
    return found


def defining_ops(block: Block) -> dict[Value, Op]:
    """The op that defines each value, in nested regions too. Parameters have none."""
    return {value: op for op in walk(block) for value in op.results}


def in_order(
    value: Value, known: Container[Value], needs: Callable[[Value], Iterable[Value]]
) -> Iterator[Value]:
    """`value` and all that it `needs`, each behind what it needs itself, but for what is `known`: whoever
    asks makes each known as it comes. Chains may be longer than Python's stack is deep.
    """
    pending = [value]
    while pending:
        missing = [v for v in needs(pending[-1]) if v not in known]
        if missing:
            pending += missing[::-1]
        elif (found := pending.pop()) not in known:
            yield found


def free_values(block: Block) -> tuple[Value, ...]:
    """What a block uses and does not define, in order of first use."""
    free: dict[Value, None] = {}
    defined: set[Value] = set()
    _collect(block, defined, free)
    return tuple(free)


def _collect(block: Block, defined: set[Value], free: dict[Value, None]) -> None:
    defined.update(block.params)
    for op in block.ops:
        for value in op.inputs:
            if value not in defined and not isinstance(value, Constant):
                free[value] = None
        for inner in op.regions:
            _collect(inner, defined, free)
        defined.update(op.results)
