"""A hand-written sm_90a attention body: S = Q K^T of the next keys is issued before P V of the last, P stays in
registers, V is used in place as MN-major operand, the softmax runs under P V."""

# ruff: noqa: E501 (lines of C keep their shape)

from __future__ import annotations

from tests.backends.emulation import Probe, needs_of
from tilec.backends.manifest import TensorMapSpec
from tilec.backends.prelude import Need

_SCORES = """
      wgmma_fence();
      #pragma unroll
      for (i32 kk = 0; kk < 8; ++kk)
        wgmma_ss<64, f32, f16, f16, false, false>(S, 0, desc_q + (kk / 4 * 1024 + kk % 4 * 2), desc_k + (slot * 1024 + kk / 4 * 512 + kk % 4 * 2), kk > 0);
      wgmma_commit();"""

_OUTPUT = """
      wgmma_fence(P);
      #pragma unroll
      for (i32 kk = 0; kk < 4; ++kk)
        wgmma_rs<128, f32, f16, f16, true>(O, 0, P, kk * 8, desc_v + (last * 1024 + kk * 128), {accumulate});
      wgmma_commit();"""

_SOFTMAX = """
      f32 top0 = m0;
      f32 top1 = m1;
      #pragma unroll
      for (i32 i = 0; i < 8; ++i) {
        top0 = max(top0, max(S[i * 4], S[i * 4 + 1]));
        top1 = max(top1, max(S[i * 4 + 2], S[i * 4 + 3]));
      }
      top0 = max(top0, shuffle_xor(top0, 1));
      top0 = max(top0, shuffle_xor(top0, 2));
      top1 = max(top1, shuffle_xor(top1, 1));
      top1 = max(top1, shuffle_xor(top1, 2));
      scale0 = exp2((m0 - top0) * scale);
      scale1 = exp2((m1 - top1) * scale);
      m0 = top0;
      m1 = top1;
      f32 sum0 = 0.0f;
      f32 sum1 = 0.0f;
      #pragma unroll
      for (i32 i = 0; i < 8; ++i) {
        S[i * 4] = exp2((S[i * 4] - m0) * scale);
        S[i * 4 + 1] = exp2((S[i * 4 + 1] - m0) * scale);
        S[i * 4 + 2] = exp2((S[i * 4 + 2] - m1) * scale);
        S[i * 4 + 3] = exp2((S[i * 4 + 3] - m1) * scale);
        sum0 = sum0 + S[i * 4] + S[i * 4 + 1];
        sum1 = sum1 + S[i * 4 + 2] + S[i * 4 + 3];
      }
      l0 = l0 * scale0 + sum0;
      l1 = l1 * scale1 + sum1;"""

BODY = f"""
  shared<f16> Q_s = shared_buffer<f16>(0, 16384);
  shared<f16> K_s = shared_buffer<f16>(32768, 16384);
  shared<f16> V_s = shared_buffer<f16>(65536, 16384);
  shared<mbarrier> q_full = shared_buffer<mbarrier>(98304, 1);
  shared<mbarrier> k_full = shared_buffer<mbarrier>(98312, 2);
  shared<mbarrier> k_empty = shared_buffer<mbarrier>(98328, 2);
  shared<mbarrier> v_full = shared_buffer<mbarrier>(98344, 2);
  shared<mbarrier> v_empty = shared_buffer<mbarrier>(98360, 2);
  const i32 warpgroup = warp_uniform(thread_id() / 128);
  if (thread_id() == 0) {{
    mbarrier_init(q_full, 0, 1);
    for (i32 s = 0; s < 2; ++s) {{
      mbarrier_init(k_full, s, 1); mbarrier_init(k_empty, s, 2); mbarrier_init(v_full, s, 1); mbarrier_init(v_empty, s, 2);
    }}
    mbarrier_init_fence();
  }}
  barrier();
  const i32 row0 = block_id<0>() * 128;
  const i32 blocks = N / 64;
  if (warpgroup == 2) {{
    register_decrease<40>();
    if (thread_id() == 256) {{
      mbarrier_expect(q_full, 0, 32768);
      tma_load<2>(Q_s, 0, Q_map, q_full, 0, 0, row0);
      tma_load<2>(Q_s, 8192, Q_map, q_full, 0, 64, row0);
      #pragma unroll 1
      for (i32 j = 0; j < blocks; ++j) {{
        const i32 slot = j % 2;
        const i32 phase = j / 2 % 2;
        mbarrier_wait(k_empty, slot, phase ^ 1);
        mbarrier_expect(k_full, slot, 16384);
        tma_load<2>(K_s, slot * 8192, K_map, k_full, slot, 0, j * 64);
        tma_load<2>(K_s, slot * 8192 + 4096, K_map, k_full, slot, 64, j * 64);
        mbarrier_wait(v_empty, slot, phase ^ 1);
        mbarrier_expect(v_full, slot, 16384);
        tma_load<2>(V_s, slot * 8192, V_map, v_full, slot, 0, j * 64);
        tma_load<2>(V_s, slot * 8192 + 4096, V_map, v_full, slot, 64, j * 64);
      }}
    }}
  }} else {{
    register_increase<232>();
    regs<f32, 32> S;
    regs<f32, 64> O;
    regs<f16, 32> P;
    f32 m0 = -1.0e30f; f32 m1 = -1.0e30f; f32 l0 = 0.0f; f32 l1 = 0.0f; f32 scale0 = 0.0f; f32 scale1 = 0.0f;
    const i32 lane = thread_id() % 32;
    const bool leader = thread_id() % 128 == 0;
    const wgmma_descriptor desc_q = make_descriptor<128>(Q_s, warpgroup * 4096, 16, 1024);
    const wgmma_descriptor desc_k = make_descriptor<128>(K_s, 0, 16, 1024);
    const wgmma_descriptor desc_v = make_descriptor<128>(V_s, 0, 8192, 1024);
    mbarrier_wait(q_full, 0, 0);
    mbarrier_wait(k_full, 0, 0);
    {{
      const i32 slot = 0;{_SCORES}
      wgmma_wait<0>(S);
      if (leader) mbarrier_arrive(k_empty, 0);{_SOFTMAX}
    }}
    convert_registers<32>(P, 0, S, 0);
    #pragma unroll 1
    for (i32 j = 1; j < blocks; ++j) {{
      const i32 slot = j % 2;
      const i32 last = (j - 1) % 2;
      mbarrier_wait(k_full, slot, j / 2 % 2);{_SCORES}
      mbarrier_wait(v_full, last, (j - 1) / 2 % 2);{_OUTPUT.format(accumulate="j > 1 || kk > 0")}
      wgmma_wait<1>(S);
      if (leader) mbarrier_arrive(k_empty, slot);{_SOFTMAX}
      wgmma_wait<0>(O);
      if (leader) mbarrier_arrive(v_empty, last);
      #pragma unroll
      for (i32 i = 0; i < 16; ++i) {{
        O[i * 4] = O[i * 4] * scale0;
        O[i * 4 + 1] = O[i * 4 + 1] * scale0;
        O[i * 4 + 2] = O[i * 4 + 2] * scale1;
        O[i * 4 + 3] = O[i * 4 + 3] * scale1;
      }}
      convert_registers<32>(P, 0, S, 0);
    }}
    {{
      const i32 last = (blocks - 1) % 2;
      mbarrier_wait(v_full, last, (blocks - 1) / 2 % 2);{_OUTPUT.format(accumulate="blocks > 1 || kk > 0")}
      wgmma_wait<0>(O);
    }}
    l0 = l0 + shuffle_xor(l0, 1);
    l0 = l0 + shuffle_xor(l0, 2);
    l1 = l1 + shuffle_xor(l1, 1);
    l1 = l1 + shuffle_xor(l1, 2);
    const i32 row = row0 + warpgroup * 64 + thread_id() / 32 % 4 * 16 + lane / 4;
    #pragma unroll
    for (i32 i = 0; i < 16; ++i) {{
      regs<f16, 4> out;
      out[0] = convert<f16>(O[i * 4] / l0);
      out[1] = convert<f16>(O[i * 4 + 1] / l0);
      out[2] = convert<f16>(O[i * 4 + 2] / l1);
      out[3] = convert<f16>(O[i * 4 + 3] / l1);
      store_global<2>(Y, row * 128 + i * 8 + lane % 4 * 2, out, 0, row < M);
      store_global<2>(Y, (row + 8) * 128 + i * 8 + lane % 4 * 2, out, 2, row + 8 < M);
    }}
  }}
"""

ATTENTION = Probe(
    BODY,
    needs_of(
        BODY,
        Need("tma_load", (2,)),
        Need("wgmma_ss", (64, "f32", "f16", "f16", False, False)),
        Need("wgmma_rs", (128, "f32", "f16", "f16", True)),
    ),
    {"Y": "f16"},
    {"M": "i32", "N": "i32", "scale": "f32"},
    {
        "Q_map": TensorMapSpec("Q", (128, 64), 128),
        "K_map": TensorMapSpec("K", (64, 64), 128),
        "V_map": TensorMapSpec("V", (64, 64), 128),
    },
    384,
    98376,
    "sm_90a",
)
"""Y = softmax(Q K^T scale ln 2) V for one head of 128, f16; M queries, N keys in blocks of 64."""
