"""Folders with files of masks per frame: label maps, maps of one object each, or polygons."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np

from cocoapi_hq.io.listing import natural_key
from vmt.data.mask_files.base import (
    BoolArray,
    Change,
    ChangesOf,
    FrameSet,
    MaskFile,
    MaskVideo,
    Size,
    TrackletName,
    VideoMasks,
    join_notes,
)
from vmt.data.mask_files.pairing import pair
from vmt.utils.errors import AnnotationError

#: Frame -> its files.
FrameFiles = Mapping[int, tuple[Path, ...]]


@dataclass(frozen=True)
class FramePairing:
    """The files of a video and their frames.

    Args:
        files: by frame, in order of frames.
        note: what a person should know; may be empty.
        name_of: what a file of any frame is called, without extension.
    """

    files: FrameFiles
    note: str
    name_of: Callable[[int], str]


class FrameCodec(ABC):
    """How the masks of a frame stand in a file.

    Attributes:
        noun: what a file is called, for messages.
        settings: what else than the files decides how they are read.
    """

    noun: str
    settings: str

    @abstractmethod
    def survey(self, files: Sequence[Path], size: Size) -> str:
        """Look at all files of a video; returns what a person should know, may be empty.

        Args:
            files: of the video; without files, what is known of the whole set is said.
            size: (h, w) of the frames.

        Raises:
            AnnotationError: together they make no sense.
        """

    @abstractmethod
    def read(self, path: Path, size: Size) -> dict[str, BoolArray]:
        """Key -> (H, W) of the objects that a file shows, in order.

        Raises:
            AnnotationError: the file breaks its format, or is for another frame size.
            VideoError: an image that cannot be read.
        """

    @abstractmethod
    def rewrite(self, path: Path, changes: Mapping[str, Change]) -> bytes:
        """The file with other masks; ``changes`` has every object that it shows, one is new."""

    @abstractmethod
    def create(
        self, files: Sequence[Path], name: str, changes: Mapping[str, Change]
    ) -> Iterator[tuple[Path, bytes]]:
        """Files for masks of a frame that lie in none of its own.

        Args:
            files: of the video.
            name: of the frame's files, without extension.
            changes: of the objects that have a new mask.

        Yields:
            Path beside the others, and content; perhaps of files that are there already, which
            ``rewrite`` has dealt with.
        """

    def label(self, key: str) -> str:
        """An object's name for people."""
        return key

    def category(self, key: str) -> str:
        """The class of an object; ``object`` where none is known."""
        del key
        return "object"

    def categories(self, files: Sequence[Path]) -> set[str]:
        """The classes of all objects of a video, and perhaps of others of its set."""
        del files
        return {"object"}


@dataclass(frozen=True)
class FolderVideo(MaskVideo):
    """The files of one video.

    Args:
        files: in natural order; one per frame that has masks, or one per object and frame.
        codec: reads the files.
        first_number: see ``pairing.pair``.
    """

    files: tuple[Path, ...]
    codec: FrameCodec
    first_number: int | None = None

    @classmethod
    def of(
        cls,
        files: Sequence[Path],
        codec: FrameCodec,
        label: str,
        folder: str = "",
        first_number: int | None = None,
    ) -> FolderVideo:
        """The video of a folder below the source; "" when the source is the video."""
        key = f"video_{folder or label}"
        return cls(key, label, folder, None, tuple(files), codec, first_number)

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
        """Hash of the files and of how they are read."""
        how = f"{self.first_number} {self.codec.settings}"
        digest = hashlib.sha1(how.encode(), usedforsecurity=False)
        for path in self.files:
            name = f"{path.parent.name}/{path.name} {path.stat().st_size}\n"
            digest.update(name.encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def by_name(self) -> dict[str, list[Path]]:
        """Name of a frame's masks -> their files, in natural order."""
        files: dict[str, list[Path]] = {}
        for path in self.files:
            files.setdefault(path.stem, []).append(path)
        return {name: files[name] for name in sorted(files, key=natural_key)}

    def pair(self, frames: FrameSet) -> FramePairing:
        """Which files are of which frame.

        Raises:
            AnnotationError: the files and the frames do not belong together.
        """
        files = self.by_name()
        firsts = {name: paths[0] for name, paths in files.items()}
        pairing = pair(firsts, frames, self.codec.noun, self.first_number)
        of_frame = {t: tuple(files[pairing.names[t]]) for t in sorted(pairing.names)}
        return FramePairing(of_frame, pairing.note, pairing.name_of)

    def load(self, frames: FrameSet) -> VideoMasks:
        """Tracklets and masks of the video, files paired with frames."""
        codec, size = self.codec, frames.size
        survey = codec.survey(self.files, size)
        pairing = self.pair(frames)
        files = pairing.files
        objects = {
            t: [key for path in paths for key in codec.read(path, size)]
            for t, paths in files.items()
        }
        keys = sorted({key for some in objects.values() for key in some}, key=natural_key)
        return VideoMasks(
            [TrackletName(key, codec.label(key), codec.category(key)) for key in keys],
            {t: files[t][0].stem for t, some in objects.items() if some},
            partial(_read_frame, codec, files, keys, size),
            join_notes(pairing.note, survey),
            name_of=pairing.name_of,
        )


def _read_frame(
    codec: FrameCodec, files: FrameFiles, keys: Sequence[str], size: Size, frame: int
) -> BoolArray:
    """(N, H, W) of one frame."""
    masks = np.zeros((len(keys), *size), dtype=np.bool_)
    rows = {key: n for n, key in enumerate(keys)}
    for path in files.get(frame, ()):
        for key, mask in codec.read(path, size).items():
            masks[rows[key]] = mask
    return masks


@dataclass(frozen=True)
class FolderFile(MaskFile):
    """A folder of masks, or one file of a frame."""

    videos: Sequence[FolderVideo]

    def rewrite(self, changes_of: ChangesOf) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Every file with its other masks, video by video."""
        for video in self.videos:
            files = video.by_name()
            frames = groupby(changes_of(video.key), attrgetter("frame"))
            by_name: dict[str, list[Change]] = {}
            for name, paths in files.items():
                while name not in by_name and (group := next(frames, None)) is not None:
                    changes = list(group[1])
                    if changes[0].name in files:
                        by_name[changes[0].name] = changes
                    else:
                        yield from self._created(video, changes)
                own = {change.key: change for change in by_name.pop(name, ())}
                new = any(change.mask is not None for change in own.values())
                for path in paths:
                    relative = "" if path == self.path else str(path.relative_to(self.path))
                    content = video.codec.rewrite(path, own) if new else path.read_bytes()
                    yield relative, (content,)
                yield from self._created(video, list(own.values()), paths)
            for _, changes_of_frame in frames:
                yield from self._created(video, list(changes_of_frame))

    def _created(
        self, video: FolderVideo, changes: Sequence[Change], there: Sequence[Path] = ()
    ) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Files that a frame has not ``there`` yet."""
        new = {c.key: c for c in changes if c.propagated and c.mask is not None}
        if not new:
            return
        taken = {path.parent for path in there}
        for path, content in video.codec.create(video.files, changes[0].name, new):
            if path.parent not in taken:
                yield str(path.relative_to(self.path)), (content,)

    def as_folder(self) -> FolderFile:
        """The same; of one file, the folder with that file alone, so that others can be added."""
        if self.path.is_dir():
            return self
        return replace(self, path=self.path.parent)
