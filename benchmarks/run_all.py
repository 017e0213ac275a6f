#!/usr/bin/env python3
"""Run every benchmark of this folder, one after the other, and print what they stored.

Results go to output/benchmarks/*.json, with --record to benchmarks/results/*.json; each holds the
machine, the versions, and the baseline that was measured in the same run. `--quick` takes fewer
repeats, `--dry-run` tiny sizes. GPU benchmarks run where there is one. What needs data that are not
there is named in the end; the others run.

Example:
  python benchmarks/run_all.py --quick --only deform_attn model
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, SCRATCH

HERE = Path(__file__).resolve().parent

#: name -> (script, arguments, arguments with --quick)
BENCHMARKS: dict[str, tuple[str, list[str], list[str]]] = {
    "deform_attn": ("bench_deform_attn.py", [], ["--repeats", "3"]),
    "deform_attn_gpu": ("bench_deform_attn_gpu.py", [], ["--architectures", "90"]),
    "model": ("bench_model.py", [], ["--repeats", "1"]),
    "refiner": (
        "bench_refiner.py",
        [],
        ["--tracklets", "1", "5", "--growth-frames", "2", "5", "--growth-heights", "176", "352"],
    ),
    "end_to_end": ("bench_end_to_end.py", [], ["--frames", "16"]),
    "long_video": ("bench_long_video.py", [], ["--frames", "300"]),
    "scoring": ("bench_scoring.py", [], ["--videos", "40", "--baseline-videos", "4"]),
    "mots": ("bench_mots.py", [], ["--videos", "2"]),
    "data": ("bench_data.py", [], []),
    "training": ("bench_training.py", [], []),
    "msts": ("bench_msts.py", [], ["--repeats", "1", "--frames", "5"]),
    "qdtrack": (
        "bench_qdtrack.py",
        ["--height", "360", "--width", "640"],
        ["--height", "176", "--width", "320"],
    ),
    "refinevis": ("bench_refinevis.py", [], ["--repeats", "1", "--frames", "5"]),
    "export": ("bench_export.py", [], ["--repeats", "1", "--networks", "seqformer"]),
    "mask_refinement": ("bench_mask_refinement.py", ["--jobs", "2"], ["--frames-per-clip", "3"]),
    "mask_refiner_speed": (
        "bench_mask_refiner_speed.py",
        [],
        ["--tracklets", "1", "5", "--frames", "14", "--long", "100"],
    ),
}
GPU_BENCHMARKS: dict[str, tuple[str, list[str], list[str]]] = {
    "model_cuda": ("bench_model.py", ["--device", "cuda"], ["--device", "cuda"]),
    "msts_cuda": ("bench_msts.py", ["--device", "cuda"], ["--device", "cuda", "--repeats", "1"]),
}


def flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Numbers and short words of a result, with their path."""
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in flat(v, f"{name}.{k}" if name else k)]
    if isinstance(value, list):
        if all(isinstance(v, int | float) for v in value):
            return [(name, value)] if len(value) <= 4 else []
        return [pair for i, v in enumerate(value) for pair in flat(v, f"{name}[{i}]")]
    return [(name, value)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [*BENCHMARKS, *GPU_BENCHMARKS]
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--quick", action="store_true", help="fewer repeats, smaller sizes")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes; keeps no results")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/*.json")
    args = parser.parse_args(argv)
    common = [
        f"--{name}" for name in ("dry-run", "record") if getattr(args, name.replace("-", "_"))
    ]
    table = BENCHMARKS | (GPU_BENCHMARKS if torch.cuda.is_available() else {})
    failed = []
    for name in args.only or table:
        if name not in table:
            print(f"{name}: needs a GPU, and there is none here")
            continue
        script, full, quick = table[name]
        print(f"\n=== {name}", flush=True)
        start = time.perf_counter()
        own = [] if args.dry_run else quick if args.quick else full
        command = [sys.executable, str(HERE / script), *own, *common]
        if subprocess.run(command, cwd=HERE.parent).returncode:
            failed.append(name)
        print(f"    ({time.perf_counter() - start:.0f} s)", flush=True)
    if not args.dry_run:
        print_results(RESULTS if args.record else SCRATCH)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def print_results(folder: Path) -> None:
    """Numbers of every file of a folder."""
    print(f"\n=== results in {folder}")
    for path in sorted(folder.glob("*.json")):
        print(path.name)
        for key, value in flat(json.loads(path.read_text())):
            print(f"    {key:60s} {value}")


if __name__ == "__main__":
    sys.exit(main())
