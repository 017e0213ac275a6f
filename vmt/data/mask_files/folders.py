"""Folders with files of masks per frame: label maps, maps of one object each, or polygons."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from cocoapi_hq.io.listing import natural_key
from vmt.data.mask_files.base import (
    BoolArray,
    FindChanges,
    FrameChanges,
    FrameSet,
    Size,
    TrackletName,
)
from vmt.data.mask_files.pairing import pair
from vmt.utils.errors import AnnotationError


@dataclass(frozen=True)
class NewMask:
    """What one object of a frame becomes.

    Args:
        mask: (H, W); None: as it is.
        confidence: see ``base.Change``.
    """

    mask: BoolArray | None
    confidence: float


class FrameCodec(Protocol):
    """How the masks of one frame stand in a file."""

    @property
    def noun(self) -> str:
        """What a file is called, for messages."""
        ...

    @property
    def note(self) -> str:
        """What the files of this video need said; may be empty."""
        ...

    def read(self, path: Path, size: Size) -> dict[str, BoolArray]:
        """Key -> (H, W) of the objects that a file shows, in order.

        Raises:
            AnnotationError: the file breaks its format, or is for another frame size.
            VideoError: an image that cannot be read.
        """
        ...

    def label(self, key: str) -> str:
        """An object's name for people."""
        ...

    def category(self, key: str) -> str:
        """The class of an object; ``object`` where none is known."""
        ...

    def rewrite(self, path: Path, new: Mapping[str, NewMask]) -> bytes:
        """The file with other masks; ``new`` has every object that the file shows."""
        ...


class MakeCodec(Protocol):
    """Looks at all files of a video and finds how to read them."""

    def __call__(self, files: Sequence[Path], size: Size) -> FrameCodec:
        """Codec for files of frames of (h, w) pixels; without files: to rewrite with."""
        ...

    def categories(self, files: Sequence[Path]) -> set[str]:
        """The classes of all objects of a video, and perhaps of others of its set."""
        ...

    def settings(self) -> str:
        """What else than the files decides how they are read."""
        ...


@dataclass(frozen=True)
class FolderVideo:
    """The files of one video; see ``base.MaskVideo``.

    Args:
        files: in natural order; one per frame that has masks, or one per object and frame.
        folder: below the source, "" when the source is the video.
        label: for people.
        make_codec: reads the files.
        first_number: see ``pairing.pair``.
    """

    files: tuple[Path, ...]
    folder: str
    label: str
    make_codec: MakeCodec
    first_number: int | None = None
    file_names: tuple[str, ...] | None = None

    @property
    def key(self) -> str:
        """See ``base.MaskVideo``."""
        return f"video_{self.folder or self.label}"

    @property
    def where(self) -> str:
        """Its folder, for messages."""
        folders = sorted({path.parent for path in self.files})
        return str(folders[0] if len(folders) == 1 else folders[0].parent)

    def refuse_frames(self, frames: Iterable[Path]) -> None:
        """Refuse masks that are the frames themselves.

        Raises:
            AnnotationError: a file is both.
        """
        own = {path.resolve() for path in self.files}
        both = next((path for path in frames if path.resolve() in own), None)
        if both is not None:
            raise AnnotationError(
                f"{both}: would be mask and frame at once; give the folder of masks and the folder "
                "of frames."
            )

    def stamp(self) -> str:
        """See ``base.MaskVideo``."""
        how = f"{self.first_number} {self.make_codec.settings()}"
        digest = hashlib.sha1(how.encode(), usedforsecurity=False)
        for path in self.files:
            name = f"{path.parent.name}/{path.name} {path.stat().st_size}\n"
            digest.update(name.encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def by_name(self) -> dict[str, list[Path]]:
        """Name of a frame's masks -> their files, in natural order."""
        found: dict[str, list[Path]] = {}
        for path in self.files:
            found.setdefault(path.stem, []).append(path)
        return {name: found[name] for name in sorted(found, key=natural_key)}

    def load(self, frames: FrameSet) -> FolderMasks:
        """See ``base.MaskVideo``."""
        files = self.by_name()
        codec = self.make_codec(self.files, frames.size)
        pairing = pair(
            {name: paths[0] for name, paths in files.items()},
            frames,
            codec.noun,
            self.first_number,
        )
        paired = {t: tuple(files[name]) for t, name in pairing.names.items()}
        shown = {
            t: [key for path in paths for key in codec.read(path, frames.size)]
            for t, paths in paired.items()
        }
        keys = sorted({key for some in shown.values() for key in some}, key=natural_key)
        notes = [pairing.note, codec.note]
        return FolderMasks(
            tracklets=[TrackletName(key, codec.label(key), codec.category(key)) for key in keys],
            frames=sorted(t for t, some in shown.items() if some),
            note=" ".join(text for text in notes if text),
            files=paired,
            size=frames.size,
            codec=codec,
        )


@dataclass(frozen=True)
class FolderMasks:
    """The masks of one video, which stay in their files; see ``base.VideoMasks``.

    Args:
        files: frame -> its files.
        size: (h, w) in pixels.
        codec: reads the files.
    """

    tracklets: Sequence[TrackletName]
    frames: Sequence[int]
    note: str
    files: Mapping[int, tuple[Path, ...]]
    size: Size
    codec: FrameCodec
    length: int | None = None

    def name(self, frame: int) -> str:
        """See ``base.VideoMasks``."""
        return self.files[frame][0].stem

    def at(self, frame: int) -> BoolArray:
        """See ``base.VideoMasks``."""
        masks = np.zeros((len(self.tracklets), *self.size), dtype=np.bool_)
        rows = {tracklet.key: n for n, tracklet in enumerate(self.tracklets)}
        for path in self.files.get(frame, ()):
            for key, mask in self.codec.read(path, self.size).items():
                masks[rows[key]] = mask
        return masks


@dataclass(frozen=True)
class FolderFile:
    """A folder of masks, or one file of a frame; see ``base.MaskFile``."""

    path: Path
    form: str
    videos: Sequence[FolderVideo]
    noun: str = "video"
    note: str = ""

    def rewrite(self, find: FindChanges) -> Iterator[tuple[str, Iterable[bytes]]]:
        """See ``base.MaskFile``; files without a change are copied byte by byte."""
        for video in self.videos:
            changes = find(video.key)
            by_name: dict[str, FrameChanges] = {}
            frames: Iterable[FrameChanges] = () if changes is None else changes
            pending = iter(frames)
            for name, paths in video.by_name().items():
                while name not in by_name and (frame := next(pending, None)) is not None:
                    by_name[frame.name] = frame
                found = by_name.pop(name, None)
                new: dict[str, NewMask] = {}
                if found is not None and any(c.counts is not None for c in found.changes):
                    assert changes is not None
                    keys = [tracklet.key for tracklet in changes.tracklets]
                    new = {
                        keys[c.tracklet]: NewMask(found.mask(c), c.confidence)
                        for c in found.changes
                    }
                for path in paths:
                    relative = "" if path == self.path else str(path.relative_to(self.path))
                    yield relative, (self._content(video, path, new, found),)

    @staticmethod
    def _content(
        video: FolderVideo, path: Path, new: Mapping[str, NewMask], frame: FrameChanges | None
    ) -> bytes:
        if not new or frame is None:
            return path.read_bytes()
        return video.make_codec((), frame.size).rewrite(path, new)
