"""Fetching published weight files.

A download goes on where it broke off (HTTP ranges), appears under its final name only when it is
complete, and is held against a SHA-256. The authors publish no checksums, so the first download
records its own in ``NAME.sha256`` beside the file, in the format of ``sha256sum``; later downloads
and ``vmt zoo --download`` of a file that is there must agree with it.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vmt.checkpoint.methods.base import ZooFile
from vmt.utils.atomic import write_text
from vmt.utils.errors import CheckpointError, OutputError, VmtError

#: Seconds without a byte after which a connection counts as broken.
TIMEOUT_S: Final = 30.0
#: Broken connections in a row, without a byte gained, after which we give up.
ATTEMPTS: Final = 4
_BLOCK: Final = 1 << 20

#: (bytes so far, bytes in total or None)
Progress = Callable[[int, int | None], None]


class DownloadError(VmtError, OSError):
    """A file cannot be fetched; what has arrived of it is kept."""


@dataclass(frozen=True)
class Fetched:
    """Outcome of ``fetch``.

    Args:
        path: the complete file.
        sha256: its checksum.
        downloaded: False if it was there already.
        checked_against: "published", "recorded" or, on the first download, "nothing".
    """

    path: Path
    sha256: str
    downloaded: bool
    checked_against: str


def fetch(
    file: ZooFile,
    folder: Path,
    url: str | None = None,
    progress: Progress | None = None,
    pause_s: float = 1.0,
) -> Fetched:
    """Bring a published file into a folder, or check the one that is there.

    Args:
        file: which.
        folder: made if it does not exist.
        url: a mirror; None for the authors' own link.
        progress: called while bytes arrive.
        pause_s: wait before a broken connection is tried again.

    Returns:
        Where it is and what it was checked against.

    Raises:
        DownloadError: no link is known, or the network, the server or the file refuses. What has
            arrived stays in ``FILE.part`` and the next call goes on from there.
        CheckpointError: the content differs from the published or recorded checksum.
        OutputError: the disk is full or the folder cannot be written.
    """
    target = folder / file.file_name
    try:
        if target.is_file():
            return _checked(file, target, target, downloaded=False)
        part = target.with_name(target.name + ".part")
        download = _Download(file, _link(file, target, url), part, progress, pause_s)
        folder.mkdir(parents=True, exist_ok=True)
        download.run()
        fetched = _checked(file, part, target, downloaded=True)
        part.replace(target)
        _validator(part).unlink(missing_ok=True)
    except VmtError:
        raise
    except OSError as error:
        raise _output_error(target, error) from None
    return fetched


def _link(file: ZooFile, target: Path, url: str | None) -> str:
    link = url or file.url
    if link is None:
        raise DownloadError(
            f"{file.name}: no direct link is published; open {file.page}, save the file as "
            f"{target}, or name a mirror with --url."
        )
    if urlsplit(link).scheme not in ("http", "https") or not urlsplit(link).netloc:
        raise DownloadError(f"{file.name}: {link!r} is no http or https address; correct --url.")
    return link


def _checked(file: ZooFile, path: Path, target: Path, *, downloaded: bool) -> Fetched:
    """Compare ``path`` with the published or recorded checksum; record it if there is none."""
    actual = sha256_of(path)
    record = target.with_name(target.name + ".sha256")
    kind, expected = "published", file.sha256
    if expected is None:
        kind, expected = "recorded", _read_record(record)
    if expected is None:
        kind = "nothing"
        write_text(record, f"{actual}  {target.name}\n")
    elif expected != actual:
        source = "the authors publish" if kind == "published" else f"{record} recorded"
        raise CheckpointError(
            f"{path}: has SHA-256 {actual}, but {source} {expected}; the file is damaged or its "
            f"source has changed: delete it{'' if kind == 'published' else f' (or {record})'} "
            "and download again."
        )
    return Fetched(target, actual, downloaded, kind)


def _read_record(record: Path) -> str | None:
    if not record.is_file():
        return None
    digest = re.match(r"([0-9a-f]{64})\b", record.read_text(encoding="ascii", errors="replace"))
    if digest is None:
        raise CheckpointError(
            f"{record}: holds no SHA-256 (64 hexadecimal digits first); delete it to record anew."
        )
    return digest[1]


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class _BrokenConnectionError(Exception):
    """The connection ended before the file did; trying again may help."""


class _Download:
    """Fills a ``.part`` file, over as many connections as it takes."""

    def __init__(
        self, file: ZooFile, url: str, part: Path, progress: Progress | None, pause_s: float
    ) -> None:
        self.file = file
        self.url = url
        self.part = part
        self.progress = progress
        self.pause_s = pause_s

    def run(self) -> None:
        failures = 0
        while True:
            before = self._size()
            try:
                self._connect()
                return
            except _BrokenConnectionError as error:
                failures = 1 if self._size() > before else failures + 1
                if failures >= ATTEMPTS:
                    raise self._error(str(error)) from None
                time.sleep(self.pause_s * failures)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _connect(self) -> None:
        """One connection: from what is there to the end of the file."""
        request = urllib.request.Request(self.url, headers={"User-Agent": "vmt"})
        have = self._size()
        if have:
            request.add_header("Range", f"bytes={have}-")
            if _validator(self.part).is_file():
                request.add_header("If-Range", _validator(self.part).read_text(encoding="latin-1"))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                self._receive(response, have)
        except urllib.error.HTTPError as error:
            self._refused(error, have)
        except urllib.error.URLError as error:
            raise self._unreachable(error) from None
        except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
            raise _BrokenConnectionError(_reason(error)) from None

    def _receive(self, response: http.client.HTTPResponse, have: int) -> None:
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(
                f"{self.file.name}: {_host(self.url)} answered with a web page in place of the "
                f"file (a quota or a sign-in page); open {self.file.page} in a browser and save "
                f"the file as {_final(self.part)}."
            )
        start = 0
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            start = int(span[1]) if span else have
        if start not in (0, have):
            raise self._error(f"the server sent bytes from {start} on, we asked for {have}")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdigit() else None
        if start == 0:  # a new file, or the server's has changed since, or it knows no ranges
            self._remember(response)
        done = start
        with self.part.open("r+b" if start else "wb") as part:
            part.seek(start)
            while block := response.read(_BLOCK):
                part.write(block)
                done += len(block)
                if self.progress is not None:
                    self.progress(done, total)
            part.flush()
            os.fsync(part.fileno())
        if total is not None and done < total:
            raise _BrokenConnectionError(f"the connection ended after {done} of {total} bytes")

    def _remember(self, response: http.client.HTTPResponse) -> None:
        """Keep what tells this version of the file from another, for ``If-Range``."""
        mark = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if mark is None or mark.startswith("W/"):
            _validator(self.part).unlink(missing_ok=True)
        else:
            _validator(self.part).write_text(mark, encoding="latin-1")

    def _refused(self, error: urllib.error.HTTPError, have: int) -> None:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return  # it was complete already
            self.part.unlink(missing_ok=True)
            raise _BrokenConnectionError("the file on the server has changed") from None
        if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR or error.code == 429:
            raise _BrokenConnectionError(f"HTTP {error.code} {error.reason}") from None
        raise DownloadError(
            f"{self.file.name}: {_host(self.url)} says HTTP {error.code} {error.reason}; see "
            f"{self.file.page} for where the file is now, and pass it with --url or save it as "
            f"{_final(self.part)}."
        ) from None

    def _unreachable(self, error: urllib.error.URLError) -> Exception:
        cause = error.reason
        if isinstance(cause, ConnectionResetError | TimeoutError):
            return _BrokenConnectionError(_reason(cause))
        reason = _reason(cause) if isinstance(cause, BaseException) else str(cause)
        return DownloadError(
            f"{self.file.name}: {_host(self.url)} cannot be reached from here ({reason}); on a "
            f"machine with a network open {self.file.page}, and copy the file to "
            f"{_final(self.part)}, or name a mirror with --url."
        )

    def _error(self, reason: str) -> DownloadError:
        return DownloadError(
            f"{self.file.name}: the download from {_host(self.url)} broke off ({reason}); "
            f"{self._size()} bytes are kept, run the same command again to go on."
        )


def _validator(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _final(part: Path) -> Path:
    return part.with_suffix("")


def _host(url: str) -> str:
    return urlsplit(url).netloc or url


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


def _output_error(target: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space and run the same command again, it goes on from there"
    else:
        fix = "choose another folder with --output"
    return OutputError(f"{target}: cannot be written ({_reason(error)}); {fix}.")
