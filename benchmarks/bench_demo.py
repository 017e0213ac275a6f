#!/usr/bin/env python3
r"""``vmt demo`` over thousands of frames: speed, memory, whether every frame is written, Ctrl-C.

The clip of two cars, forwards and backwards again and again, goes through the command in a process
of its own, with the weights of the package (or those of --config and --weights) and the mask
refiner on top. Resident memory is looked at every second: the second half of the run may hold 3%
more than the first, medians of both. Then it runs once more and SIGINT stops it after a quarter:
what was done is in all files.

Example:
  python benchmarks/bench_demo.py --frames 3000
"""

from __future__ import annotations

import json
import math
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    REPO,
    BenchmarkError,
    benchmark_parser,
    machine,
    parse,
    run,
    scratch_folder,
    write_json,
)
from PIL import Image

from vmt.inference.refine_defaults import SHIPPED
from vmt.inference.video_file import VideoFile
from vmt.inference.video_writer import VideoWriter
from vmt.utils.memory import resident_mb

CLIP = REPO / "docs/videos/two_cars.mp4"
TOLERANCE = 0.03
#: Share of the frames after which the second run is stopped, and seconds that it may take then.
STOP_AT, PATIENCE = 0.25, 120
#: A network without weights that finds much; so few and small pictures that memory says nothing.
DRY_RUN = {
    "frames": 40, "size": (64, 96), "every": 0.05, "tolerance": math.inf,
    "config": str(REPO / "configs/small/vmt_small.yaml"),
    "overrides": [
        "MODEL.BACKBONE.NAME", "timm/test_efficientnet", "MODEL.MOTS.DIM", "32",
        "MODEL.MOTS.FC_DIM", "32", "INPUT.MIN_SIZE_TEST", "64", "MODEL.MOTS.SCORE", "0.0",
        "TEST.QUASI_DENSE.INIT_SCORE", "0.0", "TEST.QUASI_DENSE.OBJECT_SCORE", "0.0",
        "MODEL.MOTS.DETECTIONS", "3", "TEST.CONFIDENCE", "0.0",
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """How a run of the command ended.

    Args:
        status: exit status.
        said: what it printed.
        seconds: in all.
        memory: resident memory in MB, from the first written frame on.
    """

    status: int
    said: str
    seconds: float
    memory: list[float]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command twice; 1 when memory grows or frames are missing."""
    parser = benchmark_parser(__doc__, "demo.json")
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--config", help="of the network (default: vmt_small of the package)")
    parser.add_argument("--weights", help="of the network of --config (default: random)")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    parser.set_defaults(tolerance=TOLERANCE, every=1.0, size=None)
    args = parse(parser, argv, DRY_RUN)
    work = scratch_folder()
    video = write_video(work / "long.mp4", args.frames, args.size)
    words = ["--input", str(video), "--save-masks"]
    if args.config is not None:
        words += ["--config-file", args.config, "--refiner", SHIPPED]
        words += ["--weights", args.weights] if args.weights else []
    words += args.overrides
    whole = demo(words, work / "whole", args.every)
    stopped = demo(words, work / "stopped", args.every, int(STOP_AT * args.frames))
    half = len(whole.memory) // 2
    first, second = (statistics.median(whole.memory[a:b]) for a, b in ((0, half), (half, None)))
    record = {
        "what": "vmt demo with the mask refiner on top, over a clip that goes on and on",
        "machine": machine(),
        "config": args.config and Path(args.config).stem,
        "frames": args.frames,
        "size": list(VideoFile(video).size),
        "frames_per_second": round(args.frames / whole.seconds, 2),
        "rss_mb_first_half": round(first, 1),
        "rss_mb_second_half": round(second, 1),
        "growth": round(second / first - 1, 4),
        "peak_mb": round(max(whole.memory), 1),
        "written": written(work / "whole"),
        "stopped_at": int(STOP_AT * args.frames),
        "written_when_stopped": written(work / "stopped"),
    }
    print(json.dumps(record, indent=1))
    write_json(args.output, record)
    return verdict(record, whole.status, stopped.status, args.tolerance)


def verdict(record: dict[str, Any], status: int, stopped: int, tolerance: float) -> int:
    """0, or 1 with a line for everything that is wrong."""
    done = record["written_when_stopped"]["overlay"]
    wrong = {
        f"exit status {status}": status != 0,
        f"exit status {stopped} after SIGINT": stopped != 128 + signal.SIGINT,
        "frames are missing": set(record["written"].values()) != {record["frames"]},
        "files of the stopped run disagree": set(record["written_when_stopped"].values()) != {done},
        "the stopped run has all frames": done >= record["frames"],
        "the stopped run lost frames": done < record["stopped_at"],
        f"memory grows by more than {tolerance:.0%}": record["growth"] > tolerance,
    }
    for text in [text for text, it_is in wrong.items() if it_is]:
        print(text, file=sys.stderr)
    return int(any(wrong.values()))


def write_video(path: Path, frames: int, size: tuple[int, int] | None) -> Path:
    """The clip forwards and backwards, without end but for ``frames``, perhaps at another size."""
    clip = VideoFile(CLIP)
    once = list(clip) if size is None else [resized(frame, size) for frame in clip]
    with VideoWriter(path, clip.fps, once[0].shape[:2]) as writer:
        for frame in islice(cycle([*once, *once[-2:0:-1]]), frames):
            writer.write(frame)
    return path


def resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The frame at (h, w)."""
    return np.asarray(Image.fromarray(frame).resize(size[::-1]))


def demo(words: Sequence[str], output: Path, every: float, stop_at: int | None = None) -> Finished:
    """Run ``vmt demo``; with ``stop_at`` it gets SIGINT once so many frames are written."""
    command = [sys.executable, "-m", "vmt.cli.main", "demo", "--output", str(output), *words]
    started, memory = time.perf_counter(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            done = sum(1 for _ in maps(output))
            if done:
                memory.append(resident_mb(process.pid))
            if stop_at is not None and done >= stop_at:
                process.send_signal(signal.SIGINT)
                process.wait(PATIENCE)
            time.sleep(every)
        said = process.stdout.read() if process.stdout is not None else ""
    print(said, end="", flush=True)
    if process.returncode not in (0, 128 + signal.SIGINT):
        raise BenchmarkError(f"vmt demo ended with status {process.returncode}; see above.")
    return Finished(process.returncode, said, time.perf_counter() - started, memory)


def maps(output: Path) -> Iterator[Path]:
    """Label maps that are complete."""
    return (output / "masks").glob("*.png")


def written(output: Path) -> dict[str, int]:
    """Frames in each file of a run."""
    entries = json.loads((output / "results.json").read_text())
    lengths = {len(entry["segmentations"]) for entry in entries}
    return {
        "overlay": sum(1 for _ in VideoFile(output / "overlay.mp4")),
        "masks": sum(1 for _ in maps(output)),
        "results": lengths.pop() if len(lengths) == 1 else -1,
    }


if __name__ == "__main__":
    sys.exit(run(main))
