"""A hand-written sm_80 GEMM body in the prelude's language: cp.async, 3 stages, ldmatrix, mma."""

from __future__ import annotations

from tilec.backends.prelude import FrameParameter, KernelFrame, Need

BODY = """
  shared<f16> A_s = shared_buffer<f16>(0, 6144);
  shared<f16> B_s = shared_buffer<f16>(12288, 6144);
  const i32 t = thread_id();
  const i32 lane = t % 32;
  const i32 warp_m = t / 32 % 2 * 32;
  const i32 warp_n = t / 64 * 32;
  const i32 m0 = block_id<1>() * 64;
  const i32 n0 = block_id<0>() * 64;
  const i32 k_tiles = (K + 31) / 32;
  const i32 row = t / 4;
  const i32 column = t % 4 * 8;
  const i32 chunk = (t % 4 ^ row / 2 % 4) * 8;
  regs<f32, 32> acc;
  fill_registers<32>(acc, 0, 0.0f);
  #pragma unroll
  for (i32 s = 0; s < 2; ++s) {
    #pragma unroll
    for (i32 i = 0; i < 2; ++i) {
      const i32 r = row + i * 32;
      const bool k_in = s * 32 + column < K;
      cp_async<16>(A_s, s * 2048 + r * 32 + chunk, A, (m0 + r) * K + s * 32 + column, m0 + r < M && k_in);
      cp_async<16>(B_s, s * 2048 + r * 32 + chunk, B, (n0 + r) * K + s * 32 + column, n0 + r < N && k_in);
    }
    cp_async_commit();
  }
  #pragma unroll 1
  for (i32 k = 0; k < k_tiles; ++k) {
    cp_async_wait<1>();
    barrier();
    const i32 next = k + 2;
    const i32 put = next % 3;
    if (next < k_tiles) {
      #pragma unroll
      for (i32 i = 0; i < 2; ++i) {
        const i32 r = row + i * 32;
        const bool k_in = next * 32 + column < K;
        cp_async<16>(A_s, put * 2048 + r * 32 + chunk, A, (m0 + r) * K + next * 32 + column, m0 + r < M && k_in);
        cp_async<16>(B_s, put * 2048 + r * 32 + chunk, B, (n0 + r) * K + next * 32 + column, n0 + r < N && k_in);
      }
    }
    cp_async_commit();
    const i32 get = k % 3;
    #pragma unroll
    for (i32 kk = 0; kk < 2; ++kk) {
      regs<f16, 16> a;
      regs<f16, 16> b;
      #pragma unroll
      for (i32 i = 0; i < 2; ++i) {
        const i32 ra = warp_m + i * 16 + lane % 16;
        ldmatrix<4>(a, i * 8, A_s, get * 2048 + ra * 32 + (kk * 2 + lane / 16 ^ ra / 2 % 4) * 8);
        const i32 rb = warp_n + i * 16 + lane % 8 + lane / 16 * 8;
        ldmatrix<4>(b, i * 8, B_s, get * 2048 + rb * 32 + (kk * 2 + lane / 8 % 2 ^ rb / 2 % 4) * 8);
      }
      #pragma unroll
      for (i32 i = 0; i < 2; ++i) {
        #pragma unroll
        for (i32 j = 0; j < 4; ++j)
          mma<16, 8, 16>(acc, i * 16 + j * 4, a, i * 8, b, j * 4);
      }
    }
  }
  #pragma unroll
  for (i32 i = 0; i < 4; ++i) {
    #pragma unroll
    for (i32 j = 0; j < 4; ++j) {
      const i32 r = m0 + warp_m + i * 8 + lane / 4;
      const i32 c = n0 + warp_n + j * 8 + lane % 4 * 2;
      regs<f16, 2> out;
      convert_registers<2>(out, 0, acc, i / 2 * 16 + j * 4 + i % 2 * 2);
      store_global<2>(C, r * N + c, out, 0, r < M && c < N);
    }
  }
"""

NEEDS = (
    Need("thread_id"),
    Need("block_id"),
    Need("shared_buffer"),
    Need("cp_async", (16,)),
    Need("cp_async_commit"),
    Need("cp_async_wait"),
    Need("barrier"),
    Need("ldmatrix", (4,)),
    Need("mma", (16, 8, 16, "f32", "f16")),
    Need("fill_registers"),
    Need("convert_registers"),
    Need("store_global"),
)


def make_frame(body: str = BODY, name: str = "gemm") -> KernelFrame:
    """C[M, N] = A[M, K] B[N, K]^T, f16 in and out; K and N multiples of 8 and 2."""
    parameters = (
        FrameParameter("pointer", "A", "f16", const=True),
        FrameParameter("pointer", "B", "f16", const=True),
        FrameParameter("pointer", "C", "f16"),
        *(FrameParameter("symbol", name, "i32") for name in ("M", "N", "K")),
    )
    return KernelFrame(name, parameters, 128, 24576, body, NEEDS, "A hand-written sm_80 GEMM.")
