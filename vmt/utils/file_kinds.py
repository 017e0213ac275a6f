"""What a file really is, told from its first bytes, for messages about files that do not open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@dataclass(frozen=True)
class FileKind:
    """What a file is.

    Args:
        name: with article, e.g. "a zip archive".
        fix: what a person should do with it; empty for pictures and videos of usual kinds.
        family: "picture", "video" or "other".
    """

    name: str
    fix: str = ""
    family: str = "other"


_STARTS = (
    (b"\x89PNG", FileKind("a PNG picture", family="picture")),
    (b"\xff\xd8\xff", FileKind("a JPEG picture", family="picture")),
    (b"II*\0", FileKind("a TIFF picture", family="picture")),
    (b"MM\0*", FileKind("a TIFF picture", family="picture")),
    (b"\x1aE\xdf\xa3", FileKind("a Matroska or WebM video", family="video")),
    (
        b"version https://git-lfs",
        FileKind("a Git LFS pointer", "fetch the file itself with git lfs pull"),
    ),
    (
        b"\0\x05\x16\x07",
        FileKind("a side file of macOS", "give the file of that name without ._"),
    ),
    (b"PK\3\4", FileKind("a zip archive", "unpack it")),
    (b"\x1f\x8b", FileKind("a gzip archive", "unpack it")),
    (b"%PDF", FileKind("a PDF document", "export its pictures as PNG")),
)


def file_kind(path: Path) -> FileKind | None:
    """Recognise usual files under a wrong name, and what failed downloads and copies leave.

    Args:
        path: a file.

    Returns:
        What it is; None where nothing is recognised.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[4:8] == b"ftyp":
        if head[8:12] in _HEIF:
            return FileKind("a HEIC picture", "convert it to JPEG (magick in.heic out.jpg)")
        return FileKind("an MP4 or MOV video", family="video")
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return FileKind("an AVI video", family="video")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return FileKind("a WebP picture", family="picture")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return FileKind(
            "a web page, as a refused download leaves it", "download the file in a browser"
        )
    if len(head) > 16 and not any(head):
        return FileKind("filled with zero bytes, as a broken copy leaves it", "copy it again")
    return None
