"""Step ``baselines`` of ``run_gpu.py``: other people's operators on our inputs, beside ours.

Not a script. Nothing of theirs lies here: ``--third-party FOLDER`` has clones of Deformable-DETR
and msda-triton; PyTorch's compiler and ``transformers`` are taken where they are installed.
"""

from __future__ import annotations

import ctypes
import inspect
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_deform_attn import CHANNELS, SPATIAL_SHAPES
from gpu_common import Step, StepError, device_us, relative_error
from gpu_operator import (
    FULL_TOLERANCE,
    HALF_TOLERANCE,
    TOY_SHAPES,
    Inputs,
    kernel,
    make_inputs,
    reference,
)
from torch import Tensor

from vmt.ops.deform_attn import nvrtc
from vmt.utils.errors import OpError

#: Where Deformable-DETR keeps its kernels, and what they are called.
ORIGINAL = Path("Deformable-DETR/models/ops/src/cuda/ms_deform_im2col_cuda.cuh")
ORIGINAL_FORWARD = "ms_deformable_im2col_gpu_kernel<float>"
ORIGINAL_BACKWARD = (
    f"ms_deformable_col2im_gpu_kernel_shm_blocksize_aware_reduce_v1<float, {CHANNELS}>"
)
#: Threads of a block, as its launchers have them.
FORWARD_THREADS, BACKWARD_THREADS = 1024, CHANNELS

Forward = Callable[..., Tensor]
Backward = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Contender:
    """An operator to be timed.

    Attributes:
        forward: of value, locations, weights.
        dtypes: of value, locations and weights.
        backward: of a gradient and the same; None: autograd finds it.
    """

    forward: Forward
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    backward: Backward | None = None


# --- the original ---------------------------------------------------------------------------------


def original_source(text: str) -> str:
    """Its kernels without includes and without the host's half, for NVRTC.

    Args:
        text: of ``ms_deform_im2col_cuda.cuh``.

    Raises:
        StepError: it is none.
    """
    host = re.search(r"template\s*<typename scalar_t>\s*void ms_deformable_im2col_cuda\(", text)
    if host is None:
        raise StepError(f"{ORIGINAL}: no ms_deformable_im2col_cuda in it; is it Deformable-DETR's?")
    kernels = re.sub(r"(?m)^\s*#include.*$", "", text[: host.start()])
    return "typedef long long int64_t;\n" + kernels


def compile_original(text: str, arch: int) -> tuple[bytes, dict[str, bytes]]:
    """Its two kernels for heads of our width as a cubin, and the names they have in it.

    Args:
        text: of ``ms_deform_im2col_cuda.cuh``.
        arch: compute capability without its point.

    Raises:
        StepError: NVRTC refuses.
    """
    from cuda.bindings import nvrtc as compiler

    source = original_source(text).encode()
    _, program = compiler.nvrtcCreateProgram(source, b"original.cu", 0, [], [])
    try:
        names = (ORIGINAL_FORWARD, ORIGINAL_BACKWARD)
        for name in names:
            compiler.nvrtcAddNameExpression(program, name.encode())
        options = [f"--gpu-architecture=sm_{arch}".encode(), b"-default-device", b"--std=c++17"]
        (result,) = compiler.nvrtcCompileProgram(program, len(options), options)
        if int(result):
            _, size = compiler.nvrtcGetProgramLogSize(program)
            log = bytearray(size)
            compiler.nvrtcGetProgramLog(program, log)
            raise StepError(f"{ORIGINAL}: {bytes(log).decode(errors='replace')[:300]}")
        _, size = compiler.nvrtcGetCUBINSize(program)
        code = bytearray(size)
        compiler.nvrtcGetCUBIN(program, code)
        lowered = {n: compiler.nvrtcGetLoweredName(program, n.encode())[1] for n in names}
        return bytes(code), lowered
    finally:
        compiler.nvrtcDestroyProgram(program)


def original(step: Step) -> Contender | str:
    """Deformable-DETR's own kernels, fp32, launched as its launchers do; or why not."""
    path = None if step.third_party is None else step.third_party / ORIGINAL
    if path is None or not path.is_file():
        return f"no {ORIGINAL} below --third-party"
    reason = nvrtc.compiler_unavailable_reason()
    if reason is not None:
        return reason
    text = path.read_text(encoding="utf-8", errors="replace")
    if step.dry:
        compile_original(text, 90)
        return "compiled for sm_90; it runs on a GPU only"
    major, minor = torch.cuda.get_device_capability()
    code, names = compile_original(text, 10 * major + minor)
    return _launched(step, code, names)


def _launched(step: Step, code: bytes, names: dict[str, bytes]) -> Contender:
    from cuda.bindings import driver

    torch.zeros(1, device=step.device)  # makes the context
    result, library = driver.cuLibraryLoadData(code, [], [], 0, [], [], 0)
    if int(result):
        raise StepError(f"{ORIGINAL}: the driver does not take it: {result.name}")
    kernels = {n: driver.cuLibraryGetKernel(library, low)[1] for n, low in names.items()}
    shapes = step.size(SPATIAL_SHAPES, TOY_SHAPES)
    sizes = torch.tensor(shapes, device=step.device)
    starts = torch.tensor(
        [sum(h * w for h, w in shapes[:k]) for k in range(len(shapes))], device=step.device
    )

    def launch(
        name: str, threads: int, before: Sequence[Tensor], inputs: Inputs, after: Sequence[Tensor]
    ) -> None:
        value, locations, weights = inputs
        batch, tokens, heads, channels = value.shape
        queries, points = locations.shape[1], locations.shape[4]
        n = batch * queries * heads * channels
        numbers = (batch, tokens, heads, channels, len(shapes), queries, points)
        tensors = (*before, value, sizes, starts, locations, weights)
        values = (n, *(t.data_ptr() for t in tensors), *numbers, *(t.data_ptr() for t in after))
        types = (
            ctypes.c_int,
            *[ctypes.c_void_p] * len(tensors),
            *[ctypes.c_int] * len(numbers),
            *[ctypes.c_void_p] * len(after),
        )
        stream = driver.CUstream(torch.cuda.current_stream().cuda_stream)
        (result,) = driver.cuLaunchKernel(
            driver.CUfunction(int(kernels[name])), math.ceil(n / threads), 1, 1, threads, 1, 1, 0,
            stream, (values, types), 0,
        )  # fmt: skip
        if int(result):
            raise StepError(f"{ORIGINAL}: launch failed: {result.name}")

    def forward(*inputs: Tensor) -> Tensor:
        value, locations, _ = inputs
        out = value.new_zeros(value.shape[0], locations.shape[1], *value.shape[2:])
        launch(ORIGINAL_FORWARD, FORWARD_THREADS, (), inputs, (out,))
        return out.flatten(2)

    def backward(grad_out: Tensor, *inputs: Tensor) -> list[Tensor]:
        grads = [torch.zeros_like(x) for x in inputs]
        launch(ORIGINAL_BACKWARD, BACKWARD_THREADS, (grad_out,), inputs, grads)
        return grads

    return Contender(forward, backward=backward)


# --- others ---------------------------------------------------------------------------------------


def msda_triton(step: Step) -> Contender | str:
    """Its Triton kernels; not its public function, which falls back to PyTorch without a word."""
    folder = None if step.third_party is None else step.third_party / "msda-triton"
    if folder is None or not folder.is_dir():
        return "no msda-triton below --third-party"
    sys.path[:0] = [str(folder), str(folder / "src")]
    try:
        from msda_triton import frontend
    except ImportError as error:
        return str(error)
    sizes = torch.tensor(step.size(SPATIAL_SHAPES, TOY_SHAPES), device=step.device)
    run = frontend.triton_multiscale_deformable_attention
    modes = {"padding_mode": "zeros", "align_corners": False}
    modes = {k: v for k, v in modes.items() if k in inspect.signature(run).parameters}

    def forward(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        out: Tensor = run(value, sizes, locations, weights, *modes.values())
        return out.flatten(2)

    return Contender(forward, (torch.float32, torch.float16))


def transformers(step: Step) -> Contender | str:
    """``grid_sample`` per level, as ``transformers`` has it."""
    try:
        from transformers.models.deformable_detr.modeling_deformable_detr import (
            MultiScaleDeformableAttention,
        )
    except ImportError as error:
        return str(error).splitlines()[0]
    shapes = step.size(SPATIAL_SHAPES, TOY_SHAPES)
    sizes = torch.tensor(shapes, device=step.device)
    starts = torch.tensor([sum(h * w for h, w in shapes[:k]) for k in range(len(shapes))])
    module, starts = MultiScaleDeformableAttention(), starts.to(step.device)

    def forward(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        out: Tensor = module(value, sizes, shapes, starts, locations, weights, 64)
        return out

    return Contender(forward, (torch.float32, torch.bfloat16))


def compiled_reference(step: Step) -> Contender | str:
    """Our PyTorch form by ``torch.compile``."""
    if step.dry:
        return "compiling takes long and says nothing on a CPU"
    return Contender(torch.compile(reference(step), dynamic=False), (torch.float32, torch.bfloat16))


OTHERS: dict[str, Callable[[Step], Contender | str]] = {
    "original": original,
    "msda_triton": msda_triton,
    "transformers": transformers,
    "compiled_reference": compiled_reference,
}


def _autograd(forward: Forward, grad_out: Tensor, inputs: Inputs) -> Callable[[], object]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = forward(*leaves)
    return lambda: torch.autograd.grad(out, leaves, grad_out, retain_graph=True)


def _measure(
    step: Step, contender: Contender, dtype: torch.dtype, with_grad: bool
) -> dict[str, Any]:
    """Microseconds and errors of one operator in one type, on the inputs all get."""
    inputs, grad_out = make_inputs(step, step.size(5, 1), None, dtype, 0)
    inputs = (inputs[0], *(x.to(dtype) for x in inputs[1:]))
    exact = [x.double().requires_grad_() for x in inputs]
    expected = reference(step)(*exact)
    grads = torch.autograd.grad(expected, exact, grad_out.double())
    row: dict[str, Any] = {}
    replays = step.size((10, 20), (1, 1))
    with torch.no_grad():
        row["error"] = relative_error(contender.forward(*inputs), expected.detach())
        row["forward_us"] = device_us([lambda: contender.forward(*inputs)], step.device, *replays)
    if not with_grad:
        return row
    if contender.backward is not None:
        run = contender.backward
        found = run(grad_out, *inputs)
        row["backward_us"] = device_us([lambda: run(grad_out, *inputs)], step.device, *replays)
    else:
        call = _autograd(contender.forward, grad_out, inputs)
        found = call()
        # autograd has threads and streams of its own: timed one by one, the host included
        row["backward_us"] = device_us([call] * 5, step.device, *replays, graph=False)
    row["grad_error"] = max(relative_error(a, b) for a, b in zip(found, grads, strict=True))
    return row


def _ours(step: Step) -> Contender:
    backend = step.size("cuda", "auto")
    shapes = [side for shape in step.size(SPATIAL_SHAPES, TOY_SHAPES) for side in shape]

    def backward(grad_out: Tensor, value: Tensor, *places: Tensor) -> Sequence[Tensor]:
        grads: Sequence[Tensor] = torch.ops.vmt.ms_deform_attn_backward(
            grad_out, value, shapes, *places, backend
        )
        return grads

    return Contender(kernel(step), (torch.float32, torch.float16, torch.bfloat16), backward)


def baselines(step: Step) -> None:
    """Every operator that is here, in every type it takes; results against fp64, times to ours."""
    ours = {}
    for dtype in _ours(step).dtypes:
        name = str(dtype).removeprefix("torch.")
        row = ours[name] = _measure(step, _ours(step), dtype, with_grad=True)
        limit = FULL_TOLERANCE if dtype == torch.float32 else HALF_TOLERANCE
        if max(row["error"], row["grad_error"]) > limit:
            raise StepError(f"ours, {name}, differs from the reference: {row}.")
        step.put(ours=ours)
    told = []
    for name, load in OTHERS.items():
        try:
            contender = load(step)
        except (StepError, OpError, RuntimeError, OSError) as problem:
            step.put(**{name: {"failed": str(problem).splitlines()[0]}})
            continue
        if isinstance(contender, str):
            step.put(**{name: {"absent": contender}})
            continue
        rows: dict[str, Any] = {}
        for dtype in contender.dtypes:
            kind = str(dtype).removeprefix("torch.")
            rows[kind] = row = _try(step, contender, dtype)
            if "forward_us" in row:
                row["ratio"] = row["forward_us"] / ours[kind]["forward_us"]
                told.append(f"{name} {kind} {row['ratio']:.1f}x")
            step.put(**{name: rows})
    step.put(
        summary=f"ours {ours['float32']['forward_us']:.0f} us; " + (", ".join(told) or "alone")
    )


def _try(step: Step, contender: Contender, dtype: torch.dtype) -> dict[str, Any]:
    """``_measure``; what others raise is a row, too. Without gradients where these fail."""
    row: dict[str, Any] = {}
    for with_grad in (True, False):
        try:
            return _measure(step, contender, dtype, with_grad) | row
        except (RuntimeError, TypeError, ValueError, StepError) as problem:
            row = {"failed": (str(problem).splitlines() or ["?"])[0]}
    return row
