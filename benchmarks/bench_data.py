#!/usr/bin/env python3
"""How many training clips per second the loader gives, by number of workers.

    python benchmarks/bench_data.py --data my.json@JPEGImages

Without ``--data`` moving shapes of 480x854 are written to a temporary folder first. The config is
the quick one; a second row takes the published sizes. Time is counted after the first batches, so
that starting workers is left out.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import torch
from common import benchmark_parser, machine, parse, run, write_json

from tests.synthetic import write_moving_shapes
from vmt.config.node import load_config
from vmt.data.build import PREFETCH, build_train_loader
from vmt.data.labels import label_space_from_json

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "quick": "configs/quick/seqformer_tiny.yaml",
    "published sizes": "configs/Base-SeqFormer.yaml",
}
DRY_RUN = {"seconds": 0.1, "workers": [0], "size": (60, 96)}


def clips_per_second(config: str, data: str, workers: int, seconds: float) -> dict[str, Any]:
    """Rate of one config with one number of workers."""
    overrides = ["DATASETS.TRAIN", f"[{data!r}]", "DATALOADER.NUM_WORKERS", str(workers)]
    overrides += ["SOLVER.CLIPS_PER_BATCH", "2"]
    cfg = load_config(ROOT / config, overrides)
    loader = build_train_loader(cfg, label_space_from_json(data.rpartition("@")[0]))
    batches = iter(loader)
    for _ in islice(batches, 2 * (1 + workers * PREFETCH)):
        pass
    clips, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        clips += len(next(batches))
    rate = clips / (time.perf_counter() - start)
    row: dict[str, Any] = {"workers": workers, "clips_per_second": round(rate, 2), "clips": clips}
    if not workers:  # does not depend on what else the machine does
        row["cpu_ms_per_clip"] = round(1000 * (time.process_time() - cpu) / clips, 1)
    batches.close()  # type: ignore[attr-defined]
    return row


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = benchmark_parser(__doc__, "data.json")
    parser.add_argument("--data", help="path/to.json@path/to/images")
    parser.add_argument("--seconds", type=float, default=8.0, help="per measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.set_defaults(size=(480, 854))
    args = parse(parser, argv, DRY_RUN)
    torch.set_num_threads(1)  # workers have one thread each; 0 workers shall compare
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as temporary:
        data, kind = args.data, "given"
        if data is None:
            path = write_moving_shapes(Path(temporary), 6, 20, args.size, seed=0)
            data = f"{path}@{path.parent / 'JPEGImages'}"
            kind = "moving shapes, {}x{}".format(*args.size)
        load = round(os.getloadavg()[0], 1)
        results: dict[str, Any] = {
            "machine": machine() | {"load_before": load},
            "data": kind,
            "rows": {},
        }
        for name, config in CONFIGS.items():
            rows = [clips_per_second(config, data, n, args.seconds) for n in args.workers]
            results["rows"][name] = rows
            for row in rows:
                print(
                    f"{name:16s} {row['workers']} workers  {row['clips_per_second']:6.1f} clips/s"
                )
    write_json(args.output, results)


if __name__ == "__main__":
    sys.exit(run(main))
