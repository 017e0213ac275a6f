"""Which pictures of a folder are the frames of its video, and in which order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from cocoapi_hq.io.listing import list_files
from vmt.utils.errors import VideoError

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm",
))
# fmt: on
#: Pictures of phones that need a decoder of their own.
HEIC_SUFFIXES = frozenset((".heic", ".heif"))
HEIC_FIX = "convert them to JPEG (magick mogrify -format jpg *.heic)"
#: Photographs; object numbers do not survive in them, so they are never masks.
JPEG_SUFFIXES = frozenset((".jpg", ".jpeg"))


def list_frames(folder: Path) -> dict[str, Path]:
    """The frames of a folder by their stem, in natural order; see ``one_series``.

    Raises:
        VideoError: no such folder, not one picture in it, or two that could be the same frame.
    """
    if not folder.is_dir():
        raise VideoError(f"{folder}: no such folder of frames.")
    paths = list_files(folder, IMAGE_SUFFIXES)
    if not paths:
        if list_files(folder, HEIC_SUFFIXES):
            raise VideoError(f"{folder}: holds HEIC pictures of a phone; {HEIC_FIX}.")
        raise VideoError(
            f"{folder}: has no images ({' '.join(sorted(IMAGE_SUFFIXES))}); give the folder that "
            "holds the frames themselves."
        )
    return {path.stem: path for path in one_series(paths, str(folder))}


def one_series(paths: Sequence[Path], where: str) -> list[Path]:
    """The pictures that are frames of one video, without masks that lie beside them.

    Where a JPEG and another picture share a stem or a number (``00000.jpg`` and ``00000.png``,
    ``a_1.jpg`` and ``a_1_mask.png``), the JPEGs are the frames, if each other picture has one.

    Args:
        paths: in order.
        where: for messages.

    Raises:
        VideoError: two pictures could be the same frame.
    """
    pair = _same_frame(paths)
    if pair is None:
        return list(paths)
    photos = [path for path in paths if path.suffix.lower() in JPEG_SUFFIXES]
    names: tuple[Callable[[Path], Hashable], ...] = (lambda path: path.stem, _numbers)
    if len(photos) < len(paths) and _same_frame(photos) is None:
        for name in names:
            frames = {name(path) for path in photos}
            if all(name(path) in frames for path in paths):
                return photos
    raise VideoError(
        f"{where}: holds {pair[0].name} and {pair[1].name}, which may be the same frame; put "
        "frames and masks, or the frames of each video, into folders of their own."
    )


def _same_frame(paths: Sequence[Path]) -> tuple[Path, Path] | None:
    """Two pictures of one stem, or of two series that have their numbers in common."""
    by_stem: dict[str, Path] = {}
    series: dict[str, dict[Hashable, Path]] = {}
    for path in paths:
        if path.stem in by_stem:
            return by_stem[path.stem], path
        by_stem[path.stem] = path
        series.setdefault(re.sub(r"[0-9]+", "#", path.stem), {})[_numbers(path)] = path
    owner: dict[Hashable, str] = {}
    shared: Counter[tuple[str, str]] = Counter()
    for template, members in series.items():
        for number, path in members.items():
            other = owner.setdefault(number, template)
            shared[other, template] += other != template and number != ()
            if shared[other, template] > 1:
                return series[other][number], path
    return None


def _numbers(path: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"[0-9]+", path.stem))
