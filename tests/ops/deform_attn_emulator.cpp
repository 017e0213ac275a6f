// Runs the GPU kernels of csrc/deform_attn.cu on the CPU, so that machines without a GPU can test
// them: every thread of a block has a stack of its own and runs to its next barrier or shuffle, one
// after the other, and a warp to the next barrier of the block. A barrier that not all come to is an
// error; a missing one makes a difference to the order of threads, of which there are two.
//
// Macros: VMT_VALUE_TYPE, VMT_PARAM_TYPE, VMT_INPUTS as for deform_attn.cu; VMT_ALL_WIDTHS.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "gpu_kernel.h"

namespace {

struct Three {
  unsigned x = 0, y = 0, z = 0;
};
Three threadIdx, blockIdx, blockDim, gridDim;

enum State { kReady, kAtWarp, kAtBlock, kDone };

struct Thread {
  jmp_buf place;
  bool started = false;
  State state = kReady;
  alignas(8) unsigned char shuffled[8];
  std::vector<char> stack = std::vector<char>(64 << 10);
};

struct Block {
  std::vector<Thread> threads;
  jmp_buf scheduler;
  ucontext_t entry;
  void (*kernel)(const Problem) = nullptr;
  const Problem* problem = nullptr;
  int current = 0;
};
Block block;

void wait_for(State barrier) {
  Thread& thread = block.threads[block.current];
  thread.state = barrier;
  if (_setjmp(thread.place) == 0) _longjmp(block.scheduler, 1);
}

void run_thread() {
  block.kernel(*block.problem);
  block.threads[block.current].state = kDone;
  _longjmp(block.scheduler, 1);
}

void resume(int index) {
  Thread& thread = block.threads[index];
  block.current = index;
  threadIdx.x = static_cast<unsigned>(index);
  if (_setjmp(block.scheduler) != 0) return;
  if (thread.started) _longjmp(thread.place, 1);
  thread.started = true;
  getcontext(&block.entry);
  block.entry.uc_stack.ss_sp = thread.stack.data();
  block.entry.uc_stack.ss_size = thread.stack.size();
  block.entry.uc_link = nullptr;
  makecontext(&block.entry, run_thread, 0);
  setcontext(&block.entry);
}

bool all_at(State state, int begin, int end) {
  return std::all_of(block.threads.begin() + begin, block.threads.begin() + end,
                     [&](const Thread& t) { return t.state == state; });
}

void release(int begin, int end) {
  for (int index = begin; index < end; ++index) block.threads[index].state = kReady;
}

// Runs a warp until its threads wait for the block, are done, or wait for each other for ever.
void run_warp(int begin, bool last_first) {
  const int end = begin + kWarpLanes;
  do {
    if (all_at(kAtWarp, begin, end)) release(begin, end);
    for (int k = 0; k < kWarpLanes; ++k) {
      const int index = last_first ? end - 1 - k : begin + k;
      if (block.threads[index].state == kReady) resume(index);
    }
  } while (all_at(kAtWarp, begin, end));
}

// Runs one block, a warp as far as it gets before the next one; false where its threads wait for
// each other for ever.
bool run_block(int threads, bool last_first) {
  if (static_cast<int>(block.threads.size()) < threads) block.threads.resize(threads);
  for (Thread& thread : block.threads) thread.started = false;
  release(0, threads);
  while (!all_at(kDone, 0, threads)) {
    for (int begin = 0; begin < threads; begin += kWarpLanes) {
      run_warp(last_first ? threads - kWarpLanes - begin : begin, last_first);
    }
    if (all_at(kAtBlock, 0, threads)) {
      release(0, threads);
    } else if (!all_at(kDone, 0, threads)) {
      return false;
    }
  }
  return true;
}

void __syncthreads() { wait_for(kAtBlock); }
void __syncwarp() { wait_for(kAtWarp); }

template <typename A>
A __shfl_xor_sync(unsigned, A x, int distance) {
  std::memcpy(block.threads[block.current].shuffled, &x, sizeof(x));
  wait_for(kAtWarp);
  A other;
  std::memcpy(&other, block.threads[block.current ^ distance].shuffled, sizeof(other));
  wait_for(kAtWarp);
  return other;
}

using std::min;

}  // namespace

#define __device__
#define __forceinline__ inline
#define __global__
#define __grid_constant__
#define __shared__ static
#define __launch_bounds__(...)

// The same file once per width of a head, between them every case of Spread: one lane, idle lanes,
// several steps.
#define VMT_HEAD_CHANNELS 1
#define vmt_deform_attn_forward forward_1
#define vmt_deform_attn_backward backward_1
#define vmt_deform_attn_backward_tiled backward_tiled_1
namespace width_1 {
#include "deform_attn.cu"
}
#undef VMT_HEAD_CHANNELS
#undef vmt_deform_attn_forward
#undef vmt_deform_attn_backward
#undef vmt_deform_attn_backward_tiled
#define VMT_HEAD_CHANNELS 32
#define vmt_deform_attn_forward forward_32
#define vmt_deform_attn_backward backward_32
#define vmt_deform_attn_backward_tiled backward_tiled_32
namespace width_32 {
#include "deform_attn.cu"
}
#undef VMT_HEAD_CHANNELS
#undef vmt_deform_attn_forward
#undef vmt_deform_attn_backward
#undef vmt_deform_attn_backward_tiled
#define VMT_HEAD_CHANNELS 33
#define vmt_deform_attn_forward forward_33
#define vmt_deform_attn_backward backward_33
#define vmt_deform_attn_backward_tiled backward_tiled_33
namespace width_33 {
#include "deform_attn.cu"
}
#undef VMT_HEAD_CHANNELS
#undef vmt_deform_attn_forward
#undef vmt_deform_attn_backward
#undef vmt_deform_attn_backward_tiled
#if defined(VMT_ALL_WIDTHS)
#define VMT_HEAD_CHANNELS 4
#define vmt_deform_attn_forward forward_4
#define vmt_deform_attn_backward backward_4
#define vmt_deform_attn_backward_tiled backward_tiled_4
namespace width_4 {
#include "deform_attn.cu"
}
#undef VMT_HEAD_CHANNELS
#undef vmt_deform_attn_forward
#undef vmt_deform_attn_backward
#undef vmt_deform_attn_backward_tiled
#define VMT_HEAD_CHANNELS 6
#define vmt_deform_attn_forward forward_6
#define vmt_deform_attn_backward backward_6
#define vmt_deform_attn_backward_tiled backward_tiled_6
namespace width_6 {
#include "deform_attn.cu"
}
#undef VMT_HEAD_CHANNELS
#undef vmt_deform_attn_forward
#undef vmt_deform_attn_backward
#undef vmt_deform_attn_backward_tiled
#define VMT_HEAD_CHANNELS 20
#define vmt_deform_attn_forward forward_20
#define vmt_deform_attn_backward backward_20
#define vmt_deform_attn_backward_tiled backward_tiled_20
namespace width_20 {
#include "deform_attn.cu"
}
#undef VMT_HEAD_CHANNELS
#undef vmt_deform_attn_forward
#undef vmt_deform_attn_backward
#undef vmt_deform_attn_backward_tiled
#define VMT_HEAD_CHANNELS 160
#define vmt_deform_attn_forward forward_160
#define vmt_deform_attn_backward backward_160
#define vmt_deform_attn_backward_tiled backward_tiled_160
namespace width_160 {
#include "deform_attn.cu"
}
#undef VMT_HEAD_CHANNELS
#undef vmt_deform_attn_forward
#undef vmt_deform_attn_backward
#undef vmt_deform_attn_backward_tiled
#endif

namespace {

enum Kernels { kForward = 0, kBackward = 1, kBackwardTiled = 2 };

struct Kernel {
  void (*run)(const Problem);
  int threads, queries;  // of a block
};

template <int channels>
Kernel choose(int kernel, void (*forward)(const Problem), void (*backward)(const Problem),
              void (*tiled)(const Problem)) {
  typedef VMT_INPUTS<Accumulator<VMT_VALUE_TYPE>::type, VMT_PARAM_TYPE> Inputs;
  typedef Forward<VMT_VALUE_TYPE, channels, Inputs> Onward;
  typedef Backward<VMT_VALUE_TYPE, channels, Inputs, false> Back;
  typedef TiledBackward<VMT_VALUE_TYPE, channels, Inputs> Tiled;
  if (kernel == kForward) {
    return {forward, kForwardWarps * kWarpLanes, Onward::queries_per_tile};
  }
  if (kernel == kBackward) return {backward, kBackwardWarps * kWarpLanes, Back::queries_per_tile};
  return {tiled, kTiledWarps * kWarpLanes, Tiled::rounds == 1 ? 0 : Tiled::queries_per_tile};
}

#define VMT_CASE(width)                                                                          \
  case width:                                                                                    \
    return choose<width>(kernel, width_##width::forward_##width, width_##width::backward_##width, \
                         width_##width::backward_tiled_##width)

Kernel find(int channels, int kernel) {
  switch (channels) {
    VMT_CASE(1);
    VMT_CASE(32);
    VMT_CASE(33);
#if defined(VMT_ALL_WIDTHS)
    VMT_CASE(4);
    VMT_CASE(6);
    VMT_CASE(20);
    VMT_CASE(160);
#endif
    default: return {nullptr, 0, -1};
  }
}

}  // namespace

#define VMT_EXPORT extern "C" __attribute__((visibility("default")))

// How many queries a block takes; 0 where there is no such kernel, -1 where the width is not built.
VMT_EXPORT int vmt_queries_of_a_block(int channels, int kernel) {
  return find(channels, kernel).queries;
}

// The queries in the order in which blocks of so many take them.
VMT_EXPORT void vmt_order(const Problem* problem, int queries_of_a_block, long long* order) {
  for (long long number = 0; number < problem->queries; ++number) {
    order[number] = ordered_query(*problem, number, strip_rows(queries_of_a_block));
  }
}

// Runs all blocks; with `last_first` half as many, each of which goes on to a second tile. Returns
// 0, or 1 where threads wait for each other for ever, or -1 where there is no such kernel.
VMT_EXPORT int vmt_emulate(const Problem* problem, int channels, int kernel, int last_first) {
  const Kernel found = find(channels, kernel);
  if (found.queries <= 0) return -1;
  const long long tiles = tile_count(*problem, found.queries);
  block.kernel = found.run;
  block.problem = problem;
  blockDim.x = static_cast<unsigned>(found.threads);
  gridDim.x = static_cast<unsigned>(last_first ? (tiles + 1) / 2 : tiles);
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
    if (!run_block(found.threads, last_first != 0)) return 1;
  }
  return 0;
}
