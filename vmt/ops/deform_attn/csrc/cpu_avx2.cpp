// The CPU kernels for AVX2 and FMA; empty on other processors than x86-64.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define VMT_VECTOR_BYTES 32
#include "cpu_kernel.h"

namespace vmt {
VMT_DEFINE_KERNELS(kAvx2Kernels);
}  // namespace vmt

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
