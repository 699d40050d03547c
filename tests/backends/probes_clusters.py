"""Probes of thread-block clusters: barriers of other blocks, multicast, and where all blocks meet."""

# ruff: noqa: E501 (lines of C keep their shape)

from __future__ import annotations

from tests.backends.emulation import Probe, Probes, needs_of
from tilec.backends.manifest import TensorMapSpec
from tilec.backends.prelude import Need

_HEAD = """  shared<mbarrier> full = shared_buffer<mbarrier>(0, 1), empty = shared_buffer<mbarrier>(8, 1);
  shared<f32> S = shared_buffer<f32>(1024, 256);
  const i32 t = thread_id(), block = block_id<0>(), rank = block % {n};
"""
_MAKE = """  if (t == 0) {{ mbarrier_init(full, 0, 1); mbarrier_init(empty, 0, {count}); mbarrier_init_fence(); }}
"""
_MEET = "  cluster_barrier();\n"
_COPY_OUT = "  for (i32 i = t; i < 256; i += 32) { Y[block * 256 + i] = S[i]; }\n"

BODIES: dict[str, tuple[int, int, str]] = {
    # name: (blocks, arrivals at `empty`, what stands between the making of barriers and the end)
    "arrivals": (4, 4, _MEET + """  if (t < 4) { mbarrier_arrive_remote(empty, 0, t); }
  mbarrier_wait(empty, 0, 0);
  Y[block * 32 + t] = rank;
""" + _MEET),
    "ring": (4, 1, _MEET + """  if (rank == 0 && t == 0) { mbarrier_arrive_remote(empty, 0, 1); }
  mbarrier_wait(empty, 0, 0);
  if (rank != 0 && t == 0) { mbarrier_arrive_remote(empty, 0, (rank + 1) % 4); }
  Y[block * 32 + t] = rank;
""" + _MEET),
    "parts": (2, 1, _MEET + """  if (t == 0) {
    mbarrier_expect(full, 0, 1024);
    tma_load_multicast<2>(S, rank * 128, X_map, full, 0, 3, 0, (block / 2) * 16 + rank * 8);
  }
  mbarrier_wait(full, 0, 0);
""" + _COPY_OUT + _MEET),
    "one_loads_for_the_others": (4, 1, _MEET + """  if (t == 0) {
    mbarrier_expect(full, 0, rank == 1 ? 0 : 512);
    if (rank == 1) { tma_load_multicast<2>(S, 0, X_map, full, 0, 13, 0, 8 * (block / 4)); }
  }
  mbarrier_wait(full, 0, 0);
  if (rank != 1) { for (i32 i = t; i < 128; i += 32) { Y[block * 256 + i] = S[i]; } }
""" + _MEET),
    "a_ring_of_tiles": (2, 2, _MEET + """  for (i32 k = 0; k < 5; ++k) {
    if (t == 0) {
      mbarrier_wait(empty, 0, k & 1 ^ 1);
      mbarrier_expect(full, 0, 1024);
      tma_load_multicast<2>(S, rank * 128, X_map, full, 0, 3, 0, k * 16 + rank * 8);
    }
    mbarrier_wait(full, 0, k & 1);
    Y[(block * 5 + k) * 32 + t] = S[8 * t];
    warp_sync();
    if (t < 2) { mbarrier_arrive_remote(empty, 0, t); }
  }
""" + _MEET),
}  # fmt: skip

FAULTY: dict[str, tuple[int, int, str, str]] = {
    # name: as above, and what is found
    "not_made": (2, 1, _MEET.replace("  cluster", "  if (rank == 1) cluster") + "  if (rank == 0 && t == 0) { mbarrier_arrive_remote(empty, 0, 1); }\n" + _MEET, "never initialised|deadlock|nothing orders"),
    "outside": (2, 1, _MEET + "  if (t == 0) { mbarrier_arrive_remote(empty, 0, 2); }\n" + _MEET, "arrives at an mbarrier of block 2 of a cluster of 2"),
    "no_block": (2, 1, _MEET + "  if (t == 0) { mbarrier_expect(full, 0, 0); tma_load_multicast<2>(S, 0, X_map, full, 0, 0, 0, 0); }\n" + _MEET, "to no block"),
    "some_do_not_meet": (2, 1, "  if (t < 16) { cluster_barrier(); }\n", "deadlock.*waits at cluster_barrier\\(\\), 32 of 64 threads came"),
    "ends_too_early": (2, 1, _MEET + "  if (t == 0 && rank == 0) { mbarrier_arrive_remote(empty, 0, 1); }\n", "nothing orders that after thread 0 of block 0 of the cluster|which has ended"),
    "written_beside_a_copy": (2, 1, _MEET + "  if (rank == 1) { S[t] = 1.0f; }\n  if (t == 0) { mbarrier_expect(full, 0, 512); if (rank == 0) { tma_load_multicast<2>(S, 0, X_map, full, 0, 3, 0, 0); } }\n  mbarrier_wait(full, 0, 0);\n" + _MEET, "data race|under way|without fence_proxy_async"),
}  # fmt: skip


def _probe(blocks: int, count: int, text: str) -> Probe:
    body = _HEAD.format(n=blocks) + _MAKE.format(count=count) + text
    return Probe(
        body,
        needs_of(body, Need("tma_load_multicast", (2,))),
        {"Y": "f32"},
        maps={"X_map": TensorMapSpec("X", (8, 16), 0)},
        shared_bytes=4096,
        arch="sm_90a",
        cluster=blocks,
    )


CLUSTER_PROBES = Probes({name: _probe(*given) for name, given in BODIES.items()})
FAULTY_PROBES = Probes({name: _probe(*given[:3]) for name, given in FAULTY.items()})
