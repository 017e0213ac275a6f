#!/usr/bin/env python3
"""What deformable attention costs on a GPU, as far as that can be known without one.

Registers, shared memory and instructions of every kernel, read from its cubin; and the host's
microseconds of a call, with kernels and driver replaced by ones that do nothing. Instructions of
the inner loop are per sample of one warp, which holds four queries in fp32 and eight in bf16
forward, four in both backward; the original, whose counts `--third-party` adds, holds one. They
need NVIDIA's nvdisasm, which comes with triton. What misses the first cache is simulated, with
queries in rows and in squares. Times on a GPU are those of `run_gpu.py`.

Example:
    python benchmarks/bench_deform_attn_gpu.py --architectures 80 90 120
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import gpu_operator
import torch
from bench_deform_attn import CHANNELS, HEADS, POINTS, SPATIAL_SHAPES
from common import BenchmarkError, benchmark_parser, machine, parse, run, write_json
from gpu_baselines import ORIGINAL, compile_original
from gpu_cache import in_rows, in_squares, l2_megabytes, tokens_read
from gpu_common import Step
from gpu_cubin import cost_row, kernel_costs
from gpu_operator import make_inputs

from vmt.ops import fused_ms_deform_attn, ms_deform_attn
from vmt.ops.deform_attn import backends, cuda, nvrtc
from vmt.ops.deform_attn.nvrtc import ProgramSpec

DRY_RUN = {"architectures": [90], "calls": 20, "images": 1, "shapes": [(6, 10), (3, 5)]}
ARCHITECTURES = [75, 80, 90, 100, 120]
CALLS = 5000
IMAGES = 5
SHAPES = [(2, 3), (1, 1), (1, 1), (1, 1)]
_COLUMNS = ("registers", "local_bytes", "shared_bytes", "loop_per_sample")


def costs_of(arch: int) -> list[dict[str, Any]]:
    """A row per kernel and type."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for fused in (False, True):
            spec = ProgramSpec(dtype, dtype if fused else torch.float32, CHANNELS, fused)
            code = nvrtc.compile_program(arch, spec)
            rows += [
                {"arch": arch, "type": str(dtype).removeprefix("torch."), "fused": fused}
                | {"kernel": name.removeprefix("vmt_deform_attn_")}
                | _per_sample(cost_row(code, name))
                for name in kernel_costs(code)
            ]
    return rows


def _per_sample(row: dict[str, Any]) -> dict[str, Any]:
    row.pop("loop_by_name", None)
    instructions, samples = row.pop("loop_instructions", None), row.pop("loop_samples", None)
    if instructions:
        row["loop_per_sample"] = round(instructions / samples, 1)
    return row


def costs_of_original(folder: Path, arch: int) -> list[dict[str, Any]]:
    """The same of Deformable-DETR's kernels in fp32; a turn of their loop is one sample."""
    path = folder / ORIGINAL
    if not path.is_file():
        raise BenchmarkError(f"--third-party {folder}: there is no {ORIGINAL} in it.")
    code, names = compile_original(path.read_text(encoding="utf-8", errors="replace"), arch)
    rows = []
    for name, lowered in names.items():
        row = cost_row(code, lowered.decode())
        row["loop_samples"] = 1
        rows.append({"arch": arch, "type": "float32", "kernel": name} | _per_sample(row))
    return rows


def cache_misses(shapes: Sequence[tuple[int, int]], images: int) -> list[dict[str, Any]]:
    """A row per type: megabytes that a trained encoder's forward kernel asks of L2, simulated."""
    with mock.patch.object(gpu_operator, "TOY_SHAPES", list(shapes)):
        (_, locations, _), _ = make_inputs(Step(Path(), dry=True), 1, None, torch.float32, 0)
    tokens, rows = tokens_read(locations[0], shapes), []
    for dtype in (torch.float32, torch.bfloat16):
        block = cuda.queries_per_block(dtype, CHANNELS, cuda.FORWARD)
        row: dict[str, Any] = {"type": str(dtype).removeprefix("torch."), "images": images}
        for name, order in (("rows", in_rows(shapes)), ("squares", in_squares(shapes, 4))):
            megabytes = l2_megabytes(tokens, order, images, dtype.itemsize, block)
            row[f"l2_megabytes_in_{name}"] = round(megabytes, 1)
        rows.append(row)
    return rows


#: NVIDIA's driver that launches nothing; a context is current.
_IDLE_DRIVER = SimpleNamespace(
    cuCtxGetCurrent=lambda: (0, 1),
    cuLaunchKernel=lambda *args: (0,),
    CUstream=lambda handle: handle,
)
_STREAM = SimpleNamespace(cuda_stream=1)


def _driver() -> Any:
    return _IDLE_DRIVER


def _device() -> int:
    return 0


def _stream(device: int) -> Any:
    return _STREAM


@contextlib.contextmanager
def idle_gpu() -> Iterator[None]:
    """Tensors of the CPU go through the code for GPUs, whose kernels do nothing."""
    kernels = {
        (0, ProgramSpec(torch.float32, torch.float32, CHANNELS, fused), name): cuda.Kernel(0, 1, 1)
        for fused in (False, True)
        for name in cuda.BLOCKS
    }
    with (
        mock.patch.dict(backends.BACKENDS, {"cpu": _AsCpu}),
        mock.patch.object(cuda, "_driver", _driver),
        mock.patch.object(cuda, "_ran", kernels),
        mock.patch("torch.cuda.current_device", _device),
        mock.patch("torch.cuda.current_stream", _stream),
    ):
        yield


class _AsCpu:
    """The back end for GPUs under the name of the CPU's."""

    unavailable_reason = staticmethod(lambda: None)
    forward = staticmethod(cuda.forward)
    backward = staticmethod(cuda.backward)
    fused_forward = staticmethod(cuda.fused_forward)
    fused_backward = staticmethod(cuda.fused_backward)


def host_microseconds(calls: int) -> dict[str, float]:
    """Medians of calls of one query, by operator and mode."""
    tokens, levels = sum(h * w for h, w in SHAPES), len(SHAPES)
    value = torch.zeros(1, tokens, HEADS, CHANNELS)
    places = torch.zeros(1, 1, HEADS, levels, POINTS, 2)
    weights, points = torch.zeros(1, 1, HEADS, levels, POINTS), torch.zeros(1, 1, levels, 2)

    def given() -> torch.Tensor:
        return ms_deform_attn(value, SHAPES, places, weights)

    def fused() -> torch.Tensor:
        return fused_ms_deform_attn(value, SHAPES, places, weights, points)

    found = {}
    with idle_gpu():
        for name, call in (("given", given), ("fused", fused)):
            with torch.inference_mode():
                found[f"{name}, inference mode"] = _median_us(call, calls)
            with torch.no_grad():
                found[f"{name}, no_grad"] = _median_us(call, calls)
        value.requires_grad_()
        found["fused, with gradients"] = _median_us(fused, calls)
    return found


def _median_us(call: Callable[[], object], calls: int) -> float:
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1e6, 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, count, print and write the result file."""
    parser = benchmark_parser(__doc__, "deform_attn_gpu_costs.json")
    parser.add_argument("--architectures", type=int, nargs="+", default=ARCHITECTURES)
    parser.add_argument(
        "--calls", type=int, default=CALLS, help="timed calls (default %(default)s)"
    )
    parser.add_argument("--third-party", type=Path, help="folder with a clone of Deformable-DETR")
    parser.set_defaults(images=IMAGES, shapes=SPATIAL_SHAPES)
    args = parse(parser, argv, DRY_RUN)
    host = host_microseconds(args.calls)
    rows: list[dict[str, Any]] = []
    originals: list[dict[str, Any]] = []
    reason = nvrtc.compiler_unavailable_reason()
    if reason is not None:
        print(f"The kernels cannot be compiled: {reason}.", file=sys.stderr)
    else:
        for arch in args.architectures:
            rows += costs_of(arch)
            if args.third_party is not None:
                originals += costs_of_original(args.third_party, arch)
    for row in [*rows, *originals]:
        name = f"sm_{row['arch']} {row['type']} {'fused ' if row.get('fused') else ''}"
        print(name + row["kernel"], *(f"{c} {row.get(c)}" for c in _COLUMNS))
    misses = cache_misses(args.shapes, args.images)
    print("host, microseconds:", host)
    print("from L2, simulated:", *misses, sep="\n")
    write_json(
        args.output,
        {
            "what": "kernels of deformable attention, D=32, from their cubins; microseconds of a "
            "call on the host without driver and kernel",
            "machine": machine(),
            "host_us": host,
            "cache_misses_simulated": misses,
            "rows": rows,
            "original": originals,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
