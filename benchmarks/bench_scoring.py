#!/usr/bin/env python3
"""Seconds and peak memory of the scoring package beside a baseline that works like the originals.

The data are made up in the size of HQ-YTVIS's test set: 280 videos of 27 frames, 1280x720, two
objects and ten results each. The baseline follows the official evaluator's way of working: every
mask decoded at full size, padded, eroded by repeated 3x3 passes, subtracted and coded again, for
all annotations and all results in two processes; intersection and union merged separately for
every pair and frame. It runs on a stated part of the videos; its time is that of reading both files
plus the rest scaled to all videos. Every contender runs in a process of its own, and every time
includes reading the JSON files. The best of three runs counts for ours, of two for the baseline.
CPU time stands beside wall time because other work on the machine blows up the latter. Two
processes of the baseline can at best halve its CPU time, so half of "less CPU time" is what an idle
machine shows at least.

    python benchmarks/bench_scoring.py --videos 280 --baseline-videos 24
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import benchmark_parser, measure_apart, parse, run, write_json
from pycocotools import mask as coco

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cocoapi_hq
from cocoapi_hq.io import rle
from cocoapi_hq.tubes import tube_ap
from cocoapi_hq.tubes.protocol import get_protocol
from vmt.utils.memory import peak_mb

HEIGHT, WIDTH, FRAMES = 720, 1280, 27
OBJECTS, DETECTIONS, CLASSES = 2, 10, 40
DRY_RUN = {"videos": 1, "baseline_videos": 1, "repeats": 1, "agreement_videos": 1}


# --- data -----------------------------------------------------------------------------------


def draw(center: np.ndarray, radius: np.ndarray) -> rle.Rle:
    """Code a star-shaped outline: centre (x, y) and one radius per direction, in pixels."""
    angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    points = center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.clip(points, 0, [WIDTH - 1, HEIGHT - 1]).round().astype(np.int32)
    x0, y0 = points.min(axis=0)
    x1, y1 = points.max(axis=0) + 1
    crop = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
    cv2.fillPoly(crop, [points - [x0, y0]], 1)
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), dtype=np.int8)  # spare rows split them
    columns[:, 1:-1] = crop.T
    steps = np.diff(columns, axis=1)
    (bx, by), (ex, ey) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    begin, end = (bx + x0) * HEIGHT + by + y0, (ex + x0) * HEIGHT + ey + y0
    edges = np.concatenate([[0], np.stack([begin, end], axis=1).ravel(), [HEIGHT * WIDTH]])
    return rle.from_counts(np.diff(edges).tolist(), HEIGHT, WIDTH)


def outline(rng: np.random.Generator, size: float, roughness: float) -> np.ndarray:
    """(90,) radii of an outline with a few large and many small waves, in pixels."""
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    wave = sum(
        rng.normal() * 0.25 / k * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 24)
    )
    return size * np.clip(1 + wave + roughness * rng.normal(size=90), 0.25, 2)


def tube(rng: np.random.Generator, seed_tube: dict[str, Any], noise: float, shift: float) -> list:
    """27 masks of a moving outline, disturbed by ``noise`` (radii) and ``shift`` (pixels)."""
    radius, at, speed = seed_tube["radius"], seed_tube["at"], seed_tube["speed"]
    step = rng.normal(size=2) * shift
    return [
        draw(at + t * speed + step, radius * (1 + noise * rng.normal(size=90)))
        for t in range(FRAMES)
    ]


def make_video(job: tuple[int, int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Annotations and results of one video."""
    seed, video_id = job
    rng = np.random.default_rng([seed, video_id])
    annotations, results = [], []
    for k in range(OBJECTS):
        seed_tube = {
            "radius": outline(rng, rng.uniform(60, 200), 0.01),
            "at": rng.uniform([250, 200], [WIDTH - 250, HEIGHT - 200]),
            "speed": rng.normal(size=2) * 4,
        }
        category = int(rng.integers(1, CLASSES + 1))
        masks = tube(rng, seed_tube, 0.0, 0.0)
        annotations.append(
            {
                "id": video_id * OBJECTS + k + 1,
                "video_id": video_id,
                "category_id": category,
                "iscrowd": 0,
                "height": HEIGHT,
                "width": WIDTH,
                "length": FRAMES,
                "segmentations": masks,
                "areas": [rle.area(m) for m in masks],
                "bboxes": [list(rle.to_box(m)) for m in masks],
            }
        )
        best = tube(rng, seed_tube, 0.02, 2)
        other = int(rng.integers(1, CLASSES + 1))
        for masks, c, score in (
            (best, category, rng.uniform(0.5, 1)),
            (best, other, rng.uniform(0.05, 0.4)),  # one query under two classes
            (tube(rng, seed_tube, 0.05, 20), category, rng.uniform(0.1, 0.6)),
            (tube(rng, seed_tube, 0.05, 120), category, rng.uniform(0.05, 0.3)),
            (tube(rng, seed_tube, 0.1, 300), category, rng.uniform(0.01, 0.2)),
        ):
            results.append(
                {
                    "video_id": video_id,
                    "category_id": c,
                    "score": float(score),
                    "segmentations": masks,
                }
            )
    return annotations, results


def make_data(folder: Path, videos: int, seed: int = 0) -> None:
    """Write gt.json and results.json."""
    with multiprocessing.Pool() as pool:
        made = pool.map(make_video, [(seed, v + 1) for v in range(videos)], chunksize=4)
    gt = {
        "videos": [
            {
                "id": v + 1,
                "height": HEIGHT,
                "width": WIDTH,
                "length": FRAMES,
                "file_names": [f"{v:04d}/{t:05d}.jpg" for t in range(FRAMES)],
            }
            for v in range(videos)
        ],
        "categories": [{"id": c, "name": f"class_{c}"} for c in range(1, CLASSES + 1)],
        "annotations": [a for annotations, _ in made for a in annotations],
    }
    (folder / "gt.json").write_text(json.dumps(gt))
    (folder / "results.json").write_text(json.dumps([r for _, results in made for r in results]))


# --- baseline: the way the originals work ----------------------------------------------------


def full_frame_boundary(mask: dict[str, Any]) -> dict[str, Any]:
    """Boundary of one mask on the decoded, padded frame."""
    dense = coco.decode(mask)
    h, w = dense.shape
    d = max(1, round(0.02 * math.sqrt(h * h + w * w)))
    padded = cv2.copyMakeBorder(dense, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=d)
    return coco.encode(np.asfortranarray(dense - eroded[1 : h + 1, 1 : w + 1]))


def boundaries_of(entries: list[dict[str, Any]], part: slice) -> list[list[Any]]:
    """What one worker does: it was sent all entries and takes its part."""
    return [
        [None if m is None else full_frame_boundary(m) for m in e["segmentations"]]
        for e in entries[part]
    ]


def add_boundaries(entries: list[dict[str, Any]], jobs: int) -> None:
    """Boundaries of every entry, in ``jobs`` processes that each receive the whole list."""
    size = -(-len(entries) // jobs)
    parts = [(entries, slice(k * size, (k + 1) * size)) for k in range(jobs)]
    with multiprocessing.Pool(jobs) as pool:
        made = [tube for chunk in pool.starmap(boundaries_of, parts) for tube in chunk]
    for entry, boundary in zip(entries, made, strict=True):
        entry["boundary"] = boundary


def merged_iou(d: list[Any], g: list[Any]) -> float:
    """Tube IoU by merging the run lengths of every frame, once to cut and once to unite."""
    inter = union = 0.0
    for a, b in zip(d, g, strict=True):
        if a and b:
            inter += float(coco.area(coco.merge([a, b], True)))
            union += float(coco.area(coco.merge([a, b], False)))
        elif a or b:
            union += float(coco.area(a or b))
    return inter / union if union else 0.0


def baseline(folder: Path, metric: str, videos: int, jobs: int) -> dict[str, Any]:
    """Score the first ``videos`` videos."""
    start = time.perf_counter()
    gt = json.loads((folder / "gt.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    reading = time.perf_counter() - start
    annotations = [a for a in gt["annotations"] if a["video_id"] <= videos]
    results = [r for r in results if r["video_id"] <= videos]
    start = time.perf_counter()
    for entry in results:
        entry["areas"] = [coco.area(m) if m else None for m in entry["segmentations"]]
        entry["bboxes"] = [coco.toBbox(m).tolist() if m else None for m in entry["segmentations"]]
    if metric == "tube_boundary":
        add_boundaries(annotations, jobs)
        add_boundaries(results, jobs)
    rules = get_protocol("ytvis_2019")
    cells = baseline_cells(annotations, results, metric, rules)
    curves = tube_ap.accumulate(cells, [c["id"] for c in gt["categories"]], rules)
    stats = tube_ap.summary(curves, rules)
    return {"seconds": time.perf_counter() - start, "reading": reading, "stats": stats}


def baseline_cells(
    annotations: list[dict[str, Any]], results: list[dict[str, Any]], metric: str, rules: Any
) -> list[tube_ap.Cell]:
    """Group, compare pair by pair and match in Python."""
    groups: dict[tuple[int, int], tuple[list[Any], list[Any]]] = {}
    for side, entries in enumerate((results, annotations)):
        for position, e in enumerate(entries):
            key = (e["video_id"], e["category_id"])
            groups.setdefault(key, ([], []))[side].append((position, e))
    cells = []
    for (video_id, category), (dt, gt) in sorted(groups.items()):
        dt = sorted(dt, key=lambda e: -e[1]["score"])[:100]
        iou = np.zeros((len(dt), len(gt)))
        for i, (_, d) in enumerate(dt):
            for j, (_, g) in enumerate(gt):
                iou[i, j] = merged_iou(d["segmentations"], g["segmentations"])
                if metric == "tube_boundary":
                    iou[i, j] = min(iou[i, j], merged_iou(d["boundary"], g["boundary"]))
        cells.append(match_cell(video_id, category, dt, gt, iou, rules))
    return cells


def match_cell(
    video_id: int, category: int, dt: list[Any], gt: list[Any], iou: np.ndarray, rules: Any
) -> tube_ap.Cell:
    """The matching loops, once per range and threshold."""

    def mean_area(entry: dict[str, Any]) -> float:
        shown = [a for a in entry["areas"] if a]
        return float(np.mean(shown)) if shown else 0.0

    dt_area = np.array([mean_area(e) for _, e in dt])
    gt_area = np.array([mean_area(e) for _, e in gt])
    ignored = tube_ap.outside_ranges(gt_area, None, rules)
    crowd = np.zeros(len(gt), dtype=bool)
    order = np.argsort(ignored, axis=1, kind="stable").astype(np.int32)
    matched = tube_ap.match_numpy(iou, ignored, crowd, np.array(rules.bars), order)
    outside = tube_ap.outside_ranges(dt_area, None, rules)
    return tube_ap.Cell(
        video_id,
        category,
        np.array([p for p, _ in dt], dtype=np.int64),
        np.array([e["id"] for _, e in gt], dtype=np.int64),
        np.array([e["score"] for _, e in dt], dtype=float),
        matched,
        tube_ap.ignored_detections(matched, ignored, outside),
        ignored,
        iou,
        dt_area,
        gt_area,
    )


# --- contenders, each in a process of its own -------------------------------------------------


def ours(folder: Path, metrics: list[str], jobs: int) -> dict[str, Any]:
    """Score the whole set with the package."""
    start = time.perf_counter()
    answer = cocoapi_hq.evaluate(
        folder / "gt.json", folder / "results.json", metrics, protocol="ytvis_2019", jobs=jobs
    )
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "stats": {m: s.stats for m, s in answer.tubes.items()}}


def cpu_seconds() -> float:
    """Processor time of this process and its finished children."""
    usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def stage_main(stage: str, folder: Path, options: dict[str, Any]) -> None:
    """Body of a contender's process."""
    call: Callable[..., dict[str, Any]] = {"baseline": baseline, "ours": ours}[stage]
    before = cpu_seconds()
    measured = call(folder, **options)
    # The baseline reads both files whole but scores a part: its reading is not to be scaled.
    measured["cpu"] = cpu_seconds() - before - measured.get("reading", 0.0)
    # Largest resident set of this process plus that of its largest child.
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    measured["peak_mib"] = peak_mb() + children
    print(json.dumps(measured))


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one run."""
    videos, part, repeats = args.videos, args.baseline_videos, args.repeats
    rows: list[dict[str, Any]] = []

    def best(stage: str, where: Path, times: int, **options: Any) -> dict[str, Any]:
        words = ["--stage", stage, "--folder", str(where), "--options", json.dumps(options)]
        runs = [measure_apart(__file__, main, words, args.dry_run) for _ in range(times)]
        return min(runs, key=lambda r: r["seconds"])

    for metric, count in (("tube_boundary", part), ("tube_mask", min(videos, 5 * part))):
        slow = best("baseline", folder, min(2, repeats), metric=metric, videos=count, jobs=2)
        scaled, cpu = (slow["reading"] + slow[k] * videos / count for k in ("seconds", "cpu"))
        rows.append(row(f"{metric} baseline", slow, scaled, count) | {"cpu_full_set": cpu})
        for jobs in (1, 2):
            fast = best("ours", folder, repeats, metrics=[metric], jobs=jobs)
            rows.append(row(f"{metric} ours, {jobs} process(es)", fast, fast["seconds"], videos))
            rows[-1]["times_faster"] = scaled / fast["seconds"]
            rows[-1]["times_less_cpu"] = cpu / fast["cpu"]
    both = {"metrics": ["tube_mask", "tube_boundary"], "jobs": 1}
    whole = best("ours", folder, repeats, **both)
    rows.append(row("both metrics ours, 1 process", whole, whole["seconds"], videos))
    with tempfile.TemporaryDirectory() as small:
        make_data(Path(small), max(1, videos // 4))
        quarter = best("ours", Path(small), 1, **both)
    rows.append(
        row("the same, a quarter of the videos", quarter, quarter["seconds"], max(1, videos // 4))
    )
    return {"rows": rows}


def row(name: str, measured: dict[str, Any], seconds: float, videos: int) -> dict[str, Any]:
    """One line of the table."""
    return {
        "name": name,
        "videos_measured": videos,
        "seconds_measured": measured["seconds"],
        "seconds_full_set": seconds,
        "cpu_measured": measured["cpu"],
        "peak_mib": measured["peak_mib"],
    }


def check_agreement(part: int) -> float:
    """Largest difference between baseline and package on the part both score."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as small:
        make_data(Path(small), part)
        for metric in ("tube_mask", "tube_boundary"):
            slow = baseline(Path(small), metric, part, 2)["stats"]
            fast = ours(Path(small), [metric], 1)["stats"][metric]
            worst = max([worst, *[abs(slow[k] - fast[k]) for k in slow]])
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the numbers."""
    parser = benchmark_parser(__doc__, "scoring.json")
    parser.add_argument("--videos", type=int, default=280)
    parser.add_argument("--baseline-videos", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3, help="runs of ours; the best counts")
    parser.add_argument("--agreement-videos", type=int, default=3, help="compared number by number")
    parser.add_argument("--folder", type=Path, help="keep or reuse the data there")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    args = parse(parser, argv, DRY_RUN)
    if args.stage:
        stage_main(args.stage, args.folder, args.options)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "results.json").is_file():
            make_data(folder, args.videos)
        report = measure(folder, args)
        report["results_json_mib"] = (folder / "results.json").stat().st_size / 2**20
        report["largest_difference"] = check_agreement(args.agreement_videos)
    report["setting"] = {
        "videos": args.videos,
        "frames": FRAMES,
        "size": [HEIGHT, WIDTH],
        "objects": OBJECTS,
        "results": DETECTIONS,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    for r in report["rows"]:
        faster = ""
        if "times_faster" in r:
            faster = f"{r['times_faster']:6.1f}x faster, {r['times_less_cpu']:6.1f}x less CPU time"
        print(
            f"{r['name']:<38} {r['seconds_full_set']:8.2f} s  {r['peak_mib']:8.0f} MiB  "
            f"({r['videos_measured']} videos measured) {faster}"
        )
    print(f"largest difference of any number: {report['largest_difference']:.1e}")
    write_json(args.output, report)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
