// The GPU kernels; NVRTC compiles this file once per value type, parameter type and head width.
//
// Macros from the caller: VMT_VALUE_TYPE and VMT_PARAM_TYPE (float, double, Half or BFloat16),
// VMT_HEAD_CHANNELS (D), VMT_INPUTS (GivenInputs or FusedInputs).
#include "gpu_kernel.h"

namespace {

typedef VMT_INPUTS<Accumulator<VMT_VALUE_TYPE>::type, VMT_PARAM_TYPE> ProgramInputs;

constexpr unsigned kWholeWarp = 0xffffffffu;

// Over the lanes of one group; every lane gets the result.
template <int lanes, typename A>
__device__ __forceinline__ A sum_over_group(A x) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(kWholeWarp, x, distance);
  }
  return x;
}
template <int lanes, typename A>
__device__ __forceinline__ A maximum_over_group(A x) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    x = larger(x, __shfl_xor_sync(kWholeWarp, x, distance));
  }
  return x;
}

template <typename Inputs, int lanes>
__device__ __forceinline__ Inputs open_inputs(const Problem& p, const Tile& tile, long long query,
                                              int lane) {
  Inputs inputs(p, tile.batch, query, tile.head);
  if constexpr (Inputs::has_softmax) {
    inputs.maximum = maximum_over_group<lanes>(inputs.partial_maximum(p, lane, lanes));
    inputs.inverse_sum = 1 / sum_over_group<lanes>(inputs.partial_sum(p, lane, lanes));
  }
  return inputs;
}

// Groups past the last query do what the last one does, and write nothing: all lanes of a warp come
// to every barrier and shuffle.
__device__ __forceinline__ long long inside_query(const Problem& p, long long query) {
  return query < p.queries ? query : p.queries - 1;
}

template <typename Kernel>
__device__ __forceinline__ void run_backward(const Problem& p, typename Kernel::Shared& shared) {
  typedef typename Kernel::Layout Layout;
  typedef typename Kernel::Inputs Inputs;
  typedef typename Kernel::A A;
  const int group = threadIdx.x / Layout::lanes, lane = threadIdx.x % Layout::lanes;
  const int samples = p.levels * p.points;
  const long long tiles = tile_count(p, Kernel::queries_per_tile);
  constexpr int rows = strip_rows(Kernel::queries_per_tile);
  for (long long index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile tile = make_tile(p, index, Kernel::queries_per_tile);
    const long long origin = head_origin(p, tile, VMT_HEAD_CHANNELS) + lane * Layout::vec;
    const VMT_VALUE_TYPE* values =
        whole_pointer(static_cast<const VMT_VALUE_TYPE*>(p.value) + origin);
    A* grad_values = whole_pointer(static_cast<A*>(p.grad_value) + origin);
    if constexpr (Kernel::rounds > 1) {
      __syncthreads();
      shared.sums.clear(threadIdx.x, blockDim.x);
      __syncthreads();
    }
    for (int round = 0; round < Kernel::rounds; ++round) {
      const long long asked = tile.first_query + round * Kernel::groups + group;
      const bool active = asked < p.queries;
      const long long query = ordered_query(p, inside_query(p, asked), rows);
      const Inputs inputs = open_inputs<Inputs, Layout::lanes>(p, tile, query, lane);
      A grad_out[Layout::steps][Layout::vec] = {};
      Kernel::load_grad(p, tile, query, active, lane, grad_out);
      A total = 0;
      for (int first = 0; first < samples; first += Layout::stage) {
        const int count = min(Layout::stage, samples - first);
        Kernel::stage(p, inputs, first, count, group, lane, shared);
        __syncwarp();
        for (int turn = 0; turn < count; turn += Layout::lanes) {
          SampleGrad<A> kept = {0, 0, 0};  // each lane keeps one sample's, so that all write at once
          for (int i = turn; i < min(turn + Layout::lanes, count); ++i) {
            SampleGrad<A> grad =
                Kernel::scatter(values, grad_values, i, group, lane, shared, grad_out);
            grad.attention = sum_over_group<Layout::lanes>(grad.attention);
            grad.x = sum_over_group<Layout::lanes>(grad.x);
            grad.y = sum_over_group<Layout::lanes>(grad.y);
            if (i - turn == lane) kept = grad;
          }
          if (active && turn + lane < count) {
            const A attention = shared.place.row[turn + lane][group].item[2];
            inputs.write(p, first + turn + lane, attention, kept);
            total += attention * kept.attention;
          }
        }
        __syncwarp();
      }
      if constexpr (Inputs::has_softmax) {
        total = sum_over_group<Layout::lanes>(total);
        if (active) {
          for (int i = lane; i < samples; i += Layout::lanes) inputs.settle(p, i, total);
        }
      }
    }
    if constexpr (Kernel::rounds > 1) {
      __syncthreads();
      Kernel::flush(p, grad_values, group, lane, shared);
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kForwardWarps * kWarpLanes)
    vmt_deform_attn_forward(const __grid_constant__ Problem p) {
  typedef Forward<VMT_VALUE_TYPE, VMT_HEAD_CHANNELS, ProgramInputs> Kernel;
  typedef Kernel::Layout Layout;
  __shared__ Kernel::Shared shared;
  const int group = threadIdx.x / Layout::lanes, lane = threadIdx.x % Layout::lanes;
  const int samples = p.levels * p.points;
  const long long tiles = tile_count(p, Kernel::queries_per_tile);
  constexpr int rows = strip_rows(Kernel::queries_per_tile);
  for (long long index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile tile = make_tile(p, index, Kernel::queries_per_tile);
    const long long asked = tile.first_query + group;
    const long long query = ordered_query(p, inside_query(p, asked), rows);
    const ProgramInputs inputs = open_inputs<ProgramInputs, Layout::lanes>(p, tile, query, lane);
    const VMT_VALUE_TYPE* values = Kernel::lane_values(p, tile, lane);
    Kernel::A sum[Layout::steps][Layout::vec] = {};
    for (int first = 0; first < samples; first += Layout::stage) {
      const int count = min(Layout::stage, samples - first);
      Kernel::stage(p, inputs, first, count, group, lane, shared);
      __syncwarp();
      Kernel::accumulate(values, count, group, lane, shared, sum);
      __syncwarp();
    }
    if (asked < p.queries) Kernel::finish(p, tile, query, lane, sum);
  }
}

extern "C" __global__ void __launch_bounds__(kBackwardWarps * kWarpLanes)
    vmt_deform_attn_backward(const __grid_constant__ Problem p) {
  typedef Backward<VMT_VALUE_TYPE, VMT_HEAD_CHANNELS, ProgramInputs, false> Kernel;
  __shared__ Kernel::Shared shared;
  run_backward<Kernel>(p, shared);
}

extern "C" __global__ void __launch_bounds__(kTiledWarps * kWarpLanes, 3)
    vmt_deform_attn_backward_tiled(const __grid_constant__ Problem p) {
  typedef TiledBackward<VMT_VALUE_TYPE, VMT_HEAD_CHANNELS, ProgramInputs> Kernel;
  __shared__ Kernel::Shared shared;
  run_backward<Kernel>(p, shared);
}
