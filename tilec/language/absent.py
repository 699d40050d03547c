"""Names of TileLang's language, and some of Triton's, that this one does not have, and what to write
instead.

docs/language.md lists them, with those that there are.
"""

from __future__ import annotations

_CHOSEN = "T.copy and T.gemm choose the instruction for the target"
_BLACKWELL = "tensor memory and tcgen05 have no target here; T.gemm multiplies on every one"
_PACKED = "write it for one element in T.Parallel; registers hold vectors by themselves"
_ROUNDED = "+, -, *, / and T.sqrt round to nearest even; other roundings are not there"
_EXTERNAL = "emitted text calls the prelude alone; an op of your own comes from tilec.extend"
_LAYOUTS = "tilec.layout has Layout, Fragment and the swizzles; T.annotate_layout takes them"
_POINTERS = "a tensor is an argument: pass the array"
_REDUCER = "T.reduce_sum and its relatives into a fragment; T.atomic_add where blocks add up"
_MACRO = "a T.macro takes buffers of any kind: leave the annotation out"
_RANDOM = "make the numbers outside, or hash an index with integer arithmetic (Philox: ten rounds)"
_BLOCKWIDE = "T.ballot and T.popcount in each warp, then shared memory"
_SCHEDULE = "T.ws gives warps their duties; T.Pipelined alone has them chosen"
_CLUSTER = "T.Kernel(..., cluster=(x, y)): blocks that load the same tiles share them by themselves"
_PDL = "launches on one stream follow each other"
_PARTS = "T.view sees words as their parts, and parts as words"
_NEST = "the indices of a T.Parallel nest; values of a tile are a T.alloc_fragment"
_ASYNCHRONOUS = "T.copy in a T.Pipelined loop is asynchronous where the target can"

ABSENT = {
    "alloc_cluster_barrier": _CLUSTER,
    "alloc_descriptor": _CHOSEN,
    "alloc_reducer": _REDUCER,
    "alloc_wgmma_desc": _CHOSEN,
    "arange": _NEST,
    "annotate_compile_flags": "the flags are part of what makes results equal everywhere",
    "annotate_consumer_reg_alloc": "T.inc_max_nreg in the consumers' branch of T.ws",
    "annotate_l2_hit_ratio": "T.use_swizzle orders the blocks so that they share the cache",
    "annotate_min_blocks_per_sm": "fewer threads or smaller tiles let more blocks share a machine",
    "annotate_pass_configs": "tilec opt runs passes by name; a kernel's arguments say what it needs",
    "annotate_producer_reg_dealloc": "T.dec_max_nreg in the producer's branch of T.ws",
    "annotate_restrict_buffers": "arrays that overlap are found at the call",
    "annotate_ws_schedule": _SCHEDULE,
    "async_copy": _ASYNCHRONOUS,
    "access_ptr": "name the element: A[i, j] is an address where a statement takes one",
    "address_of": "name the element: A[i, j] is an address where a statement takes one",
    "block_rank_in_cluster": _CLUSTER,
    "c2d_im2col": "index the image in a T.Parallel nest that fills the tile",
    "Cast": "T.cast(value, dtype)",
    "comm_reducer": "T.warp_reduce_sum, or T.reduce_sum of a tile",
    "copy_cluster": _CLUSTER,
    "CUDASourceCodeKernel": _EXTERNAL,
    "determine_fp8_type": "make the dtype a compile-time parameter: float8_e4m3fnuz for gfx942",
    "dot": "T.gemm(A, B, C) adds to the fragment C",
    "extract_lane": _PARTS,
    "finalize_reducer": _REDUCER,
    "Fragment": _LAYOUTS,
    "FragmentBuffer": _MACRO,
    "full": "T.alloc_fragment, and T.fill",
    "gemm_sp": "sparse products are not there",
    "im2col": "index the image in a T.Parallel nest that fills the tile",
    "import_source": _EXTERNAL,
    "index_to_coordinates": "i // n and i % n; T.reshape sees a buffer under another shape",
    "inline": "T.macro",
    "Layout": _LAYOUTS,
    "linear_index": "i * n + j; T.reshape sees a buffer under another shape",
    "LocalBuffer": _MACRO,
    "load": "T.copy of a tile; A[i, j] in T.Parallel",
    "loop_break": "break",
    "make_tensor": _POINTERS,
    "make_tensor_from_addr": _POINTERS,
    "match_all_sync": "T.all_sync(x == T.shfl_sync(x, 0))",
    "match_any_sync": "compare with T.shfl_sync(x, n) in a loop over n",
    "meta_class": "an ordinary Python class, whose methods are T.macro where they have control flow",
    "mma_gemm_blockscaled": "T.gemm_scaled",
    "named_barrier_arrive": "T.alloc_barrier, T.barrier_arrive and T.barrier_wait",
    "parallel": "T.Parallel",
    "PersistentTileScheduler": "T.Persistent; T.Kernel alone keeps blocks resident where it is faster",
    "program_id": "with T.Kernel(...) as (bx, by) names the block's indices",
    "ptr": _POINTERS,
    "Ref": "a T.alloc_var is assigned to in a T.macro that takes it",
    "reducer_init": _REDUCER,
    "reducer_update": _REDUCER,
    "SharedBuffer": _MACRO,
    "Shuffle": _PARTS,
    "static_assert": "assert",
    "static_range": "range of numbers, which Python runs; or T.unroll",
    "store": "T.copy of a tile; A[i, j] = x in T.Parallel",
    "sync_global": "T.Kernel(..., cooperative=True) and an atomic that all blocks count up",
    "sync_grid": "T.Kernel(..., cooperative=True) and an atomic that all blocks count up",
    "tma_gather4": _BLACKWELL,
    "tma_load": "T.tma_copy",
    "tma_scatter4": _BLACKWELL,
    "undef": "T.alloc_var without a value",
    "WarpSpecialize": "T.ws",
    "where": "T.if_then_else, or x if condition else y",
    "wgmma_gemm_sp": "sparse products are not there",
    "zeros": "T.alloc_fragment, and T.clear",
    **dict.fromkeys(("vectorlow", "vectorhigh", "vectorcombine"), _PARTS),
    **dict.fromkeys(("add2", "sub2", "mul2", "fma2", "max2", "min2", "abs2"), _PACKED),
}
"""What to write instead, by name."""

FAMILIES = {
    "alloc_tcgen05_": _BLACKWELL,
    "alloc_tmem": _BLACKWELL,
    "call_": _EXTERNAL,
    "clc_": _BLACKWELL,
    "cluster_": _CLUSTER,
    "cooperative_tensor_": "there is no target of that kind",
    "cp_async_": _ASYNCHRONOUS,
    "create_tma_": "T.tma_copy",
    "deallocate_": _BLACKWELL,
    "ds_read_": _CHOSEN,
    "ieee_": _ROUNDED,
    "increase_descriptor": _CHOSEN,
    "initialize_": _CHOSEN,
    "ldg": "read the element; T.vectorized loops read vectors",
    "lds": "read the element; T.vectorized loops read vectors",
    "make_": _LAYOUTS,
    "mfma": _CHOSEN,
    "pdl_": _PDL,
    "print_": "T.print",
    "ptx_": _CHOSEN,
    "rdna_": _CHOSEN,
    "rng_": _RANDOM,
    "stg": "assign the element; T.vectorized loops write vectors",
    "sts": "assign the element; T.vectorized loops write vectors",
    "syncthreads_": _BLOCKWIDE,
    "tcgen05_": _BLACKWELL,
    "tvm_": _CHOSEN,
    "warpgroup_": "T.wgmma_gemm and T.wait_wgmma",
    "WS": _SCHEDULE,
    "ws_op": _SCHEDULE,
}
"""What to write instead, by the beginning of a name."""


def instead_of(name: str) -> str:
    """What to write instead of T.`name`, if it is listed here; else ""."""
    if name in ABSENT:
        return ABSENT[name]
    return next((hint for start, hint in FAMILIES.items() if name.startswith(start)), "")
