// Runs the GPU kernels of gpu_kernel.h on the CPU, lane by lane, so that machines without a GPU can
// test their arithmetic. The loops mirror deform_attn.cu; barriers become the ends of lane loops.
#include <vector>

#include "gpu_kernel.h"

namespace {

enum Status { kOk = 0, kNotInstantiated = -1 };
enum Types { kFloat = 0, kDouble = 1, kBFloat16WithFloat = 2, kBFloat16 = 3 };

template <typename Layout, typename Work>
void for_each_group(const Problem& p, int channels, Work work) {
  const long long groups = p.batch * p.queries * p.heads;
  for (long long index = 0; index < groups; ++index) work(make_group(p, index, channels));
}

template <typename T, typename P, int channels>
void emulate_forward(const Problem& p) {
  typedef Forward<T, P, channels> Kernel;
  typedef typename Kernel::Layout Layout;
  struct LaneState {
    typename Kernel::A sum[Layout::steps][Layout::vec] = {};
  };
  typename Kernel::Staged staged[Layout::stage];
  const int samples = p.levels * p.points;
  for_each_group<Layout>(p, channels, [&](const Group& group) {
    std::vector<LaneState> lanes(Layout::lanes);
    for (int first = 0; first < samples; first += Layout::stage) {
      const int count = samples - first < Layout::stage ? samples - first : Layout::stage;
      for (int lane = 0; lane < Layout::lanes; ++lane) {
        Kernel::stage(p, group, first, count, lane, staged);
      }
      for (int lane = 0; lane < Layout::lanes; ++lane) {
        Kernel::accumulate(p, group, count, lane, staged, lanes[lane].sum);
      }
    }
    for (int lane = 0; lane < Layout::lanes; ++lane) {
      Kernel::finish(p, group, lane, lanes[lane].sum);
    }
  });
}

template <typename T, typename P, int channels>
void emulate_backward(const Problem& p) {
  typedef Backward<T, P, channels> Kernel;
  typedef typename Kernel::Layout Layout;
  typedef typename Kernel::A A;
  struct LaneState {
    A grad_out[Layout::steps][Layout::vec] = {};
  };
  typename Kernel::Staged staged[Layout::stage];
  const int samples = p.levels * p.points;
  for_each_group<Layout>(p, channels, [&](const Group& group) {
    std::vector<LaneState> lanes(Layout::lanes);
    for (int lane = 0; lane < Layout::lanes; ++lane) {
      Kernel::load_grad(p, group, lane, lanes[lane].grad_out);
    }
    for (int first = 0; first < samples; first += Layout::stage) {
      const int count = samples - first < Layout::stage ? samples - first : Layout::stage;
      for (int lane = 0; lane < Layout::lanes; ++lane) {
        Kernel::stage(p, group, first, count, lane, staged);
      }
      for (int i = 0; i < count; ++i) {
        SampleGrad<A> grad = {0, 0, 0};
        for (int lane = 0; lane < Layout::lanes; ++lane) {
          const SampleGrad<A> share =
              Kernel::scatter(p, group, lane, staged[i], lanes[lane].grad_out);
          grad.attention += share.attention;
          grad.x += share.x;
          grad.y += share.y;
        }
        Kernel::finish(p, group, first + i, grad);
      }
    }
  });
}

struct RunKernel {
  const Problem& problem;
  bool is_backward;

  template <typename T, typename P, int channels>
  int call() const {
    if (is_backward) {
      emulate_backward<T, P, channels>(problem);
    } else {
      emulate_forward<T, P, channels>(problem);
    }
    return kOk;
  }
};

struct CountGroups {
  bool is_backward;

  template <typename T, typename P, int channels>
  int call() const {
    return is_backward ? Backward<T, P, channels>::Layout::groups
                       : Forward<T, P, channels>::Layout::groups;
  }
};

// Widths that between them meet every case of Spread: one lane, idle lanes, several steps.
template <typename T, typename P, typename Action>
int with_width(int channels, const Action& action) {
  switch (channels) {
    case 1: return action.template call<T, P, 1>();
    case 4: return action.template call<T, P, 4>();
    case 6: return action.template call<T, P, 6>();
    case 32: return action.template call<T, P, 32>();
    case 33: return action.template call<T, P, 33>();
    case 160: return action.template call<T, P, 160>();
    default: return kNotInstantiated;
  }
}

template <typename Action>
int with_types(int types, int channels, const Action& action) {
  switch (types) {
    case kFloat: return with_width<float, float>(channels, action);
    case kDouble: return with_width<double, double>(channels, action);
    case kBFloat16WithFloat: return with_width<BFloat16, float>(channels, action);
    case kBFloat16: return with_width<BFloat16, BFloat16>(channels, action);
    default: return kNotInstantiated;
  }
}

}  // namespace

#define VMT_EXPORT extern "C" __attribute__((visibility("default")))

// types: 0 float, 1 double, 2 bfloat16 values with float parameters, 3 bfloat16.
// Returns 0, or -1 where this combination is not compiled in.
VMT_EXPORT int vmt_deform_attn_emulate(const Problem* problem, int types, int channels,
                                       int is_backward) {
  return with_types(types, channels, RunKernel{*problem, is_backward != 0});
}

// How many (batch, query, head) one warp serves; the launch code in Python counts the same.
VMT_EXPORT int vmt_deform_attn_groups_per_warp(int types, int channels, int is_backward) {
  return with_types(types, channels, CountGroups{is_backward != 0});
}
