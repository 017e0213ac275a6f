from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cocoapi_hq.io import rle
from tests.synthetic import CATEGORIES, write_moving_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON of three videos of six frames of 48x64; read only."""
    return write_moving_shapes(tmp_path_factory.mktemp("shapes"), 3, 6, (48, 64), seed=0)


@pytest.fixture(scope="session")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON of a video of 10 frames of 48x64 whose pixels say where they are: (4 x, 5 y, 20 t).

    The first object is the left half of every frame; the second a square in the last one.
    """
    folder = tmp_path_factory.mktemp("ramp")
    (folder / "JPEGImages").mkdir()
    y, x = np.mgrid[:48, :64]
    names = [f"{t:05d}.png" for t in range(10)]
    for t, name in enumerate(names):
        pixels = np.stack([4 * x, 5 * y, np.full_like(x, 20 * t)], -1).astype(np.uint8)
        cv2.imwrite(str(folder / "JPEGImages" / name), pixels[..., ::-1])
    left, square = x < 32, (x >= 40) & (x < 56) & (y >= 8) & (y < 24)
    tubes = [[left] * 10, [np.zeros_like(left)] * 9 + [square]]
    return write(
        folder,
        videos=[{"id": 1, "width": 64, "height": 48, "length": 10, "file_names": names}],
        annotations=[
            {"id": g, "video_id": 1, "category_id": g, "iscrowd": 0, "segmentations":
                 [rle.encode(m) if m.any() else None for m in tube]}
            for g, tube in enumerate(tubes, start=1)
        ],
    )  # fmt: skip


@pytest.fixture(scope="session")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO JSON of an image of 48x64 with two squares that overlap in 8x16 pixels."""
    folder = tmp_path_factory.mktemp("still")
    (folder / "JPEGImages").mkdir()
    cv2.imwrite(str(folder / "JPEGImages" / "1.png"), np.full((48, 64, 3), 90, np.uint8))
    rows = []
    for g, left in enumerate((8, 16), start=1):
        mask = np.zeros((48, 64), bool)
        mask[16:32, left : left + 16] = True
        box = [left, 16, 16, 16]
        rows.append({"id": g, "image_id": 1, "category_id": g, "iscrowd": 0, "bbox": box,
                     "area": 256, "segmentation": rle.encode(mask)})  # fmt: skip
    image = {"id": 1, "file_name": "1.png", "height": 48, "width": 64}
    return write(folder, images=[image], annotations=rows)


def write(folder: Path, **content: Any) -> Path:
    content["categories"] = [{"id": k, "name": n} for k, n in enumerate(CATEGORIES, start=1)]
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path
