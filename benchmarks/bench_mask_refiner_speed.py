#!/usr/bin/env python3
"""Speed and memory of the mask refiner at 480x854, over tracklets and over frames.

Discs of 60 to 150 pixels drift over noise; their masks are 5 pixels too wide. Each row is a process
of its own: frames per second (median of the windows after the first), peak memory beyond that of
the imports. The last row streams a long video; its memory must not grow (checked, within 3%).

Example:
  python benchmarks/bench_mask_refiner_speed.py --tracklets 1 5 --frames 16 --long 200
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from common import benchmark_parser, machine, measure_apart, parse, run, write_json

from vmt.inference.mask_refiner import OVERLAP, MaskRefiner
from vmt.inference.refine_defaults import SHIPPED, WINDOW
from vmt.utils.memory import peak_mb, resident_mb

DRY_RUN = {"tracklets": [1], "frames": 2, "long": 0}
SIZE = (480, 854)
HALO_PX = 5
TOLERANCE = 0.03


class Discs:
    """A video of N discs, made frame by frame.

    Args:
        tracklets: N.
        frames: how many.
    """

    def __init__(self, tracklets: int, frames: int) -> None:
        rng = np.random.default_rng(0)
        self.frames = frames
        self.ground = rng.integers(60, 190, (*SIZE, 3), dtype=np.uint8)
        self.radius = rng.integers(30, 76, tracklets)
        self.start = rng.integers(0, SIZE[::-1], (tracklets, 2))
        self.colour = rng.integers(0, 256, (tracklets, 3))
        self.rows, self.columns = np.mgrid[: SIZE[0], : SIZE[1]]

    def _discs(self, t: int, extra: int) -> Iterator[np.ndarray]:
        for (x, y), radius in zip(self.start, self.radius, strict=True):
            far = (self.rows - y) ** 2 + (self.columns - (x + 2 * t) % SIZE[1]) ** 2
            yield far < (radius + extra) ** 2

    def pictures(self) -> Iterator[np.ndarray]:
        """Frames (480, 854, 3)."""
        for t in range(self.frames):
            frame = self.ground.copy()
            for mask, colour in zip(self._discs(t, 0), self.colour, strict=True):
                frame[mask] = colour
            yield frame

    def masks(self) -> Iterator[np.ndarray]:
        """Coarse masks (N, 480, 854)."""
        for t in range(self.frames):
            yield np.stack(list(self._discs(t, HALO_PX)))


def measure(weights: str, device: str, tracklets: int, frames: int) -> dict[str, float]:
    """One row, in this process."""
    refiner = MaskRefiner.from_pretrained(weights, device=device)
    before = resident_mb()
    video = Discs(tracklets, frames)
    # Making frames costs time too; those of a window are made before the clock starts.
    step = max(WINDOW - OVERLAP, 1)
    paces, memory, count = [], [], 0
    started = time.perf_counter()
    stream = refiner.stream(video.pictures(), video.masks(), window=WINDOW)
    for count, _ in enumerate(stream, start=1):
        if count % step == 0:
            now = time.perf_counter()
            paces.append(step / (now - started))
            started = now
            memory.append(resident_mb())
    made = time.perf_counter()
    for pair in zip(video.pictures(), video.masks(), strict=True):
        assert len(pair) == 2
    making = (time.perf_counter() - made) / frames
    pace = statistics.median(paces[1:] or paces)
    half = len(memory) // 2
    return {
        "frames": count,
        "frames_per_s": 1 / max(1 / pace - making, 1e-9),
        "peak_mb": peak_mb() - before,
        "first_half_mb": statistics.median(memory[: half or 1]),
        "second_half_mb": statistics.median(memory[half:]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = benchmark_parser(__doc__, "mask_refiner_speed.json")
    parser.add_argument("--tracklets", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--frames", type=int, default=26)
    parser.add_argument("--long", type=int, default=2000, help="frames of the last row; 0: none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", default=SHIPPED, help="name or file, as for vmt refine")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parse(parser, argv, DRY_RUN)
    if args.one:
        print(json.dumps(measure(args.weights, args.device, *args.one)))
        return 0
    rows = []
    jobs = [(n, args.frames) for n in args.tracklets] + ([(1, args.long)] if args.long else [])
    for tracklets, frames in jobs:
        words = ["--device", args.device, "--weights", args.weights]
        words += ["--one", str(tracklets), str(frames)]
        row = {"tracklets": tracklets} | measure_apart(__file__, main, words, args.dry_run)
        rows.append(row)
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    content = {"machine": machine(), "device": args.device, "threads": torch.get_num_threads()}
    write_json(args.output, content | {"size": SIZE, "window": WINDOW, "rows": rows})
    grown = rows[-1]["second_half_mb"] > (1 + TOLERANCE) * rows[-1]["first_half_mb"]
    if args.long and grown:
        print("memory grew over the long video", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
