#!/usr/bin/env python3
"""Frames per second from mp4 to overlay.mp4, results.json and tracks.csv, and where time goes.

Beside it, in the same run: masks brought to video size and coded the direct way (the whole frame
interpolated, every pixel coded) against ours, and the speed of the overlay.

Example:
    python benchmarks/bench_end_to_end.py --config-file configs/hq_ytvis/vmt_R50_released.yaml
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from bench_long_video import CONFIG, run_looped
from common import benchmark_parser, machine, parse, run, write_json

from cocoapi_hq.io import rle
from vmt import load_model
from vmt.inference.postprocess import masks_at_video_size
from vmt.inference.predictor import TrackMask
from vmt.ops.resize import aligned_upsample2
from vmt.structures.masks import encode_crop
from vmt.utils.memory import peak_mb
from vmt.visualization.draw import draw_tracks

VIDEO_SIZE = (480, 854)
DRY_RUN = {"frames": 3, "min_size": 64, "window": 2, "repeats": 1}


def median_ms(action: Callable[[], object], repeats: int) -> float:
    """Median time of an action in milliseconds, after one warm-up."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def bench_masks(repeats: int) -> dict[str, float]:
    """Ten elliptic tracks of one 480x854 frame, from stride 2 of 360x640 to run lengths."""
    rows, columns = torch.meshgrid(torch.arange(180.0), torch.arange(320.0), indexing="ij")
    logits = torch.stack(
        [1 - ((rows - 90) / 40) ** 2 - ((columns - 60 - 20 * k) / 30) ** 2 for k in range(10)]
    )

    def ours() -> list[rle.Rle]:
        crops = masks_at_video_size(logits, 2, (360, 640), VIDEO_SIZE)
        return [encode_crop(crop, VIDEO_SIZE) for crop in crops]

    def direct() -> list[rle.Rle]:
        up = aligned_upsample2(logits)[None]
        dense = F.interpolate(up, size=VIDEO_SIZE, mode="bilinear", align_corners=False)[0]
        return [rle.encode(mask) for mask in (dense.sigmoid() > 0.5).numpy()]

    different = sum(a != b for a, b in zip(ours(), direct(), strict=True))
    frame = np.random.default_rng(0).integers(0, 256, (*VIDEO_SIZE, 3), dtype=np.uint8)
    tracks = [TrackMask(k + 1, 0, 0.9, m, (0, 0, 1, 1), 1) for k, m in enumerate(ours()[:3])]
    names = ["person"]
    overlay = median_ms(lambda: draw_tracks(frame, tracks, names), repeats)
    return {
        "masks_ours_ms": round(median_ms(ours, repeats), 2),
        "masks_direct_ms": round(median_ms(direct, repeats), 2),
        "masks_that_differ": different,
        "overlay_of_3_tracks_ms": round(overlay, 2),
        "overlay_frames_per_second": round(1e3 / overlay, 1),
    }


def bench_pipeline(args: argparse.Namespace) -> dict[str, Any]:
    """One video through the network into all files."""
    model: Any = load_model(args.config_file, args.weights, device=args.device)
    with tempfile.TemporaryDirectory() as folder:
        report, _ = run_looped(args, Path(folder), model, VIDEO_SIZE)
    total = sum(report.seconds.values())
    return {
        "frames": report.frames,
        "network_short_side": args.min_size,
        "window": args.window,
        "device": str(model.device),
        "frames_per_second": round(report.frames / report.wall, 2),
        "share_of_time": {k: round(v / total, 4) for k, v in report.seconds.items()},
        "ms_per_frame": {k: round(1e3 * v / report.frames, 2) for k, v in report.seconds.items()},
        "peak_mb": round(peak_mb(), 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and write its record."""
    parser = benchmark_parser(__doc__, "end_to_end.json")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--video", type=Path, help="clip to loop; default: one made here, 480x854")
    parser.add_argument("--config-file", type=Path, default=CONFIG)
    parser.add_argument("--weights")
    parser.add_argument("--device")
    parser.add_argument("--min-size", type=int, default=360, help="short side of the network input")
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, help="of torch; default: torch's own choice")
    parser.set_defaults(overlay=True)
    args = parse(parser, argv, DRY_RUN)
    logging.basicConfig(level=logging.ERROR)
    if args.threads:
        torch.set_num_threads(args.threads)
    record = {
        "what": "mp4 in, overlay.mp4 + results.json + tracks.csv out",
        "machine": machine(),
        "config": args.config_file.stem,
        "pipeline": bench_pipeline(args),
        "parts": bench_masks(args.repeats),
    }
    print(json.dumps(record["parts"], indent=2))
    write_json(args.output, record)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
