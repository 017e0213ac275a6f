"""Steps of ``run_gpu.py`` about the card and the operator: what it can do, what we get out of it.

Not a script.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_deform_attn import CHANNELS, DECODER_QUERIES, HEADS, POINTS, SPATIAL_SHAPES
from common import REPO
from gpu_common import (
    Step,
    StepError,
    device_us,
    host_us,
    peak,
    relative_error,
    reset_peak,
    wall_seconds,
)
from torch import Tensor

from vmt.apps.doctor import examine
from vmt.ops import ms_deform_attn
from vmt.ops.deform_attn import cuda, ms_deform_attn_reference

TOY_SHAPES = [(4, 6), (2, 3)]
#: Offsets of trained encoders reach a few cells; (x, y) noise beside a head's own direction.
SPREAD_CELLS = 3.0
#: Bytes of all input sets together: more than any cache holds.
ROTATION_BYTES = 200e6
LEAST_SETS = 4
HALF_TOLERANCE, FULL_TOLERANCE = 2e-2, 1e-4

Inputs = tuple[Tensor, Tensor, Tensor]


# --- what the card can do -------------------------------------------------------------------------


def env(step: Step) -> None:
    """What ``vmt doctor`` says, and ceilings of this card: memory, L2, atomics, tensor cores."""
    facts = examine()
    # bundles lack packages on purpose, and a step that needs one says so
    bad = [fact for fact in facts if fact.state == "broken" and fact.group != "packages"]
    broken = [f"{fact.name}: {fact.value}" for fact in bad]
    step.put(doctor=[f"{f.state} {f.name}: {f.value}" for f in facts], card=_card())
    device, n = step.device, step.size(8192, 64)
    source = torch.empty(step.size(1 << 30, 1 << 12), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), step)
    step.put(copy_gb_per_s=2 * source.nbytes / seconds / 1e9)
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    step.put(matmul_bf16_tflops=2 * n**3 / _seconds(lambda: a @ b, step) / 1e12)
    rows = step.size(3_000_000, 300)
    for size in (64, 128):
        table = torch.randn(step.size(12_000_000, 12_800) // size, size // 4, device=device)
        index = torch.randint(len(table), (rows,), device=device)
        out = torch.empty(rows, size // 4, device=device)
        seconds = _seconds(lambda t=table, i=index, o=out: torch.index_select(t, 0, i, out=o), step)
        step.put(**{f"gather_{size}_byte_rows_gb_per_s": rows * size / seconds / 1e9})
    seconds = _seconds(lambda: table.index_add_(0, index, out), step)
    step.put(atomic_add_128_byte_rows_gb_per_s=rows * 128 / seconds / 1e9)
    if broken and not step.dry:
        raise StepError("vmt doctor: " + "; ".join(broken))
    step.put(
        summary=f"copy {step.results['copy_gb_per_s']:.0f} GB/s, bf16 "
        f"{step.results['matmul_bf16_tflops']:.0f} TFLOP/s, row gather "
        f"{step.results['gather_64_byte_rows_gb_per_s']:.0f} GB/s"
    )


def _seconds(call: Callable[[], object], step: Step) -> float:
    return sorted(wall_seconds(call, step.device, 5, 2))[2]


def _card() -> str:
    words = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem", "--format=csv"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "nvidia-smi is not there"
    return done.stdout.strip()


# --- the operator ---------------------------------------------------------------------------------


def make_inputs(
    step: Step, batch: int, queries: int | None, dtype: torch.dtype, seed: int
) -> tuple[Inputs, Tensor]:
    """Inputs as a trained encoder gives them (``queries`` None) or a decoder; and a gradient.

    Every head looks along a direction of its own, its K points one after the other, with noise.
    """
    shapes, device = step.size(SPATIAL_SHAPES, TOY_SHAPES), step.device
    generator = torch.Generator(device).manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    sizes = torch.tensor([(w, h) for h, w in shapes], device=device)[None, None, None, :, None]
    tokens = sum(h * w for h, w in shapes)
    if queries is None:
        queries = tokens
        centres = [
            torch.stack(
                torch.meshgrid(
                    (torch.arange(w, device=device) + 0.5) / w,
                    (torch.arange(h, device=device) + 0.5) / h,
                    indexing="xy",
                ),
                -1,
            ).flatten(0, 1)
            for h, w in shapes
        ]
        reference = torch.cat(centres)[None, :, None, None, None]
    else:
        reference = torch.rand(batch, queries, 1, 1, 1, 2, generator=generator, device=device)
    angle = torch.arange(HEADS, device=device) * (2 * math.pi / HEADS)
    direction = torch.stack([angle.cos(), angle.sin()], -1)[:, None, None]
    reach = direction * torch.arange(1, POINTS + 1, device=device)[:, None]  # (M, 1, K, 2)
    shape = (batch, queries, HEADS, len(shapes), POINTS)
    locations = reference + (reach + 0.5 * noise(*shape, 2)) / sizes
    weights = noise(*shape).flatten(3).softmax(-1).view(shape)
    value = noise(batch, tokens, HEADS, CHANNELS).to(dtype)
    return (value, locations, weights), noise(batch, queries, HEADS * CHANNELS).to(dtype)


def kernel(step: Step) -> Callable[..., Tensor]:
    """Our operator; in a dry run whatever runs here."""
    shapes, backend = step.size(SPATIAL_SHAPES, TOY_SHAPES), step.size("cuda", "auto")
    return lambda *inputs: ms_deform_attn(inputs[0], shapes, *inputs[1:], backend=backend)


def reference(step: Step) -> Callable[..., Tensor]:
    """The plain PyTorch form."""
    shapes = step.size(SPATIAL_SHAPES, TOY_SHAPES)
    return lambda *inputs: ms_deform_attn_reference(inputs[0], shapes, *inputs[1:])


def errors_against_double(step: Step, batch: int, dtype: torch.dtype) -> dict[str, float]:
    """Relative errors of output and gradients against the reference in fp64, same device."""
    inputs, grad_out = make_inputs(step, batch, None, dtype, batch)
    results = []
    for call, cast in ((kernel(step), lambda x: x), (reference(step), Tensor.double)):
        leaves = [cast(x).detach().requires_grad_() for x in inputs]
        out = call(*leaves)
        grads = torch.autograd.grad(out, leaves, cast(grad_out))
        results.append([out.detach(), *grads])
    names = ("out", "grad_value", "grad_locations", "grad_weights")
    return {
        name: relative_error(one, other) for name, one, other in zip(names, *results, strict=True)
    }


def op(step: Step) -> None:
    """Kernels in a CUDA graph over rotating inputs; the host's share of an eager call apart."""
    device, rows = step.device, []
    step.put(rows=rows)
    cold = _cold_compile_seconds(step)
    step.put(cold_compile_seconds=cold)
    cases: list[tuple[str, int, int | None]] = [
        ("encoder", 5, None),
        ("encoder", 2, None),
        ("encoder", 36, None),
        ("decoder", 5, DECODER_QUERIES),
    ]
    for name, batch, queries in step.size(cases, [("encoder", 1, None), ("decoder", 1, 7)]):
        for dtype in (torch.float32, torch.bfloat16):
            row = {"case": name, "batch": batch, "dtype": str(dtype).removeprefix("torch.")}
            rows.append(row | _time_case(step, batch, queries, dtype))
            step.put(rows=rows)
        reset_peak(device)
    first = {row["dtype"]: row for row in rows if row["case"] == "encoder"}
    step.put(
        summary=f"encoder B={rows[0]['batch']}: fp32 {rows[0]['forward_us']:.0f} us forward, "
        f"{rows[0]['backward_us']:.0f} backward; bf16 {rows[1]['forward_us']:.0f} and "
        f"{rows[1]['backward_us']:.0f}; {len(first)} types"
    )


def _time_case(step: Step, batch: int, queries: int | None, dtype: torch.dtype) -> dict[str, Any]:
    device, call = step.device, kernel(step)
    inputs, grad_out = make_inputs(step, batch, queries, dtype, 0)
    floor = sum(x.nbytes for x in inputs) + grad_out.nbytes
    count = max(LEAST_SETS, math.ceil(ROTATION_BYTES / floor)) if not step.dry else 2
    sets = [make_inputs(step, batch, queries, dtype, k) for k in range(min(count, 16))]
    replays, per_graph = step.size((10, 20), (1, 1))
    reset_peak(device)
    with torch.no_grad():
        forwards = [lambda x=x: call(*x) for x, _ in sets]
        forward = device_us(forwards, device, replays, per_graph)
        host = host_us(forwards, device, step.size(20, 1))
        plain = [lambda x=x: reference(step)(*x) for x, _ in sets[:LEAST_SETS]]
        eager = min(wall_seconds(plain[0], device, step.size(3, 1), 1)) * 1e6
    backend = step.size("cuda", "auto")
    shapes = [side for shape in step.size(SPATIAL_SHAPES, TOY_SHAPES) for side in shape]
    backwards = [
        lambda x=x, g=g: torch.ops.vmt.ms_deform_attn_backward(g, x[0], shapes, x[1], x[2], backend)
        for x, g in sets
    ]
    backward = device_us(backwards, device, replays, per_graph)
    return {
        "input_sets": len(sets),
        "forward_us": forward,
        "backward_us": backward,
        "host_us": host,
        "reference_forward_us": eager,
        "floor_mb": floor / 1e6,
        "forward_gb_per_s": floor / forward / 1e3,
        **peak(device),
    }


def _cold_compile_seconds(step: Step) -> float | None:
    """NVRTC on one program, for this card; needs no GPU."""
    if cuda.compiler_unavailable_reason() is not None:
        return None
    major, minor = (9, 0) if step.dry else torch.cuda.get_device_capability()
    started = time.perf_counter()
    cuda.compile_program(
        10 * major + minor, cuda.ProgramSpec(torch.float32, torch.float32, CHANNELS)
    )
    return time.perf_counter() - started


# --- others ---------------------------------------------------------------------------------------


def baselines(step: Step) -> None:
    """Other people's operators on our inputs, where they are there; their results against ours."""
    inputs, _ = make_inputs(step, step.size(5, 1), None, torch.float32, 0)
    contenders: dict[str, Callable[..., Tensor]] = {"ours": kernel(step)}
    if not step.dry:  # compiling takes seconds and is the same on a CPU
        contenders["compiled_reference"] = torch.compile(reference(step), dynamic=False)
    for name, load in (("msda_triton", _msda_triton), ("transformers", _transformers)):
        found = load(step)
        if isinstance(found, str):
            step.put(**{name: {"absent": found}})
        else:
            contenders[name] = found
    expected = reference(step)(*inputs)
    for name, call in contenders.items():
        try:
            with torch.no_grad():
                error = relative_error(call(*inputs), expected)
                us = device_us(
                    [lambda c=call: c(*inputs)], step.device, *step.size((10, 20), (1, 1))
                )
        except (RuntimeError, TypeError, ValueError) as problem:
            step.put(**{name: {"failed": str(problem).splitlines()[0]}})
            continue
        if error > FULL_TOLERANCE and name == "ours":
            raise StepError(f"ours differs from the reference by {error:.1e}.")
        step.put(**{name: {"forward_us": us, "error": error}})
    ours = step.results["ours"]["forward_us"]
    ratios = [
        f"{name} {found['forward_us'] / ours:.1f}x"
        for name, found in step.results.items()
        if isinstance(found, dict) and "forward_us" in found and name != "ours"
    ]
    step.put(summary=f"ours {ours:.0f} us" + "".join(f", {ratio}" for ratio in ratios))


def _msda_triton(step: Step) -> Callable[..., Tensor] | str:
    folder = None if step.third_party is None else step.third_party / "msda-triton"
    if folder is None or not folder.is_dir():
        return "no --third-party folder with msda-triton in it"
    sys.path[:0] = [str(folder), str(folder / "src")]
    try:
        from msda_triton import multiscale_deformable_attention
    except ImportError as error:
        return str(error)
    sizes = torch.tensor(step.size(SPATIAL_SHAPES, TOY_SHAPES), device=step.device)

    def call(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        out: Tensor = multiscale_deformable_attention(value, sizes, locations, weights)
        return out.flatten(2) if out.dim() == 4 else out

    return call


def _transformers(step: Step) -> Callable[..., Tensor] | str:
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

    def call(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        out: Tensor = module(value, sizes, shapes, starts, locations, weights, 64)
        return out

    return call


# --- tools of the CUDA toolkit ------------------------------------------------------------------

#: Both kernels once, for three types and three head widths; inputs are made on the CPU.
_PROGRAM = """
import sys, torch
from vmt.ops import ms_deform_attn
device, backend = sys.argv[1], sys.argv[2]
torch.manual_seed(0)
for channels in (32, 33, 6):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        value = torch.randn(1, 30, 2, channels).to(dtype)
        locations, weights = torch.rand(1, 17, 2, 2, 9, 2) * 1.4 - 0.2, torch.rand(1, 17, 2, 2, 9)
        leaves = [x.to(device).requires_grad_() for x in (value, locations, weights)]
        out = ms_deform_attn(leaves[0], [(4, 6), (2, 3)], *leaves[1:], backend=backend)
        grads = torch.autograd.grad(out.float().sum(), leaves)
        assert all(x.isfinite().all() for x in (out, *grads)), (channels, dtype)
print("done")
"""


def _under(step: Step, tool: str, options: Sequence[str]) -> str | None:
    """What a tool prints about both kernels; None where it is not installed."""
    found = shutil.which(tool)
    if found is None and not step.dry:
        return None
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "kernels.py"
        script.write_text(_PROGRAM, encoding="utf-8")
        prefix = [] if step.dry or found is None else [found, *options]
        words = [
            *prefix,
            sys.executable,
            str(script),
            *step.size(("cuda", "cuda"), ("cpu", "auto")),
        ]
        done = subprocess.run(words, capture_output=True, text=True, cwd=REPO)
    text = done.stdout + done.stderr
    if "done" not in text.split():
        raise StepError(f"{tool}: " + " | ".join(text.strip().splitlines()[-6:]))
    return text


def sanitizer(step: Step) -> None:
    """``compute-sanitizer``: memcheck, then racecheck, of both kernels."""
    only = ["--kernel-regex", "kns=vmt_deform_attn"]
    for check in step.size(("memcheck", "racecheck"), ("memcheck",)):
        text = _under(step, "compute-sanitizer", ["--tool", check, *only])
        if text is None:
            step.put(summary="compute-sanitizer is not installed")
            return
        lines = [line for line in text.splitlines() if "ERROR SUMMARY" in line or "hazard" in line]
        step.put(**{check: lines})
        if any("0 errors" not in line and "0 hazards" not in line for line in lines):
            raise StepError(f"{check}: " + " | ".join(lines))
        if not lines and not step.dry:
            raise StepError(f"{check} printed no summary.")
    step.put(summary="no errors" if not step.dry else "dry")


def ncu(step: Step) -> None:
    """Nsight Compute's own numbers of four launches."""
    metrics = (
        "l1tex__t_sector_hit_rate.pct,lts__t_sector_hit_rate.pct,"
        "sm__throughput.avg.pct_of_peak_sustained_elapsed,"
        "lts__throughput.avg.pct_of_peak_sustained_elapsed,"
        "launch__registers_per_thread,sm__warps_active.avg.pct_of_peak_sustained_active"
    )
    options = ["--clock-control", "none", "--launch-count", "4", "--metrics", metrics, "--csv"]
    text = _under(step, "ncu", [*options, "--kernel-name", "regex:vmt_deform_attn"])
    if text is None:
        step.put(summary="ncu is not installed")
        return
    rows = [line for line in text.splitlines() if line.startswith('"')]
    step.put(rows=rows, summary=f"{len(rows)} rows")
