"""Annotations of many categories and many hands as one set of four families.

Persons, animals, vehicles and other things: few enough to be learnt from a thousand photos. Files
differ in what their annotators labelled; of each photo the result says which families may be in it
without a label, so that nothing unlabelled is taught, or scored, as background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cocoapi_hq.io import rle
from vmt.data.datasets.categories import label_space
from vmt.data.datasets.coco import UNLABELLED_KEY, read_coco
from vmt.data.images import read_frame
from vmt.data.transforms import size_of_short_side
from vmt.utils.atomic import make_folder
from vmt.utils.errors import AnnotationError, OutputError, scoring_errors

SPACE = label_space("families")
#: COCO's supercategory -> family; all others are other things.
_OF_SUPERCATEGORY = {"person": "person", "animal": "animal", "vehicle": "vehicle"}
_OTHER = "other thing"
#: Of an image: ids of the categories that are labelled there, or "all", which a file without it
#: means too.
LABELLED_KEY = "annotated_categories"
#: Of rewritten photos.
JPEG_QUALITY = 80


def family_ids(categories: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Category id -> category id of its family, by COCO's supercategories."""
    names = dict(zip(SPACE.names, SPACE.category_ids, strict=True))
    return {
        int(row["id"]): names[_OF_SUPERCATEGORY.get(str(row.get("supercategory")), _OTHER)]
        for row in categories
    }


def unlabelled_families(content: Mapping[str, Any]) -> dict[int, list[int]]:
    """Image id -> families of which it may show objects without a label.

    A family is labelled where it has categories, all of them are, and no crowd is of one of them.

    Args:
        content: of a COCO file; images may have ``annotated_categories``.
    """
    family = family_ids(content["categories"])
    open_: dict[int, set[int]] = {}
    for image in content["images"]:
        labelled = image.get(LABELLED_KEY, "all")
        known = set(family) if labelled == "all" else set(labelled)
        absent = set(SPACE.category_ids) - set(family.values())
        open_[image["id"]] = absent | {own for key, own in family.items() if key not in known}
    for row in content["annotations"]:
        if row.get("iscrowd"):
            open_[row["image_id"]].add(family[row["category_id"]])
    return {key: sorted(families) for key, families in open_.items()}


def join_families(
    sources: Iterable[tuple[Path, Path]], folder: Path, short_side: int
) -> dict[str, Any]:
    """Copy the photos of COCO files to one folder, no larger than needed, and join their objects.

    Args:
        sources: annotations and folder of photos of each file.
        folder: of the copies; those that are there are kept.
        short_side: bound of the copies' short side, in pixels.

    Returns:
        Content of a COCO file, images in the order of the sources and of their ids. Images and
        annotations have new ids; crowds are left out.

    Raises:
        AnnotationError: a file is no COCO file, or a mask is broken.
        VideoError: a photo cannot be read.
        OutputError: a copy cannot be written.
    """
    names = zip(SPACE.category_ids, SPACE.names, strict=True)
    joined: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": key, "name": name} for key, name in names],
    }
    make_folder(folder)
    for number, (path, photos) in enumerate(sources):
        content = read_coco(path)
        family = family_ids(content["categories"])
        objects: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in content["images"]}
        for place, row in enumerate(content["annotations"]):
            if row["image_id"] not in objects:
                raise AnnotationError(
                    f"{path}: annotations[{place}].image_id is {row['image_id']}; no such image."
                )
            if not row.get("iscrowd"):
                objects[row["image_id"]].append(row)
        unlabelled = unlabelled_families(content)
        for image in sorted(content["images"], key=lambda row: int(row["id"])):
            size = (image["height"], image["width"])
            target = size_of_short_side(size, min(short_side, *size))
            name = f"{number}_{Path(image['file_name']).stem}.jpg"
            _copy(photos / image["file_name"], size, folder / name, target)
            image_id = len(joined["images"]) + 1
            joined["images"].append(
                {
                    "id": image_id,
                    "file_name": name,
                    "height": target[0],
                    "width": target[1],
                    UNLABELLED_KEY: unlabelled[image["id"]],
                }
            )
            for row in objects[image["id"]]:
                mask = scaled(row["segmentation"], size, target, f"{path}: annotation {row['id']}")
                joined["annotations"].append(
                    {
                        "id": len(joined["annotations"]) + 1,
                        "image_id": image_id,
                        "category_id": family[row["category_id"]],
                        "iscrowd": 0,
                        "segmentation": mask,
                    }
                )
    return joined


def scaled(mask: Any, size: tuple[int, int], target: tuple[int, int], where: str) -> Any:
    """A mask of a photo in its copy: rings stay rings, runs stay runs.

    Args:
        mask: rings or run lengths.
        size: (h, w) of the photo in pixels.
        target: (h, w) of the copy.
        where: for messages.
    """
    if isinstance(mask, list):
        factors = (target[1] / size[1], target[0] / size[0])
        return [[round(value * factors[k % 2], 2) for k, value in enumerate(ring)] for ring in mask]
    with scoring_errors():
        dense = rle.decode(rle.validate(mask, where, size))
    share = cv2.resize(
        dense.astype(np.float32), (target[1], target[0]), interpolation=cv2.INTER_AREA
    )
    return rle.encode(share >= 0.5)


def _copy(photo: Path, size: tuple[int, int], copy: Path, target: tuple[int, int]) -> None:
    """Write a photo at (h, w) ``target`` as JPEG, unless it is there."""
    if copy.exists():
        return
    pixels = read_frame(photo, size)
    if target != size:
        pixels = cv2.resize(pixels, (target[1], target[0]), interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    scratch = copy.with_suffix(".part.jpg")  # a call that is interrupted leaves no half photo
    if not cv2.imwrite(str(scratch), pixels[..., ::-1], quality):
        raise OutputError(f"{copy}: cannot be written.")
    scratch.replace(copy)


def part_of(
    content: Mapping[str, Any], wanted: Callable[[Mapping[str, Any]], bool]
) -> dict[str, Any]:
    """A COCO file of some of the images.

    Args:
        content: of the file.
        wanted: asked of every entry of ``images``.
    """
    images = [row for row in content["images"] if wanted(row)]
    ids = {row["id"] for row in images}
    rows = [row for row in content["annotations"] if row["image_id"] in ids]
    return {**content, "images": images, "annotations": rows}
