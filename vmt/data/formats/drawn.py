"""Objects that people drew in a tool, frame by frame, as a data set with classes from labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cocoapi_hq.io import rle
from cocoapi_hq.io.listing import natural_key
from vmt.data.images import picture_size
from vmt.data.listing import list_frames
from vmt.data.mask_files.base import Size, checked_mask, idle_note, idle_rings, list_few
from vmt.data.mask_files.polygons import IGNORED
from vmt.data.records import Tracklet, VideoList, VideoRecord
from vmt.utils.errors import AnnotationError


@dataclass(frozen=True)
class MemoryAnnotations:
    """Tracklets that are read already, with a mask or None for every frame."""

    tracklets: tuple[Tracklet, ...]

    def load(self, frames: Sequence[int] | None = None) -> list[Tracklet]:
        """The tracklets, with masks of the asked frames."""
        if frames is None:
            return list(self.tracklets)
        return [
            Tracklet(x.id, x.category_id, tuple(x.masks[t] for t in frames), x.where)
            for x in self.tracklets
        ]


@dataclass(frozen=True)
class Source:
    """What a file or folder of another format holds.

    Args:
        data: its videos.
        notes: what was left out or assumed, one sentence each.
    """

    data: VideoList
    notes: Sequence[str] = ()


@dataclass
class DrawnVideo:
    """One video, while it is read.

    Args:
        name: of the video.
        files: its frames, in order.
        size: (h, w) of every frame in pixels.
        annotated: frames that somebody looked at; the others are no part of the video.
        labels: object -> its label.
        masks: object -> frame -> mask.
    """

    name: str
    files: Sequence[Path]
    size: Size
    annotated: set[int] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    masks: dict[str, dict[int, rle.Rle]] = field(default_factory=dict)

    def add(self, key: str, label: str, frame: int, mask: rle.Rle) -> None:
        """Another piece of an object in a frame."""
        self.labels[key] = label
        frames = self.masks.setdefault(key, {})
        frames[frame] = rle.union([frames[frame], mask]) if frame in frames else mask

    def add_by_order(self, frame: int, shapes: Sequence[tuple[str, object, rle.Rle]]) -> None:
        """The shapes of a frame, each a label, a group or None, and a mask.

        Shapes of one label and one group are one object; of shapes without a group, the k-th of a
        label is the same object in every frame.
        """
        alone: Counter[str] = Counter()
        for label, group, mask in shapes:
            key = f"{label} (group {group})"
            if group is None:
                alone[label] += 1
                key = label if alone[label] == 1 else f"{label} #{alone[label]}"
            self.add(key, label, frame, mask)


def open_video(images: Path, names: Sequence[str]) -> tuple[Path, DrawnVideo]:
    """The frames of a video: of a folder of one of these names below ``images``, or ``images``.

    Returns:
        The folder, and its video, in which nothing is drawn yet.

    Raises:
        VideoError: there is none.
    """
    folder = next((images / name for name in names if name and (images / name).is_dir()), images)
    files = list(list_frames(folder).values())
    return folder, DrawnVideo(folder.name, files, picture_size(files[0]))


class Drawings:
    """Collects shapes that are drawn as rings; counts those that are no objects."""

    def __init__(self) -> None:
        self._idle: list[str] = []
        self._ignored: Counter[str] = Counter()
        self._others: Counter[str] = Counter()

    def other(self, kind: str) -> None:
        """A shape of a kind that is no mask."""
        self._others[kind] += 1

    def is_object(self, label: str) -> bool:
        """Whether a label names an object; counts it if not."""
        if label.strip().lower() in IGNORED:
            self._ignored[label] += 1
            return False
        return True

    def ring(self, points: Sequence[Any], where: str, size: Size) -> rle.Rle | None:
        """Mask of a ring x0, y0, x1, y1, ...; None if it encloses nothing."""
        if idle_rings([points], where):
            self._idle.append(where)
            return None
        return checked_mask([points], where, size)

    def notes(self) -> list[str]:
        """What was left out."""
        notes = []
        if self._others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._others.items()))
            notes.append(f"shapes that are no masks are left out: {kinds}.")
        if self._ignored:
            labels = ", ".join(f"{count} {name}" for name, count in sorted(self._ignored.items()))
            notes.append(f"shapes whose label means no object are left out: {labels}.")
        if self._idle:
            notes.append(idle_note(self._idle))
        return notes


def to_source(
    path: Path,
    image_root: Path,
    videos: Sequence[DrawnVideo],
    *,
    classes: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Source:
    """Videos as a data set; frames that nobody annotated are left out, which is said.

    In training, a frame without a mask says that the object is not there.

    Args:
        path: of the annotations.
        image_root: folder that file names start from.
        videos: at least one.
        classes: names in the order of their ids; those that are missing follow by name.
        notes: of the reader.

    Raises:
        AnnotationError: there is no object.
    """
    used = {label for video in videos for label in video.labels.values()}
    if not used:
        why = " ".join(notes)
        raise AnnotationError(f"{path}: holds no object with a mask. {why}".rstrip())
    names = [*dict.fromkeys(classes), *sorted(used - set(classes), key=natural_key)]
    ids = {name: key for key, name in enumerate(names, start=1)}
    records = [
        _record(video, number, ids, image_root, path)
        for number, video in enumerate(videos, start=1)
        if video.annotated
    ]
    said = list(notes)
    left = [video for video in videos if len(video.annotated) < len(video.files)]
    if left:
        count = sum(len(video.files) - len(video.annotated) for video in left)
        total = sum(len(video.files) for video in videos)
        which = list_few([video.name for video in left], 3)
        said.append(
            f"{count} of {total} frames are not annotated and are no part of the videos ({which}); "
            "in a video that is annotated, no mask means no object."
        )
    return Source(VideoList(path.name, {key: name for name, key in ids.items()}, records), said)


def _record(
    video: DrawnVideo, number: int, ids: Mapping[str, int], image_root: Path, path: Path
) -> VideoRecord:
    frames = sorted(video.annotated)
    tracklets = [
        Tracklet(
            id=k,
            category_id=ids[video.labels[key]],
            masks=tuple(masks.get(t) for t in frames),
            where=f"{path}: video {video.name}, {key}",
        )
        for k, (key, masks) in enumerate(video.masks.items(), start=1)
    ]
    return VideoRecord(
        id=number,
        name=video.name,
        image_root=image_root,
        file_names=tuple(video.files[t].relative_to(image_root).as_posix() for t in frames),
        height=video.size[0],
        width=video.size[1],
        annotations=MemoryAnnotations(tuple(tracklets)),
        dataset=path.name,
    )


def order_note(videos: Sequence[DrawnVideo], how: str) -> list[str]:
    """What to say where objects of one label are told apart by their order."""
    several = sorted({v.labels[key] for v in videos for key in v.masks if " #" in key})
    if not several:
        return []
    return [
        f"some frames show several shapes {list_few(several, 3)}: the k-th of a frame is taken for "
        f"the same object throughout; {how}."
    ]
