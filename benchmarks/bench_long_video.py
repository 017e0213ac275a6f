#!/usr/bin/env python3
r"""Memory over a long video: a looped clip through the whole pipeline, resident memory per frame.

Decoding, a test-size network, linking, masks, results.json and tracks.csv (with ``--overlay`` also
drawing and encoding). Fails when the second half of the run holds over 3% more memory than the
first, medians of both halves.

Example:
    python benchmarks/bench_long_video.py --frames 10000
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import REPO, RESULTS, benchmark_parser, machine, parse, run, write_json
from driving_clips import driving_clip

from vmt import load_model
from vmt.apps.pipeline import OutputFiles, Pipeline, Report
from vmt.inference.predictor import Frame, FrameResult, PredictorOptions, VideoPredictor
from vmt.inference.results import ResultsWriter
from vmt.inference.video_file import VideoFile
from vmt.inference.video_writer import VideoWriter
from vmt.utils.atomic import DiskReserve
from vmt.utils.memory import peak_mb, resident_mb

CONFIG = REPO / "configs/quick/vmt_tiny_released.yaml"
RECORD = "long_video.json"
TOLERANCE = 0.03
#: Of a clip that is made here: (h, w).
SIZE = (90, 160)
#: Of a driving clip: frames, (h, w), objects.
DRIVING = (200, (176, 320), 6)
#: So few frames say nothing about memory.
DRY_RUN = {"frames": 6, "window": 2, "tolerance": math.inf}


class LoopedVideo:
    """A clip played again and again, decoded anew every time."""

    def __init__(self, clip: VideoFile, frames: int) -> None:
        self._clip = clip
        self.name = f"{clip.name} looped"
        self.fps = clip.fps
        self.size = clip.size
        self.num_frames: int | None = frames
        self.video_id = 1
        self.complete_length = False
        self.rereadable = True

    def __iter__(self) -> Iterator[Frame]:
        """Frames of all rounds."""
        left = self.num_frames or 0
        while left:
            for frame in self._clip:
                yield frame
                left -= 1
                if not left:
                    return


def make_clip(path: Path, frames: int, size: tuple[int, int]) -> VideoFile:
    """Discs that drift over a textured ground."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 190, (*size, 3), dtype=np.uint8)
    rows, columns = np.mgrid[: size[0], : size[1]]
    with VideoWriter(path, 12.0, size) as writer:
        for t in range(frames):
            frame = np.roll(ground, t, axis=1)
            for k, color in enumerate(((220, 40, 40), (40, 200, 60), (50, 80, 230))):
                x = (3 * t * (k + 1) + k * size[1] // 3) % size[1]
                y = size[0] * (k + 1) // 4
                frame[(rows - y) ** 2 + (columns - x) ** 2 < (size[0] // 7) ** 2] = color
            writer.write(frame)
    return VideoFile(path)


def make_driving_clip(path: Path) -> Path:
    """A clip of driving_clips.py, as a video file."""
    frames, size, objects = DRIVING
    with VideoWriter(path, 12.0, size) as writer:
        for frame in driving_clip(frames, size, seed=9000, objects=objects).frames:
            writer.write(frame)
    return path


def run_looped(
    args: argparse.Namespace,
    work: Path,
    model: Any,
    size: tuple[int, int],
    on_frame: Callable[[FrameResult], None] | None = None,
) -> tuple[Report, ResultsWriter]:
    """Play the clip of ``--video``, or one made here of a size, into the files of a folder."""
    # Random weights give scores near 0.03; without a limit every track reaches results.json.
    options = PredictorOptions(window=args.window, min_size=args.min_size, min_score=0.02)
    clip = VideoFile(args.video) if args.video else make_clip(work / "clip.mp4", 48, size)
    reserve = DiskReserve(work)
    results = ResultsWriter(work / "results.json", model.label_space.category_ids, reserve)
    files = OutputFiles(confidence=0.0, overlay=args.overlay)
    pipeline = Pipeline(VideoPredictor(model, options), files, results, reserve)
    report = pipeline.run(LoopedVideo(clip, args.frames), work, on_frame=on_frame)
    results.close()
    reserve.close()
    return report, results


def options() -> argparse.ArgumentParser:
    """Those of the command line."""
    parser = benchmark_parser(__doc__, RECORD)
    parser.add_argument("--frames", type=int, default=2000)
    clips = parser.add_mutually_exclusive_group()
    clips.add_argument("--video", type=Path, help="clip to loop; default: one made here, 90x160")
    clips.add_argument("--driving", action="store_true", help="loop a driving clip, 176x320")
    parser.add_argument("--config-file", type=Path, default=CONFIG)
    parser.add_argument("--weights")
    parser.add_argument("--min-size", type=int, default=64, help="short side of the network input")
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; default: torch's own choice")
    parser.add_argument("--overlay", action="store_true", help="draw and encode overlay.mp4 too")
    parser.set_defaults(tolerance=TOLERANCE)
    return parser


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Play the clip; what memory it took."""
    memory, masks, started = list[float](), list[int](), time.perf_counter()

    def sample(result: FrameResult) -> None:
        masks.append(len(result.tracks))
        memory.append(resident_mb())
        if len(memory) % 500 == 0:
            rate = len(memory) / (time.perf_counter() - started)
            print(f"frame {len(memory)}: {memory[-1]:.1f} MB, {rate:.1f} frames/s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        if args.driving:
            args.video = make_driving_clip(Path(folder) / "driving.mp4")
        model = load_model(args.config_file, args.weights)
        report, results = run_looped(args, Path(folder), model, SIZE, sample)
        after = resident_mb()
        size = (Path(folder) / "results.json").stat().st_size
    half = len(memory) // 2
    first, second = statistics.median(memory[:half]), statistics.median(memory[half:])
    return {
        "what": "resident memory of the whole pipeline over a looped clip",
        "machine": machine(),
        "config": args.config_file.stem,
        "network": type(model).__name__,
        "driving": args.driving,
        "frames": report.frames,
        "window": args.window,
        "overlay": args.overlay,
        "frames_per_second": round(report.frames / report.wall, 2),
        "rss_mb_first_half": round(first, 1),
        "rss_mb_second_half": round(second, 1),
        "growth": round(second / first - 1, 4),
        "growth_mb": round(second - first, 2),
        "peak_mb": round(peak_mb(), 1),
        "rss_mb_after_results": round(after, 1),
        "masks": sum(masks),
        "results_entries": results.entries,
        "results_bytes": size,
        "rss_mb_every_50_frames": [round(rss, 1) for rss in memory[::50]],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 1 when memory grows."""
    args = parse(options(), argv, DRY_RUN)
    if args.driving and args.output == RESULTS / RECORD:
        args.output = RESULTS / "long_video_driving.json"
    logging.basicConfig(level=logging.ERROR)
    if args.threads:
        torch.set_num_threads(args.threads)
    record = measure(args)
    print(
        "{frames} frames at {frames_per_second} frames/s: {rss_mb_first_half} MB in the first "
        "half, {rss_mb_second_half} MB in the second ({growth:+.2%}); results.json has "
        "{results_bytes} bytes, {results_entries} entries, assembled at {rss_mb_after_results} "
        "MB".format(**record)
    )
    write_json(args.output, record)
    if record["growth"] > args.tolerance:
        print(f"memory grows by more than {args.tolerance:.0%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
