// The CPU kernels for AVX-512 (F, BW, DQ, VL); empty on other processors than x86-64.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif

#define VMT_VECTOR_BYTES 64
#include "cpu_kernel.h"

namespace vmt {
VMT_DEFINE_KERNELS(kAvx512Kernels);
}  // namespace vmt

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
