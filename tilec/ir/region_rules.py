"""What parameters and what yield the regions of an op must have, by op class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .core import Block, Op, Value
from .dtypes import bool_, i32
from .ops.control import For, If, Launch, Parallel, Role, Simt, While, Yield
from .ops.pipeline import Pipeline, Stage
from .types import InflightType, MemoryType, ScalarType, Space, TileType, Type

_INDEX = ScalarType(i32)


def region_problem(op: Op) -> str:
    """What is wrong with the parameters or yields of an op's regions; empty if nothing is."""
    rule = _RULES.get(type(op))
    return rule(op) if rule else ""


def _params(block: Block, types: Sequence[Type], what: str) -> str:
    found = [p.type for p in block.params]
    if found == list(types):
        return ""
    return f"{what} takes ({_list(types)}), not ({_list(found)})"


def _yields(block: Block, types: Sequence[Type], what: str) -> str:
    end = block.terminator
    if not isinstance(end, Yield):
        return f"{what} does not end in a yield"
    found = [v.type for v in end.values]
    return "" if found == list(types) else f"{what} yields ({_list(found)}), not ({_list(types)})"


def _no_values(block: Block, what: str) -> str:
    """A body whose yield may be left out."""
    return _yields(block, (), what) if block.terminator is not None else ""


def _list(types: Sequence[Type]) -> str:
    return ", ".join(map(_full, types))


def _full(type_: Type) -> str:
    laid_out = isinstance(type_, (MemoryType, TileType)) and type_.layout is not None
    return f"{type_} (with a layout)" if laid_out else str(type_)


def _types(values: Sequence[Value]) -> list[Type]:
    return [v.type for v in values]


def _carried(inits: Sequence[Value], params: Sequence[Value], what: str) -> str:
    """Values enter a loop with the type that it carries; a tile may become one in flight."""
    for init, param in zip(inits, params, strict=True):
        inflight = isinstance(param.type, InflightType) and param.type.tile == init.type
        if init.type != param.type and not inflight:
            return f"{what} carries a {_full(param.type)} that starts as a {_full(init.type)}"
    return ""


def _for(op: For) -> str:
    bounds = {v.type for v in (op.start, op.stop, op.step)}
    if len(bounds) > 1:
        return "start, stop and step of a loop have different types"
    if op.body.params[0].type != op.start.type:
        return f"the index of this loop is a {op.start.type}, not a {op.body.params[0].type}"
    return _carried(op.inits, op.body.params[1:], "the loop") or _yields(
        op.body, _types(op.body.params[1:]), "the loop's body"
    )


def _pipeline(op: Pipeline) -> str:
    if op.start.type != _INDEX or op.stop.type != _INDEX:
        return "the bounds of a pipeline are i32"
    if len(op.body.params) != 1 + len(op.inits):
        return "a pipeline's body takes its index and the carried values"
    if op.body.params[0].type != _INDEX:
        return f"the index of a pipeline is an i32, not a {op.body.params[0].type}"
    return _carried(op.inits, op.body.params[1:], "the pipeline") or _yields(
        op.body, _types(op.body.params[1:]), "the pipeline's body"
    )


def _while(op: While) -> str:
    carried = _types(op.inits)
    return (
        _params(op.condition, carried, "the condition")
        or _yields(op.condition, [ScalarType(bool_)], "the condition")
        or _params(op.body, carried, "the loop's body")
        or _yields(op.body, carried, "the loop's body")
    )


def _if(op: If) -> str:
    return (
        _params(op.then, (), "the first branch")
        or _params(op.orelse, (), "the other branch")
        or _yields(op.then, _types(op.results), "the first branch")
        or _yields(op.orelse, _types(op.results), "the other branch")
    )


def _launch(op: Launch) -> str:
    if _types(op.grid) != [_INDEX] * 3:
        return f"the grid of a launch is three i32, not ({_list(_types(op.grid))})"
    return _params(op.body, [_INDEX] * 3, "a launch") or _no_values(op.body, "a launch")


def _role(op: Role) -> str:
    return _params(op.body, (), "a role") or _no_values(op.body, "a role")


def _stage(op: Stage) -> str:
    return _params(op.body, (), "a stage") or _yields(op.body, _types(op.results), "a stage")


def _simt(op: Simt) -> str:
    return _params(op.body, [_INDEX], "a simt region") or _yields(op.body, (), "a simt region")


def _parallel(op: Parallel) -> str:
    tiles = (*op.reads, *op.updates)
    for value in tiles:
        if not isinstance(value.type, TileType):
            return f"a parallel body reads and updates tiles, not a {value.type}"
    handles = [
        MemoryType(v.type.dtype, v.type.shape, Space.FRAGMENT)
        for v in tiles
        if isinstance(v.type, TileType)
    ]
    return _params(
        op.body, [*[_INDEX] * len(op.extents), *handles], "the parallel body"
    ) or _yields(op.body, (), "the parallel body")


_RULES: dict[type[Op], Callable[[Any], str]] = {
    For: _for,
    Pipeline: _pipeline,
    While: _while,
    If: _if,
    Launch: _launch,
    Role: _role,
    Stage: _stage,
    Simt: _simt,
    Parallel: _parallel,
}
