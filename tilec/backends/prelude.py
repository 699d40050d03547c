"""Renders preludes and whole kernels: the text around a body (docs/prelude.md).

A body names what it uses as `Need`s; `render_prelude` prints the definitions of exactly these and
of what they require, in the order of the dialect's table, so the text is the same on every build.
`render_kernel` puts the prelude, the signature and the body together. Which instruction, layout and
schedule a kernel uses is decided long before: nothing here chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from typing import Literal, TypeAlias

from jinja2 import Environment, FunctionLoader, StrictUndefined

from .prelude_entry import PreludeEntry

NeedArgument: TypeAlias = int | str | bool

DIALECTS = ("cuda", "hip", "cpu")
"""Every dialect is a package beside this file: `table.py` with TABLE, and `templates/`. What the
text of vendors shares is in `templates/` beside this file."""


@dataclass(frozen=True)
class Need:
    """A prelude name that a body uses, with the arguments that pick one member of a family.

    E.g. Need("mma", (16, 8, 16, "f32", "f16")), Need("load_global", (8,)), Need("wgmma_ss", (256,
    "f32", "f16", "f16", False, False)), Need("f16"). An argument that is itself a prelude name (a
    type) is needed too.
    """

    name: str
    arguments: tuple[NeedArgument, ...] = ()


@dataclass(frozen=True)
class FrameParameter:
    """One parameter of a kernel. `dtype` is that of the elements (pointer) or the value (symbol,
    scalar; i32 for a symbol without one); `const`: nothing in this launch writes through the
    pointer, or through any other to the same memory."""

    kind: Literal["pointer", "symbol", "scalar", "tensor_map"]
    name: str
    dtype: str | None = None
    const: bool = False


@dataclass(frozen=True)
class KernelFrame:
    """A kernel but for its prelude: `threads` a block (one-dimensional), `shared_bytes` of dynamic
    shared memory, `body` in the prelude's language, indented as it shall stand between the
    braces."""

    name: str
    parameters: tuple[FrameParameter, ...]
    threads: int
    shared_bytes: int
    body: str
    needs: tuple[Need, ...]
    header_comment: str = ""
    cluster: int = 1  # neighbouring blocks of a thread-block cluster
    min_blocks: int = 0  # blocks that a multiprocessor shall hold at once; 0 says nothing
    early: bool = False  # it waits by itself for the launches before it,
    changing: bool = False  # and threads read in front of any branch what those may still write
    places: tuple[str, ...] = ()  # the user's line for each line of `body`; "" where none is known

    @property
    def told_lines(self) -> tuple[tuple[str, str], ...]:
        """The lines of the body, each with a place of the user's file where a thread that comes to
        it is told a new one: the emulator's findings name that. No place stands before what
        continues a statement."""
        lines = self.body.strip("\n").split("\n")
        told: list[tuple[str, str]] = []
        last = ""
        for line, place in zip(lines, self.places or ("",) * len(lines), strict=True):
            starts = bool(place) and not line.lstrip().startswith(("}", "#"))
            told.append((line, place if starts and place != last else ""))
            last = place if starts else last
            if line.rstrip().endswith("{") or line.lstrip().startswith("}"):
                last = ""  # a branch or a trip of a loop may come from elsewhere
        return tuple(told)


def render_prelude(dialect_name: str, needs: Iterable[Need], **parameters: NeedArgument) -> str:
    """The prelude text that defines `needs` and what they require, and nothing else.

    `parameters`: `warp_size` (cpu: 32 or 64). KeyError for a name or dialect that does not exist.
    """
    table = _table(dialect_name)
    instances = _resolve(dialect_name, table, needs)
    names = frozenset(instances)
    environment = _environment(dialect_name)
    context = {"warp_size": 32, **parameters, "names": names}
    modules = {
        file: environment.get_template(file).make_module(context)
        for file in sorted({table[name].template for name in names})
    }
    pieces: list[str] = []
    for name, entry in table.items():
        if name in names:
            macro = getattr(modules[entry.template], entry.macro_name)
            pieces.append(str(macro(_sorted_instances(instances[name]))).strip("\n"))
    return _stack([piece for piece in pieces if piece])


def _stack(pieces: Sequence[str]) -> str:
    """Definitions under each other, a blank line around each that takes more than one line."""
    lines: list[str] = []
    for before, piece in zip(("", *pieces), pieces, strict=False):
        if before and ("\n" in before or "\n" in piece):
            lines.append("")
        lines.append(piece)
    return "\n".join(lines) + "\n"


def render_kernel(dialect_name: str, frame: KernelFrame, **parameters: NeedArgument) -> str:
    """A whole source file that holds the kernel `frame`."""
    return render_source(dialect_name, (frame,), **parameters)


def render_source(
    dialect_name: str, frames: Sequence[KernelFrame], **parameters: NeedArgument
) -> str:
    """A whole source file: one prelude for all `frames`, then each kernel under its own C name.

    The text depends on the arguments alone. KeyError as `render_prelude`.
    """
    table = _table(dialect_name)
    needs = [need for frame in frames for need in (*frame.needs, *_parameter_needs(frame, table))]
    prelude = render_prelude(dialect_name, needs, **parameters)
    template = _environment(dialect_name).get_template("frame.j2")
    comments = [line for frame in frames for line in frame.header_comment.splitlines()]
    return template.render(
        frames=tuple(frames), prelude=prelude, comments=comments, **{"warp_size": 32, **parameters}
    )


def prelude_names(dialect_name: str) -> tuple[str, ...]:
    """Every name that the prelude of a dialect can define, in the order of its text."""
    return tuple(_table(dialect_name))


def _parameter_needs(frame: KernelFrame, table: Mapping[str, PreludeEntry]) -> list[Need]:
    """What the signature itself uses: types, `global` of a pointer, `tensor_map`."""
    kinds = {"pointer": "global", "tensor_map": "tensor_map"}
    needs = [Need(kinds[p.kind]) for p in frame.parameters if p.kind in kinds]
    needs += [Need(p.dtype) for p in frame.parameters if p.dtype is not None and p.dtype in table]
    return needs


def _resolve(
    dialect_name: str, table: Mapping[str, PreludeEntry], needs: Iterable[Need]
) -> dict[str, set[tuple[NeedArgument, ...]]]:
    """Each needed name, required ones included, with the argument tuples it is needed for."""
    instances: dict[str, set[tuple[NeedArgument, ...]]] = {}
    pending = [Need("base"), *needs]
    while pending:
        need = pending.pop()
        if need.name not in table:
            raise KeyError(f"the {dialect_name} prelude has no name {need.name!r}")
        if need.name not in instances:
            instances[need.name] = set()
            pending += [Need(name) for name in table[need.name].requires]
        if need.arguments:
            instances[need.name].add(need.arguments)
            pending += [Need(a) for a in need.arguments if isinstance(a, str) and a in table]
        if "f64" in need.arguments:
            pending += [Need(name) for name in table[need.name].in_f64]
    return instances


def _sorted_instances(instances: set[tuple[NeedArgument, ...]]) -> list[tuple[NeedArgument, ...]]:
    return sorted(
        instances, key=lambda arguments: [(type(a).__name__, str(a).rjust(8)) for a in arguments]
    )


@cache
def _table(dialect_name: str) -> Mapping[str, PreludeEntry]:
    if dialect_name not in DIALECTS:
        raise KeyError(f"no dialect {dialect_name!r}; there are {', '.join(DIALECTS)}")
    module = import_module(f".{dialect_name}.table", __package__)
    table: Mapping[str, PreludeEntry] = module.TABLE
    return table


@cache
def _environment(dialect_name: str) -> Environment:
    package = resources.files(__package__)
    folders = (package.joinpath(dialect_name, "templates"), package.joinpath("templates"))

    def load(name: str) -> str | None:
        files = (folder.joinpath(name) for folder in folders)
        return next((f.read_text(encoding="utf-8") for f in files if f.is_file()), None)

    return Environment(
        loader=FunctionLoader(load),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
