"""Slow, obvious reference for BDD100K MOTS and HOTA on dense masks, and builders of small scenes.

Works from event lists and brute-force assignments; shares no code with the package but the codec
that writes the scenes as JSON.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from cocoapi_hq.io import rle

CLASSES = ["pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
SUPERS = {
    "human": ["pedestrian", "rider"],
    "vehicle": ["car", "truck", "bus", "train"],
    "bike": ["motorcycle", "bicycle"],
}


class AmbiguousError(Exception):
    """Two different assignments are equally good, so the rules leave the answer open."""


@dataclass
class Obj:
    """One mask in one frame."""

    id: int
    category: str
    mask: np.ndarray
    ignored: bool = False
    score: float = 0.5


@dataclass
class Frame:
    """Ground truth and predictions of one frame."""

    gt: list[Obj] = field(default_factory=list)
    preds: list[Obj] = field(default_factory=list)


def box(x0: int, y0: int, x1: int, y1: int, h: int = 10, w: int = 20) -> np.ndarray:
    """(h, w) bool mask of a box, ends exclusive."""
    mask = np.zeros((h, w), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def to_json(videos: dict[str, list[Frame]], side: str) -> list[dict]:
    """Scalabel frames of one side ("gt" or "preds")."""
    content = []
    for name, frames in videos.items():
        for t, frame in enumerate(frames):
            labels = []
            for obj in getattr(frame, side):
                label = {"id": str(obj.id), "category": obj.category, "rle": rle.encode(obj.mask)}
                if obj.ignored:
                    label["attributes"] = {"crowd": True}
                if side == "preds":
                    label["score"] = obj.score
                labels.append(label)
            content.append(
                {
                    "videoName": name,
                    "name": f"{name}-{t:04d}.jpg",
                    "frameIndex": t,
                    "labels": labels,
                }
            )
    return content


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 0.0


def best_assignment(cost: dict[tuple[int, int], float]) -> dict[int, int]:
    """Most pairs, then least cost, by trying everything; raises when the answer is not unique."""
    rows = sorted({g for g, _ in cost})
    best: list[tuple[int, float, dict[int, int]]] = []

    def extend(i: int, chosen: dict[int, int], total: float) -> None:
        if i == len(rows):
            best.append((-len(chosen), total, dict(chosen)))
            return
        extend(i + 1, chosen, total)
        for (g, p), c in cost.items():
            if g == rows[i] and p not in chosen.values():
                chosen[g] = p
                extend(i + 1, chosen, total + c)
                del chosen[g]

    extend(0, {}, 0.0)
    best.sort(key=lambda entry: entry[:2])
    if len(best) > 1 and best[0][0] == best[1][0] and abs(best[0][1] - best[1][1]) < 1e-12:
        raise AmbiguousError
    return best[0][2]


def clean(frame: Frame, category: str) -> tuple[list[Obj], list[Obj]]:
    """Ground truth and predictions of one class after overlap and ignore rules."""
    preds = frame.preds
    if any((a.mask & b.mask).any() for a, b in itertools.combinations(preds, 2)):
        preds = []
    gt = [o for o in frame.gt if o.category == category and not o.ignored]
    preds = [o for o in preds if o.category == category and not o.ignored]
    regions = [o.mask for o in frame.gt if o.ignored]
    if regions and preds:
        matched = set(best_assignment(allowed(gt, preds)).values())
        preds = [
            p
            for j, p in enumerate(preds)
            if j in matched or not any(2 * (p.mask & r).sum() > p.mask.sum() for r in regions)
        ]
    return gt, preds


def allowed(gt: list[Obj], preds: list[Obj]) -> dict[tuple[int, int], float]:
    pairs = {}
    for i, g in enumerate(gt):
        for j, p in enumerate(preds):
            distance = 1 - iou(g.mask, p.mask)
            if distance <= 0.5:
                pairs[i, j] = distance
    return pairs


def events_of(frames: list[Frame], category: str) -> tuple[list[tuple], list[tuple]]:
    """(frame, kind, GT id, predicted id, distance) events and all allowed (frame, g, p)."""
    events, raw, last = [], [], {}
    for t, frame in enumerate(frames):
        gt, preds = clean(frame, category)
        pairs = allowed(gt, preds)
        raw += [(t, gt[i].id, preds[j].id) for i, j in pairs]
        chosen = {}
        for i, g in enumerate(gt):
            for j, p in enumerate(preds):
                if last.get(g.id) == p.id and j not in chosen.values():
                    if (i, j) in pairs:
                        chosen[i] = j
                    break
        rest = {
            (i, j): d for (i, j), d in pairs.items() if i not in chosen and j not in chosen.values()
        }
        chosen |= best_assignment(rest)
        for i, g in enumerate(gt):
            if i not in chosen:
                events.append((t, "MISS", g.id, None, None))
                continue
            p = preds[chosen[i]]
            switch = g.id in last and last[g.id] != p.id
            events.append((t, "SWITCH" if switch else "MATCH", g.id, p.id, pairs[i, chosen[i]]))
            last[g.id] = p.id
        events += [
            (t, "FP", None, p.id, None) for j, p in enumerate(preds) if j not in chosen.values()
        ]
    return events, raw


def best_id_total(raw: list[tuple]) -> int:
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for _, g, p in raw:
        counts[g, p] += 1
    gs = sorted({g for g, _ in counts})

    def best(i: int, used: frozenset) -> int:
        if i == len(gs):
            return 0
        options = [best(i + 1, used)]
        for (g, p), n in counts.items():
            if g == gs[i] and p not in used:
                options.append(n + best(i + 1, used | {p}))
        return max(options)

    return best(0, frozenset())


def row_of(videos: dict[str, list[Frame]], categories: list[str]) -> dict[str, float]:
    """Numbers of a pool of classes."""
    row = dict.fromkeys(["FP", "FN", "IDSw", "MT", "PT", "ML", "FM"], 0)
    num_gt = num_pred = idtp = 0
    distances = []
    for category in categories:
        for frames in videos.values():
            events, raw = events_of(frames, category)
            idtp += best_id_total(raw)
            kinds = [kind for _, kind, *_ in events]
            row["FP"] += kinds.count("FP")
            row["FN"] += kinds.count("MISS")
            row["IDSw"] += kinds.count("SWITCH")
            num_gt += len(kinds) - kinds.count("FP")
            num_pred += len(kinds) - kinds.count("MISS")
            distances += [d for *_, d in events if d is not None]
            for g in {e[2] for e in events} - {None}:
                found = [e[1] != "MISS" for e in sorted(events, key=lambda e: e[0]) if e[2] == g]
                share = sum(found) / len(found)
                row["MT" if share >= 0.8 else "ML" if share < 0.2 else "PT"] += 1
                if any(found):
                    last = max(i for i, hit in enumerate(found) if hit)
                    row["FM"] += sum(found[i] and not found[i + 1] for i in range(last))
    errors = row["FP"] + row["FN"] + row["IDSw"]
    row["MOTSA"] = 100 * (1 - errors / num_gt) if num_gt else (-math.inf if errors else math.nan)
    row["MOTSP"] = 100 * (1 - sum(distances) / len(distances)) if distances else math.nan
    total = num_gt + num_pred
    row["IDF1"] = 200 * idtp / total if total else math.nan
    return row


def mots(videos: dict[str, list[Frame]]) -> dict[str, dict[str, float]]:
    """All rows, like ``MotsResult.rows``."""
    rows = {category: row_of(videos, [category]) for category in CLASSES}
    leaves = list(rows.values())
    for name, members in SUPERS.items():
        rows[name] = row_of(videos, members)
    rows["OVERALL"] = row_of(videos, CLASSES)
    rows["AVERAGE"] = dict(rows["OVERALL"])
    for key in ("MOTSA", "MOTSP", "IDF1"):
        rows["AVERAGE"][key] = sum(r[key] if math.isfinite(r[key]) else 0 for r in leaves) / 8
    return rows


def best_frame_pairs(score: dict[tuple[int, int], float], most: int) -> tuple:
    """The one-to-one pairs with the largest sum, by trying every subset."""
    best: tuple[tuple, float] = ((), 0.0)
    ties = 0
    for size in range(1, most + 1):
        for chosen in itertools.combinations(score, size):
            if len({i for i, _ in chosen}) < size or len({j for _, j in chosen}) < size:
                continue
            total = sum(score[pair] for pair in chosen)
            if abs(total - best[1]) < 1e-12:
                ties += 1
            elif total > best[1]:
                best, ties = (chosen, total), 0
    if ties:
        raise AmbiguousError
    return best[0]


def track_overlap(cleaned: list[tuple[list[Obj], list[Obj]]]) -> tuple[dict, dict, dict]:
    """A(g, p), and the number of frames of every track on both sides."""
    share: dict[tuple[int, int], float] = defaultdict(float)
    n_gt: dict[int, int] = defaultdict(int)
    n_pred: dict[int, int] = defaultdict(int)
    for gt, preds in cleaned:
        for g in gt:
            n_gt[g.id] += 1
        for p in preds:
            n_pred[p.id] += 1
        for g, p in itertools.product(gt, preds):
            s = iou(g.mask, p.mask)
            row = sum(iou(g.mask, q.mask) for q in preds)
            column = sum(iou(h.mask, p.mask) for h in gt)
            share[g.id, p.id] += s / (row + column - s) if s else 0.0
    overlap = {(g, p): c / (n_gt[g] + n_pred[p] - c) for (g, p), c in share.items()}
    return overlap, n_gt, n_pred


def hota(frames: list[Frame], category: str) -> dict[str, float]:
    """HOTA of one video and class, by the definition, with dense loops."""
    cleaned = [clean(frame, category) for frame in frames]
    overlap, n_gt, n_pred = track_overlap(cleaned)
    matches = []
    for gt, preds in cleaned:
        score = {}
        for (i, g), (j, p) in itertools.product(enumerate(gt), enumerate(preds)):
            value = overlap[g.id, p.id] * iou(g.mask, p.mask)
            if value > 0:
                score[i, j] = value
        for i, j in best_frame_pairs(score, min(len(gt), len(preds))):
            matches.append((gt[i].id, preds[j].id, iou(gt[i].mask, preds[j].mask)))
    rows = []
    for k in range(1, 20):
        hits = [(g, p) for g, p, s in matches if s >= k / 20]
        tp = len(hits)
        det = tp / max(1, sum(n_gt.values()) + sum(n_pred.values()) - tp)
        ass = 0.0
        for g, p in hits:
            tpa = hits.count((g, p))
            ass += tpa / (n_gt[g] + n_pred[p] - tpa)
        ass /= max(1, tp)
        rows.append((math.sqrt(det * ass), det, ass))
    return dict(zip(("HOTA", "DetA", "AssA"), np.mean(rows, axis=0).tolist(), strict=True))
