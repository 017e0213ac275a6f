#!/usr/bin/env python3
"""Time and peak memory of the refinement stage: quadtree beside dense_band on the same inputs.

Moving blobs with wavy contours stand for objects. Untrained weights would mark arbitrary cells, so
both refiners get the regions that perfect weights would give them: dense_band's second stage is
told the true masks at H/4 (its band follows from them), the quadtree's nodes are the incoherent
regions of the annotation. Both still compute everything they would compute otherwise. dense_band
refines at most 12,000 points per frame and drops the others; the quadtree never reaches its limit
here. `quadtree_mixed` is the quadtree with MODEL.REFINER.REGION mixed, Mask Transfiner's
narrower definition of incoherence. `quadtree_near` has WINDOW 4, REACH_PX 4 and CONTEXT 3.

Seconds are the processor time of the measuring process, all threads together, so that other work on
the machine changes them little; wall_seconds stands beside them (GPU: both are wall time).
Each measurement is a process of its own that prepares the same inputs for every variant, loads what
a first operation loads, and gives freed memory back. Memory is the highest resident set of a first
pass (GPU: highest allocation) above what was there before, with large blocks leaving the process as
they are freed, as otherwise the C library's reuse of its heap would be measured; time is that of
later passes. Growth is measured around a base
setting, one quantity at a time; the slope is that of a straight line on log-log axes.

Example:
  python benchmarks/bench_refiner.py --frames 5 --tracklets 1 5 --heights 352
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from common import benchmark_parser, machine, measure_apart, parse, run, write_json
from torch import Tensor

from vmt.modeling.refiners.base import Refiner, RefinerInput
from vmt.modeling.refiners.dense_band import DenseBand
from vmt.modeling.refiners.quadtree.criterion import QuadtreeOutput
from vmt.modeling.refiners.quadtree.options import QuadtreeOptions
from vmt.modeling.refiners.quadtree.refiner import STRIDES, QuadtreeRefiner
from vmt.modeling.refiners.quadtree.regions import region_levels
from vmt.utils.memory import peak_mb, resident_mb

mpl.use("Agg")
DRY_RUN = {
    **{"heights": [64], "frames": 2, "tracklets": [1, 2], "repeats": 1},
    **{"growth_frames": [], "growth_heights": []},
}
GROWING = ("dense_band", "quadtree", "quadtree_window", "quadtree_mixed")
#: Measured with one size and number of frames.
VARIANTS = (*GROWING, "quadtree_near", "quadtree_no_qsg")
#: MODEL.REFINER.WINDOW of `quadtree_window` and `quadtree_near`; two more keys of the latter.
WINDOW = 4
REACH_PX, CONTEXT = 4.0, 3
#: Tracklets that are measured without grouping.
BASE_TRACKLETS = 5
#: Share of the frame that an object covers.
AREA = 0.1
#: As in configs: TEST.FRAME_CHUNK.
FRAME_CHUNK = 2


def blobs(num: int, frames: int, height: int, width: int) -> Tensor:
    """(N, T, H, W) bool: blobs with wavy contours, of equal area, that drift."""
    ry, rx = (side * math.sqrt(AREA / math.pi) for side in (height, width))
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(num, 1, 2, generator=generator) * 0.5 + 0.2
    phase = torch.rand(num, 1, 2, generator=generator) * 2 * math.pi
    centres = place + 0.02 * torch.arange(frames).view(1, -1, 1)
    cy, cx = (centres % 1.0 * torch.tensor([height, width]))[..., None, None].unbind(2)
    dy = (torch.arange(height).view(1, 1, -1, 1) - cy) / ry
    dx = (torch.arange(width).view(1, 1, 1, -1) - cx) / rx
    angle = torch.atan2(dy, dx)
    waves = [
        depth * torch.sin(count * angle + phase[..., i, None, None])
        for i, (count, depth) in enumerate(((5, 0.15), (12, 0.08)))
    ]
    return (dy**2 + dx**2).sqrt() < 1 + sum(waves)


def clip(args: argparse.Namespace) -> RefinerInput:
    """Random features of R50's widths around the objects."""
    T, N = args.frames, args.tracklets
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(args.device)

    (h8, w8), (h4, w4), (h2, w2) = ((-(-args.height // s), -(-args.width // s)) for s in STRIDES)
    masks = blobs(N, T, args.height, args.width)
    coarse = masks[..., 4::8, 4::8].float() * 8 - 4
    return RefinerInput(
        frames=normal(T, 3, args.height, args.width),
        stride4=normal(T, 256, h4, w4),
        stride2=normal(T, 64, h2, w2),
        fused=normal(T, 256, h8, w8),
        coarse_logits=coarse[..., :h8, :w8].to(args.device),
        query=normal(N, 256),
        centres_px=torch.full((N, T, 2), 100.0, device=args.device),
        boxes_cxcywh=torch.full((N, T, 4), 0.4, device=args.device),
        frame_size=(args.height, args.width),
        masks_gt=masks.to(args.device),
    )


class ToldBand(DenseBand):
    """``DenseBand`` whose second stage finds the true masks."""

    masks: Tensor
    frame = 0

    def _stage2(self, *args: Any) -> Tensor:
        computed = super()._stage2(*args)
        rows = slice(self.frame, self.frame + computed.shape[1])
        self.frame = rows.stop % self.masks.shape[1]
        return self.masks[:, rows, 2::4, 2::4].to(computed.dtype) * 8 - 4


class ToldQuadtree(QuadtreeRefiner):
    """``QuadtreeRefiner`` whose detector finds the true regions."""

    told: list[Tensor]

    def forward(self, inputs: RefinerInput) -> QuadtreeOutput:
        """Refine the regions."""
        return self.refine_regions(inputs, self.told)


def refiner_of(variant: str, inputs: RefinerInput) -> Refiner:
    """A refiner of R50's widths, as in configs/hq_ytvis."""
    torch.manual_seed(0)
    assert inputs.masks_gt is not None, "clip() gives them"
    if variant == "dense_band":
        band = ToldBand(256, True, frame_chunk=FRAME_CHUNK)
        band.masks = inputs.masks_gt
        return band
    near = variant == "quadtree_near"
    options = QuadtreeOptions(
        grouped=variant != "quadtree_no_qsg",
        window=WINDOW if near or variant == "quadtree_window" else 0,
        reach_px=REACH_PX if near else 0.0,
        context=CONTEXT if near else 1,
    )
    tree = ToldQuadtree(options, 256, True, frame_chunk=FRAME_CHUNK)
    sizes = [(-(-inputs.frame_size[0] // s), -(-inputs.frame_size[1] // s)) for s in STRIDES]
    kind = "mixed" if variant == "quadtree_mixed" else "incoherent"
    tree.told = region_levels(inputs.masks_gt, STRIDES, sizes, kind)
    return tree


def map_blocks_from(megabytes: int) -> None:
    """Blocks of that size are mapped on their own (glibc), so that freed ones leave the process."""
    libc = ctypes.CDLL(None)
    libc.mallopt(ctypes.c_int(-3), ctypes.c_int(megabytes << 20))  # M_MMAP_THRESHOLD
    libc.mallopt(ctypes.c_int(-1), ctypes.c_int(megabytes << 20))  # M_TRIM_THRESHOLD


def settle() -> None:
    """Load what the first convolution and product load; give freed memory back."""
    F.conv2d(torch.zeros(1, 64, 8, 8), torch.zeros(64, 64, 3, 3))
    F.scaled_dot_product_attention(*torch.zeros(3, 1, 4, 8, 16))
    F.linear(torch.zeros(64, 64), torch.zeros(64, 64))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


@torch.inference_mode()
def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in this process."""
    map_blocks_from(1)
    inputs = clip(args)
    refiner = refiner_of(args.variant, inputs).eval().to(args.device)
    on_gpu = args.device.startswith("cuda")
    seconds, processor, out = [], [], None
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        settle()
        before = resident_mb()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    for _ in range(args.repeats + 1):
        out = None
        start, start_cpu = time.perf_counter(), time.process_time()
        out = refiner(inputs)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_cpu)
        if len(seconds) == 1:  # the first pass is for memory, the others for time
            peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_mb()
            map_blocks_from(32)
    row = {
        "variant": args.variant,
        "seconds": statistics.median((seconds if on_gpu else processor)[1:]),
        "wall_seconds": statistics.median(seconds[1:]),
        "peak_mb": peak - before,
        **{name: getattr(args, name) for name in ("frames", "tracklets", "height", "width")},
    }
    tree = getattr(out, "tree", None)
    if tree is not None:
        row["nodes_per_tracklet"] = len(tree) / max(tree.num_tracklets, 1)
        row["share_of_cells"] = [round(share, 4) for share in tree.share_of_cells()]
    return row


def measured(args: argparse.Namespace, variant: str, **changes: int) -> dict[str, Any]:
    """The row of a variant, from a fresh process."""
    values = {"repeats": args.repeats} | changes
    words = ["--variant", variant, "--device", args.device]
    words += [part for name, value in values.items() for part in (f"--{name}", str(value))]
    row = measure_apart(__file__, main, words, args.dry_run)
    print(
        f"{variant:16} T={row['frames']:<3} N={row['tracklets']:<3} "
        f"{row['height']}x{row['width']}: {row['seconds']:7.2f} s {row['peak_mb']:8.0f} MB"
        + (f"  {row['nodes_per_tracklet']:.0f} nodes" if "nodes_per_tracklet" in row else ""),
        flush=True,
    )
    return row


def slope(rows: list[dict[str, Any]], size: Any, value: str) -> float | None:
    """Exponent of the growth of ``value`` with ``size(row)``; None for fewer than two sizes."""
    if len({size(row) for row in rows}) < 2:
        return None
    x = np.log([size(row) for row in rows])
    return round(float(np.polyfit(x, np.log([row[value] for row in rows]), 1)[0]), 2)


def slopes(rows: list[dict[str, Any]], size: Any) -> dict[str, Any]:
    """Rows of one variant and their exponents."""
    return {"rows": rows} | {
        f"slope_{value}": slope(rows, size, value) for value in ("seconds", "peak_mb")
    }


def plot(growth: dict[str, Any], sizes: dict[str, Any], path: Path) -> None:
    """Seconds and megabytes against each quantity, log-log, slopes in the legends."""
    figure, axes = plt.subplots(2, len(growth), figsize=(4.2 * len(growth), 7), squeeze=False)
    labels = {"seconds": "seconds", "peak_mb": "MB above what was there"}
    for column, (name, variants) in enumerate(growth.items()):
        for row, (value, label) in enumerate(labels.items()):
            axis = axes[row][column]
            for variant, result in variants.items():
                axis.loglog(
                    [sizes[name](r) for r in result["rows"]],
                    [r[value] for r in result["rows"]],
                    marker="o",
                    label=f"{variant}: slope {result[f'slope_{value}']}",
                )
            axis.set_xlabel(name)
            axis.set_ylabel(label)
            axis.grid(True, which="both", alpha=0.3)
            axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    print(f"wrote {path}")


def main(argv: Sequence[str] | None = None) -> None:
    """Compare for several counts and sizes, then let frames and resolution grow."""
    parser = benchmark_parser(__doc__, "refiner.json")
    parser.add_argument("--heights", type=int, nargs="+", default=[240, 352])
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--tracklets", type=int, nargs="+", default=[1, 5, 10, 20])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--growth-base", type=int, default=1, help="tracklets unless they grow")
    parser.add_argument("--growth-frames", type=int, nargs="*", default=[2, 5, 10])
    parser.add_argument("--growth-heights", type=int, nargs="*", default=[176, 352, 528])
    parser.add_argument("--plot", type=Path, help="of the growth; default: beside --output")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--height", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    args = parse(parser, argv, DRY_RUN)
    if args.variant:
        args.tracklets = args.tracklets[0]
        print(json.dumps(measure(args)))
        return

    def setting(height: int, frames: int, tracklets: int) -> dict[str, int]:
        width = height * 640 // 352 // 8 * 8
        return {"height": height, "width": width, "frames": frames, "tracklets": tracklets}

    table = []
    for height in args.heights:
        for count in args.tracklets:
            chosen = VARIANTS if count == BASE_TRACKLETS else VARIANTS[:-1]
            rows = {v: measured(args, v, **setting(height, args.frames, count)) for v in chosen}
            band = rows["dense_band"]
            for row in rows.values():
                row |= {
                    f"dense_band_{key}_over_this": round(band[key] / row[key], 2)
                    for key in ("seconds", "peak_mb")
                }
            table += rows.values()
    content: dict[str, Any] = {"machine": machine(), "table": table}
    write_json(args.output, content)
    sizes: dict[str, Any] = {
        "tracklets": lambda row: row["tracklets"],
        "frames": lambda row: row["frames"],
        "pixels": lambda row: row["height"] * row["width"],
    }
    settings = {
        "frames": [setting(args.heights[-1], n, args.growth_base) for n in args.growth_frames],
        "pixels": [setting(n, args.frames, args.growth_base) for n in args.growth_heights],
    }
    settings = {name: changes for name, changes in settings.items() if changes}
    growth: dict[str, Any] = {name: {} for name in ("tracklets", *settings)}
    for variant in GROWING:
        growth["tracklets"][variant] = slopes(
            [r for r in table if r["variant"] == variant and r["height"] == args.heights[-1]],
            sizes["tracklets"],
        )
        for name, changes in settings.items():
            rows_of_sweep = [measured(args, variant, **change) for change in changes]
            growth[name][variant] = slopes(rows_of_sweep, sizes[name])
    write_json(args.output, content | {"growth": growth})
    plot(growth, sizes, args.plot or args.output.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run(main))
