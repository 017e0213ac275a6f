#!/usr/bin/env python3
"""Write a stand-in of every data set that configs name: its published layout, a few tiny videos.

ROOT becomes a folder as datasets/README.md shows it: YouTube-VIS 2019 and 2021, OVIS, HQ-YTVIS with
its cut files, COCO, BDD100K (MOTS and detection) and DAVIS. Frames of 64x96 pixels hold two moving
ellipses each; nothing is downloaded. Every config trains and evaluates on it, to see that a set-up
works.

Example:
  python tools/make_tiny_datasets.py output/tiny
  DETECTRON2_DATASETS=output/tiny python datasets/prepare_hq_ytvis.py
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from cocoapi_hq.io import rle
from cocoapi_hq.mots.bitmask_png import bitmask_of, write_png
from cocoapi_hq.mots.frame_masks import FrameMasks
from cocoapi_hq.mots.mots_config import BDD100K_MOTS
from cocoapi_hq.mots.scalabel_io import frames_to_scalabel
from vmt.data.datasets.categories import LABEL_SPACES
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import OutputError

SIZE = (64, 96)
FRAMES = 4
#: Objects of YouTube-VIS files have a halo of so many pixels; those of HQ-YTVIS are exact.
HALO_PX = 2

Frames = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]


def draw(seed: int, num_frames: int = FRAMES) -> tuple[Frames, Masks]:
    """Two ellipses that move, one in the left and one in the right half.

    Args:
        seed: the same seed, the same video.
        num_frames: T.

    Returns:
        (T, 64, 96, 3) uint8 RGB and (2, T, 64, 96) bool; the second object leaves for the last
        frame of every third video.
    """
    rng = np.random.default_rng(seed)
    height, width = SIZE
    ground = rng.integers(60, 140, (height // 8, width // 8, 3), dtype=np.uint8)
    ground = cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR)
    frames = np.repeat(ground[None], num_frames, axis=0)
    masks = np.zeros((2, num_frames, height, width), dtype=np.bool_)
    y, x = np.mgrid[:height, :width] + 0.5
    for g in range(2):
        axes = rng.uniform((12, 9), (18, 14))
        start, step = rng.uniform((24, 22), (40, 26)), rng.uniform((-3, -2), (3, 2))
        colour = rng.integers(150, 256, 3)
        for t in range(num_frames):
            if g == 1 and seed % 3 == 0 and t and t == num_frames - 1:
                continue
            cy, cx = start + t * step
            mask = ((y - cy) / axes[0]) ** 2 + ((x - cx - g * width / 2) / axes[1]) ** 2 <= 1
            masks[g, t] = mask
            frames[t][mask] = colour
    return frames, masks


def halo(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A mask with a border of ``HALO_PX`` pixels more."""
    kernel = np.ones((2 * HALO_PX + 1,) * 2, np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel), dtype=np.bool_)


class YtvisFile:
    """A YouTube-VIS JSON and its frames as they grow.

    Args:
        images: folder of the frames.
        space: label space whose categories it lists.
        frame_name: format of a frame's name.
        first: number of the first frame.
    """

    def __init__(
        self, images: Path, space: str, frame_name: str = "{:05d}.jpg", first: int = 0
    ) -> None:
        self.images, self.frame_name, self.first = images, frame_name, first
        known = LABEL_SPACES[space]
        rows = zip(known.category_ids, known.names, strict=True)
        self.categories = [{"id": key, "name": name} for key, name in rows]
        self.videos: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, name: str, seed: int, annotated: bool = True) -> None:
        """Draw a video, write its frames, list it."""
        frames, masks = draw(seed)
        names = [f"{name}/{self.frame_name.format(t + self.first)}" for t in range(len(frames))]
        for file, frame in zip(names, frames, strict=True):
            write_jpeg(self.images / file, frame)
        number = len(self.videos) + 1
        size = {"height": SIZE[0], "width": SIZE[1], "length": len(frames)}
        self.videos.append({"id": number, "file_names": names} | size)
        for g in range(len(masks) if annotated else 0):
            category = self.categories[(2 * seed + g) % len(self.categories)]["id"]
            exact = [rle.encode(m) if m.any() else None for m in masks[g]]
            coarse = [rle.encode(halo(m)) if m.any() else None for m in masks[g]]
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "video_id": number,
                    "category_id": category,
                    "iscrowd": 0,
                    "segmentations": coarse,
                    "segmentations_refined": exact,
                    "bboxes": [m and list(rle.to_box(m)) for m in coarse],
                    "areas": [m and rle.area(m) for m in coarse],
                }
                | size
            )

    def write(self, path: Path, refined: bool = False, places: Sequence[int] = ()) -> None:
        """Write the JSON.

        Args:
            path: of the file.
            refined: with ``segmentations_refined`` beside ``segmentations``.
            places: of the videos to list; none: all.
        """
        videos = [self.videos[k] for k in places] or self.videos
        ids = {video["id"] for video in videos}
        rows = [row for row in self.annotations if row["video_id"] in ids]
        if not refined:
            rows = [{k: v for k, v in r.items() if k != "segmentations_refined"} for r in rows]
        content: dict[str, Any] = {"videos": videos, "categories": self.categories}
        write_json(path, content | ({"annotations": rows} if self.annotations else {}))


def write_json(path: Path, content: Any) -> None:
    """Write JSON and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_jpeg(path: Path, frame: Frames) -> None:
    """Write an RGB frame and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path, quality=95)


def youtube_vis(root: Path) -> None:
    """YouTube-VIS 2019 and 2021: masks of train alone are public."""
    for year in (2019, 2021):
        folder = root / f"ytvis_{year}"
        for part, count in (("train", 7 if year == 2019 else 2), ("valid", 2), ("test", 2)):
            file = YtvisFile(folder / part / "JPEGImages", folder.name)
            for k in range(count):
                file.add(f"{part[:2]}{year}{k:04d}", 100 * (year - 2018) + k, part == "train")
            file.write(folder / f"{part}.json")
            if part == "train" and year == 2019:
                hq_ytvis(root / "hq_ytvis", file)


def hq_ytvis(folder: Path, train: YtvisFile) -> None:
    """The splits of HQ-YTVIS, and what ``prepare_hq_ytvis.py --cut`` makes of train.json."""
    parts = {"train": (0, 1, 2), "val": (3, 4), "test": (5, 6)}
    for part, places in parts.items():
        train.write(folder / f"ytvis_hq-{part}.json", refined=True, places=places)
        train.write(folder / "coarse" / f"train-{part}.json", places=places)


def ovis(root: Path) -> None:
    """OVIS: masks of train alone are public."""
    for part in ("train", "valid", "test"):
        file = YtvisFile(root / "ovis" / part, "ovis", "img_{:07d}.jpg", 1)
        for k in range(2):
            file.add(f"{part[:2]}0ff{k:04d}", 400 + k, part == "train")
        file.write(root / "ovis" / f"annotations_{part}.json")


def coco(root: Path) -> None:
    """COCO 2017: run lengths of crowds, polygons of everything else; a class no map knows."""
    space = LABEL_SPACES["coco"]
    rows = zip(space.category_ids, space.names, strict=True)
    categories = [{"id": key, "name": name.replace("_", " ")} for key, name in rows]
    for part in ("train", "val"):
        images, annotations = [], []
        for k in range(1, 5):
            frames, masks = draw(500 + k, 1)
            name = f"{k:012d}.jpg"
            write_jpeg(root / "coco" / f"{part}2017" / name, frames[0])
            images.append({"id": k, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
            # person, dog, cow, chair; and a crowd of persons
            for category, mask in ((1, masks[0, 0]), ((18, 21, 62)[k % 3], masks[1, 0])):
                crowd = category == 1 and k == 4
                contours = cv2.findContours(
                    mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
                )[0]
                polygons = [(contour.reshape(-1) + 0.5).tolist() for contour in contours]
                segment = rle.encode(mask)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": k,
                        "category_id": category,
                        "iscrowd": int(crowd),
                        "segmentation": segment if crowd else polygons,
                        "bbox": list(rle.to_box(segment)),
                        "area": rle.area(segment),
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(root / "coco/annotations" / f"instances_{part}2017.json", content)


def bdd100k(root: Path) -> None:
    """BDD100K MOTS as bitmasks and as Scalabel JSON, frames alone of test; boxes of 100K images."""
    folder = root / "bdd100k"
    for part, count in (("train", 2), ("val", 2), ("test", 2)):
        for k in range(count):
            video = f"0000{part[:2]}0{k}-00000000"
            frames, masks = draw(600 + 10 * len(part) + k)
            for t, frame in enumerate(frames):
                name = f"images/seg_track_20/{part}/{video}/{video}-{t + 1:07d}.jpg"
                write_jpeg(folder / name, frame)
            if part != "test":
                mots_labels(folder / "labels/seg_track_20", part, video, masks)
    for part in ("train", "val"):
        bdd100k_boxes(folder, part)


def mots_labels(folder: Path, part: str, video: str, masks: Masks) -> None:
    """A pedestrian, a car, and a crowd of cars along the upper edge, in two forms.

    Args:
        folder: of the labels.
        part: of the data set.
        video: its name.
        masks: (2, T, H, W).
    """
    crowd = np.zeros((1, *masks.shape[1:]), np.bool_)
    crowd[0, :, :2] = True
    frames = []
    for t, shapes in enumerate(np.concatenate([crowd, masks]).swapaxes(0, 1)):
        name = f"{video}-{t + 1:07d}"
        frame = FrameMasks(video, f"{name}.jpg", t)
        for g, shape in enumerate(shapes):
            if shape.any():
                label = (2, 0, 2)[g]  # car, pedestrian, car
                frame.append(rle.encode(shape), label, track_id=g + 1, ignored=g == 0)
        write_png(folder / f"bitmasks/{part}/{video}/{name}.png", bitmask_of(frame, SIZE))
        frames.append(frame)
    write_json(folder / f"rles/{part}/{video}.json", frames_to_scalabel(frames, BDD100K_MOTS))


def bdd100k_boxes(folder: Path, part: str) -> None:
    """Three images with boxes, one of them of a class that MOTS lacks."""
    labels = []
    for k in range(3):
        frames, masks = draw(650 + k, 1)
        name = f"{part}{k:04d}-00000000.jpg"
        write_jpeg(folder / "images/100k" / part / name, frames[0])
        found = []
        for g, category in enumerate(("car", "traffic sign" if k == 0 else "pedestrian")):
            x, y, w, h = rle.to_box(rle.encode(masks[g, 0]))
            box = {"x1": x, "y1": y, "x2": x + w - 1, "y2": y + h - 1}
            found.append({"id": str(10 * k + g), "category": category, "box2d": box})
        labels.append({"name": name, "labels": found})
    write_json(folder / f"labels/det_20/det_{part}.json", labels)


def davis(root: Path) -> None:
    """DAVIS 2017: palette images, the value is the object."""
    folder = root / "DAVIS"
    lists = folder / "ImageSets/2017"
    lists.mkdir(parents=True)
    for part, video, seed in (("train", "bear", 700), ("val", "camel", 701)):
        frames, masks = draw(seed)
        (folder / "Annotations/480p" / video).mkdir(parents=True)
        for t, frame in enumerate(frames):
            write_jpeg(folder / "JPEGImages/480p" / video / f"{t:05d}.jpg", frame)
            values = (masks[0, t] + 2 * masks[1, t]).astype(np.uint8)
            picture = Image.fromarray(values, "L")
            picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            picture.save(folder / "Annotations/480p" / video / f"{t:05d}.png")
        (lists / f"{part}.txt").write_text(f"{video}\n", encoding="ascii")


def make_tiny_datasets(root: Path) -> None:
    """Write all of them; ``root`` is complete or not there.

    Raises:
        OutputError: ``root`` holds something, or cannot be written.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise OutputError(f"{root}: is there already; delete it or choose another folder.")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=root.parent, prefix=f"{root.name}.part"))
        try:
            for write in (youtube_vis, ovis, coco, bdd100k, davis):
                write(part)
            part.chmod(0o755)  # mkdtemp lets nobody else read it
            part.replace(root)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"{root}: cannot be written ({error}); free space or choose another folder."
        ) from None


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder, new or empty")
    root = parser.parse_args(argv).root
    make_tiny_datasets(root)
    files = sum(path.is_file() for path in root.rglob("*"))
    print(f"{root}: {files} files; use it with DETECTRON2_DATASETS={root.absolute()}")
    return 0


if __name__ == "__main__":
    exit_with(main)
