// What a query asks for, read by the GPU kernels, and where the gradients of it go.
//
// Two ways: locations and weights as they are, or the raw outputs of two linear layers, with the
// reference point and the softmax put in here. A reader belongs to one (batch, query, head).
#pragma once

#include "bilinear.h"
#include "gpu_memory.h"

constexpr int kMaxLevels = 32;

// Argument of every kernel. vmt/ops/deform_attn/cuda.py holds the same layout for ctypes.
struct Problem {
  const void* value;      // (B, S, M, D)
  const void* locations;  // (B, Q, M, L, K, 2); fused: offsets, of the accumulator type
  const void* attention;  // (B, Q, M, L, K); fused: logits
  const void* reference;  // (B, Q, L, 2 or 4) of the accumulator type, fused only
  void* out;              // (B, Q, M, D), forward only
  const void* grad_out;   // (B, Q, M, D), this and the rest backward only
  void* grad_value;       // (B, S, M, D) of the accumulator type, zero on entry
  void* grad_locations;   // fused: of the places in pixels, of the accumulator type
  void* grad_attention;   // fused: of the logits, of the accumulator type
  long long batch, queries;
  long long reference_step;  // numbers from an image's reference points to the next one's; fused
  int tokens, heads, levels, points;
  int reference_axes;  // 2 or 4, fused only
  int height[kMaxLevels], width[kMaxLevels], start[kMaxLevels];
};

namespace {

VMT_INLINE long long group_index(const Problem& p, long long batch, long long query, int head) {
  return (batch * p.queries + query) * p.heads + head;
}

template <typename A, typename P>
struct GivenInputs {
  static constexpr bool has_softmax = false;
  const P* locations;
  const P* attention;
  long long first;  // of this group's samples

  VMT_INLINE GivenInputs(const Problem& p, long long batch, long long query, int head) {
    first = group_index(p, batch, query, head) * (p.levels * p.points);
    locations = static_cast<const P*>(p.locations) + 2 * first;
    attention = static_cast<const P*>(p.attention) + first;
  }

  VMT_INLINE Sample<A> read(const Problem& p, int index) const {
    const int level = index / p.points;
    const int height = p.height[level], width = p.width[level];
    A place[2], weight[1];
    load_channels<P, 2>(locations + 2 * index, place);
    load_channels<P, 1>(attention + index, weight);
    return make_sample<A>(pixel_of(place[0], width), pixel_of(place[1], height), weight[0], height,
                          width, p.start[level]);
  }

  VMT_INLINE void write(const Problem& p, int index, A /*attention*/,
                        const SampleGrad<A>& grad) const {
    const int level = index / p.points;
    const A place[2] = {grad.x * static_cast<A>(p.width[level]),
                        grad.y * static_cast<A>(p.height[level])};
    const A weight[1] = {grad.attention};
    store_channels<P, 2>(static_cast<P*>(p.grad_locations) + 2 * (first + index), place);
    store_channels<P, 1>(static_cast<P*>(p.grad_attention) + first + index, weight);
  }
};

// Offsets in cells of their level around a point, or in box sides / (2 K) around a box's centre.
template <typename A, typename P>
struct FusedInputs {
  static constexpr bool has_softmax = true;
  const A* offsets;
  const P* logits;
  const A* reference;
  long long first;
  A maximum = 0, inverse_sum = 0;  // of the softmax; the lanes of a group find them together

  VMT_INLINE FusedInputs(const Problem& p, long long batch, long long query, int head) {
    first = group_index(p, batch, query, head) * (p.levels * p.points);
    offsets = static_cast<const A*>(p.locations) + 2 * first;
    logits = static_cast<const P*>(p.attention) + first;
    reference = static_cast<const A*>(p.reference) + batch * p.reference_step +
                query * (p.levels * p.reference_axes);
  }

  VMT_INLINE A logit(int index) const {
    A x[1];
    load_channels<P, 1>(logits + index, x);
    return x[0];
  }

  // Of the samples lane, lane + lanes, ...
  VMT_INLINE A partial_maximum(const Problem& p, int lane, int lanes) const {
    A most = static_cast<A>(float_of_bits(0xff800000u));
    for (int i = lane; i < p.levels * p.points; i += lanes) most = larger(most, logit(i));
    return most;
  }
  VMT_INLINE A partial_sum(const Problem& p, int lane, int lanes) const {
    A sum = 0;
    for (int i = lane; i < p.levels * p.points; i += lanes) sum += exponential(logit(i) - maximum);
    return sum;
  }

  VMT_INLINE A weight(int index) const { return exponential(logit(index) - maximum) * inverse_sum; }

  VMT_INLINE Sample<A> read(const Problem& p, int index) const {
    const int level = index / p.points;
    const int height = p.height[level], width = p.width[level];
    A offset[2], centre[2];
    load_channels<A, 2>(offsets + 2 * index, offset);
    load_channels<A, 2>(reference + level * p.reference_axes, centre);
    A x, y;
    if (p.reference_axes == 2) {  // the size that an offset is divided by falls out
      x = pixel_of(centre[0], width) + offset[0];
      y = pixel_of(centre[1], height) + offset[1];
    } else {
      A sides[2];
      load_channels<A, 2>(reference + level * p.reference_axes + 2, sides);
      const A unit = static_cast<A>(0.5) / static_cast<A>(p.points);
      x = pixel_of(centre[0] + offset[0] * (sides[0] * unit), width);
      y = pixel_of(centre[1] + offset[1] * (sides[1] * unit), height);
    }
    return make_sample<A>(x, y, weight(index), height, width, p.start[level]);
  }

  // The logit's gradient needs the sum over all samples: `settle` subtracts it afterwards.
  VMT_INLINE void write(const Problem& p, int index, A attention, const SampleGrad<A>& grad) const {
    const A place[2] = {grad.x, grad.y};
    store_channels<A, 2>(static_cast<A*>(p.grad_locations) + 2 * (first + index), place);
    static_cast<A*>(p.grad_attention)[first + index] = attention * grad.attention;
  }

  // By the lane that wrote this sample.
  VMT_INLINE void settle(const Problem& p, int index, A total) const {
    static_cast<A*>(p.grad_attention)[first + index] -= weight(index) * total;
  }
};

}  // namespace
