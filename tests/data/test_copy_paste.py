"""What is pasted is what is labelled, and hides what lies below."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from cocoapi_hq.io import rle
from tests.config.keys.pairs import Pair
from vmt.data.build import build_train_loader
from vmt.data.copy_paste import copy_paste
from vmt.data.labels import label_space_from_json
from vmt.data.transforms import Clip


def plain(level: int, masks: np.ndarray, size: tuple[int, int], frames: int = 2) -> Clip:
    """Grey frames in which object g is ``level + 20 (g + 1)``; masks (G, h, w) stand still."""
    picture = np.full(size, level, np.uint8)
    for g, mask in enumerate(masks):
        picture[mask] = level + 20 * (g + 1)
    video = torch.from_numpy(picture).expand(frames, 3, -1, -1).clone()
    tubes = torch.from_numpy(masks)[:, None].expand(-1, frames, -1, -1)
    return Clip(tv_tensors.Video(video), tv_tensors.Mask(tubes.clone()))


def boxes(size: tuple[int, int], *places: tuple[int, int, int, int]) -> np.ndarray:
    masks = np.zeros((len(places), *size), bool)
    for mask, (top, left, height, width) in zip(masks, places, strict=True):
        mask[top : top + height, left : left + width] = True
    return masks


@pytest.mark.parametrize("seed", range(12))
def test_pixels_and_masks_agree(seed: int) -> None:
    host = plain(10, boxes((60, 90), (10, 10, 40, 60)), (60, 90))
    guest = plain(110, boxes((40, 40), (5, 5, 30, 12), (8, 20, 25, 15)), (40, 40))
    before = host.masks.clone()
    joined, index = copy_paste(host, guest, np.random.default_rng(seed))
    assert torch.equal(host.masks, before)
    assert joined.cropped
    assert joined.size == (60, 90)
    assert len(joined.masks) == 1 + len(index)
    frames = torch.as_tensor(joined.frames)[:, 0].float()
    pasted = torch.as_tensor(joined.masks[1:])
    cover = pasted.any(0)
    # At the edge of a mask pixels are blended by the resize.
    assert (frames[~cover] <= 30).all()
    assert not (joined.masks[0] & cover).any()
    assert torch.equal(torch.as_tensor(joined.masks[0]), before[0] & ~cover)
    for mask, g in zip(pasted, index.tolist(), strict=True):
        inner = frames[mask].median() if mask.any() else torch.tensor(110 + 20 * (g + 1))
        assert inner == 110 + 20 * (g + 1)


def test_some_objects_are_pasted_and_always_one() -> None:
    host = plain(10, boxes((60, 90), (10, 10, 40, 60)), (60, 90))
    guest = plain(110, boxes((40, 40), (5, 5, 30, 12), (8, 20, 25, 15)), (40, 40))
    rng = np.random.default_rng(0)
    picked = {tuple(copy_paste(host, guest, rng)[1].tolist()) for _ in range(40)}
    assert picked == {(0,), (1,), (0, 1)}


def test_sizes_and_places_vary() -> None:
    host = plain(10, boxes((60, 90), (10, 10, 40, 60)), (60, 90))
    guest = plain(110, boxes((40, 40), (0, 0, 40, 40)), (40, 40))
    rng = np.random.default_rng(1)
    areas, lefts = [], []
    for _ in range(60):
        joined, _ = copy_paste(host, guest, rng)
        mask = joined.masks[1, 0]
        assert mask.any()
        areas.append(int(mask.sum()))
        lefts.append(int(mask.any(0).nonzero()[0, 0]))
    assert min(areas) < 900 < 2500 < max(areas)
    assert min(lefts) == 0
    assert max(lefts) > 40


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Two files of one photo each: a disc of class a, a square of class b."""
    references = []
    for number, (word, place) in enumerate((("a", (10, 10, 20, 20)), ("b", (20, 30, 20, 30)))):
        mask = boxes((64, 96), place)[0]
        image = np.full((64, 96, 3), 30 + 100 * number, np.uint8)
        image[mask] = 220
        (tmp_path / word).mkdir()
        cv2.imwrite(str(tmp_path / word / "photo.png"), image)
        rows = [{"id": 1, "image_id": 1, "category_id": number + 1, "iscrowd": 0,
                 "segmentation": rle.encode(mask)}]  # fmt: skip
        content = {
            "images": [{"id": 1, "file_name": "photo.png", "height": 64, "width": 96}],
            "annotations": rows,
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        }
        path = tmp_path / f"{word}.json"
        path.write_text(json.dumps(content))
        references.append(f"{path}@{tmp_path / word}")
    return references


def taken(cfg: Any, source: str, count: int) -> list[dict[str, Any]]:
    space = label_space_from_json(source.partition("@")[0])
    return [clip for batch in islice(build_train_loader(cfg, space), count) for clip in batch]


def test_images_get_objects_of_others(photos: list[str]) -> None:
    keys = ("INPUT.CLIP_FRAMES", "2", "INPUT.CROP_PROB", "0.0", "INPUT.MIN_SIZE_TRAIN", "[64]",
            "SOLVER.CLIPS_PER_BATCH", "1", "DATASETS.TRAIN", json.dumps(photos))  # fmt: skip
    plain_cfg, pasted_cfg = Pair("INPUT.COPY_PASTE_PROB", 1.0, keys)
    assert all(len(clip["targets"]) == 1 for clip in taken(plain_cfg, photos[0], 6))
    clips = taken(pasted_cfg, photos[0], 16)
    labels = {tuple(clip["targets"].labels.tolist()) for clip in clips}
    assert {(0, 1), (1, 0), (0, 0), (1, 1)} <= labels  # own before pasted ones
    assert sum(len(clip["targets"]) == 2 for clip in clips) >= 12  # some are hidden altogether
    again = taken(pasted_cfg, photos[0], 16)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(clips, again, strict=True))
