// The C interface of the CPU library: checks sizes, cuts the work into items, runs them on threads.
//
// Plain pointers and integers only, so the library needs neither torch nor Python to build and
// works with every version of both. Callers load it through ctypes, which releases the GIL.
// The threads are those of torch's own OpenMP pool where the caller hands over its entry point:
// its idle threads spin for milliseconds behind every operation, and threads of ours would have to
// share the cores with them. Without it, threads live for one call.
#if __has_include(<Python.h>)
#define VMT_HAVE_PYTHON_H 1
#include <Python.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu_items.h"

#define VMT_EXPORT extern "C" __attribute__((visibility("default")))

namespace vmt {
namespace {

// Raised whenever a signature below changes; vmt/ops/deform_attn/cpu.py expects the same number.
constexpr int kAbiVersion = 2;

enum Status { kOk = 0, kOutOfMemory = 1, kBadSizes = 2, kNoSuchIsa = 3 };
enum Isa { kAutomatic = 0, kBaseline = 1, kAvx2 = 2, kAvx512 = 3 };

constexpr int kAlignment = 64;  // bytes: one cache line, one AVX-512 register
constexpr int kMaxLevelSide = 1 << 24;  // cells; a float still counts every one of them
// A thread costs tens of microseconds to start; this many taps take about as long.
constexpr long long kMinTapsPerThread = 1 << 14;
// Items per thread when heads alone give too few: evens out unequal speed of the cores.
constexpr int kItemsPerThread = 4;

int best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return kAvx512;
  }
  if (avx2) return kAvx2;
#endif
  return kBaseline;
}

const KernelTable* find_kernels(int isa) {
  static const int best = best_isa();
  if (isa == kAutomatic) isa = best;
  if (isa < kBaseline || isa > best) return nullptr;
#if defined(__x86_64__)
  if (isa == kAvx512) return &kAvx512Kernels;
  if (isa == kAvx2) return &kAvx2Kernels;
#endif
  return &kBaselineKernels;
}

template <typename A>
constexpr auto forward_of(const KernelTable& table) {
  if constexpr (sizeof(A) == sizeof(float)) {
    return table.forward_float;
  } else {
    return table.forward_double;
  }
}
template <typename A>
constexpr auto backward_of(const KernelTable& table) {
  if constexpr (sizeof(A) == sizeof(float)) {
    return table.backward_float;
  } else {
    return table.backward_double;
  }
}

// Memory blocks that calls leave behind for the next: fresh pages cost as much as the work of a
// small call. Slots are swapped atomically, so a fork in the middle of a call breaks nothing.
constexpr int kSpareSlots = 64;
constexpr size_t kMaxSpareBytes = size_t{8} << 20;

struct Block {
  size_t capacity;  // bytes after this header, which fills one cache line
};
std::atomic<Block*> spare_blocks[kSpareSlots];

struct GiveBack {
  void operator()(Block* block) const {
    if (block->capacity <= kMaxSpareBytes) {
      for (auto& slot : spare_blocks) {
        Block* empty = nullptr;
        if (slot.compare_exchange_strong(empty, block)) return;
      }
    }
    std::free(block);
  }
};
using Memory = std::unique_ptr<Block, GiveBack>;

// Contents are undefined. Null when memory is short.
Memory take_block(size_t bytes) {
  for (auto& slot : spare_blocks) {
    Block* block = slot.exchange(nullptr);
    if (block == nullptr) continue;
    if (block->capacity >= bytes) return Memory(block);
    std::free(block);  // too small for this model: make room for one that fits
  }
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, kAlignment + bytes) != 0) return nullptr;
  Block* block = new (memory) Block{bytes};
  return Memory(block);
}

// Sizes arrive as one array so that the call has few arguments; see the exported functions.
struct Levels {
  std::vector<int> height, width, start;
};

bool read_geometry(const int64_t* sizes, const int64_t* shapes, bool has_reference, Geometry& g,
                   Levels& levels) {
  for (int i = 0; i < 7; ++i) {
    if (sizes[i] < 0) return false;
  }
  g.batch = sizes[0];
  g.tokens = sizes[1];
  g.heads = sizes[2];
  g.channels = sizes[3];
  g.queries = sizes[4];
  const int64_t level_count = sizes[5];
  const int64_t points = sizes[6];
  const int64_t int_max = std::numeric_limits<int>::max();
  if (g.tokens >= int_max || g.channels >= int_max / 8 || level_count * points >= int_max / 64) {
    return false;
  }
  g.samples = static_cast<int>(level_count * points);
  g.points = static_cast<int>(points);
  g.reference_axes = 0;
  g.reference_step = 0;
  levels.height.resize(g.samples);
  levels.width.resize(g.samples);
  levels.start.resize(g.samples);
  int64_t start = 0;
  for (int64_t level = 0; level < level_count; ++level) {
    const int64_t height = shapes[2 * level];
    const int64_t width = shapes[2 * level + 1];
    if (height < 1 || width < 1 || height > kMaxLevelSide || width > kMaxLevelSide) return false;
    if (start + height * width > g.tokens) return false;
    for (int64_t k = 0; k < points; ++k) {
      levels.height[level * points + k] = static_cast<int>(height);
      levels.width[level * points + k] = static_cast<int>(width);
      levels.start[level * points + k] = static_cast<int>(start);
    }
    start += height * width;
  }
  g.sample_height = levels.height.data();
  g.sample_width = levels.width.data();
  g.sample_start = levels.start.data();
  if (has_reference) {
    g.reference_axes = static_cast<int>(sizes[7]);
    g.reference_step = sizes[8];
    if (sizes[7] != 2 && sizes[7] != 4) return false;
  }
  return start == g.tokens;
}

// One thread's memory in one block: slice, grad_slice, row, pixels, weights.
template <typename A>
struct ThreadMemory {
  Memory block;
  Scratch<A> scratch;
};

template <typename A>
bool allocate_scratch(const Geometry& g, int lanes, int slices, ThreadMemory<A>& memory) {
  const size_t padded = (g.channels + lanes - 1) / lanes * lanes;
  const auto aligned = [](size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  };
  const size_t slice_bytes = aligned(sizeof(A) * padded * g.tokens);
  const size_t row_bytes = aligned(sizeof(A) * padded);
  const size_t weight_bytes = aligned(sizeof(A) * (g.samples + lanes));
  const size_t place_bytes = g.reference_axes > 0 ? 3 * weight_bytes : 0;
  const size_t total_bytes = slices * slice_bytes + row_bytes + place_bytes;
  memory.block = take_block(total_bytes);
  if (!memory.block) return false;
  char* bytes = reinterpret_cast<char*>(memory.block.get()) + kAlignment;
  // Kernels write the channels and read whole vectors: what pads a row must be zero.
  if (static_cast<long long>(padded) != g.channels) std::memset(bytes, 0, total_bytes);
  Scratch<A>& scratch = memory.scratch;
  scratch.slice = slices > 0 ? reinterpret_cast<A*>(bytes) : nullptr;
  scratch.grad_slice = slices > 1 ? reinterpret_cast<A*>(bytes + slice_bytes) : nullptr;
  scratch.row = reinterpret_cast<A*>(bytes + slices * slice_bytes);
  scratch.weights = reinterpret_cast<A*>(bytes + slices * slice_bytes + row_bytes);
  scratch.pixels = reinterpret_cast<A*>(bytes + slices * slice_bytes + row_bytes + weight_bytes);
  scratch.padded_channels = static_cast<int>(padded);
  scratch.packed_batch = -1;
  scratch.packed_head = -1;
  return true;
}

// GOMP_parallel(function, argument, threads, flags): runs the function on every thread of the pool,
// the calling one included, and returns when all have.
using ParallelRegion = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<ParallelRegion> parallel_region{nullptr};

template <typename Worker>
void run_on_new_threads(long long count, const Worker& worker) {
  std::vector<std::thread> others;
  others.reserve(count - 1);
  for (long long i = 1; i < count; ++i) {
    try {
      others.emplace_back(std::cref(worker));
    } catch (const std::system_error&) {
      break;  // no more threads to be had: those that run do all the work
    }
  }
  worker();
  for (auto& other : others) other.join();
}

// Runs `work(item, scratch)` for every item; items are handed out in order as threads get free.
template <typename A, typename Work>
int run_items(const Geometry& g, int lanes, int slices, int query_parts, int threads, Work work) {
  const long long part = (g.queries + query_parts - 1) / query_parts;
  const long long items = g.batch * g.heads * query_parts;
  const long long taps = g.batch * g.heads * g.queries * g.samples * 4;
  long long count = std::min<long long>(std::max(threads, 1), items);
  count = std::max<long long>(1, std::min(count, taps / kMinTapsPerThread));

  std::vector<ThreadMemory<A>> memories(count);
  for (auto& memory : memories) {
    if (!allocate_scratch<A>(g, lanes, slices, memory)) return kOutOfMemory;
  }
  std::atomic<long long> next{0};
  const auto drain = [&](Scratch<A>& scratch) {
    for (;;) {
      const long long index = next.fetch_add(1, std::memory_order_relaxed);
      if (index >= items) return;
      const long long slice = index / query_parts;
      const long long begin = index % query_parts * part;
      const Item item = {slice / g.heads, slice % g.heads, std::min(begin, g.queries),
                         std::min(begin + part, g.queries)};
      work(item, scratch);
    }
  };
  // Whoever comes takes the next memory; a pool may send more threads than there is work for.
  std::atomic<long long> arrived{0};
  const auto worker = [&] {
    const long long place = arrived.fetch_add(1, std::memory_order_relaxed);
    if (place < count) drain(memories[place].scratch);
  };
  const ParallelRegion pool = parallel_region.load(std::memory_order_acquire);
  if (count == 1) {
    worker();
  } else if (pool != nullptr) {
    // All of torch's threads, also where fewer would do: a smaller team would end the others.
    pool([](void* job) { (*static_cast<decltype(worker)*>(job))(); },
         const_cast<void*>(static_cast<const void*>(&worker)), static_cast<unsigned>(threads), 0);
  } else {
    run_on_new_threads(count, worker);
  }
  return kOk;
}

// Packing a slice costs S row copies; in place, each of the 4 * Q * L * K row reads may miss.
bool worth_packing(const Geometry& g, int lanes) {
  return g.channels % lanes != 0 || 4 * g.queries * g.samples >= g.tokens;
}

template <typename A>
int forward(const int64_t* sizes, const int64_t* shapes, const ForwardTensors<A>& tensors,
            int threads, int isa) {
  const KernelTable* kernels = find_kernels(isa);
  if (kernels == nullptr) return kNoSuchIsa;
  Geometry g;
  Levels levels;
  if (!read_geometry(sizes, shapes, tensors.reference != nullptr, g, levels)) return kBadSizes;
  const long long slices = g.batch * g.heads;
  if (slices == 0 || g.queries == 0 || g.channels == 0) return kOk;
  const int lanes = kernels->vector_bytes / static_cast<int>(sizeof(A));
  // Heads alone keep a few threads busy evenly; many threads need the queries cut as well.
  long long parts = 1;
  if (slices < 1LL * threads * kItemsPerThread) parts = (threads * kItemsPerThread + slices - 1) / slices;
  parts = std::min(parts, g.queries);
  const auto item_kernel = forward_of<A>(*kernels);
  return run_items<A>(g, lanes, worth_packing(g, lanes) ? 1 : 0, static_cast<int>(parts), threads,
                      [&](const Item& item, Scratch<A>& scratch) {
                        item_kernel(g, tensors, item, scratch);
                      });
}

template <typename A>
int backward(const int64_t* sizes, const int64_t* shapes, const BackwardTensors<A>& tensors,
             int threads, int isa) {
  const KernelTable* kernels = find_kernels(isa);
  if (kernels == nullptr) return kNoSuchIsa;
  Geometry g;
  Levels levels;
  if (!read_geometry(sizes, shapes, tensors.reference != nullptr, g, levels)) return kBadSizes;
  if (g.batch * g.heads == 0) return kOk;
  const int lanes = kernels->vector_bytes / static_cast<int>(sizeof(A));
  const auto item_kernel = backward_of<A>(*kernels);
  return run_items<A>(g, lanes, 2, 1, threads, [&](const Item& item, Scratch<A>& scratch) {
    item_kernel(g, tensors, item, scratch);
  });
}

template <typename Call>
int guarded(Call call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

}  // namespace
}  // namespace vmt

VMT_EXPORT int vmt_deform_attn_abi() { return vmt::kAbiVersion; }

// GOMP_parallel of the OpenMP library that the process already uses, or null for threads of ours.
VMT_EXPORT void vmt_deform_attn_use_pool(void* gomp_parallel) {
  vmt::parallel_region.store(reinterpret_cast<vmt::ParallelRegion>(gomp_parallel),
                             std::memory_order_release);
}

// 1 baseline, 2 AVX2 + FMA, 3 AVX-512: the best this processor runs.
VMT_EXPORT int vmt_deform_attn_best_isa() { return vmt::best_isa(); }

// sizes: B, S, M, D, Q, L, K. shapes: L rows (H, W). isa: 0 for the best, or a number as above.
// The fused ones read offsets, logits and reference points; their sizes go on with 2 or 4 (points or
// boxes) and the numbers from an image's reference points to the next one's.
// Tensors are contiguous. Returns 0, or 1 out of memory, 2 bad sizes, 3 no such instruction set.
#define VMT_DEFINE_ENTRIES(suffix, A)                                                              \
  VMT_EXPORT int vmt_deform_attn_forward_##suffix(                                                 \
      const int64_t* sizes, const int64_t* shapes, const A* value, const A* locations,             \
      const A* attention, A* out, int threads, int isa) {                                          \
    return vmt::guarded([&] {                                                                      \
      return vmt::forward<A>(sizes, shapes, {value, locations, attention, nullptr, out}, threads,  \
                             isa);                                                                 \
    });                                                                                            \
  }                                                                                                \
  VMT_EXPORT int vmt_deform_attn_fused_forward_##suffix(                                           \
      const int64_t* sizes, const int64_t* shapes, const A* value, const A* offsets,               \
      const A* logits, const A* reference, A* out, int threads, int isa) {                         \
    return vmt::guarded([&] {                                                                      \
      return vmt::forward<A>(sizes, shapes, {value, offsets, logits, reference, out}, threads,     \
                             isa);                                                                 \
    });                                                                                            \
  }                                                                                                \
  VMT_EXPORT int vmt_deform_attn_backward_##suffix(                                                \
      const int64_t* sizes, const int64_t* shapes, const A* grad_out, const A* value,              \
      const A* locations, const A* attention, A* grad_value, A* grad_locations,                    \
      A* grad_attention, int threads, int isa) {                                                   \
    return vmt::guarded([&] {                                                                      \
      return vmt::backward<A>(sizes, shapes,                                                       \
                              {grad_out, value, locations, attention, nullptr, grad_value,         \
                               grad_locations, grad_attention},                                    \
                              threads, isa);                                                       \
    });                                                                                            \
  }                                                                                                \
  VMT_EXPORT int vmt_deform_attn_fused_backward_##suffix(                                          \
      const int64_t* sizes, const int64_t* shapes, const A* grad_out, const A* value,              \
      const A* offsets, const A* logits, const A* reference, A* grad_value, A* grad_pixels,        \
      A* grad_logits, int threads, int isa) {                                                      \
    return vmt::guarded([&] {                                                                      \
      return vmt::backward<A>(sizes, shapes,                                                       \
                              {grad_out, value, offsets, logits, reference, grad_value,            \
                               grad_pixels, grad_logits},                                          \
                              threads, isa);                                                       \
    });                                                                                            \
  }

VMT_DEFINE_ENTRIES(f32, float)
VMT_DEFINE_ENTRIES(f64, double)

// Lets setuptools treat the library as an extension module; ctypes needs none of it.
#if defined(VMT_HAVE_PYTHON_H)
PyMODINIT_FUNC PyInit__kernel() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernel", nullptr, 0, nullptr};
  return PyModule_Create(&module);
}
#else
VMT_EXPORT void* PyInit__kernel() { return nullptr; }
#endif
