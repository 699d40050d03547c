"""What the CPU prelude defines, in the order of its text: the names of both vendors."""

from __future__ import annotations

from ..prelude_entry import PreludeEntry as Entry
from ..prelude_entry import function_entries, make_table

TABLE = make_table(
    Entry("base", "fibers.j2"),
    *(
        Entry(name, "scalars.j2", ("base",), "builtin")
        for name in ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64", "bool")
    ),
    *(
        Entry(name, "scalars.j2", ("base",), "builtin")
        for name in ("f16", "bf16", "tf32", "e4m3", "e5m2", "e4m3fnuz", "e5m2fnuz", "i4x2", "u4x2")
    ),
    Entry("races", "races.j2", ("base",)),
    Entry("regs", "memory.j2", ("base",)),
    Entry("global", "memory.j2", ("races",)),
    Entry("shared", "memory.j2", ("races",)),
    # Scalars
    Entry("convert", "scalars.j2", ("base",)),
    Entry("reinterpret", "scalars.j2", ("base",)),
    Entry("min", "scalars.j2", ("base",)),
    Entry("max", "scalars.j2", ("base",)),
    Entry("abs", "scalars.j2", ("base",)),
    Entry("floordiv", "scalars.j2", ("base",)),
    Entry("floormod", "scalars.j2", ("base",)),
    *function_entries(),
    Entry("fma", "scalars.j2", ("base",)),
    # Threads, blocks
    Entry("thread_id", "threads.j2", ("base",)),
    Entry("block_id", "threads.j2", ("base",)),
    Entry("block_count", "threads.j2", ("base",)),
    Entry("barriers", "threads.j2", ("races",)),
    Entry("print_value", "threads.j2", ("thread_id", "block_id")),
    Entry("device_assert", "threads.j2", ("base",)),
    Entry("barrier", "threads.j2", ("barriers",)),
    Entry("named_barrier", "threads.j2", ("barriers",)),
    Entry("warp_sync", "threads.j2", ("races",)),
    Entry("exchange", "threads.j2", ("base",)),
    Entry("shuffle", "threads.j2", ("exchange",)),
    Entry("shuffle_xor", "threads.j2", ("exchange",)),
    Entry("warp_uniform", "threads.j2", ("exchange",)),
    # Memory
    Entry("shared_buffer", "memory.j2", ("shared",)),
    Entry("packed_zero", "memory.j2", ("base",)),
    Entry("load_global", "memory.j2", ("regs", "global", "packed_zero")),
    Entry("store_global", "memory.j2", ("regs", "global")),
    Entry("load_shared", "memory.j2", ("regs", "shared", "packed_zero")),
    Entry("store_shared", "memory.j2", ("regs", "shared")),
    Entry("convert_registers", "memory.j2", ("regs", "convert")),
    Entry("copy_registers", "memory.j2", ("regs",)),
    Entry("fill_registers", "memory.j2", ("regs",)),
    Entry("undefined_registers", "memory.j2", ("regs",)),
    # Atomics
    Entry("atomic_add", "atomics.j2", ("races",)),
    Entry("atomic_max", "atomics.j2", ("races", "max")),
    Entry("atomic_min", "atomics.j2", ("races", "min")),
    Entry("atomic_add_global", "atomics.j2", ("regs", "global", "atomic_add")),
    # Asynchronous copies, matrices
    Entry("copy_groups", "async_copies.j2", ("shared", "global")),
    Entry("cp_async", "async_copies.j2", ("copy_groups",)),
    Entry("cp_async_commit", "async_copies.j2", ("copy_groups",)),
    Entry("cp_async_wait", "async_copies.j2", ("copy_groups",)),
    Entry("matrix_rows", "matrix.j2", ("regs", "shared")),
    Entry("ldmatrix", "matrix.j2", ("matrix_rows",)),
    Entry("ldmatrix_trans", "matrix.j2", ("matrix_rows",)),
    Entry("stmatrix", "matrix.j2", ("matrix_rows",)),
    Entry("matrix_values", "matrix.j2", ("regs",)),
    Entry("mma", "matrix.j2", ("matrix_values",)),
    # sm_90a
    Entry("swizzled", "memory.j2", ("base",)),
    Entry("mbarrier", "barriers.j2", ("shared",)),
    Entry("mbarrier_states", "barriers.j2", ("mbarrier",)),
    Entry("tensor_map", "tma.j2", ("base",)),
    Entry("prefetch_tensor_map", "tma.j2", ("tensor_map",)),
    Entry("tma_box", "tma.j2", ("tensor_map", "shared", "swizzled")),
    Entry("tma_load_box", "tma.j2", ("tma_box", "mbarrier_states")),
    Entry("mbarrier_init", "barriers.j2", ("mbarrier_states",)),
    Entry("mbarrier_init_fence", "barriers.j2", ("mbarrier_states",)),
    Entry("mbarrier_arrive", "barriers.j2", ("mbarrier_states",)),
    Entry("mbarrier_expect", "barriers.j2", ("mbarrier_states",)),
    Entry("mbarrier_announce", "barriers.j2", ("mbarrier_states",)),
    Entry("mbarrier_wait", "barriers.j2", ("mbarrier_states",)),
    Entry("fence_proxy_async", "barriers.j2", ("shared",)),
    Entry("register_decrease", "barriers.j2", ("base",)),
    Entry("register_increase", "barriers.j2", ("base",)),
    Entry("tma_load", "tma.j2", ("tma_load_box",)),
    Entry("bulk_groups", "tma.j2", ("tma_box",)),
    Entry("tma_store", "tma.j2", ("bulk_groups",)),
    Entry("bulk_commit", "tma.j2", ("bulk_groups",)),
    Entry("bulk_wait_read", "tma.j2", ("bulk_groups",)),
    Entry("bulk_wait", "tma.j2", ("bulk_groups",)),
    Entry("wgmma_descriptor", "wgmma.j2", ("shared",)),
    Entry("make_descriptor", "wgmma.j2", ("wgmma_descriptor",)),
    Entry("wgmma_groups", "wgmma.j2", ("wgmma_descriptor", "matrix_values", "swizzled")),
    Entry("wgmma_fence", "wgmma.j2", ("wgmma_groups",)),
    Entry("wgmma_commit", "wgmma.j2", ("wgmma_groups",)),
    Entry("wgmma_wait", "wgmma.j2", ("wgmma_groups",)),
    Entry("wgmma_ss", "wgmma.j2", ("wgmma_groups",)),
    Entry("wgmma_rs", "wgmma.j2", ("wgmma_groups",)),
    # gfx942 (the counterpart of the HIP prelude's)
    Entry("mfma", "mfma.j2", ("regs",)),
    Entry("load_transposed", "mfma.j2", ("regs", "shared")),
    Entry("set_priority", "mfma.j2", ("base",)),
    Entry("schedule_matrices", "mfma.j2", ("base",)),
    Entry("schedule_reads", "mfma.j2", ("base",)),
    Entry("schedule_loads", "mfma.j2", ("base",)),
    Entry("buffer", "mfma.j2", ("global",)),
    Entry("make_buffer", "mfma.j2", ("buffer",)),
    Entry("buffer_load", "mfma.j2", ("buffer", "regs")),
    Entry("buffer_store", "mfma.j2", ("buffer", "regs")),
    Entry("buffer_copy", "async_copies.j2", ("copy_groups", "buffer", "exchange")),
    Entry("buffer_copy_wait", "async_copies.j2", ("copy_groups",)),
)
"""Prelude name -> its entry."""
