#!/usr/bin/env python3
"""Seconds and peak memory of BDD100K MOTS scoring beside the library the original counts with.

The data are made up: driving-like videos of 1280x720 with moving, occluding outlines, ignored
regions, missed frames, identity switches and false positives. Every contender runs in a process of
its own, one after the other, and reads the same two JSON files; reading is part of its time,
importing is not. All must give the same numbers. The baseline is ``baseline_mots.py``: event tables
of motmetrics, filled and asked the way Scalabel does it. ``read`` is what scoring spends before the
first mask is compared; only the rest could be shared among processes. It needs the ``bench`` extra.

    python benchmarks/bench_mots.py --videos 8 --frames 100 --objects 12
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import (
    BenchmarkError,
    benchmark_parser,
    machine,
    measure_apart,
    parse,
    run,
    write_json,
)

from cocoapi_hq.io import rle
from cocoapi_hq.mots import clear_mot, hota, mots_config, scalabel_io
from vmt.utils.memory import peak_mb

HEIGHT, WIDTH = 720, 1280
CLASSES = ("pedestrian", "rider", "car", "car", "car", "truck", "bus", "bicycle")
DRY_RUN = {"videos": 1, "frames": 5, "objects": 3, "repeats": 1}
CONTENDERS = ("baseline", "cocoapi_hq", "cocoapi_hq_hota", "read", "json_only")


def encode_crop(crop: np.ndarray, x0: int, y0: int) -> rle.Rle:
    """Code a mask that lies at (x0, y0) of a frame; crop is (h, w) uint8."""
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), dtype=np.int8)  # spare rows split them
    columns[:, 1:-1] = crop.T
    steps = np.diff(columns, axis=1)
    (bx, by), (ex, ey) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    begin, end = (bx + x0) * HEIGHT + by + y0, (ex + x0) * HEIGHT + ey + y0
    edges = np.concatenate([[0], np.stack([begin, end], axis=1).ravel(), [HEIGHT * WIDTH]])
    return rle.from_counts(np.diff(edges).tolist(), HEIGHT, WIDTH)


def paint(canvas: np.ndarray, points: np.ndarray, value: int) -> None:
    """Fill an outline (N, 2) of x, y with a value; what is painted later lies on top."""
    cv2.fillPoly(canvas, [points.round().astype(np.int32)], value)


def labels_of(canvas: np.ndarray, labels: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Labels with the visible part of every painted value as run lengths."""
    found = []
    for value, label in labels.items():
        x, y, w, h = label.pop("window")
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, WIDTH), min(y + h, HEIGHT)
        if x1 <= x0 or y1 <= y0:
            continue
        crop = (canvas[y0:y1, x0:x1] == value).astype(np.uint8)
        if crop.any():
            found.append({**label, "rle": encode_crop(crop, x0, y0)})
    return found


def make_video(rng: np.random.Generator, frames: int, objects: int) -> tuple[list, list]:
    """Ground truth and results of one video, as lists of labels per frame."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    tracks = []
    for i in range(objects):
        size = float(np.exp(rng.uniform(np.log(14), np.log(120))))
        radius = size * np.clip(1 + 0.15 * rng.normal(size=48), 0.5, 1.5)
        first = int(rng.integers(0, max(1, frames // 3)))
        last = int(rng.integers(2 * frames // 3, frames + 1))
        tracks.append(
            {
                "shape": circle * radius[:, None] * [1, rng.uniform(0.5, 1.5)],
                "at": rng.uniform([0, 200], [WIDTH, HEIGHT - 60]),
                "speed": rng.normal(size=2) * [4, 0.7],
                "span": (first, last),
                "category": CLASSES[int(rng.integers(len(CLASSES)))],
                "crowd": i > 0 and rng.random() < 0.08,
                "result_id": i + 1,
            }
        )
    gt_frames, result_frames = [], []
    next_id = objects + 1
    for t in range(frames):
        gt_canvas = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        canvas = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        gt: dict[int, dict[str, Any]] = {}
        results: dict[int, dict[str, Any]] = {}
        for i, track in enumerate(tracks):
            if not track["span"][0] <= t < track["span"][1]:
                continue
            points = track["shape"] + track["at"] + t * track["speed"]
            paint(gt_canvas, points, i + 1)
            flags = {"crowd": True} if track["crowd"] else {}
            gt[i + 1] = {"id": str(i + 1), "category": track["category"], "attributes": flags}
            gt[i + 1]["window"] = cv2.boundingRect(points.round().astype(np.int32))
            if rng.random() < 0.01:
                track["result_id"], next_id = next_id, next_id + 1
            if rng.random() < 0.1:
                continue
            noisy = points + rng.normal(size=2) * 2 + rng.normal(size=points.shape) * 1.5
            paint(canvas, noisy, i + 1)
            category = track["category"] if rng.random() < 0.95 else "truck"
            results[i + 1] = {"id": str(track["result_id"]), "category": category}
            results[i + 1]["score"] = float(rng.uniform(0.3, 1))
            results[i + 1]["window"] = cv2.boundingRect(noisy.round().astype(np.int32))
        for k in range(int(rng.poisson(0.08 * objects))):
            noisy = circle * rng.uniform(8, 40) + rng.uniform([0, 0], [WIDTH, HEIGHT])
            paint(canvas, noisy, 200 + k)
            results[200 + k] = {"id": str(next_id), "category": "car", "score": 0.2}
            results[200 + k]["window"] = cv2.boundingRect(noisy.round().astype(np.int32))
            next_id += 1
        gt_frames.append(labels_of(gt_canvas, gt))
        result_frames.append(labels_of(canvas, results))
    return gt_frames, result_frames


def make_data(folder: Path, videos: int, frames: int, objects: int, seed: int = 0) -> int:
    """Write gt.json and results.json; returns the number of masks."""
    sides: tuple[list, list] = ([], [])
    for v in range(videos):
        rng = np.random.default_rng([seed, v])
        for side, labels in zip(sides, make_video(rng, frames, objects), strict=True):
            for t, entry in enumerate(labels):
                side.append(
                    {
                        "videoName": f"video{v:04d}",
                        "name": f"video{v:04d}-{t:07d}.jpg",
                        "frameIndex": t,
                        "labels": entry,
                    }
                )
    for name, side in zip(("gt.json", "results.json"), sides, strict=True):
        (folder / name).write_text(json.dumps(side), encoding="utf-8")
    return sum(len(frame["labels"]) for side in sides for frame in side)


def run_contender(name: str, folder: Path) -> dict[str, Any]:
    """Score in this process: rows, seconds, peak memory of the process in MiB."""
    paths = folder / "gt.json", folder / "results.json"
    if name == "baseline":
        import baseline_mots  # its pandas would count in the memory of the others
    rows: dict[str, Any] = {}
    start = time.perf_counter()
    if name == "baseline":
        rows = baseline_mots.evaluate(*paths)
    elif name == "cocoapi_hq":
        rows = clear_mot.evaluate_mots(*paths).rows()
    elif name == "cocoapi_hq_hota":
        rows = hota.evaluate_hota(*paths).rows()
    elif name == "read":
        for path, is_gt in zip(paths, (True, False), strict=True):
            scalabel_io.load_frames(path, mots_config.BDD100K_MOTS, is_gt=is_gt)
    else:
        for path in paths:
            json.loads(path.read_bytes())
    seconds = time.perf_counter() - start
    return {"rows": rows, "seconds": seconds, "peak_mib": peak_mb()}


def measure(folder: Path, repeats: int, here: bool) -> dict[str, list[dict[str, Any]]]:
    """Some runs per contender, taken in turn so that a busy machine hits all alike."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for _ in range(repeats):
        for name in CONTENDERS:
            words = ["--contender", name, "--folder", str(folder)]
            runs[name].append(measure_apart(__file__, main, words, here))
    return runs


def require_same_numbers(want: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise AssertionError unless counts are equal and percentages agree to 1e-6."""
    assert set(want) == set(found), "the rows differ"
    for name, row in want.items():
        assert set(row) == set(found[name]), f"{name}: the numbers differ"
        for key, value in row.items():
            other = found[name][key]
            same = value == other or (math.isnan(value) and math.isnan(other))
            assert same or abs(value - other) < 1e-6, f"{name} {key}: {value} and {other}"


def main(argv: Sequence[str] | None = None) -> int:
    """Make the data, time the contenders, compare, print, write."""
    parser = benchmark_parser(__doc__, "mots.json")
    parser.add_argument("--videos", type=int, default=8, help="number of videos")
    parser.add_argument("--frames", type=int, default=100, help="frames per video")
    parser.add_argument("--objects", type=int, default=12, help="objects per video")
    parser.add_argument("--repeats", type=int, default=5, help="runs per contender; the median")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parse(parser, argv, DRY_RUN)
    if args.contender:
        print(json.dumps(run_contender(args.contender, args.folder)))
        return 0
    if find_spec("motmetrics") is None:
        raise BenchmarkError("the baseline needs motmetrics: pip install '.[bench]'.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_masks = make_data(folder, args.videos, args.frames, args.objects)
        runs = measure(folder, args.repeats, args.dry_run)
    rows = runs["cocoapi_hq"][0]["rows"]
    require_same_numbers(runs["baseline"][0]["rows"], rows)

    def median(name: str) -> float:
        return statistics.median(run["seconds"] for run in runs[name])

    report: dict[str, Any] = {
        "videos": args.videos,
        "frames_per_video": args.frames,
        "objects_per_video": args.objects,
        "masks": num_masks,
        "size": [HEIGHT, WIDTH],
        "processes": 1,
        "repeats": args.repeats,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("motmetrics", "pandas", "numpy")},
        "same_numbers": True,
        "AVERAGE": rows["AVERAGE"],
        "contenders": {},
    }
    print(f"{args.videos} videos x {args.frames} frames, {num_masks} masks of {WIDTH}x{HEIGHT}")
    print(f"{'median of ' + str(args.repeats):18}{'seconds':>9}{'faster':>9}{'MiB':>8}")
    for name, found in runs.items():
        entry = {
            "seconds": round(median(name), 3),
            "fastest": round(min(run["seconds"] for run in found), 3),
            "slowest": round(max(run["seconds"] for run in found), 3),
            "peak_mib": round(max(run["peak_mib"] for run in found), 1),
        }
        times = ""
        if name.startswith("cocoapi_hq"):
            entry["times_baseline"] = round(median("baseline") / median(name), 2)
            times = f"{entry['times_baseline']:.1f}x"
        report["contenders"][name] = entry
        print(f"{name:18}{entry['seconds']:9.3f}{times:>9}{entry['peak_mib']:8.0f}")
    shared = 1 - median("read") / median("cocoapi_hq")
    report["share_after_reading"] = round(shared, 3)
    print(f"same numbers; {100 * shared:.0f}% of the time of cocoapi_hq comes after reading")
    report["machine"] = machine()
    write_json(args.output, report)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
