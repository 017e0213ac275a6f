"""Synthetic driving clips with exact masks, in the layout of BDD100K MOTS; not a script.

Cars, trucks, motorcycles and pedestrians of their sizes cross the frame at different depths: nearer
ones are larger, lower, and cover the others. Outlines have wheels, legs and mirrors, so that coarse
masks miss something.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from cocoapi_hq.mots.frame_masks import FrameMasks
from cocoapi_hq.mots.mots_config import BDD100K_MOTS
from cocoapi_hq.mots.scalabel_io import frames_to_scalabel

#: Class -> height as a share of the frame's, at middle depth; width per height; speed in shares of
#: the frame's width per frame.
KINDS = {
    "pedestrian": (0.22, 0.45, 0.008),
    "car": (0.17, 2.2, 0.025),
    "truck": (0.32, 1.9, 0.018),
    "motorcycle": (0.16, 1.5, 0.03),
}
#: Sub-pixel bits of OpenCV's polygons.
SHIFT = 4
Frames = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class DrivingClip:
    """A clip and its truth.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        masks: (G, T, H, W) bool, disjoint in each frame; visible parts alone.
        names: G classes of BDD100K.
    """

    frames: Frames
    masks: Masks
    names: tuple[str, ...]


def driving_clip(num_frames: int, size: tuple[int, int], seed: int, objects: int) -> DrivingClip:
    """Draw a clip; the same seed gives the same one."""
    rng = np.random.default_rng(seed)
    h, w = size
    names = tuple(str(name) for name in rng.choice(list(KINDS), objects, p=[0.3, 0.4, 0.15, 0.15]))
    depth = np.sort(rng.uniform(0.6, 1.3, objects))  # far ones are drawn first
    side = rng.choice([-1, 1], objects)
    middle, speed = rng.uniform(0.15, 0.85, objects), rng.uniform(0.4, 1.4, objects)
    paint = [_paint(rng) for _ in names]
    ground = _ground(rng, size)
    frames = np.repeat(ground[None], num_frames, 0)
    masks = np.zeros((objects, num_frames, h, w), bool)
    for t in range(num_frames):
        for g, name in enumerate(names):
            height, aspect, pace = KINDS[name]
            tall = height * depth[g] * h
            x = (middle[g] + side[g] * pace * speed[g] * depth[g] * (t - num_frames / 2)) * w
            y = (0.42 + 0.42 * (depth[g] - 0.6) / 0.7) * h + tall / 2
            mask = _filled(_outline(name, t), (x, y), (tall * aspect * side[g], tall), size)
            masks[:g, t] &= ~mask
            masks[g, t] = mask
            frames[t][mask] = _texture(paint[g], (x, y), tall, size)[mask]
        noise = rng.normal(0, 5, (h, w, 3))
        frames[t] = np.clip(frames[t] + noise, 0, 255).astype(np.uint8)
    return DrivingClip(frames, masks, names)


def _outline(name: str, t: int) -> list[npt.NDArray[np.float64]]:
    """Polygons in [-0.5, 0.5] x [-1, 0], the foot at 0; looks to the right."""
    parts = _PARTS[name]
    if name != "pedestrian":
        return parts
    step = np.array([0.3 * np.sin(0.9 * t), 0])
    low = np.array([[0.0], [0.0], [1.0], [1.0]])  # the lower end of a leg moves
    return [
        *parts[:2],
        *(leg + side * low * step for leg, side in zip(parts[2:], (1, -1), strict=True)),
    ]


def _disc(x: float, y: float, rx: float, ry: float) -> npt.NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _polygon(*numbers: float) -> npt.NDArray[np.float64]:
    return np.array(numbers).reshape(-1, 2)


_LEG = _polygon(-0.15, -0.5, 0.15, -0.5, 0.1, 0, -0.12, 0)
_BAR = _polygon(-0.5, -0.15, 0.5, -0.15, 0.5, -0.2, -0.5, -0.2)
_PARTS = {
    "pedestrian": [
        _disc(0, -0.9, 0.22, 0.1),
        _polygon(-0.3, -0.8, 0.3, -0.8, 0.45, -0.45, 0.2, -0.4, -0.2, -0.4, -0.45, -0.45),
        _LEG,
        _LEG,
    ],
    "car": [
        _polygon(
            *(-0.5, -0.2, -0.48, -0.55, -0.3, -0.6, -0.2, -1, 0.15, -1, 0.3, -0.6),
            *(0.33, -0.68, 0.36, -0.6, 0.48, -0.5, 0.5, -0.2),
        ),
        _disc(-0.3, -0.15, 0.1, 0.16),
        _disc(0.3, -0.15, 0.1, 0.16),
    ],
    "truck": [
        _polygon(-0.5, -0.15, -0.5, -1, 0.22, -1, 0.22, -0.15),
        _polygon(0.25, -0.15, 0.25, -0.7, 0.4, -0.7, 0.5, -0.4, 0.5, -0.15),
        _BAR,
        *(_disc(x, -0.08, 0.06, 0.1) for x in (-0.38, -0.22, 0.36)),
    ],
    "motorcycle": [
        _polygon(
            *(-0.3, -0.2, -0.25, -0.5, 0.15, -0.55, 0.25, -0.75, 0.3, -0.72, 0.3, -0.2, 0, -0.3)
        ),
        _polygon(-0.2, -0.5, -0.15, -0.9, 0, -0.9, 0.2, -0.6, 0, -0.65, 0, -0.45),
        _disc(-0.06, -0.94, 0.07, 0.09),
        *(_disc(x, -0.18, 0.14, 0.18) for x in (-0.33, 0.33)),
    ],
}


def _filled(
    polygons: list[npt.NDArray[np.float64]],
    foot: tuple[float, float],
    scale: tuple[float, float],
    size: tuple[int, int],
) -> Masks:
    """Polygons at a place in pixels, united."""
    mask = np.zeros(size, np.uint8)
    for polygon in polygons:
        points = (polygon * scale + foot - 0.5) * 2**SHIFT
        cv2.fillPoly(mask, [points.round().astype(np.int32)], 1, shift=SHIFT)
    return mask.astype(bool)


def _paint(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Two colours and how they alternate."""
    return np.concatenate([rng.uniform(20, 255, 6), rng.uniform(2, 7, 2)])


def _texture(
    paint: npt.NDArray[np.float64], foot: tuple[float, float], tall: float, size: tuple[int, int]
) -> Frames:
    """Stripes that move with the object."""
    y, x = np.mgrid[: size[0], : size[1]]
    phase = ((x - foot[0]) * paint[6] + (y - foot[1]) * paint[7]) / tall
    share = (0.5 + 0.5 * np.sin(phase))[..., None]
    return np.asarray(share * paint[:3] + (1 - share) * paint[3:6]).astype(np.uint8)


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> Frames:
    """Sky, houses and a road."""
    h, w = size
    frame = np.zeros((h, w, 3), np.float64)
    frame[: h // 2], frame[h // 2 :] = (150, 170, 190), (90, 90, 95)
    for _ in range(12):
        x, top, wide = (
            rng.integers(0, w),
            rng.integers(h // 8, h // 2),
            rng.integers(w // 16, w // 5),
        )
        frame[top : int(0.52 * h), x : x + wide] = rng.uniform(40, 200, 3)
    coarse = rng.normal(0, 12, (max(h // 6, 1), max(w // 6, 1), 3))
    return np.clip(frame + cv2.resize(coarse, (w, h)), 0, 255).astype(np.uint8)


def write_bdd100k(
    root: Path,
    part: str,
    videos: int,
    num_frames: int,
    size: tuple[int, int],
    seed: int,
    objects: int,
) -> Path:
    """Write clips as BDD100K MOTS under ``root``, and their truth as YouTube-VIS JSON.

    Returns:
        Path of the JSON, whose category ids are BDD100K's and whose videos have its names.
    """
    path = root / f"{part}.json"
    if path.is_file():
        return path
    folder = root / "bdd100k"
    labels = folder / f"labels/seg_track_20/rles/{part}"
    labels.mkdir(parents=True, exist_ok=True)
    truth: dict[str, list[Any]] = {"videos": [], "annotations": []}
    for k in range(videos):
        clip, video = driving_clip(num_frames, size, seed + k, objects), f"{part}{k:04d}"
        names = [f"{video}/{video}-{t + 1:07d}.jpg" for t in range(num_frames)]
        for name, frame in zip(names, clip.frames, strict=True):
            image = folder / f"images/seg_track_20/{part}" / name
            image.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(image), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        frames = [FrameMasks(video, Path(name).name, t) for t, name in enumerate(names)]
        truth["videos"].append(
            {
                "id": k + 1,
                "file_names": names,
                "length": num_frames,
                "height": size[0],
                "width": size[1],
            }
        )
        for g, kind in enumerate(clip.names):
            label = BDD100K_MOTS.classes.index(kind)
            masks = [rle.encode(mask) if mask.any() else None for mask in clip.masks[g]]
            for frame, mask in zip(frames, masks, strict=True):
                if mask is not None:
                    frame.append(mask, label, track_id=g + 1)
            if any(masks):
                number = len(truth["annotations"]) + 1
                row = {"id": number, "video_id": k + 1, "category_id": label + 1, "iscrowd": 0}
                truth["annotations"].append(row | {"segmentations": masks})
        content = frames_to_scalabel(frames, BDD100K_MOTS)
        (labels / f"{video}.json").write_text(json.dumps(content))
    truth["categories"] = [
        {"id": i, "name": name} for i, name in enumerate(BDD100K_MOTS.classes, start=1)
    ]
    path.write_text(json.dumps(truth))
    return path
