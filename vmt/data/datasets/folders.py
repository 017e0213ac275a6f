"""Folders of PNG label maps to records, DAVIS style: one folder per video, pixel value = object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cocoapi_hq import rle
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.json_file import read_json
from cocoapi_hq.listing import list_files, list_folders
from vmt.data.io import read_labels
from vmt.data.listing import list_frames
from vmt.data.records import Tracklet, VideoList, VideoRecord
from vmt.utils.errors import AnnotationError, VideoError

#: "Not annotated" in DAVIS and YouTube-VOS maps.
VOID = 255
#: The class of objects whose class is not known.
OBJECT = {1: "object"}


def load_png_folders(
    masks: Path, image_root: Path, name: str, mask_key: str = "", *, strict: bool = True
) -> VideoList:
    """Read label maps: ``masks/<video>/<frame>.png`` beside ``image_root/<video>/<frame>.jpg``.

    Grey or palette PNG; 0 is background, 255 is not annotated, every other value one object of the
    video. ``meta.json`` of YouTube-VOS beside ``masks`` gives classes; otherwise all objects are of
    the class ``object``.

    Args:
        masks: folder of label maps.
        image_root: folder of frames.
        name: of the data set.
        mask_key: unused; readers share their signature.
        strict: every frame must have a label map; otherwise frames without one are left out.

    Returns:
        One record per sub-folder of ``masks``, in natural order, ids from 1.

    Raises:
        AnnotationError: no such folder, no sub-folder, or label maps and frames do not agree.
        VideoError: a folder of frames is missing or empty.
    """
    del mask_key
    if not masks.is_dir():
        raise AnnotationError(f"{masks}: no such folder of label maps.")
    folders = [folder for folder in list_folders(masks) if list_files(folder, (".png",))]
    if not folders:
        raise AnnotationError(
            f"{masks}: holds no sub-folder with PNG files; give one sub-folder per video."
        )
    names, classes = _classes(masks)
    records = []
    for number, folder in enumerate(folders, start=1):
        frames = list_frames(image_root / folder.name)
        maps = {path.stem: path for path in list_files(folder, (".png",))}
        _check_pairs(folder, maps, frames, strict=strict)
        kept = [stem for stem in frames if stem in maps]
        width, height = _size(maps[kept[0]])
        records.append(
            VideoRecord(
                id=number,
                name=folder.name,
                image_root=image_root,
                file_names=tuple(f"{folder.name}/{frames[stem].name}" for stem in kept),
                height=height,
                width=width,
                annotations=LabelMaps(
                    tuple(maps[stem] for stem in kept), classes.get(folder.name, {})
                ),
                dataset=name,
            )
        )
    return VideoList(name, names, records)


def _check_pairs(
    folder: Path, maps: dict[str, Path], frames: dict[str, Path], *, strict: bool
) -> None:
    lonely = sorted(set(maps) - set(frames))
    if lonely:
        raise AnnotationError(
            f"{folder / (lonely[0] + '.png')}: no frame of that name ({len(lonely)} label maps "
            "have none); label maps and frames pair by file name."
        )
    bare = sorted(set(frames) - set(maps))
    if bare and strict:
        raise AnnotationError(
            f"{folder}: {len(bare)} frames have no label map (first: {bare[0]}); add them, or "
            "convert with --sparse, which leaves these frames out."
        )


def _size(path: Path) -> tuple[int, int]:
    """(w, h) of an image from its header."""
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise VideoError(f"{path}: cannot be read as an image ({error}).") from None


def _classes(masks: Path) -> tuple[dict[int, str], dict[str, dict[int, int]]]:
    """Category names, and per video object -> category id, from YouTube-VOS's ``meta.json``."""
    path = masks.parent / "meta.json"
    if not path.is_file():
        return dict(OBJECT), {}
    try:
        content = read_json(path)
        words = {
            video: {int(k): str(row["category"]) for k, row in entry["objects"].items()}
            for video, entry in content["videos"].items()
        }
    except ScoringError as error:
        raise AnnotationError(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise AnnotationError(
            f"{path}: is not as YouTube-VOS writes it: videos > name > objects > id > category."
        ) from None
    found = sorted({word for objects in words.values() for word in objects.values()})
    ids = {word: key for key, word in enumerate(found, start=1)}
    per_video = {
        video: {k: ids[word] for k, word in objects.items()} for video, objects in words.items()
    }
    return {key: word for word, key in ids.items()} or dict(OBJECT), per_video


@dataclass(frozen=True)
class LabelMaps:
    """The label maps of one video.

    Args:
        paths: one per frame.
        category_of: object -> category id; 1 where it is missing.
    """

    paths: tuple[Path, ...]
    category_of: dict[int, int]

    def load(self, frames: Sequence[int] | None = None) -> list[Tracklet]:
        """See ``vmt.data.records.Annotations``; only objects that the asked frames show."""
        frames = range(len(self.paths)) if frames is None else frames
        maps = {t: read_labels(self.paths[t]) for t in sorted(set(frames))}
        found = sorted({int(v) for labels in maps.values() for v in np.unique(labels)} - {0, VOID})
        tracklets = []
        for value in found:
            coded = {t: rle.encode(m == value) for t, m in maps.items() if (m == value).any()}
            tracklets.append(
                Tracklet(
                    id=value,
                    category_id=self.category_of.get(value, 1),
                    masks=tuple(coded.get(t) for t in frames),
                    where=f"{self.paths[0].parent}: object {value}",
                )
            )
        return tracklets
