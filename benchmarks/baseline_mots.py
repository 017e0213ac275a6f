#!/usr/bin/env python3
"""BDD100K MOTS the way the original evaluator works: event tables of motmetrics, in pandas.

For speed comparisons only; it checks nothing and covers run-length files without aliases. Scalabel,
the original, pairs masks and leaves the counting to motmetrics; so does this:

- every label becomes an object; masks stay COCO texts and pycocotools parses them in every call:
  for the overlap check of a frame, for the IoU of every class and frame, for ignored regions;
- a motmetrics accumulator per class and video holds a table of events;
- motmetrics computes every metric from every table and merges the tables of a row: once for the
  leaf class, once for its super-category, once for all classes.

Only the glue is ours, and it is kinder to time than the original's: labels are plain data classes
(the original validates every one), and the metrics of a row are asked for once.

Example:
    python benchmarks/baseline_mots.py --gt gt.json --results results.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import motmetrics
import numpy as np
from common import run
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

CLASSES = ["pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
SUPERS = {
    "human": ["pedestrian", "rider"],
    "vehicle": ["car", "truck", "bus", "train"],
    "bike": ["motorcycle", "bicycle"],
}
#: motmetrics' name of a number -> its name in the rows.
METRICS = {
    "mota": "MOTSA",
    "motp": "MOTSP",
    "idf1": "IDF1",
    "num_false_positives": "FP",
    "num_misses": "FN",
    "num_switches": "IDSw",
    "mostly_tracked": "MT",
    "partially_tracked": "PT",
    "mostly_lost": "ML",
    "num_fragmentations": "FM",
}


@dataclass
class Label:
    """One mask of one frame."""

    id: int
    category: str
    rle: dict[str, Any]
    ignored: bool


@dataclass
class Frame:
    """One frame of a file."""

    video: str
    index: int
    labels: list[Label]


def assign(dists: np.ndarray) -> list[tuple[int, int]]:
    """As many allowed (not nan) pairs as possible, then the least total distance."""
    if not dists.size or np.isnan(dists).all():
        return []
    large = 2 * min(dists.shape) * float(np.nanmax(dists)) + 1
    rows, cols = linear_sum_assignment(np.where(np.isnan(dists), large, dists))
    pairs = zip(rows.tolist(), cols.tolist(), strict=True)
    return [(i, j) for i, j in pairs if not math.isnan(dists[i, j])]


def read(path: Path) -> dict[str, list[Frame]]:
    """Videos of a Scalabel file."""
    videos: dict[str, list[Frame]] = defaultdict(list)
    for entry in json.loads(path.read_text(encoding="utf-8")):
        labels = []
        for label in entry["labels"]:
            flags = label.get("attributes") or {}
            ignored = bool(flags.get("crowd") or flags.get("ignored"))
            labels.append(Label(int(label["id"]), label["category"], label["rle"], ignored))
        frame = Frame(entry["videoName"], entry["frameIndex"], labels)
        videos[frame.video].append(frame)
    for frames in videos.values():
        frames.sort(key=lambda frame: frame.index)
    return dict(sorted(videos.items()))


def overlaps(labels: list[Label]) -> bool:
    """True if any two masks of a frame share a pixel."""
    masks = [label.rle for label in labels]
    if len(masks) < 2:
        return False
    table = coco_mask.iou(masks, masks, [False] * len(masks))
    return bool((table - np.diag(np.diag(table)) > 0).any())


def distances(gt: list[Label], preds: list[Label]) -> np.ndarray:
    """(G, P) 1 - IoU, nan above 0.5."""
    if not gt or not preds:
        return np.full((len(gt), len(preds)), np.nan)
    table = coco_mask.iou([p.rle for p in preds], [g.rle for g in gt], [False] * len(gt))
    dists = 1.0 - table.T
    return np.where(dists > 0.5, np.nan, dists)


def without_ignored(
    gt: list[Label], preds: list[Label], regions: list[Label]
) -> tuple[list[Label], np.ndarray]:
    """Predictions of a class that stay, and their distances to the ground truth."""
    dists = distances(gt, preds)
    if not regions or not preds:
        return preds, dists
    matched = {j for _, j in assign(dists)}
    share = coco_mask.iou([p.rle for p in preds], [r.rle for r in regions], [True] * len(regions))
    keep = [j for j in range(len(preds)) if j in matched or not (share[j] > 0.5).any()]
    return [preds[j] for j in keep], dists[:, keep]


def accumulate(gt: list[Frame], preds: list[Frame]) -> dict[str, motmetrics.MOTAccumulator]:
    """Event tables of one video, one per leaf class, empty classes included."""
    accumulators = {name: motmetrics.MOTAccumulator(auto_id=True) for name in CLASSES}
    for gt_frame, pred_frame in zip(gt, preds, strict=True):
        regions = [label for label in gt_frame.labels if label.ignored]
        found = [] if overlaps(pred_frame.labels) else pred_frame.labels
        for name, accumulator in accumulators.items():
            g = [o for o in gt_frame.labels if o.category == name and not o.ignored]
            p = [o for o in found if o.category == name and not o.ignored]
            p, dists = without_ignored(g, p, regions)
            accumulator.update([o.id for o in g], [o.id for o in p], dists)
    return accumulators


def summarise(accumulators: list[motmetrics.MOTAccumulator]) -> dict[str, float]:
    """One row of the result: every event table walked by motmetrics, then merged by it."""
    table = motmetrics.metrics.create().compute_many(
        accumulators, metrics=[*METRICS, "num_detections"], generate_overall=True
    )
    overall = table.loc["OVERALL"]
    row = {name: float(overall[metric]) for metric, name in METRICS.items()}
    if math.isnan(row["MOTSP"]):  # motmetrics 1.4: one table without a match makes the merger nan
        tables = table.drop(index="OVERALL")
        matches = overall["num_detections"]
        distance = (tables["motp"] * tables["num_detections"]).sum()
        row["MOTSP"] = float(distance / matches) if matches else math.nan
    row["MOTSA"] *= 100
    row["MOTSP"] = 100 * (1 - row["MOTSP"])
    row["IDF1"] *= 100
    return row


def evaluate(gt_path: Path, results_path: Path) -> dict[str, dict[str, float]]:
    """Rows by name: leaf classes, super-categories, OVERALL, AVERAGE."""
    gt, preds = read(gt_path), read(results_path)
    tables = [accumulate(frames, preds[name]) for name, frames in gt.items()]
    rows = {name: summarise([table[name] for table in tables]) for name in CLASSES}
    leaves = list(rows.values())
    for name, members in SUPERS.items():
        rows[name] = summarise([table[member] for table in tables for member in members])
    rows["OVERALL"] = summarise([table[name] for table in tables for name in CLASSES])
    rows["AVERAGE"] = dict(rows["OVERALL"])
    for key in ("MOTSA", "MOTSP", "IDF1"):
        values = [row[key] if math.isfinite(row[key]) else 0.0 for row in leaves]
        rows["AVERAGE"][key] = sum(values) / len(values)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Print the rows of two Scalabel files as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gt", type=Path, required=True, help="Scalabel JSON of the truth")
    parser.add_argument("--results", type=Path, required=True, help="Scalabel JSON of results")
    args = parser.parse_args(argv)
    print(json.dumps(evaluate(args.gt, args.results), indent=1))


if __name__ == "__main__":
    sys.exit(run(main))
