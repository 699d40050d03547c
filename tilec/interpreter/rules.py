"""The table from op class to its meaning at the tile level. Pure ops that are not in it fall to
their `evaluate`.
"""

from __future__ import annotations

from ..ir.core import Op
from ..ir.ops import arith, control, gemm, memory, nvidia, pipeline, reduce, thread, tile
from ..ir.registry import Registry
from . import atomics, blocks, channels, elements, mbarriers, reductions, roles, tiles
from . import control as structure
from . import pipeline as loops
from .frame import Rule

TABLE = "interpret"

RULES: dict[type[Op], Rule] = {
    arith.Select: tiles.run_select,
    memory.Alloc: structure.run_alloc,
    memory.Load: elements.run_load,
    memory.Store: elements.run_store,
    memory.Atomic: atomics.run_atomic,
    memory.Slot: structure.run_slot,
    memory.Flatten: structure.run_flatten,
    memory.View: structure.run_view,
    control.For: structure.run_for,
    control.While: structure.run_while,
    control.If: structure.run_if,
    control.Launch: structure.run_launch,
    control.Simt: structure.run_simt,
    control.Parallel: structure.run_parallel,
    control.Assume: structure.run_assume,
    control.DeviceAssert: structure.run_assert,
    control.Print: structure.run_print,
    control.Symbol: structure.run_symbol,
    control.Define: structure.run_define,
    control.ThreadId: structure.run_thread_id,
    control.WarpUniform: structure.run_warp_uniform,
    control.HardwareBlock: structure.run_hardware_block,
    tile.Copy: tiles.run_copy,
    tile.LoadTile: tiles.run_load_tile,
    tile.StoreTile: tiles.run_store_tile,
    tile.Fill: tiles.run_fill,
    tile.Splat: tiles.run_splat,
    tile.Undefined: tiles.run_undefined,
    tile.InsertTile: tiles.run_insert,
    tile.ExtractTile: tiles.run_extract,
    tile.ReshapeTile: tiles.run_reshape,
    tile.RegroupTile: tiles.run_regroup,
    tile.UnpackTile: tiles.run_unpack,
    tile.PackTile: tiles.run_pack,
    tile.ConvertLayout: tiles.run_convert_layout,
    gemm.Gemm: tiles.run_gemm,
    reduce.Reduction: reductions.run_reduction,
    pipeline.Channel: channels.run_channel,
    pipeline.Put: channels.run_put,
    pipeline.Commit: channels.run_commit,
    pipeline.Get: channels.run_get,
    pipeline.Free: channels.run_free,
    pipeline.Send: channels.run_send,
    pipeline.Receive: channels.run_receive,
    pipeline.Wait: tiles.run_wait,
    pipeline.Pipeline: loops.run_pipeline,
    pipeline.Stage: loops.run_stage,
    pipeline.InFlight: tiles.run_in_flight,
    pipeline.WaitGemms: tiles.run_wait_gemms,
    nvidia.MbarrierArrive: mbarriers.run_arrive,
    nvidia.MbarrierExpect: mbarriers.run_expect,
    nvidia.MbarrierWait: mbarriers.run_mbarrier_wait,
    nvidia.BulkCommit: mbarriers.run_bulk_commit,
    nvidia.BulkWait: mbarriers.run_bulk_wait,
    nvidia.FenceProxyAsync: roles.run_nothing,
    nvidia.SetRegisters: roles.run_nothing,
    thread.WarpSync: roles.run_warp_sync,
    thread.Barrier: roles.run_barrier,
    thread.Shuffle: roles.run_shuffle,
    thread.Ballot: roles.run_ballot,
    thread.MemoryFence: blocks.run_fence,
}


def install(registry: Registry) -> Registry:
    """Adds tilec's own rules to a registry, leaving those that it has. Roles are run side by side,
    by their block.
    """
    table = registry.table(TABLE)
    for op, rule in RULES.items():
        table.setdefault(op, rule)
    return registry
