"""Random tile programs whose results are exact, written as files that a person can read and run.

    program = Writer(seed).program()     # statements, each of which can be left out
    text = program.text()

Floats hold small integers: what grows is clamped, so that any order of summation gives the same
numbers, and machines are compared bit by bit. Every tile, vector and shared buffer of a program is
filled first and written out last, each block's to its own place. What is made on the way: moves of
every kind, through a workspace too, Parallel nests with conditions, reductions, scans, products,
pipelined and serial loops of any trip count one in the other, branches, code of single threads,
atomics.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

FLOATS = ("float16", "bfloat16", "float32")
INTEGERS = ("int8", "uint8", "int16", "int32", "uint32")
TILES = ((16, 16), (32, 16), (16, 64), (64, 32), (24, 40), (8, 128), (7, 12), (64, 64), (48, 96))
HEAD = '''\
"""Random program {seed}: a grid of {grid}, an array of {rows} x {columns}, {inner} between."""
from __future__ import annotations
import tilec
import tilec.language as T
'''


@dataclass
class Statement:
    """Lines, and statements inside the last of them."""

    lines: tuple[str, ...]
    body: list[Statement] = field(default_factory=list)

    def text(self, depth: int) -> list[str]:
        inner = [line for statement in self.body for line in statement.text(depth + 1)]
        if self.lines and self.lines[-1].endswith(":") and not inner:
            inner = ["    " * (depth + 1) + "pass"]
        return ["    " * depth + line for line in self.lines] + inner


@dataclass(frozen=True)
class Buffer:
    """A tile "F", vector "R" (rows) or "C" (columns), or shared "S" of the tile's shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass
class RandomProgram:
    """A program, and the sizes of its arrays."""

    seed: int
    threads: int
    tile: tuple[int, int]
    size: tuple[int, int, int]  # rows, columns, and what products sum over
    buffers: tuple[Buffer, ...]
    scratch: Buffer  # of which each block has its own in a workspace
    body: list[Statement]

    @property
    def grid(self) -> tuple[int, int]:
        (m, n), (rows, columns, _) = self.tile, self.size
        return -(-rows // m), -(-columns // n)

    def text(self) -> str:
        gx, gy = self.grid
        params = [f'X{i}: T.Tensor(("M", "N"), "{dtype}")' for i, dtype in enumerate(INPUTS)]
        params += ['P: T.Tensor(("M", "K"), "float16")', 'Q: T.Tensor(("K", "N"), "float16")']
        params += [f"O_{b.name}: T.Tensor({(gx, gy, *b.shape)}, {b.dtype!r})" for b in self.buffers]
        params += ['counts: T.Tensor((8,), "int32")', "scalar: T.int32"]
        lines = [
            *HEAD.format(
                seed=self.seed, grid=self.grid, rows=self.size[0], columns=self.size[1],
                inner=self.size[2],
            ).splitlines(),
            "", "@tilec.kernel", "def k(", *(f"    {p}," for p in params), "):",
            f"    W = T.alloc_global({(gx, gy, *self.tile)}, {self.scratch.dtype!r})",
            f"    with T.Kernel({gx}, {gy}, threads={self.threads}) as (bx, by):",
        ]  # fmt: skip
        lines += ["        " + line for b in self.buffers for line in self._opening(b)]
        m, n = self.tile
        lines += [f"        for i, j in T.Parallel({m}, {n}):", "            W[bx, by, i, j] = 1"]
        lines += ["        v = T.alloc_var('int32', 1)", "        t = T.get_thread_binding()"]
        lines += [line for statement in self.body for line in statement.text(2)]
        lines += [f"        T.copy({b.name}, O_{b.name}[bx, by, {', '.join('0' * len(b.shape))}])"
                  for b in self.buffers]  # fmt: skip
        return "\n".join(lines) + "\n"

    @staticmethod
    def _opening(b: Buffer) -> tuple[str, str]:
        kind = "shared" if b.name[0] in "SG" else "fragment"
        return f"{b.name} = T.alloc_{kind}({b.shape}, {b.dtype!r})", f"T.fill({b.name}, 1)"

    def arguments(self) -> list[Any]:
        """Arrays of small integers, outputs that hold -1, and the scalar."""
        draws = np.random.default_rng(self.seed)
        rows, columns, inner = self.size

        def small(shape: tuple[int, ...], dtype: str) -> Any:
            low = 0 if dtype.startswith("u") else -4
            return draws.integers(low, 5, shape).astype(numpy_dtype(dtype))

        found = [small((rows, columns), dtype) for dtype in INPUTS]
        found += [small((rows, inner), "float16"), small((inner, columns), "float16")]
        for b in self.buffers:
            found.append(np.full((*self.grid, *b.shape), 77).astype(numpy_dtype(b.dtype)))
        return [*found, np.zeros(8, np.int32), int(draws.integers(-3, 9))]


INPUTS = ("float16", "float32", "int32", "int8")


def numpy_dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


class Writer:
    """Draws one program."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.indices: list[str] = []  # variables of the loops around
        self.loops = 0

    def program(self) -> RandomProgram:
        draw = self.draw
        self.m, self.n = draw.choice(TILES)
        self.threads = draw.choice((32, 64, 128, 128, 256))
        self.k = draw.choice((16, 32, 32, 64))
        size = (self._extent(self.m), self._extent(self.n), draw.choice((1, 16, 40, 96, 130)))
        self.buffers = self._buffers()
        self.scratch = Buffer("W", self._dtype(), (self.m, self.n))
        body = [self._statement(0) for _ in range(draw.randint(2, 7))]
        return RandomProgram(
            self.seed, self.threads, (self.m, self.n), size, tuple(self.buffers), self.scratch, body
        )

    def _extent(self, tile: int) -> int:
        return max(1, self.draw.choice((1, tile - 1, tile, tile + 1, 2 * tile, 2 * tile - 3)))

    def _buffers(self) -> list[Buffer]:
        draw, m, n = self.draw, self.m, self.n
        found = [Buffer("F0", draw.choice(FLOATS), (m, n)), Buffer("F1", self._dtype(), (m, n))]
        found += [Buffer("R0", self._dtype(), (m,)), Buffer("C0", self._dtype(), (n,))]
        found += [Buffer("S0", self._dtype(), (m, n))]
        if draw.random() < 0.5:
            found.append(Buffer("F2", draw.choice(INTEGERS), (m, n)))
        if draw.random() < 0.5:
            found.append(Buffer("S1", self._dtype(), (n, m)))
        # Products take tiles that instructions divide; their operands are theirs alone.
        self.products = m % 16 == 0 and n % 16 == 0 and draw.random() < 0.6
        if self.products:
            found.append(Buffer("FA", "float32", (m, n)))
            found.append(Buffer("GA", "float16", (m, self.k)))
            found.append(Buffer("GB", "float16", (self.k, n)))
        return found

    def _dtype(self) -> str:
        return self.draw.choice((*FLOATS, *INTEGERS))

    def _of(self, kinds: str, dtypes: Sequence[str] = (*FLOATS, *INTEGERS)) -> Buffer | None:
        found = [b for b in self.buffers if b.name[0] in kinds and b.dtype in dtypes]
        return self.draw.choice(found) if found else None

    # Statements -----------------------------------------------------------------------------------

    def _statement(self, depth: int) -> Statement:
        simple = [self._copy_in, self._copy, self._nest, self._nest, self._vectors, self._reduce,
                  self._reduce, self._scan, self._one_thread_each, self._atomic, self._count,
                  self._to_workspace, self._from_workspace]  # fmt: skip
        if self.products:
            simple += [self._product, self._product]
        nested = [self._serial, self._pipelined, self._branch]
        made: Statement | None = None
        while made is None:
            if depth < 2 and self.draw.random() < 0.35:
                made = self.draw.choice(nested)(depth)
            else:
                made = self.draw.choice(simple)()
        return made

    def _some(self, depth: int) -> list[Statement]:
        return [self._statement(depth + 1) for _ in range(self.draw.randint(1, 3))]

    def _corner(self) -> str:
        shift = self.draw.choice(("", "", " + 1", " + 8", " - 1"))
        return f"bx * {self.m}{shift}, by * {self.n}{self.draw.choice(('', '', ' + 4'))}"

    def _copy_in(self) -> Statement | None:
        target = self._of("FS")
        if target is None or target.shape != (self.m, self.n):
            return None
        source = self.draw.randrange(len(INPUTS))
        return Statement((f"T.copy(X{source}[{self._corner()}], {target.name})",))

    def _copy(self) -> Statement | None:
        one, other = self._of("FS"), self._of("FS")
        if one is None or other is None or one.name == other.name or one.shape != other.shape:
            return None
        return Statement((f"T.copy({one.name}, {other.name})",))

    def _to_workspace(self) -> Statement | None:
        source = self._of("FS", [self.scratch.dtype])
        if source is not None and source.shape == self.scratch.shape and self.draw.random() < 0.5:
            return Statement((f"T.copy({source.name}, W[bx, by, 0, 0])",))
        store = f"W[bx, by, i, j] = {self._clamped(self.scratch, 1, self.scratch)}"
        return Statement((f"for i, j in T.Parallel({self.m}, {self.n}):", f"    {store}"))

    def _from_workspace(self) -> Statement | None:
        target = self._of("FS", [self.scratch.dtype])
        if target is None or target.shape != self.scratch.shape:
            return None
        if self.draw.random() < 0.4:
            return Statement((f"T.copy(W[bx, by, 0, 0], {target.name})",))
        place = f"(i + {self.draw.randrange(3)}) % {self.m}, {self.n - 1} - j"
        load = f"{target.name}[i, j] = W[bx, by, {place}]"
        return Statement((f"for i, j in T.Parallel({self.m}, {self.n}):", f"    {load}"))

    def _nest(self) -> Statement | None:
        target = self._of("FS")
        if target is None:
            return None
        i, j = target.shape
        store = f"{target.name}[i, j] = {self._clamped(target, 2, target)}"
        inner = [Statement((store,))]
        if self.draw.random() < 0.4:
            inner = [Statement((f"if {self._condition(target)}:",), inner)]
            if self.draw.random() < 0.4:
                other = f"{target.name}[i, j] = {self._clamped(target, 1, target)}"
                inner.append(Statement(("else:", f"    {other}")))
        return Statement((f"for i, j in T.Parallel({i}, {j}):",), inner)

    def _vectors(self) -> Statement | None:
        target = self._of("RC")
        assert target is not None
        index = "i" if target.name[0] == "R" else "j"
        store = f"{target.name}[{index}] = {self._clamped(target, 1, target)}"
        return Statement((f"for {index} in T.Parallel({target.shape[0]}):", f"    {store}"))

    def _reduce(self) -> Statement | None:
        source = self._of("FS")
        if source is None or source.shape != (self.m, self.n):
            return None
        dim = self.draw.randrange(2)
        target = self._of("RC"[dim - 1], FLOATS if source.dtype in FLOATS else INTEGERS)
        if target is None:
            return None
        kinds = ["sum", "max", "min", "absmax", "abssum"]
        if source.dtype in INTEGERS:
            kinds += ["bitand", "bitor", "bitxor"]
        clear = "" if self.draw.random() < 0.6 else ", clear=False"
        call = f"T.reduce_{self.draw.choice(kinds)}({source.name}, {target.name}, dim={dim}{clear})"
        return self._with_clamp(call, target)

    def _scan(self) -> Statement | None:
        target = self._of("FS")
        if target is None:
            return None
        reverse = self.draw.choice(("", ", reverse=True"))
        word = self.draw.choice(("cumsum", "cumsum", "cummax"))
        call = f"T.{word}({target.name}, dim={self.draw.randrange(2)}{reverse})"
        return self._with_clamp(call, target)

    def _product(self) -> Statement:
        clear = self.draw.choice(("", ", clear_accum=True"))
        return self._with_clamp(f"T.gemm(GA, GB, FA{clear})", self._named("FA"))

    def _with_clamp(self, call: str, target: Buffer) -> Statement:
        if target.dtype not in FLOATS:
            return Statement((call,))
        names = ("i", "j")[: len(target.shape)]
        element = f"{target.name}[{', '.join(names)}]"
        clamp = f"{element} = T.min(T.max({element}, -32), 32)"
        head = f"for {', '.join(names)} in T.Parallel({', '.join(map(str, target.shape))}):"
        return Statement((call, head, f"    {clamp}"))

    def _one_thread_each(self) -> Statement | None:
        target = self._of("S")
        if target is None:
            return None
        rows, columns = target.shape
        count, self.loops = rows * columns, self.loops + 1
        e = f"(q{self.loops} * {self.threads} + t)"
        place = f"{target.name}[{e} // {columns}, {e} % {columns}]"
        value = f"T.cast({place} + {e} % 7, {target.dtype!r})"
        if target.dtype in FLOATS:
            value = f"T.min({value}, 32)"
        head = f"for q{self.loops} in T.serial({-(-count // self.threads)}):"
        return Statement((head, f"    if {e} < {count}:", f"        {place} = {value}"))

    def _atomic(self) -> Statement | None:
        source = self._of("F", INTEGERS)
        if source is None:
            return None
        add = f"T.atomic_add(counts[(i + j) % 8], T.cast({source.name}[i, j], 'int32'))"
        return Statement((f"for i, j in T.Parallel({self.m}, {self.n}):", f"    {add}"))

    def _count(self) -> Statement:
        step = self.draw.choice(("v + 1", "v * 3 - scalar", "(v + bx) % 5", "v ^ by"))
        return Statement((f"v = {step}",))

    def _serial(self, depth: int) -> Statement:
        self.loops += 1
        name = f"q{self.loops}"
        bound = self.draw.choice(("2", "3", "scalar % 3", "bx + 1", "(v & 1) + 1"))
        self.indices.append(name)
        body = self._some(depth)
        self.indices.pop()
        return Statement((f"for {name} in T.serial({bound}):",), body)

    def _branch(self, depth: int) -> Statement:
        condition = self.draw.choice(
            ("bx % 2 == 0", "scalar > 2", "by < v", "(bx + by + v) % 3 > 0")
        )
        return Statement((f"if {condition}:",), self._some(depth))

    def _pipelined(self, depth: int) -> Statement:
        self.loops += 1
        name, stages = f"q{self.loops}", self.draw.randrange(5)
        if self.products:
            trips = self.draw.choice((f"T.ceildiv(P.shape[1], {self.k})", "1", "3", "scalar % 4"))
            body = [
                Statement((f"T.copy(P[bx * {self.m}, {name} * {self.k}], GA)",)),
                Statement((f"T.copy(Q[{name} * {self.k}, by * {self.n}], GB)",)),
            ]
            if self.draw.random() < 0.3:
                nest = f"for i, j in T.Parallel({self.m}, {self.k}):"
                body.append(Statement((nest, f"    GA[i, j] = GA[i, j] * 2 - {name}")))
            body.append(self._product())
        else:
            trips, target = self.draw.choice(("1", "3", "5", "scalar % 4")), self._named("S0")
            source = self.draw.randrange(len(INPUTS))
            corner = f"bx * {self.m}, by * {self.n} + {name}"
            body = [Statement((f"T.copy(X{source}[{corner}], {target.name})",))]
        self.indices.append(name)
        if self.draw.random() < 0.6:
            body += self._some(depth)
        self.indices.pop()
        return Statement((f"for {name} in T.Pipelined({trips}, num_stages={stages}):",), body)

    def _named(self, name: str) -> Buffer:
        return next(b for b in self.buffers if b.name == name)

    # Expressions ----------------------------------------------------------------------------------

    def _clamped(self, target: Buffer, depth: int, at: Buffer) -> str:
        value = self._expression(target.dtype, depth, at)
        return f"T.min(T.max({value}, -32), 32)" if target.dtype in FLOATS else value

    def _expression(self, dtype: str, depth: int, at: Buffer) -> str:
        if depth == 0 or self.draw.random() < 0.15:
            return self._leaf(dtype, at)
        x, y = (self._expression(dtype, depth - 1, at) for _ in range(2))
        if self.draw.random() < 0.2:
            return f"T.if_then_else({self._condition(at)}, {x}, {y})"
        forms = ["({x} + {y})", "({x} - {y})", "T.max({x}, {y})", "T.min({x}, {y})"]
        if dtype in FLOATS:
            forms += ["T.abs({x})", "(-{x})", "T.floor({x} * 0.5)", "({x} * 2)"]
        else:
            forms += ["({x} * {y})", "({x} & {y})", "({x} | {y})", "({x} ^ {y})", "({x} // 3)",
                      "({x} % 5)", "({x} >> 1)", "({x} << 2)", "T.abs({x})"]  # fmt: skip
        form = self.draw.choice([f for f in forms if not (dtype[0] == "u" and "abs" in f)])
        return form.format(x=x, y=y)

    def _leaf(self, dtype: str, at: Buffer) -> str:
        source, text = self._element(at)
        if source in INTEGERS and dtype in FLOATS:
            text = f"T.min(T.max(T.cast({text}, 'float32'), -32), 32)"
        return f"T.cast({text}, {dtype!r})"

    def _element(self, at: Buffer) -> tuple[str, str]:
        """The dtype and text of something that an iteration may read while it writes `at`."""
        rank, (m, n) = len(at.shape), (self.m, self.n)
        choices = [("int32", str(self.draw.randint(-3, 9))), ("int32", "v"), ("int32", "bx"),
                   ("int32", "scalar")] + [("int32", name) for name in self.indices]  # fmt: skip
        names = "ij" if rank == 2 else "i" if at.name[0] == "R" else "j"
        choices += [("int32", name) for name in names]
        for b in self.buffers:
            if b.name[0] in "FS" and rank == 2 and b.shape == at.shape:
                choices += [(b.dtype, f"{b.name}[i, j]")] * 2
            if b.name[0] in "RC" and at.shape == (m, n):
                choices.append((b.dtype, f"{b.name}[{'i' if b.name[0] == 'R' else 'j'}]"))
            if b.name[0] in "RC" and b.name[0] == at.name[0]:
                choices.append((b.dtype, f"{b.name}[{names}]"))
            if b.name[0] == "S" and rank == 2 and b.name != at.name:
                (rows, columns), shift = b.shape, self.draw.randrange(3)
                same = b.shape == at.shape
                i, j = ("i", "j") if same else ("j", "i")
                choices.append((b.dtype, f"{b.name}[({i} + {shift}) % {rows}, {j} % {columns}]"))
        if at.shape == (m, n):
            source = self.draw.randrange(len(INPUTS))
            text = f"X{source}[bx * {m} + i, by * {n} + j]"
            choices += [(INPUTS[source], text)] * 2
        return self.draw.choice(choices)

    def _condition(self, at: Buffer) -> str:
        (a, x), (b, y) = self._element(at), self._element(at)
        kind = "float32" if a in FLOATS or b in FLOATS else "int32"
        test = f"T.cast({x}, {kind!r}) {self.draw.choice(('<', '<=', '==', '!='))} T.cast({y}, {kind!r})"
        names = "ij" if len(at.shape) == 2 else "i" if at.name[0] == "R" else "j"
        if self.draw.random() < 0.3:
            return f"({test}) & ({self.draw.choice(names)} % 3 != 1)"
        return test


def without(program: RandomProgram, path: Sequence[int]) -> RandomProgram:
    """The program without the statement at `path`: positions, from the outermost inwards."""

    def cut(body: list[Statement], rest: Sequence[int]) -> list[Statement]:
        first, *more = rest
        if not more:
            return body[:first] + body[first + 1 :]
        inner = Statement(body[first].lines, cut(body[first].body, more))
        return [*body[:first], inner, *body[first + 1 :]]

    return replace(program, body=cut(program.body, path))


def paths(program: RandomProgram) -> list[tuple[int, ...]]:
    """Where every statement stands."""

    def visit(body: list[Statement], above: tuple[int, ...]) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        for number, statement in enumerate(body):
            found += [(*above, number), *visit(statement.body, (*above, number))]
        return found

    return visit(program.body, ())
