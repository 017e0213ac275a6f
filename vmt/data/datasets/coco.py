"""COCO JSON to records: one still image each, of which training makes pseudo clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import is_int, short
from cocoapi_hq.io.json_file import read_json
from vmt.data.datasets.categories import category_names
from vmt.data.records import PackedList, Tracklet, VideoRecord
from vmt.utils.errors import AnnotationError, scoring_errors

#: Corrected masks in the released COCO file; "segmentation" where absent.
REFINED_KEY = "segmentation_refined"
#: Of an image: ids of categories of which objects may lack an annotation, as
#: LVIS (arXiv:1908.03195) calls them.
UNLABELLED_KEY = "not_exhaustive_category_ids"


@dataclass(frozen=True)
class StillAnnotations:
    """The objects of one image.

    Args:
        rows: [annotation id, category id, mask, place in the file] each.
        where: the file, for messages.
    """

    rows: Sequence[Any]
    where: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.where)

    def load(self, frames: Sequence[int] | None = None) -> list[Tracklet]:
        """The tracklets of the image, with the same mask for every asked frame."""
        count = 1 if frames is None else len(frames)
        return [
            Tracklet(key, category, (mask,) * count, f"{self.where}: annotations[{place}]")
            for key, category, mask, place in self.rows
        ]


class CocoImages:
    """An image data set as a sequence of records, made when asked for.

    Args:
        name: in the config.
        path: of the JSON, for messages.
        image_root: folder of the images.
        categories: category id -> name.
        images: [id, file name, height, width, unlabelled categories] each.
        objects: rows of :class:`StillAnnotations` for each image.
        empty: images without an object, like ``images``; no training sees them.
        boxes_only: their masks are filled boxes.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        image_root: Path,
        categories: Mapping[int, str],
        images: PackedList,
        objects: PackedList,
        empty: PackedList | None = None,
        *,
        boxes_only: bool = False,
    ) -> None:
        self.name = name
        self.categories = dict(categories)
        self._path = path
        self._image_root = image_root
        self._images = images
        self._objects = objects
        self._boxes_only = boxes_only
        self._empty = empty

    def with_empty(self) -> CocoImages:
        """The images with objects, then those without: what an evaluation runs over."""
        if self._empty is None:
            return self
        without = _rows(self._empty)
        return CocoImages(
            self.name,
            self._path,
            self._image_root,
            self.categories,
            PackedList([*_rows(self._images), *without]),
            PackedList([*_rows(self._objects), *([] for _ in without)]),
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> VideoRecord:
        key, file_name, height, width, unlabelled = self._images[index]
        return VideoRecord(
            id=key,
            name=Path(file_name).stem,
            image_root=self._image_root,
            file_names=(file_name,),
            height=height,
            width=width,
            annotations=StillAnnotations(self._objects[index], str(self._path)),
            dataset=self.name,
            still=True,
            boxes_only=self._boxes_only,
            unlabelled=tuple(unlabelled),
        )

    def num_frames(self) -> Sequence[int]:
        """1 for every image."""
        return [1] * len(self)


def _rows(packed: PackedList) -> list[Any]:
    return [packed[k] for k in range(len(packed))]


def load_coco_json(
    path: Path, image_root: Path, name: str, mask_key: str = REFINED_KEY
) -> CocoImages:
    """Read a COCO instance file; images without an object are left out, crowds too.

    Args:
        path: the JSON.
        image_root: folder of the images.
        name: of the data set.
        mask_key: mask to use; where an annotation lacks it, ``segmentation``.

    Returns:
        One still record per image.

    Raises:
        AnnotationError: the file is missing, is no such JSON, or an entry breaks the format.
    """
    content = read_coco(path)
    images = _images(content["images"], path)
    objects = _objects(content["annotations"], images, path, mask_key)
    categories = category_names(content["categories"])
    if not objects:
        raise AnnotationError(f"{path}: no image has an object with a mask.")
    kept = [key for key in images if key in objects]
    return CocoImages(
        name,
        path,
        image_root,
        categories,
        PackedList(images[key] for key in kept),
        PackedList(objects[key] for key in kept),
        PackedList(row for key, row in images.items() if key not in objects),
    )


def read_coco(path: Path) -> dict[str, Any]:
    """A JSON file with the lists images, annotations and categories.

    Raises:
        AnnotationError: the file is missing, or is no such JSON.
    """
    with scoring_errors():
        content = read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise AnnotationError(f"{path}: has no list {key!r}; it is no COCO instance file.")
    return dict(content)


def _images(rows: Sequence[Any], path: Path) -> dict[int, list[Any]]:
    images: dict[int, list[Any]] = {}
    for place, row in enumerate(rows):
        where = f"{path}: images[{place}]"
        if not isinstance(row, dict) or not is_int(row.get("id")):
            raise AnnotationError(f"{where} is {short(row)}; give an object with an id.")
        if row["id"] in images:
            raise AnnotationError(f"{where}.id {row['id']} stands twice.")
        for side in ("height", "width"):
            if not is_int(row.get(side)) or row[side] < 1:
                raise AnnotationError(f"{where}.{side} is {short(row.get(side))}; give pixels.")
        if not isinstance(row.get("file_name"), str):
            raise AnnotationError(f"{where}.file_name is {short(row.get('file_name'))}.")
        unlabelled = row.get(UNLABELLED_KEY, [])
        if not isinstance(unlabelled, list) or not all(map(is_int, unlabelled)):
            raise AnnotationError(
                f"{where}.{UNLABELLED_KEY} is {short(unlabelled)}; give a list of category ids."
            )
        sides = [row["height"], row["width"]]
        images[row["id"]] = [row["id"], row["file_name"], *sides, unlabelled]
    return images


def _objects(
    rows: Sequence[Any], images: Mapping[int, Any], path: Path, mask_key: str
) -> dict[int, list[list[Any]]]:
    """Image id -> rows of :class:`StillAnnotations`."""
    objects: dict[int, list[list[Any]]] = {}
    for place, row in enumerate(rows):
        where = f"{path}: annotations[{place}]"
        if not isinstance(row, dict):
            raise AnnotationError(f"{where} is {short(row)}; give an object.")
        if row.get("iscrowd"):
            continue
        image_id, category_id = row.get("image_id"), row.get("category_id")
        if not is_int(image_id) or image_id not in images:
            raise AnnotationError(f"{where}.image_id is {short(image_id)}; no such image.")
        if not is_int(category_id):
            raise AnnotationError(f"{where}.category_id is {short(category_id)}; give an id.")
        mask = row.get(mask_key)
        if rle.is_absent(mask):
            mask = row.get("segmentation")
        if not rle.is_absent(mask):
            objects.setdefault(image_id, []).append([row.get("id", -1), category_id, mask, place])
    return objects
