#!/usr/bin/env python3
"""Exported networks: size on the disk, speed beside ours in the same run, largest difference.

Each network is exported as ONNX and as a program of torch.export (`vmt export`); then the dense
part runs as our modules, in ONNX Runtime, and as that program, one clip at a time (of networks that
see frame by frame: as many frames; of the mask refiner: as many cut-outs of --crop pixels). All
three do the same work: masks of all queries, no selection. Weights are random, apart from the mask
refiner's. Each network is a process of its own.

Example:
  python benchmarks/bench_export.py --height 360 --width 640 --frames 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import benchmark_parser, machine, measure_apart, parse, run, write_json
from torch import Tensor

from vmt.apps.export import FORMATS, ExportOptions, compare, required, runner, trace, write
from vmt.inference.load import load_model
from vmt.modeling.dense_part import DensePart

#: Name -> config.
NETWORKS = {
    "seqformer": "ytvis_2019/seqformer_R50",
    "vmt_released": "hq_ytvis/vmt_R50_released",
    "vmt_quadtree": "hq_ytvis/vmt_R50",
    "refinevis_maskdino": "hq_ytvis/refinevis_R50",
    "mask_refiner": "mask_refiner",
}
DRY_RUN = {"networks": ["mask_refiner"], "frames": 2, "crop": 32, "repeats": 0}


def seconds_of(work: Callable[[], object], repeats: int) -> list[float]:
    """Of each call after the first; of that one where there is no other."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds[1:] or seconds


def measure_format(
    part: DensePart,
    program: torch.export.ExportedProgram,
    inputs: Sequence[Tensor],
    options: ExportOptions,
    repeats: int,
) -> dict[str, Any]:
    """Write a program, and run what was written."""
    with tempfile.TemporaryDirectory() as folder:
        options = replace(options, output=Path(folder) / options.output)
        start = time.process_time()
        files = write(program, part, options)
        written = time.process_time() - start
        graph = runner(options.output)
        found = compare(part, graph, inputs)
        with torch.no_grad():
            seconds = seconds_of(lambda: graph(inputs), repeats)
        return {
            "mb": sum(file.stat().st_size for file in files) / 1e6,
            "write_cpu_seconds": written,
            "largest_difference": max(d.largest for d in found),
            "largest_relative": max(d.largest / max(d.scale, 1.0) for d in found),
            "seconds": seconds,
        }


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One network in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    config = NETWORKS[name]
    overrides = ["MODEL.DEVICE", "cpu", "TEST.FRAME_CHUNK", "0", "MODEL.WEIGHTS", ""]
    cuts = name == "mask_refiner"
    model = load_model(config, overrides=[] if cuts else overrides)
    part = model.dense_part().eval()
    size = (args.crop, args.crop) if cuts else (args.height, args.width)
    clips = part.inputs[0].axes[0] == "clips"
    inputs = part.example(1 if clips else args.frames, args.frames, size)
    start = time.process_time()
    program = trace(part, args.frames, size)
    row: dict[str, Any] = {
        "network": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trace_cpu_seconds": time.process_time() - start,
    }
    with torch.no_grad():
        row["ours_seconds"] = seconds_of(lambda: part(*inputs), args.repeats)
    for kind in FORMATS:
        options = ExportOptions(
            *(config, Path(f"network{FORMATS[kind]}")),
            **{"format": kind, "frames": args.frames, "size": size},
        )
        found = measure_format(part, program, inputs, options, args.repeats)
        row |= {f"{kind}_{key}": value for key, value in found.items()}
    for kind in ("ours", *FORMATS):
        row[f"{kind}_seconds_median"] = statistics.median(row[f"{kind}_seconds"])
    return row


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every network in a process of its own, print and store a table."""
    parser = benchmark_parser(__doc__, "export.json")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--crop", type=int, default=256, help="sides of the refiner's cut-outs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="after a first pass; 0: that one")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--network", choices=list(NETWORKS), help=argparse.SUPPRESS)
    args = parse(parser, argv, DRY_RUN)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        required(package)
    if args.network:
        print(json.dumps(measure(args.network, args)))
        return
    rows = []
    sizes = ("height", "width", "frames", "crop", "threads")
    for name in args.networks:
        words = ["--network", name]
        for option in (*sizes, "repeats"):
            words += [f"--{option}", str(getattr(args, option))]
        print(f"{name} ...", flush=True)
        row = measure_apart(__file__, main, words, args.dry_run)
        rows.append(row)
        for kind in ("ours", *FORMATS):
            print(f"  {kind:<12}  {row[f'{kind}_seconds_median']:.3f} s", end="")
            if kind in FORMATS:
                print(
                    f"  {row[f'{kind}_mb']:.1f} MB  largest difference "
                    f"{row[f'{kind}_largest_difference']:.1e}",
                    end="",
                )
            print(flush=True)
    facts = {**machine(), "threads": args.threads}
    facts["onnxruntime"] = required("onnxruntime").__version__
    write_json(
        args.output,
        {"machine": facts, "input": {k: getattr(args, k) for k in sizes}} | {"rows": rows},
    )


if __name__ == "__main__":
    sys.exit(run(main))
