"""Moving shapes with exact masks: the data of tests that need no data set.

Shapes slide over a patterned ground on straight lines, later shapes cover earlier ones, and each
mask holds just the pixels that are seen. Classes are ``circle`` (1), ``square`` (2) and
``triangle`` (3), drawn in red, green and blue shades so that a network can learn them quickly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from cocoapi_hq.io import rle
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets

CATEGORIES = ("circle", "square", "triangle")


@dataclass(frozen=True)
class ShapeVideo:
    """A video and its truth.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        masks: (G, T, H, W) bool, disjoint in each frame.
        category_ids: (G,) 1 to 3.
        hidden: (G,) the longest run of frames in which other shapes hide all of a shape, which is
            seen before and after.
    """

    frames: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    category_ids: tuple[int, ...]
    hidden: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trajectory:
    """A shape through T frames.

    Args:
        category: 1 to 3.
        color: (3,) RGB.
        centres: (T, 2) as (y, x) in pixels.
        radii: (T,) in pixels.
    """

    category: int
    color: npt.NDArray[np.int64]
    centres: npt.NDArray[np.float64]
    radii: npt.NDArray[np.float64]


def moving_shapes(
    num_frames: int, size: tuple[int, int], seed: int, num_shapes: int = 2, zoom: float = 1.0
) -> ShapeVideo:
    """Draw a video in memory.

    Args:
        num_frames: T.
        size: (h, w) in pixels.
        seed: the same seed, the same video.
        num_shapes: G; every one is visible in at least one frame.
        zoom: how many times larger (or, by chance, smaller) a shape is in the last frame than in
            the first; halfway it has the size that it has without.
    """
    rng = np.random.default_rng(seed)
    ground = _ground(rng, size)
    steps = np.arange(num_frames)[:, None]
    while True:
        paths = []
        for category in rng.integers(1, len(CATEGORIES) + 1, num_shapes).tolist():
            radius = float(rng.uniform(0.12, 0.22)) * min(size)
            start = rng.uniform(0.2, 0.8, 2) * size
            step = rng.uniform(-0.06, 0.06, 2) * min(size)
            color = rng.integers(0, 50, 3)
            color[category - 1] = rng.integers(200, 256)
            growth = np.ones(num_frames)
            if zoom != 1:
                growth = zoom ** (rng.choice([-1, 1]) * np.linspace(-0.5, 0.5, num_frames))
            paths.append(Trajectory(category, color, start + steps * step, radius * growth))
        video = _painted(ground, paths)
        if video.masks.any(axis=(1, 2, 3)).all():
            return video


def hiding_shapes(
    num_frames: int,
    size: tuple[int, int],
    seed: int,
    num_shapes: int = 4,
    zoom: float = 2.0,
    hidden: tuple[int, int] = (1, 8),
) -> ShapeVideo:
    """Draw a video in which small shapes pass behind a large one and come out again.

    All change their size, cross one another, and have colours that say little of their class.

    Args:
        num_frames: T.
        size: (h, w) in pixels.
        seed: the same seed, the same video.
        num_shapes: G, the large one in front, which is the last, included; every one is visible in
            at least one frame.
        zoom: as in ``moving_shapes``, at most.
        hidden: at least one shape is hidden in a run of so many frames, and none in a longer one.
    """
    rng = np.random.default_rng(seed)
    ground = _ground(rng, size)
    steps, short = np.arange(num_frames)[:, None], min(size)
    while True:
        front = rng.uniform(0.35, 0.65, 2) * size + (
            (steps - num_frames / 2) * rng.uniform(-0.01, 0.01, 2) * short
        )
        paths = []
        for g, category in enumerate(rng.integers(1, len(CATEGORIES) + 1, num_shapes).tolist()):
            last = g == num_shapes - 1
            radius = short * (rng.uniform(0.26, 0.32) if last else rng.uniform(0.11, 0.16))
            angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.04, 0.12) * short
            step = np.array([0.6 * np.sin(angle), np.cos(angle)]) * speed
            meeting = rng.uniform(0.3, 0.7) * num_frames
            aside = rng.uniform(-0.06, 0.06, 2) * short
            centres = front + (not last) * (aside + (steps - meeting) * step)
            color = rng.integers(0, 256, 3)
            color[category - 1] = rng.integers(200, 256)
            growth = zoom ** (rng.uniform(-1, 1) * np.linspace(-0.5, 0.5, num_frames))
            paths.append(Trajectory(category, color, centres, radius * growth))
        video = _painted(ground, paths)
        runs = video.hidden
        if video.masks.any(axis=(1, 2, 3)).all() and hidden[0] <= max(runs) <= hidden[1]:
            return video


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    height, width = size
    ground = rng.integers(90, 140, (max(height // 8, 1), max(width // 8, 1), 3), dtype=np.uint8)
    return cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR)


def _painted(ground: npt.NDArray[np.uint8], paths: Sequence[Trajectory]) -> ShapeVideo:
    """Shapes over a ground, each covering those before it."""
    size, num_frames = ground.shape[:2], len(paths[0].radii)
    frames = np.repeat(ground[None], num_frames, axis=0)
    masks = np.zeros((len(paths), num_frames, *size), dtype=np.bool_)
    for g, path in enumerate(paths):
        for t in range(num_frames):
            covered = _shape(path.category, path.centres[t], float(path.radii[t]), size)
            masks[:g, t] &= ~covered
            masks[g, t] = covered
            frames[t][covered] = path.color
    seen = [mask.any(axis=(1, 2)).nonzero()[0] for mask in masks]
    hidden = tuple(int(np.diff(times, prepend=times[:1] - 1).max(initial=1)) - 1 for times in seen)
    return ShapeVideo(frames, masks, tuple(path.category for path in paths), hidden)


def _shape(
    category: int, centre: npt.NDArray[np.float64], radius: float, size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    y, x = y - centre[0], x - centre[1]
    if category == 1:
        return np.asarray(y**2 + x**2 <= radius**2)
    if category == 2:
        return np.asarray(np.maximum(abs(y), abs(x)) <= 0.85 * radius)
    return np.asarray((y <= 0.8 * radius) & (1.7 * abs(x) <= y + radius))


def shape_clip(
    num_frames: int, size: tuple[int, int], seed: int, num_shapes: int = 2
) -> dict[str, Any]:
    """One training sample in memory, as the train loader gives them.

    Returns:
        ``image``: (T, 3, H, W) float in [0, 255]; ``targets``: labels 0 to 2; ids as the loader's.
    """
    video = moving_shapes(num_frames, size, seed, num_shapes)
    masks = torch.from_numpy(video.masks)
    valid = masks.any(-1).any(-1)
    scale = torch.tensor([size[1], size[0], size[1], size[0]])
    boxes = xyxy_to_cxcywh(masks_to_boxes(masks) / scale).clamp(min=1e-6)
    targets = ClipTargets(
        labels=torch.tensor(video.category_ids) - 1,
        boxes_cxcywh=boxes,
        masks=masks,
        valid=valid,
        video_id=str(seed),
        clip_id=f"0-{num_frames - 1}",
    )
    return {
        "image": torch.from_numpy(video.frames).permute(0, 3, 1, 2).float(),
        "targets": targets,
        "video_id": targets.video_id,
        "clip_id": targets.clip_id,
        "dataset": "moving_shapes",
    }


def write_moving_shapes(
    folder: Path,
    num_videos: int,
    num_frames: int,
    size: tuple[int, int],
    seed: int,
    zoom: float = 1.0,
    draw: Callable[..., ShapeVideo] = moving_shapes,
) -> Path:
    """Write videos as frames and YouTube-VIS JSON.

    Args:
        folder: gets ``JPEGImages/<video>/00000.jpg`` and ``annotations.json``.
        num_videos: video ids count from 1.
        num_frames: of each video.
        size: (h, w) in pixels.
        seed: of the first video; the next ones take the next seeds.
        zoom: see ``moving_shapes``.
        draw: or ``hiding_shapes``, whose hidden shapes OVIS's fields then call severely occluded.

    Returns:
        Path of the JSON.
    """
    videos, annotations = [], []
    for k in range(num_videos):
        video, name = draw(num_frames, size, seed + k, zoom=zoom), f"shapes_{k:03d}"
        image_folder = folder / "JPEGImages" / name
        image_folder.mkdir(parents=True, exist_ok=True)
        for t, frame in enumerate(video.frames):
            path = image_folder / f"{t:05d}.jpg"
            cv2.imwrite(str(path), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        videos.append(
            {
                "id": k + 1,
                "width": size[1],
                "height": size[0],
                "length": num_frames,
                "file_names": [f"{name}/{t:05d}.jpg" for t in range(num_frames)],
            }
        )
        for g, category in enumerate(video.category_ids):
            segments = [rle.encode(m) if m.any() else None for m in video.masks[g]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": k + 1,
                    "category_id": category,
                    "iscrowd": 0,
                    "width": size[1],
                    "height": size[0],
                    "length": num_frames,
                    "segmentations": segments,
                    "bboxes": [s and list(rle.to_box(s)) for s in segments],
                    "areas": [s and rle.area(s) for s in segments],
                }
            )
            if draw is hiding_shapes:
                word = "severe_occlusion" if video.hidden[g] else "no_occlusion"
                annotations[-1]["occlusion"] = [s and word for s in segments]
    categories = [{"id": i, "name": name} for i, name in enumerate(CATEGORIES, start=1)]
    path = folder / "annotations.json"
    content = {"videos": videos, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
