// The CPU kernels for whatever the compiler targets by default (SSE2 on x86-64, NEON on arm64).
#define VMT_VECTOR_BYTES 16
#include "cpu_kernel.h"

namespace vmt {
VMT_DEFINE_KERNELS(kBaselineKernels);
}  // namespace vmt
