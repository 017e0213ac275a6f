"""Make clean masks coarse, as annotators and small networks do: input for the mask refiner.

Source: Video Mask Transfiner, arXiv:2207.14012, section 3.2 (subsample the boundary, then dilate
and erode at random). It gives no numbers; they follow CascadePSP, arXiv:2005.02551, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from cocoapi_hq.io.json_file import read_json, write_json
from vmt.data.names import KINDS, LOW_RES_STRIDE
from vmt.utils.errors import AnnotationError, OutputError, scoring_errors

BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]
_Change = Callable[[BoolArray], BoolArray]

#: Width of the band that YouTube-VIS masks have around objects, in pixels
#: (docs/reference/released_code.md#halo).
HALO_PX = 5
#: Rounds of random dilation and erosion after which the target is given up.
MAX_ROUNDS = 250
#: Pixels of background around an object in which it may grow.
MARGIN_PX = 40


@dataclass(frozen=True)
class _Plan:
    """What one tracklet shares over its frames."""

    target_iou: float
    halo_px: int


def degrade_tube(
    masks: npt.NDArray[np.bool_],
    kind: str,
    rng: np.random.Generator,
    *,
    coherent: bool = False,
    stride: int = LOW_RES_STRIDE,
) -> BoolArray:
    """Coarse masks of one tracklet.

    ``paper``: per contour drop a run of 10% of the vertices and keep a random 10% of the others;
    then random dilations and erosions until the IoU with the clean mask falls below a target from
    [0.8, 1], one draw per tracklet; with probability 0.3 only a dilation by 3 to 7 px instead.
    ``halo``: dilation by 5 px. ``low_res``: area average to 1/stride, bilinear back, cut at 0.5.

    Args:
        masks: (T, H, W), True on the object; frames without a pixel stay so.
        kind: one of ``KINDS``.
        rng: source of all draws.
        coherent: the same draws, relative to the object's box, in every frame; otherwise each frame
            has its own, which makes the contour flicker.
        stride: of ``low_res``, input pixels per cell, from 1 on.

    Returns:
        (T, H, W). A frame with an object keeps at least one pixel of it.

    Raises:
        ValueError: unknown kind, or a stride below 1.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    if stride < 1:
        raise ValueError(f"stride must be a number of pixels from 1 on, not {stride}.")
    pure_halo = rng.random() < 0.3
    plan = _Plan(rng.uniform(0.8, 1.0), int(rng.integers(3, 8)) if pure_halo else 0)
    seed = int(rng.integers(2**63))
    coarse = np.zeros(masks.shape, dtype=np.bool_)
    for t, mask in enumerate(masks):
        crop = _crop_of(mask)
        if crop is None:
            continue
        y, x, clean = crop
        frame_rng = np.random.default_rng(seed if coherent else [seed, t])
        if kind == "low_res":
            coarse[t] = _low_res(mask, stride)
            continue
        found = _dilate(clean, HALO_PX) if kind == "halo" else _paper(clean, plan, frame_rng)
        h, w = clean.shape
        whole = np.pad(coarse[t], MARGIN_PX)
        whole[y : y + h, x : x + w] = found > 0
        coarse[t] = whole[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
    return coarse


def _crop_of(mask: BoolArray) -> tuple[int, int, ByteArray] | None:
    """The object with a margin on all sides, beyond the frame too; None when there is none.

    Returns:
        Row and column of the crop in the frame padded by ``MARGIN_PX``, and its bytes.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    y, x = int(rows[0]), int(columns[0])
    part = mask[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1]
    return y, x, np.pad(np.ascontiguousarray(part, dtype=np.uint8), MARGIN_PX)


def _dilate(mask: ByteArray, radius_px: int) -> ByteArray:
    side = 2 * radius_px + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.dilate(mask, kernel), dtype=np.uint8)


def _low_res(mask: BoolArray, stride: int) -> BoolArray:
    h, w = mask.shape
    size = (-(-w // stride), -(-h // stride))
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    # An object smaller than a cell would vanish: cut it at half of its own maximum.
    return np.asarray(soft > min(0.5, 0.5 * float(soft.max())), dtype=np.bool_)


def _paper(clean: ByteArray, plan: _Plan, rng: np.random.Generator) -> ByteArray:
    if plan.halo_px:
        return _dilate(clean, plan.halo_px)
    coarse = _subsample_contours(clean, rng)
    for _ in range(MAX_ROUNDS):
        if _iou(clean, coarse) < plan.target_iou:
            break
        changed = _random_morphology(coarse, rng)
        if not (changed & clean).any():
            break
        coarse = changed
    return coarse if (coarse & clean).any() else clean


def _subsample_contours(mask: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Polygons through a tenth of the contour's vertices, one run of a tenth left out."""
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(mask)
    order = sorted(range(len(contours)), key=lambda k: int(hierarchy[0][k][3] >= 0))
    for k in order:  # outer rings first, then the holes in them
        ring = contours[k][:, 0]
        count = len(ring)
        run, start = count // 10, int(rng.integers(count))
        rest = np.roll(ring, -start, axis=0)[run:]
        keep = max(3, len(rest) // 10)
        if len(rest) > keep:
            rest = rest[np.sort(rng.choice(len(rest), keep, replace=False))]
        is_hole = hierarchy[0][k][3] >= 0
        cv2.fillPoly(filled, [np.ascontiguousarray(rest)], 0 if is_hole else 1)
    return filled


def _random_morphology(mask: ByteArray, rng: np.random.Generator) -> ByteArray:
    """One round: four dilations or erosions, each in a random part of the crop."""
    mask = mask.copy()
    height, width = mask.shape
    for _ in range(4):
        y1, y2 = np.sort((rng.random(2) * height).astype(int))
        x1, x2 = np.sort((rng.random(2) * width).astype(int))
        part = mask[y1 : y2 + 1, x1 : x2 + 1]
        if rng.random() < 0.25:
            y, x = int(rng.random() * part.shape[0]), int(rng.random() * part.shape[1])
            part[y, x] = 1 - part[y, x]
        side = int(rng.integers(3, 10))
        shape = cv2.MORPH_RECT if rng.random() < 0.5 else cv2.MORPH_ELLIPSE
        kernel = cv2.getStructuringElement(shape, (side, side))
        change = cv2.dilate if rng.random() < 0.5 else cv2.erode
        part[...] = change(part, kernel)
    return mask


def _iou(a: ByteArray, b: ByteArray) -> float:
    return int(np.count_nonzero(a & b)) / max(int(np.count_nonzero(a | b)), 1)


def degrade_file(
    source: Path,
    target: Path,
    kind: str,
    seed: int = 0,
    *,
    coherent: bool = False,
    stride: int = LOW_RES_STRIDE,
) -> dict[str, int]:
    """Write an annotation file with coarse masks; everything but masks, boxes, areas is kept.

    The draws of an annotation depend on the seed and its id, not on what else is in the file.

    Args:
        source: YouTube-VIS JSON (``segmentations`` per frame) or COCO JSON (``segmentation``).
        target: appears whole or not at all.
        kind: one of ``KINDS``.
        seed: of the draws.
        coherent: see ``degrade_tube``.
        stride: see ``degrade_tube``.

    Returns:
        Counts of ``annotations``, ``masks`` and ``crowd`` (left as they are).

    Raises:
        AnnotationError: the file is unreadable or a mask is damaged.
        OutputError: ``target`` cannot be written.
    """
    with scoring_errors():
        content: Any = read_json(source)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise AnnotationError(
            f"{source}: has no list 'annotations'; give YouTube-VIS or COCO JSON."
        )
    members = [*content.get("videos", ()), *content.get("images", ())]
    sizes = {m["id"]: (m.get("height"), m.get("width")) for m in members if "id" in m}
    counts = {"annotations": 0, "masks": 0, "crowd": 0}
    for k, row in enumerate(content["annotations"]):
        where = f"{source}: annotations[{k}]"
        if not isinstance(row, dict):
            raise AnnotationError(f"{where}: is {row!r}, not an object.")
        if row.get("iscrowd"):
            counts["crowd"] += 1
            continue
        counts["annotations"] += 1
        rng = np.random.default_rng([seed, int(row.get("id", k))])
        size = sizes.get(row.get("video_id", row.get("image_id")))
        change = partial(degrade_tube, kind=kind, rng=rng, coherent=coherent, stride=stride)
        counts["masks"] += _degrade_row(row, size, where, change)
    with scoring_errors(OutputError):
        write_json(target, content)
    return counts


def _degrade_row(row: dict[str, Any], size: Any, where: str, change: _Change) -> int:
    """Replace the masks of one annotation; returns how many."""
    video = "segmentations" in row
    given = row["segmentations"] if video else [row.get("segmentation")]
    if not isinstance(given, list):
        raise AnnotationError(f"{where}: 'segmentations' is no list.")
    with scoring_errors():
        masks = [None if rle.is_absent(m) else rle.validate(m, where, size) for m in given]
    present = [t for t, mask in enumerate(masks) if mask is not None and rle.area(mask)]
    if not present:
        return 0
    shown: list[Any] = [masks[t] for t in present]
    if len({tuple(mask["size"]) for mask in shown}) != 1:
        raise AnnotationError(f"{where}: its masks differ in size.")
    coarse = [rle.encode(mask) for mask in change(np.stack([rle.decode(m) for m in shown]))]
    for t, mask in zip(present, coarse, strict=True):
        masks[t] = mask
    if video:
        row["segmentations"] = masks
        row["bboxes"] = [mask and list(rle.to_box(mask)) for mask in masks]
        row["areas"] = [mask and rle.area(mask) for mask in masks]
    else:
        row["segmentation"] = masks[0]
        row["bbox"], row["area"] = list(rle.to_box(coarse[0])), rle.area(coarse[0])
    return len(present)
