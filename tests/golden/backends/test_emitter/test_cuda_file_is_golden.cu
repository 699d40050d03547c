// scale for cuda:sm_80, by tilec 0.1.0
namespace tilec {

#define DEVICE __device__ __forceinline__

typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

// Picks an overload by its result type.
template <class T> struct as {};

DEVICE u8 to_bits(bool x) { return x; }
DEVICE u8 to_bits(i8 x) { return x; }
DEVICE u8 to_bits(u8 x) { return x; }
DEVICE u16 to_bits(i16 x) { return x; }
DEVICE u16 to_bits(u16 x) { return x; }
DEVICE u32 to_bits(i32 x) { return x; }
DEVICE u32 to_bits(u32 x) { return x; }
DEVICE u32 to_bits(f32 x) { return __float_as_uint(x); }
DEVICE u64 to_bits(i64 x) { return x; }
DEVICE u64 to_bits(u64 x) { return x; }
DEVICE u64 to_bits(f64 x) { return __double_as_longlong(x); }
template <class T, class B> DEVICE T from_bits(as<T>, B bits) { return static_cast<T>(bits); }
DEVICE f32 from_bits(as<f32>, u32 bits) { return __uint_as_float(bits); }
DEVICE f64 from_bits(as<f64>, u64 bits) { return __longlong_as_double(bits); }

template <class T, class S> DEVICE T convert_to(as<T>, S x) { return static_cast<T>(x); }

struct f16 { u16 bits; };
DEVICE u16 to_bits(f16 x) { return x.bits; }
DEVICE f16 from_bits(as<f16>, u16 bits) { return {bits}; }
DEVICE f32 widen(f16 x) { f32 y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
DEVICE f16 convert_to(as<f16>, f32 x) { f16 y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); return y; }
DEVICE f16 convert_to(as<f16>, f64 x) { f16 y; asm("cvt.rn.f16.f64 %0, %1;" : "=h"(y.bits) : "d"(x)); return y; }
DEVICE f16 convert_to(as<f16>, f16 x) { return x; }
DEVICE f32 to_odd(f16 x) { return widen(x); }
template <class S> DEVICE f16 convert_to(as<f16>, S x) { return convert_to(as<f16>{}, static_cast<f32>(x)); }
template <class T> DEVICE T convert_to(as<T>, f16 x) { return convert_to(as<T>{}, widen(x)); }
DEVICE f16 operator+(f16 a, f16 b) { asm("add.rn.f16 %0, %0, %1;" : "+h"(a.bits) : "h"(b.bits)); return a; }
DEVICE f16 operator-(f16 a, f16 b) { asm("sub.rn.f16 %0, %0, %1;" : "+h"(a.bits) : "h"(b.bits)); return a; }
DEVICE f16 operator*(f16 a, f16 b) { asm("mul.rn.f16 %0, %0, %1;" : "+h"(a.bits) : "h"(b.bits)); return a; }
DEVICE f16 operator/(f16 a, f16 b) { return convert_to(as<f16>{}, widen(a) / widen(b)); }
DEVICE f16 operator-(f16 a) { return {static_cast<u16>(a.bits ^ 0x8000)}; }
DEVICE bool operator<(f16 a, f16 b) { return widen(a) < widen(b); }
DEVICE bool operator<=(f16 a, f16 b) { return widen(a) <= widen(b); }
DEVICE bool operator>(f16 a, f16 b) { return widen(a) > widen(b); }
DEVICE bool operator>=(f16 a, f16 b) { return widen(a) >= widen(b); }
DEVICE bool operator==(f16 a, f16 b) { return widen(a) == widen(b); }
DEVICE bool operator!=(f16 a, f16 b) { return widen(a) != widen(b); }

template <class T> using global = T*;

// A float that is out of an integer's range gives the nearest that is in it, NaN 0: cvt does so, except for NaN and 64 bits.
template <class T, class S> DEVICE T convert(S x) { return convert_to(as<T>{}, x); }

DEVICE i32 thread_id() { return threadIdx.x; }
template <int D> DEVICE i32 block_id() { return D == 0 ? blockIdx.x : D == 1 ? blockIdx.y : blockIdx.z; }

extern "C" __global__ void __launch_bounds__(256, 1) scale_kernel(const f16* __restrict__ A, f16* C, i32 N, f32 alpha) {
  const i32 i = block_id<0>() * 256 + thread_id();
  const bool inside = i < N;
  const f32 x = convert<f32>(inside ? A[i] : convert<f16>(0.0f)) * alpha - 0.5f;
  if (inside) C[i] = convert<f16>(x);
}

}  // namespace tilec
