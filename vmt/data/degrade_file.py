"""Make the clean masks of an annotation file coarse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from cocoapi_hq.io.json_file import read_json, write_json
from vmt.data.degrade import degrade_tube
from vmt.utils.errors import AnnotationError, OutputError, scoring_errors

BoolArray = npt.NDArray[np.bool_]
_Change = Callable[[BoolArray], BoolArray]


def degrade_file(
    source: Path,
    target: Path,
    kind: str,
    seed: int = 0,
    *,
    coherent: bool = False,
    amount: int | None = None,
) -> dict[str, int]:
    """Write an annotation file with coarse masks; everything but masks, boxes, areas is kept.

    The draws of an annotation depend on the seed and its id, not on what else is in the file.

    Args:
        source: YouTube-VIS JSON (``segmentations`` per frame) or COCO JSON (``segmentation``).
        target: appears whole or not at all.
        kind: one of ``KINDS``.
        seed: of the draws.
        coherent: see ``degrade_tube``.
        amount: see ``degrade_tube``.

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
        change = partial(degrade_tube, kind=kind, rng=rng, coherent=coherent, amount=amount)
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
