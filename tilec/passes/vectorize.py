"""Vector loads and stores for loops marked so, and bounds for every access to a tensor that is not
proved inside.

Needs: tiles lowered, indices simplified. Leaves: no loop of kind "vectorized": its accesses that
run along the loop are vectors before and after it (through registers), the rest is an unrolled loop
over its iterations. Every load and store of a tensor is `in_bounds`: proved, or under a predicate, which of
elements that walk along a row one by one counts from the first (`left_of_row`).

    for 0, 8, 1 (%v) <vectorized> {          vector_load %A_run, 0, %A[%i, %j * 8] <count = 8>
      %x = load %A[%i, %j * 8 + %v]    ->    for 0, 8, 1 (%v) <unroll = 0> {
      store %x, %s[%i, %j * 8 + %v]            %x = load %A_run[%v] ; store %x, %s_run[%v] }
    }                                        vector_store %s[%i, %j * 8], %s_run, 0 <count = 8>

Accesses that together walk along consecutive elements, 2 * %v and 2 * %v + 1, are one run: so the
parts of an element that T.view makes of smaller ones are moved. A load of element %v // 2 is a run of
half the length: so the bytes are read that hold two 4-bit elements each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ..ir.clone import Renaming, clone_op
from ..ir.core import Access, Block, Level, Op, Program, Value, at, constant_of, walk
from ..ir.ops import arith
from ..ir.ops.control import For, If, Launch, Yield, map_launches
from ..ir.ops.memory import Alloc, Atomic, ElementAccess, Load, Slot, Store, memory_type
from ..ir.rewrite import in_order
from ..ir.types import MemoryType, Space
from .affine import depends
from .context import PassContext, Remark
from .coordinates import Counted, both, guard, left_of_row, predicate_of
from .element_runs import Run, Walk, apart_from, run_from
from .index_builder import IndexBuilder
from .linear_forms import Linear
from .rebuilder import Rebuilder
from .vector_access import VectorAccess

UNROLL_LIMIT = 64  # iterations of a loop over a thread's array that is unrolled


def vectorize(program: Program, context: PassContext) -> Program:
    """Vectorises marked loops and guards accesses, in every launch."""
    assert program.level is Level.THREAD, "vectorize works on threads' programs"
    return map_launches(program, lambda launch: _launch(launch, context))


def _launch(launch: Launch, context: PassContext) -> Launch:
    b = IndexBuilder(context.multiples)
    with b.inside(launch):
        body = _Vectorizer(b, context).block(launch.body)
    return launch.replace(body=body)  # type: ignore[return-value]


class _Vectorizer(Rebuilder):
    def __init__(self, b: IndexBuilder, context: PassContext) -> None:
        super().__init__(b, context)
        self.access = VectorAccess(b, context)

    def op(self, op: Op) -> None:
        match op:
            case For() if op.kind == "vectorized":
                self._loop(op.map(self.value))
            case Load() | Store() | Atomic():
                self.emit(op, self._guarded(op.map(self.value)))
            case For():
                self.b.enter_for(op)
                new = op.map(self.value, self.block)
                self.emit(op, new.replace(unroll=0) if self._must_unroll(op) else new)
            case _:
                super().op(op)

    def _must_unroll(self, op: For) -> bool:
        """Whether a loop's index selects elements of a thread's array: registers have no run-time
        numbers.
        """
        bounds = [constant_of(v) for v in (op.start, op.stop, op.step)]
        if op.unroll != 1 or None in bounds or bounds[2] == 0:
            return False
        if len(range(*(int(b or 0) for b in bounds))) > UNROLL_LIMIT:
            return False
        index = frozenset({op.body.params[0]})
        return any(
            depends(i, index, self.b.definitions)
            for inner in walk(op.body)
            if isinstance(inner, (Load, Store)) and memory_type(inner.memory).space is Space.LOCAL
            for i in inner.indices
        )

    def _guarded(self, op: Op, counted: Counted | None = None) -> Op:
        """The access with a predicate that keeps it inside its tensor, unless it is known to be."""
        assert isinstance(op, ElementAccess)
        if op.in_bounds or memory_type(op.memory).space is not Space.GLOBAL:
            return op
        own = op.predicate[0] if op.predicate else None
        condition = both(self.b, guard(self.b, op.memory, op.indices, counted=counted), own)
        return op.replace(predicate=predicate_of(condition), in_bounds=True)

    # Loops ----------------------------------------------------------------------------------------

    def _loop(self, op: Op) -> None:
        """A marked loop: vectors around an unrolled loop over its iterations."""
        assert isinstance(op, For)
        self.b.enter_for(op)
        op = self._hoisted(self._chosen(self._hoisted(op)))
        branch = self._branch(op)
        if branch is not None:
            super().op(branch)
            return
        reason = self._refusal(op)
        count = int(constant_of(op.stop) or 0)
        walks = [] if reason else self._walks(op)
        runs = self._runs(op, walks, count)
        if not runs and op.unroll:  # a loop of a Parallel nest says already that it is unrolled
            reason = reason or "no access in it walks along consecutive elements"
            message = f"a loop marked vectorized is unrolled: {reason}"
            self.context.remark(Remark("TLC0434", message, op.loc))
        arrays = {run: self._array(run, count) for run in runs}
        zero = self.b.const(0)
        for run in runs:
            if isinstance(run.op, Load):
                memory, safe = self.value(run.op.memory), run.op.safe_value
                length = run.length(count)
                self.access.load(
                    arrays[run], zero, memory, run.indices, length, self._predicate(run), safe
                )
        self.emit(op, self._iterations(op, arrays, self._left(walks, arrays, count)))
        for run in runs:
            if not isinstance(run.op, Load):
                memory, length = self.value(run.op.memory), run.length(count)
                put = self.access.store if isinstance(run.op, Store) else self.access.add
                put(memory, run.indices, arrays[run], zero, length, self._predicate(run))

    def _hoisted(self, op: For) -> For:
        """The loop without the ops at its top that compute or load the same in every iteration: they
        come before it. So a row that a table names is read as vectors.
        """
        inside = _made_in(op.body)
        effects = [e for inner in walk(op.body) for e in inner.effects()]
        changed = self._changed(op.body)
        trips = [constant_of(v) for v in (op.start, op.stop)]
        runs = None not in trips and int(trips[0] or 0) < int(trips[1] or 0)
        still = runs and all(e.memory for e in effects)  # nobody is waited for

        def is_same(part: Op) -> bool:
            reads = still and isinstance(part, Load) and self._root(part.memory) not in changed
            return part.pure or reads or isinstance(part, If | Yield)

        kept: list[Op] = []
        for inner in op.body.ops:
            made = {v for part in inner.walk() for v in part.results}
            needed = {v for part in inner.walk() for v in part.inputs} - made
            if inner.terminator or needed & inside or not all(map(is_same, inner.walk())):
                kept.append(inner)
                continue
            with at(inner.loc):
                self.op(inner)
            inside -= made
        return op.replace(body=op.body.with_ops(kept))  # type: ignore[return-value]

    def _chosen(self, op: For) -> For:
        """The loop with choices that all iterations make alike as selects, where a side but computes and
        loads from tensors: loads of the side that does not count are not done. So a row, or zeros where
        there is none, is read as vectors.
        """
        if op.inits:
            return op
        inside = _made_in(op.body)
        names: Renaming = {}
        kept: list[Op] = []
        for inner in op.body.ops:
            if not isinstance(inner, If) or inner.condition in inside or not _only_loads(inner):
                kept.append(clone_op(inner, names))
                continue
            with at(inner.loc):
                holds = self.value(inner.condition)
                chosen = self._under(holds, inner.then, names, kept)
                loads = any(isinstance(part, Load) for part in inner.orelse.ops)
                fails = self.b.emit(arith.Not(holds)).result if loads else holds
                others = self._under(fails, inner.orelse, names, kept)
                for result, x, y in zip(inner.results, chosen, others, strict=True):
                    names[result] = _selected(holds, x, y, kept)
        return op.replace(body=op.body.with_ops(kept))  # type: ignore[return-value]

    def _under(
        self, condition: Value, side: Block, names: Renaming, kept: list[Op]
    ) -> tuple[Value, ...]:
        """What a side of a choice gives, its ops among the others."""
        *ops, end = side.ops
        for op in ops:
            if isinstance(op, Load):
                op = op.replace(predicate=(condition,))
            kept.append(clone_op(op, names))
        return tuple(names.get(v, v) for v in end.inputs)

    def _branch(self, op: For) -> If | None:
        """The branch that is all of a loop's body but pure ops, with a loop of its own on each side,
        where every iteration takes the same side: so what is under a condition on the row is
        vectors.
        """
        *pure, last = op.body.ops[:-1] or (op.body.terminator,)
        inside = _made_in(op.body)
        if not isinstance(last, If) or last.results or last.condition in inside or op.inits:
            return None
        if not all(p.pure and not p.regions for p in pure):
            return None

        def side(block: Block) -> Block:
            if len(block.ops) == 1:  # nothing but its end
                return block
            body = Block(op.body.params, (*pure, *block.ops))
            return Block((), (clone_op(op.replace(body=body), {}), Yield(())))

        with at(last.loc):
            return If(last.condition, side(last.then), side(last.orelse))

    def _predicate(self, run: Run) -> Value | None:
        return self.value(run.op.predicate[0]) if run.op.predicate else None

    def _array(self, run: Run, count: int) -> Value:
        type_ = MemoryType(memory_type(run.op.memory).dtype, (run.length(count),), Space.LOCAL)
        array = self.b.emit(Alloc(type=type_)).result
        array.hint = f"{run.op.memory.hint or 'x'}_run"
        return array

    def _left(
        self, walks: Sequence[Walk], runs: Iterable[Run], count: int
    ) -> dict[Op, tuple[Walk, Value]]:
        """Of accesses that walk along consecutive elements one by one, how many their rows have."""
        vectors = {op for run in runs for op in run.ops}
        found: dict[Op, tuple[Walk, Value]] = {}
        for each in walks:
            if each.op in vectors or each.op.in_bounds:
                continue
            first = [self.b.build(form) for form in each.forms]
            memory, reach = self.value(each.op.memory), each.place(count - 1) + 1
            left = left_of_row(self.b, memory, first, reach)
            if left is not None:
                found[each.op] = each, left
        return found

    def _iterations(
        self, op: For, arrays: dict[Run, Value], left: Mapping[Op, tuple[Walk, Value]]
    ) -> For:
        """The loop with its vectors' elements in registers."""
        index, b = op.body.params[0], self.b
        runs = {inner: (run, n) for run in arrays for n, inner in enumerate(run.ops)}
        with b.region() as ops:
            for inner in op.body.ops:
                with at(inner.loc), inner.loc:
                    if inner in left:
                        each, rest = left[inner]
                        passed = b.mul(b.floordiv(index, each.shared), each.step)
                        self.emit(inner, self._guarded(inner.map(self.value), (passed, rest)))
                        continue
                    if inner not in runs:
                        self.op(inner)
                        continue
                    run, number = runs[inner]
                    place = (b.add(b.mul(b.floordiv(index, run.shared), len(run.ops)), number),)
                    if isinstance(inner, Load):
                        self.emit(inner, Load(arrays[run], place, in_bounds=True))
                    elif isinstance(inner, Store | Atomic):
                        b.emit(Store(self.value(inner.value), arrays[run], place, in_bounds=True))
        unroll = 0 if arrays or op.unroll == 1 else op.unroll
        body = Block(op.body.params, tuple(ops))
        return op.replace(body=body, kind="serial", unroll=unroll)  # type: ignore[return-value]

    def _refusal(self, op: For) -> str:
        """Why the accesses of a loop cannot be moved before and after it; empty if they can."""
        bounds = [constant_of(v) for v in (op.start, op.stop, op.step)]
        if bounds[0] != 0 or bounds[2] != 1 or bounds[1] is None:
            return "it does not count from 0 by 1 to a number"
        if op.inits:
            return "it carries values"
        for inner in walk(op.body):
            if any(e.access is Access.SYNCHRONISE for e in inner.effects()):
                return f"{inner.name} stands in it"
        written: set[Value] = set()
        for inner in walk(op.body):
            for effect in inner.effects():
                memory = effect.memory
                if memory is None or memory_type(memory).space is Space.LOCAL:
                    continue
                root = self._root(memory)
                if effect.access is Access.READ and root in written:
                    return f"{memory.hint or 'memory'} is written before it is read"
                if effect.access is Access.WRITE:
                    written.add(root)
        crossing = None if op.unroll == 0 else self._crossing(op, written)
        return f"iterations may meet in {crossing.hint or 'memory'}" if crossing else ""

    def _crossing(self, op: For, written: set[Value]) -> Value | None:
        """Memory that iterations of a loop read and write, and not each at one place of its own. Those
        of a Parallel nest never do.
        """
        places: dict[Value, set[object]] = {}
        read: dict[Value, None] = {}
        for inner in walk(op.body):
            indices = inner.indices if isinstance(inner, ElementAccess) else ()
            place = tuple(i if constant_of(i) is None else constant_of(i) for i in indices)
            for effect in inner.effects():
                root = self._root(effect.memory) if effect.memory else None
                if root in written:
                    places.setdefault(root, set()).add(place)
                    read.update({root: None} if effect.access is Access.READ else {})
        return next((memory for memory in read if len(places[memory]) > 1), None)

    def _changed(self, block: Block) -> set[Value]:
        """The memory that ops of a block write."""
        effects = (e for inner in walk(block) for e in inner.effects())
        return {self._root(e.memory) for e in effects if e.access is Access.WRITE and e.memory}

    def _root(self, memory: Value) -> Value:
        """The allocation or parameter that a handle is a part of."""
        op = self.b.definitions.get(memory)
        return self._root(op.ring) if isinstance(op, Slot) else memory

    def _walks(self, op: For) -> list[Walk]:
        """The accesses at the top of a loop's body that walk along the last dimension alone."""
        index = op.body.params[0]
        inside = _made_in(op.body)
        for inner in walk(op.body):
            self.b.note(inner)
        changed = self._changed(op.body)
        walks: list[Walk] = []
        for inner in op.body.ops:
            if not isinstance(inner, ElementAccess) or not inner.indices:
                continue
            own = memory_type(inner.memory).space is Space.LOCAL
            if own or not inside.isdisjoint((inner.memory, *inner.predicate)):
                continue
            paced = isinstance(inner, Load) and self._root(inner.memory) not in changed
            walks += self._walk(inner, index, inside, paced)
        return walks

    def _runs(self, op: For, walks: Sequence[Walk], count: int) -> list[Run]:
        """The accesses among `walks` that come to consecutive elements, and gain by it."""
        found: list[Run] = []
        for first in walks:
            ops = run_from(first, walks)
            if ops and count % first.shared == 0:
                start = tuple(self.b.build(form) for form in first.forms)
                run = Run(ops, start, first.shared)
                found += [run] if self._width(first.op, start, run.length(count)) > 1 else []
        apart = {run: apart_from(run.op, walks, count) for run in found}
        return [run for run in found if not self._stored_twice(run, op, apart[run])]

    def _width(self, op: ElementAccess, start: Sequence[Value], count: int) -> int:
        memory = self.value(op.memory)
        if not isinstance(op, Atomic):
            return self.access.width(memory, start, count)
        adds = op.kind == "add" and not op.fetch
        return self.access.atomic_width(memory, start, count) if adds else 1

    def _stored_twice(self, run: Run, loop: For, apart: set[Op]) -> bool:
        """Whether another op of the loop, which stays in it, may write the same elements: the run is
        written behind it. Those of `apart` do not.
        """
        root = self._root(run.op.memory)
        return not isinstance(run.op, Load) and any(
            effect.access is Access.WRITE and effect.memory and self._root(effect.memory) is root
            for inner in walk(loop.body)
            if inner not in run.ops and inner not in apart
            for effect in inner.effects()
        )

    def _walk(self, op: ElementAccess, index: Value, inside: set[Value], paced: bool) -> list[Walk]:
        """An access that walks along the last dimension alone, what its indices at iteration 0 need
        being made before the loop. Empty for another. `paced`: several iterations may come to one
        element, since none changes it.
        """
        b = self.b
        with b.region() as made:  # with the loop's index: only what does not need it is kept
            forms = [b.form(self._rebuilt(self.value(i), inside)) for i in op.indices]
        steady, shared = self._pace(forms[-1], index) if paced else (index, 1)
        *outer, step = (f.factor_of(steady) for f in forms)
        if any(outer) or step < 1:
            return []
        rests = [Linear(tuple(t for t in f.terms if t[0] is not steady), f.constant) for f in forms]
        definitions = {value: op for op in made for value in op.results}
        atoms = [value for form in rests for value, _ in form.terms]
        if any(depends(value, frozenset(inside), definitions) for value in atoms):
            return []
        b.extend(_slice(atoms, made))
        return [Walk(op, tuple(rests), step, shared)]

    def _pace(self, form: Linear, index: Value) -> tuple[Value, int]:
        """The term of an index that grows with the loop's, and how many iterations have it alike:
        the loop's index, or that divided by a number.
        """
        for value, _ in form.terms:
            division = self.b.as_division(value)
            if division is not None and division[0] is index:
                return value, division[1]
        return index, 1

    def _rebuilt(self, value: Value, inside: set[Value]) -> Value:
        """An index of the loop's body, its divisions taken apart where ranges allow it."""
        b = self.b
        new: Renaming = {}
        for one in in_order(value, new, lambda v: self._taken_apart(v, inside)):
            parts = [new[v] for v in self._taken_apart(one, inside)]
            op, division, modulo = b.definitions.get(one), b.as_division(one), b.as_modulo(one)
            if not parts or not isinstance(op, arith.Binary):
                new[one] = one
            elif division is not None:
                new[one] = b.floordiv(parts[0], division[1])
            elif modulo is not None:
                new[one] = b.floormod(parts[0], modulo[1])
            else:
                new[one] = b.pure(type(op)(*parts))
        return new[value]

    def _taken_apart(self, value: Value, inside: set[Value]) -> tuple[Value, ...]:
        """What an index of the loop's body is made of; nothing where it stays as it is."""
        op = self.b.definitions.get(value)
        if value not in inside or not isinstance(op, arith.Binary):
            return ()
        divided = self.b.as_division(value) or self.b.as_modulo(value)
        if divided is not None:
            return (divided[0],)
        return (op.x, op.y) if isinstance(op, arith.Add | arith.Sub | arith.Mul) else ()


def _only_loads(choice: If) -> bool:
    """Whether the sides of a choice compute what can be computed anywhere, and load from tensors."""

    def is_load(op: Op) -> bool:
        plain = isinstance(op, Load) and not op.predicate
        return plain and memory_type(op.inputs[0]).space is Space.GLOBAL

    inner = [op for side in (choice.then, choice.orelse) for op in side.ops[:-1]]
    return any(map(is_load, inner)) and all(is_load(op) or arith.is_harmless(op) for op in inner)


def _selected(condition: Value, x: Value, y: Value, kept: list[Op]) -> Value:
    """x where the condition holds, else y; x itself, where it is loaded then, and y is what it is else."""
    other = constant_of(y)
    for op in kept:
        if isinstance(op, Load) and x in op.results and op.predicate == (condition,):
            safe = op.safe_value
            if other == safe and math.copysign(1, other) == math.copysign(1, safe):
                return x
    kept.append(arith.Select(condition, x, y))
    return kept[-1].results[0]


def _made_in(block: Block) -> set[Value]:
    """The parameters of a block, and what is computed in it."""
    return {v for inner in walk(block) for v in inner.results} | set(block.params)


def _slice(values: Sequence[Value], ops: Sequence[Op]) -> list[Op]:
    """The ops among `ops` that make `values`, and those that they need, in order."""
    wanted, found = set(values), list[Op]()
    for op in reversed(ops):
        if not wanted.isdisjoint(op.results):
            found.append(op)
            wanted.update(op.inputs)
    return found[::-1]
