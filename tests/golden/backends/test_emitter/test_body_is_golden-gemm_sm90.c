  const i32 grid_x = floordiv(N + 127, 128);
  const i32 grid_y = floordiv(M + 127, 128);
  const i32 k_tiles = floordiv(K + 63, 64);
  shared<f16> A_s = shared_buffer<f16>(0, 32768);
  shared<f16> B_s = shared_buffer<f16>(65536, 32768);
  shared<mbarrier> full = shared_buffer<mbarrier>(131072, 4);
  shared<mbarrier> empty = shared_buffer<mbarrier>(131104, 4);
  if (thread_id() == 0) {
    #pragma unroll
    for (i32 s = 0; s < 4; ++s) {
      mbarrier_init(full, s, 1);
      mbarrier_init(empty, s, 2);
    }
    mbarrier_init_fence();
  }
  barrier();
  const i32 warpgroup = warp_uniform(thread_id() / 128);
  if (warpgroup < 2) {  // role consumer   matmul.py:9
    const i32 t = thread_id();
    register_increase<232>();
    const i32 group = warp_uniform(t / 128);
    const i32 lane = t % 128 / 32 * 64 + t % 32;
    const wgmma_descriptor desc_a = make_descriptor<128>(A_s, group * 4096, 16, 1024);
    const wgmma_descriptor desc_b = make_descriptor<128>(B_s, 0, 16, 1024);
    i32 slot = 0;
    i32 phase = 0;
    const i32 tiles = grid_x * grid_y;
    const i32 blocks = block_count<0>();
    // matmul.py:12
    #pragma unroll 1
    for (i32 tile = block_id<0>(); tile < tiles; tile += blocks) {
      regs<f32, 64> acc;
      fill_registers<64>(acc, 0, 0.0f);
      // matmul.py:14
      #pragma unroll 1
      for (i32 k = 0; k < k_tiles; ++k) {
        mbarrier_wait(full, slot, phase);
        wgmma_fence();
        // matmul.py:9
        #pragma unroll
        for (i32 kk = 0; kk < 4; ++kk) {
          const i32 at = slot * 1024 + kk * 2;
          wgmma_ss<128, f32, f16, f16, false, false>(acc, 0, desc_a + at, desc_b + at, true);
        }
        wgmma_commit();
        wgmma_wait<0>(acc);
        if (t % 128 == 0) {
          mbarrier_arrive(empty, slot);
        }
        const i32 following = slot + 1;
        const bool wrapped = following == 4;
        slot = wrapped ? 0 : following;
        phase = wrapped ? phase ^ 1 : phase;
      }
      const i32 row = floordiv(tile, grid_x) * 128 + group * 64 + lane / 4;
      const i32 column = floormod(tile, grid_x) * 128 + lane % 4 * 2;
      // matmul.py:17
      #pragma unroll
      for (i32 i = 0; i < 32; ++i) {
        regs<f16, 2> out;
        convert_registers<2>(out, 0, acc, i * 2);
        const i32 r = row + i % 2 * 8;
        const i32 col = column + i / 2 * 8;
        store_global<2>(C, r * N + col, out, 0, r < M && col < N);
      }
    }
  } else {  // role producer   matmul.py:9
    const i32 t = thread_id() - 256;
    register_decrease<40>();
    if (t == 0) {
      i32 slot = 0;
      i32 phase = 0;
      const i32 tiles = grid_x * grid_y;
      const i32 blocks = block_count<0>();
      // matmul.py:12
      #pragma unroll 1
      for (i32 tile = block_id<0>(); tile < tiles; tile += blocks) {
        const i32 pn = floormod(tile, grid_x);
        const i32 pm = floordiv(tile, grid_x);
        // matmul.py:14
        #pragma unroll 1
        for (i32 k = 0; k < k_tiles; ++k) {
          mbarrier_wait(empty, slot, phase ^ 1);
          mbarrier_expect(full, slot, 32768);
          const i32 at_k = k * 64;
          tma_load<2>(A_s, slot * 8192, A_map, full, slot, at_k, pm * 128);
          tma_load<2>(B_s, slot * 8192, B_map, full, slot, at_k, pn * 128);
          const i32 following = slot + 1;
          const bool wrapped = following == 4;
          slot = wrapped ? 0 : following;
          phase = wrapped ? phase ^ 1 : phase;
        }
      }
    }
  }
