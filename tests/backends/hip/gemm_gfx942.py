"""A GEMM for gfx942 in the prelude's language, written by hand: C (M x N) = A (M x K) B (N x K)^T.

A block of 256 threads makes 128 x 128 of C in steps of 32 along K: each thread loads two 16-byte
pieces of A and of B into registers while the waves multiply, and stores them into the other half of
shared memory afterwards. Each of the four waves makes 64 x 64. A fragment is read 16 bytes at a
time, which is the k of two MFMAs: both operands permute k alike. Rows of 64 bytes are swizzled,
piece c of row r lies at c ^ (r / 2 % 4).
"""

from __future__ import annotations

from tilec.backends.prelude import FrameParameter, KernelFrame, Need

_HEAD = """\
  shared<{t}> A_s = shared_buffer<{t}>(0, 8192);
  shared<{t}> B_s = shared_buffer<{t}>(16384, 8192);
  buffer<{t}> A_b = make_buffer(A, M * K);
  buffer<{t}> B_b = make_buffer(B, N * K);
  buffer<{t}> C_b = make_buffer(C, M * N);
  const i32 lane = thread_id() % 64;
  const i32 wave = warp_uniform(thread_id() / 64);
  const i32 m0 = block_id<1>() * 128;
  const i32 n0 = block_id<0>() * 128;
  const i32 wm = wave / 2 * 64;
  const i32 wn = wave % 2 * 64;
  const i32 row = thread_id() / 4;
  const i32 piece = thread_id() % 4;
  const i32 k_tiles = (K + 31) / 32;
  regs<{t}, 16> a_next;
  regs<{t}, 16> b_next;
  regs<f32, 64> acc;
  fill_registers<64>(acc, 0, 0.0f);
  #pragma unroll
  for (i32 i = 0; i < 2; ++i) {{
    buffer_load<8>(a_next, i * 8, A_b, (m0 + row + i * 64) * K + piece * 8, piece * 8 < K);
    buffer_load<8>(b_next, i * 8, B_b, (n0 + row + i * 64) * K + piece * 8, piece * 8 < K);
  }}
  #pragma unroll
  for (i32 i = 0; i < 2; ++i) {{
    store_shared<8>(A_s, (row + i * 64) * 32 + (piece ^ (row / 2 % 4)) * 8, a_next, i * 8);
    store_shared<8>(B_s, (row + i * 64) * 32 + (piece ^ (row / 2 % 4)) * 8, b_next, i * 8);
  }}
  barrier();
  #pragma unroll 1
  for (i32 k = 0; k < k_tiles; ++k) {{
    const i32 slot = k % 2;
    const i32 k_next = (k + 1) * 32 + piece * 8;
    #pragma unroll
    for (i32 i = 0; i < 2; ++i) {{
      buffer_load<8>(a_next, i * 8, A_b, (m0 + row + i * 64) * K + k_next, k_next < K);
      buffer_load<8>(b_next, i * 8, B_b, (n0 + row + i * 64) * K + k_next, k_next < K);
    }}
"""

_MULTIPLY_32 = """\
    #pragma unroll
    for (i32 kk = 0; kk < 2; ++kk) {{
      regs<{t}, 16> a;
      regs<{t}, 16> b;
      const i32 at = lane % 32 * 32 + ((kk * 2 + lane / 32) ^ (lane / 2 % 4)) * 8;
      #pragma unroll
      for (i32 i = 0; i < 2; ++i) {{
        load_shared<8>(a, i * 8, A_s, slot * 4096 + (wm + i * 32) * 32 + at);
        load_shared<8>(b, i * 8, B_s, slot * 4096 + (wn + i * 32) * 32 + at);
      }}
      set_priority<1>();
      #pragma unroll
      for (i32 h = 0; h < 2; ++h) {{
        #pragma unroll
        for (i32 i = 0; i < 2; ++i) {{
          #pragma unroll
          for (i32 j = 0; j < 2; ++j)
            mfma<32, 32, 8>(acc, (i * 2 + j) * 16, b, j * 8 + h * 4, a, i * 8 + h * 4);
        }}
      }}
      set_priority<0>();
    }}
"""

_MULTIPLY_16 = """\
    regs<{t}, 32> a;
    regs<{t}, 32> b;
    const i32 at = lane % 16 * 32 + ((lane / 16) ^ (lane / 2 % 4)) * 8;
    #pragma unroll
    for (i32 i = 0; i < 4; ++i) {{
      load_shared<8>(a, i * 8, A_s, slot * 4096 + (wm + i * 16) * 32 + at);
      load_shared<8>(b, i * 8, B_s, slot * 4096 + (wn + i * 16) * 32 + at);
    }}
    set_priority<1>();
    #pragma unroll
    for (i32 h = 0; h < 2; ++h) {{
      #pragma unroll
      for (i32 i = 0; i < 4; ++i) {{
        #pragma unroll
        for (i32 j = 0; j < 4; ++j)
          mfma<16, 16, 16>(acc, (i * 4 + j) * 4, a, i * 8 + h * 4, b, j * 8 + h * 4);
      }}
    }}
    set_priority<0>();
"""

_NEXT = """\
    #pragma unroll
    for (i32 i = 0; i < 2; ++i) {{
      const i32 to = (1 - slot) * 4096 + (row + i * 64) * 32 + (piece ^ (row / 2 % 4)) * 8;
      store_shared<8>(A_s, to, a_next, i * 8);
      store_shared<8>(B_s, to, b_next, i * 8);
    }}
    barrier();  // the only one of a step
  }}
  regs<{t}, 64> out;
  convert_registers<64>(out, 0, acc, 0);
"""

# The operands were given in the other order, so D is transposed: a lane holds four neighbours of a
# row of C.
_STORE_32 = """\
  #pragma unroll
  for (i32 i = 0; i < 2; ++i) {{
    #pragma unroll
    for (i32 j = 0; j < 2; ++j) {{
      #pragma unroll
      for (i32 q = 0; q < 4; ++q) {{
        const i32 n = n0 + wn + j * 32 + q * 8 + lane / 32 * 4;
        const i32 m = m0 + wm + i * 32 + lane % 32;
        buffer_store<4>(C_b, m * N + n, out, (i * 2 + j) * 16 + q * 4, n < N);
      }}
    }}
  }}
"""

_STORE_16 = """\
  #pragma unroll
  for (i32 i = 0; i < 4; ++i) {{
    #pragma unroll
    for (i32 j = 0; j < 4; ++j) {{
      #pragma unroll
      for (i32 q = 0; q < 4; ++q) {{
        const i32 n = n0 + wn + j * 16 + lane % 16;
        const i32 m = m0 + wm + i * 16 + lane / 16 * 4 + q;
        buffer_store<1>(C_b, m * N + n, out, (i * 4 + j) * 4 + q, n < N);
      }}
    }}
  }}
"""

_NAMES = (
    "regs", "shared_buffer", "make_buffer", "buffer_load", "buffer_store", "thread_id", "block_id",
    "warp_uniform", "fill_registers", "load_shared", "store_shared", "barrier", "set_priority",
    "convert_registers",
)  # fmt: skip


def gemm_body(dtype: str, edge: int) -> str:
    """The body for operands of `dtype` (f16, bf16) by 32x32x8 (`edge` 32) or 16x16x16 (16)
    instructions.

    K a multiple of 8; N a multiple of 4 with edge 32.
    """
    multiply, store = (_MULTIPLY_32, _STORE_32) if edge == 32 else (_MULTIPLY_16, _STORE_16)
    return (_HEAD + multiply + _NEXT + store).format(t=dtype)


def gemm_frame(dtype: str, edge: int, body: str | None = None) -> KernelFrame:
    """The whole kernel, by default around `gemm_body(dtype, edge)`."""
    pointers = tuple(FrameParameter("pointer", n, dtype, const=n != "C") for n in "ABC")
    sizes = tuple(FrameParameter("symbol", n) for n in "MNK")
    shape = (32, 32, 8) if edge == 32 else (16, 16, 16)
    return KernelFrame(
        name=f"gemm_{dtype}_{edge}",
        parameters=pointers + sizes,
        threads=256,
        shared_bytes=32768,
        body=gemm_body(dtype, edge) if body is None else body,
        needs=(*(Need(n) for n in _NAMES), Need(dtype), Need("mfma", (*shape, "f32", dtype))),
        header_comment="C = A B^T for gfx942, written by hand.",
    )
