"""Files that appear whole or not at all, and room on the disk to finish them when it fills up."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vmt.utils.errors import OutputError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def output_error(path: Path, error: OSError) -> OutputError:
    """The one sentence for a file that cannot be written."""
    if error.errno in _FULL:
        cause, fix = "the disk is full", "free some space or choose another output folder"
    else:
        cause = error.strerror or str(error)
        fix = "check that the folder exists and may be written, or choose another"
    return OutputError(f"{path}: cannot be written ({cause}); {fix}.")


def make_folder(path: Path) -> Path:
    """Create a folder and its parents; OutputError if something stands in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from None
    return path


class AtomicFile:
    """A file under a temporary name (``NAME.part``) until it is complete.

    As a context manager it commits, or discards after an exception.

    Args:
        path: final name; a file of that name stays untouched until ``commit``.
        durable: content and name are on the disk when ``commit`` returns.
        shared: other processes may write the same file at the same time; the last one counts.
        on_full: called when the disk is full; True means that it made room: try again.

    Raises:
        OutputError: the file cannot be created or written.
    """

    def __init__(
        self,
        path: Path,
        *,
        durable: bool = True,
        shared: bool = False,
        on_full: Callable[[], bool] | None = None,
    ) -> None:
        self.path = path
        self.closed = False
        own = f".{os.getpid()}" if shared else ""
        self._temporary = path.with_name(f"{path.name}{own}.part")
        self._durable = durable
        self._on_full = on_full
        try:
            self._file = self._temporary.open("w+b", buffering=0)
        except OSError as error:
            raise output_error(path, error) from None

    @property
    def name(self) -> str:
        """The temporary name (libraries that take file objects ask for it)."""
        return str(self._temporary)

    def write(self, data: bytes) -> int:
        """Write all of ``data``; returns its length."""
        rest = memoryview(data)
        while len(rest):
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                if error.errno in _FULL and self._on_full is not None and self._on_full():
                    continue
                raise output_error(self.path, error) from None
        return len(data)

    def flush(self) -> None:
        """Libraries ask for it; no byte waits in a buffer."""

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes from the current place."""
        return self._file.read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to another place; returns it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The current place, in bytes from the start."""
        return self._file.tell()

    def truncate(self, size: int) -> None:
        """Cut behind ``size`` bytes and go on from there."""
        self._file.truncate(size)
        self._file.seek(size)

    def reopen(self) -> BinaryIO:
        """A second handle that reads what is written so far."""
        return self._temporary.open("rb")

    def commit(self) -> None:
        """Close the file and give it its final name."""
        if self.closed:
            return
        try:
            if self._durable:
                os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self.path)
            if self._durable:
                _sync_folder(self.path.parent)
        except OSError as error:
            self.discard()
            raise output_error(self.path, error) from None
        self.closed = True

    def discard(self) -> None:
        """Close and remove the temporary file."""
        if self.closed:
            return
        self.closed = True
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all; OutputError if it cannot be."""
    with AtomicFile(path) as file:
        file.write(text.encode())


class DiskReserve:
    """Blocks on the disk that are given up when it is full, so that open files can be finished.

    An mp4 needs its table of contents and ``results.json`` a copy of the spooled masks at the end;
    the reserve grows with both. Writers call ``release`` when the disk is full (``on_full``); the
    pipeline looks at ``released`` after every frame and stops.

    Args:
        folder: on the disk in question.
        size: bytes to start with.
    """

    STEP = 1 << 20

    def __init__(self, folder: Path, size: int = STEP) -> None:
        self.released = False
        self._path = folder / ".reserve.part"
        self._asked = 0
        self._size = 0
        try:
            self._file = self._path.open("wb", buffering=0)
        except OSError as error:
            raise output_error(self._path, error) from None
        self.grow(size)

    def grow(self, size: int) -> None:
        """Ask for ``size`` bytes more; releases everything when the disk has no room for them."""
        self._asked += size
        if self.released or self._asked <= self._size:
            return
        target = -(-self._asked // self.STEP) * self.STEP
        try:
            _allocate(self._file, self._size, target - self._size)
        except OSError:
            self.release()
            return
        self._size = target

    def release(self) -> bool:
        """Give the blocks back; False when there were none left to give."""
        if self.released:
            return False
        self.released = True
        self._remove()
        return True

    def close(self) -> None:
        """Give the blocks back at the end of a run that needed none of them."""
        if not self.released:
            self._remove()

    def _remove(self) -> None:
        self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _allocate(file: BinaryIO, offset: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), offset, size)
        return
    file.seek(offset)
    for _ in range(0, size, 1 << 16):
        file.write(bytes(min(size, 1 << 16)))
