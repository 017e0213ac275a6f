"""A slow, obvious evaluator on dense masks, for comparison; shares no code with the package."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

RANGES = {"": (0, 1e10), "s": (0, 128**2), "m": (128**2, 256**2), "l": (256**2, 1e10)}
MAX_DETS = (1, 10, 100)
Tube = list[np.ndarray | None]


def dense(entry: Any, h: int | None, w: int | None) -> np.ndarray | None:
    if not entry or entry == [[]] or (isinstance(entry, dict) and not entry["counts"]):
        return None
    if isinstance(entry, list):
        entry = coco.merge(coco.frPyObjects([[float(v) for v in ring] for ring in entry], h, w))
    elif isinstance(entry["counts"], list):
        flat = np.zeros(sum(entry["counts"]), dtype=bool)
        at, value = 0, False
        for n in entry["counts"]:
            flat[at : at + n] = value
            at, value = at + n, not value
        return flat.reshape(entry["size"][1], entry["size"][0]).T
    return coco.decode(entry).astype(bool)


def boundary(mask: np.ndarray, ratio: float = 0.02) -> np.ndarray:
    h, w = mask.shape
    d = max(1, round(ratio * math.sqrt(h**2 + w**2)))
    padded = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=d)
    return mask & (eroded[1:-1, 1:-1] == 0)


def tube_iou(p: Tube, g: Tube) -> float:
    inter = union = 0
    for a, b in zip(p, g, strict=True):
        if a is not None and b is not None:
            if a.shape == b.shape:
                inter += int((a & b).sum())
                union += int((a | b).sum())
        elif a is not None or b is not None:
            union += int((a if a is not None else b).sum())
    return inter / union if union else 0.0


def contour(tube: Tube) -> Tube:
    return [None if m is None else boundary(m) for m in tube]


def average(values: list[float | None]) -> float:
    shown = [v for v in values if v]
    return float(np.mean(shown)) if shown else 0.0


def with_defaults(annotation: dict[str, Any], video: dict[str, Any]) -> dict[str, Any]:
    """No crowd, and the pixels of every frame, where a file does not say."""
    masks = annotation.get("segmentations", annotation.get("segmentations_refined"))
    shown = [dense(m, video.get("height"), video.get("width")) for m in masks]
    areas = [None if m is None else int(m.sum()) for m in shown]
    given = {k: v for k, v in annotation.items() if v is not None}
    return {"iscrowd": 0, "areas": areas, **given}


def evaluate(gt: dict[str, Any], results: list[dict[str, Any]], metric: str) -> dict[str, float]:
    categories = sorted(c["id"] for c in gt["categories"])
    videos = {v["id"]: v for v in gt["videos"]}
    tubes: dict[int, Tube] = {}
    for kind, entries in ((0, gt["annotations"]), (1, results)):
        for i, e in enumerate(entries):
            v = videos[e["video_id"]]
            key = "segmentations_refined" if "segmentations_refined" in e else "segmentations"
            key = "segmentations" if kind else key
            tubes[2 * i + kind] = [dense(m, v.get("height"), v.get("width")) for m in e[key]]
    filled = [with_defaults(a, videos[a["video_id"]]) for a in gt["annotations"]]
    gt = {**gt, "annotations": filled}
    precisions: dict[tuple[str, int], list[np.ndarray]] = {}
    recalls: dict[tuple[str, int], list[np.ndarray]] = {}
    for c in categories:
        for label, bounds in RANGES.items():
            for m in MAX_DETS:
                p, r = curve(gt, results, sorted(videos), tubes, metric, c, bounds, m)
                if p is not None:
                    precisions.setdefault((label, m), []).append(p)
                    recalls.setdefault((label, m), []).append(r)

    def mean(
        table: dict[tuple[str, int], list[np.ndarray]], key: Any, t: Any = slice(None)
    ) -> float:
        rows = table.get(key)
        return float(np.mean([row[t] for row in rows])) if rows else -1.0

    out = {
        "AP": mean(precisions, ("", 100)),
        "AP50": mean(precisions, ("", 100), 0),
        "AP75": mean(precisions, ("", 100), 5),
    }
    for label in "sml":
        out["AP" + label] = mean(precisions, (label, 100))
        out["AR" + label] = mean(recalls, (label, 100))
    for m in MAX_DETS:
        out[f"AR{m}"] = mean(recalls, ("", m))
    return out


def curve(
    gt: dict[str, Any],
    results: list[dict[str, Any]],
    videos: list[int],
    tubes: dict[int, Tube],
    metric: str,
    category: int,
    bounds: tuple[float, float],
    max_dets: int,
) -> tuple[Any, Any]:
    thresholds = np.linspace(0.5, 0.95, 10)
    rows: list[tuple[float, list[int]]] = []  # score, per threshold 1 TP, 0 FP, -1 ignored
    positives = 0
    for v in videos:
        dts = [
            (e["score"], i)
            for i, e in enumerate(results)
            if e["video_id"] == v and e["category_id"] == category
        ]
        dts = sorted(dts, key=lambda e: -e[0])[:100]
        gts = [
            i
            for i, a in enumerate(gt["annotations"])
            if a["video_id"] == v and a["category_id"] == category
        ]
        ignored = {
            i: bool(gt["annotations"][i]["iscrowd"])
            or not bounds[0] <= average(gt["annotations"][i]["areas"]) <= bounds[1]
            for i in gts
        }
        gts = sorted(gts, key=lambda i: ignored[i])
        positives += sum(not ignored[i] for i in gts)
        iou = {(d, g): pair(gt, tubes, metric, d, g) for _, d in dts for g in gts}
        marks = [match(gt, iou, dts, gts, ignored, tubes, bounds, t) for t in thresholds]
        for k, (score, _) in enumerate(dts[:max_dets]):
            rows.append((score, [row[k] for row in marks]))
    if not positives:
        return None, None
    rows.sort(key=lambda e: -e[0])
    precision, recall = np.zeros((10, 101)), np.zeros(10)
    for t in range(10):
        tp = fp = 0
        points: list[tuple[float, float]] = []
        for _, mark in rows:
            tp += mark[t] == 1
            fp += mark[t] == 0
            points.append((tp / positives, tp / (tp + fp + 2.0**-52)))
        recall[t] = points[-1][0] if points else 0.0
        for k, level in enumerate(np.linspace(0, 1, 101)):
            at = next((i for i, (r, _) in enumerate(points) if r >= level), None)
            precision[t, k] = 0.0 if at is None else max(p for _, p in points[at:])
    return precision, recall


def pair(gt: dict[str, Any], tubes: dict[int, Tube], metric: str, d: int, g: int) -> float:
    p, q = tubes[2 * d + 1], tubes[2 * g]
    value = tube_iou(p, q)
    if metric == "tube_boundary" and not gt["annotations"][g]["iscrowd"]:
        value = min(value, tube_iou(contour(p), contour(q)))
    return value


def match(
    gt: dict[str, Any],
    iou: dict[tuple[int, int], float],
    dts: list[tuple[float, int]],
    gts: list[int],
    ignored: dict[int, bool],
    tubes: dict[int, Tube],
    bounds: tuple[float, float],
    threshold: float,
) -> list[int]:
    taken: set[int] = set()
    marks = []
    for _, d in dts:
        best, found = min(float(threshold), 1 - 1e-10), None
        for g in gts:
            if g in taken and not gt["annotations"][g]["iscrowd"]:
                continue
            if found is not None and not ignored[found] and ignored[g]:
                break
            if iou[d, g] >= best:
                best, found = iou[d, g], g
        if found is None:
            area = average([None if m is None else float(m.sum()) for m in tubes[2 * d + 1]])
            marks.append(0 if bounds[0] <= area <= bounds[1] else -1)
        else:
            taken.add(found)
            marks.append(-1 if ignored[found] else 1)
    return marks
