"""The CUDA kernels, compiled for every architecture: registers, memory, the inner loop."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.conftest import REPO, load_module
from vmt.ops.deform_attn import cuda, nvrtc

ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
# Between them: every type, one lane, idle lanes, several packs per lane, the width of the model.
SPECS = [
    nvrtc.ProgramSpec(F32, F32, 32),
    nvrtc.ProgramSpec(BF16, F32, 32),
    nvrtc.ProgramSpec(F16, F32, 32),
    nvrtc.ProgramSpec(BF16, BF16, 32),
    nvrtc.ProgramSpec(F16, F16, 6),
    nvrtc.ProgramSpec(F64, F64, 1),
    nvrtc.ProgramSpec(F32, F32, 160),
    nvrtc.ProgramSpec(F32, F32, 32, fused=True),
    nvrtc.ProgramSpec(BF16, BF16, 32, fused=True),
    nvrtc.ProgramSpec(F16, F32, 33, fused=True),
]
MODEL_SPECS = [spec for spec in SPECS if spec.channels == 32]
#: Architectures for which the odd widths are compiled as well.
FULLY_TESTED = (75, 90, 120)

NO_COMPILER = nvrtc.compiler_unavailable_reason()
needs_nvrtc = pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))


@pytest.fixture(scope="module")
def cubin() -> ModuleType:
    """Reads registers and memory out of a cubin."""
    return load_module(REPO / "benchmarks/gpu_cubin.py")


#: Registers of a thread: blocks of 128 then fill a multiprocessor with 28 warps, tiled ones 24.
MOST_REGISTERS = {cuda.FORWARD: 72, cuda.BACKWARD: 72, cuda.BACKWARD_TILED: 85}


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_every_architecture(arch: int, cubin: ModuleType) -> None:
    """All but everything in registers, and shared memory that needs no leave."""
    assert nvrtc.target_option(arch) == f"sm_{arch}"
    for spec in SPECS if arch in FULLY_TESTED else MODEL_SPECS:
        code = nvrtc.compile_program(arch, spec)
        costs = cubin.kernel_costs(code)
        assert set(costs) == {f"vmt_deform_attn_{name}" for name in cuda.BLOCKS}
        for name, most in MOST_REGISTERS.items():
            cost = costs[f"vmt_deform_attn_{name}"]
            assert cost.instructions > 200, (spec, name, cost)
            assert cost.shared_bytes <= 48 * 1024, (spec, name, cost)
            if spec in MODEL_SPECS:
                assert cost.local_bytes <= 16, (spec, name, cost)  # outside the loops, see below
                assert 16 <= cost.registers <= most, (spec, name, cost)


@needs_nvrtc
def test_the_inner_loop_is_short(cubin: ModuleType) -> None:
    """Instructions per sample and warp, which holds four or eight queries."""
    if cubin.disassembler() is None:
        pytest.skip("no nvdisasm")
    for spec, most in ((SPECS[0], (36, 150, 330)), (SPECS[1], (88, 166, 330))):
        loops = cubin.inner_loops(nvrtc.compile_program(90, spec))
        for name, limit in zip(cuda.BLOCKS, most, strict=True):
            loop = loops[f"vmt_deform_attn_{name}"]
            assert loop.instructions / loop.samples <= limit, (spec, name, loop)
            assert not {"LDL", "STL"} & set(loop.by_name)
        forward = loops["vmt_deform_attn_forward"]
        assert forward.by_name["FFMA"] / forward.samples == (16 if spec == SPECS[0] else 32)
