"""A hand-written sm_90a GEMM body in the prelude's language: persistent, TMA, mbarriers, roles, wgmma, TMA store.

The structure is that of the fastest known kernels: one producer thread, two consumer warpgroups of 64 rows each,
the release of a slot one step late, the epilogue in slabs of 64 columns through stmatrix and TMA stores.
"""

# ruff: noqa: E501 (lines of C keep their shape)

from __future__ import annotations

from tilec.backends.prelude import FrameParameter, KernelFrame, Need

STAGES = 4
SHARED_BYTES = STAGES * 49152 + 32768 + 64

BODY = """
  shared<f16> A_s = shared_buffer<f16>(0, 32768);
  shared<f16> B_s = shared_buffer<f16>(65536, 65536);
  shared<f16> C_s = shared_buffer<f16>(196608, 16384);
  shared<mbarrier> full = shared_buffer<mbarrier>(229376, 4);
  shared<mbarrier> empty = shared_buffer<mbarrier>(229408, 4);
  const i32 warpgroup = warp_uniform(thread_id() / 128);
  if (thread_id() == 0) {
    prefetch_tensor_map(A_map);
    prefetch_tensor_map(B_map);
    for (i32 s = 0; s < 4; ++s) { mbarrier_init(full, s, 1); mbarrier_init(empty, s, 2); }
    mbarrier_init_fence();
  }
  barrier();
  const i32 tiles_m = (M + 127) / 128;
  const i32 tiles_n = (N + 255) / 256;
  const i32 tiles = tiles_m * tiles_n;
  const i32 k_tiles = (K + 63) / 64;
  if (warpgroup == 2) {  // role producer
    register_decrease<40>();
    if (thread_id() == 256) {
      i32 slot = 0; i32 phase = 0;
      #pragma unroll 1
      for (i32 tile = block_id<0>(); tile < tiles; tile += block_count<0>()) {
        const i32 pm = tile % tiles_m;
        const i32 pn = tile / tiles_m;
        #pragma unroll 1
        for (i32 k = 0; k < k_tiles; ++k) {
          mbarrier_wait(empty, slot, phase ^ 1);
          mbarrier_expect(full, slot, 49152);
          tma_load<2>(A_s, slot * 8192, A_map, full, slot, k * 64, pm * 128);
          tma_load<2>(B_s, slot * 16384, B_map, full, slot, k * 64, pn * 256);
          slot = slot + 1; if (slot == 4) { slot = 0; phase = phase ^ 1; }
        }
      }
    }
  } else {  // role consumer
    register_increase<232>();
    regs<f32, 128> acc;
    i32 slot = 0; i32 phase = 0;
    const i32 lane = thread_id() % 32;
    const i32 warp = thread_id() / 32 % 4;
    const wgmma_descriptor desc_a = make_descriptor<128>(A_s, warpgroup * 4096, 16, 1024);
    const wgmma_descriptor desc_b = make_descriptor<128>(B_s, 0, 16, 1024);
    #pragma unroll 1
    for (i32 tile = block_id<0>(); tile < tiles; tile += block_count<0>()) {
      const i32 pm = tile % tiles_m;
      const i32 pn = tile / tiles_m;
      i32 previous = 0;
      #pragma unroll 1
      for (i32 k = 0; k < k_tiles; ++k) {
        mbarrier_wait(full, slot, phase);
        wgmma_fence();
        #pragma unroll
        for (i32 kk = 0; kk < 4; ++kk)
          wgmma_ss<256, f32, f16, f16, false, false>(acc, 0, desc_a + (slot * 1024 + kk * 2), desc_b + (slot * 2048 + kk * 2), k > 0 || kk > 0);
        wgmma_commit();
        wgmma_wait<1>(acc);
        if (k > 0 && thread_id() % 128 == 0) mbarrier_arrive(empty, previous);
        previous = slot;
        slot = slot + 1; if (slot == 4) { slot = 0; phase = phase ^ 1; }
      }
      wgmma_wait<0>(acc);
      if (thread_id() % 128 == 0) mbarrier_arrive(empty, previous);
      const i32 row = warp * 16 + lane % 16;
      #pragma unroll
      for (i32 q = 0; q < 4; ++q) {
        const i32 slab = warpgroup * 8192 + q % 2 * 4096;
        if (thread_id() % 128 == 0) bulk_wait_read<1>();
        if (warpgroup == 0) named_barrier<1, 128>(); else named_barrier<2, 128>();
        #pragma unroll
        for (i32 j = 0; j < 4; ++j) {
          regs<f16, 8> out;
          convert_registers<8>(out, 0, acc, q * 32 + j * 8);
          stmatrix<4>(C_s, slab + row * 64 + (j * 2 + lane / 16 ^ row % 8) * 8, out, 0);
        }
        fence_proxy_async();
        if (warpgroup == 0) named_barrier<1, 128>(); else named_barrier<2, 128>();
        if (thread_id() % 128 == 0) {
          tma_store<2>(C_map, C_s, slab, pn * 256 + q * 64, pm * 128 + warpgroup * 64);
          bulk_commit();
        }
      }
    }
    if (thread_id() % 128 == 0) bulk_wait<0>();
  }
"""

NEEDS = (
    *(
        Need(name)
        for name in (
            "thread_id", "block_id", "block_count", "warp_uniform", "barrier", "shared_buffer", "mbarrier_init",
            "mbarrier_init_fence", "mbarrier_wait", "mbarrier_expect", "mbarrier_arrive", "prefetch_tensor_map",
            "register_decrease", "register_increase", "make_descriptor", "wgmma_fence", "wgmma_commit",
            "wgmma_wait", "bulk_wait_read", "bulk_wait", "bulk_commit", "named_barrier", "convert_registers",
            "fence_proxy_async",
        )
    ),
    Need("f16"),
    Need("tma_load", (2,)),
    Need("tma_store", (2,)),
    Need("stmatrix", (4,)),
    Need("wgmma_ss", (256, "f32", "f16", "f16", False, False)),
)  # fmt: skip


def make_frame(body: str = BODY, name: str = "gemm") -> KernelFrame:
    """C[M, N] = A[M, K] B[N, K]^T, f16 in and out; K and N multiples of 8."""
    parameters = (
        *(FrameParameter("tensor_map", f"{name}_map") for name in "ABC"),
        *(FrameParameter("symbol", name, "i32") for name in ("M", "N", "K")),
    )
    return KernelFrame(
        name, parameters, 384, SHARED_BYTES, body, NEEDS, "A hand-written sm_90a GEMM."
    )
