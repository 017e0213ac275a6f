#!/usr/bin/env python3
"""What RefineVIS costs, beside SeqFormer and VMT in the same run: time, memory and operations.

A video goes through each network as `vmt demo` runs it: frames that the network reads, association,
masks at the size of the video. RefineVIS runs without temporal refinement (TEST.REFINEVIS.WINDOW 0:
the frame model and its association), with it online and offline, and with VMT's refiner on top.

Weights are random, so objects are told: each frame has --tracklets detections that are found again
in every frame, and refiners get the nodes of that many moving blobs. Everything is still computed
that would be otherwise. Each measurement is a process of its own; seconds are the median of several
videos, with the processor time of all threads beside them, which others on the machine change less.
Operations are those of matrix products, convolutions and attention, two per multiply-add; the
sampling of deformable attention is not among them.

Example:
  python benchmarks/bench_refinevis.py --height 480 --width 864 --frames 10
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from bench_model import photo_clip
from bench_refiner import blobs
from common import REPO, benchmark_parser, machine, measure_apart, parse, run, write_json
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vmt.config.node import load_config
from vmt.inference.load import load_model
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.modeling.refiners.base import RefinerInput
from vmt.modeling.refiners.quadtree.refiner import STRIDES
from vmt.modeling.refiners.quadtree.regions import region_levels
from vmt.modeling.video_model import FrameModel, FrameOutputs

#: No detection is left out for having the mask of another.
ALL_MASKS = ["TEST.BISOFTMAX.MASK_IOU", "2.0"]
NO_TAR = ["TEST.REFINEVIS.WINDOW", "0"]
OFFLINE = ["TEST.REFINEVIS.MODE", "offline"]
#: name -> (config of configs/ytvis_2021, overrides)
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "seqformer": ("seqformer", []),
    "vmt": ("vmt", []),
    "refinevis_no_tar": ("refinevis", [*ALL_MASKS, *NO_TAR]),
    "refinevis": ("refinevis", ALL_MASKS),
    "refinevis_offline": ("refinevis", [*ALL_MASKS, *OFFLINE]),
    "refinevis_vmt": ("refinevis_vmt", ALL_MASKS),
}
#: Logits of told classes: of an object, and of everything else.
SURE, UNSURE = 3.0, -6.0
DRY_RUN = {
    **{"height": 64, "width": 96, "frames": 3, "tracklets": 2, "repeats": 0, "backbone": "tiny"},
    "variants": ["seqformer", "refinevis_no_tar", "refinevis", "refinevis_vmt"],
}


def config_of(variant: str, backbone: str) -> tuple[str, list[str]]:
    """Path of its config, and overrides."""
    name, overrides = VARIANTS[variant]
    folder = "quick" if backbone == "tiny" else "ytvis_2021"
    path = REPO / f"configs/{folder}/{name}_{backbone}.yaml"
    return str(path), ["MODEL.WEIGHTS", "", *overrides]


def tell(model: Any, args: argparse.Namespace) -> None:
    """Let a network find ``args.tracklets`` objects in every frame, and refine blobs."""
    if isinstance(model, FrameModel):
        segment = model.segment_frames
        count = args.tracklets

        def told(frames: Tensor) -> list[FrameOutputs]:
            return [_told_frame(frame, count) for frame in segment(frames)]

        model.segment_frames = told  # type: ignore[method-assign]
        _tell_heads(getattr(model, "frame_model", model))
    if getattr(model, "refiner", None) is not None:
        masks = blobs(args.tracklets, args.frames, args.height, args.width).to(args.device)
        refiner = model.refiner

        def refine(inputs: RefinerInput) -> Any:
            N, T = inputs.coarse_logits.shape[:2]
            sizes = refiner.level_sizes(inputs)
            rows = torch.arange(N, device=masks.device) % len(masks)
            regions = region_levels(masks[rows, :T], STRIDES, sizes, "incoherent")
            return refiner.refine_regions(inputs, regions)

        refiner.forward = refine


def _tell_heads(model: Any) -> None:
    """Whatever is refined is an object of the first class, and its mask half of the frame."""
    class_head, mask_head = model.class_head, model.mask_head

    def classes(embeds: Tensor) -> Tensor:
        logits = torch.full_like(class_head(embeds), UNSURE)
        logits[..., 0] = SURE
        return logits

    def masks(embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        logits = mask_head(embeds, pixel, refs)
        return logits - logits.flatten(-2).median(-1).values[..., None, None]

    model.class_head, model.mask_head = classes, masks


def _told_frame(frame: FrameOutputs, count: int) -> FrameOutputs:
    """The first queries are objects of the first class that look alike in all frames."""
    logits = torch.full_like(frame.logits, UNSURE)
    logits[:count, 0] = SURE
    rows, channels = frame.embeddings.shape
    embeddings = 8 * torch.eye(rows, channels, device=logits.device)
    boxes = torch.full_like(_boxes(frame), 0.5)
    boxes[:, 0] = (torch.arange(rows, device=logits.device) + 0.5) / count  # side by side
    boxes[:, 2] = 0.5 / count
    return replace(frame, logits=logits, embeddings=embeddings, boxes_cxcywh=boxes)


def _boxes(frame: FrameOutputs) -> Tensor:
    assert frame.boxes_cxcywh is not None, "RefineVIS's frame model has boxes"
    return frame.boxes_cxcywh


def measure(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """One variant in this process."""
    torch.manual_seed(0)
    path, overrides = config_of(variant, args.backbone)
    overrides += ["INPUT.MIN_SIZE_TEST", str(min(args.height, args.width))]
    cfg = load_config(path, overrides)
    model: Any = load_model(path, None, overrides, args.device)
    model.requires_grad_(False)  # the counter of operations would hang hooks on parameters
    tell(model, args)
    predictor = VideoPredictor(model, PredictorOptions.from_config(cfg))
    video = [f.permute(1, 2, 0).numpy() for f in photo_clip(args.frames, args.height, args.width)]
    cuda = args.device.startswith("cuda")
    weights = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    def once() -> list[int]:
        stream = predictor.stream(video)
        tracks = [len(frame.tracks) for frame in stream]
        stream.finish()
        if cuda:
            torch.cuda.synchronize()
        return tracks

    seconds, cpu_seconds, tracks = [], [], []
    for _ in range(args.repeats + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        tracks = once()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    median = statistics.median(seconds[1:] or seconds)
    cpu_median = statistics.median(cpu_seconds[1:] or cpu_seconds)
    row: dict[str, Any] = {
        "variant": variant,
        "seconds_median": median,
        "seconds_min": min(seconds[1:] or seconds),
        "frames_per_second": args.frames / median,
        "cpu_seconds_median": cpu_median,
        "frames_per_cpu_second": args.frames / cpu_median,
        "tracks_in_last_frame": tracks[-1],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    if cuda:
        row["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    else:
        row["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        row["rss_with_weights_gb"] = weights
    with FlopCounterMode(display=False) as counter:
        once()
    row["gflop_per_frame"] = counter.get_total_flops() / args.frames / 1e9
    return row


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every variant in a process of its own, print and store a table."""
    parser = benchmark_parser(__doc__, "refinevis.json")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=864)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--tracklets", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="after a first pass; 0: that one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="R50", help="of the configs; tiny: those of quick/")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parse(parser, argv, DRY_RUN)
    if args.variant:
        print(json.dumps(measure(args.variant, args)))
        return
    rows = []
    for variant in args.variants:
        words = ["--variant", variant]
        for name in ("height", "width", "frames", "tracklets", "repeats", "device", "backbone"):
            words += [f"--{name}", str(getattr(args, name))]
        print(f"{variant} ...", flush=True)
        row = measure_apart(__file__, main, words, args.dry_run)
        rows.append(row)
        print(
            f"  {row['frames_per_second']:.3f} frames/s  {row['gflop_per_frame']:.1f} GFLOP per "
            f"frame  {row.get('peak_rss_gb', row.get('peak_gpu_gb')):.2f} GB",
            flush=True,
        )
    output = args.output
    if args.device.startswith("cuda") and output.name == "refinevis.json":
        output = output.with_name("refinevis_cuda.json")
    size = {k: getattr(args, k) for k in ("height", "width", "frames", "tracklets", "backbone")}
    write_json(output, {"machine": machine(), "input": size, "rows": rows})


if __name__ == "__main__":
    sys.exit(run(main))
