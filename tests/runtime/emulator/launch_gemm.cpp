// Behind the emulated text of the hand-written sm_80 GEMM: a program that launches it in every mode and order on small
// integers, whose products are exact, and ends with 0 where all are right. For machines that Python does not run on here.
int main() {
  using namespace tilec;
  constexpr int M = 66, N = 40, K = 72;
  alignas(16) static u8 arena[3 * 16384];
  u16 *A = reinterpret_cast<u16*>(arena), *B = A + 8192, *C = B + 8192;
  for (int i = 0; i < M * K; ++i) A[i] = f16(f32(i % 7 - 3)).bits;
  for (int i = 0; i < N * K; ++i) B[i] = f16(f32(i % 5 - 2)).bits;
  i32 m = M, n = N, k = K;
  argument arguments[] = { {A, M * K * 2, 0}, {B, N * K * 2, 0}, {C, M * N * 2, 1}, {&m, 4, 0}, {&n, 4, 0}, {&k, 4, 0} };
  static char message[8192];
  launch_request launch = {};
  launch.grid[0] = 1, launch.grid[1] = 2, launch.grid[2] = 1;
  launch.threads = 128, launch.shared_bytes = 24576, launch.argument_count = 6;
  launch.races = 1, launch.granule = 2, launch.block_step = 1, launch.seed = 7, launch.seconds = 60;
  launch.arena = arena, launch.arena_bytes = sizeof arena, launch.arguments = arguments;
  launch.message = message, launch.message_bytes = sizeof message;
  for (int schedule = 0; schedule < 9; ++schedule) {
    launch.mode = schedule / 3, launch.order = schedule % 3;
    memset(C, 0xff, M * N * 2);
    if (tilec_gemm(&launch)) return puts(message), 1;
    for (int i = 0; i < M; ++i)
      for (int j = 0; j < N; ++j) {
        int sum = 0;
        for (int l = 0; l < K; ++l) sum += ((i * K + l) % 7 - 3) * ((j * K + l) % 5 - 2);
        if (widen_f16(C[i * N + j]) != static_cast<float>(sum)) return printf("C[%d, %d] is wrong\n", i, j), 1;
      }
  }
  // And one that comes to no end in its time is stopped by a signal, on whatever stack that finds it.
  launch.seconds = 1e-5, launch.grid[0] = 1 << 20;
  return tilec_gemm(&launch) == ENDLESS ? 0 : (puts("no end was not noticed"), 1);
}
