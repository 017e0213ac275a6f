"""Small annotation and result files made of rectangles and random blobs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cocoapi_hq.io import rle

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "metrics"
CLIPS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "clips"
H, W = 40, 60


def rect(x0: int, y0: int, x1: int, y1: int, h: int = H, w: int = W) -> rle.Rle:
    """Pixels x0 <= x < x1, y0 <= y < y1."""
    mask = np.zeros((h, w), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return rle.encode(mask)


def annotation(
    key: int, video: int, masks: Sequence[Any], category: int = 1, **extra: Any
) -> dict[str, Any]:
    areas = [rle.area(m) if isinstance(m, dict) else None for m in masks]
    return {
        "id": key,
        "video_id": video,
        "category_id": category,
        "iscrowd": 0,
        "areas": areas,
        "segmentations": list(masks),
        **extra,
    }


def result(
    video: int, masks: Sequence[Any], score: float, category: int = 1, **extra: Any
) -> dict[str, Any]:
    return {
        "video_id": video,
        "category_id": category,
        "score": score,
        "segmentations": list(masks),
        **extra,
    }


def truth(
    annotations: Sequence[dict[str, Any]],
    lengths: dict[int, int],
    categories: Sequence[int] = (1, 2),
    h: int = H,
    w: int = W,
) -> dict[str, Any]:
    return {
        "videos": [
            {
                "id": key,
                "height": h,
                "width": w,
                "length": n,
                "file_names": [f"{key}/{t:05d}.jpg" for t in range(n)],
            }
            for key, n in lengths.items()
        ],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": list(annotations),
    }


def set_at(data: Any, path: str, value: Any) -> Any:
    """A copy with the value at a path such as ``videos.0.id``; DELETE takes the key away."""
    data = copy.deepcopy(data)
    *keys, last = [int(k) if k.isdigit() else k for k in path.split(".")]
    at = data
    for key in keys:
        at = at[key]
    if value == "DELETE":
        del at[last]
    else:
        at[last] = value
    return data


def blob(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """A random mask: rectangles and ellipses with holes, sometimes noise, sometimes the frame."""
    mask = np.zeros((h, w), dtype=np.uint8)
    for _ in range(rng.integers(1, 4)):
        x0, x1 = sorted(rng.integers(-3, w + 3, size=2).tolist())
        y0, y1 = sorted(rng.integers(-3, h + 3, size=2).tolist())
        value = int(rng.random() < 0.8)
        if rng.random() < 0.5:
            cv2.rectangle(mask, (x0, y0), (x1, y1), value, -1)
        else:
            center = ((x0 + x1) // 2, (y0 + y1) // 2)
            cv2.ellipse(mask, center, ((x1 - x0) // 2, (y1 - y0) // 2), 0, 0, 360, value, -1)
    kind = rng.random()
    if kind < 0.1:
        mask |= (rng.random((h, w)) < 0.3).astype(np.uint8)
    elif kind < 0.15:
        mask[:] = 1
    return mask.astype(bool)


def random_set(
    seed: int, videos: int = 4, frames: int = 4, h: int = H, w: int = W
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results: good, shifted, cut and wrong tubes, distinct scores."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    lengths = {}
    for video in rng.permutation(np.arange(1, videos + 1)).tolist():
        lengths[video] = frames
        for _ in range(int(rng.integers(0, 4))):
            category = int(rng.integers(1, 4))
            shape = blob(rng, h, w)
            tube = [
                np.roll(shape, t, axis=1) if rng.random() < 0.9 else None for t in range(frames)
            ]
            coded = [None if m is None else rle.encode(m) for m in tube]
            crowd = int(rng.random() < 0.15)
            annotations.append(
                annotation(len(annotations) + 1, video, coded, category, iscrowd=crowd)
            )
            for _ in range(int(rng.integers(0, 4))):
                shift = rng.integers(-3, 4, size=2)
                masks = [
                    None
                    if m is None or rng.random() < 0.1
                    else rle.encode(np.roll(m, shift, axis=(0, 1)))
                    for m in tube
                ]
                c = category if rng.random() < 0.8 else int(rng.integers(1, 4))
                results.append(result(video, masks, float(rng.random()), c))
    order = rng.permutation(len(results))
    return truth(annotations, lengths, (1, 2, 3, 4), h, w), [results[i] for i in order]
