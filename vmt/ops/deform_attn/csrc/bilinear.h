// The arithmetic of one bilinear sample, shared by the CPU library (g++) and the GPU kernels (NVRTC).
//
// A place is (x, y) in pixels of a level of height x width cells; the centre of cell i lies at i, so
// a location in [0, 1] lies at pixel = location * size - 0.5. Outside the map every cell reads zero.
// A sample whose four taps all lie outside, or whose place is NaN or infinite, is skipped: it reads
// zero, whatever its attention weight, and gets zero gradient.
#pragma once

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#define VMT_INLINE __device__ __forceinline__
#elif defined(__GNUC__)
#define VMT_INLINE inline __attribute__((always_inline))
#else
#define VMT_INLINE inline
#endif

namespace {  // internal linkage: a function built for AVX-512 must not replace the baseline one

typedef long long index_t;  // 64 bits: B * S * M * D may pass 2^31

template <typename A>
VMT_INLINE A pixel_of(A location, int size) {
  return location * static_cast<A>(size) - static_cast<A>(0.5);
}

// The two cells one axis reads; everything is zero for a skipped axis.
template <typename A>
struct AxisTaps {
  int cell0, cell1;  // clamped into [0, size): always safe to read
  A fraction;        // weight of cell1; 1 - fraction is that of cell0
  A in_map0, in_map1;  // 1 where the cell is in the map, else 0
  bool inside;       // at least one of both cells is in the map, and the place is finite
};

template <typename A>
VMT_INLINE AxisTaps<A> axis_taps(A pixel, int size) {
  // Both comparisons are false for NaN. Only numbers in (-1, size) reach the integer conversion.
  const bool inside = (pixel > static_cast<A>(-1)) & (pixel < static_cast<A>(size));
  const A safe = inside ? pixel : static_cast<A>(0);
  const int truncated = static_cast<int>(safe);
  const int cell = truncated - (safe < static_cast<A>(truncated) ? 1 : 0);  // floor
  AxisTaps<A> taps;
  taps.cell0 = cell >= 0 ? cell : 0;
  taps.cell1 = cell + 1 < size ? cell + 1 : size - 1;
  taps.fraction = safe - static_cast<A>(cell);
  // Factors of 0 and 1 in place of conditions: the CPU compiler then vectorises over samples.
  taps.in_map0 = static_cast<A>(inside & (cell >= 0));
  taps.in_map1 = static_cast<A>(inside & (cell + 1 < size));
  taps.inside = inside;
  return taps;
}

// One sample of one head: four cells, at rows y0, y1 by columns x0, x1, and how they are weighed.
template <typename A>
struct Sample {
  int token[4];  // y0x0, y0x1, y1x0, y1x1 on the token axis of all levels
  A in_map[4];   // 1 where the cell is in the map, else 0
  A fraction_x, fraction_y;
  A attention;  // zero for a skipped sample
  bool inside;
};

template <typename A>
VMT_INLINE Sample<A> make_sample(A pixel_x, A pixel_y, A attention, int height, int width,
                                 int level_start) {
  const AxisTaps<A> column = axis_taps<A>(pixel_x, width);
  const AxisTaps<A> row = axis_taps<A>(pixel_y, height);
  const bool inside = column.inside & row.inside;
  const int row0 = level_start + row.cell0 * width;
  const int row1 = level_start + row.cell1 * width;
  Sample<A> sample;
  sample.token[0] = row0 + column.cell0;
  sample.token[1] = row0 + column.cell1;
  sample.token[2] = row1 + column.cell0;
  sample.token[3] = row1 + column.cell1;
  sample.in_map[0] = row.in_map0 * column.in_map0;
  sample.in_map[1] = row.in_map0 * column.in_map1;
  sample.in_map[2] = row.in_map1 * column.in_map0;
  sample.in_map[3] = row.in_map1 * column.in_map1;
  sample.fraction_x = column.fraction;
  sample.fraction_y = row.fraction;
  sample.attention = inside ? attention : static_cast<A>(0);
  sample.inside = inside;
  return sample;
}

// What a sample's four cells are multiplied with: attention included, zero outside the map.
template <typename A>
VMT_INLINE void tap_weights(const Sample<A>& s, A (&weight)[4]) {
  const A lower = s.attention * s.fraction_y, upper = s.attention - lower;
  weight[0] = s.in_map[0] * (upper - upper * s.fraction_x);
  weight[1] = s.in_map[1] * (upper * s.fraction_x);
  weight[2] = s.in_map[2] * (lower - lower * s.fraction_x);
  weight[3] = s.in_map[3] * (lower * s.fraction_x);
}

// Gradients of one sample, given dot[t] = sum over channels of grad_output * value[token[t]], zero
// where that cell is outside the map.
// Linear in dot, so partial sums over some of the channels may be added up afterwards. x and y are
// per pixel; a location gets size times as much.
template <typename A>
struct SampleGrad {
  A attention, x, y;
};

template <typename A>
VMT_INLINE SampleGrad<A> sample_grad(A fraction_x, A fraction_y, A attention, const A (&dot)[4]) {
  const A row0 = dot[0] + fraction_x * (dot[1] - dot[0]);
  const A row1 = dot[2] + fraction_x * (dot[3] - dot[2]);
  const A across0 = dot[1] - dot[0], across1 = dot[3] - dot[2];
  SampleGrad<A> grad;
  grad.attention = row0 + fraction_y * (row1 - row0);
  grad.x = attention * (across0 + fraction_y * (across1 - across0));
  grad.y = attention * (row1 - row0);
  return grad;
}

}  // namespace
