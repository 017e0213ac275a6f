#!/usr/bin/env python3
"""Time and peak memory of the refinement stage: quadtree beside dense_band on the same inputs.

Moving ellipses stand for objects. Untrained weights would mark arbitrary cells, so both refiners
get the regions that perfect weights would give them: dense_band's second stage is told the true
masks at H/4 (its band follows from them), the quadtree's nodes are the incoherent regions of the
annotation. Both still compute everything they would compute otherwise. Each measurement is a
process of its own; memory is the growth of the resident set (GPU: of the allocator) during the
refinement. Growth is measured around a base setting, one quantity at a time; the slope is that of
a straight line through the points on log-log axes.

Example:
  python benchmarks/bench_refiner.py --frames 5 --tracklets 5
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, write_json
from torch import Tensor

from vmt.modeling.incoherence.regions import region_levels
from vmt.modeling.refinement.base import Refiner, RefinerInput
from vmt.modeling.refinement.dense_band import DenseBand
from vmt.modeling.refinement.quadtree_refiner import STRIDES, QuadtreeRefiner

RESULT = Path(__file__).resolve().parent / "results/refiner.json"
VARIANTS = ("dense_band", "quadtree", "quadtree_no_qsg")
#: Share of the frame that an object covers.
AREA = 0.1
#: As in configs: TEST.FRAME_CHUNK.
FRAME_CHUNK = 2


def ellipses(num: int, frames: int, height: int, width: int) -> Tensor:
    """(N, T, H, W) bool: ellipses of equal size that drift."""
    ry, rx = (side * math.sqrt(AREA / math.pi) for side in (height, width))
    y = torch.arange(height).view(1, 1, -1, 1)
    x = torch.arange(width).view(1, 1, 1, -1)
    place = torch.rand(num, 1, 2, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    centres = place + 0.02 * torch.arange(frames).view(1, -1, 1)
    cy, cx = (centres % 1.0 * torch.tensor([height, width]))[..., None, None].unbind(2)
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1


def clip(args: argparse.Namespace) -> RefinerInput:
    """Random features of R50's widths around the objects."""
    T, N = args.frames, args.tracklets
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(args.device)

    (h8, w8), (h4, w4), (h2, w2) = ((-(-args.height // s), -(-args.width // s)) for s in STRIDES)
    masks = ellipses(N, T, args.height, args.width)
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

    def _regions(self, inputs: RefinerInput, sizes: Any) -> list[Tensor]:
        return self.told


def refiner_of(variant: str, inputs: RefinerInput) -> Refiner:
    """A refiner of R50's widths, as in configs/hq_ytvis."""
    torch.manual_seed(0)
    assert inputs.masks_gt is not None, "clip() gives them"
    if variant == "dense_band":
        band = ToldBand(256, True, frame_chunk=FRAME_CHUNK)
        band.masks = inputs.masks_gt
        return band
    tree = ToldQuadtree(
        256, True, grouped=variant == "quadtree", train_nodes="truth", frame_chunk=FRAME_CHUNK
    )
    sizes = [(-(-inputs.frame_size[0] // s), -(-inputs.frame_size[1] // s)) for s in STRIDES]
    tree.told = region_levels(inputs.masks_gt, STRIDES, sizes)
    return tree


def resident_mb(key: str) -> float:
    """``VmRSS`` or ``VmHWM`` of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


@torch.inference_mode()
def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in this process."""
    inputs = clip(args)
    refiner = refiner_of(args.variant, inputs).eval().to(args.device)
    on_gpu = args.device.startswith("cuda")
    seconds, out = [], None
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        before = resident_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    for _ in range(args.repeats + 1):
        out = None
        start = time.perf_counter()
        out = refiner(inputs)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident_mb("VmHWM")
    row = {
        "variant": args.variant,
        "seconds": statistics.median(seconds[1:] or seconds),
        "peak_mb": peak - before,
        **{name: getattr(args, name) for name in ("frames", "tracklets", "height", "width")},
    }
    tree = getattr(out, "tree", None)
    if tree is not None:
        row["nodes_per_tracklet"] = len(tree) / max(tree.num_tracklets, 1)
        row["share_of_cells"] = [round(share, 4) for share in tree.share_of_cells()]
    return row


def run(args: argparse.Namespace, variant: str, **changes: int) -> dict[str, Any]:
    """Measure in a fresh process."""
    values = {n: getattr(args, n) for n in ("frames", "tracklets", "height", "width", "repeats")}
    values |= changes
    command = [sys.executable, __file__, "--variant", variant, "--device", args.device]
    command += [part for name, value in values.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{variant:16} T={row['frames']:<3} N={row['tracklets']:<3} "
        f"{row['height']}x{row['width']}: {row['seconds']:7.2f} s {row['peak_mb']:8.0f} MB"
        + (f"  {row['nodes_per_tracklet']:.0f} nodes" if "nodes_per_tracklet" in row else ""),
        flush=True,
    )
    return row


def slope(rows: list[dict[str, Any]], size: Any, value: str) -> float:
    """Exponent of the growth of ``value`` with ``size(row)``."""
    x = np.log([size(row) for row in rows])
    return round(float(np.polyfit(x, np.log([row[value] for row in rows]), 1)[0]), 2)


def main() -> None:
    """Compare at the base setting, then let frames, tracklets and resolution grow."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--height", type=int, default=352)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--tracklets", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--growth-base", type=int, default=2, help="tracklets unless they grow")
    parser.add_argument("--growth-frames", type=int, nargs="*", default=[2, 5, 10])
    parser.add_argument("--growth-tracklets", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--growth-heights", type=int, nargs="*", default=[176, 352, 528])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args)))
        return
    base = {variant: run(args, variant) for variant in VARIANTS}
    ratios = {
        variant: {
            key: round(base["dense_band"][key] / base[variant][key], 2)
            for key in ("seconds", "peak_mb")
        }
        for variant in VARIANTS[1:]
    }
    print(json.dumps(ratios))
    sweeps = (
        ("frames", [{"frames": n} for n in args.growth_frames], lambda r: r["frames"]),
        ("tracklets", [{"tracklets": n} for n in args.growth_tracklets], lambda r: r["tracklets"]),
        (
            "pixels",
            [{"height": n, "width": n * args.width // args.height} for n in args.growth_heights],
            lambda r: r["height"] * r["width"],
        ),
    )
    growth: dict[str, Any] = {}
    fixed = {"tracklets": args.growth_base}
    for name, settings, size in sweeps:
        for variant in VARIANTS[:2]:
            rows = [run(args, variant, **fixed | setting) for setting in settings]
            growth.setdefault(name, {})[variant] = {
                "rows": rows,
                "slope_seconds": slope(rows, size, "seconds"),
                "slope_peak_mb": slope(rows, size, "peak_mb"),
            }
        print(name, {v: {k: g[k] for k in g if k != "rows"} for v, g in growth[name].items()})
    content = {"machine": machine(), "base": base, "dense_band_over": ratios, "growth": growth}
    write_json(args.output, content)


if __name__ == "__main__":
    main()
