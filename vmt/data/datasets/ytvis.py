"""YouTube-VIS JSON to records: YTVIS 2019 and 2021, HQ-YTVIS, OVIS, and one's own files.

The file is scanned once for where its entries lie; the annotations of a video are parsed when a
clip of it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import is_crowd, is_int, short
from cocoapi_hq.io.json_file import read_json
from cocoapi_hq.io.ytvis_json import Entries, FileEntries, Video, group_by_video, open_ground_truth
from vmt.data.records import PackedList, Tracklet, VideoList, VideoRecord
from vmt.utils.errors import AnnotationError, scoring_errors

#: The corrected masks of HQ-YTVIS and of the released COCO file; "segmentations" where absent.
REFINED_KEY = "segmentations_refined"


def load_ytvis_json(
    path: Path, image_root: Path, name: str, mask_key: str = REFINED_KEY
) -> VideoList:
    """Read a YouTube-VIS file.

    Args:
        path: the JSON.
        image_root: folder that its ``file_names`` are relative to.
        name: of the data set.
        mask_key: list of masks to use; where an annotation lacks it, ``segmentations``.

    Returns:
        One record per video, in the order of the file. A file whose annotations are null or
        missing, as for a server, gives records without annotations.

    Raises:
        AnnotationError: the file is missing, is no such JSON, or an entry breaks the format.
    """
    with scoring_errors(path=path):
        truth = _open(path)
        rows = group_by_video(truth.annotations, truth.videos, "annotation")
        packed = None
        if not isinstance(truth.annotations, FileEntries):
            packed = PackedList(truth.annotations.load())
    annotated = len(truth.annotations) > 0
    records = []
    for video in truth.videos.values():
        height, width = _check_video(video, path)
        chosen = rows.get(video.id, [])
        annotations = None
        if annotated:
            annotations = YtvisAnnotations(
                path=path,
                rows=tuple(chosen),
                entries=packed if packed is not None else truth.annotations.subset(chosen),
                video_id=video.id,
                num_frames=len(video.file_names),
                mask_key=mask_key,
            )
        records.append(
            VideoRecord(
                id=video.id,
                name=Path(video.file_names[0]).parent.name or f"video_{video.id}",
                image_root=image_root,
                file_names=video.file_names,
                height=height,
                width=width,
                annotations=annotations,
                dataset=name,
            )
        )
    if not records:
        raise AnnotationError(f"{path}: videos is empty; there is nothing to read.")
    return VideoList(name, truth.categories, records)


def _open(path: Path) -> Any:
    """Ground truth of a file, also of one without annotations."""
    try:
        return open_ground_truth(path)
    except ScoringError:
        content = read_json(path, path.name)
        if not isinstance(content, dict) or content.get("annotations") is not None:
            raise
        return open_ground_truth(content | {"annotations": []}, path.name)


def _check_video(video: Video, path: Path) -> tuple[int, int]:
    if not video.file_names:
        raise AnnotationError(
            f"{path}: video id={video.id} has no file_names; list its frames relative to the "
            "folder of images."
        )
    if video.height is None or video.width is None:
        raise AnnotationError(
            f"{path}: video id={video.id} has no height or width; give both in pixels "
            "(vmt check-annotations --fix fills them in)."
        )
    return video.height, video.width


@dataclass(frozen=True)
class YtvisAnnotations:
    """The entries of one video.

    Args:
        path: the file, for messages.
        rows: places of the entries in the file's list.
        entries: these entries in the file, or all entries of a file that could not be scanned.
        video_id: for messages.
        num_frames: of the video.
        mask_key: see ``load_ytvis_json``.
    """

    path: Path
    rows: tuple[int, ...]
    entries: Entries | PackedList
    video_id: int
    num_frames: int
    mask_key: str

    def load(self, frames: Sequence[int] | None = None) -> list[Tracklet]:
        """Tracklets of the video, with masks of the asked frames."""
        frames = range(self.num_frames) if frames is None else frames
        found = [
            self._tracklet(entry, f"{self.path}: annotations[{row}]", frames)
            for row, entry in zip(self.rows, self._entries(), strict=True)
        ]
        return [tracklet for tracklet in found if tracklet is not None]

    def _entries(self) -> list[Any]:
        if isinstance(self.entries, PackedList):
            return [self.entries[row] for row in self.rows]
        with scoring_errors(path=self.path):
            return self.entries.load()

    def _tracklet(self, entry: Any, where: str, frames: Sequence[int]) -> Tracklet | None:
        if not isinstance(entry, dict):
            raise AnnotationError(f"{where} is {short(entry)}; give an object.")
        with scoring_errors():
            if is_crowd(entry, where):
                return None
        category_id = entry.get("category_id")
        if not is_int(category_id):
            raise AnnotationError(
                f"{where}.category_id is {short(category_id)}; give an id of categories."
            )
        key = self.mask_key if entry.get(self.mask_key) is not None else "segmentations"
        masks = entry.get(key)
        if not isinstance(masks, list):
            raise AnnotationError(
                f"{where}.{key} is {short(masks)}; give a list with one mask or null per frame."
            )
        if len(masks) != self.num_frames:
            raise AnnotationError(
                f"{where}.{key} (id={entry.get('id')}) has {len(masks)} entries, but "
                f"video_id={self.video_id} lists {self.num_frames} file_names. Give one mask or "
                "null per frame; vmt check-annotations lists every such entry."
            )
        identity = entry.get("id")
        return Tracklet(
            id=int(identity) if is_int(identity) else -1,
            category_id=int(category_id),
            masks=tuple(None if rle.is_absent(masks[t]) else masks[t] for t in frames),
            where=f"{where}.{key}",
        )
