"""PNG label maps: the value of a pixel is the number of its object, 0 is background."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vmt.data.datasets.folders import VOID
from vmt.data.io import read_labels
from vmt.data.mask_files.base import BoolArray, Size, size_text
from vmt.data.mask_files.folders import NewMask
from vmt.utils.errors import AnnotationError

#: More values than this in 8 bits are shades of grey, not objects.
MAX_VALUES = 128


@dataclass(frozen=True)
class LabelMapCodec:
    """Reads and writes label maps; see ``folders.FrameCodec``.

    Args:
        void: value of pixels that are never touched; None without one.
        note: see there.
    """

    void: int | None = VOID
    note: str = ""
    noun: str = "label map"

    def objects(self, path: Path, size: Size) -> list[str]:
        """See ``folders.FrameCodec``."""
        labels = read_labels(path)
        if labels.shape != size:
            raise AnnotationError(
                f"{path}: is {size_text(labels.shape)} pixels, but its frame is {size_text(size)}; "
                "masks and frames must have one size."
            )
        return [str(value) for value in _values(path) if value != self.void]

    def label(self, key: str) -> str:
        """See ``folders.FrameCodec``."""
        return f"object {key}"

    def masks(self, path: Path, keys: Sequence[str], size: Size) -> list[BoolArray]:
        """See ``folders.FrameCodec``."""
        labels = read_labels(path)
        return [labels == int(key) for key in keys]

    def rewrite(self, path: Path, new: Mapping[str, NewMask]) -> bytes:
        """See ``folders.FrameCodec``.

        Where objects overlap, the one with the higher confidence is on top, of equals the one with
        the lower number. An object that would be covered whole keeps its old pixels. Pixels whose
        value is no object's stay.
        """
        labels = read_labels(path)
        old = {int(key): labels == int(key) for key in new}
        free = (labels == 0) | np.any(list(old.values()), axis=0)
        result = np.where(free, 0, labels).astype(labels.dtype)
        order = sorted(new, key=lambda key: (new[key].confidence, -int(key)))
        for key in order:
            mask = new[key].mask
            result[(old[int(key)] if mask is None else mask) & free] = int(key)
        for value, mask in old.items():
            if not (result == value).any():
                result[mask] = value
        return _png_like(path, result)


def make_label_map_codec(void: int | None, *, guess: bool) -> _MakeLabelMaps:
    """Codec of a video's label maps.

    Args:
        void: value that is never touched.
        guess: if it is the only value of a video, it is an object after all (0 and 255).
    """
    return _MakeLabelMaps(void, guess)


@dataclass(frozen=True)
class _MakeLabelMaps:
    void: int | None
    guess: bool

    def __call__(self, files: Sequence[Path], size: Size) -> LabelMapCodec:
        values: set[int] = set()
        for path in files:
            values.update(_values(path))
            if not self.guess or values - {self.void}:
                return LabelMapCodec(self.void)
        if values:
            return LabelMapCodec(None, f"Its only value is {self.void}, which is taken as object.")
        return LabelMapCodec(self.void)


def _values(path: Path) -> list[int]:
    """Values of a label map but 0, ascending."""
    labels = read_labels(path)
    values = [int(value) for value in np.unique(labels) if value]
    if labels.dtype.itemsize == 1 and len(values) > MAX_VALUES:
        raise AnnotationError(
            f"{path}: has {len(values)} different values, which are shades of grey rather than "
            "object numbers; save the masks without smoothing, one value per object."
        )
    return values


def _png_like(path: Path, labels: np.ndarray[tuple[int, ...], np.dtype[np.integer]]) -> bytes:
    """A PNG with the mode, palette and transparency of another."""
    with Image.open(path) as before:
        before.load()
        image = Image.fromarray(labels.astype(np.bool_) if before.mode == "1" else labels)
        palette = before.getpalette() if before.mode == "P" else None
        if palette is not None:
            image.putpalette(palette)
        kept = {key: before.info[key] for key in ("transparency", "dpi") if key in before.info}
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **kept)
    return buffer.getvalue()
