"""Folders with one file of masks per frame: PNG label maps, or polygons."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from cocoapi_hq.listing import natural_key
from vmt.data.mask_files.base import (
    BoolArray,
    FindChanges,
    FrameChanges,
    FrameSet,
    Size,
    TrackletName,
    list_few,
)
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

    def objects(self, path: Path, size: Size) -> list[str]:
        """Keys of the objects that a frame shows, in order.

        Raises:
            AnnotationError: the file breaks its format, or is for another frame size.
            VideoError: an image that cannot be read.
        """
        ...

    def label(self, key: str) -> str:
        """An object's name for people."""
        ...

    def masks(self, path: Path, keys: Sequence[str], size: Size) -> list[BoolArray]:
        """(H, W) of each of these objects, all of which the frame shows."""
        ...

    def rewrite(self, path: Path, new: Mapping[str, NewMask]) -> bytes:
        """The file with other masks; ``new`` has every object that the frame shows."""
        ...


class MakeCodec(Protocol):
    """Looks at all files of a video and finds how to read them."""

    def __call__(self, files: Sequence[Path], size: Size) -> FrameCodec:
        """Codec for files of frames of (h, w) pixels."""
        ...


@dataclass(frozen=True)
class FolderVideo:
    """The files of one video; see ``base.MaskVideo``.

    Args:
        files: one per frame that has masks, in natural order.
        folder: below the source, "" when the source is the video.
        label: for people.
        make_codec: reads the files.
        settings: what else decides how they are read.
    """

    files: tuple[Path, ...]
    folder: str
    label: str
    make_codec: MakeCodec
    settings: str = ""
    file_names: tuple[str, ...] | None = None

    @property
    def key(self) -> str:
        """See ``base.MaskVideo``."""
        return f"video_{self.folder or self.label}"

    def stamp(self) -> str:
        """See ``base.MaskVideo``."""
        digest = hashlib.sha1(self.settings.encode(), usedforsecurity=False)
        for path in self.files:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def load(self, frames: FrameSet) -> FolderMasks:
        """See ``base.MaskVideo``."""
        codec = self.make_codec(self.files, frames.size)
        paired, note = self._pair(frames, codec.noun)
        shown = {t: tuple(codec.objects(path, frames.size)) for t, path in paired.items()}
        keys = sorted({key for some in shown.values() for key in some}, key=natural_key)
        notes = [note, codec.note]
        return FolderMasks(
            tracklets=[TrackletName(key, codec.label(key)) for key in keys],
            frames=sorted(t for t, some in shown.items() if some),
            note=" ".join(text for text in notes if text),
            files=paired,
            shown=shown,
            size=frames.size,
            codec=codec,
        )

    def _pair(self, frames: FrameSet, noun: str) -> tuple[dict[int, Path], str]:
        """Frame -> file, and what is to say about frames without one."""
        if frames.stems is None:
            paired = self._pair_numbers(frames, noun)
            names: Sequence[str] = [str(t) for t in range(frames.count or 0)]
        else:
            paired = self._pair_names(frames, frames.stems, noun)
            names = frames.stems
        alone = [t for t in range(len(names)) if t not in paired]
        if not alone:
            return paired, ""
        ranges = list_few(_ranges(alone, names))
        return paired, (
            f"{len(alone)} of {len(names)} frames have no {noun} and are left alone: {ranges}."
        )

    def _pair_names(self, frames: FrameSet, stems: tuple[str, ...], noun: str) -> dict[int, Path]:
        index = {stem: t for t, stem in enumerate(stems)}
        lonely = [path for path in self.files if path.stem not in index]
        if len(lonely) == len(self.files) == len(stems):
            return dict(enumerate(self.files))
        if lonely:
            raise AnnotationError(
                f"{lonely[0]}: no frame of that name in {frames.where} ({len(lonely)} of "
                f"{len(self.files)} {noun}s have none); {noun}s and frames pair by file name."
            )
        return {index[path.stem]: path for path in self.files}

    def _pair_numbers(self, frames: FrameSet, noun: str) -> dict[int, Path]:
        if frames.count == len(self.files):
            return dict(enumerate(self.files))
        odd = next((path for path in self.files if _number(path) is None), None)
        if odd is not None:
            raise AnnotationError(
                f"{odd}: there are {len(self.files)} {noun}s for the {frames.count or 'unknown'} "
                f"frames of {frames.where}, and this name has no number that tells which frame it "
                "is for; name the files by frame, from 0."
            )
        paired = {_number(path) or 0: path for path in self.files}
        if len(paired) < len(self.files):
            raise AnnotationError(
                f"{self.files[0].parent}: two {noun}s have the same frame number in their names."
            )
        last = max(paired)
        if frames.count is not None and last >= frames.count:
            raise AnnotationError(
                f"{paired[last]}: is for frame {last}, but {frames.where} has frames 0 to "
                f"{frames.count - 1}; number the files from 0."
            )
        return paired


@dataclass(frozen=True)
class FolderMasks:
    """The masks of one video, which stay in their files; see ``base.VideoMasks``.

    Args:
        files: frame -> file.
        shown: frame -> keys of its objects.
        size: (h, w) in pixels.
        codec: reads the files.
    """

    tracklets: Sequence[TrackletName]
    frames: Sequence[int]
    note: str
    files: Mapping[int, Path]
    shown: Mapping[int, tuple[str, ...]]
    size: Size
    codec: FrameCodec
    length: int | None = None

    def name(self, frame: int) -> str:
        """See ``base.VideoMasks``."""
        return self.files[frame].stem

    def at(self, frame: int) -> BoolArray:
        """See ``base.VideoMasks``."""
        masks = np.zeros((len(self.tracklets), *self.size), dtype=np.bool_)
        keys = self.shown.get(frame, ())
        if keys:
            rows = {tracklet.key: n for n, tracklet in enumerate(self.tracklets)}
            found = self.codec.masks(self.files[frame], keys, self.size)
            for key, mask in zip(keys, found, strict=True):
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
            for path in video.files:
                while path.stem not in by_name and (frame := next(pending, None)) is not None:
                    by_name[frame.name] = frame
                found = by_name.pop(path.stem, None)
                content = path.read_bytes()
                if found is not None and any(c.counts is not None for c in found.changes):
                    assert changes is not None
                    codec = video.make_codec((path,), found.size)
                    keys = [tracklet.key for tracklet in changes.tracklets]
                    new = {
                        keys[c.tracklet]: NewMask(found.mask(c), c.confidence)
                        for c in found.changes
                    }
                    content = codec.rewrite(path, new)
                relative = "" if path == self.path else f"{video.folder}/{path.name}".lstrip("/")
                yield relative, (content,)


def _number(path: Path) -> int | None:
    """The last run of digits in a name."""
    digits = ""
    for letter in reversed(path.stem):
        if letter.isdigit():
            digits = letter + digits
        elif digits:
            break
    return int(digits) if digits else None


def _ranges(numbers: Sequence[int], names: Sequence[str]) -> list[str]:
    """Runs of neighbours as "first to last"."""
    parts: list[tuple[int, int]] = []
    for t in numbers:
        if parts and parts[-1][1] == t - 1:
            parts[-1] = (parts[-1][0], t)
        else:
            parts.append((t, t))
    return [names[a] if a == b else f"{names[a]} to {names[b]}" for a, b in parts]
