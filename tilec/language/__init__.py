"""What a kernel may say: `import tilec.language as T`.

Names and meanings are TileLang's; a name that is not here is refused with what it may have meant.
"""

from __future__ import annotations

from ..errors import LanguageError
from .arithmetic import (
    Select,
    abs,
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    cast,
    cdiv,
    ceildiv,
    clamp,
    cos,
    exp,
    exp2,
    floordiv,
    floormod,
    if_then_else,
    likely,
    log,
    log2,
    max,
    min,
    reinterpret,
    rsqrt,
    shift_left,
    shift_right,
    sin,
    sqrt,
    tanh,
)
from .atomics import atomic_add, atomic_max, atomic_min
from .dtypes import (
    bfloat16,
    float8_e4m3fn,
    float8_e5m2,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    tfloat32,
    uint8,
    uint16,
    uint32,
    uint64,
)
from .dtypes import bool_ as bool
from .frame import (
    Kernel,
    get_block_binding,
    get_block_bindings,
    get_block_extent,
    get_block_extents,
    get_thread_binding,
    get_thread_bindings,
    get_thread_extent,
    get_thread_extents,
    thread_binding,
    use_swizzle,
)
from .global_memory import alloc_global, empty
from .kernel import prim_func
from .loops import (
    Parallel,
    Pipelined,
    Serial,
    Unroll,
    Vectorized,
    grid,
    serial,
    unroll,
    vectorized,
)
from .macro import macro
from .memory import (
    alloc_fragment,
    alloc_local,
    alloc_shared,
    alloc_var,
    annotate_layout,
    annotate_safe_value,
)
from .places import locate
from .tensors import Buffer, StridedTensor, Tensor, const, dynamic, symbolic
from .tile import GemmWarpPolicy, clear, copy, fill, gemm
from .trace import close_matches

__all__ = [
    "Buffer",
    "GemmWarpPolicy",
    "Kernel",
    "Parallel",
    "Pipelined",
    "Select",
    "Serial",
    "StridedTensor",
    "Tensor",
    "Unroll",
    "Vectorized",
    "abs",
    "alloc_fragment",
    "alloc_global",
    "alloc_local",
    "alloc_shared",
    "alloc_var",
    "annotate_layout",
    "annotate_safe_value",
    "atomic_add",
    "atomic_max",
    "atomic_min",
    "bfloat16",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bool",
    "cast",
    "cdiv",
    "ceildiv",
    "clamp",
    "clear",
    "const",
    "copy",
    "cos",
    "dynamic",
    "empty",
    "exp",
    "exp2",
    "fill",
    "float8_e4m3fn",
    "float8_e5m2",
    "float16",
    "float32",
    "float64",
    "floordiv",
    "floormod",
    "gemm",
    "get_block_binding",
    "get_block_bindings",
    "get_block_extent",
    "get_block_extents",
    "get_thread_binding",
    "get_thread_bindings",
    "get_thread_extent",
    "get_thread_extents",
    "grid",
    "if_then_else",
    "int8",
    "int16",
    "int32",
    "int64",
    "likely",
    "log",
    "log2",
    "macro",
    "max",
    "min",
    "prim_func",
    "reinterpret",
    "rsqrt",
    "serial",
    "shift_left",
    "shift_right",
    "sin",
    "sqrt",
    "symbolic",
    "tanh",
    "tfloat32",
    "thread_binding",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unroll",
    "use_swizzle",
    "vectorized",
]


class UnknownName(LanguageError, AttributeError):
    """A name that the language does not have. Also an AttributeError, so that hasattr works."""


def __getattr__(name: str) -> object:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise UnknownName(
        "TLC0101",
        f"the language has no T.{name}",
        loc=locate(),
        hint=close_matches(name, __all__, "T."),
    )
