"""Colours of tracks: the same id has the same colour in every frame, run and file."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Rgb = tuple[int, int, int]

#: The first tracks of a video, chosen by eye to be far apart on photographs.
_FIRST: tuple[Rgb, ...] = (
    (64, 156, 255),
    (255, 92, 77),
    (56, 211, 118),
    (255, 200, 38),
    (178, 108, 255),
    (34, 211, 222),
    (255, 104, 190),
    (255, 144, 30),
    (168, 224, 60),
    (112, 120, 255),
)
#: Pixels that a mask gained and lost.
ADDED: Rgb = (56, 211, 118)
REMOVED: Rgb = (255, 60, 60)
#: Colours before they repeat.
NUM_COLORS = 48


def track_color(track_id: int) -> Rgb:
    """Colour of a track, sRGB in [0, 255]; ids ``NUM_COLORS`` apart share one.

    Args:
        track_id: from 1.
    """
    return _palette()[(track_id - 1) % NUM_COLORS]


def label_map_palette() -> list[int]:
    """768 numbers for an 8-bit PNG whose values are track ids: 0 black, then the track colours."""
    colors = [(0, 0, 0), *(track_color(track_id) for track_id in range(1, 256))]
    return [channel for color in colors for channel in color]


def text_color(background: Rgb) -> Rgb:
    """Near-black or white, whichever reads better on a colour (WCAG 2 contrast)."""
    luminance = float(_linear(np.array(background)) @ np.array([0.2126, 0.7152, 0.0722]))
    on_white, on_black = 1.05 / (luminance + 0.05), (luminance + 0.05) / 0.057
    return (18, 18, 22) if on_black >= on_white else (255, 255, 255)


@lru_cache(maxsize=1)
def _palette() -> tuple[Rgb, ...]:
    """The first colours, then always the candidate that is farthest from all before (OKLab)."""
    steps = np.linspace(0, 255, 16).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = oklab(grid)
    vivid = np.hypot(lab[:, 1], lab[:, 2]) > 0.11
    candidates = grid[vivid & (lab[:, 0] > 0.55) & (lab[:, 0] < 0.9)]
    lab = oklab(candidates)
    colors = list(_FIRST)
    distance = np.full(len(candidates), np.inf)
    for color in colors:
        distance = np.minimum(distance, _distance(lab, color))
    while len(colors) < NUM_COLORS:
        r, g, b = (int(channel) for channel in candidates[int(distance.argmax())])
        colors.append((r, g, b))
        distance = np.minimum(distance, _distance(lab, colors[-1]))
    return tuple(colors)


def _distance(lab: npt.NDArray[np.float64], color: Rgb) -> npt.NDArray[np.float64]:
    difference: npt.NDArray[np.float64] = np.linalg.norm(lab - oklab(np.array(color)), axis=1)
    return difference


def _linear(rgb: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    value = rgb.astype(np.float64) / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(rgb: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """SRGB in [0, 255] -> OKLab, in which Euclidean distance follows the eye (Ottosson, 2020).

    Args:
        rgb: (..., 3).

    Returns:
        (..., 3): lightness in [0, 1], then two colour axes.
    """
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    result: npt.NDArray[np.float64] = np.cbrt(_linear(rgb) @ to_cones.T) @ to_lab.T
    return result
