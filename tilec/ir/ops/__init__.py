"""Every op of tilec, by family. `builtin_registry()` is a fresh registry that knows them all."""

from __future__ import annotations

from ..core import Op
from ..registry import Registry
from . import (
    amd,
    arith,
    control,
    functions,
    gemm,
    memory,
    nvidia,
    pipeline,
    reduce,
    thread,
    tile,
    wgmma,
)


def builtin_ops() -> tuple[type[Op], ...]:
    """All op classes of tilec, in the order of the families."""
    return (
        *arith.OPS, *functions.OPS, *memory.OPS, *control.OPS, *tile.OPS, *gemm.OPS, *reduce.OPS, *pipeline.OPS,
        *thread.OPS, *nvidia.OPS, *wgmma.OPS, *amd.OPS,
    )  # fmt: skip


def builtin_registry() -> Registry:
    """A new registry with tilec's own ops."""
    return Registry(builtin_ops())
