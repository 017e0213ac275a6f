"""The folder that tools/make_composites.py writes can be read and trained from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cocoapi_hq.io import rle
from tests.conftest import load_tool
from vmt.data.composites import CompositeOptions, Cutout, composite_clip
from vmt.data.datasets.ytvis import load_ytvis_json

TOOL = Path(__file__).parents[2] / "tools/make_composites.py"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def photo_set(folder: Path) -> str:
    """One photo with a bright disc that is annotated, and a speck that is too small."""
    folder.mkdir()
    yy, xx = np.mgrid[:120, :160]
    disc = ((yy - 60) ** 2 + (xx - 70) ** 2) < 35**2
    speck = ((yy - 10) ** 2 + (xx - 10) ** 2) < 4
    image = np.full((120, 160, 3), 60, np.uint8)
    image[disc] = (200, 120, 60)
    cv2.imwrite(str(folder / "a.png"), image)
    rows = [
        {"id": k, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": rle.encode(mask),
         "bbox": list(rle.to_box(rle.encode(mask))), "area": int(mask.sum())}
        for k, mask in enumerate((disc, speck), start=1)
    ]  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 160, "height": 120}],
        "annotations": rows,
        "categories": [{"id": 3, "name": "disc"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return f"{folder / 'instances.json'}@{folder}"


def test_a_small_set(tmp_path: Path) -> None:
    out = tmp_path / "composites"
    images = [photo_set(tmp_path / name) for name in ("photos", "more")]
    done = run("--images", *images, "--speed", 3, "--bend", 2, "--clips", 3, "--frames", 3,
               "--size", 64, 80, "--output", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 photos, 2 things" in done.stderr
    records = load_ytvis_json(out / "annotations.json", out / "JPEGImages", "composites")
    assert len(records) == 3
    content = json.loads((out / "annotations.json").read_text())
    for row in content["annotations"]:
        masks = [mask for mask in row["segmentations"] if mask]
        assert masks
        assert all(mask["size"] == [64, 80] for mask in masks)
    frames = sorted((out / "JPEGImages").rglob("*.jpg"))
    assert len(frames) == 9
    assert cv2.imread(str(frames[0])).shape == (64, 80, 3)


@pytest.mark.parametrize(("share", "alone"), [(0.0, 0), (0.5, None), (1.0, 12)])
def test_clips_of_a_single_photo(tmp_path: Path, monkeypatch, share, alone) -> None:
    tool = load_tool("make_composites")
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    photos = [np.full((60, 60, 3), level, np.uint8) for level in (60, 120, 180)]
    things = [Cutout(mask, photo) for photo in (photos[0], photos[1], photos[1])]
    seen = []

    def watched(rng, options, pictures, cutouts):
        seen.append(([id(p) for p in pictures], [id(c.pixels) for c in cutouts]))
        return composite_clip(rng, options, pictures, cutouts)

    monkeypatch.setattr(tool, "material", lambda source: (photos, things))
    monkeypatch.setattr(tool, "composite_clip", watched)
    monkeypatch.setattr(tool, "usable", lambda clip: np.ones(len(clip.masks), bool))
    options = CompositeOptions(num_frames=2, size=(48, 48))
    tool.write_clips(tmp_path, 12, options, 0, "photos", share)
    single = [(pictures, own) for pictures, own in seen if len(pictures) == 1]
    assert len(single) == alone if alone is not None else 0 < len(single) < 12
    for (picture,), own in single:
        assert own == [picture] * (1 if picture == id(photos[0]) else 2)


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "annotations.json").write_text("mine")
    assert load_tool("make_composites").main(["--clips", "1", "--output", str(tmp_path)]) == 2
    assert "exists; give another --output" in capsys.readouterr().err
    assert (tmp_path / "annotations.json").read_text() == "mine"
