// How the GPU kernels store, load and add numbers; g++ compiles the same code for tests on the CPU.
#pragma once

#include "bilinear.h"

#if defined(__CUDACC_RTC__)
#define VMT_UNROLL _Pragma("unroll")
#else
#define VMT_UNROLL
#endif

constexpr int kWarpLanes = 32;
constexpr int kVectorBytes = 16;  // the widest load of one lane

namespace {

// Storage types; arithmetic is done in the accumulator type.
struct Half {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

template <typename T>
struct Accumulator {
  typedef float type;
};
template <>
struct Accumulator<double> {
  typedef double type;
};

#if defined(__CUDACC_RTC__)
typedef unsigned may_alias_unsigned;
#else
typedef unsigned may_alias_unsigned __attribute__((may_alias));
#endif

VMT_INLINE float float_of_bits(unsigned bits) {
#if defined(__CUDACC_RTC__)
  return __uint_as_float(bits);
#else
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
#endif
}
VMT_INLINE unsigned bits_of_float(float x) {
#if defined(__CUDACC_RTC__)
  return __float_as_uint(x);
#else
  unsigned bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
#endif
}

VMT_INLINE float widen(float x) { return x; }
VMT_INLINE double widen(double x) { return x; }
VMT_INLINE float widen(BFloat16 x) { return float_of_bits(static_cast<unsigned>(x.bits) << 16); }

VMT_INLINE void narrow(float x, float& to) { to = x; }
VMT_INLINE void narrow(double x, double& to) { to = x; }
VMT_INLINE void narrow(float x, BFloat16& to) {
#if defined(__CUDACC_RTC__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  const unsigned bits = bits_of_float(x);
  const unsigned round_to_even = 0x7fffu + ((bits >> 16) & 1u);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = is_nan ? 0x7fc0u : static_cast<unsigned short>((bits + round_to_even) >> 16);
#endif
}
#if defined(__CUDACC_RTC__)
VMT_INLINE float widen(Half x) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
}
VMT_INLINE void narrow(float x, Half& to) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
}
#else
VMT_INLINE float widen(Half x) {
  const unsigned sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // Moved to a float's exponent field the number is 2^112 times too small, subnormal or not.
  return float_of_bits(sign | rest << 13) * 0x1p112f;
}
VMT_INLINE void narrow(float x, Half& to) {
  const unsigned bits = bits_of_float(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) {
    to.bits = 0x7fffu;
  } else if (rest >= 0x477ff000u) {  // 65520 and more round to infinity
    to.bits = static_cast<unsigned short>(sign | 0x7c00u);
  } else if (rest < 0x38800000u) {  // below 2^-14: a whole number of 2^-24, as float adds them
    const unsigned steps = bits_of_float(float_of_bits(rest) + 0.5f) - bits_of_float(0.5f);
    to.bits = static_cast<unsigned short>(sign | steps);
  } else {
    const unsigned round_to_even = 0xfffu + (rest >> 13 & 1u);
    to.bits = static_cast<unsigned short>(sign | (rest - 0x38000000u + round_to_even) >> 13);
  }
}
#endif

// A base that offsets are added to one by one: the compiler would else take it apart and add its
// parts to each of them.
template <typename T>
VMT_INLINE T* whole_pointer(T* pointer) {
#if defined(__CUDACC_RTC__)
  asm volatile("" : "+l"(pointer));
#endif
  return pointer;
}

// Neighbouring channels, moved by one instruction of up to 16 bytes.
template <typename T, int vec>
struct alignas(sizeof(T) * vec) Pack {
  T item[vec];
};

// Read by no one else while a kernel runs. Told so, the compiler takes loads of global memory, which
// it cannot always infer: on some architectures it would take generic ones.
template <typename T, int vec>
VMT_INLINE Pack<T, vec> read_pack(const T* from) {
#if defined(__CUDACC_RTC__)
  const unsigned long long address = __cvta_generic_to_global(from);
  if constexpr (sizeof(T) * vec == 16) {
    uint4 x;
    asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
        : "l"(address));
    return *reinterpret_cast<const Pack<T, vec>*>(&x);
  } else if constexpr (sizeof(T) * vec == 8) {
    uint2 x;
    asm("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(address));
    return *reinterpret_cast<const Pack<T, vec>*>(&x);
  } else if constexpr (sizeof(T) * vec == 4) {
    unsigned x;
    asm("ld.global.nc.u32 %0, [%1];" : "=r"(x) : "l"(address));
    return *reinterpret_cast<const Pack<T, vec>*>(&x);
  } else {
    unsigned short x;
    asm("ld.global.nc.u16 %0, [%1];" : "=h"(x) : "l"(address));
    return *reinterpret_cast<const Pack<T, vec>*>(&x);
  }
#else
  return *reinterpret_cast<const Pack<T, vec>*>(from);
#endif
}

template <typename T, int vec, typename A>
VMT_INLINE void load_channels(const T* from, A (&to)[vec]) {
  const Pack<T, vec> pack = read_pack<T, vec>(from);
  VMT_UNROLL
  for (int i = 0; i < vec; ++i) to[i] = widen(pack.item[i]);
}
// Two at a time, as they lie in a register: the upper one needs a mask in place of two shifts.
template <typename T, int vec>
VMT_INLINE void load_channels(const BFloat16* from, float (&to)[vec]) {
  const Pack<BFloat16, vec> pack = read_pack<BFloat16, vec>(from);
  if constexpr (vec == 1) {
    to[0] = widen(pack.item[0]);
  } else {
    VMT_UNROLL
    for (int i = 0; i < vec; i += 2) {
      const unsigned pair = *reinterpret_cast<const may_alias_unsigned*>(&pack.item[i]);
      to[i] = float_of_bits(pair << 16);
      to[i + 1] = float_of_bits(pair & 0xffff0000u);
    }
  }
}
template <typename T, int vec, typename A>
VMT_INLINE void store_channels(T* to, const A (&from)[vec]) {
  Pack<T, vec> pack;
  VMT_UNROLL
  for (int i = 0; i < vec; ++i) narrow(from[i], pack.item[i]);
#if defined(__CUDACC_RTC__)
  // Left to itself the compiler stores item by item on some architectures.
  if constexpr (sizeof(pack) == kVectorBytes) {
    const uint4 words = *reinterpret_cast<const uint4*>(&pack);
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(__cvta_generic_to_global(to)), "r"(words.x), "r"(words.y), "r"(words.z),
                   "r"(words.w)
                 : "memory");
    return;
  }
#endif
  *reinterpret_cast<Pack<T, vec>*>(to) = pack;
}

VMT_INLINE float exponential(float x) {
#if defined(__CUDACC_RTC__)
  return expf(x);
#else
  return __builtin_expf(x);
#endif
}
VMT_INLINE double exponential(double x) {
#if defined(__CUDACC_RTC__)
  return exp(x);
#else
  return __builtin_exp(x);
#endif
}
template <typename A>
VMT_INLINE A larger(A x, A y) {
  return x > y ? x : y;
}

// Sets shared memory to `desired` where it is `expected`; returns what was there.
VMT_INLINE int claim_shared(int* place, int expected, int desired) {
#if defined(__CUDACC_RTC__)
  return atomicCAS(place, expected, desired);
#else
  const int found = *place;
  if (found == expected) *place = desired;
  return found;
#endif
}
template <typename A>
VMT_INLINE void add_shared(A* to, A x) {
#if defined(__CUDACC_RTC__)
  atomicAdd(to, x);
#else
  *to += x;
#endif
}

// Adds to memory that other threads add to at the same time, where `valid`: a predicate, so that
// loads around it stay together.
#if defined(__CUDACC_RTC__)
VMT_INLINE void add_number(unsigned long long address, float x, int valid) {
  asm volatile("{.reg .pred p; setp.ne.s32 p, %2, 0; @p red.global.add.f32 [%0], %1;}"
               :
               : "l"(address), "f"(x), "r"(valid)
               : "memory");
}
VMT_INLINE void add_number(unsigned long long address, double x, int valid) {
  asm volatile("{.reg .pred p; setp.ne.s32 p, %2, 0; @p red.global.add.f64 [%0], %1;}"
               :
               : "l"(address), "d"(x), "r"(valid)
               : "memory");
}
#endif
template <int vec, typename A>
VMT_INLINE void add_channels(A* to, const A (&x)[vec], bool valid) {
#if defined(__CUDACC_RTC__)
  const unsigned long long address = __cvta_generic_to_global(to);
#if __CUDA_ARCH__ >= 900
  constexpr bool has_vector = sizeof(A) == sizeof(float) && vec == 4;
#else
  constexpr bool has_vector = false;
#endif
  if constexpr (has_vector) {
    asm volatile(
        "{.reg .pred p; setp.ne.s32 p, %5, 0; @p red.global.add.v4.f32 [%0], {%1, %2, %3, %4};}"
        :
        : "l"(address), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]), "r"(static_cast<int>(valid))
        : "memory");
  } else {
    VMT_UNROLL
    for (int i = 0; i < vec; ++i) add_number(address + i * sizeof(A), x[i], valid);
  }
#else
  if (!valid) return;
  for (int i = 0; i < vec; ++i) to[i] += x[i];
#endif
}

}  // namespace
