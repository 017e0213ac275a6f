#!/usr/bin/env python3
"""Processor time per frame and peak memory of QDTrack with and without refiner, and of Mask R-CNN.

Networks of two kinds. "r50" is the detector of configs/bdd100k with random weights: every detection
is made a track, or joins one, so that there are as many masks as detections. "study" are the small
trained networks of benchmarks/study_mots.py with their own thresholds: what a refiner costs depends
on how many objects there are and how uncertain their masks, and behind random weights every
detection is a track and every mask is noise. The baseline is torchvision's Mask R-CNN with random
weights, the same backbone, heads, input size and number of masks, drawn at the size of the frame:
no embeddings, no tracks, no windows. Each contender is a process of its own, so that its peak
memory is its own too. Ours includes tracking, drawing and the coding of masks. Processor time is
that of all threads; OMP_NUM_THREADS=1 makes it that of one core, however busy the machine is.

Example:
  python benchmarks/bench_qdtrack.py --study output/study_mots --frames 15
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    REPO,
    BenchmarkError,
    benchmark_parser,
    machine,
    measure_apart,
    parse,
    run,
    write_json,
)
from driving_clips import driving_clip
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from vmt.config.node import load_config
from vmt.inference.load import load_model
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.modeling.tracking.quasi_dense import QuasiDenseOptions

Frames = np.ndarray[Any, Any]
R50 = REPO / "configs/bdd100k/qdtrack_R50.yaml"
DRY = REPO / "configs/quick/qdtrack_study.yaml"
#: Contender -> its folder of the study. The baseline comes last: it draws as many masks as QDTrack.
STUDY = {"qdtrack": "mask_head", "dense_band": "dense_band", "quadtree": "quadtree"}
STUDY |= {"maskrcnn": "mask_head"}
CONTENDERS = ("r50 maskrcnn", "r50 qdtrack", *(f"study {name}" for name in STUDY))
#: Frames of a window.
WINDOW = 5
#: What the networks of the study see as the short side of such frames: one they were trained with.
STUDY_SIDE = 208
TINY = ("MODEL.BACKBONE.NAME", "timm/resnet10t", "MODEL.MOTS.DIM", "32", "MODEL.MOTS.FC_DIM", "32")
DRY_RUN = {"height": 64, "width": 96, "frames": 5, "detections": 2, "overrides": [*TINY]}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every contender, or the one that is named; write the table."""
    parser = benchmark_parser(__doc__, "qdtrack.json")
    parser.add_argument("--study", type=Path, default=Path("output/study_mots"),
                        help="folder of study_mots.py (default %(default)s)")  # fmt: skip
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--frames", type=int, default=10, help="of which the first window warms up")
    parser.add_argument("--detections", type=int, default=15, help="of r50 in a frame")
    parser.add_argument("--contender", choices=CONTENDERS, help="in this process; prints its row")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parse(parser, argv, DRY_RUN)
    if args.contender:
        print(json.dumps(measure(args)))
        return
    if not args.dry_run:
        for name in STUDY:
            weights_of(args, name)  # said before an hour of work
    words = [f"--{name}={getattr(args, name)}" for name in ("study", "height", "width", "frames")]
    words += ["--dry-run"] if args.dry_run else []
    rows: dict[str, dict[str, Any]] = {}
    for name in CONTENDERS:
        count = args.detections
        if name == "study maskrcnn":
            count = max(round(rows["study qdtrack"]["objects_per_frame"]), 1)
        own = [f"--contender={name}", f"--detections={count}", *words, *args.overrides]
        rows[name] = measure_apart(__file__, main, own, args.dry_run)
        print(rows[name], flush=True)
    sizes = {name: getattr(args, name) for name in ("height", "width", "frames", "detections")}
    content = {"machine": machine(), **sizes, "window": WINDOW, "study_side": STUDY_SIDE}
    write_json(args.output, content | {"rows": [*rows.values()]})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run one contender in this process."""
    torch.manual_seed(0)
    clip = driving_clip(args.frames, (args.height, args.width), seed=0, objects=6).frames
    results = baseline(args, clip) if "maskrcnn" in args.contender else ours(args, clip)
    seconds, objects, started = [], 0, time.process_time()
    for count in results:
        now = time.process_time()
        seconds.append(now - started)
        objects, started = objects + count, now
    steady = seconds[min(WINDOW, len(seconds) - 1) :]
    return {
        "contender": args.contender,
        "cpu_seconds_per_frame": round(statistics.mean(steady), 3),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
        "objects_per_frame": round(objects / len(seconds), 1),
    }


def config_of(args: argparse.Namespace, name: str) -> Path:
    """The config file of a contender's network of the study."""
    path: Path = args.study / STUDY[name] / "config.yaml"
    return path


def weights_of(args: argparse.Namespace, name: str) -> Path:
    """The weight file of a contender's network of the study."""
    path = config_of(args, name).with_name("model_final.safetensors")
    if not path.is_file():
        raise BenchmarkError(
            f"--study {args.study}: there is no {STUDY[name]}/{path.name} in it; "
            f"python benchmarks/study_mots.py --output {args.study} makes it."
        )
    return path


def input_side(args: argparse.Namespace) -> int:
    """What the network sees as the short side of a frame, in pixels."""
    whole: int = min(args.height, args.width)
    return min(whole, STUDY_SIDE) if args.contender.startswith("study") else whole


class Pyramid(nn.Module):
    """A backbone of timm and torchvision's pyramid, as Mask R-CNN wants them."""

    def __init__(self, name: str, dim: int) -> None:
        import timm
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        super().__init__()
        self.body = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4))
        self.neck = FeaturePyramidNetwork(
            self.body.feature_info.channels(), dim, LastLevelMaxPool()
        )
        self.out_channels = dim

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> maps of strides 4 to 64."""
        levels: dict[str, Tensor] = self.neck(dict(zip("0123", self.body(frames), strict=True)))
        return levels


def same_heads(keys: CfgNode) -> dict[str, Any]:
    """Mask R-CNN's arguments: backbone, proposals and heads of the sizes of MODEL.MOTS."""
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

    dim, classes = keys.DIM, 9
    return {
        "backbone": Pyramid("resnet10t", dim),
        "rpn_pre_nms_top_n_test": keys.PROPOSALS,
        "rpn_post_nms_top_n_test": keys.PROPOSALS,
        "box_head": TwoMLPHead(dim * 7**2, keys.FC_DIM),
        "box_predictor": FastRCNNPredictor(keys.FC_DIM, classes),
        "mask_head": MaskRCNNHeads(dim, (dim,) * keys.HEAD_CONVS, 1),
        "mask_predictor": MaskRCNNPredictor(dim, dim, classes),
    }


def baseline(args: argparse.Namespace, clip: Frames) -> Iterator[int]:
    """Mask R-CNN of torchvision, frame by frame; yields the number of masks."""
    from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn

    side = input_side(args)
    scale = side / min(args.height, args.width)
    sizes = {"min_size": side, "max_size": round(max(args.height, args.width) * scale)}
    shown = {"box_detections_per_img": args.detections, "box_score_thresh": 0.0}
    if args.contender.startswith("r50"):
        model = maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=9, **sizes, **shown
        )
    else:
        config = DRY if args.dry_run else config_of(args, "maskrcnn")
        model = MaskRCNN(**same_heads(load_config(config).MODEL.MOTS), **sizes, **shown)
    model.eval()
    for frame in clip:
        with torch.inference_mode():
            (result,) = model([torch.from_numpy(frame).permute(2, 0, 1).float() / 255])
        yield int((result["masks"] > 0.5).flatten(1).any(1).sum())


def ours(args: argparse.Namespace, clip: Frames) -> Iterator[int]:
    """QDTrack, or it with a refiner."""
    kind, name = args.contender.split()
    keys, every = [*args.overrides], kind == "r50" or args.dry_run
    if every:
        keys += ["MODEL.WEIGHTS", "", "MODEL.MOTS.SCORE", "0.0"]
        keys += ["MODEL.MOTS.DETECTIONS", str(args.detections)]
    if args.dry_run:
        keys += ["MODEL.REFINER.NAME", "none" if name == "qdtrack" else name]
        keys += ["MODEL.META_ARCHITECTURE", "QDTrack" if name == "qdtrack" else "QDTrackVMT"]
        config, weights = DRY, None
    elif kind == "r50":
        config, weights = R50, None
    else:
        config, weights = config_of(args, name), weights_of(args, name)
    model = load_model(config, weights, keys, "cpu")
    options = PredictorOptions.from_config(load_config(config, keys))
    options = replace(options, window=WINDOW, stride=WINDOW, similarity_weight=1.0)
    options = replace(options, min_size=input_side(args), max_size=max(args.height, args.width))
    if every:
        tracks = QuasiDenseOptions(
            init_score=0.0, object_score=0.0, match_score=0.0, duplicate_iou=1.0, same_class=False
        )
        options = replace(options, quasi_dense=tracks)
    for result in VideoPredictor(model, options).stream(clip):
        yield len(result.tracks)


if __name__ == "__main__":
    sys.exit(run(main))
