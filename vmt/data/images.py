"""The only decoder of still pictures: training, inference, refinement and checks see its pixels.

Pictures become RGB uint8, upright, by fixed rules: the orientation noted in EXIF is applied; grey
is repeated; of 16-bit samples the upper byte counts; transparency is put over black; palettes,
CMYK and 1 bit become the colours they stand for. What has no rule is refused: floating-point and
32-bit samples, files of several pictures (but for the previews of JPEG cameras), and whatever is
cut off, which lenient decoders fill with grey.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from vmt.data.frame_names import why_missing
from vmt.utils.errors import VideoError, VmtError
from vmt.utils.file_kinds import file_kind

logger = logging.getLogger(__name__)

Frame = npt.NDArray[np.uint8]

#: Formats whose several pictures are frames or pages, of which none is *the* picture.
_ANIMATED = frozenset(("GIF", "PNG", "WEBP", "TIFF", "AVIF"))
_SIXTEEN_BIT = frozenset(("I;16", "I;16L", "I;16B", "I;16N"))
#: Orientations that swap the sides.
TURNED = frozenset((5, 6, 7, 8))


@dataclass(frozen=True)
class PictureInfo:
    """What a file says of its picture.

    Args:
        size: (h, w) in pixels, upright as ``read_picture`` returns it.
        orientation: of EXIF, 1 (stored upright) to 8.
    """

    size: tuple[int, int]
    orientation: int

    @property
    def turned(self) -> bool:
        """Whether it is stored lying on its side."""
        return self.orientation in TURNED


def read_picture(path: Path) -> Frame:
    """Read one picture as RGB.

    Args:
        path: JPEG, PNG, TIFF, WebP, ...

    Returns:
        (H, W, 3) uint8.

    Raises:
        VideoError: missing, empty, cut off, damaged, no picture, or of a kind without a rule.
    """
    return _decode(path)[0]


def read_frame(path: Path, size: tuple[int, int] | None = None) -> Frame:
    """Read a frame that masks were drawn on.

    Args:
        path: of the picture.
        size: (h, w) in pixels that the annotations speak of; None accepts any.

    Returns:
        (H, W, 3) uint8; see ``read_picture``.

    Raises:
        VideoError: it cannot be read, or has another size.
    """
    frame = read_picture(path)
    if size is not None and frame.shape[:2] != size:
        note = " (turned upright by its EXIF orientation)" if check_picture(path).turned else ""
        raise VideoError(
            f"{path}: is {frame.shape[1]}x{frame.shape[0]} pixels{note}, but the annotations are "
            f"for {size[1]}x{size[0]}; use the images that the masks were drawn on."
        )
    return frame


def check_picture(path: Path) -> PictureInfo:
    """Decode a picture wholly, as ``read_picture`` does, for its size and orientation.

    Raises:
        VideoError: ``read_picture`` would raise it.
    """
    frame, orientation = _decode(path)
    return PictureInfo((frame.shape[0], frame.shape[1]), orientation)


def picture_size(path: Path) -> tuple[int, int]:
    """(h, w) of the upright picture, without decoding it where its format allows.

    Raises:
        VideoError: missing, empty, or no picture.
    """
    with open_picture(path) as image:
        width, height = image.size
        if image.format == "TIFF":  # Pillow may have swapped them, depending on its version
            tags: Any = getattr(image, "tag_v2", {})
            width, height = int(tags[256]), int(tags[257])
        return (width, height) if orientation_of(image) in TURNED else (height, width)


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture; what Pillow raises, here or within the block, becomes one sentence.

    Args:
        path: of the file.

    Yields:
        The first picture of the file, its pixels not yet loaded.

    Raises:
        VideoError: missing, empty, cut off, damaged, no picture, too large, or several pictures.
    """
    check_file(path)
    try:
        with Image.open(path) as image:
            if image.format in _ANIMATED and getattr(image, "is_animated", False):
                raise VideoError(
                    f"{path}: holds {getattr(image, 'n_frames', 2)} pictures, and a frame is one; "
                    "save them as single PNG files."
                )
            yield image
    except VmtError:
        raise
    except Image.DecompressionBombError:
        raise VideoError(
            f"{path}: is too large to be a frame (over {2 * (Image.MAX_IMAGE_PIXELS or 0):,} "
            "pixels); resize it."
        ) from None
    # Pillow's readers of damaged headers raise much that is not an OSError.
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        OverflowError,
        AttributeError,
        struct.error,
    ) as error:
        raise VideoError(_explain(path, error)) from None


def check_file(path: Path) -> None:
    """Raise where there is nothing to read.

    Raises:
        VideoError: no such file, a folder, or empty.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        why = why_missing(str(path).lstrip("/"))
        fix = "check the folder, or take the file off the list that names it"
        raise VideoError(f"{path}: no such file; {why or fix}.") from None
    except OSError as error:
        raise VideoError(f"{path}: cannot be opened ({error.strerror}); check the path.") from None
    if path.is_dir():
        raise VideoError(f"{path}: is a folder; give a file.")
    if path.is_file() and size == 0:
        raise VideoError(
            f"{path}: is empty (0 bytes); the copy or download broke off. Fetch it again."
        )


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an open picture, 1 to 8; 1 where it has none or an invalid one.

    Load a PNG before: asking for its EXIF would load it and hide that it is cut off.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return 1  # viewers show a picture with unreadable EXIF as it is stored
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn_upright(pixels: Frame, orientation: int) -> Frame:
    """Turn stored pixels upright.

    Args:
        pixels: (H, W, ...) as stored.
        orientation: as EXIF counts it: 1 upright, 2 mirrored left to right, 3 upside down, 4
            mirrored top to bottom, 5 mirrored at the main diagonal, 6 to be turned clockwise, 7
            mirrored at the other diagonal, 8 to be turned counter-clockwise.

    Returns:
        (H, W, ...), or (W, H, ...) for 5 to 8, contiguous.
    """
    if orientation in TURNED:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def over_black(rgba: Frame) -> Frame:
    """Put transparent pixels over black: each colour times its opacity, rounded.

    Args:
        rgba: (H, W, 4), opacity last.

    Returns:
        (H, W, 3).
    """
    opacity = rgba[:, :, 3:].astype(np.uint16)
    return ((rgba[:, :, :3] * opacity + 127) // 255).astype(np.uint8)


def _decode(path: Path) -> tuple[Frame, int]:
    with open_picture(path) as image:
        # Pillow turns TIFF upright itself while loading, and forgets; a PNG is loaded for its EXIF.
        noted = orientation_of(image) if image.format == "TIFF" else 0
        image.load()
        if image.format in ("JPEG", "MPO") and _ends_in_zeros(path):
            raise VideoError(
                f"{path}: cannot be read as an image: it is cut off (its end is filled with zero "
                "bytes); copy or export it again."
            )
        left = orientation_of(image)
        return turn_upright(_to_rgb(path, image), left), noted or left


def _to_rgb(path: Path, image: Image.Image) -> Frame:
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM")):
        samples = np.asarray(image)
        if 0 < samples.max() < 1 << 12:
            _warn_dark(path.parent)
        grey = (samples.astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("F", "I"):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit or signed numbers"
        raise VideoError(
            f"{path}: its samples are {kind}, whose black and white are not known; save it with 8 "
            "or 16 bits."
        )
    if image.has_transparency_data:
        return over_black(np.array(image.convert("RGBA")))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


@lru_cache(maxsize=256)
def _warn_dark(folder: Path) -> None:
    """Once per folder."""
    logger.warning(
        "%s: holds 16-bit pictures that use at most the lowest 12 bits; they are read as nearly "
        "black. Scale them to 0..65535, or save 8 bits.",
        folder,
    )


def _ends_in_zeros(path: Path) -> bool:
    """True for a file whose copy broke off behind the allocation of its full length."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 64))
        if any(file.read()):
            return False
        file.seek(0)
        return not file.read().rstrip(b"\0").endswith(b"\xff\xd9")


def _explain(path: Path, error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, OSError) and error.errno is not None:
        return f"{path}: cannot be read ({error.strerror or text}); check the file and its rights."
    if isinstance(error, UnidentifiedImageError):
        return _explain_kind(path)
    if any(word in text.lower() for word in ("truncated", "eof", "end of file", "not enough")):
        return (
            f"{path}: cannot be read as an image: it is cut off ({text}); copy or export it again."
        )
    return f"{path}: cannot be read as an image ({text}); export it again as PNG or JPEG."


def _explain_kind(path: Path) -> str:
    kind = file_kind(path)
    if kind is None:
        return (
            f"{path}: cannot be read as an image: it is of another kind than those known here "
            "(JPEG, PNG, BMP, TIFF, WebP, PPM), or its beginning is damaged; convert it to JPEG or "
            "PNG, or copy it again."
        )
    if kind.family == "picture":
        return (
            f"{path}: cannot be read as an image: begins as {kind.name}, but its header is cut off "
            "or damaged; copy or export it again."
        )
    fix = kind.fix or "give it as a video, with the suffix of one"
    return f"{path}: cannot be read as an image: it is {kind.name}; {fix}."
