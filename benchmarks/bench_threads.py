#!/usr/bin/env python3
"""Seconds per mask of the mask refiner on a busy machine, by number of threads.

Burners are processes that do nothing but use a core each. "spin" is torch's default: threads of
one operation spin while they wait for each other; with "sleep" they sleep
(OMP_WAIT_POLICY=PASSIVE). The last row of each is what ``vmt refine`` does: sleep, and no more
threads than free cores. Whatever else runs on the machine counts, too: "load" is the mean number of
runnable processes.

Example:
  python benchmarks/bench_threads.py --burners 0 1 2
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench_mask_refiner_speed import Discs
from common import benchmark_parser, machine, measure_apart, parse, run, write_json

from vmt.inference.mask_refiner import MaskRefiner
from vmt.inference.refine_defaults import SHIPPED
from vmt.utils.threads import take_free_cores, usable_cores

DRY_RUN = {"burners": [0], "frames": 1}


def _burn() -> None:
    while True:
        pass


@contextmanager
def burning(count: int) -> Iterator[None]:
    """Keep ``count`` processes busy."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_burn, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def measure(threads: int, frames: int) -> dict[str, float]:
    """One row, in this process; 0 threads: as ``vmt refine`` chooses."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    else:
        take_free_cores()
    refiner = MaskRefiner.from_pretrained(SHIPPED, device="cpu")
    video = Discs(1, frames + 1)
    seconds, started = [], time.perf_counter()
    for _ in refiner.stream(video.pictures(), video.masks()):
        now = time.perf_counter()
        seconds.append(now - started)
        started = now
    return {"threads": torch.get_num_threads(), "s_per_mask": statistics.median(seconds[1:])}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = benchmark_parser(__doc__, "threads.json")
    parser.add_argument("--burners", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--frames", type=int, default=4, help="per row, after one to warm up")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parse(parser, argv, DRY_RUN)
    if args.one:
        print(json.dumps(measure(*args.one)))
        return 0
    os.environ.pop("OMP_NUM_THREADS", None)
    cores = usable_cores()
    ways = [("sleep", 1), ("spin", cores), ("sleep", cores), ("sleep", 0)]
    rows: list[dict[str, Any]] = []
    for burners in args.burners:
        for way, threads in ways:
            os.environ["OMP_WAIT_POLICY"] = {"sleep": "PASSIVE", "spin": "ACTIVE"}[way]
            with burning(burners):
                words = ["--one", str(threads), str(args.frames)]
                row = measure_apart(__file__, main, words, args.dry_run)
            load = os.getloadavg()[0]
            rows.append({"burners": burners, "wait": way, "chosen": not threads} | row)
            rows[-1]["load"] = load
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    write_json(args.output, {"machine": machine(), "usable_cores": cores, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
