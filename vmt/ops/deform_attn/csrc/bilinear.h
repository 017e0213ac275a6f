// The arithmetic of one bilinear sample, shared by the CPU library (g++) and the GPU kernels (NVRTC).
//
// A location is (x, y) in [0, 1] of a level of height x width cells; the centre of cell i lies at
// (i + 0.5) / size, so pixel = location * size - 0.5. Outside the map every cell reads zero. A
// sample whose four taps all lie outside, or whose location is NaN or infinite, is skipped: it
// reads zero, whatever its attention weight, and gets zero gradient.
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

// The two cells one axis reads and how they are weighed; everything is zero for a skipped axis.
template <typename A>
struct AxisTaps {
  int cell0, cell1;     // clamped into [0, size): always safe to read
  A weight0, weight1;   // zero where the cell is outside the map
  A slope0, slope1;     // d weight / d location: -size, +size, or zero where the cell is outside
  bool inside;          // at least one of both cells is in the map, and the location is finite
};

template <typename A>
VMT_INLINE AxisTaps<A> axis_taps(A location, int size) {
  const A extent = static_cast<A>(size);
  const A pixel = location * extent - static_cast<A>(0.5);
  // Both comparisons are false for NaN. Only numbers in (-1, size) reach the integer conversion.
  const bool inside = (pixel > static_cast<A>(-1)) & (pixel < extent);
  const A safe = inside ? pixel : static_cast<A>(0);
  const int truncated = static_cast<int>(safe);
  const int cell = truncated - (safe < static_cast<A>(truncated) ? 1 : 0);  // floor
  const A fraction = safe - static_cast<A>(cell);
  // Factors of 0 and 1 in place of conditions: the CPU compiler then vectorises over samples.
  const A low = static_cast<A>(inside & (cell >= 0));
  const A high = static_cast<A>(inside & (cell + 1 < size));
  AxisTaps<A> taps;
  taps.cell0 = cell >= 0 ? cell : 0;
  taps.cell1 = cell + 1 < size ? cell + 1 : size - 1;
  taps.weight0 = low * (static_cast<A>(1) - fraction);
  taps.weight1 = high * fraction;
  taps.slope0 = -low * extent;
  taps.slope1 = high * extent;
  taps.inside = inside;
  return taps;
}

// One sample of one head: four tokens (rows y0, y1 by columns x0, x1) and their weights.
template <typename A>
struct Sample {
  int token[4];  // y0x0, y0x1, y1x0, y1x1 on the token axis of all levels
  A weight_x[2], weight_y[2];
  A slope_x[2], slope_y[2];
  A attention;  // zero for a skipped sample
  bool inside;
};

template <typename A>
VMT_INLINE Sample<A> make_sample(A x, A y, A attention, int height, int width, int level_start) {
  const AxisTaps<A> column = axis_taps<A>(x, width);
  const AxisTaps<A> row = axis_taps<A>(y, height);
  const bool inside = column.inside & row.inside;
  const int row0 = level_start + row.cell0 * width;
  const int row1 = level_start + row.cell1 * width;
  Sample<A> sample;
  sample.token[0] = row0 + column.cell0;
  sample.token[1] = row0 + column.cell1;
  sample.token[2] = row1 + column.cell0;
  sample.token[3] = row1 + column.cell1;
  sample.weight_x[0] = column.weight0;
  sample.weight_x[1] = column.weight1;
  sample.weight_y[0] = row.weight0;
  sample.weight_y[1] = row.weight1;
  sample.slope_x[0] = column.slope0;
  sample.slope_x[1] = column.slope1;
  sample.slope_y[0] = row.slope0;
  sample.slope_y[1] = row.slope1;
  sample.attention = inside ? attention : static_cast<A>(0);
  sample.inside = inside;
  return sample;
}

// Gradients of one sample, given dot[t] = sum over channels of grad_output * value[token[t]].
// Linear in dot, so partial sums over some of the channels may be added up afterwards.
template <typename A>
struct SampleGrad {
  A attention, x, y;
};

template <typename A>
VMT_INLINE SampleGrad<A> sample_grad(A weight_x0, A weight_x1, A weight_y0, A weight_y1, A slope_x0,
                                     A slope_x1, A slope_y0, A slope_y1, A attention, A dot0,
                                     A dot1, A dot2, A dot3) {
  const A row0 = weight_x0 * dot0 + weight_x1 * dot1;
  const A row1 = weight_x0 * dot2 + weight_x1 * dot3;
  const A across0 = slope_x0 * dot0 + slope_x1 * dot1;
  const A across1 = slope_x0 * dot2 + slope_x1 * dot3;
  SampleGrad<A> grad;
  grad.attention = weight_y0 * row0 + weight_y1 * row1;
  grad.x = attention * (weight_y0 * across0 + weight_y1 * across1);
  grad.y = attention * (slope_y0 * row0 + slope_y1 * row1);
  return grad;
}

}  // namespace
