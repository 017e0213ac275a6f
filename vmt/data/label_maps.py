"""Label maps: pictures and arrays in which the value of a pixel is the number of its object.

The one reader for training, conversion and refinement, and the one set of rules for what a value
means. 0 is background everywhere. Colours are numbers, too: ``0xRRGGBB``.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from vmt.data.images import check_file, open_picture
from vmt.data.names import VOID
from vmt.utils.errors import AnnotationError, VideoError

Labels = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]

#: Files that keep every value as it is; JPEG does not.
LABEL_SUFFIXES = frozenset((".png", ".bmp", ".tif", ".tiff", ".npy", ".npz"))
#: The colour of ``VOID`` in the palette of DAVIS.
COLOUR_VOID = 0xE0E0C0
#: KITTI MOTS and MOTSChallenge: value = class * 1000 + instance; class 10 is to be ignored.
MOTS_UNIT, MOTS_IGNORE = 1000, 10
MOTS_CLASSES = {1: "car", 2: "pedestrian"}
#: More values than this are shades, not objects.
MAX_VALUES = 128
#: So many values that lie on nothing but edges between a lower and a higher one are a smoothed map.
MAX_EDGE_VALUES = 2
_GREY, _WHITE, _WIDE_VOID = 0x010101, 0xFFFFFF, 0xFFFF


# --- one file -----------------------------------------------------------------------------------


def read_labels(path: Path) -> Labels:
    """Read a label map.

    Args:
        path: PNG, BMP or TIFF; NPY or NPZ with one array.

    Returns:
        (H, W): uint8 or wider, palette indices where the file has a palette; uint32 ``0xRRGGBB``
        of colour images.

    Raises:
        VideoError: missing or damaged.
        AnnotationError: no whole numbers, more values than a map of objects has, or transparency.
    """
    labels = _pack(_decode(path), path)
    count = np.count_nonzero(_values(labels))
    if labels.dtype in (np.uint8, np.uint32) and count > MAX_VALUES:
        raise AnnotationError(
            f"{path}: has {count} different values, which are shades rather than object numbers; "
            "save the masks without smoothing, one value per object."
        )
    return labels


def _decode(path: Path) -> npt.NDArray[Any]:
    if path.suffix.lower() not in (".npy", ".npz"):
        with open_picture(path) as image:
            image.load()
            return np.array(image)
    check_file(path)
    try:
        return _load_array(path)
    except (OSError, SyntaxError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise VideoError(
            f"{path}: cannot be read as a label map ({' '.join(str(error).split())})."
        ) from None


def _load_array(path: Path) -> npt.NDArray[Any]:
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content
    with content:
        names = content.files
        if len(names) != 1:
            raise ValueError(f"it has the arrays {', '.join(names) or 'none'}; one is needed")
        array: npt.NDArray[Any] = content[names[0]]
        return array


def _pack(pixels: npt.NDArray[Any], path: Path) -> Labels:
    """(H, W) whole numbers of any array that means them."""
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4) and pixels.dtype == np.uint8:
        if (pixels[..., -1] != 255).any():
            raise AnnotationError(
                f"{path}: is partly transparent, so its values are no plain object numbers; save "
                "it without an alpha channel (bitmasks of BDD100K: vmt convert-annotations --from "
                "mots)."
            )
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        red, green, blue = (pixels[..., k].astype(np.uint32) for k in range(3))
        return np.asarray(red << 16 | green << 8 | blue, dtype=np.uint32)
    if pixels.ndim != 2:
        raise AnnotationError(
            f"{path}: is an array of shape {pixels.shape}; a label map is (height, width), grey, "
            "palette or colour."
        )
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    whole = np.issubdtype(pixels.dtype, np.number) and bool((pixels == np.round(pixels)).all())
    if not whole or pixels.min(initial=0) < 0 or pixels.max(initial=0) > 0xFFFFFF:
        raise AnnotationError(
            f"{path}: holds values from {pixels.min(initial=0)} to {pixels.max(initial=0)} that "
            "are no object numbers; save whole numbers from 0 on."
        )
    narrow = pixels.dtype in (np.uint8, np.uint16)
    return pixels if narrow else pixels.astype(np.int32)


def is_bitmask(path: Path) -> bool:
    """Whether a PNG is a bitmask of BDD100K: its alpha channel is part of the numbers."""
    with path.open("rb") as file:
        header = file.read(26)
    if len(header) < 26 or header[25] != 6:  # colour type of the PNG header
        return False
    pixels = _decode(path)
    return bool((pixels[..., -1] != 255).any())


def write_labels_like(path: Path, labels: Labels) -> bytes:
    """A file of the same kind as another: format, mode, palette and transparency are its.

    Args:
        path: of the other, which ``read_labels`` reads.
        labels: (H, W) numbers as ``read_labels`` gives them.
    """
    buffer = io.BytesIO()
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        before = _load_array(path)
        array = labels.astype(before.dtype).reshape(before.shape)
        if suffix == ".npy":
            np.save(buffer, array)
        else:
            with np.load(path, allow_pickle=False) as content:
                arrays: dict[str, Any] = {content.files[0]: array}
            np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()
    with Image.open(path) as before_image:
        before_image.load()
        mode = before_image.mode
        image = Image.fromarray(_unpack(labels, mode))
        palette = before_image.getpalette() if mode == "P" else None
        if palette is not None:
            image.putpalette(palette)
        kept = {k: v for k, v in before_image.info.items() if k in ("transparency", "dpi")}
        if before_image.format == "TIFF":
            kept["compression"] = before_image.info.get("compression", "raw")
        image.save(buffer, format=before_image.format, **kept)
    return buffer.getvalue()


def _unpack(labels: Labels, mode: str) -> npt.NDArray[Any]:
    if mode == "1":
        return labels.astype(np.bool_)
    if mode in ("RGB", "RGBA"):
        channels = [(labels >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)]
        opaque = [np.full(labels.shape, 255, dtype=np.uint8)] if mode == "RGBA" else []
        return np.stack([*channels, *opaque], axis=2)
    if mode == "LA":
        return np.stack([labels.astype(np.uint8), np.full_like(labels, 255, np.uint8)], axis=2)
    if mode == "F":
        return labels.astype(np.float32)
    return labels


# --- what values mean ---------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelScheme:
    """What the values of a set of label maps mean.

    Args:
        void: value of pixels that are not annotated; None without one.
        classes: class number -> name, where a value is class * 1000 + instance; else empty.
        note: what a person should know; may be empty.
    """

    void: int | None = VOID
    classes: Mapping[int, str] = field(default_factory=dict)
    note: str = ""

    def is_object(self, value: int) -> bool:
        """False for background, void and regions to be ignored."""
        ignored = bool(self.classes) and value // MOTS_UNIT not in self.classes
        return value not in (0, self.void) and not ignored

    def values(self, labels: Labels) -> list[int]:
        """Numbers of the objects of a map, ascending."""
        return [value for value in _values(labels) if self.is_object(value)]

    def category(self, value: int) -> str:
        """Class of an object."""
        return self.classes.get(value // MOTS_UNIT, "object") if self.classes else "object"

    def label(self, value: int) -> str:
        """An object's name for people."""
        if self.classes:
            return f"{self.category(value)} {value % MOTS_UNIT}"
        return f"object {value_text(value)}"


def value_text(value: int) -> str:
    """A value as people know it: greys of colour images as their level, other colours as hex."""
    if value < _GREY:
        return str(value)
    return str(value & 255) if value % _GREY == 0 else f"#{value:06x}"


def find_scheme(paths: Iterable[Path]) -> LabelScheme:
    """What the values of all label maps of a set mean; reads no more of them than it must.

    255 is void, unless no other value occurs: then it is the object. 16-bit maps whose values are
    all 1000 and more hold class * 1000 + instance. In maps with colours, void is that of DAVIS's
    palette.

    Raises:
        VideoError: a map cannot be read.
        AnnotationError: it is none, or its values have no certain meaning.
    """
    values: set[int] = set()
    wide: Path | None = None
    for path in paths:
        labels = read_labels(path)
        values.update(_values(labels))
        if labels.dtype == np.uint8:
            if values - {0, VOID}:
                return LabelScheme()
        elif labels.dtype == np.uint32:
            if any(value % _GREY for value in values):
                return LabelScheme(COLOUR_VOID)
        else:
            wide = path
    values -= {0}
    if not values:
        return LabelScheme()
    if len(values) == 1 and values <= {VOID, _WHITE, _WIDE_VOID}:
        note = f"Its only value is {value_text(*values)}, which is taken as object."
        return LabelScheme(None, note=note)
    if wide is None:
        return LabelScheme(_WHITE if _WHITE in values else VOID)
    void = _WIDE_VOID if _WIDE_VOID in values else VOID if max(values) <= VOID else None
    values -= {_WIDE_VOID}
    return LabelScheme(void) if max(values) < MOTS_UNIT else _class_scheme(values, void, wide)


def _class_scheme(values: set[int], void: int | None, path: Path) -> LabelScheme:
    plain = sorted(value for value in values if value < MOTS_UNIT)
    if plain:
        raise AnnotationError(
            f"{path}: 16-bit values below 1000 (such as {plain[0]}) and above (such as "
            f"{max(values)}) in one set of label maps can be object numbers or class * 1000 + "
            "instance; use one kind, and 0 for what is no object."
        )
    numbers = sorted({value // MOTS_UNIT for value in values})
    if set(numbers) <= {*MOTS_CLASSES, MOTS_IGNORE}:
        classes = {n: MOTS_CLASSES[n] for n in numbers if n in MOTS_CLASSES}
    else:
        classes = {n: f"class_{n}" for n in numbers}
    ignored = sorted({v for v in values if v // MOTS_UNIT not in classes})
    note = f"16-bit values are read as class * 1000 + instance: {', '.join(classes.values())}"
    note += f"; {', '.join(map(str, ignored))} is ignored." if ignored else "."
    return LabelScheme(void, classes or dict(MOTS_CLASSES), note)


class EdgeSurvey:
    """Finds values that smoothing or resizing left on the edges between others."""

    def __init__(self) -> None:
        self._solid: set[int] = set()
        self._edge: Counter[int] = Counter()
        self._all: Counter[int] = Counter()

    def add(self, labels: Labels) -> None:
        """Look at one map."""
        channels: list[npt.NDArray[Any]]
        if labels.dtype == np.uint32:
            channels = [(labels >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)]
        else:
            channels = [labels if labels.dtype.itemsize < 4 else labels.astype(np.float32)]
        between, uniform = np.zeros(labels.shape, bool), np.ones(labels.shape, bool)
        window = np.ones((3, 3), np.uint8)
        for channel in channels:
            low, high = cv2.erode(channel, window), cv2.dilate(channel, window)
            between |= (low < channel) & (channel < high)
            uniform &= low == high
        self._solid.update(_values(labels[uniform]))
        self._edge.update(_count(labels[between]))
        self._all.update(_count(labels))

    def edge_values(self, scheme: LabelScheme) -> list[int]:
        """Values of objects that lie, in all maps together, on nothing but such edges.

        They are nowhere three pixels wide, and nine in ten of their pixels touch both a lower and a
        higher value.
        """
        return sorted(
            value
            for value, edge in self._edge.items()
            if scheme.is_object(value)
            and value not in self._solid
            and edge >= 0.9 * self._all[value]
        )

    def pixels(self, value: int) -> int:
        """How often a value occurs."""
        return self._all[value]


def _values(labels: npt.NDArray[Any]) -> list[int]:
    if labels.dtype == np.uint8:
        return [int(v) for v in np.flatnonzero(np.bincount(labels.ravel(), minlength=256))]
    return [int(v) for v in np.unique(labels)]


def _count(labels: npt.NDArray[Any]) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}
