"""Textured squares that move over a textured ground, with their masks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

H, W = 144, 192
Place = tuple[int, int] | None


def texture(seed: int, height: int, width: int, colour: Sequence[int]) -> np.ndarray:
    """Smooth noise around a colour, (height, width, 3) uint8."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0)
    return (np.array(colour) + 30 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)


def clip(
    *tracks: Sequence[Place], side: int = 44, wall: slice | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) and visible masks (N, T, H, W).

    Args:
        tracks: per object the corner (y, x) of its square in every frame, None where it is away;
            later objects are in front.
        side: of the squares, in pixels.
        wall: columns of a wall in front of everything.
    """
    colours = ((220, 60, 60), (60, 90, 220), (60, 200, 80))
    ground = texture(0, H, W, (120, 120, 110))
    squares = [texture(k + 1, side, side, colours[k]) for k in range(len(tracks))]
    screen = texture(9, H, W, (200, 190, 90))
    frames = np.stack([ground] * len(tracks[0]))
    masks = np.zeros((len(tracks), *frames.shape[:3]), bool)
    for n, track in enumerate(tracks):
        for t, place in enumerate(track):
            if place is None:
                continue
            y, x = place
            rows, columns = slice(max(y, 0), y + side), slice(max(x, 0), max(x + side, 0))
            part = frames[t, rows, columns]
            cut = slice(max(-y, 0), None), slice(max(-x, 0), None)
            part[...] = squares[n][cut][: part.shape[0], : part.shape[1]]
            masks[:, t, rows, columns] = False
            masks[n, t, rows, columns] = True
    if wall is not None:
        frames[:, :, wall] = screen[:, wall]
        masks[..., wall] = False
    return frames, masks


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks; 1 of two empty ones."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0
