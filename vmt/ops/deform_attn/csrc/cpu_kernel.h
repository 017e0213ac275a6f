// The vectorised CPU kernels. One source file per instruction set includes this with its settings.
//
// Set before the include: VMT_VECTOR_BYTES (16, 32 or 64). No header of the standard library that
// holds inline code may be included here: the linker would be free to keep its AVX-512 copy for
// the baseline. Needs GCC 12 or Clang (vector types, __builtin_shufflevector).
//
// Work is cut into items: (batch, head, range of queries). An item copies its head's slice of
// `value`, strided by M * D, into a packed scratch slice first. Unpacked, the rows of one head lie
// M * D apart and share 1 / M of the cache sets; packed, the slice fits the second-level cache.
#pragma once

#include "bilinear.h"
#include "cpu_items.h"

namespace {

using namespace vmt;

template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I>
struct MakeIndices<0, I...> {
  typedef Indices<I...> type;
};

template <typename A>
struct Simd;
template <>
struct Simd<float> {
  typedef float vector __attribute__((vector_size(VMT_VECTOR_BYTES)));
  typedef float memory
      __attribute__((vector_size(VMT_VECTOR_BYTES), aligned(sizeof(float)), may_alias));
};
template <>
struct Simd<double> {
  typedef double vector __attribute__((vector_size(VMT_VECTOR_BYTES)));
  typedef double memory
      __attribute__((vector_size(VMT_VECTOR_BYTES), aligned(sizeof(double)), may_alias));
};
template <typename A>
using Vector = typename Simd<A>::vector;
template <typename A>
constexpr int kLanes = VMT_VECTOR_BYTES / sizeof(A);

template <typename A>
VMT_INLINE Vector<A> load(const A* from) {
  return *reinterpret_cast<const typename Simd<A>::memory*>(from);
}
template <typename A>
VMT_INLINE void store(A* to, Vector<A> x) {
  *reinterpret_cast<typename Simd<A>::memory*>(to) = x;
}

// Lane j of the result: a[j] + a[j ^ distance] where that bit of j is 0, the same of b where it is 1.
template <typename A, int distance, int... I>
VMT_INLINE Vector<A> fold_pair(Vector<A> a, Vector<A> b, Indices<I...>) {
  constexpr int n = kLanes<A>;
  const Vector<A> own = __builtin_shufflevector(a, b, ((I & distance) ? n + I : I)...);
  const Vector<A> other =
      __builtin_shufflevector(a, b, ((I & distance) ? n + (I ^ distance) : (I ^ distance))...);
  return own + other;
}

// Turns kLanes vectors into one: lane j becomes the sum over all lanes of rows[j]. Uses up rows.
template <typename A, int distance>
VMT_INLINE Vector<A> fold_rows(Vector<A>* rows) {
  constexpr int n = kLanes<A>;
  if constexpr (distance == n) {
    return rows[0];
  } else {
    for (int i = 0; i < n / (2 * distance); ++i) {
      rows[i] = fold_pair<A, distance>(rows[2 * i], rows[2 * i + 1],
                                       typename MakeIndices<n>::type());
    }
    return fold_rows<A, 2 * distance>(rows);
  }
}

// The samples of one (query, head), one array per quantity so that the set-up loop vectorises.
template <typename A>
struct SampleArrays {
  int* token[4];
  A* weight_x[2];
  A* weight_y[2];
  A* slope_x[2];
  A* slope_y[2];
  A* attention;
  A* tap_weight[4];  // attention * weight_y * weight_x
  A* dot;            // backward: 4 per sample
  int* inside;
};

template <typename A>
SampleArrays<A> carve_sample_arrays(char* memory, int padded) {
  A* numbers = reinterpret_cast<A*>(memory);
  SampleArrays<A> arrays;
  auto take = [&]() {
    A* part = numbers;
    numbers += padded;
    return part;
  };
  for (int i = 0; i < 2; ++i) {
    arrays.weight_x[i] = take();
    arrays.weight_y[i] = take();
    arrays.slope_x[i] = take();
    arrays.slope_y[i] = take();
  }
  arrays.attention = take();
  for (int i = 0; i < 4; ++i) arrays.tap_weight[i] = take();
  arrays.dot = numbers;
  numbers += 4 * padded;
  int* integers = reinterpret_cast<int*>(numbers);
  for (int i = 0; i < 4; ++i) arrays.token[i] = integers + i * padded;
  arrays.inside = integers + 4 * padded;
  return arrays;
}

template <typename A>
VMT_INLINE void fill_sample_arrays(const Geometry& geometry, const A* VMT_RESTRICT locations,
                                   const A* VMT_RESTRICT attention, int samples,
                                   SampleArrays<A>& arrays) {
  int* VMT_RESTRICT token0 = arrays.token[0];
  int* VMT_RESTRICT token1 = arrays.token[1];
  int* VMT_RESTRICT token2 = arrays.token[2];
  int* VMT_RESTRICT token3 = arrays.token[3];
  int* VMT_RESTRICT inside = arrays.inside;
  A* VMT_RESTRICT weight_x0 = arrays.weight_x[0];
  A* VMT_RESTRICT weight_x1 = arrays.weight_x[1];
  A* VMT_RESTRICT weight_y0 = arrays.weight_y[0];
  A* VMT_RESTRICT weight_y1 = arrays.weight_y[1];
  A* VMT_RESTRICT slope_x0 = arrays.slope_x[0];
  A* VMT_RESTRICT slope_x1 = arrays.slope_x[1];
  A* VMT_RESTRICT slope_y0 = arrays.slope_y[0];
  A* VMT_RESTRICT slope_y1 = arrays.slope_y[1];
  A* VMT_RESTRICT attended = arrays.attention;
  A* VMT_RESTRICT tap0 = arrays.tap_weight[0];
  A* VMT_RESTRICT tap1 = arrays.tap_weight[1];
  A* VMT_RESTRICT tap2 = arrays.tap_weight[2];
  A* VMT_RESTRICT tap3 = arrays.tap_weight[3];
  const int* VMT_RESTRICT height = geometry.sample_height;
  const int* VMT_RESTRICT width = geometry.sample_width;
  const int* VMT_RESTRICT start = geometry.sample_start;
#pragma GCC ivdep
  for (int i = 0; i < samples; ++i) {
    const Sample<A> s = make_sample<A>(locations[2 * i], locations[2 * i + 1], attention[i],
                                       height[i], width[i], start[i]);
    token0[i] = s.token[0];
    token1[i] = s.token[1];
    token2[i] = s.token[2];
    token3[i] = s.token[3];
    inside[i] = s.inside;
    weight_x0[i] = s.weight_x[0];
    weight_x1[i] = s.weight_x[1];
    weight_y0[i] = s.weight_y[0];
    weight_y1[i] = s.weight_y[1];
    slope_x0[i] = s.slope_x[0];
    slope_x1[i] = s.slope_x[1];
    slope_y0[i] = s.slope_y[0];
    slope_y1[i] = s.slope_y[1];
    attended[i] = s.attention;
    tap0[i] = s.attention * s.weight_y[0] * s.weight_x[0];
    tap1[i] = s.attention * s.weight_y[0] * s.weight_x[1];
    tap2[i] = s.attention * s.weight_y[1] * s.weight_x[0];
    tap3[i] = s.attention * s.weight_y[1] * s.weight_x[1];
  }
}

// out[0 .. vectors * kLanes) = sum over samples and taps of tap_weight * row of `slice`.
template <typename A, int vectors>
VMT_INLINE void gather(const A* slice, index_t stride, int samples, const SampleArrays<A>& arrays,
                       A* out) {
  constexpr int n = kLanes<A>;
  // Four chains per vector hide the latency of the multiply-add, as far as registers allow.
  constexpr int chains = vectors <= 2 ? 4 : (vectors <= 4 ? 2 : 1);
  Vector<A> sum[chains][vectors] = {};
  for (int i = 0; i < samples; ++i) {
    if (!arrays.inside[i]) continue;
#pragma GCC unroll 4
    for (int tap = 0; tap < 4; ++tap) {
      const A* row = slice + arrays.token[tap][i] * stride;
      const A weight = arrays.tap_weight[tap][i];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[tap % chains][v] += weight * load(row + v * n);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    Vector<A> total = sum[0][v];
#pragma GCC unroll 4
    for (int c = 1; c < chains; ++c) total += sum[c][v];
    store(out + v * n, total);
  }
}

// Adds tap_weight * grad_out to the rows of grad_slice and grad_out . row to arrays.dot.
template <typename A, int vectors>
VMT_INLINE void scatter(const A* slice, A* grad_slice, index_t stride, int samples, const A* grad_out,
                        SampleArrays<A>& arrays) {
  constexpr int n = kLanes<A>;
  Vector<A> grad[vectors];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) grad[v] = load(grad_out + v * n);
  const int products = 4 * samples;
  for (int first = 0; first < products; first += n) {
    Vector<A> rows[n] = {};
    const int count = products - first < n ? products - first : n;
    for (int j = 0; j < count; ++j) {
      const int i = (first + j) / 4;
      const int tap = (first + j) % 4;
      if (!arrays.inside[i]) continue;
      const index_t offset = arrays.token[tap][i] * stride;
      const A weight = arrays.tap_weight[tap][i];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        rows[j] += grad[v] * load(slice + offset + v * n);
        store(grad_slice + offset + v * n, load(grad_slice + offset + v * n) + weight * grad[v]);
      }
    }
    const Vector<A> sums = fold_rows<A, 1>(rows);
    store(arrays.dot + first, load(arrays.dot + first) + sums);
  }
}

// Vectors handled at once: 128 bytes of one row, 32 channels of float. Keeps the sums in registers.
constexpr int kTileVectors = 128 / VMT_VECTOR_BYTES;

template <typename A>
VMT_INLINE void gather_channels(const A* slice, index_t stride, int channels, int samples,
                                const SampleArrays<A>& arrays, A* out) {
  constexpr int n = kLanes<A>;
  int c = 0;
  for (; c + kTileVectors * n <= channels; c += kTileVectors * n) {
    gather<A, kTileVectors>(slice + c, stride, samples, arrays, out + c);
  }
  for (; c < channels; c += n) gather<A, 1>(slice + c, stride, samples, arrays, out + c);
}

template <typename A>
VMT_INLINE void scatter_channels(const A* slice, A* grad_slice, index_t stride, int channels,
                                 int samples, const A* grad_out, SampleArrays<A>& arrays) {
  constexpr int n = kLanes<A>;
  for (int i = 0; i < 4 * samples; ++i) arrays.dot[i] = 0;
  int c = 0;
  for (; c + kTileVectors * n <= channels; c += kTileVectors * n) {
    scatter<A, kTileVectors>(slice + c, grad_slice + c, stride, samples, grad_out + c, arrays);
  }
  for (; c < channels; c += n) {
    scatter<A, 1>(slice + c, grad_slice + c, stride, samples, grad_out + c, arrays);
  }
}

// Copies rows of `width` numbers between strides; what pads a wider packed row is left alone.
template <typename A>
VMT_INLINE void copy_rows(const A* VMT_RESTRICT from, index_t from_stride, A* VMT_RESTRICT to,
                          index_t to_stride, index_t rows, int width) {
  for (index_t row = 0; row < rows; ++row) {
    for (int c = 0; c < width; ++c) to[row * to_stride + c] = from[row * from_stride + c];
  }
}

template <typename A>
void forward_item(const Geometry& g, const ForwardTensors<A>& t, const Item& item,
                  Scratch<A>& scratch) {
  const int channels = static_cast<int>(g.channels);
  const int padded = scratch.padded_channels;
  const index_t row = g.heads * g.channels;
  const A* slice = t.value + item.batch * g.tokens * row + item.head * g.channels;
  index_t stride = row;
  if (scratch.slice != nullptr) {
    if (scratch.packed_batch != item.batch || scratch.packed_head != item.head) {
      copy_rows(slice, row, scratch.slice, padded, g.tokens, channels);
      scratch.packed_batch = item.batch;
      scratch.packed_head = item.head;
    }
    slice = scratch.slice;
    stride = padded;
  }
  SampleArrays<A> arrays = carve_sample_arrays<A>(scratch.samples, g.padded_samples);
  for (index_t query = item.query_begin; query < item.query_end; ++query) {
    const index_t group = (item.batch * g.queries + query) * g.heads + item.head;
    fill_sample_arrays<A>(g, t.locations + group * g.samples * 2, t.attention + group * g.samples,
                          g.samples, arrays);
    A* out = t.out + group * g.channels;
    if (padded == channels) {
      gather_channels(slice, stride, channels, g.samples, arrays, out);
    } else {
      gather_channels(slice, stride, padded, g.samples, arrays, scratch.row);
      for (int c = 0; c < channels; ++c) out[c] = scratch.row[c];
    }
  }
}

template <typename A>
void backward_item(const Geometry& g, const BackwardTensors<A>& t, const Item& item,
                   Scratch<A>& scratch) {
  const int channels = static_cast<int>(g.channels);
  const int padded = scratch.padded_channels;
  const index_t row = g.heads * g.channels;
  const index_t origin = item.batch * g.tokens * row + item.head * g.channels;
  copy_rows(t.value + origin, row, scratch.slice, padded, g.tokens, channels);
  for (index_t i = 0; i < g.tokens * padded; ++i) scratch.grad_slice[i] = 0;
  SampleArrays<A> arrays = carve_sample_arrays<A>(scratch.samples, g.padded_samples);
  for (index_t query = item.query_begin; query < item.query_end; ++query) {
    const index_t group = (item.batch * g.queries + query) * g.heads + item.head;
    fill_sample_arrays<A>(g, t.locations + group * g.samples * 2, t.attention + group * g.samples,
                          g.samples, arrays);
    const A* grad_out = t.grad_out + group * g.channels;
    if (padded != channels) {
      for (int c = 0; c < channels; ++c) scratch.row[c] = grad_out[c];
      grad_out = scratch.row;
    }
    scatter_channels(scratch.slice, scratch.grad_slice, padded, padded, g.samples, grad_out, arrays);
    A* VMT_RESTRICT grad_attention = t.grad_attention + group * g.samples;
    A* VMT_RESTRICT grad_locations = t.grad_locations + group * g.samples * 2;
    for (int i = 0; i < g.samples; ++i) {
      const SampleGrad<A> grad = sample_grad<A>(
          arrays.weight_x[0][i], arrays.weight_x[1][i], arrays.weight_y[0][i],
          arrays.weight_y[1][i], arrays.slope_x[0][i], arrays.slope_x[1][i], arrays.slope_y[0][i],
          arrays.slope_y[1][i], arrays.attention[i], arrays.dot[4 * i], arrays.dot[4 * i + 1],
          arrays.dot[4 * i + 2], arrays.dot[4 * i + 3]);
      grad_attention[i] = grad.attention;
      grad_locations[2 * i] = grad.x;
      grad_locations[2 * i + 1] = grad.y;
    }
  }
  copy_rows(scratch.grad_slice, padded, t.grad_value + origin, row, g.tokens, channels);
}

}  // namespace

// Defines the entry points of one instruction set under `name`.
#define VMT_DEFINE_KERNELS(name)                                                   \
  const KernelTable name = {forward_item<float>, forward_item<double>,             \
                            backward_item<float>, backward_item<double>,           \
                            VMT_VECTOR_BYTES}
