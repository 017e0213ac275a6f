"""Frames of training clips from image files.

Decoded by the same library and rules as at inference (upright by EXIF, RGB), which also refuses
what is cut off; decoders that fill the missing part with grey would train on it unnoticed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from vmt.utils.errors import VideoError


def read_frame(path: Path, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Read one image as RGB.

    Args:
        path: JPEG or PNG.
        size: (h, w) in pixels that the annotations speak of; None accepts any.

    Returns:
        (H, W, 3) uint8.

    Raises:
        VideoError: missing, damaged, cut off, or of another size.
    """
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            frame = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except FileNotFoundError:
        raise VideoError(
            f"{path}: no such image; check the folder of images, or remove the frame from the JSON."
        ) from None
    except Image.DecompressionBombError:
        raise VideoError(f"{path}: is too large to be a frame; resize it.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise VideoError(
            f"{path}: cannot be read as an image ({' '.join(str(error).split())}); the file is "
            "damaged or cut off. Copy or export it again."
        ) from None
    if size is not None and frame.shape[:2] != size:
        raise VideoError(
            f"{path}: is {frame.shape[1]}x{frame.shape[0]} pixels, but the annotations are for "
            f"{size[1]}x{size[0]}; use the images that the masks were drawn on."
        )
    return frame


def read_labels(path: Path) -> npt.NDArray[np.integer]:
    """Read a PNG whose pixel values are object numbers.

    Returns:
        (H, W) uint8 or wider; palette indices where the file has a palette.

    Raises:
        VideoError: missing, damaged, or a colour image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            labels = np.array(image)
    except FileNotFoundError:
        raise VideoError(f"{path}: no such label map.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise VideoError(
            f"{path}: cannot be read as an image ({' '.join(str(error).split())})."
        ) from None
    if labels.dtype == np.bool_:
        labels = labels.astype(np.uint8)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise VideoError(
            f"{path}: is a colour image of shape {labels.shape}; a label map has one channel "
            "(grey or palette) whose values are object numbers."
        )
    return labels
