"""Masks to polygons, along the edges of their pixels."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from vmt.structures.masks import MaskCrop, decode_crop

BoolArray = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float32]

#: How far a polygon may stray from the edge of its mask, in pixels.
TOLERANCE_PX = 0.7
#: Least IoU of a simplified polygon with its mask; below it every corner is kept.
LEAST_IOU = 0.97

Vertex = tuple[int, int]


def rings_of(mask: rle.Rle, tolerance_px: float = TOLERANCE_PX) -> list[list[list[float]]]:
    """Polygons that cover a mask.

    One per piece (pixels that share a side); a hole is joined to the ring around it by a cut of no
    width. Simplified where that costs little, exact otherwise.

    Args:
        mask: as run lengths.
        tolerance_px: how far they may stray from its edge.

    Returns:
        Rings of [x, y] in pixels, x from the left edge of the first pixel, those of large pieces
        first; none for an empty mask.
    """
    crop = decode_crop(mask)
    rings = _joined(crop, tolerance_px)
    if rings and _iou(rings, mask) < LEAST_IOU:
        rings = _joined(crop, 0.0)
    return [[[float(x), float(y)] for x, y in ring] for ring in rings]


def _iou(rings: list[Points], mask: rle.Rle) -> float:
    h, w = mask["size"]
    pair = [rle.from_polygons([ring.reshape(-1).tolist() for ring in rings], h, w), mask]
    return rle.area(rle.intersection(pair)) / rle.area(rle.union(pair))


def _joined(crop: MaskCrop, tolerance_px: float) -> list[Points]:
    exact = _trace(crop.bits)
    areas = [_signed_area(ring) for ring in exact]
    outer = sorted((k for k, area in enumerate(areas) if area > 0), key=lambda k: -areas[k])
    rings = {k: _simplify(exact[k], tolerance_px) for k in outer}
    for k in (k for k, area in enumerate(areas) if area < 0):
        point = _inside(exact[k])
        around = [j for j in outer if cv2.pointPolygonTest(exact[j], point, False) > 0]
        owner = min(around, key=lambda j: areas[j])
        rings[owner] = _join(rings[owner], _simplify(exact[k], tolerance_px))
    offset = np.array([crop.x, crop.y], dtype=np.float32)
    return [ring + offset for ring in rings.values()]


def _trace(bits: BoolArray) -> list[Points]:
    """Closed rings along pixel edges, the mask on the right hand: outer rings have area > 0."""
    padded = np.pad(bits, 1).astype(np.int8)
    down, across = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    leaving: dict[Vertex, list[Vertex]] = {}

    def add(edges: BoolArray, a: Vertex, b: Vertex) -> None:
        for y, x in np.argwhere(edges).tolist():
            leaving.setdefault((x + a[0], y + a[1]), []).append((x + b[0], y + b[1]))

    add(down > 0, (0, 0), (1, 0))
    add(down < 0, (1, 0), (0, 0))
    add(across > 0, (0, 1), (0, 0))
    add(across < 0, (0, 0), (0, 1))
    rings = []
    while leaving:
        start = next(iter(leaving))
        ring = [start]
        at, step = start, (0, 0)
        while True:
            choices = leaving[at]
            right = (at[0] - step[1], at[1] + step[0])
            to = right if right in choices else choices[0]
            choices.remove(to)
            if not choices:
                del leaving[at]
            turned = (to[0] - at[0], to[1] - at[1])
            if turned == step:
                ring[-1] = to
            else:
                ring.append(to)
            at, step = to, turned
            if at == start:
                break
        rings.append(np.array(ring[:-1], dtype=np.float32))
    return rings


def _signed_area(ring: Points) -> float:
    x, y = ring.astype(np.float64).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _inside(hole: Points) -> tuple[float, float]:
    """The middle of a pixel of a hole: it lies left of the first edge."""
    (x0, y0), (x1, y1) = hole[0].tolist(), hole[1].tolist()
    dx, dy = np.sign(x1 - x0), np.sign(y1 - y0)
    return x0 + dx / 2 + dy / 2, y0 + dy / 2 - dx / 2


def _simplify(ring: Points, tolerance_px: float) -> Points:
    if not tolerance_px or len(ring) <= 4:
        return ring
    simple = np.asarray(cv2.approxPolyDP(ring[:, None], tolerance_px, True))[:, 0]
    return simple.astype(np.float32) if len(simple) >= 3 else ring


def _join(ring: Points, hole: Points) -> Points:
    """Walk the hole from the ring's nearest corner and come back the same way."""
    distance = ((ring[:, None] - hole[None]) ** 2).sum(2)
    i, j = np.unravel_index(int(distance.argmin()), distance.shape)
    around = np.roll(hole, -int(j), axis=0)
    return np.concatenate([ring[: i + 1], around, around[:1], ring[i:]])
