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
  typedef int integer __attribute__((vector_size(VMT_VECTOR_BYTES)));
  typedef float vector __attribute__((vector_size(VMT_VECTOR_BYTES)));
  typedef float memory
      __attribute__((vector_size(VMT_VECTOR_BYTES), aligned(sizeof(float)), may_alias));
};
template <>
struct Simd<double> {
  typedef long long integer __attribute__((vector_size(VMT_VECTOR_BYTES)));
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

// Numbers of exp: 1.5 * 2^mantissa rounds to whole numbers when added, and holds them in its bits.
template <typename A>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float rounder = 12582912.0f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float least = -87.0f;
  static constexpr int mantissa = 23, degree = 7;
};
template <>
struct ExpConstants<double> {
  static constexpr double rounder = 6755399441055744.0, ln2_high = 0.693147180369123816490,
                          ln2_low = 1.90821492927058770002e-10;
  static constexpr double least = -708.0;
  static constexpr int mantissa = 52, degree = 13;
};

// exp of numbers up to 0, to about one unit of the last place: 2^n times a Taylor series around 0.
template <typename A>
VMT_INLINE Vector<A> exp_of_negative(Vector<A> x) {
  typedef typename Simd<A>::integer Integer;
  typedef ExpConstants<A> Constants;
  const Vector<A> safe = x > Constants::least ? x : Constants::least + Vector<A>{};
  const Vector<A> shifted = safe * static_cast<A>(1.44269504088896340736) + Constants::rounder;
  const Vector<A> n = shifted - Constants::rounder;
  const Vector<A> rest = (safe - n * Constants::ln2_high) - n * Constants::ln2_low;
  Vector<A> series = Vector<A>{} + static_cast<A>(1);
#pragma GCC unroll 16
  for (int k = Constants::degree; k > 0; --k) {
    series = series * (rest * (static_cast<A>(1) / static_cast<A>(k))) + static_cast<A>(1);
  }
  const Integer exponent = reinterpret_cast<Integer>(shifted) << Constants::mantissa;
  const Vector<A> power = reinterpret_cast<Vector<A>>(reinterpret_cast<Integer>(series) + exponent);
  // Zero for -infinity and what is close to zero; what is no number stays so.
  return x > Constants::least ? power : (x == x ? Vector<A>{} : x);
}

// Up to kChunk samples of one (query, head), one array per quantity so that setting them up
// vectorises. Of fixed size, so that the inner loops need few addresses: the model has 16 samples.
constexpr int kChunk = 16;
template <typename A>
struct alignas(64) Chunk {
  int token[4][kChunk];
  A tap_weight[4][kChunk];  // attention included, zero outside the map
  A in_map[4][kChunk];
  A fraction_x[kChunk];
  A fraction_y[kChunk];
  A attention[kChunk];
  A dot[4 * kChunk];  // backward: four per sample
  int inside[kChunk];
};

template <bool in_pixels, typename A>
VMT_INLINE void fill_chunk(const int* VMT_RESTRICT height, const int* VMT_RESTRICT width,
                           const int* VMT_RESTRICT start, const A* VMT_RESTRICT places,
                           const A* VMT_RESTRICT attention, index_t count,
                           Chunk<A>& VMT_RESTRICT chunk) {
  // A 64-bit counter: under -fwrapv, which Python builds with, 2 * i of an int might wrap round,
  // and the loads would become gathers.
#pragma GCC ivdep
  for (index_t i = 0; i < count; ++i) {
    const A x = in_pixels ? places[2 * i] : pixel_of(places[2 * i], width[i]);
    const A y = in_pixels ? places[2 * i + 1] : pixel_of(places[2 * i + 1], height[i]);
    const Sample<A> s = make_sample<A>(x, y, attention[i], height[i], width[i], start[i]);
    A weight[4];
    tap_weights(s, weight);
#pragma GCC unroll 4
    for (int tap = 0; tap < 4; ++tap) {
      chunk.token[tap][i] = s.token[tap];
      chunk.in_map[tap][i] = s.in_map[tap];
      chunk.tap_weight[tap][i] = weight[tap];
    }
    chunk.inside[i] = s.inside;
    chunk.fraction_x[i] = s.fraction_x;
    chunk.fraction_y[i] = s.fraction_y;
    chunk.attention[i] = s.attention;
  }
}

// Reads samples `first` on of one group, whose numbers begin at `places` and `attention`; returns how
// many.
template <bool in_pixels, typename A>
VMT_INLINE int read_chunk(const Geometry& g, int first, const A* places, const A* attention,
                          Chunk<A>& chunk) {
  const int count = g.samples - first < kChunk ? g.samples - first : kChunk;
  const int* height = g.sample_height + first;
  const int* width = g.sample_width + first;
  const int* start = g.sample_start + first;
  places += 2 * first;
  attention += first;
  if (count == kChunk) {  // the constant lets the compiler drop the loop
    fill_chunk<in_pixels>(height, width, start, places, attention, kChunk, chunk);
  } else {
    fill_chunk<in_pixels>(height, width, start, places, attention, count, chunk);
  }
  return count;
}

// weights = softmax of the logits.
template <typename A>
VMT_INLINE void softmax(const A* VMT_RESTRICT logits, int count, A* VMT_RESTRICT weights) {
  constexpr int n = kLanes<A>;
  A most = count > 0 ? logits[0] : 0;
  for (int i = 1; i < count; ++i) most = logits[i] > most ? logits[i] : most;
  for (int i = 0; i < count; ++i) weights[i] = logits[i] - most;
  for (int i = count; i % n != 0; ++i) weights[i] = ExpConstants<A>::least;  // adds zero
  Vector<A> sums = {};
  for (int i = 0; i < count; i += n) {
    const Vector<A> power = exp_of_negative<A>(load(weights + i));
    store(weights + i, power);
    sums += power;
  }
  A sum = 0;
  for (int lane = 0; lane < n; ++lane) sum += sums[lane];
  const A scale = 1 / sum;
  for (int i = 0; i < count; ++i) weights[i] *= scale;
}

// pixels = places of offsets around the reference points of one query.
template <typename A>
VMT_INLINE void find_pixels(const Geometry& g, const A* VMT_RESTRICT offsets,
                            const A* VMT_RESTRICT reference, A* VMT_RESTRICT pixels) {
  const int axes = g.reference_axes;
  for (int i = 0; i < g.samples; i += g.points, reference += axes) {
    const int width = g.sample_width[i], height = g.sample_height[i];
    A x = pixel_of(reference[0], width), y = pixel_of(reference[1], height);
    A unit_x = 1, unit_y = 1;
    if (axes == 4) {  // half a side over K, in pixels
      const A half = static_cast<A>(0.5) / static_cast<A>(g.points);
      unit_x = reference[2] * half * static_cast<A>(width);
      unit_y = reference[3] * half * static_cast<A>(height);
    }
    for (int k = i; k < i + g.points; ++k) {
      pixels[2 * k] = x + unit_x * offsets[2 * k];
      pixels[2 * k + 1] = y + unit_y * offsets[2 * k + 1];
    }
  }
}

// Where one (batch, query, head) reads.
template <typename A>
struct GroupInputs {
  const A* places;
  const A* attention;
};

template <typename A, typename Tensors>
VMT_INLINE GroupInputs<A> open_group(const Geometry& g, const Tensors& t, index_t batch,
                                     index_t query, index_t group, Scratch<A>& scratch) {
  const A* places = t.locations + group * 2 * g.samples;
  const A* attention = t.attention + group * g.samples;
  if (t.reference == nullptr) return {places, attention};
  const index_t levels = g.points > 0 ? g.samples / g.points : 0;
  const A* reference =
      t.reference + batch * g.reference_step + query * levels * g.reference_axes;
  find_pixels(g, places, reference, scratch.pixels);
  softmax(attention, g.samples, scratch.weights);
  return {scratch.pixels, scratch.weights};
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

template <bool in_pixels, typename A>
VMT_INLINE void forward_queries(const Geometry& g, const ForwardTensors<A>& t, const Item& item,
                                const A* slice, index_t stride, Scratch<A>& scratch) {
  const int channels = static_cast<int>(g.channels);
  const int padded = scratch.padded_channels;
  Chunk<A> chunk;
  for (index_t query = item.query_begin; query < item.query_end; ++query) {
    const index_t group = (item.batch * g.queries + query) * g.heads + item.head;
    const GroupInputs<A> inputs = open_group(g, t, item.batch, query, group, scratch);
    A* out = t.out + group * g.channels;
    A* sum = padded == channels ? out : scratch.row;
    // At least one round, which writes zeros where there are no samples.
    int first = 0;
    do {
      const int count = read_chunk<in_pixels>(g, first, inputs.places, inputs.attention, chunk);
      gather_channels(slice, stride, padded, count, chunk, first == 0, sum);
      first += kChunk;
    } while (first < g.samples);
    if (sum != out) {
      for (int c = 0; c < channels; ++c) out[c] = sum[c];
    }
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
  if (t.reference == nullptr) {
    forward_queries<false>(g, t, item, slice, stride, scratch);
  } else {
    forward_queries<true>(g, t, item, slice, stride, scratch);
  }
}

// Writes the gradients of the chunk's places and weights; the dots are there.
template <bool in_pixels, typename A>
VMT_INLINE void write_grads(const Geometry& g, const Chunk<A>& chunk, int first, int count,
                            A* VMT_RESTRICT grad_places, A* VMT_RESTRICT grad_attention) {
  for (index_t i = 0; i < count; ++i) {
    const A dot[4] = {chunk.in_map[0][i] * chunk.dot[4 * i],
                      chunk.in_map[1][i] * chunk.dot[4 * i + 1],
                      chunk.in_map[2][i] * chunk.dot[4 * i + 2],
                      chunk.in_map[3][i] * chunk.dot[4 * i + 3]};
    const SampleGrad<A> grad =
        sample_grad<A>(chunk.fraction_x[i], chunk.fraction_y[i], chunk.attention[i], dot);
    const A width = in_pixels ? 1 : static_cast<A>(g.sample_width[first + i]);
    const A height = in_pixels ? 1 : static_cast<A>(g.sample_height[first + i]);
    grad_attention[first + i] = grad.attention;
    grad_places[2 * (first + i)] = grad.x * width;
    grad_places[2 * (first + i) + 1] = grad.y * height;
  }
}

template <bool in_pixels, typename A>
VMT_INLINE void backward_queries(const Geometry& g, const BackwardTensors<A>& t, const Item& item,
                                 Scratch<A>& scratch) {
  const int channels = static_cast<int>(g.channels);
  const int padded = scratch.padded_channels;
  Chunk<A> chunk;
  for (index_t query = item.query_begin; query < item.query_end; ++query) {
    const index_t group = (item.batch * g.queries + query) * g.heads + item.head;
    const GroupInputs<A> inputs = open_group(g, t, item.batch, query, group, scratch);
    const A* grad_out = t.grad_out + group * g.channels;
    if (padded != channels) {
      for (int c = 0; c < channels; ++c) scratch.row[c] = grad_out[c];
      grad_out = scratch.row;
    }
    A* grad_places = t.grad_locations + group * 2 * g.samples;
    A* grad_attention = t.grad_attention + group * g.samples;
    for (int first = 0; first < g.samples; first += kChunk) {
      const int count = read_chunk<in_pixels>(g, first, inputs.places, inputs.attention, chunk);
      scatter_channels(scratch.slice, scratch.grad_slice, padded, padded, count, grad_out, chunk);
      write_grads<in_pixels>(g, chunk, first, count, grad_places, grad_attention);
    }
    if (in_pixels) {  // those of the weights become those of the logits
      A total = 0;
      for (int i = 0; i < g.samples; ++i) total += inputs.attention[i] * grad_attention[i];
      for (int i = 0; i < g.samples; ++i) {
        grad_attention[i] = inputs.attention[i] * (grad_attention[i] - total);
      }
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
  if (t.reference == nullptr) {
    backward_queries<false>(g, t, item, scratch);
  } else {
    backward_queries<true>(g, t, item, scratch);
  }
  copy_rows(scratch.grad_slice, padded, t.grad_value + origin, row, g.tokens, channels);
}

}  // namespace

// Defines the entry points of one instruction set under `name`.
#define VMT_DEFINE_KERNELS(name)                                                   \
  const KernelTable name = {forward_item<float>, forward_item<double>,             \
                            backward_item<float>, backward_item<double>,           \
                            VMT_VECTOR_BYTES}
