"""What a file or folder of masks is to whoever changes the masks in it.

A mask file holds videos; a video, once its frames are known, gives the masks of one frame after
the other. Changes go to disk as they are made (``vmt.apps.refine.work_folder``), and ``rewrite``
puts them into a copy of the file in which nothing else differs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from vmt.utils.errors import AnnotationError, scoring_errors

BoolArray = npt.NDArray[np.bool_]
Size = tuple[int, int]


@dataclass(frozen=True)
class FrameSet:
    """The frames of one video, as far as masks must know them.

    Args:
        where: folder or file, for messages.
        size: (h, w) in pixels.
        stems: file names without extension; None for a video file.
        count: number of frames; None where the video does not say.
        turned: the frames are stored lying on their side, and turned by EXIF or the display matrix.
    """

    where: str
    size: Size
    stems: tuple[str, ...] | None
    count: int | None
    turned: bool = False

    def explain_size(self) -> str:
        """Size of the frames for a message about masks of another one."""
        note = ", turned upright as the file notes (EXIF or display matrix)" if self.turned else ""
        return size_text(self.size) + note


@dataclass(frozen=True)
class TrackletName:
    """One object of a video.

    Args:
        key: by which it is known when the file is rewritten.
        label: for people.
        category: name of its class; "" where the reader has no use for it.
    """

    key: str
    label: str
    category: str = ""


@dataclass(frozen=True)
class Change:
    """What became of one mask.

    Args:
        frame: index in the video.
        name: of the frame: its file's, or its index.
        tracklet: of the video, by its place.
        key: of that tracklet.
        area: of the mask before, in pixels; 0 where there was none and one was propagated.
        changed_px: pixels that differ.
        confidence: mean over the pixels that were looked at, in [0.5, 1]; of a propagated mask, in
            [0, 1], see ``vmt.inference.propagation``.
        rejected: a new mask was made and thrown away; where there was none before, the object was
            not found.
        mask: the new one; None when it is the old one.
    """

    frame: int
    name: str
    tracklet: int
    key: str
    area: int
    changed_px: int
    confidence: float
    rejected: bool
    mask: rle.Rle | None

    @property
    def propagated(self) -> bool:
        """There was no mask before."""
        return self.area == 0


#: What became of the video of a key, in order of frames, from its start each time; none of videos
#: that stay as they are.
ChangesOf = Callable[[str], Iterable[Change]]


@dataclass(frozen=True)
class VideoMasks:
    """The masks of one video; what they take in memory does not grow with its frames' size.

    Args:
        tracklets: N objects.
        names: index of a frame that holds masks, ascending -> what the mask file calls it.
        at: index of a frame -> (N, H, W); all False where an object is absent or must not be
            touched.
        note: what a person should know, in one sentence; may be empty.
        length: frames that the video must have; None when any number will do.
        name_of: index of any frame -> what the mask file calls it, or would.
    """

    tracklets: Sequence[TrackletName]
    names: Mapping[int, str]
    at: Callable[[int], BoolArray]
    note: str = ""
    length: int | None = None
    name_of: Callable[[int], str] = str

    @property
    def frames(self) -> list[int]:
        """Indices of the frames that hold masks, ascending."""
        return list(self.names)


@dataclass(frozen=True)
class MaskVideo(ABC):
    """A video of a mask file, before its frames are known.

    Args:
        key: unique in the file, and fit for a file name.
        label: for people.
        folder: where its frames are when the file does not list them: a name below that of images.
        file_names: its frames, relative to the folder of images; None when no file lists them.
    """

    key: str
    label: str
    folder: str
    file_names: tuple[str, ...] | None

    @abstractmethod
    def stamp(self) -> str:
        """Differs when the masks on disk differ."""

    @abstractmethod
    def load(self, frames: FrameSet) -> VideoMasks:
        """Read what pairs masks with frames.

        Raises:
            AnnotationError: the masks break their format, or do not belong to these frames.
        """


@dataclass(frozen=True)
class MaskFile(ABC):
    """A file or folder of masks.

    Args:
        path: of the file or folder.
        form: what it is, for people.
        videos: at least one.
        noun: what its videos are called: ``video`` or ``image``.
        note: what a person should know before any video is read; may be empty.
    """

    path: Path
    form: str
    videos: Sequence[MaskVideo]
    noun: str = "video"
    note: str = ""

    @abstractmethod
    def rewrite(self, changes_of: ChangesOf) -> Iterator[tuple[str, Iterable[bytes]]]:
        """The file with other masks; what has no change is copied byte by byte.

        Yields:
            Path relative to the output ("" when that is a file) and its content in pieces.
        """


class OutsideError(AnnotationError):
    """A polygon lies outside its frame."""


def checked_mask(mask: object, where: str, size: Size | None) -> rle.Rle:
    """Any spelling of a mask as run lengths.

    Args:
        mask: run lengths, or rings if ``size`` is given.
        where: for messages.
        size: (h, w) at which rings are drawn.

    Raises:
        AnnotationError: it is none.
        OutsideError: all its rings lie outside the frame.
    """
    with scoring_errors():
        checked = rle.validate(mask, where, size)
        rings = rle.split_rings(mask, where)[0] if isinstance(mask, (list, tuple)) else []
    if size is not None and rle.all_outside(rings, size):
        raise OutsideError(
            f"{where} lies outside the frame of {size_text(size)} pixels; was it drawn on another "
            "size?"
        )
    return checked


def idle_rings(mask: object, where: str) -> list[str]:
    """Places of the rings of a mask that enclose nothing; see ``rle.split_rings``."""
    if rle.is_absent(mask) or not isinstance(mask, (list, tuple)):
        return []
    with scoring_errors():
        return [f"{where}[{k}]" for k in rle.split_rings(mask, where)[1]]


def idle_note(places: Sequence[str]) -> str:
    """What to say about rings that enclose nothing; empty without one."""
    if not places:
        return ""
    one = len(places) == 1
    return (
        f"{len(places)} ring{'' if one else 's'} of fewer than three points or without area "
        f"enclose{'s' if one else ''} nothing and {'is' if one else 'are'} left out: "
        f"{list_few(places, 3)}."
    )


def join_notes(*notes: str) -> str:
    """Sentences for people as one text; empty ones are left out."""
    return " ".join(note for note in notes if note)


def size_text(size: Sequence[int]) -> str:
    """(h, w) as people write it: width x height."""
    return f"{size[1]}x{size[0]}"


def list_few(names: Sequence[str], most: int = 8) -> str:
    """Names for a message; beyond ``most`` they are counted."""
    first = ", ".join(names[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"
