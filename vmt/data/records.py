"""What a data set is inside: videos with frame paths and, on request, masks of some frames.

Records are small. Masks stay in their file, or as run lengths in one shared buffer, until the
frames of a clip are drawn, so a data set costs each worker next to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cocoapi_hq.io.rle import Rle
from vmt.data.frame_names import frame_path

__all__ = ["Annotations", "PackedList", "Rle", "Tracklet", "VideoDataset", "VideoList"]
__all__ += ["VideoRecord"]


@dataclass(frozen=True)
class Tracklet:
    """One object in the frames that were asked for.

    Args:
        id: of the object within its video or file.
        category_id: as the file counts.
        masks: one entry per frame, None where the object is absent. Run lengths may still be
            unchecked, uncompressed, or rings of a polygon: ``vmt.data.mapper`` decodes them.
        where: file and place, for messages.
    """

    id: int
    category_id: int
    masks: tuple[Any, ...]
    where: str = ""


class Annotations(Protocol):
    """The tracklets of one video, not read yet."""

    def load(self, frames: Sequence[int] | None = None) -> list[Tracklet]:
        """Read the tracklets; crowds and ignored regions are left out.

        Args:
            frames: indices into the video, repeats allowed; None for all.

        Returns:
            Tracklets whose ``masks`` have one entry per asked frame. Those that no asked frame
            shows may be among them.

        Raises:
            AnnotationError: the entries break their format.
            VideoError: an image that holds masks cannot be read.
        """
        ...


@dataclass(frozen=True)
class VideoRecord:
    """One video, or one image of an image data set.

    Args:
        id: in results and messages.
        name: for messages and output folders.
        image_root: folder of the frames.
        file_names: of the frames in order, relative to ``image_root``.
        height: of every frame, pixels.
        width: of every frame, pixels.
        annotations: None where the file has none (test splits).
        dataset: name in the config.
        still: an image: training makes a pseudo clip of it.
        boxes_only: its masks are filled boxes, since the file has no others.
        unlabelled: ids of categories of which it may show objects without an annotation.
    """

    id: int
    name: str
    image_root: Path
    file_names: tuple[str, ...]
    height: int
    width: int
    annotations: Annotations | None
    dataset: str
    still: bool = False
    boxes_only: bool = False
    unlabelled: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in pixels."""
        return self.height, self.width

    @property
    def frame_paths(self) -> tuple[Path, ...]:
        """Paths of all frames in order."""
        return tuple(frame_path(self.image_root, name) for name in self.file_names)

    def tracklets(self, frames: Sequence[int] | None = None) -> list[Tracklet]:
        """Tracklets of the asked frames (None: all); none without annotations."""
        return self.annotations.load(frames) if self.annotations is not None else []


class VideoDataset(Protocol):
    """A data set: a sequence of records that can be sent to workers cheaply."""

    @property
    def name(self) -> str:
        """In the config."""
        ...

    @property
    def categories(self) -> Mapping[int, str]:
        """Category id -> name, in the order of the file."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> VideoRecord: ...

    def num_frames(self) -> Sequence[int]:
        """Frames of every video, without reading one."""
        ...


class VideoList:
    """A data set of a few thousand videos: plain records.

    Args:
        name: in the config.
        categories: category id -> name.
        records: the videos.
    """

    def __init__(
        self, name: str, categories: Mapping[int, str], records: Sequence[VideoRecord]
    ) -> None:
        self.name = name
        self.categories = dict(categories)
        self._records = list(records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> VideoRecord:
        return self._records[index]

    def num_frames(self) -> Sequence[int]:
        """Frames of every video."""
        return [len(record) for record in self._records]


class PackedList:
    """A read-only list of JSON values in one tensor.

    Workers share the tensor's memory however they are started; a list of Python objects would be
    copied page by page as soon as their reference counts change.

    Args:
        values: anything that JSON can hold.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        blob = bytearray()
        ends = [0]
        for value in values:
            blob += json.dumps(value, separators=(",", ":")).encode()
            ends.append(len(blob))
        self._bytes: Tensor = torch.from_numpy(np.frombuffer(bytes(blob), dtype=np.uint8).copy())
        self._ends: Tensor = torch.tensor(ends, dtype=torch.int64)

    def __len__(self) -> int:
        return self._ends.numel() - 1

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin, end = self._ends[index : index + 2].tolist()
        return json.loads(self._bytes[begin:end].numpy().tobytes())
