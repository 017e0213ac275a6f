// Runs the GPU kernels of csrc/gpu_kernel.h on the CPU, lane by lane, so that machines without a GPU
// can test their arithmetic. The loops mirror deform_attn.cu; barriers become the ends of loops.
//
// Macros: VMT_VALUE_TYPE, VMT_PARAM_TYPE, VMT_INPUTS as for deform_attn.cu; VMT_ALL_WIDTHS.
#include <vector>

#include "gpu_kernel.h"

namespace {

typedef VMT_VALUE_TYPE T;
typedef Accumulator<T>::type A;
typedef VMT_INPUTS<A, VMT_PARAM_TYPE> Inputs;

template <int lanes, typename Reader>
void find_softmax(const Problem& p, Reader& inputs) {
  if constexpr (Reader::has_softmax) {
    A maximum = inputs.partial_maximum(p, 0, lanes), sum = 0;
    for (int lane = 1; lane < lanes; ++lane) {
      maximum = larger(maximum, inputs.partial_maximum(p, lane, lanes));
    }
    inputs.maximum = maximum;
    for (int lane = 0; lane < lanes; ++lane) sum += inputs.partial_sum(p, lane, lanes);
    inputs.inverse_sum = 1 / sum;
  }
}

template <typename Kernel>
void run_forward(const Problem& p) {
  typedef typename Kernel::Layout Layout;
  struct Sums {
    A sum[Layout::steps][Layout::vec] = {};
  };
  const int samples = p.levels * p.points;
  std::vector<typename Kernel::Shared> shared(1);
  for (long long index = 0; index < tile_count(p, Kernel::queries_per_tile); ++index) {
    const Tile tile = make_tile(p, index, Kernel::queries_per_tile);
    for (int group = 0; group < Kernel::groups; ++group) {
      const long long query = tile.first_query + group;
      if (query >= p.queries) continue;
      typename Kernel::Inputs inputs(p, tile.batch, query, tile.head);
      find_softmax<Layout::lanes>(p, inputs);
      std::vector<Sums> lanes(Layout::lanes);
      for (int first = 0; first < samples; first += Layout::stage) {
        const int count = samples - first < Layout::stage ? samples - first : Layout::stage;
        for (int lane = 0; lane < Layout::lanes; ++lane) {
          Kernel::stage(p, inputs, first, count, group, lane, shared[0]);
        }
        for (int lane = 0; lane < Layout::lanes; ++lane) {
          Kernel::accumulate(Kernel::lane_values(p, tile, lane), count, group, lane, shared[0],
                             lanes[lane].sum);
        }
      }
      for (int lane = 0; lane < Layout::lanes; ++lane) {
        Kernel::finish(p, tile, query, lane, lanes[lane].sum);
      }
    }
  }
}

template <typename Kernel>
void run_group_backward(const Problem& p, const Tile& tile, long long query, int group,
                        const T* values, A* grad_values, typename Kernel::Shared& shared) {
  typedef typename Kernel::Layout Layout;
  struct Gradient {
    A of_out[Layout::steps][Layout::vec] = {};
  };
  const int samples = p.levels * p.points;
  typename Kernel::Inputs inputs(p, tile.batch, query, tile.head);
  find_softmax<Layout::lanes>(p, inputs);
  std::vector<Gradient> lanes(Layout::lanes);
  for (int lane = 0; lane < Layout::lanes; ++lane) {
    Kernel::load_grad(p, tile, query, true, lane, lanes[lane].of_out);
  }
  A total = 0;
  for (int first = 0; first < samples; first += Layout::stage) {
    const int count = samples - first < Layout::stage ? samples - first : Layout::stage;
    for (int lane = 0; lane < Layout::lanes; ++lane) {
      Kernel::stage(p, inputs, first, count, group, lane, shared);
    }
    for (int i = 0; i < count; ++i) {
      SampleGrad<A> grad = {0, 0, 0};
      for (int lane = 0; lane < Layout::lanes; ++lane) {
        const int shift = lane * Layout::vec;
        const SampleGrad<A> share = Kernel::scatter(values + shift, grad_values + shift, i, group,
                                                    lane, shared, lanes[lane].of_out);
        grad.attention += share.attention;
        grad.x += share.x;
        grad.y += share.y;
      }
      const A attention = shared.place.row[i][group].item[2];
      inputs.write(p, first + i, attention, grad);
      total += attention * grad.attention;
    }
  }
  if constexpr (Kernel::Inputs::has_softmax) {
    for (int i = 0; i < samples; ++i) inputs.settle(p, i, total);
  }
}

template <typename Kernel, int channels>
void run_backward(const Problem& p) {
  typedef typename Kernel::Layout Layout;
  std::vector<typename Kernel::Shared> shared(1);
  for (long long index = 0; index < tile_count(p, Kernel::queries_per_tile); ++index) {
    const Tile tile = make_tile(p, index, Kernel::queries_per_tile);
    const long long origin = head_origin(p, tile, channels);
    const T* values = static_cast<const T*>(p.value) + origin;
    A* grad_values = static_cast<A*>(p.grad_value) + origin;
    if constexpr (Kernel::rounds > 1) shared[0].sums.clear(0, 1);
    for (int turn = 0; turn < Kernel::queries_per_tile; ++turn) {
      const long long query = tile.first_query + turn;
      if (query >= p.queries) continue;
      run_group_backward<Kernel>(p, tile, query, turn % Kernel::groups, values, grad_values,
                                 shared[0]);
    }
    if constexpr (Kernel::rounds > 1) {
      for (int group = 0; group < Kernel::groups; ++group) {
        for (int lane = 0; lane < Layout::lanes; ++lane) {
          Kernel::flush(p, grad_values + lane * Layout::vec, group, lane, shared[0]);
        }
      }
    }
  }
}

enum Kernels { kForward = 0, kBackward = 1, kBackwardTiled = 2 };

// `problem` null: only asks how many queries a block takes.
template <int channels>
int run(const Problem* problem, int kernel) {
  typedef Forward<T, channels, Inputs> Onward;
  typedef Backward<T, channels, Inputs, false> Back;
  typedef TiledBackward<T, channels, Inputs> Tiled;
  switch (kernel) {
    case kForward:
      if (problem != nullptr) run_forward<Onward>(*problem);
      return Onward::queries_per_tile;
    case kBackward:
      if (problem != nullptr) run_backward<Back, channels>(*problem);
      return Back::queries_per_tile;
    default:
      if (Tiled::rounds == 1) return 0;
      if (problem != nullptr) run_backward<Tiled, channels>(*problem);
      return Tiled::queries_per_tile;
  }
}

}  // namespace

// Widths that between them meet every case of Spread: one lane, idle lanes, several steps.
// Returns the queries of a block; 0 where there is no such kernel, -1 where the width is not built.
extern "C" __attribute__((visibility("default"))) int vmt_emulate(const Problem* problem,
                                                                  int channels, int kernel) {
  switch (channels) {
    case 1: return run<1>(problem, kernel);
    case 32: return run<32>(problem, kernel);
    case 33: return run<33>(problem, kernel);
#if defined(VMT_ALL_WIDTHS)
    case 4: return run<4>(problem, kernel);
    case 6: return run<6>(problem, kernel);
    case 20: return run<20>(problem, kernel);
    case 160: return run<160>(problem, kernel);
#endif
    default: return -1;
  }
}
