// What the threaded driver (cpu_api.cpp) and the kernels of each instruction set agree on.
#pragma once

#include "bilinear.h"

#if !defined(VMT_RESTRICT)
#define VMT_RESTRICT __restrict__
#endif

namespace vmt {

// Sizes of one call: B batch, S tokens, M heads, D channels per head, Q queries, L * K samples.
struct Geometry {
  long long batch, tokens, heads, channels, queries;
  int samples;  // L * K
  const int* sample_height;  // (samples,): the level of each sample, spelled out
  const int* sample_width;
  const int* sample_start;
  int points;               // K
  int reference_axes;       // 2 or 4: the places are offsets from reference points; 0: locations
  long long reference_step;  // numbers from an image's reference points to the next one's
};

template <typename A>
struct ForwardTensors {
  const A* value;      // (B, S, M, D)
  const A* locations;  // (B, Q, M, L, K, 2); or offsets
  const A* attention;  // (B, Q, M, L, K); or logits
  const A* reference;  // (B, Q, L, reference_axes), or null
  A* out;              // (B, Q, M, D)
};

template <typename A>
struct BackwardTensors {
  const A* grad_out;  // (B, Q, M, D)
  const A* value;
  const A* locations;
  const A* attention;
  const A* reference;
  A* grad_value;
  A* grad_locations;  // with reference points: of the places in pixels
  A* grad_attention;  // with reference points: of the logits
};

// A piece of work for one thread. Backward items span all queries, so that one thread adds up one
// head's grad_value in the order of the queries: the result does not depend on the thread count.
struct Item {
  long long batch, head, query_begin, query_end;
};

// Memory of one thread. `slice` is null when rows are read in place.
template <typename A>
struct Scratch {
  A* slice;       // (S, padded_channels), the padding zero
  A* grad_slice;  // the same, backward only
  A* row;         // (padded_channels,), the padding zero
  A* pixels;      // (samples, 2), of one group, with reference points only
  A* weights;     // (samples,) and as many more as a vector has lanes; the same
  int padded_channels;
  long long packed_batch, packed_head;  // what `slice` holds; -1 for nothing
};

struct KernelTable {
  void (*forward_float)(const Geometry&, const ForwardTensors<float>&, const Item&,
                        Scratch<float>&);
  void (*forward_double)(const Geometry&, const ForwardTensors<double>&, const Item&,
                         Scratch<double>&);
  void (*backward_float)(const Geometry&, const BackwardTensors<float>&, const Item&,
                         Scratch<float>&);
  void (*backward_double)(const Geometry&, const BackwardTensors<double>&, const Item&,
                          Scratch<double>&);
  int vector_bytes;
};

extern const KernelTable kBaselineKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
#endif

}  // namespace vmt
