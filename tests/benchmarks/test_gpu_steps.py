"""Parts of ``run_gpu.py`` about the operator: other people's code, kernels' costs, the cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks.test_dry_runs import load
from vmt.ops.deform_attn import nvrtc

assert load  # the fixture
NO_COMPILER = nvrtc.compiler_unavailable_reason()
needs_nvrtc = pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))

#: Shaped as the original: two kernel templates between includes and host code with launches.
STAND_IN = """
#include <ATen/ATen.h>
#define CUDA_KERNEL_LOOP(i, n) for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; ++i)
template <typename scalar_t>
__global__ void ms_deformable_im2col_gpu_kernel(const int n, const int64_t *sizes, scalar_t *out) {
  CUDA_KERNEL_LOOP(i, n) { out[i] = sizes[0]; }
}
template <typename scalar_t, unsigned int blockSize>
__global__ void ms_deformable_col2im_gpu_kernel_shm_blocksize_aware_reduce_v1(scalar_t *grad) {
  __shared__ scalar_t cache[blockSize];
  cache[threadIdx.x] = 1;
  __syncthreads();
  grad[threadIdx.x] = cache[blockSize - 1 - threadIdx.x];
}
template <typename scalar_t>
void ms_deformable_im2col_cuda(cudaStream_t stream, scalar_t *out) {
  ms_deformable_im2col_gpu_kernel<scalar_t><<<1, 1, 0, stream>>>(1, nullptr, out);
}
"""


def third_party(folder: Path, text: str, path: Path) -> Path:
    target = folder / "third" / path
    target.parent.mkdir(parents=True)
    target.write_text(text)
    return folder / "third"


@needs_nvrtc
def test_the_original_is_compiled_from_a_folder_of_its_own(load, tmp_path: Path) -> None:
    baselines, cubin = load("gpu_baselines"), load("gpu_cubin")
    code, names = baselines.compile_original(STAND_IN, 90)
    costs = cubin.kernel_costs(code)
    assert sorted(costs) == sorted(name.decode() for name in names.values())
    assert "IfEv" in names[baselines.ORIGINAL_FORWARD].decode()
    backward = costs[names[baselines.ORIGINAL_BACKWARD].decode()]
    assert backward.shared_bytes == 32 * 4 + cubin.RESERVED_BYTES
    step = load("gpu_common").Step(tmp_path, dry=True)
    assert "no Deformable-DETR/models" in baselines.original(step)
    step.third_party = third_party(tmp_path, STAND_IN, baselines.ORIGINAL)
    assert "compiled for sm_90" in baselines.original(step)


@needs_nvrtc
def test_other_files_are_refused_and_errors_of_the_compiler_told(load) -> None:
    baselines, common = load("gpu_baselines"), load("gpu_common")
    with pytest.raises(common.StepError, match="is it Deformable-DETR's"):
        baselines.original_source("int main() {}")
    with pytest.raises(common.StepError, match="no_such_thing"):
        baselines.compile_original(STAND_IN.replace("cache[threadIdx.x] = 1", "no_such_thing"), 90)


@pytest.mark.parametrize("align", ["", ", align_corners"])
def test_triton_kernels_of_others_are_called_without_their_fallback(
    align: str, load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baselines, common = load("gpu_baselines"), load("gpu_common")
    text = (
        "calls = []\n"
        f"def triton_multiscale_deformable_attention(v, sizes, places, weights, "
        f"padding_mode{align}):\n"
        f"    calls.append((sizes.tolist(), padding_mode{align}))\n"
        "    return v.new_ones(*places.shape[:3], v.shape[3])\n"
    )
    folder = third_party(tmp_path, text, Path("msda-triton/src/msda_triton/frontend.py"))
    (folder / "msda-triton/src/msda_triton/__init__.py").touch()
    step = common.Step(tmp_path, dry=True)
    assert "no msda-triton" in baselines.msda_triton(step)
    step.third_party = folder
    monkeypatch.setattr("sys.path", list(sys.path))
    try:
        contender = baselines.msda_triton(step)
        assert contender.dtypes == (torch.float32, torch.float16)
        out = contender.forward(
            torch.zeros(1, 30, 2, 4), torch.zeros(1, 5, 2, 2, 3, 2), torch.zeros(1, 5, 2, 2, 3)
        )
        assert out.shape == (1, 5, 8)
        from msda_triton import frontend

        assert frontend.calls[0][:2] == ([[4, 6], [2, 3]], "zeros")
        assert frontend.calls[0][2:] == ((False,) if align else ())
    finally:
        for name in [n for n in sys.modules if n.startswith("msda_triton")]:
            del sys.modules[name]


def test_others_are_measured_in_every_type_and_what_they_raise_is_a_row(
    load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baselines, common = load("gpu_baselines"), load("gpu_common")
    step = common.Step(tmp_path, dry=True)
    ours = baselines.kernel(step)

    def half_only(*inputs: torch.Tensor) -> torch.Tensor:
        if inputs[0].dtype == torch.float32:
            raise ValueError("no fp32 here")
        return 2 * ours(*inputs)

    def no_gradient(*inputs: torch.Tensor) -> torch.Tensor:
        return ours(*(x.detach() for x in inputs))

    both = (torch.float32, torch.float16)
    others = {
        "wrong": lambda step: baselines.Contender(half_only, both),
        "forward_only": lambda step: baselines.Contender(no_gradient),
        "absent": lambda step: "not here",
    }
    monkeypatch.setattr(baselines, "OTHERS", others)
    baselines.baselines(step)
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["ours"]) == {"float32", "float16", "bfloat16"}
    assert all(row["backward_us"] > 0 for row in results["ours"].values())
    assert results["wrong"]["float32"] == {"failed": "no fp32 here"}
    assert results["wrong"]["float16"]["error"] > 0.1
    assert results["wrong"]["float16"]["ratio"] > 0
    row = results["forward_only"]["float32"]
    assert row["error"] < 1e-4
    assert "does not require grad" in row["failed"]
    assert "backward_us" not in row
    assert results["absent"] == {"absent": "not here"}


def test_both_forms_of_the_inputs_are_the_same_call(load, tmp_path: Path) -> None:
    operator, common = load("gpu_operator"), load("gpu_common")
    step = common.Step(tmp_path, dry=True)
    inputs, _ = operator.make_inputs(step, 2, None, torch.float32, 0)
    given = operator.kernel(step)(*inputs)
    fused = operator.fused_kernel(step)(*operator.fused_inputs(step, inputs))
    torch.testing.assert_close(fused, given, atol=1e-5, rtol=0)


@needs_nvrtc
def test_a_fresh_cache_is_filled_once(
    load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, common = load("gpu_operator"), load("gpu_common")
    step = common.Step(tmp_path, dry=True)
    assert operator.kernel_cache(step) == []
    rows = step.results["kernel_cache"]
    assert [(row["compiled"], row["files"]) for row in rows] == [(1, 1), (0, 1)]
    monkeypatch.setattr(operator, "_FIRST_CALL", "print(1, 0.5)")
    (problem,) = operator.kernel_cache(step)
    assert "should be filled once" in problem


@needs_nvrtc
def test_costs_of_kernels_are_in_the_results(load, tmp_path: Path) -> None:
    operator, common = load("gpu_operator"), load("gpu_common")
    costs = operator._kernel_costs(common.Step(tmp_path, dry=True))
    assert len(costs) == 2 * 3  # of one type: the dry run leaves the others out
    row = costs["bfloat16 fused vmt_deform_attn_forward"]
    assert 0 < row["registers"] < 128
    assert row["shared_bytes"] > 0


def test_what_is_no_cubin_is_refused(load) -> None:
    with pytest.raises(ValueError, match="64-bit ELF"):
        load("gpu_cubin").kernel_costs(b".version 8.0")
