// scale for hip:gfx942, by tilec 0.1.0
namespace tilec {

#ifndef __device__  // hiprtc brings these words, clang without headers does not
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#endif
#define DEVICE __device__ inline __attribute__((always_inline))

using i8 = signed char;
using u8 = unsigned char;
using i16 = short;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;
using f32 = float;
using f64 = double;

struct f16 { _Float16 value; };
DEVICE f16 operator+(f16 a, f16 b) {
#pragma clang fp contract(off)  // each operation rounds
  return { (_Float16)(a.value + b.value) };
}
DEVICE f16 operator-(f16 a, f16 b) {
#pragma clang fp contract(off)  // each operation rounds
  return { (_Float16)(a.value - b.value) };
}
DEVICE f16 operator*(f16 a, f16 b) {
#pragma clang fp contract(off)  // each operation rounds
  return { (_Float16)(a.value * b.value) };
}
DEVICE f16 operator/(f16 a, f16 b) {
#pragma clang fp contract(off)  // each operation rounds
  return { (_Float16)(a.value / b.value) };
}
DEVICE f16 operator-(f16 a) { return { (_Float16)-a.value }; }
DEVICE bool operator<(f16 a, f16 b) { return a.value < b.value; }
DEVICE bool operator<=(f16 a, f16 b) { return a.value <= b.value; }
DEVICE bool operator>(f16 a, f16 b) { return a.value > b.value; }
DEVICE bool operator>=(f16 a, f16 b) { return a.value >= b.value; }
DEVICE bool operator==(f16 a, f16 b) { return a.value == b.value; }
DEVICE bool operator!=(f16 a, f16 b) { return a.value != b.value; }

template <typename T> using global = T*;

// The number in a type that the machine computes with.
template <typename T> DEVICE T plain(T x) { return x; }
DEVICE _Float16 plain(f16 x) { return x.value; }

template <typename T> struct conversion {
  template <typename S> static DEVICE T from(S x) { return (T)x; }
};
// A float that is out of an integer's range gives the nearest that is in it, NaN 0.
template <typename S> constexpr bool is_float = false;
template <> constexpr bool is_float<_Float16> = true;
template <> constexpr bool is_float<f32> = true;
template <> constexpr bool is_float<f64> = true;
template <> struct conversion<i32> {
  template <typename S> static DEVICE i32 from(S x) {
    constexpr i32 high = 2147483647, low = -high - 1;
    if constexpr (is_float<S>) return x != x ? 0 : x >= 2147483648.0f ? high : x <= -2147483648.0f ? low : (i32)x;
    return (i32)x;
  }
};
template <> struct conversion<f16> {
  template <typename S> static DEVICE f16 from(S x) { return { (_Float16)x }; }
};
template <typename T, typename S> DEVICE T convert(S x) { return conversion<T>::from(plain(x)); }

DEVICE i32 thread_id() { return (i32)__builtin_amdgcn_workitem_id_x(); }

template <i32 D> DEVICE i32 block_id() {
  if constexpr (D == 0) return (i32)__builtin_amdgcn_workgroup_id_x();
  else if constexpr (D == 1) return (i32)__builtin_amdgcn_workgroup_id_y();
  else return (i32)__builtin_amdgcn_workgroup_id_z();
}

extern "C" __global__ void __attribute__((amdgpu_flat_work_group_size(256, 256))) scale_kernel(const f16* __restrict__ A, f16* C, i32 N, f32 alpha) {
  const i32 i = block_id<0>() * 256 + thread_id();
  const bool inside = i < N;
  const f32 x = convert<f32>(inside ? A[i] : convert<f16>(0.0f)) * alpha - 0.5f;
  if (inside) C[i] = convert<f16>(x);
}

}  // namespace tilec
