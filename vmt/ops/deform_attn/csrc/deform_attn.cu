// The two GPU kernels; NVRTC compiles this file once per value type, parameter type and head width.
//
// Macros from the caller: VMT_VALUE_TYPE and VMT_PARAM_TYPE (float, double, Half or BFloat16),
// VMT_HEAD_CHANNELS (D), VMT_BLOCK_WARPS (warps of a block).
#include "gpu_kernel.h"

namespace {

constexpr unsigned kWholeWarp = 0xffffffffu;

// Sum over the lanes of one group; every lane gets it.
template <int lanes, typename A>
__device__ __forceinline__ A sum_over_group(A x) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(kWholeWarp, x, distance);
  }
  return x;
}

// The groups a warp serves, one after another; a warp past the last group still takes part in the
// barriers of its neighbours.
template <typename Layout>
struct Walk {
  long long groups, next, stride;
  int lane, slot;

  __device__ __forceinline__ explicit Walk(const Problem& p) {
    const int warp = threadIdx.x / kWarpLanes;
    groups = p.batch * p.queries * p.heads;
    next = (static_cast<long long>(blockIdx.x) * VMT_BLOCK_WARPS + warp) * Layout::groups;
    stride = static_cast<long long>(gridDim.x) * VMT_BLOCK_WARPS * Layout::groups;
    lane = threadIdx.x % Layout::lanes;
    slot = threadIdx.x % kWarpLanes / Layout::lanes;
  }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(VMT_BLOCK_WARPS * 32)
    vmt_deform_attn_forward(const __grid_constant__ Problem p) {
  typedef Forward<VMT_VALUE_TYPE, VMT_PARAM_TYPE, VMT_HEAD_CHANNELS> Kernel;
  typedef Kernel::Layout Layout;
  __shared__ Kernel::Staged shared[VMT_BLOCK_WARPS * Layout::groups][Layout::stage];
  const Walk<Layout> walk(p);
  Kernel::Staged* staged = shared[threadIdx.x / Layout::lanes];
  const int samples = p.levels * p.points;
  for (long long first_group = walk.next; first_group < walk.groups; first_group += walk.stride) {
    const bool active = first_group + walk.slot < walk.groups;
    const Group group = make_group(p, first_group + walk.slot, VMT_HEAD_CHANNELS);
    Kernel::A sum[Layout::steps][Layout::vec] = {};
    for (int first = 0; first < samples; first += Layout::stage) {
      const int count = min(Layout::stage, samples - first);
      if (active) Kernel::stage(p, group, first, count, walk.lane, staged);
      __syncwarp();
      if (active) Kernel::accumulate(p, group, count, walk.lane, staged, sum);
      __syncwarp();
    }
    if (active) Kernel::finish(p, group, walk.lane, sum);
  }
}

extern "C" __global__ void __launch_bounds__(VMT_BLOCK_WARPS * 32)
    vmt_deform_attn_backward(const __grid_constant__ Problem p) {
  typedef Backward<VMT_VALUE_TYPE, VMT_PARAM_TYPE, VMT_HEAD_CHANNELS> Kernel;
  typedef Kernel::Layout Layout;
  __shared__ Kernel::Staged shared[VMT_BLOCK_WARPS * Layout::groups][Layout::stage];
  const Walk<Layout> walk(p);
  Kernel::Staged* staged = shared[threadIdx.x / Layout::lanes];
  const int samples = p.levels * p.points;
  for (long long first_group = walk.next; first_group < walk.groups; first_group += walk.stride) {
    const bool active = first_group + walk.slot < walk.groups;
    const Group group = make_group(p, first_group + walk.slot, VMT_HEAD_CHANNELS);
    Kernel::A grad_out[Layout::steps][Layout::vec] = {};
    if (active) Kernel::load_grad(p, group, walk.lane, grad_out);
    for (int first = 0; first < samples; first += Layout::stage) {
      const int count = min(Layout::stage, samples - first);
      if (active) Kernel::stage(p, group, first, count, walk.lane, staged);
      __syncwarp();
      for (int i = 0; i < count; ++i) {
        SampleGrad<Kernel::A> grad = {0, 0, 0};
        if (active) grad = Kernel::scatter(p, group, walk.lane, staged[i], grad_out);
        grad.attention = sum_over_group<Layout::lanes>(grad.attention);
        grad.x = sum_over_group<Layout::lanes>(grad.x);
        grad.y = sum_over_group<Layout::lanes>(grad.y);
        // The lanes take turns, so that neighbouring stores come close together in time.
        if (active && walk.lane == i % Layout::lanes) Kernel::finish(p, group, first + i, grad);
      }
      __syncwarp();
    }
  }
}
