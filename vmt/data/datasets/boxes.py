"""Scalabel JSON of boxes to records: the detection set of BDD100K, one still image each.

A mask of these records is a filled box, and the record says so; networks that learn masks are
refused such data sets (``vmt.engine.switches``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cocoapi_hq.io.fields import is_finite, short
from cocoapi_hq.io.json_file import read_json
from cocoapi_hq.mots.mots_config import BDD100K_MOTS
from vmt.data.datasets.coco import CocoImages
from vmt.data.images import read_frame
from vmt.data.records import PackedList
from vmt.utils.errors import AnnotationError, scoring_errors

#: Those of MOTS and two more; aliases and distractors are the same.
BDD100K_DET = replace(
    BDD100K_MOTS, classes=(*BDD100K_MOTS.classes, "traffic light", "traffic sign")
)
_SIDES = ("x1", "y1", "x2", "y2")


def load_boxes(path: Path, image_root: Path, name: str, mask_key: str = "") -> CocoImages:
    """Read Detection 2020 labels of BDD100K.

    Crowds, distractors such as "other vehicle" and labels without a box are left out, and then
    images without a label. All images have the size of the first, as those of BDD100K do; the
    loader refuses another.

    Args:
        path: the JSON: a list of frames, or ``{"frames": [...]}``.
        image_root: folder of the images.
        name: of the data set.
        mask_key: unused; readers share their signature.

    Returns:
        One still record per image, ids from 1 in the order of the file.

    Raises:
        AnnotationError: the file is missing, is no such JSON, or a label breaks the format.
        VideoError: the first image cannot be read.
    """
    del mask_key
    with scoring_errors():
        content = read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list):
        raise AnnotationError(f"{path}: is no list of Scalabel frames.")
    images: list[list[Any]] = []
    objects: list[list[Any]] = []
    for place, frame in enumerate(frames):
        where = f"{path}: [{place}]"
        if not isinstance(frame, dict) or not isinstance(frame.get("name"), str):
            raise AnnotationError(f"{where} is {short(frame)}; give an object with a name.")
        if rows := _rows(frame.get("labels"), where):
            images.append([place + 1, frame["name"]])
            objects.append(rows)
    if not images:
        raise AnnotationError(f"{path}: no image has a label with a box (box2d).")
    height, width = read_frame(image_root / images[0][1]).shape[:2]
    sizes = ([*image, int(height), int(width), []] for image in images)
    names = dict(enumerate(BDD100K_DET.classes, start=1))
    return CocoImages(
        name, path, image_root, names, PackedList(sizes), PackedList(objects), boxes_only=True
    )


def _rows(labels: Any, where: str) -> list[list[Any]]:
    """[number, category id, rings, number] of what is to be learnt."""
    if labels is not None and not isinstance(labels, list):
        raise AnnotationError(f"{where}.labels is {short(labels)}; give a list of labels, or null.")
    rows = []
    for number, label in enumerate(labels or ()):
        place = f"{where}.labels[{number}]"
        if not isinstance(label, dict):
            raise AnnotationError(f"{place} is {short(label)}; give a label object.")
        if label.get("box2d") is None:
            continue
        found = BDD100K_DET.resolve(str(label.get("category")))
        if found is None:
            raise AnnotationError(
                f"{place}.category is {short(label.get('category'))}; the detection set has "
                f"{', '.join(BDD100K_DET.classes)}."
            )
        attributes = label.get("attributes") or {}
        if not found[1] and not attributes.get("crowd") and not attributes.get("ignored"):
            rows.append([number, found[0] + 1, _ring(label["box2d"], f"{place}.box2d"), number])
    return rows


def _ring(box: Any, where: str) -> list[list[float]]:
    """A polygon around a box, whose corners are pixels that belong to it."""
    sides: list[Any] = [box.get(key) for key in _SIDES] if isinstance(box, dict) else []
    if len(sides) != 4 or not all(is_finite(side) for side in sides):
        raise AnnotationError(f"{where} is {short(box)}; give finite x1, y1, x2, y2 in pixels.")
    x1, y1, x2, y2 = (float(side) for side in sides)
    if x2 < x1 or y2 < y1:
        raise AnnotationError(f"{where} is {short(box)}; x2 and y2 must not be below x1 and y1.")
    x2, y2 = x2 + 1, y2 + 1
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]
