#!/usr/bin/env python3
"""Processor time per frame and peak memory of QDTrack with and without refiner, and of Mask R-CNN.

The baseline is torchvision's Mask R-CNN with the same backbone, proposals and number of detections,
masks drawn at the size of the frame: no embeddings, no tracks, no windows. Each contender is a
process of its own, so that its peak memory is its own too. Weights are random: every detection is
made a track, or joins one, so that a refiner has as many as there are detections. Ours includes
tracking, drawing and the coding of masks. Processor time is that of all threads; OMP_NUM_THREADS=1
makes it the time that one core takes, however busy the machine is.

Example:
  python benchmarks/bench_qdtrack.py --height 720 --width 1280 --frames 10
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from common import REPO, benchmark_parser, machine, measure_apart, parse, run, write_json
from driving_clips import driving_clip

from vmt.inference.load import load_model
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.modeling.tracking.quasi_dense import QuasiDenseOptions

CONFIG = REPO / "configs/bdd100k/vmt_R50.yaml"
VARIANTS = ("maskrcnn", "qdtrack", "dense_band", "quadtree")
#: Frames of a window.
WINDOW = 5
TINY = ("MODEL.BACKBONE.NAME", "timm/resnet10t", "MODEL.MOTS.DIM", "32", "MODEL.MOTS.FC_DIM", "32")
DRY_RUN = {"height": 64, "width": 96, "frames": 5, "detections": 2, "overrides": [*TINY]}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every contender, or the one that is named; write the table."""
    parser = benchmark_parser(__doc__, "qdtrack.json")
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--frames", type=int, default=10, help="of which the first window warms up")
    parser.add_argument("--detections", type=int, default=15)
    parser.add_argument("--variant", choices=VARIANTS, help="in this process; prints its row")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parse(parser, argv, DRY_RUN)
    if args.variant:
        print(json.dumps(measure(args.variant, args)))
        return
    words = [f"--{name}={getattr(args, name)}" for name in ("height", "width", "frames")]
    words += [f"--detections={args.detections}", *args.overrides]
    words = ["--dry-run", *words] if args.dry_run else words
    rows = [
        measure_apart(__file__, main, [f"--variant={name}", *words], args.dry_run)
        for name in VARIANTS
    ]
    sizes = {name: getattr(args, name) for name in ("height", "width", "frames", "detections")}
    write_json(args.output, {"machine": machine(), **sizes, "window": WINDOW, "rows": rows})
    for row in rows:
        print(row)


def measure(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one contender in this process."""
    torch.manual_seed(0)
    clip = driving_clip(args.frames, (args.height, args.width), seed=0, objects=6).frames
    results = (baseline if variant == "maskrcnn" else ours(variant))(args, clip)
    seconds, objects, started = [], 0, time.process_time()
    for count in results:
        now = time.process_time()
        seconds.append(now - started)
        objects, started = objects + count, now
    steady = seconds[min(WINDOW, len(seconds) - 1) :]
    return {
        "variant": variant,
        "cpu_seconds_per_frame": round(statistics.mean(steady), 3),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
        "objects_per_frame": round(objects / len(seconds), 1),
    }


def baseline(args: argparse.Namespace, clip: np.ndarray[Any, Any]) -> Iterator[int]:
    """Mask R-CNN of torchvision, frame by frame; yields the number of masks."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    sizes = {"min_size": min(args.height, args.width), "max_size": max(args.height, args.width)}
    found = {"box_detections_per_img": args.detections, "box_score_thresh": 0.0}
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=9, **sizes, **found
    ).eval()
    for frame in clip:
        with torch.inference_mode():
            (result,) = model([torch.from_numpy(frame).permute(2, 0, 1).float() / 255])
        yield int((result["masks"] > 0.5).flatten(1).any(1).sum())


def ours(variant: str) -> Callable[[argparse.Namespace, np.ndarray[Any, Any]], Iterator[int]]:
    """QDTrack, or it with a refiner."""

    def frames(args: argparse.Namespace, clip: np.ndarray[Any, Any]) -> Iterator[int]:
        refiner = "none" if variant == "qdtrack" else variant
        keys = ["MODEL.REFINER.NAME", refiner, "MODEL.WEIGHTS", "", "MODEL.MOTS.SCORE", "0.0"]
        keys += ["MODEL.MOTS.DETECTIONS", str(args.detections), *args.overrides]
        model = load_model(CONFIG, None, keys, "cpu")
        side = min(args.height, args.width)
        every = QuasiDenseOptions(
            init_score=0.0, object_score=0.0, match_score=0.0, duplicate_iou=1.0, same_class=False
        )
        options = PredictorOptions(window=WINDOW, stride=WINDOW, min_size=side, quasi_dense=every,
                                   similarity_weight=1.0)  # fmt: skip
        for result in VideoPredictor(model, options).stream(clip):
            yield len(result.tracks)

    return frames


if __name__ == "__main__":
    sys.exit(run(main))
