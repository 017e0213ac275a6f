"""Names of frames in annotation files: where they lead, and why one leads nowhere.

Every reader of ``file_names`` asks here, so that a file which trains can also be refined, checked,
scored and looked at.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

#: What Label Studio puts in front of the names of its files.
_LABEL_STUDIO = re.compile(r"^/?(data/)?(upload/|local-files/\?d=)")
_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")


def frame_path(root: Path, name: str) -> Path:
    """The file that a name means.

    Backslashes of Windows and ``%20`` of addresses are read as what they stand for, where that file
    exists and the one that is spelled so does not.

    Args:
        root: folder that names start from.
        name: as the file spells it.
    """
    path = root / name
    if not ("\\" in name or "%" in name) or path.is_file():
        return path
    slashes = name.replace("\\", "/")
    others = (root / other for other in (slashes, unquote(name), unquote(slashes)))
    return next((other for other in others if other.is_file()), path)


def why_missing(name: str, root: Path | None = None) -> str:
    """What is foreign about the name of a frame that is not there, and what to do; may be empty.

    Args:
        name: as the file spells it.
        root: folder that names start from, if known.
    """
    relative = "names must be relative to the folder of images"
    if "://" in name or re.search(r"https?:/", name):
        return f"the name is a web address: download the images; {relative}"
    if _LABEL_STUDIO.match(name):
        return f"the name is one of Label Studio's own: export the images, too; {relative}"
    if name.startswith("/") or _DRIVE.match(name):
        tail = _tail_below(root, name) if root is not None else ""
        if tail:
            front = name[: len(name) - len(tail)]
            return f"the name is a path of another computer: cut {front!r} off the names"
        return f"the name is a path of another computer; {relative}"
    if "\\" in name:
        return (
            f"the name has the backslashes of Windows, and with slashes it is not there; {relative}"
        )
    if re.search(r"%[0-9A-Fa-f]{2}", name):
        return f"the name is coded as in an address (%20), and plain it is not there; {relative}"
    return ""


def _tail_below(root: Path, name: str) -> str:
    """The longest end of a foreign path that exists below ``root``; empty without one."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    tails = ("/".join(parts[k:]) for k in range(1, len(parts)))
    return next((tail for tail in tails if (root / tail).is_file()), "")
