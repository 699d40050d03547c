"""What the HIP prelude defines, in the order of its text."""

from __future__ import annotations

from ...ir.ops.memory import ORDERS
from ..prelude_entry import PreludeEntry as Entry
from ..prelude_entry import function_entries, make_table

_SCALARS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64", "bool")

_IN_F64: dict[str, tuple[str, ...]] = {
    "grown": (), "exp": ("grown",), "exp2": ("grown",), "exp10": ("grown",), "logarithm": (),
    "log": ("logarithm",), "log2": ("logarithm",), "log10": ("logarithm",), "log1p": ("log",),
    "sigmoid": ("exp",), "erf": ("exp",), "quarters": (), "sin": ("quarters",),
    "cos": ("quarters",), "tan": ("quarters",), "arcs": (), "asin": ("arcs",), "acos": ("arcs",),
    "atan": ("arcs",), "atan2": ("arcs",), "sinh": ("exp",), "cosh": ("exp",), "tanh": ("sinh",),
    "asinh": ("log1p",), "acosh": ("log1p",), "atanh": ("log1p",), "pow": ("exp2", "log2"),
    "hypot": (), "fmod": (),
}  # fmt: skip
"""Our own functions of f64, and which of them each uses."""

TABLE = make_table(
    Entry("base", "types.j2"),
    *(Entry(name, "types.j2", ("base",), "builtin") for name in _SCALARS),
    Entry("to_odd", "scalars.j2", ("base",)),
    Entry("f16", "types.j2", ("base",)),
    Entry("bf16", "types.j2", ("base", "to_odd")),
    Entry("e4m3", "types.j2", ("base", "to_odd")),
    Entry("e5m2", "types.j2", ("base", "to_odd")),
    Entry("e4m3fnuz", "types.j2", ("base", "to_odd")),
    Entry("e5m2fnuz", "types.j2", ("base", "to_odd")),
    Entry("e2m3", "types.j2", ("base", "to_odd")),
    Entry("e3m2", "types.j2", ("base", "to_odd")),
    Entry("e2m1b", "types.j2", ("base", "to_odd")),
    Entry("tf32", "types.j2", ("base",)),
    Entry("i4x2", "types.j2", ("base",)),
    Entry("u4x2", "types.j2", ("base",)),
    Entry("e2m1x2", "types.j2", ("base",)),
    Entry("regs", "types.j2", ("base",)),
    Entry("global", "types.j2", ("base",)),
    Entry("shared", "types.j2", ("base",)),
    # Scalars
    Entry("plain", "scalars.j2", ("base",)),
    Entry("convert", "scalars.j2", ("plain",)),
    Entry("reinterpret", "scalars.j2", ("base",)),
    Entry("min", "scalars.j2", ("base",)),
    Entry("max", "scalars.j2", ("base",)),
    Entry("abs", "scalars.j2", ("base",)),
    Entry("floordiv", "scalars.j2", ("base",)),
    Entry("floormod", "scalars.j2", ("base",)),
    Entry("half_turns", "functions.j2", ("base",)),
    Entry("arcs", "functions.j2", ("base",)),
    Entry("log_1p", "functions.j2", ("base",)),
    *(
        Entry(f"{name}_64", "functions64.j2", tuple(f"{r}_64" for r in requires) or ("base",))
        for name, requires in _IN_F64.items()
    ),
    *function_entries(
        {name: (f"{name}_64",) for name in _IN_F64},
        sin=("half_turns",),
        cos=("half_turns",),
        tan=("sin", "cos"),
        asin=("arcs",),
        acos=("arcs",),
        atan=("arcs",),
        atan2=("arcs",),
        log1p=("log_1p",),
        asinh=("log_1p",),
        acosh=("log_1p",),
        atanh=("log_1p",),
        fast_tanh=("tanh",),
    ),
    Entry("fma", "scalars.j2", ("base",)),
    # Threads, blocks
    Entry("thread_id", "threads.j2", ("base",)),
    Entry("block_id", "threads.j2", ("base",)),
    Entry("block_count", "threads.j2", ("base",)),
    Entry("assume", "threads.j2", ("base",)),
    Entry("device_assert", "threads.j2", ("base",)),
    Entry("barrier", "threads.j2", ("base",)),
    Entry("barrier_for_stores", "threads.j2", ("base",)),
    Entry("warp_sync", "threads.j2", ("base",)),
    Entry("shuffle", "threads.j2", ("base",)),
    Entry("shuffle_xor", "threads.j2", ("base",)),
    Entry("ballot", "threads.j2", ("base",)),
    Entry("warp_uniform", "threads.j2", ("base",)),
    Entry("set_priority", "threads.j2", ("base",)),
    Entry("schedule_matrices", "threads.j2", ("base",)),
    Entry("schedule_reads", "threads.j2", ("base",)),
    Entry("schedule_loads", "threads.j2", ("base",)),
    # Memory
    Entry("shared_buffer", "memory.j2", ("shared",)),
    Entry("piece", "memory.j2", ("regs",)),
    Entry("load_global", "memory.j2", ("piece", "global")),
    Entry("store_global", "memory.j2", ("piece", "global")),
    Entry("load_shared", "memory.j2", ("piece", "shared")),
    Entry("store_shared", "memory.j2", ("piece", "shared")),
    Entry("load_transposed", "memory.j2", ("regs", "shared")),
    Entry("convert_registers", "memory.j2", ("regs", "convert")),
    Entry("copy_registers", "memory.j2", ("regs",)),
    Entry("gather_registers", "memory.j2", ("regs",)),
    Entry("fill_registers", "memory.j2", ("regs",)),
    Entry("undefined_registers", "memory.j2", ("regs",)),
    # Atomics
    Entry("memory_order", "atomics.j2", ("base",)),
    *(Entry(name, "atomics.j2", ("memory_order",), "builtin") for name in ORDERS[1:]),
    Entry("memory_fence", "atomics.j2", ("memory_order",), "builtin"),
    Entry("exchange_bits", "atomics.j2", ("base",)),
    Entry("element_bits", "atomics.j2", ("base",)),
    Entry("atomic_load", "atomics.j2", ("element_bits",)),
    Entry("atomic_store", "atomics.j2", ("element_bits",)),
    Entry("atomic_or", "atomics.j2", ("exchange_bits",)),
    Entry("atomic_add", "atomics.j2", ("exchange_bits",)),
    Entry("atomic_max", "atomics.j2", ("exchange_bits", "max")),
    Entry("atomic_min", "atomics.j2", ("exchange_bits", "min")),
    Entry("atomic_add_global", "atomics.j2", ("regs", "global")),
    # Bounds-checked views
    Entry("buffer", "buffers.j2", ("global",)),
    Entry("make_buffer", "buffers.j2", ("buffer",)),
    Entry("buffer_load", "buffers.j2", ("buffer", "piece")),
    Entry("buffer_store", "buffers.j2", ("buffer", "piece")),
    Entry("buffer_copy", "buffers.j2", ("buffer", "shared")),
    Entry("buffer_copy_wait", "buffers.j2", ("base",)),
    # Matrices
    Entry("mfma", "mfma.j2", ("regs",)),
    Entry("mfma_scaled", "mfma.j2", ("regs",)),
)
"""Prelude name -> its entry."""
