"""Steps of ``run_gpu.py`` about the card and the operator: what it can do, what we get out of it.

Not a script.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
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
from gpu_cubin import cost_row, kernel_costs
from torch import Tensor

from vmt.apps.doctor import examine
from vmt.ops import fused_ms_deform_attn, ms_deform_attn
from vmt.ops.deform_attn import cuda, ms_deform_attn_reference, nvrtc
from vmt.ops.deform_attn.nvrtc import ProgramSpec
from vmt.ops.varlen_attention import has_varlen_attention, varlen_attention
from vmt.utils.cache import CACHE_VARIABLE

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
    step.put(copy_gb_per_s=_copy_gb_per_s(step))
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


def _copy_gb_per_s(step: Step) -> float:
    """Bytes read and written by a copy of 1 GiB: the ceiling that shares are of."""
    source = torch.empty(step.size(1 << 30, 1 << 12), dtype=torch.uint8, device=step.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source), step) / 1e9


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


def fused_inputs(step: Step, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same for the fused operator: value, offsets, logits and reference points."""
    value, locations, weights = inputs
    shapes = step.size(SPATIAL_SHAPES, TOY_SHAPES)
    sizes = torch.tensor([(w, h) for h, w in shapes], device=step.device)[:, None]
    points = locations.mean((2, 4))  # (B, Q, L, 2)
    offsets = (locations - points[:, :, None, :, None]) * sizes
    return value, offsets, weights.log().to(value.dtype), points


def fused_kernel(step: Step) -> Callable[..., Tensor]:
    """Our fused operator; in a dry run whatever runs here."""
    shapes, backend = step.size(SPATIAL_SHAPES, TOY_SHAPES), step.size("cuda", "auto")
    return lambda *inputs: fused_ms_deform_attn(inputs[0], shapes, *inputs[1:], backend=backend)


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
    step.put(cold_compile_seconds=_cold_compile_seconds(step), copy_gb_per_s=_copy_gb_per_s(step))
    step.put(kernel_costs=_kernel_costs(step))
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
    step.put(attention=_attention(step))
    first = {row["dtype"]: row for row in rows if row["case"] == "encoder"}
    step.put(
        summary=f"encoder B={rows[0]['batch']}: fp32 {rows[0]['forward_us']:.0f} us forward, "
        f"{rows[0]['backward_us']:.0f} backward; bf16 {rows[1]['forward_us']:.0f} and "
        f"{rows[1]['backward_us']:.0f}, fused {rows[1]['fused_forward_us']:.0f} "
        f"({100 * rows[1]['fused_share_of_copy']:.0f} % of a copy); {len(first)} types"
    )


def _time_case(step: Step, batch: int, queries: int | None, dtype: torch.dtype) -> dict[str, Any]:
    device = step.device
    inputs, grad_out = make_inputs(step, batch, queries, dtype, 0)
    floor = sum(x.nbytes for x in inputs) + grad_out.nbytes
    count = max(LEAST_SETS, math.ceil(ROTATION_BYTES / floor)) if not step.dry else 2
    sets = [make_inputs(step, batch, queries, dtype, k) for k in range(min(count, 16))]
    replays = step.size((10, 20), (1, 1))
    reset_peak(device)
    row: dict[str, Any] = {"input_sets": len(sets), "floor_mb": floor / 1e6}
    fused = [(fused_inputs(step, x), g) for x, g in sets]
    fused_floor = sum(x.nbytes for x in fused[0][0]) + grad_out.nbytes
    with torch.no_grad():
        for name, call, given, least in (
            ("", kernel(step), sets, floor),
            ("fused_", fused_kernel(step), fused, fused_floor),
        ):
            calls = [lambda x=x, call=call: call(*x) for x, _ in given]
            us = device_us(calls, device, *replays)
            row[f"{name}forward_us"] = us
            row[f"{name}host_us"] = host_us(calls, device, step.size(20, 1))
            row[f"{name}forward_gb_per_s"] = least / us / 1e3
            row[f"{name}share_of_copy"] = least / us / 1e3 / step.results["copy_gb_per_s"]
        plain = reference(step)
        eager = wall_seconds(lambda: plain(*sets[0][0]), device, step.size(3, 1), 1)
    row["reference_forward_us"] = min(eager) * 1e6
    for name, calls in _backwards(step, sets, fused).items():
        row[f"{name}_us"] = device_us(calls, device, *replays)
    return row | peak(device)


def _attention(step: Step) -> list[dict[str, Any]]:
    """Bands of 36 frames, and squares of nodes: sequences in one call, and one by one."""
    device, rows = step.device, []
    generator = torch.Generator(device).manual_seed(0)
    for count, length in step.size(((36, 8000), (300, 50)), ((2, 5),)):
        lengths = [length + k % 7 for k in range(count)]
        for dtype in (torch.float32, torch.bfloat16):
            heads = [
                torch.randn(1, 4, sum(lengths), 16, generator=generator, device=device).to(dtype)
                for _ in range(3)
            ]

            def apart(heads: list[Tensor] = heads, lengths: list[int] = lengths) -> Tensor:
                parts = zip(*(x.split(lengths, 2) for x in heads), strict=True)
                return torch.cat([F.scaled_dot_product_attention(*x, scale=0.25) for x in parts], 2)

            def together(heads: list[Tensor] = heads, lengths: list[int] = lengths) -> Tensor:
                return varlen_attention(*heads, lengths, 0.25)

            row: dict[str, Any] = {"sequences": count, "tokens": length, "dtype": str(dtype)}
            calls = {"one_by_one": apart}
            if has_varlen_attention(device, 16):
                calls["together"] = together
                row["difference"] = relative_error(together(), apart())
            for name, call in calls.items():
                times = wall_seconds(call, device, step.size(5, 1), step.size(2, 0))
                row[f"{name}_us"] = sorted(times)[len(times) // 2] * 1e6
            if row.get("difference", 0.0) > HALF_TOLERANCE:
                raise StepError(f"attention in one call is off by {row['difference']:.1e}.")
            rows.append(row)
    return rows


def _backwards(
    step: Step, sets: Sequence[tuple[Inputs, Tensor]], fused: Sequence[tuple[Any, Tensor]]
) -> dict[str, list[Callable[[], object]]]:
    """Gradients by name; with and without sums in shared memory, where there are both kernels."""
    backend = step.size("cuda", "auto")
    flat = [side for shape in step.size(SPATIAL_SHAPES, TOY_SHAPES) for side in shape]
    operators = torch.ops.vmt
    calls: dict[str, list[Callable[[], object]]] = {
        "backward": [
            lambda x=x, g=g: operators.ms_deform_attn_backward(g, x[0], flat, *x[1:], backend)
            for x, g in sets
        ],
        "fused_backward": [
            lambda x=x, g=g: operators.fused_ms_deform_attn_backward(
                g, x[0], flat, *x[1:], False, backend
            )
            for x, g in fused
        ],
    }
    value, locations, _ = sets[0][0]
    if not step.dry and cuda.backward_kernel(value, locations.shape[1]) != cuda.BACKWARD:
        calls["plain_backward"] = [
            lambda x=x, g=g: cuda._backward(cuda.BACKWARD, g, x[0], flat, *x[1:]) for x, g in sets
        ]
    return calls


def _kernel_costs(step: Step) -> dict[str, Any]:
    """Registers, memory and instructions of the kernels for this card; needs no GPU."""
    if nvrtc.compiler_unavailable_reason() is not None:
        return {}
    arch = 90 if step.dry else _arch()
    costs = {}
    for dtype in step.size((torch.float32, torch.bfloat16), (torch.bfloat16,)):
        for fused in (False, True):
            logits = dtype if fused else torch.float32
            code = nvrtc.compile_program(arch, ProgramSpec(dtype, logits, CHANNELS, fused))
            if not code.startswith(b"\x7fELF"):  # a card newer than the compiler gets PTX
                return {}
            for name in kernel_costs(code):
                kind = f"{dtype} {'fused ' if fused else ''}{name}".removeprefix("torch.")
                costs[kind] = cost_row(code, name)
    return costs


def _arch() -> int:
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


#: Says how often it compiled and the seconds until the first result was there.
_FIRST_CALL = """
import sys, time, torch
from vmt.ops import ms_deform_attn
from vmt.ops.deform_attn import nvrtc
compiled, compile_program = [], nvrtc.compile_program
nvrtc.compile_program = lambda *args: compiled.append(args) or compile_program(*args)
started = time.perf_counter()
if sys.argv[1] == "cuda":
    value, places = torch.rand(1, 6, 1, 32).cuda(), torch.rand(1, 2, 1, 1, 4, 2).cuda()
    ms_deform_attn(value, [(2, 3)], places, places[..., 0], backend="cuda").cpu()
else:
    nvrtc.load_program(90, nvrtc.ProgramSpec(torch.float32, torch.float32, 32))
print(len(compiled), time.perf_counter() - started)
"""


def kernel_cache(step: Step) -> list[str]:
    """An empty VMT_CACHE_DIR: the first process compiles and keeps, the second only loads.

    Args:
        step: gets the seconds of both.

    Returns:
        What is wrong, in sentences.
    """
    if nvrtc.compiler_unavailable_reason() is not None:
        return []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, CACHE_VARIABLE: folder, "PYTHONPATH": str(REPO)}
        for _ in range(2):
            words = [sys.executable, "-c", _FIRST_CALL, step.size("cuda", "cpu")]
            done = subprocess.run(words, capture_output=True, text=True, env=environment)
            if done.returncode:
                return [f"a fresh {CACHE_VARIABLE}: {done.stderr.strip().splitlines()[-1]}"]
            count, seconds = done.stdout.split()
            files = sum(path.is_file() for path in Path(folder).rglob("*"))
            rows.append({"compiled": int(count), "seconds": float(seconds), "files": files})
    step.put(kernel_cache=rows)
    if [row["compiled"] for row in rows] != [1, 0] or rows[0]["files"] != 1:
        return [f"a fresh {CACHE_VARIABLE} should be filled once and read afterwards: {rows}"]
    return []


def _cold_compile_seconds(step: Step) -> float | None:
    """NVRTC on one program, for this card; needs no GPU."""
    if nvrtc.compiler_unavailable_reason() is not None:
        return None
    started = time.perf_counter()
    nvrtc.compile_program(
        90 if step.dry else _arch(), ProgramSpec(torch.float32, torch.float32, CHANNELS)
    )
    return time.perf_counter() - started
