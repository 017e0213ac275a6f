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

// Up to kChunk samples of one (query, head), one array per quantity so that setting them up
// vectorises. Of fixed size, so that the inner loops need few addresses: the model has 16 samples.
constexpr int kChunk = 16;
template <typename A>
struct alignas(64) Chunk {
  int token[4][kChunk];
  A tap_weight[4][kChunk];  // attention * weight_y * weight_x
  A weight_x[2][kChunk];
  A weight_y[2][kChunk];
  A slope_x[2][kChunk];
  A slope_y[2][kChunk];
  A attention[kChunk];
  A dot[4 * kChunk];  // backward: four per sample
  int inside[kChunk];
};

template <typename A>
VMT_INLINE void fill_chunk(const int* VMT_RESTRICT height, const int* VMT_RESTRICT width,
                           const int* VMT_RESTRICT start, const A* VMT_RESTRICT locations,
                           const A* VMT_RESTRICT attention, index_t count,
                           Chunk<A>& VMT_RESTRICT chunk) {
  // A 64-bit counter: under -fwrapv, which Python builds with, 2 * i of an int might wrap round,
  // and the loads would become gathers.
#pragma GCC ivdep
  for (index_t i = 0; i < count; ++i) {
    const Sample<A> s = make_sample<A>(locations[2 * i], locations[2 * i + 1], attention[i],
                                       height[i], width[i], start[i]);
    chunk.token[0][i] = s.token[0];
    chunk.token[1][i] = s.token[1];
    chunk.token[2][i] = s.token[2];
    chunk.token[3][i] = s.token[3];
    chunk.inside[i] = s.inside;
    chunk.weight_x[0][i] = s.weight_x[0];
    chunk.weight_x[1][i] = s.weight_x[1];
    chunk.weight_y[0][i] = s.weight_y[0];
    chunk.weight_y[1][i] = s.weight_y[1];
    chunk.slope_x[0][i] = s.slope_x[0];
    chunk.slope_x[1][i] = s.slope_x[1];
    chunk.slope_y[0][i] = s.slope_y[0];
    chunk.slope_y[1][i] = s.slope_y[1];
    chunk.attention[i] = s.attention;
    chunk.tap_weight[0][i] = s.attention * s.weight_y[0] * s.weight_x[0];
    chunk.tap_weight[1][i] = s.attention * s.weight_y[0] * s.weight_x[1];
    chunk.tap_weight[2][i] = s.attention * s.weight_y[1] * s.weight_x[0];
    chunk.tap_weight[3][i] = s.attention * s.weight_y[1] * s.weight_x[1];
  }
}

// Reads samples `first` on of one (query, head); returns how many.
template <typename A>
VMT_INLINE int read_chunk(const Geometry& g, index_t group, int first, const A* locations,
                          const A* attention, Chunk<A>& chunk) {
  const index_t position = group * g.samples + first;
  const int count = g.samples - first < kChunk ? g.samples - first : kChunk;
  const int* height = g.sample_height + first;
  const int* width = g.sample_width + first;
  const int* start = g.sample_start + first;
  if (count == kChunk) {  // the constant lets the compiler drop the loop
    fill_chunk(height, width, start, locations + 2 * position, attention + position, kChunk, chunk);
  } else {
    fill_chunk(height, width, start, locations + 2 * position, attention + position, count, chunk);
  }
  return count;
}

// out[0 .. vectors * kLanes) += sum over samples and taps of tap_weight * row of `slice`; with
// `fresh` the old content counts as zero.
template <typename A, int vectors>
VMT_INLINE void gather(const A* slice, index_t stride, int count, const Chunk<A>& chunk, bool fresh,
                       A* out) {
  constexpr int n = kLanes<A>;
  // Four chains per vector hide the latency of the multiply-add, as far as registers allow.
  constexpr int chains = vectors <= 2 ? 4 : (vectors <= 4 ? 2 : 1);
  Vector<A> sum[chains][vectors] = {};
  for (index_t i = 0; i < count; ++i) {
    if (!chunk.inside[i]) continue;
#pragma GCC unroll 4
    for (int tap = 0; tap < 4; ++tap) {
      const A* row = slice + chunk.token[tap][i] * stride;
      const A weight = chunk.tap_weight[tap][i];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[tap % chains][v] += weight * load(row + v * n);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    Vector<A> total = sum[0][v];
#pragma GCC unroll 4
    for (int c = 1; c < chains; ++c) total += sum[c][v];
    store(out + v * n, fresh ? total : total + load(out + v * n));
  }
}

// Adds tap_weight * grad_out to the rows of grad_slice and grad_out . row to chunk.dot.
template <typename A, int vectors>
VMT_INLINE void scatter(const A* slice, A* grad_slice, index_t stride, int samples,
                        const A* grad_out, Chunk<A>& chunk) {
  constexpr int n = kLanes<A>;
  Vector<A> grad[vectors];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) grad[v] = load(grad_out + v * n);
  const int products = 4 * samples;
  for (int first = 0; first < products; first += n) {
    Vector<A> rows[n] = {};
    const int count = products - first < n ? products - first : n;
    for (int j = 0; j < count; ++j) {
      const index_t i = (first + j) / 4;
      const index_t tap = (first + j) % 4;
      if (!chunk.inside[i]) continue;
      const index_t offset = chunk.token[tap][i] * stride;
      const A weight = chunk.tap_weight[tap][i];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        rows[j] += grad[v] * load(slice + offset + v * n);
        store(grad_slice + offset + v * n, load(grad_slice + offset + v * n) + weight * grad[v]);
      }
    }
    const Vector<A> sums = fold_rows<A, 1>(rows);
    store(chunk.dot + first, load(chunk.dot + first) + sums);
  }
}

// Vectors handled at once: 128 bytes of one row, 32 channels of float. Keeps the sums in registers.
constexpr int kTileVectors = 128 / VMT_VECTOR_BYTES;

template <typename A>
VMT_INLINE void gather_channels(const A* slice, index_t stride, int channels, int count,
                                const Chunk<A>& chunk, bool fresh, A* out) {
  constexpr int n = kLanes<A>;
  int c = 0;
  for (; c + kTileVectors * n <= channels; c += kTileVectors * n) {
    gather<A, kTileVectors>(slice + c, stride, count, chunk, fresh, out + c);
  }
  for (; c < channels; c += n) gather<A, 1>(slice + c, stride, count, chunk, fresh, out + c);
}

template <typename A>
VMT_INLINE void scatter_channels(const A* slice, A* grad_slice, index_t stride, int channels,
                                 int count, const A* grad_out, Chunk<A>& chunk) {
  constexpr int n = kLanes<A>;
  for (int i = 0; i < 4 * kChunk; ++i) chunk.dot[i] = 0;
  int c = 0;
  for (; c + kTileVectors * n <= channels; c += kTileVectors * n) {
    scatter<A, kTileVectors>(slice + c, grad_slice + c, stride, count, grad_out + c, chunk);
  }
  for (; c < channels; c += n) {
    scatter<A, 1>(slice + c, grad_slice + c, stride, count, grad_out + c, chunk);
  }
}

// Rows to fetch ahead when reading one head's slice: its rows lie too far apart for the hardware.
constexpr index_t kRowsAhead = 16;

// Copies rows of `width` numbers between strides; what pads a wider packed row is left alone.
template <typename A>
VMT_INLINE void copy_rows(const A* VMT_RESTRICT from, index_t from_stride, A* VMT_RESTRICT to,
                          index_t to_stride, index_t rows, int width) {
  constexpr int n = kLanes<A>;
  if (width == kTileVectors * n) {
    for (index_t row = 0; row < rows; ++row, from += from_stride, to += to_stride) {
      const A* ahead = from + (row + kRowsAhead < rows ? kRowsAhead * from_stride : 0);
      __builtin_prefetch(ahead);
      __builtin_prefetch(ahead + width / 2);
#pragma GCC unroll 8
      for (int v = 0; v < kTileVectors; ++v) store(to + v * n, load(from + v * n));
    }
    return;
  }
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
  Chunk<A> chunk;
  for (index_t query = item.query_begin; query < item.query_end; ++query) {
    const index_t group = (item.batch * g.queries + query) * g.heads + item.head;
    A* out = t.out + group * g.channels;
    A* sum = padded == channels ? out : scratch.row;
    // At least one round, which writes zeros where there are no samples.
    int first = 0;
    do {
      const int count = read_chunk(g, group, first, t.locations, t.attention, chunk);
      gather_channels(slice, stride, padded, count, chunk, first == 0, sum);
      first += kChunk;
    } while (first < g.samples);
    if (sum != out) {
      for (int c = 0; c < channels; ++c) out[c] = sum[c];
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
  Chunk<A> chunk;
  for (index_t query = item.query_begin; query < item.query_end; ++query) {
    const index_t group = (item.batch * g.queries + query) * g.heads + item.head;
    const A* grad_out = t.grad_out + group * g.channels;
    if (padded != channels) {
      for (int c = 0; c < channels; ++c) scratch.row[c] = grad_out[c];
      grad_out = scratch.row;
    }
    for (int first = 0; first < g.samples; first += kChunk) {
      const int count = read_chunk(g, group, first, t.locations, t.attention, chunk);
      scatter_channels(scratch.slice, scratch.grad_slice, padded, padded, count, grad_out, chunk);
      const index_t position = group * g.samples + first;
      A* VMT_RESTRICT grad_attention = t.grad_attention + position;
      A* VMT_RESTRICT grad_locations = t.grad_locations + 2 * position;
      for (index_t i = 0; i < count; ++i) {
        const SampleGrad<A> grad = sample_grad<A>(
            chunk.weight_x[0][i], chunk.weight_x[1][i], chunk.weight_y[0][i], chunk.weight_y[1][i],
            chunk.slope_x[0][i], chunk.slope_x[1][i], chunk.slope_y[0][i], chunk.slope_y[1][i],
            chunk.attention[i], chunk.dot[4 * i], chunk.dot[4 * i + 1], chunk.dot[4 * i + 2],
            chunk.dot[4 * i + 3]);
        grad_attention[i] = grad.attention;
        grad_locations[2 * i] = grad.x;
        grad_locations[2 * i + 1] = grad.y;
      }
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
