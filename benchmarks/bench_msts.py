#!/usr/bin/env python3
"""What MS-STS VIS's additions cost: time and peak memory per clip beside SeqFormer, same run.

Each measurement is a process of its own, so that its peak memory is its own too. Gates are opened:
nothing is left out. Random weights; the time does not depend on them. On a CPU the processor time
of the process is given too: others on the machine change it less than the time on the clock.
"train" is forward and backward pass of one clip of five frames and, for MS-STS, the step of its
discriminator.

Example:
  python benchmarks/bench_msts.py --frames 5 36 --device cpu
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from bench_model import photo_clip
from common import REPO, benchmark_parser, machine, measure_apart, parse, run, write_json
from torch import nn

from vmt.checkpoint.load import parameter_count
from vmt.config.node import load_config
from vmt.engine.adversarial import build_adversary
from vmt.inference.load import load_model
from vmt.structures.clip import ClipTargets

#: name -> (config, overrides)
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "seqformer": ("seqformer_R50", []),
    "msts_lean": ("msts_R50", []),
    "msts_full": ("msts_R50", ["MODEL.MSTS.PRESET", "full"]),
}
TRAIN_FRAMES = 5
DRY_RUN = {
    **{"height": 64, "width": 96, "frames": [2], "repeats": 0, "no_train": True},
    "variants": ["seqformer", "msts_lean"],
}


def build(variant: str, device: str) -> tuple[nn.Module, Any]:
    """The network with open gates, and its config."""
    torch.manual_seed(0)
    config, overrides = VARIANTS[variant]
    path = REPO / f"configs/ytvis_2019/{config}.yaml"
    model = load_model(path, None, overrides, device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".gate"):
                parameter.fill_(0.5)
    return model, load_config(path, overrides)


def targets(num_frames: int, height: int, width: int) -> ClipTargets:
    """Three boxes that stand still."""
    masks = torch.zeros(3, num_frames, height, width, dtype=torch.bool)
    for g in range(3):
        top, left = g * height // 9, g * width // 4
        masks[g, :, top : top + height // 4, left : left + width // 5] = True
    boxes = torch.full((3, num_frames, 4), 0.3)
    return ClipTargets(torch.arange(3), boxes, masks, torch.ones(3, num_frames, dtype=torch.bool))


def measure(variant: str, frames: int, train: bool, args: argparse.Namespace) -> dict[str, Any]:
    """One variant in this process."""
    model, cfg = build(variant, args.device)
    clip = photo_clip(frames, args.height, args.width)
    cuda = args.device.startswith("cuda")
    weights = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    adversary = build_adversary(cfg, torch.device(args.device)) if train else None
    if train:
        model.train()
        batch = [{"image": clip, "targets": targets(frames, args.height, args.width)}]

    def once() -> None:
        if not train:
            model.run_clip(model.normalise(clip))  # type: ignore[operator]
            return
        model.zero_grad(set_to_none=True)
        if adversary is not None:
            adversary.begin_step(10**6, 1.0)
            adversary.begin_part(1.0, last=True)
        torch.stack(list(model(batch, adversary).values())).sum().backward()

    seconds, cpu_seconds = [], []
    for _ in range(args.repeats + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        once()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    row: dict[str, Any] = {
        "variant": variant,
        "frames": frames,
        "mode": "train" if train else "test",
        "seconds_median": statistics.median(seconds[1:] or seconds),
        "seconds_min": min(seconds[1:] or seconds),
        "parameters": parameter_count(model)[0],
        "state_dict_elements": parameter_count(model)[2],
    }
    if cuda:
        row["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    else:
        row["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        row["rss_with_weights_gb"] = weights
        row["cpu_seconds_median"] = statistics.median(cpu_seconds[1:] or cpu_seconds)
    return row


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every variant in a process of its own, print and store a table."""
    parser = benchmark_parser(__doc__, "msts_cpu.json")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--frames", type=int, nargs="+", default=[5, 36])
    parser.add_argument("--repeats", type=int, default=3, help="after a first pass; 0: that one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--no-train", action="store_true", help="leave the training step out")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parse(parser, argv, DRY_RUN)
    if args.one:
        variant, frames, mode = args.one
        print(json.dumps(measure(variant, int(frames), mode == "train", args)))
        return
    jobs = [(frames, "test") for frames in args.frames]
    jobs += [] if args.no_train else [(TRAIN_FRAMES, "train")]
    output = args.output
    if args.device.startswith("cuda") and output.name == "msts_cpu.json":
        output = output.with_name("msts_cuda.json")
    size = [args.height, args.width]
    facts = {"machine": machine(), "size": size, "repeats": args.repeats}
    rows: list[dict[str, Any]] = []
    for frames, mode in jobs:
        base: dict[str, Any] = {}
        for variant in args.variants:
            words = ["--one", variant, str(frames), mode]
            for key in ("height", "width", "repeats", "device"):
                words += [f"--{key}", str(getattr(args, key))]
            row = measure_apart(__file__, main, words, args.dry_run)
            base = base or row
            clock = "cpu_seconds_median" if "cpu_seconds_median" in row else "seconds_median"
            row["over_first"] = row[clock] / base[clock]
            rows.append(row)
            write_json(output, {**facts, "rows": rows})  # a long run that is cut short leaves some
            memory = row.get("peak_gpu_gb", row.get("peak_rss_gb"))
            print(
                f"{variant:10s} T={frames:3d} {mode:5s} {row['seconds_median']:7.3f} s, "
                f"{clock} x{row['over_first']:.2f}, {memory:.2f} GB",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(run(main))
