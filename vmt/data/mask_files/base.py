"""What a file or folder of masks is to whoever changes the masks in it.

A mask file holds videos; a video, once its frames are known, gives the masks of one frame after
the other. Changes go to disk as they are made (``vmt.apps.refine.videos``), and ``rewrite``
puts them into a copy of the file in which nothing else differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
        key: finds it again when the file is rewritten.
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
        tracklet: of the video, by its place.
        area: of the mask before, in pixels.
        changed_px: pixels that differ.
        confidence: mean over the pixels that were looked at, in [0.5, 1].
        rejected: a new mask was found and thrown away.
        counts: run lengths of the new mask; None when it is the old one.
    """

    tracklet: int
    area: int
    changed_px: int
    confidence: float
    rejected: bool
    counts: str | None


@dataclass(frozen=True)
class FrameChanges:
    """What became of the masks of one frame.

    Args:
        frame: index in the video.
        name: of the frame: its file's, or its index.
        size: (h, w) in pixels.
        changes: one per mask that the frame has.
    """

    frame: int
    name: str
    size: Size
    changes: Sequence[Change]

    def mask(self, change: Change) -> BoolArray | None:
        """(H, W) of the new mask; None when it is the old one."""
        if change.counts is None:
            return None
        return rle.decode({"size": list(self.size), "counts": change.counts})


class VideoMasks(Protocol):
    """The masks of one video; what they take in memory does not grow with its frames' size."""

    @property
    def tracklets(self) -> Sequence[TrackletName]:
        """N objects."""
        ...

    @property
    def frames(self) -> Sequence[int]:
        """Indices of the frames that hold masks, ascending."""
        ...

    @property
    def length(self) -> int | None:
        """Frames that the video must have; None when any number will do."""
        ...

    @property
    def note(self) -> str:
        """What a person should know, in one sentence; may be empty."""
        ...

    def name(self, frame: int) -> str:
        """What the mask file calls a frame that holds masks."""
        ...

    def at(self, frame: int) -> BoolArray:
        """(N, H, W); all False where an object is absent or must not be touched."""
        ...


class MaskVideo(Protocol):
    """A video of a mask file, before its frames are known."""

    @property
    def key(self) -> str:
        """Unique in the file, and fit for a file name."""
        ...

    @property
    def label(self) -> str:
        """For people."""
        ...

    @property
    def file_names(self) -> tuple[str, ...] | None:
        """Its frames, relative to the folder of images; None when the file does not list them."""
        ...

    @property
    def folder(self) -> str:
        """Where its frames are when the file does not list them: a name below that folder."""
        ...

    def stamp(self) -> str:
        """Differs when the masks on disk differ."""
        ...

    def load(self, frames: FrameSet) -> VideoMasks:
        """Read what pairs masks with frames.

        Raises:
            AnnotationError: the masks break their format, or do not belong to these frames.
        """
        ...


#: Finds what became of a video, from its start each time; None for videos that stay as they are.
FindChanges = Callable[[str], "VideoChanges | None"]


class VideoChanges(Protocol):
    """What became of the masks of one video."""

    @property
    def tracklets(self) -> Sequence[TrackletName]:
        """The video's."""
        ...

    def __iter__(self) -> Iterator[FrameChanges]:
        """Frames that hold masks, in order."""
        ...


class MaskFile(Protocol):
    """A file or folder of masks."""

    @property
    def path(self) -> Path:
        """Of the file or folder."""
        ...

    @property
    def form(self) -> str:
        """What it is, for people."""
        ...

    @property
    def noun(self) -> str:
        """What its videos are called: ``video`` or ``image``."""
        ...

    @property
    def note(self) -> str:
        """What a person should know before any video is read; may be empty."""
        ...

    @property
    def videos(self) -> Sequence[MaskVideo]:
        """At least one."""
        ...

    def rewrite(self, find: FindChanges) -> Iterator[tuple[str, Iterable[bytes]]]:
        """The file with other masks.

        Args:
            find: key of a video -> its changes.

        Yields:
            Path relative to the output ("" when that is a file) and its content in pieces.
        """
        ...


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


def size_text(size: Sequence[int]) -> str:
    """(h, w) as people write it: width x height."""
    return f"{size[1]}x{size[0]}"


def list_few(names: Sequence[str], most: int = 8) -> str:
    """Names for a message; beyond ``most`` they are counted."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
