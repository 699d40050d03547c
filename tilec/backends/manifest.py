"""What a launcher must know of an emitted program: parameters, variants, launches, arguments.

A manifest is pure data. It is what `tilec build` writes beside the source, what the cache stores
beside a binary, and all that the runtime reads: nothing in it is executed. Sizes are expressions
over the program's symbols (`("ceildiv", "N", 128)`), evaluated with Python integers when a program
is launched.

The meaning, in one example:

    Manifest(version=3, program="scale", target="cuda:sm_90a", symbols=("M", "N"),
             params=(TensorParam("A", "f16", ("M", "N"), "r"), TensorParam("C", "f16", ("M", "N"),
             "w")), variants=(Variant((Fact("aligned", "A", 16),), "scale.cu",
                               (LaunchSpec("scale_kernel", (Argument("pointer", "A"), ...),
                                           (("ceildiv", "N", 128), "M", 1), 256, 0),)),))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from ..ir.dtypes import DTYPES
from .launcher.expressions import OPERATIONS, names_in
from .manifest_json import Reader, read_integer, read_text, to_data

MANIFEST_VERSION = 3

Expr: TypeAlias = "int | str | tuple[str, Expr, Expr]"
"""An int; a symbol, an integer scalar parameter or `@multiprocessors`; or (operation, left,
right)."""

MULTIPROCESSORS = "@multiprocessors"

DTYPE_BYTES: Mapping[str, int] = {
    name: max(1, dtype.bits // 8) for name, dtype in DTYPES.items() if dtype.kind != "opaque"
}
"""Short dtype name -> bytes of one element in memory. 4-bit elements lie two to a byte, low half
first: the array is one of bytes, and the shape of the parameter counts those. Kernels call such a
byte i4x2, u4x2 or e2m1x2."""


@dataclass(frozen=True)
class TensorParam:
    """An array argument. `shape` is in elements of `dtype` as stored; `strides` likewise, or None
    for row-major without gaps, which the launcher then requires."""

    name: str
    dtype: str
    shape: tuple[Expr, ...]
    access: Literal["r", "w", "rw"]
    strides: tuple[Expr, ...] | None = None

    def __post_init__(self) -> None:
        _require(self.dtype in DTYPE_BYTES, f"{self.name}: unknown dtype {self.dtype!r}")
        _require(self.access in ("r", "w", "rw"), f"{self.name}: unknown access {self.access!r}")
        _require(
            self.strides is None or len(self.strides) == len(self.shape),
            f"{self.name}: {len(self.shape)} extents but another number of strides",
        )
        for expr in (*self.shape, *(self.strides or ())):
            _check_expr(expr)


@dataclass(frozen=True)
class ScalarParam:
    """A number argument, passed by value."""

    name: str
    dtype: str

    def __post_init__(self) -> None:
        _require(self.dtype in DTYPE_BYTES, f"{self.name}: unknown dtype {self.dtype!r}")


Param: TypeAlias = TensorParam | ScalarParam


MOST_ALIGNED = 128
"""Bytes that a variant may ask an address to be a multiple of: a line of every cache."""


FactKind = Literal["aligned", "below", "whole"]


@dataclass(frozen=True)
class Fact:
    """Something that a variant takes for granted about its arguments.

    `aligned`: the base address, every stride but the last and the length of a row, in bytes, are
    multiples of `bytes`, those of single rows included (vectors read past the end of a row of an
    odd length), no row is another one broadcast, and there are elements. `below`: the bytes from
    the first element to past the last are fewer than `bytes`. `whole`: the length of a row, in
    bytes, is a multiple of `bytes`, that of the one row of a vector included.
    """

    kind: FactKind
    tensor: str
    bytes: int

    def __post_init__(self) -> None:
        _require(self.kind in get_args(FactKind), f"unknown fact {self.kind!r}")
        _require(self.bytes > 0, f"{self.kind} {self.tensor}: {self.bytes} bytes")
        power = self.bytes & (self.bytes - 1) == 0
        _require(
            power or self.kind == "below",
            f"{self.kind}: multiples of {self.bytes}, which is no power of two",
        )
        _require(
            self.bytes <= MOST_ALIGNED or self.kind == "below",
            f"{self.kind}: multiples of {self.bytes}, at most {MOST_ALIGNED} can be asked for",
        )


@dataclass(frozen=True)
class TensorMapSpec:
    """A TMA descriptor of a whole parameter. `box` is in elements, outermost dimension first, as
    the parameter's shape; `swizzle` in bytes (0, 32, 64 or 128); `l2promotion`, in bytes too, is
    the most: rows that start within a sector of 32 bytes take 128. Elements outside read as zero. Along
    the dimensions in `clipped` the box is no longer than the array (launcher/tensor_maps.py)."""

    tensor: str
    box: tuple[int, ...]
    swizzle: int = 0
    interleave: Literal["none"] = "none"
    l2promotion: int = 256
    oob: Literal["zero"] = "zero"
    clipped: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require(
            self.swizzle in (0, 32, 64, 128), f"{self.tensor}: swizzle of {self.swizzle} bytes"
        )
        _require(
            self.l2promotion in (0, 64, 128, 256), f"{self.tensor}: L2 promotion {self.l2promotion}"
        )
        _require(1 <= len(self.box) <= 5, f"{self.tensor}: a box of rank {len(self.box)}")
        _require(all(1 <= n <= 256 for n in self.box), f"{self.tensor}: box {self.box} (1 to 256)")
        _require(
            all(0 <= d < len(self.box) - 1 for d in self.clipped),
            f"{self.tensor}: a box of rank {len(self.box)} clipped along {self.clipped}",
        )
        _require(self.interleave == "none", f"{self.tensor}: interleave {self.interleave!r}")
        _require(self.oob == "zero", f"{self.tensor}: fill {self.oob!r}")


@dataclass(frozen=True)
class Argument:
    """One parameter of the C function, in order. `dtype` is that of a scalar or symbol as the C
    function takes it (a symbol without one is i32)."""

    kind: Literal["pointer", "symbol", "scalar", "tensor_map"]
    name: str
    dtype: str | None = None
    tensor_map: TensorMapSpec | None = None

    def __post_init__(self) -> None:
        kinds = ("pointer", "symbol", "scalar", "tensor_map")
        _require(self.kind in kinds, f"{self.name}: unknown kind {self.kind!r}")
        _require(
            (self.kind == "tensor_map") == (self.tensor_map is not None),
            f"{self.name}: a tensor map argument and only that carries a tensor map",
        )
        _require(
            self.dtype is None or self.dtype in DTYPE_BYTES,
            f"{self.name}: unknown dtype {self.dtype!r}",
        )
        _require(
            self.kind != "symbol" or self.dtype in (None, "i32", "i64"),
            f"{self.name}: a symbol is passed as i32 or i64, not {self.dtype}",
        )


@dataclass(frozen=True)
class LaunchSpec:
    """One kernel launch. A grid extent of zero (or less) means that nothing is launched. The block
    is (threads, 1, 1) unless `block` says otherwise; `shared_bytes` is dynamic shared memory.
    `cluster`: how many neighbours along x are a thread-block cluster; the text says so itself, and
    the grid is a multiple of it. `cooperative`: all blocks run at the same time, or none. `blocks`: the
    extents of the program's own grid, where fewer blocks take its blocks in turn. `early`: it may begin
    before the launch in front of it ends, for which the text waits by itself."""

    symbol: str
    arguments: tuple[Argument, ...]
    grid: tuple[Expr, Expr, Expr]
    threads: int
    shared_bytes: int
    block: tuple[int, int, int] | None = None
    cluster: int = 1
    cooperative: bool = False
    blocks: tuple[Expr, Expr, Expr] | None = None
    early: bool = False

    def __post_init__(self) -> None:
        _require(self.cluster >= 1, f"{self.symbol}: a cluster of {self.cluster} blocks")
        _require(len(self.grid) == 3, f"{self.symbol}: a grid of {len(self.grid)} extents")
        for expr in (*self.grid, *(self.blocks or ())):
            _check_expr(expr)
        _require(
            self.shared_bytes >= 0, f"{self.symbol}: {self.shared_bytes} bytes of shared memory"
        )
        x, y, z = self.block_extents
        _require(
            x * y * z == self.threads and self.threads > 0,
            f"{self.symbol}: a block of {x}x{y}x{z} is not {self.threads} threads",
        )

    @property
    def block_extents(self) -> tuple[int, int, int]:
        """The block as (x, y, z)."""
        return self.block if self.block is not None else (self.threads, 1, 1)


@dataclass(frozen=True)
class Variant:
    """One compiled form of the program: what it requires, the file of its text, its launches, and the
    global memory that these share for the time of a call, the program's and what the compiler added."""

    requires: tuple[Fact, ...]
    source: str
    launches: tuple[LaunchSpec, ...]
    workspaces: tuple[TensorParam, ...] = ()

    def __post_init__(self) -> None:
        plain = (
            self.source and not set(self.source) & set("/\\\0") and self.source not in (".", "..")
        )
        _require(bool(plain), f"not the name of a file: {self.source!r}")

    def to_data(self) -> object:
        """The variant as dicts, lists, strings and ints."""
        return to_data(self)

    @classmethod
    def from_json(cls, text: str) -> Variant:
        """The variant that `to_data` gave, from its JSON. ValueError with the path of what is
        wrong."""
        return _read_variant(json.loads(text), "variant")


@dataclass(frozen=True)
class Step:
    """Something that kernels compute of symbols in 32 bits, and where the program says so."""

    place: str
    expression: Expr


@dataclass(frozen=True)
class Manifest:
    """A program as its launcher sees it. Variants stand in order of preference: the first whose
    facts all hold runs. `outputs` names parameters that the caller does not pass: they are
    allocated and returned. `derived` are names of values that the launcher computes from the others,
    in order. `multiples` is what symbols must be multiples of, `steps` what kernels compute of them that
    32 bits may not hold."""

    version: int
    program: str
    target: str
    params: tuple[Param, ...]
    symbols: tuple[str, ...]
    variants: tuple[Variant, ...]
    outputs: tuple[str, ...] = ()
    derived: tuple[tuple[str, Expr], ...] = ()
    multiples: tuple[tuple[str, int], ...] = ()
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        tensors = {t.name for t in self.params if isinstance(t, TensorParam)}
        names = [p.name for p in (*self.params, *self.workspaces)] + list(self.symbols)
        names += [name for name, _ in self.derived]
        _require(len(set(names)) == len(names), f"a name is declared twice: {sorted(names)}")
        unknown = sorted(set(self.outputs) - tensors)
        _require(not unknown, f"outputs that are no tensor parameter: {unknown}")
        known = set(names) | {MULTIPROCESSORS}
        promised = {name for name, _ in self.multiples}
        _require(promised <= set(self.symbols), f"multiples of no symbols: {sorted(promised)}")
        for name, expr in self.derived:
            _check_expr(expr)
            _check_names(expr, known - {name for name, _ in self.derived}, name)
        for step in self.steps:
            _check_expr(step.expression)
            _check_names(step.expression, known, step.place)
        for variant in self.variants:
            _check_variant(variant, known, tensors | {w.name for w in self.workspaces})
        for tensor in self.tensors + self.workspaces:
            for expr in (*tensor.shape, *(tensor.strides or ())):
                _check_names(expr, known, tensor.name)

    @property
    def workspaces(self) -> tuple[TensorParam, ...]:
        """What a call allocates for its time: the workspaces of all variants, by name."""
        return tuple({w.name: w for v in self.variants for w in v.workspaces}.values())

    @property
    def tensors(self) -> tuple[TensorParam, ...]:
        """The array parameters, in order."""
        return tuple(p for p in self.params if isinstance(p, TensorParam))

    @property
    def inputs(self) -> tuple[Param, ...]:
        """What the caller passes, in order: every parameter but the outputs."""
        return tuple(p for p in self.params if p.name not in self.outputs)

    def to_json(self) -> str:
        """The manifest as JSON: the same text on every build."""
        return json.dumps(to_data(self), indent=1, ensure_ascii=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest that `to_json` wrote. ValueError with the path of what is wrong, also for a
        manifest of another version."""
        reader = Reader(json.loads(text), "manifest")
        version = reader.integer("version")
        if version != MANIFEST_VERSION:
            raise ValueError(f"manifest version {version}; this tilec reads {MANIFEST_VERSION}")
        manifest = cls(
            version,
            reader.text("program"),
            reader.text("target"),
            reader.items("params", _read_param),
            reader.items("symbols", read_text),
            reader.items("variants", _read_variant),
            reader.items("outputs", read_text),
            reader.items("derived", _read_derived),
            reader.items("multiples", _read_multiple),
            reader.items("steps", _read_step),
        )
        reader.done()
        return manifest


def _read_expr(data: object, path: str) -> Expr:
    if isinstance(data, str) or type(data) is int:
        return data
    if isinstance(data, list) and len(data) == 3 and isinstance(data[0], str):
        left, right = _read_expr(data[1], f"{path}[1]"), _read_expr(data[2], f"{path}[2]")
        return (data[0], left, right)
    raise ValueError(f"{path}: not an expression: {data!r}")


def _read_derived(data: object, path: str) -> tuple[str, Expr]:
    if isinstance(data, list) and len(data) == 2 and isinstance(data[0], str):
        return data[0], _read_expr(data[1], f"{path}[1]")
    raise ValueError(f"{path}: not a name and an expression: {data!r}")


def _read_multiple(data: object, path: str) -> tuple[str, int]:
    match data:
        case [str(name), int(number)] if number > 0:
            return name, number
    raise ValueError(f"{path}: not a name and a positive number: {data!r}")


def _read_step(data: object, path: str) -> Step:
    reader = Reader(data, path)
    step = Step(reader.text("place"), _read_expr(reader.value("expression"), path))
    reader.done()
    return step


def _read_tensor(data: object, path: str) -> TensorParam:
    reader = Reader(data, path)
    tensor = TensorParam(
        reader.text("name"),
        reader.text("dtype"),
        reader.items("shape", _read_expr),
        cast(Literal["r", "w", "rw"], reader.text("access")),
        reader.items("strides", _read_expr) if reader.has("strides") else None,
    )
    reader.done()
    return tensor


def _read_param(data: object, path: str) -> Param:
    if isinstance(data, dict) and "shape" in data:
        return _read_tensor(data, path)
    reader = Reader(data, path)
    scalar = ScalarParam(reader.text("name"), reader.text("dtype"))
    reader.done()
    return scalar


def _read_fact(data: object, path: str) -> Fact:
    reader = Reader(data, path)
    kind = cast(FactKind, reader.text("kind"))
    fact = Fact(kind, reader.text("tensor"), reader.integer("bytes"))
    reader.done()
    return fact


def _read_tensor_map(data: object, path: str) -> TensorMapSpec:
    reader = Reader(data, path)
    spec = TensorMapSpec(
        reader.text("tensor"),
        reader.items("box", read_integer),
        reader.integer("swizzle"),
        cast(Literal["none"], reader.text("interleave")),
        reader.integer("l2promotion"),
        cast(Literal["zero"], reader.text("oob")),
        reader.items("clipped", read_integer) if reader.has("clipped") else (),
    )
    reader.done()
    return spec


def _read_argument(data: object, path: str) -> Argument:
    reader = Reader(data, path)
    argument = Argument(
        cast(Literal["pointer", "symbol", "scalar", "tensor_map"], reader.text("kind")),
        reader.text("name"),
        reader.text("dtype") if reader.has("dtype") else None,
        _read_tensor_map(reader.value("tensor_map"), f"{path}.tensor_map")
        if reader.has("tensor_map")
        else None,
    )
    reader.done()
    return argument


def _read_launch(data: object, path: str) -> LaunchSpec:
    reader = Reader(data, path)
    launch = LaunchSpec(
        reader.text("symbol"),
        reader.items("arguments", _read_argument),
        cast(tuple[Expr, Expr, Expr], reader.items("grid", _read_expr)),
        reader.integer("threads"),
        reader.integer("shared_bytes"),
        cast(tuple[int, int, int], reader.items("block", read_integer))
        if reader.has("block")
        else None,
        reader.integer("cluster") if reader.has("cluster") else 1,
        reader.flag("cooperative") if reader.has("cooperative") else False,
        cast(tuple[Expr, Expr, Expr], reader.items("blocks", _read_expr))
        if reader.has("blocks")
        else None,
        reader.flag("early") if reader.has("early") else False,
    )
    reader.done()
    return launch


def _read_variant(data: object, path: str) -> Variant:
    reader = Reader(data, path)
    variant = Variant(
        reader.items("requires", _read_fact),
        reader.text("source"),
        reader.items("launches", _read_launch),
        reader.items("workspaces", _read_tensor),
    )
    reader.done()
    return variant


def _check_expr(expr: Expr) -> None:
    if isinstance(expr, tuple):
        operation, left, right = expr
        _require(operation in OPERATIONS, f"not an operation: {operation!r}")
        _check_expr(left)
        _check_expr(right)
    else:
        _require(type(expr) in (int, str), f"not an expression: {expr!r}")


def _check_names(expr: Expr, known: set[str], where: str) -> None:
    unknown = sorted(set(names_in(expr)) - known)
    _require(not unknown, f"{where}: undeclared names {unknown}")


def _check_variant(variant: Variant, known: set[str], tensors: set[str]) -> None:
    for fact in variant.requires:
        _require(fact.tensor in tensors, f"a fact about {fact.tensor!r}, which is no tensor")
    for launch in variant.launches:
        for expr in (*launch.grid, *(launch.blocks or ())):
            _check_names(expr, known, launch.symbol)
        for argument in launch.arguments:
            name = argument.name
            if argument.tensor_map is not None:
                name = argument.tensor_map.tensor
            _require(name in known, f"{launch.symbol}: undeclared argument {name!r}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
