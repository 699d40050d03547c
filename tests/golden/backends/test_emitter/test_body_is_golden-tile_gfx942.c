  const i32 by = block_id<1>();
  const i32 t = thread_id();
  const buffer<f16> A_v = make_buffer(A, M * K);
  const buffer<f16> B_v = make_buffer(B, N * K);
  const buffer<f16> C_v = make_buffer(C, M * N);
  const i32 row = t % 32;
  const i32 piece = t / 32;
  regs<f32, 16> acc;
  fill_registers<16>(acc, 0, 0.0f);
  const i32 m = by * 32 + row;
  const i32 n = block_id<0>() * 32 + row;
  // matmul.py:31
  #pragma unroll 1
  for (i32 k = 0; k < K; k += 8) {
    regs<f16, 4> a;
    buffer_load<4>(a, 0, A_v, m * K + k + piece * 4, m < M);
    regs<f16, 4> b;
    buffer_load<4>(b, 0, B_v, n * K + k + piece * 4, n < N);
    set_priority<1>();
    mfma<32, 32, 8>(acc, 0, a, 0, b, 0);
    set_priority<0>();
  }
  // matmul.py:36
  #pragma unroll
  for (i32 i = 0; i < 16; ++i) {
    regs<f16, 1> out;
    convert_registers<1>(out, 0, acc, i);
    const i32 r = by * 32 + i / 4 * 8 + piece * 4 + i % 4;
    buffer_store<1>(C_v, r * N + n, out, 0, r < M && n < N);
  }
