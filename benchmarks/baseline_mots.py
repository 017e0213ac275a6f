"""BDD100K MOTS the way the original evaluator works: one table row per event, walked per metric.

A plain re-creation of the originals' way of working (Scalabel with motmetrics), for speed
comparisons only; it checks nothing and covers run-length files without aliases:

- every label becomes an object; masks stay COCO texts and pycocotools parses them in every call:
  for the overlap check of a frame, for the IoU of every class and frame, for ignored regions;
- an accumulator per class and video holds a table of events: one RAW row per pair of objects, and
  one row per match, switch, miss and false positive;
- every metric walks the table, per object where the original does (frames per object, fragments);
- tables are walked three times: for the leaf class, for its super-category, and for all classes.

Rows are plain dictionaries, which is kinder to time than the data frames of the original.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

CLASSES = ["pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
SUPERS = {
    "human": ["pedestrian", "rider"],
    "vehicle": ["car", "truck", "bus", "train"],
    "bike": ["motorcycle", "bicycle"],
}
COUNTS = ["FP", "FN", "IDSw", "MT", "PT", "ML", "FM"]


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


class Accumulator:
    """Event table of one class in one video."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.last: dict[int, int] = {}

    def update(self, frame: int, oids: list[int], hids: list[int], dists: np.ndarray) -> None:
        """Add the events of one frame; dists is (G, P), nan where a pair is not allowed."""
        self.add_raw(frame, oids, hids, dists)
        dists = dists.copy()
        matched_o, matched_h = set(), set()
        for i, oid in enumerate(oids):
            if oid not in self.last or self.last[oid] not in hids:
                continue
            j = hids.index(self.last[oid])
            if j not in matched_h and not math.isnan(dists[i, j]):
                self.add(frame, "MATCH", oid, hids[j], dists[i, j])
                matched_o.add(i)
                matched_h.add(j)
                dists[i, :] = np.nan
                dists[:, j] = np.nan
        for i, j in assign(dists):
            switch = oids[i] in self.last and self.last[oids[i]] != hids[j]
            self.add(frame, "SWITCH" if switch else "MATCH", oids[i], hids[j], dists[i, j])
            self.last[oids[i]] = hids[j]
            matched_o.add(i)
            matched_h.add(j)
        for i, oid in enumerate(oids):
            if i not in matched_o:
                self.add(frame, "MISS", oid, None, math.nan)
        for j, hid in enumerate(hids):
            if j not in matched_h:
                self.add(frame, "FP", None, hid, math.nan)

    def add_raw(self, frame: int, oids: list[int], hids: list[int], dists: np.ndarray) -> None:
        """Append one row per pair of objects, allowed or not."""
        for i, oid in enumerate(oids):
            for j, hid in enumerate(hids):
                self.add(frame, "RAW", oid, hid, dists[i, j])

    def add(self, frame: int, kind: str, oid: int | None, hid: int | None, dist: float) -> None:
        """Append one row."""
        self.rows.append({"frame": frame, "type": kind, "oid": oid, "hid": hid, "d": float(dist)})


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


def accumulate(gt: list[Frame], preds: list[Frame]) -> dict[str, Accumulator]:
    """Event tables of one video."""
    accumulators = {name: Accumulator() for name in CLASSES}
    for t, (gt_frame, pred_frame) in enumerate(zip(gt, preds, strict=True)):
        regions = [label for label in gt_frame.labels if label.ignored]
        found = [] if overlaps(pred_frame.labels) else pred_frame.labels
        for name, accumulator in accumulators.items():
            g = [o for o in gt_frame.labels if o.category == name and not o.ignored]
            p = [o for o in found if o.category == name and not o.ignored]
            p, dists = without_ignored(g, p, regions)
            accumulator.update(t, [o.id for o in g], [o.id for o in p], dists)
    return accumulators


def walk(accumulator: Accumulator) -> dict[str, float]:
    """Partial sums of one table, metric by metric."""
    noraw = [row for row in accumulator.rows if row["type"] != "RAW"]
    raw = [row for row in accumulator.rows if row["type"] == "RAW"]
    oids = sorted({row["oid"] for row in noraw if row["oid"] is not None})
    sums: dict[str, float] = dict.fromkeys(COUNTS, 0)
    sums["FP"] = sum(row["type"] == "FP" for row in noraw)
    sums["FN"] = sum(row["type"] == "MISS" for row in noraw)
    sums["IDSw"] = sum(row["type"] == "SWITCH" for row in noraw)
    matches = [row for row in noraw if row["type"] in ("MATCH", "SWITCH")]
    sums["matches"] = len(matches)
    sums["distance"] = sum(row["d"] for row in matches)
    sums["num_gt"] = sum(row["oid"] is not None for row in noraw)
    sums["num_pred"] = sum(row["hid"] is not None for row in noraw)
    for oid in oids:
        own = [row for row in noraw if row["oid"] == oid]
        ratio = sum(row["type"] != "MISS" for row in own) / len(own)
        sums["MT" if ratio >= 0.8 else "ML" if ratio < 0.2 else "PT"] += 1
        hits = [i for i, row in enumerate(own) if row["type"] != "MISS"]
        if hits:
            inside = own[hits[0] : hits[-1] + 1]
            kinds = [row["type"] == "MISS" for row in inside]
            sums["FM"] += sum(not a and b for a, b in itertools.pairwise(kinds))
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for row in raw:
        if not math.isnan(row["d"]):
            shared[row["oid"], row["hid"]] += 1
    sums["idtp"] = 0
    if shared:
        gs, ps = sorted({g for g, _ in shared}), sorted({p for _, p in shared})
        table = np.array([[shared.get((g, p), 0) for p in ps] for g in gs])
        chosen = linear_sum_assignment(table, maximize=True)
        sums["idtp"] = int(table[chosen].sum())
    return sums


def summarise(accumulators: list[Accumulator]) -> dict[str, float]:
    """One row of the result: partial sums of every table, added up."""
    total: dict[str, float] = defaultdict(float)
    for accumulator in accumulators:
        for key, value in walk(accumulator).items():
            total[key] += value
    row = {key: int(total[key]) for key in COUNTS}
    errors = total["FN"] + total["FP"] + total["IDSw"]
    if total["num_gt"]:
        row["MOTSA"] = 100 * (1 - errors / total["num_gt"])
    else:
        row["MOTSA"] = -math.inf if errors else math.nan
    matches, boxes = total["matches"], total["num_gt"] + total["num_pred"]
    row["MOTSP"] = 100 * (1 - total["distance"] / matches) if matches else math.nan
    row["IDF1"] = 200 * total["idtp"] / boxes if boxes else math.nan
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
