"""From a name in the config to a data set: a row of ``splits``, or ``my.json@path/to/images``."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cocoapi_hq.io.json_file import read_json
from cocoapi_hq.io.listing import list_files, list_folders
from vmt.data.datasets.boxes import load_boxes
from vmt.data.datasets.coco import load_coco_json
from vmt.data.datasets.folders import load_png_folders
from vmt.data.datasets.mots import load_mots
from vmt.data.datasets.splits import SPLITS, VideoSplit
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.formats.cvat import SUFFIXES as CVAT_SUFFIXES
from vmt.data.formats.foreign import foreign_tool
from vmt.data.label_maps import is_bitmask
from vmt.data.labels import lists_frames
from vmt.data.mask_files.open import MaskOptions, open_mask_folder
from vmt.data.mask_files.polygons import polygon_files
from vmt.data.records import VideoDataset
from vmt.utils.errors import AnnotationError, ConfigError, scoring_errors

#: Format without masks.
BOXES = "boxes"
#: Reader of each format: (annotations, images, name, mask key) -> data set.
READERS: dict[str, Callable[[Path, Path, str, str], VideoDataset]] = {
    "ytvis": load_ytvis_json,
    "coco": load_coco_json,
    "mots": load_mots,
    "png": load_png_folders,
    BOXES: load_boxes,
}
_ROWS = {split.name: split for split in SPLITS}
#: Name -> reader of a data set that no row and no path stands for, see ``register_dataset``.
_REGISTERED: dict[str, Callable[[str, str], VideoDataset]] = {}
#: Corrected masks where a file has them [R].
_REFINED = {"ytvis": "segmentations_refined", "coco": "segmentation_refined"}


@dataclass(frozen=True)
class Located:
    """Where a data set lies.

    Args:
        name: reference in the config.
        annotations: file or folder.
        images: folder of frames.
        format: key of ``READERS``.
        mask_key: key of the masks.
        split: the row, or None for a path.
    """

    name: str
    annotations: Path
    images: Path
    format: str
    mask_key: str
    split: VideoSplit | None = None

    def load(self, mask_key: str = "") -> VideoDataset:
        """Read it; ``mask_key`` replaces the row's unless empty."""
        return READERS[self.format](
            self.annotations, self.images, self.name, mask_key or self.mask_key
        )

    def digest(self) -> str:
        """Changes with the annotations: of the bytes of a file, of names and sizes in a folder."""
        digest = hashlib.sha256()
        if self.annotations.is_file():
            with self.annotations.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            return digest.hexdigest()
        files = sorted(path for path in self.annotations.rglob("*") if path.is_file())
        for path in files:
            digest.update(f"{path.relative_to(self.annotations)} {path.stat().st_size}\n".encode())
        return digest.hexdigest()


def data_root(configured: str = "") -> Path:
    """Folder of the data sets: the configured one, ``$DETECTRON2_DATASETS``, or ./datasets."""
    return Path(configured or os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def locate(reference: str, root: str = "") -> Located:
    """Find the files of a data set.

    Args:
        reference: a name, or ``annotations@images`` with a JSON file or a folder of label maps.
        root: ``DATASETS.ROOT``.

    Raises:
        ConfigError: unknown name, or files that are not there, with every place looked at.
        AnnotationError: the JSON of a path is of no known kind.
    """
    if "@" in reference:
        return _locate_path(reference)
    if reference not in _ROWS:
        close = difflib.get_close_matches(reference, _ROWS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"unknown data set {reference!r}; {hint}For your own give path/to.json@path/to/images. "
            f"Known: {', '.join(_ROWS)}."
        )
    return locate_split(_ROWS[reference], root)


def has_boxes_only(reference: str) -> bool:
    """Whether the masks of a data set are filled boxes; it need not be there."""
    return reference in _ROWS and _ROWS[reference].format == BOXES


def locate_split(split: VideoSplit, root: str = "") -> Located:
    """Find the files of a row; ConfigError names every place looked at when they are not there."""
    folder = data_root(root)
    found = {}
    for what, places in (("annotations", split.annotations), ("images", split.images)):
        there = [folder / place for place in places if (folder / place).exists()]
        if not there:
            raise ConfigError(
                f"data set {split.name}: no {what} under {folder.absolute()}; looked for "
                f"{', '.join(places)}. Set DETECTRON2_DATASETS or DATASETS.ROOT; "
                f"datasets/README.md shows the tree. Source: {split.source}."
            )
        found[what] = there[0]
    return Located(
        split.name, found["annotations"], found["images"], split.format, split.mask_key, split
    )


def _locate_path(reference: str) -> Located:
    left, _, right = reference.rpartition("@")
    if not left or not right:
        raise ConfigError(f"data set {reference!r}: give path/to.json@path/to/images.")
    annotations, images = Path(left).expanduser(), Path(right).expanduser()
    if not annotations.exists():
        raise ConfigError(f"data set {reference!r}: {annotations} does not exist.")
    if not images.is_dir():
        raise ConfigError(f"data set {reference!r}: {images} is no folder of images.")
    kind = sniff_format(annotations)
    return Located(reference, annotations, images, kind, _REFINED.get(kind, ""))


def sniff_format(path: Path) -> str:
    """Which reader a file or folder needs.

    Returns:
        A key of ``READERS``.

    Raises:
        AnnotationError: no known kind; a file that ``vmt convert-annotations`` can turn into one
            is named as such.
    """
    if path.suffix.lower() in CVAT_SUFFIXES:
        raise AnnotationError(
            f"{path}: is no JSON; if it is a CVAT export, {_CONVERT.format(path)}."
        )
    if path.is_dir():
        return _sniff_folder(path)
    return "ytvis" if lists_frames(path) else _sniff_json(path)


_CONVERT = "turn it into YouTube-VIS JSON with vmt convert-annotations {}"


def _sniff_folder(path: Path) -> str:
    if any(polygon_files(folder) for folder in (path, *list_folders(path))):
        raise AnnotationError(f"{path}: holds labelme files; {_CONVERT.format(path)}.")
    if list_files(path, (".json",)):
        return "mots"
    pictures = [list_files(folder, (".png",)) for folder in list_folders(path)]
    first = next((files[0] for files in pictures if files), None)
    if first is not None and is_bitmask(first):
        return "mots"
    open_mask_folder(path, MaskOptions())  # says what is wrong where it is none
    return "png"


def _sniff_json(path: Path) -> str:
    with scoring_errors():
        content = read_json(path)
    foreign = foreign_tool(content)
    if foreign:
        raise AnnotationError(f"{path}: cannot be read as it is. {foreign}")
    if isinstance(content, list) or (isinstance(content, dict) and "frames" in content):
        return "mots"
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        if any(isinstance(row, dict) and "video_id" in row for row in content["images"]):
            raise AnnotationError(
                f"{path}: is COCO with a video_id per image; {_CONVERT.format(path)}."
            )
        return "coco"
    if isinstance(content, dict) and "videos" in content:
        return "ytvis"
    raise AnnotationError(
        f"{path}: is neither YouTube-VIS JSON (videos), COCO (images) nor Scalabel (frames)."
    )


def register_dataset(name: str, load: Callable[[str, str], VideoDataset]) -> None:
    """Let ``DATASETS.TRAIN`` and ``TEST`` name a data set that some other code reads.

    Args:
        name: goes before rows of ``splits`` and those of before.
        load: called with ``DATASETS.ROOT`` and ``MASK_KEY`` whenever the set is asked for.
    """
    _REGISTERED[name] = load


def is_registered(name: str) -> bool:
    """Whether ``register_dataset`` knows a name."""
    return name in _REGISTERED


def load_dataset(reference: str, root: str = "", mask_key: str = "") -> VideoDataset:
    """Find and read a data set; see :func:`locate`.

    Args:
        reference: a registered name, a name or ``annotations@images``.
        root: ``DATASETS.ROOT``.
        mask_key: ``DATASETS.MASK_KEY``; empty: as the row says.
    """
    if reference in _REGISTERED:
        return _REGISTERED[reference](root, mask_key)
    return locate(reference, root).load(mask_key)
