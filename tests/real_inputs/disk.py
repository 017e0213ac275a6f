"""The object of most cases: a disk that moves right through frames of 96 x 64 pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from cocoapi_hq.io import rle


def disk(t: int, frames: int = 6, radius: float = 14) -> np.ndarray:
    """Its true mask in frame `t`: bool (64, 96)."""
    y, x = np.mgrid[:64, :96]
    return np.asarray((x - (20 + t * 56 / (frames - 1))) ** 2 + (y - 32) ** 2 <= radius**2)


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    return float((mask & other).sum() / (mask | other).sum())


def read_map(path: Path | str) -> np.ndarray:
    """A label map as it is stored."""
    with Image.open(path) as image:
        return np.array(image)


def read_json(path: Path | str):
    return json.loads(Path(path).read_text(encoding="utf-8-sig"))


def decode(segmentation: dict) -> np.ndarray:
    """A mask of a JSON file: bool (H, W)."""
    return np.asarray(rle.decode(segmentation), bool)


def assert_on_its_frame(masks: Path | str, frame_of: dict[str, int], frames: int = 6) -> None:
    """Each refined mask covers the disk of its frame, and of no other frame as well."""
    for name, t in frame_of.items():
        mask = read_map(Path(masks) / name) > 0
        overlaps = [iou(mask, disk(u, frames)) for u in range(frames)]
        assert overlaps[t] > 0.9, (name, overlaps)
        assert int(np.argmax(overlaps)) == t, (name, overlaps)
