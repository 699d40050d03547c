  const i32 bx = block_id<0>();
  const i32 by = block_id<1>();
  const i32 t = thread_id();
  shared<f16> A_s = shared_buffer<f16>(0, 512);
  shared<f16> B_s = shared_buffer<f16>(1024, 512);
  regs<f32, 8> acc;
  fill_registers<8>(acc, 0, 0.0f);
  const i32 row = t / 2;
  const i32 column = t % 2 * 8;
  const i32 A_s_index = row * 16 + column;
  cp_async<16>(A_s, A_s_index, A, (by * 16 + row) * K + column, column < K);
  cp_async<16>(B_s, A_s_index, B, (bx * 16 + row) * K + column, column < K);
  cp_async_commit();
  const i32 k_tiles = floordiv(K, 16);
  // matmul.py:14
  #pragma unroll 1
  for (i32 k = 0; k < k_tiles; ++k) {
    const i32 following = k + 1;
    const i32 A_s_index1 = following % 2 * 256 + row * 16 + column;
    const i32 A_index = (by * 16 + row) * K + following * 16 + column;
    cp_async<16>(A_s, A_s_index1, A, A_index, following * 16 + column < K);
    const i32 B_index = (bx * 16 + row) * K + following * 16 + column;
    cp_async<16>(B_s, A_s_index1, B, B_index, following * 16 + column < K);
    cp_async_commit();
    cp_async_wait<1>();
    barrier();
    const i32 slot = k % 2 * 256;
    regs<f16, 8> a;
    regs<f16, 8> b;
    ldmatrix<4>(a, 0, A_s, slot + (t % 16 * 16 + t / 16 * 8));
    ldmatrix<4>(b, 0, B_s, slot + (t % 8 + t / 16 * 8) * 16 + t / 8 % 2 * 8);
    #pragma unroll
    for (i32 j = 0; j < 2; ++j) {
      mma<16, 8, 16>(acc, j * 4, a, 0, b, j * 4);
    }
    barrier();
  }
  cp_async_wait<0>();
  // matmul.py:20
  #pragma unroll
  for (i32 q = 0; q < 4; ++q) {
    regs<f16, 2> out;
    convert_registers<2>(out, 0, acc, q * 2);
    const i32 C_index = (by * 16 + q % 2 * 8 + t / 4) * N + (bx * 16 + q / 2 * 8 + t % 4 * 2);
    store_global<2>(C, C_index, out, 0);
  }
