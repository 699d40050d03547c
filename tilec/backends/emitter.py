"""A program at thread level as text, and what the launcher must know of it.

`emit_program` prints every launch's body, in the language that all preludes share; `render` puts
the bodies into one source file. Both depend on nothing but their arguments: no dates, no paths, no
order of hashing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import IRError
from ..ir.core import Access, Block, Level, Op, Program, Value, walk
from ..ir.effects import space_of, touched
from ..ir.ops.control import Launch, Role, Symbol
from ..ir.ops.memory import Alloc, Flatten, memory_type
from ..ir.ops.nvidia import TensorMap, WaitGrids
from ..ir.registry import Registry
from ..ir.types import MemoryType, ScalarType, Space
from ..target import Target
from ..version import __version__
from .control_flow import bind_thread_ids
from .dialect import find_dialect
from .expressions import Expression
from .grids import launch_blocks, launch_grid
from .interface import Interface, root_memory, written_memory
from .manifest import Argument, Fact, LaunchSpec, Manifest, TensorMapSpec, Variant
from .names import comment_text, mangle
from .prelude import FrameParameter, KernelFrame, render_source
from .statements import BodyEmitter
from .suggestions import suggest_names
from .uses import Uses


@dataclass(frozen=True)
class EmittedProgram:
    """A program's kernels as bodies and frames, and its side of the manifest."""

    name: str
    target: Target
    frames: tuple[KernelFrame, ...]
    launches: tuple[LaunchSpec, ...]
    interface: Interface

    @property
    def source_name(self) -> str:
        """The name of the file that `render` makes the text of."""
        return f"{mangle(self.name)}.{find_dialect(self.target.backend).extension}"

    def variant(self, requires: tuple[Fact, ...] = (), source: str = "") -> Variant:
        """This text as one variant of a program."""
        workspaces = self.interface.workspaces()
        return Variant(requires, source or self.source_name, self.launches, workspaces)

    def manifest(self, *variants: Variant) -> Manifest:
        """The manifest of a program that has these variants, or this text alone."""
        return self.interface.manifest(self.target.name, variants or (self.variant(),))


def emit_program(program: Program, target: Target, registry: Registry) -> EmittedProgram:
    """The kernels of a thread-level program.

    Raises TargetUnsupported for an op that the target's dialect cannot say, IRError for one that is
    not lowered.
    """
    if program.level is not Level.THREAD:
        raise IRError(
            "TLC0523",
            f"{program.name} is at level {program.level.value}, not thread",
            loc=program.loc,
        )
    outline = _Outline(program)
    emitted = [
        _emit_launch(outline, launch, name, target, registry) for launch, name in outline.launches()
    ]
    return EmittedProgram(
        program.name,
        target,
        tuple(frame for frame, _ in emitted),
        tuple(spec for _, spec in emitted),
        outline,
    )


def render(emitted: EmittedProgram, backend: str = "") -> str:
    """One source file with all kernels: for the target's own backend, or "cpu" for the emulator."""
    dialect = find_dialect(backend or emitted.target.backend)
    head = comment_text(f"{emitted.name} for {emitted.target.name}, by tilec {__version__}")
    frames = [
        replace(f, header_comment=head if i == 0 else "") for i, f in enumerate(emitted.frames)
    ]
    return render_source(dialect.name, frames, warp_size=emitted.target.warp_size)


class _Outline(Interface):
    """What all launches of a program share: its interface, and the ops before the launches."""

    @property
    def _launches(self) -> tuple[Launch, ...]:
        return tuple(op for op in self.program.body.ops if isinstance(op, Launch))

    def launches(self) -> Iterator[tuple[Launch, str]]:
        """Each launch with the name of its C function."""
        taken: set[str] = set()
        for launch in self._launches:
            plain = f"{mangle(self.program.name)}_kernel"
            name = base = plain if launch.symbol == "kernel" else mangle(launch.symbol)
            count = 1
            while name in taken:
                count += 1
                name = f"{base}_{count}"
            taken.add(name)
            yield launch, name

    def needed(self, launch: Launch) -> list[Op]:
        """The ops before a launch whose values its body uses, in order: the kernel computes them
        again."""
        wanted: set[Op] = set()
        pending = [v for op in walk(launch.body) for v in op.inputs]
        while pending:
            op = self.definitions.get(pending.pop())
            if op is None or op in wanted or isinstance(op, Alloc):
                continue
            if not op.pure:
                raise IRError(
                    "TLC0522", f"{op.name} before a launch that uses its result", loc=op.loc
                )
            wanted.add(op)
            pending += op.inputs
        return [op for op in self.program.body.ops if op in wanted]


@dataclass(frozen=True)
class _Parameter:
    """One parameter of a kernel: as C has it, and as the launcher fills it."""

    frame: FrameParameter
    argument: Argument


def _emit_launch(
    outline: _Outline, launch: Launch, name: str, target: Target, registry: Registry
) -> tuple[KernelFrame, LaunchSpec]:
    ops = [*outline.needed(launch), *launch.body.ops]
    body = BodyEmitter(find_dialect(target.backend), registry, target.warp_size, Uses(ops))
    threads = launch.launched_threads or launch.threads
    body.launched_threads = threads
    parameters = _parameters(outline, launch, ops, body)
    for extent, hint in zip(launch.grid, ("grid_x", "grid_y", "grid_z"), strict=False):
        body.values.suggest(extent, hint)
    suggest_names(walk(Block((), tuple(ops))), body.values.suggest)
    _bind_block_ids(body, launch.body.params)
    bind_thread_ids(body, ops, 0)
    with body.variables.block(launch.body.params):
        body.ops(ops)
    text = "\n".join(body.writer.lines)
    early = any(isinstance(op, WaitGrids) for op in launch.body.ops)
    frame = KernelFrame(
        name,
        tuple(p.frame for p in parameters),
        threads,
        launch.shared_bytes,
        text,
        body.writer.needs.found,
        cluster=launch.cluster_blocks,
        min_blocks=launch.resident,
        early=early,
        changing=early and any(map(_loads, launch.body.ops)),
        places=body.writer.places,
    )
    grid = launch_grid(launch, outline.host)
    return frame, LaunchSpec(
        name,
        tuple(p.argument for p in parameters),
        grid,
        threads,
        launch.shared_bytes,
        cluster=launch.cluster_blocks,
        cooperative=launch.cooperative,
        blocks=launch_blocks(launch, outline.host) if launch.in_turn else None,
        early=early,
    )


def _loads(op: Op) -> bool:
    """Whether threads read global memory by an op that is no role."""
    read = touched(op, Access.READ)
    return not isinstance(op, Role) and any(space_of(memory) is Space.GLOBAL for memory in read)


def _bind_block_ids(body: BodyEmitter, params: tuple[Value, ...]) -> None:
    """The logical block's indices: constants where they are used more than once."""
    for dimension, param in enumerate(params):
        text = f"block_id<{dimension}>()"
        if body.uses.count(param) > 1:
            body.writer.line(
                f"const i32 {body.values.name(param, 'b' + 'xyz'[dimension])} = {text};"
            )
        else:
            body.values.set(param, Expression(text))


def _parameters(
    outline: _Outline, launch: Launch, ops: Sequence[Op], body: BodyEmitter
) -> list[_Parameter]:
    """What a kernel takes, in C's order: pointers, tensor maps, symbols, scalars; gives each its
    name in the body."""
    live = [op for op in walk(Block((), tuple(ops))) if body.uses.is_live(op)]
    definitions = {r: op for op in live for r in op.results}
    used = {
        root_memory(v, definitions)
        for op in live
        if not isinstance(op, (TensorMap, Flatten))
        for v in op.inputs
    }
    written = written_memory(launch.body, outline.definitions)
    found: list[_Parameter] = []
    memories = [
        v for v in (*outline.program.params, *outline.allocated) if isinstance(v.type, MemoryType)
    ]
    for value in memories:
        if value in used:
            name, dtype = outline.names[value], memory_type(value).dtype.name
            own = _declare(body, value, name)
            frame = FrameParameter("pointer", own, dtype, const=value not in written)
            found.append(_Parameter(frame, Argument("pointer", name, dtype)))
    found += _tensor_maps(outline, live, definitions, body)
    found += _symbols(outline, live, body)
    for value in outline.program.params:
        if isinstance(value.type, ScalarType) and value in used:
            name, dtype = outline.names[value], value.type.dtype.name
            own = _declare(body, value, name)
            found.append(
                _Parameter(FrameParameter("scalar", own, dtype), Argument("scalar", name, dtype))
            )
    return found


def _declare(body: BodyEmitter, value: Value, name: str) -> str:
    own = body.writer.names.new(name)
    body.values.set(value, Expression(own))
    return own


def _tensor_maps(
    outline: _Outline, live: Sequence[Op], definitions: Mapping[Value, Op], body: BodyEmitter
) -> list[_Parameter]:
    names: dict[TensorMapSpec, str] = {}
    for op in live:
        if isinstance(op, TensorMap):
            tensor = outline.names[root_memory(op.memory, definitions)]
            spec = TensorMapSpec(tensor, op.box, op.swizzle, clipped=op.clipped)
            names[spec] = names.get(spec) or body.writer.names.new(f"{tensor}_map")
            body.values.set(op.result, Expression(names[spec]))
    return [
        _Parameter(
            FrameParameter("tensor_map", name), Argument("tensor_map", name, tensor_map=spec)
        )
        for spec, name in names.items()
    ]


def _symbols(outline: _Outline, live: Sequence[Op], body: BodyEmitter) -> list[_Parameter]:
    ops = [op for op in live if isinstance(op, Symbol)]
    labels = [s for s in outline.program.symbols if any(op.label == s for op in ops)]
    unknown = [op for op in ops if op.label not in labels]
    if unknown:
        raise IRError(
            "TLC0524",
            f"{outline.program.name} has no symbol {unknown[0].label!r}",
            loc=unknown[0].loc,
        )
    found = []
    for label in labels:
        own = body.writer.names.new(label)
        uses = [op for op in ops if op.label == label]
        dtype = max((op.dtype for op in uses), key=lambda d: d.bits)
        for op in uses:
            same = op.dtype == dtype
            body.values.set(op.result, Expression(own if same else f"convert<{op.dtype}>({own})"))
        found.append(
            _Parameter(
                FrameParameter("symbol", own, dtype.name), Argument("symbol", label, dtype.name)
            )
        )
    return found
