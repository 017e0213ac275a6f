// The GPU kernels, thread by thread. NVRTC compiles them for the GPU (deform_attn.cu); g++ compiles
// the same code for a test that walks over blocks, groups and lanes on the CPU.
//
// One *group* of lanes serves one (batch, query, head). A block serves a *tile*: one head and
// neighbouring queries, which read the same cells, so that they come out of the cache. Per chunk of
// samples the lanes of a group first stage the samples in shared memory, one sample per lane, so
// that the arithmetic of a place is done once and not once per lane; then every lane walks over the
// staged samples and handles its own `vec` neighbouring channels.
#pragma once

#include "gpu_inputs.h"

constexpr int kOutside = static_cast<int>(0x80000000u);  // sign bit of an offset
constexpr int kForwardWarps = 4;                         // of a block
constexpr int kBackwardWarps = 4;
constexpr int kTiledWarps = 8;
constexpr int kTiledRounds = 4;  // of queries per block: more of them share its sums
// Static shared memory may have 48 KiB, less what the toolkit takes for itself.
constexpr int kSharedBytes = 46 * 1024;
constexpr int kTiledChannels = 64;  // wider sums are too few to be worth it
constexpr int kLeastRows = 64;

namespace {

// How D channels spread over the lanes of a group, at most `max_vec` of them per load.
template <typename T, int channels, int max_vec>
struct Spread {
  static VMT_INLINE constexpr int largest_vec(int limit) {
    int vec = 1;
    while (2 * vec <= limit && channels % (2 * vec) == 0) vec *= 2;
    return vec;
  }
  static VMT_INLINE constexpr int lanes_for(int packs) {
    int lanes = 1;
    while (lanes < packs && lanes < kWarpLanes) lanes *= 2;
    return lanes;
  }
  static constexpr int widest = kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr int vec = largest_vec(widest < max_vec ? widest : max_vec);
  static constexpr int packs = channels / vec;
  static constexpr int lanes = lanes_for(packs);             // per group, a power of two
  static constexpr int steps = (packs + lanes - 1) / lanes;  // packs per lane
  static constexpr int groups = kWarpLanes / lanes;          // per warp
  // Samples staged at once: a multiple of the lanes, which stage one each.
  static constexpr int stage = lanes >= 16 ? lanes : (lanes >= 2 ? 2 * lanes : 4);
};

// Rows of staged samples. The groups of a warp read one row at a time, next to each other, and its
// lanes write several: what pads a row spreads these over the banks of shared memory.
template <typename Item, typename Layout, int warps>
struct Staged {
  static constexpr int pad = Layout::lanes >= 8 ? 1 : 8 / Layout::lanes;
  Item row[Layout::stage][warps * Layout::groups + pad];
};

template <typename A>
struct alignas(4 * sizeof(A)) Four {
  A item[4];
};

// Quotient of non-negative numbers; GPUs divide 64 bits several times slower than 32.
VMT_INLINE long long divide(long long x, long long y) {
  if (((x | y) >> 32) == 0) return static_cast<unsigned>(x) / static_cast<unsigned>(y);
  return x / y;
}

// One head of one image, and queries from `first_query` on.
struct Tile {
  long long batch, first_query;
  int head;
};

VMT_INLINE long long tile_count(const Problem& p, int queries_per_tile) {
  return p.batch * p.heads * divide(p.queries + queries_per_tile - 1, queries_per_tile);
}

VMT_INLINE Tile make_tile(const Problem& p, long long index, int queries_per_tile) {
  const long long per_head = divide(p.queries + queries_per_tile - 1, queries_per_tile);
  const long long slice = divide(index, per_head);
  Tile tile;
  tile.batch = divide(slice, p.heads);
  tile.head = static_cast<int>(slice - tile.batch * p.heads);
  tile.first_query = (index - slice * per_head) * queries_per_tile;
  return tile;
}

// Rows of a strip in which the queries of a tile lie, see `ordered_query`.
VMT_INLINE constexpr int strip_rows(int queries_per_tile) { return queries_per_tile >= 64 ? 8 : 4; }

// Which query comes as `number`th. Those of an encoder are the cells of the levels, and a tile should
// be about a square of them, which reads fewer cells than a row: they come strip by strip of `rows`
// rows, column by column. Others come as they are.
VMT_INLINE long long ordered_query(const Problem& p, long long number, int rows) {
  if (p.queries != p.tokens) return number;
  int level = 0;
  while (level + 1 < p.levels && number >= p.start[level + 1]) ++level;
  const int width = p.width[level];
  const int cell = static_cast<int>(number) - p.start[level];
  const int first_row = cell / (rows * width) * rows;
  const int left = p.height[level] - first_row;
  const int tall = left < rows ? left : rows;
  const int inside = cell - first_row * width;
  const int column = inside / tall;
  return p.start[level] + (first_row + inside - column * tall) * width + column;
}

// Of value[b, 0, m, 0]; offsets from there fit into 32 bits.
VMT_INLINE long long head_origin(const Problem& p, const Tile& tile, int channels) {
  return (tile.batch * p.tokens * p.heads + tile.head) * channels;
}

template <typename T, int channels, typename InputReader>
struct Forward {
  typedef typename Accumulator<T>::type A;
  typedef InputReader Inputs;
  typedef Spread<T, channels, kVectorBytes> Layout;
  static constexpr int warps = kForwardWarps;
  static constexpr int groups = warps * Layout::groups;
  static constexpr int queries_per_tile = groups;

  // Four cells, as offsets from the head's origin, and weights; offset[0] < 0: a skipped sample.
  struct Shared {
    Staged<Four<int>, Layout, warps> offset;
    Staged<Four<A>, Layout, warps> weight;
  };

  // Stages samples first + lane, first + lane + lanes, ... below first + count.
  static VMT_INLINE void stage(const Problem& p, const Inputs& inputs, int first, int count,
                               int group, int lane, Shared& shared) {
    const int row = p.heads * channels;
    for (int i = lane; i < count; i += Layout::lanes) {
      const Sample<A> s = inputs.read(p, first + i);
      Four<int> offset;
      Four<A> weight;
      tap_weights(s, weight.item);
      VMT_UNROLL
      for (int tap = 0; tap < 4; ++tap) offset.item[tap] = s.token[tap] * row;
      if (!s.inside) offset.item[0] = -1;
      shared.offset.row[i][group] = offset;
      shared.weight.row[i][group] = weight;
    }
  }

  static VMT_INLINE const T* lane_values(const Problem& p, const Tile& tile, int lane) {
    return whole_pointer(static_cast<const T*>(p.value) + head_origin(p, tile, channels) +
                         lane * Layout::vec);
  }

  static VMT_INLINE void accumulate(const T* values, int count, int group, int lane,
                                    const Shared& shared, A (&sum)[Layout::steps][Layout::vec]) {
    for (int i = 0; i < count; ++i) {
      const Four<int> offset = shared.offset.row[i][group];
      if (offset.item[0] < 0) continue;
      const Four<A> weight = shared.weight.row[i][group];
      VMT_UNROLL
      for (int step = 0; step < Layout::steps; ++step) {
        const int shift = step * Layout::lanes * Layout::vec;
        if (lane * Layout::vec + shift >= channels) continue;
        A cell[4][Layout::vec];
        VMT_UNROLL
        for (int tap = 0; tap < 4; ++tap) {
          load_channels<T, Layout::vec>(values + offset.item[tap] + shift, cell[tap]);
        }
        VMT_UNROLL
        for (int tap = 0; tap < 4; ++tap) {
          VMT_UNROLL
          for (int v = 0; v < Layout::vec; ++v) sum[step][v] += weight.item[tap] * cell[tap][v];
        }
      }
    }
  }

  static VMT_INLINE void finish(const Problem& p, const Tile& tile, long long query, int lane,
                                const A (&sum)[Layout::steps][Layout::vec]) {
    T* out = static_cast<T*>(p.out) + group_index(p, tile.batch, query, tile.head) * channels;
    VMT_UNROLL
    for (int step = 0; step < Layout::steps; ++step) {
      const int channel = (step * Layout::lanes + lane) * Layout::vec;
      if (channel < channels) store_channels<T, Layout::vec>(out + channel, sum[step]);
    }
  }
};

// Sums of gradients of single tokens in shared memory, so that a block adds each to global memory
// once and not once per sample. A token has one place; the first to come keeps it.
template <typename A, int channels, typename Layout, int bytes>
struct SharedSums {
  // The lanes of a group add to neighbouring banks; rows begin at different ones.
  static constexpr int stride = (Layout::steps * Layout::vec + 1) * Layout::lanes;
  static constexpr bool enabled = sizeof(A) == sizeof(float) && channels <= kTiledChannels;
  static constexpr int fit = bytes / (stride * static_cast<int>(sizeof(A)) + 4);
  static constexpr int rows = enabled ? fit : 1;
  static_assert(!enabled || rows >= kLeastRows, "too little shared memory");
  A sum[rows][stride];
  int token[rows];  // -1: free

  // Of a lane's `number`th channel.
  static VMT_INLINE int column(int number, int lane) { return number * Layout::lanes + lane; }

  VMT_INLINE void clear(int thread, int threads) {
    for (int i = thread; i < rows * stride; i += threads) (&sum[0][0])[i] = 0;
    for (int i = thread; i < rows; i += threads) token[i] = -1;
  }
  // The token's row, or -1 where another one has it.
  VMT_INLINE short claim(int wanted) {
    const int row = wanted % rows;
    const int owner = claim_shared(&token[row], -1, wanted);
    return static_cast<short>(owner == -1 || owner == wanted ? row : -1);
  }
};

template <typename T, int channels, typename InputReader, bool is_tiled>
struct Backward {
  typedef typename Accumulator<T>::type A;
  typedef InputReader Inputs;
  // Sums go to memory in the accumulator type: four floats fill the widest store.
  typedef Spread<T, channels, kVectorBytes / sizeof(A)> Layout;
  static constexpr int warps = is_tiled ? kTiledWarps : kBackwardWarps;
  static constexpr int groups = warps * Layout::groups;
  static constexpr int rounds = is_tiled ? kTiledRounds : 1;
  static constexpr int queries_per_tile = groups * rounds;

  struct alignas(8) Rows {
    short item[4];
  };
  // Offsets from the head's origin; where the cell is outside the map, that of the nearest one in
  // it, and the sign bit.
  struct Samples {
    Staged<Four<int>, Layout, warps> offset;
    Staged<Four<A>, Layout, warps> place;  // fraction x, fraction y, attention, nothing
  };
  typedef Staged<Rows, Layout, warps> StagedRows;
  static constexpr int staged_bytes = static_cast<int>(sizeof(Samples) + sizeof(StagedRows));
  typedef SharedSums<A, channels, Layout, kSharedBytes - staged_bytes> Sums;
  struct SamplesAndRows : Samples {
    StagedRows row;
    Sums sums;
  };
  template <bool tiled, typename Unused>
  struct Choose {
    typedef Samples type;
  };
  template <typename Unused>
  struct Choose<true, Unused> {
    typedef SamplesAndRows type;
  };
  typedef typename Choose<is_tiled, void>::type Shared;

  static VMT_INLINE void stage(const Problem& p, const Inputs& inputs, int first, int count,
                               int group, int lane, Shared& shared) {
    const int row = p.heads * channels;
    for (int i = lane; i < count; i += Layout::lanes) {
      const Sample<A> s = inputs.read(p, first + i);
      Four<int> offset;
      VMT_UNROLL
      for (int tap = 0; tap < 4; ++tap) {
        const int in_map = s.token[tap] * row;
        offset.item[tap] = s.in_map[tap] != 0 ? in_map : in_map | kOutside;
      }
      shared.offset.row[i][group] = offset;
      shared.place.row[i][group] = Four<A>{{s.fraction_x, s.fraction_y, s.attention, 0}};
      if constexpr (is_tiled) {
        Rows rows;
        VMT_UNROLL
        for (int tap = 0; tap < 4; ++tap) {
          rows.item[tap] = s.in_map[tap] != 0 ? shared.sums.claim(s.token[tap]) : short(-1);
        }
        shared.row.row[i][group] = rows;
      }
    }
  }

  // Zero for a query past the last, whose group works with another one's samples.
  static VMT_INLINE void load_grad(const Problem& p, const Tile& tile, long long query, bool active,
                                   int lane, A (&grad)[Layout::steps][Layout::vec]) {
    const T* grad_out =
        static_cast<const T*>(p.grad_out) + group_index(p, tile.batch, query, tile.head) * channels;
    VMT_UNROLL
    for (int step = 0; step < Layout::steps; ++step) {
      const int channel = (step * Layout::lanes + lane) * Layout::vec;
      if (active && channel < channels) load_channels<T, Layout::vec>(grad_out + channel, grad[step]);
    }
  }

  // Adds to grad_value and returns this lane's share of the gradients of place and weight.
  static VMT_INLINE SampleGrad<A> scatter(const T* values, A* grad_values, int i, int group,
                                          int lane, Shared& shared,
                                          const A (&grad)[Layout::steps][Layout::vec]) {
    const Four<int> offset = shared.offset.row[i][group];
    const Four<A> place = shared.place.row[i][group];
    const A fraction_x = place.item[0], fraction_y = place.item[1], attention = place.item[2];
    const A lower = attention * fraction_y, upper = attention - lower;
    const A weight[4] = {upper - upper * fraction_x, upper * fraction_x,
                         lower - lower * fraction_x, lower * fraction_x};
    A dot[4] = {0, 0, 0, 0};  // grad_out times the cell
    VMT_UNROLL
    for (int step = 0; step < Layout::steps; ++step) {
      const int shift = step * Layout::lanes * Layout::vec;
      if (lane * Layout::vec + shift >= channels) continue;
      A cell[4][Layout::vec];
      VMT_UNROLL
      for (int tap = 0; tap < 4; ++tap) {
        load_channels<T, Layout::vec>(values + (offset.item[tap] & ~kOutside) + shift, cell[tap]);
      }
      VMT_UNROLL
      for (int tap = 0; tap < 4; ++tap) {
        A share[Layout::vec];
        VMT_UNROLL
        for (int v = 0; v < Layout::vec; ++v) {
          dot[tap] += cell[tap][v] * grad[step][v];
          share[v] = weight[tap] * grad[step][v];
        }
        bool to_global = offset.item[tap] >= 0;
        if constexpr (is_tiled) {
          const int row = shared.row.row[i][group].item[tap];
          if (row >= 0) {
            to_global = false;
            VMT_UNROLL
            for (int v = 0; v < Layout::vec; ++v) {
              const int column = Sums::column(step * Layout::vec + v, lane);
              add_shared(&shared.sums.sum[row][column], share[v]);
            }
          }
        }
        add_channels<Layout::vec>(grad_values + (offset.item[tap] & ~kOutside) + shift, share,
                                  to_global);
      }
    }
    VMT_UNROLL
    for (int tap = 0; tap < 4; ++tap) dot[tap] = offset.item[tap] < 0 ? 0 : dot[tap];
    return sample_grad<A>(fraction_x, fraction_y, attention, dot);
  }

  // Adds the sums of a block to global memory.
  static VMT_INLINE void flush(const Problem& p, A* grad_values, int group, int lane,
                               const Shared& shared) {
    const int row_length = p.heads * channels;
    for (int row = group; row < shared.sums.rows; row += groups) {
      const int token = shared.sums.token[row];
      if (token < 0) continue;
      VMT_UNROLL
      for (int step = 0; step < Layout::steps; ++step) {
        const int shift = step * Layout::lanes * Layout::vec;
        if (lane * Layout::vec + shift >= channels) continue;
        A sum[Layout::vec];
        VMT_UNROLL
        for (int v = 0; v < Layout::vec; ++v) {
          sum[v] = shared.sums.sum[row][Sums::column(step * Layout::vec + v, lane)];
        }
        add_channels<Layout::vec>(grad_values + token * row_length + shift, sum, true);
      }
    }
  }
};

// Where sums in shared memory are not worth it, the tiled kernel is the plain one.
template <typename T, int channels, typename Inputs>
using TiledBackward =
    Backward<T, channels, Inputs, Backward<T, channels, Inputs, true>::Sums::enabled>;

}  // namespace
