"""Old and new masks side by side: in numbers, and in pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from cocoapi_hq.tubes.tracklet_quality import compare_tubes, temporal_stability
from vmt.data.images import Frame
from vmt.inference.video_writer import encode_jpeg
from vmt.structures.masks import MaskCrop, decode_crop, encode_crop
from vmt.visualization.colors import ADDED, REMOVED, Rgb

BoolArray = npt.NDArray[np.bool_]

BEFORE: Rgb = (255, 138, 28)
AFTER: Rgb = (32, 208, 160)
#: Longest side of a picture, and how far small objects are enlarged.
SIDE_PX, MOST_ZOOM = 560, 6.0


@dataclass(frozen=True)
class Difference:
    """Old and new masks of a tracklet side by side.

    Args:
        boundary_iou: mean IoU of the boundary regions of old and new mask, in [0, 1].
        shift_px: pixels changed per pixel of contour: how far the contour moved on average.
        steadiness: boundary IoU of a mask with that of the next frame, moved so that their centres
            meet; mean over frames, of the old and of the new masks. nan without neighbours.
        flicker: mean change of that number from one pair of frames to the next, old and new.
    """

    boundary_iou: float
    shift_px: float
    steadiness: tuple[float, float]
    flicker: tuple[float, float]


def measure(old: Sequence[rle.Rle | None], new: Sequence[rle.Rle | None]) -> Difference:
    """Compare old and new masks of a tracklet.

    Args:
        old: one mask per frame, None where there is none; frames follow one another.
        new: likewise.
    """
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a is not None and b is not None]
    _, _, curve = compare_tubes([a for a, _ in pairs], [b for _, b in pairs])
    changed = contour = 0
    for a, b in pairs:
        common, whole = rle.area(rle.intersection([a, b])), rle.area(rle.union([a, b]))
        changed += whole - common
        contour += _contour_px(decode_crop(b))
    before, after = _neighbours(old), _neighbours(new)
    return Difference(
        boundary_iou=sum(curve) / len(curve) if curve else math.nan,
        shift_px=changed / max(contour, 1),
        steadiness=(_mean(before), _mean(after)),
        flicker=(temporal_stability(before), temporal_stability(after)),
    )


def _contour_px(crop: MaskCrop) -> int:
    """Pixels of a mask that have a side in common with the outside."""
    padded = np.pad(crop.bits, 1).astype(np.uint8)
    inner = cv2.erode(padded, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return int(np.count_nonzero(padded)) - int(np.count_nonzero(inner))


def _neighbours(masks: Sequence[rle.Rle | None]) -> list[float]:
    """Boundary IoU of each mask with the next one, centre on centre; nan where one is missing."""
    curve = []
    for a, b in pairwise(masks):
        moved = None if a is None or b is None else _moved(b, a)
        if a is None or moved is None:
            curve.append(math.nan)
        else:
            curve.append(compare_tubes([a], [moved])[2][0])
    return curve


def _moved(mask: rle.Rle, onto: rle.Rle) -> rle.Rle | None:
    """A mask shifted by whole pixels so that its centre meets another's; None if one is empty."""
    crop, other = decode_crop(mask), decode_crop(onto)
    if not crop.area or not other.area:
        return None
    (y, x), (to_y, to_x) = _centre(crop), _centre(other)
    top, left = crop.y + round(to_y - y), crop.x + round(to_x - x)
    height, width = mask["size"]
    cut_y, cut_x = max(-top, 0), max(-left, 0)
    bits = crop.bits[cut_y : height - top, cut_x : width - left]
    return encode_crop(MaskCrop(bits, top + cut_y, left + cut_x), (height, width))


def _centre(crop: MaskCrop) -> tuple[float, float]:
    rows, columns = np.nonzero(crop.bits)
    return crop.y + float(rows.mean()), crop.x + float(columns.mean())


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


# --- pictures -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """JPEG files of one size: old contour, new contour, what changed."""

    before: bytes
    after: bytes
    change: bytes
    width: int
    height: int


def example_pictures(frame: Frame, old: BoolArray, new: BoolArray) -> Pictures:
    """Cut a frame to an object and draw its contours.

    Args:
        frame: (H, W, 3) uint8 RGB.
        old: (H, W), at least one pixel.
        new: (H, W).
    """
    rows, columns = _window(old | new)
    zoom = min(SIDE_PX / max(rows.stop - rows.start, columns.stop - columns.start), MOST_ZOOM)
    size = (
        max(round((columns.stop - columns.start) * zoom), 1),
        max(round((rows.stop - rows.start) * zoom), 1),
    )
    way = cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA
    view = np.asarray(cv2.resize(frame[rows, columns], size, interpolation=way), dtype=np.uint8)
    masks = [
        cv2.resize(m[rows, columns].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        for m in (old, new)
    ]
    change = np.repeat(view.mean(2, keepdims=True) * 0.55, 3, axis=2).astype(np.uint8)
    change[masks[1] & ~masks[0]] = ADDED
    change[masks[0] & ~masks[1]] = REMOVED
    return Pictures(
        encode_jpeg(_outlined(view, masks[0], BEFORE)),
        encode_jpeg(_outlined(view, masks[1], AFTER)),
        encode_jpeg(change),
        *size,
    )


def _window(mask: BoolArray) -> tuple[slice, slice]:
    """Rows and columns of an object with some room around it."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = max(int(ys[-1] - ys[0]), int(xs[-1] - xs[0])) + 1
    room = max(round(0.12 * side), 12)
    y, x = int(ys[0]) - room, int(xs[0]) - room
    return (
        slice(max(y, 0), min(int(ys[-1]) + room + 1, mask.shape[0])),
        slice(max(x, 0), min(int(xs[-1]) + room + 1, mask.shape[1])),
    )


def _outlined(view: Frame, mask: BoolArray, color: Rgb) -> Frame:
    """A light tint inside, and a contour with a dark rim."""
    painted = view.copy()
    painted[mask] = (0.8 * view[mask] + 0.2 * np.array(color)).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(painted, contours, -1, (16, 16, 20), 4, cv2.LINE_AA)
    cv2.drawContours(painted, contours, -1, color, 2, cv2.LINE_AA)
    return painted
