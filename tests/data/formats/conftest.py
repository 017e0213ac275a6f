"""Grey frames of two videos, and converting whatever a test draws on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from vmt.cli.main import main

H, W, T = 20, 30, 6


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """``images/v1`` and ``images/v2``, six frames each, as ffmpeg numbers them."""
    for name in ("v1", "v2"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for t in range(T):
            Image.fromarray(np.full((H, W, 3), 90, np.uint8)).save(folder / f"f_{t + 1}.png")
    return tmp_path / "images"


Convert = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Run ``vmt convert-annotations``; gives its status and what it wrote."""

    def run(source: Path, images: Path, *more: str) -> tuple[int, dict[str, Any]]:
        out = tmp_path / "out.json"
        out.unlink(missing_ok=True)
        words = [str(source), "--images", str(images), "--output", str(out)]
        status = main(["convert-annotations", *words, *more])
        return status, json.loads(out.read_text()) if out.exists() else {}

    return run


def box(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def corners(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]


def tubes(content: dict[str, Any]) -> list[tuple[int, str, list[int | None]]]:
    """Video, class, and pixels per frame of every annotation."""
    names = {row["id"]: row["name"] for row in content["categories"]}
    return [
        (
            row["video_id"],
            names[row["category_id"]],
            [mask and rle.area(mask) for mask in row["segmentations"]],
        )
        for row in content["annotations"]
    ]
