// The GPU kernels, thread by thread. NVRTC compiles them for the GPU (deform_attn.cu); g++ compiles
// the same code for a test that walks over blocks, warps and lanes on the CPU (emulate.cpp).
//
// One *group* of lanes serves one (batch, query, head); a warp holds several groups. Per chunk of
// samples the lanes of a group first stage the samples in shared memory, one sample per lane, so
// that the arithmetic of a location is done once and not once per lane; then every lane walks over
// the staged samples and handles its own `vec` neighbouring channels.
#pragma once

#include "bilinear.h"

#if defined(__CUDACC_RTC__)
#define VMT_UNROLL _Pragma("unroll")
#else
#define VMT_UNROLL
#endif

constexpr int kMaxLevels = 32;
constexpr int kWarpLanes = 32;
constexpr int kVectorBytes = 16;  // the widest load of one lane

// Argument of every kernel. vmt/ops/deform_attn/cuda.py holds the same layout for ctypes.
struct Problem {
  const void* value;      // (B, S, M, D)
  const void* locations;  // (B, Q, M, L, K, 2)
  const void* attention;  // (B, Q, M, L, K)
  void* out;              // (B, Q, M, D), forward only
  const void* grad_out;   // (B, Q, M, D), this and the rest backward only
  void* grad_value;       // (B, S, M, D) of the accumulator type, zero on entry
  void* grad_locations;
  void* grad_attention;
  long long batch, tokens, heads, queries;
  int levels, points;
  int height[kMaxLevels], width[kMaxLevels], start[kMaxLevels];
};

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
  const unsigned bits = bits_of_float(x);
  const unsigned round_to_even = 0x7fffu + ((bits >> 16) & 1u);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = is_nan ? 0x7fc0u : static_cast<unsigned short>((bits + round_to_even) >> 16);
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
#endif

// Neighbouring channels, moved by one instruction of up to 16 bytes.
template <typename T, int vec>
struct alignas(sizeof(T) * vec) Pack {
  T item[vec];
};

template <typename T, int vec, typename A>
VMT_INLINE void load_channels(const T* from, A (&to)[vec]) {
  const Pack<T, vec> pack = *reinterpret_cast<const Pack<T, vec>*>(from);
  VMT_UNROLL
  for (int i = 0; i < vec; ++i) to[i] = widen(pack.item[i]);
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

// Adds to memory that other threads add to at the same time.
template <int vec, typename A>
VMT_INLINE void add_channels(A* to, const A (&x)[vec]) {
#if defined(__CUDACC_RTC__)
#if __CUDA_ARCH__ >= 900
  if constexpr (sizeof(A) == sizeof(float) && vec == 4) {
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(__cvta_generic_to_global(to)), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
                 : "memory");
    return;
  }
#endif
  VMT_UNROLL
  for (int i = 0; i < vec; ++i) atomicAdd(to + i, x[i]);
#else
  for (int i = 0; i < vec; ++i) to[i] += x[i];
#endif
}

// How D channels spread over the lanes of a group, at most `max_vec` of them per load.
template <typename T, int channels, int max_vec>
struct Spread {
  static VMT_INLINE constexpr int largest_vec(int limit) {
    int vec = 1;
    while (2 * vec <= limit && channels % (2 * vec) == 0) vec *= 2;
    return vec;
  }
  static VMT_INLINE constexpr int lanes_for(int packs) {
    int lanes = 1;
    while (lanes < packs && lanes < kWarpLanes) lanes *= 2;
    return lanes;
  }
  static constexpr int widest = kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr int vec = largest_vec(widest < max_vec ? widest : max_vec);
  static constexpr int packs = channels / vec;
  static constexpr int lanes = lanes_for(packs);                   // per group, a power of two
  static constexpr int steps = (packs + lanes - 1) / lanes;        // packs per lane
  static constexpr int groups = kWarpLanes / lanes;                // per warp
  // Samples staged at once: as many as lanes can fill in few rounds, within 48 KiB per block.
  static constexpr int stage = lanes >= 4 ? 16 : 4;
};

// One (batch, query, head) and where its numbers lie.
struct Group {
  long long index;        // (b * Q + q) * M + m
  long long head_origin;  // of value[b, 0, m, 0]
};

// Quotient of non-negative numbers; GPUs divide 64 bits several times slower than 32.
VMT_INLINE long long divide(long long x, long long y) {
  if (((x | y) >> 32) == 0) return static_cast<unsigned>(x) / static_cast<unsigned>(y);
  return x / y;
}

VMT_INLINE Group make_group(const Problem& p, long long index, int channels) {
  const long long batch = divide(index, p.queries * p.heads);
  const long long head = index - divide(index, p.heads) * p.heads;
  Group group;
  group.index = index;
  group.head_origin = (batch * p.tokens * p.heads + head) * channels;
  return group;
}

template <typename A, typename P>
VMT_INLINE Sample<A> read_sample(const Problem& p, const Group& group, int index) {
  const int level = index / p.points;
  const long long position = group.index * (p.levels * p.points) + index;
  const P* location = static_cast<const P*>(p.locations) + 2 * position;
  return make_sample<A>(widen(location[0]), widen(location[1]),
                        widen(static_cast<const P*>(p.attention)[position]), p.height[level],
                        p.width[level], p.start[level]);
}

// Forward needs four taps only; token[0] < 0 marks a skipped sample.
template <typename A>
struct alignas(16) StagedTaps {
  int token[4];
  A weight[4];
};

template <typename T, typename P, int channels>
struct Forward {
  typedef typename Accumulator<T>::type A;
  typedef Spread<T, channels, kVectorBytes> Layout;
  typedef StagedTaps<A> Staged;

  // Fills staged[lane], staged[lane + lanes], ... with the samples from `first` on.
  static VMT_INLINE void stage(const Problem& p, const Group& group, int first, int count, int lane,
                               Staged* staged) {
    for (int i = lane; i < count; i += Layout::lanes) {
      const Sample<A> s = read_sample<A, P>(p, group, first + i);
      Staged taps;
      VMT_UNROLL
      for (int tap = 0; tap < 4; ++tap) {
        taps.token[tap] = s.token[tap];
        taps.weight[tap] = s.attention * s.weight_y[tap / 2] * s.weight_x[tap % 2];
      }
      if (!s.inside) taps.token[0] = -1;
      staged[i] = taps;
    }
  }

  static VMT_INLINE void accumulate(const Problem& p, const Group& group, int count, int lane,
                                    const Staged* staged, A (&sum)[Layout::steps][Layout::vec]) {
    const long long row = p.heads * channels;
    const T* value = static_cast<const T*>(p.value) + group.head_origin;
    for (int i = 0; i < count; ++i) {
      const Staged taps = staged[i];
      if (taps.token[0] < 0) continue;
      VMT_UNROLL
      for (int step = 0; step < Layout::steps; ++step) {
        const int channel = (step * Layout::lanes + lane) * Layout::vec;
        if (channel >= channels) continue;
        A cell[4][Layout::vec];
        VMT_UNROLL
        for (int tap = 0; tap < 4; ++tap) {
          load_channels<T, Layout::vec>(value + taps.token[tap] * row + channel, cell[tap]);
        }
        VMT_UNROLL
        for (int tap = 0; tap < 4; ++tap) {
          VMT_UNROLL
          for (int v = 0; v < Layout::vec; ++v) sum[step][v] += taps.weight[tap] * cell[tap][v];
        }
      }
    }
  }

  static VMT_INLINE void finish(const Problem& p, const Group& group, int lane,
                                const A (&sum)[Layout::steps][Layout::vec]) {
    T* out = static_cast<T*>(p.out) + group.index * channels;
    VMT_UNROLL
    for (int step = 0; step < Layout::steps; ++step) {
      const int channel = (step * Layout::lanes + lane) * Layout::vec;
      if (channel < channels) store_channels<T, Layout::vec>(out + channel, sum[step]);
    }
  }
};

template <typename A>
struct alignas(16) StagedSample {
  Sample<A> sample;
};

template <typename T, typename P, int channels>
struct Backward {
  typedef typename Accumulator<T>::type A;
  // Sums go to memory in the accumulator type: four floats fill the widest store.
  typedef Spread<T, channels, kVectorBytes / sizeof(A)> Layout;
  typedef StagedSample<A> Staged;

  static VMT_INLINE void stage(const Problem& p, const Group& group, int first, int count, int lane,
                               Staged* staged) {
    for (int i = lane; i < count; i += Layout::lanes) {
      staged[i].sample = read_sample<A, P>(p, group, first + i);
    }
  }

  static VMT_INLINE void load_grad(const Problem& p, const Group& group, int lane,
                                   A (&grad)[Layout::steps][Layout::vec]) {
    const T* grad_out = static_cast<const T*>(p.grad_out) + group.index * channels;
    VMT_UNROLL
    for (int step = 0; step < Layout::steps; ++step) {
      const int channel = (step * Layout::lanes + lane) * Layout::vec;
      if (channel < channels) load_channels<T, Layout::vec>(grad_out + channel, grad[step]);
    }
  }

  // Adds to grad_value and returns this lane's share of the gradients of location and weight.
  static VMT_INLINE SampleGrad<A> scatter(const Problem& p, const Group& group, int lane,
                                          const Staged& staged,
                                          const A (&grad)[Layout::steps][Layout::vec]) {
    const Sample<A> s = staged.sample;
    if (!s.inside) return SampleGrad<A>{0, 0, 0};
    const long long row = p.heads * channels;
    const T* value = static_cast<const T*>(p.value) + group.head_origin;
    A* grad_value = static_cast<A*>(p.grad_value) + group.head_origin;
    A dot[4] = {0, 0, 0, 0};
    VMT_UNROLL
    for (int step = 0; step < Layout::steps; ++step) {
      const int channel = (step * Layout::lanes + lane) * Layout::vec;
      if (channel >= channels) continue;
      VMT_UNROLL
      for (int tap = 0; tap < 4; ++tap) {
        const long long offset = s.token[tap] * row + channel;
        const A weight = s.attention * s.weight_y[tap / 2] * s.weight_x[tap % 2];
        A cell[Layout::vec];
        A share[Layout::vec];
        load_channels<T, Layout::vec>(value + offset, cell);
        VMT_UNROLL
        for (int v = 0; v < Layout::vec; ++v) {
          dot[tap] += cell[v] * grad[step][v];
          share[v] = weight * grad[step][v];
        }
        // A tap outside the map has weight zero and needs no trip to memory.
        if (weight != 0) add_channels<Layout::vec>(grad_value + offset, share);
      }
    }
    return sample_grad<A>(s.weight_x[0], s.weight_x[1], s.weight_y[0], s.weight_y[1], s.slope_x[0],
                          s.slope_x[1], s.slope_y[0], s.slope_y[1], s.attention, dot[0], dot[1],
                          dot[2], dot[3]);
  }

  static VMT_INLINE void finish(const Problem& p, const Group& group, int index,
                                const SampleGrad<A>& grad) {
    const long long position = group.index * (p.levels * p.points) + index;
    P* location = static_cast<P*>(p.grad_locations) + 2 * position;
    narrow(grad.x, location[0]);
    narrow(grad.y, location[1]);
    narrow(grad.attention, static_cast<P*>(p.grad_attention)[position]);
  }
};

}  // namespace
