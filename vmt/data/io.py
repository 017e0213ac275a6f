"""Frames and label maps of annotated videos, from image files."""

from __future__ import annotations

from pathlib import Path

from vmt.data.images import Frame, check_picture, read_picture
from vmt.utils.errors import VideoError


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
