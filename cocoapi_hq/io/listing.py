"""The files of a folder in the order that people mean, without what systems leave behind.

Every reader of folders lists them here: 2 stands before 10, capitals in an extension mean nothing,
and ``._00000.png``, ``.DS_Store``, ``Thumbs.db`` or ``__MACOSX`` are not there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

NaturalKey = tuple[tuple[tuple[int, int, str], ...], str]

#: Left in folders by macOS, Windows and network drives, beside hidden names.
_CLUTTER = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir"))


def natural_key(name: str) -> NaturalKey:
    """Sort key under which ``frame_9`` stands before ``frame_10``.

    Capitals do not count, and of equal numbers (``1``, ``01``) the spelling decides.
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    numbers = ((0, int(p), "") if p[0] in "0123456789" else (1, 0, p.lower()) for p in parts)
    return tuple(numbers), name


def sort_paths(paths: Iterable[Path]) -> list[Path]:
    """Paths in natural order, folder by folder, without what systems left there."""
    named = (path for path in paths if not path.name.startswith("."))
    clean = (path for path in named if path.name.lower() not in _CLUTTER)
    return sorted(clean, key=lambda path: natural_key(path.as_posix()))


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Files of a folder in natural order.

    Args:
        folder: that exists.
        suffixes: of the files, in small letters, with their dot.
    """
    return sort_paths(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.is_file())


def list_folders(folder: Path) -> list[Path]:
    """Sub-folders in natural order."""
    return sort_paths(path for path in folder.iterdir() if path.is_dir())
