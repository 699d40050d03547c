"""What the CUDA prelude defines, in the order of its text."""

from __future__ import annotations

from ...ir.ops.memory import ORDERS
from ..prelude_entry import PreludeEntry as Entry
from ..prelude_entry import function_entries, make_table

TABLE = make_table(
    Entry("base", "types.j2"),
    *(
        Entry(name, "types.j2", ("base",), "builtin")
        for name in ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64", "bool")
    ),
    Entry("f16", "types.j2", ("base",)),
    Entry("to_odd", "types.j2", ("base",)),
    Entry("bf16", "types.j2", ("to_odd",)),
    Entry("e4m3", "types.j2", ("to_odd",)),
    Entry("e5m2", "types.j2", ("to_odd",)),
    Entry("e4m3fnuz", "types.j2", ("to_odd",)),
    Entry("e5m2fnuz", "types.j2", ("to_odd",)),
    Entry("tf32", "types.j2", ("base",)),
    Entry("i4x2", "types.j2", ("base",)),
    Entry("u4x2", "types.j2", ("base",)),
    Entry("regs", "types.j2", ("base",)),
    Entry("global", "types.j2", ("base",)),
    Entry("shared", "types.j2", ("base",)),
    Entry("words", "memory.j2", ("regs",)),
    # Scalars
    Entry("convert", "scalars.j2", ("base",)),
    Entry("reinterpret", "scalars.j2", ("base",)),
    Entry("min", "scalars.j2", ("base",)),
    Entry("max", "scalars.j2", ("base",)),
    Entry("abs", "scalars.j2", ("base",)),
    Entry("floordiv", "scalars.j2", ("base",)),
    Entry("floormod", "scalars.j2", ("base",)),
    *function_entries(
        exp=("exp2",), log=("log2",), exp10=("exp2",), log10=("log2",), sigmoid=("exp2",)
    ),
    Entry("fma", "scalars.j2", ("base",)),
    # Threads, blocks
    Entry("thread_id", "threads.j2", ("base",)),
    Entry("block_id", "threads.j2", ("base",)),
    Entry("block_count", "threads.j2", ("base",)),
    Entry("vprintf", "threads.j2", ("base",)),
    Entry("print_value", "threads.j2", ("vprintf",)),
    Entry("device_assert", "threads.j2", ("base",)),
    Entry("barrier", "threads.j2", ("base",)),
    Entry("barrier_for_stores", "threads.j2", ("barrier",)),
    Entry("named_barrier", "threads.j2", ("base",)),
    Entry("warp_sync", "threads.j2", ("base",)),
    Entry("shuffle", "threads.j2", ("base",)),
    Entry("shuffle_xor", "threads.j2", ("base",)),
    Entry("warp_uniform", "threads.j2", ("shuffle",)),
    # Memory
    Entry("shared_buffer", "memory.j2", ("shared",)),
    Entry("packet", "memory.j2", ("words",)),
    Entry("load_global", "memory.j2", ("packet", "global")),
    Entry("store_global", "memory.j2", ("packet", "global")),
    Entry("load_shared", "memory.j2", ("packet", "shared")),
    Entry("store_shared", "memory.j2", ("packet", "shared")),
    Entry("convert_registers", "memory.j2", ("words", "convert")),
    Entry("copy_registers", "memory.j2", ("regs",)),
    Entry("fill_registers", "memory.j2", ("regs",)),
    Entry("undefined_registers", "memory.j2", ("regs",)),
    # Atomics
    Entry("memory_order", "atomics.j2", ("base",)),
    *(Entry(name, "atomics.j2", ("memory_order",), "builtin") for name in ORDERS[1:]),
    Entry("memory_fence", "atomics.j2", ("memory_order",), "builtin"),
    Entry("exchange_bits", "atomics.j2", ("base",)),
    Entry("atomic_load", "atomics.j2", ("base",)),
    Entry("atomic_store", "atomics.j2", ("base",)),
    Entry("atomic_or", "atomics.j2", ("exchange_bits",)),
    Entry("atomic_add", "atomics.j2", ("exchange_bits",)),
    Entry("atomic_max", "atomics.j2", ("exchange_bits", "max")),
    Entry("atomic_min", "atomics.j2", ("exchange_bits", "min")),
    Entry("atomic_add_global", "atomics.j2", ("regs", "global")),
    # Asynchronous copies, matrices
    Entry("shared_address", "memory.j2", ("shared",)),
    Entry("cp_async", "matrix.j2", ("shared_address", "global")),
    Entry("cp_async_commit", "matrix.j2", ("base",)),
    Entry("cp_async_wait", "matrix.j2", ("base",)),
    Entry("ldmatrix", "matrix.j2", ("words", "shared_address")),
    Entry("ldmatrix_trans", "matrix.j2", ("words", "shared_address")),
    Entry("stmatrix", "matrix.j2", ("words", "shared_address")),
    Entry("mma", "matrix.j2", ("words",)),
    # sm_90a
    Entry("mbarrier", "barriers.j2", ("shared_address",)),
    Entry("mbarrier_init", "barriers.j2", ("mbarrier",)),
    Entry("mbarrier_init_fence", "barriers.j2", ("base",)),
    Entry("mbarrier_arrive", "barriers.j2", ("mbarrier",)),
    Entry("mbarrier_expect", "barriers.j2", ("mbarrier",)),
    Entry("mbarrier_announce", "barriers.j2", ("mbarrier",)),
    Entry("mbarrier_wait", "barriers.j2", ("mbarrier",)),
    Entry("fence_proxy_async", "barriers.j2", ("base",)),
    Entry("register_decrease", "barriers.j2", ("base",)),
    Entry("register_increase", "barriers.j2", ("base",)),
    Entry("tensor_map", "tma.j2", ("base",)),
    Entry("prefetch_tensor_map", "tma.j2", ("tensor_map",)),
    Entry("tma_load", "tma.j2", ("tensor_map", "mbarrier")),
    Entry("tma_store", "tma.j2", ("tensor_map", "shared_address")),
    Entry("bulk_commit", "tma.j2", ("base",)),
    Entry("bulk_wait_read", "tma.j2", ("base",)),
    Entry("bulk_wait", "tma.j2", ("base",)),
    Entry("wgmma_descriptor", "wgmma.j2", ("shared_address",)),
    Entry("make_descriptor", "wgmma.j2", ("wgmma_descriptor",)),
    Entry("wgmma_fence", "wgmma.j2", ("words",)),
    Entry("wgmma_commit", "wgmma.j2", ("base",)),
    Entry("wgmma_wait", "wgmma.j2", ("words",)),
    Entry("wgmma_ss", "wgmma.j2", ("words", "wgmma_descriptor")),
    Entry("wgmma_rs", "wgmma.j2", ("words", "wgmma_descriptor")),
)
"""Prelude name -> its entry."""
