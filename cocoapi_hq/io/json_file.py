"""The one opener of JSON files: plain or gzip'd, UTF-8 or UTF-16, with or without a BOM.

What is no JSON is named for what it is (JSON lines, comments, a web page, an archive), so that a
person knows what to do. Every command reads its JSON here.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import tempfile
import zlib
from pathlib import Path
from typing import Any

from cocoapi_hq.exceptions import ScoringError

Json = Any

_GZIP = b"\x1f\x8b"
#: First bytes -> what such a file is; none of them is JSON.
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\x89PNG", "a PNG image, no JSON"),
    (b"\xff\xd8\xff", "a JPEG image, no JSON"),
    (b"\x80\x04", "a Python pickle, no JSON; save it with json.dump"),
    (b"\x93NUMPY", "a numpy array, no JSON"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
)
_COMMENT = re.compile(r"^\s*(//|/\*|#)", re.MULTILINE)
_LAST_COMMA = re.compile(r",\s*[\]}]")


def is_json_name(path: Path) -> bool:
    """True for ``*.json`` and ``*.json.gz``, in any case."""
    return path.name.lower().endswith((".json", ".json.gz"))


def read_bytes(path: Path) -> bytes:
    """Content of a JSON file as UTF-8 without a byte order mark; gzip is unpacked.

    Args:
        path: of the file; its name does not matter.

    Raises:
        ScoringError: the file cannot be read, is empty, or is of a kind that is no JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScoringError(f"{path}: cannot be read ({error.strerror or error}).") from None
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise ScoringError(
                f"{path}: is compressed with gzip, and its end is missing or damaged; copy the "
                "file again."
            ) from None
    if not content.strip():
        raise ScoringError(f"{path}: the file is empty.")
    for start, kind in _FOREIGN:
        if content.startswith(start):
            raise ScoringError(f"{path}: is {kind}.")
    encoding = json.detect_encoding(content)
    if encoding == "utf-8":
        return content
    try:
        return content.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeError as error:
        raise ScoringError(f"{path}: is not readable as {encoding} ({error}).") from None


def parse_json(text: bytes, where: str, offset: int = 0) -> Json:
    """Parse JSON; every way it can fail becomes a ScoringError that names the place.

    Args:
        text: UTF-8 bytes.
        where: file and entry, for the message.
        offset: position of the text in the file, for the message.
    """
    try:
        decoded = text.decode("utf-8" if offset else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScoringError(
            f"{where}: byte {offset + error.start} is not UTF-8; the file is no JSON, or of an "
            "encoding other than UTF-8 and UTF-16. Save it as UTF-8."
        ) from None
    try:
        return json.loads(decoded)
    except json.JSONDecodeError as error:
        raise ScoringError(f"{where}: {explain(decoded, error, offset)}") from None
    except (ValueError, RecursionError) as error:
        raise ScoringError(f"{where}: JSON cannot be read ({error}).") from None


def read_json(path: Path, where: str = "") -> Json:
    """Parsed content of a JSON file.

    Args:
        path: of the file.
        where: what messages call it; its path if empty.

    Raises:
        ScoringError: see :func:`read_bytes` and :func:`parse_json`.
    """
    return parse_json(read_bytes(path), where or str(path))


def explain(text: str, error: json.JSONDecodeError, offset: int = 0) -> str:
    """What a text is that does not parse as JSON, and what to do: the end of a sentence.

    Args:
        text: all of it.
        error: what the parser said.
        offset: position of the text in its file.
    """
    begin = text.lstrip()[:200].lower()
    if begin.startswith(("<!doctype", "<html", "<?xml", "<annotations")):
        return "is HTML or XML, no JSON; was it a download that needed a log-in?"
    if _is_lines(text):
        return (
            "holds one JSON value per line (JSON lines); make one list of them, "
            "[line 1, line 2, ...]."
        )
    place = f"line {error.lineno}, column {error.colno}"
    if offset:
        place = f"character {offset + error.pos}"
    before, rest = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if not rest:
        what = f"it ends at {place} before it is complete; it was cut off"
    elif rest.startswith(("//", "/*", "#")) or _COMMENT.match(text):
        what = f"it has a comment at {place}; remove all comments"
    elif rest.startswith("'"):
        what = f"single quotes at {place} make it Python text; write it with json.dump"
    elif (before.endswith(",") and rest[0] in "]}") or _LAST_COMMA.match(rest):
        what = f"a comma too many before {place}; remove it"
    else:
        what = f"{error.msg} at {place}"
    return f"is not valid JSON: {what}."


def _is_lines(text: str) -> bool:
    """True if the first two lines that are not empty are JSON objects or lists of their own."""
    lines = text.lstrip().split("\n", 2)
    values = [line.strip() for line in lines[:2]]
    if len(values) < 2 or not all(value.startswith(("{", "[")) for value in values):
        return False
    try:
        for value in values:
            json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


def write_json(path: Path | str, data: Json) -> None:
    """Write JSON in one step: a reader sees the old file or the whole new one.

    Raises:
        ScoringError: the folder is not there or not writable.
    """
    write_text(path, json.dumps(data))


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text in one step, gzip'd into ``*.gz``; errors as :func:`write_json`."""
    path = Path(path)
    content = text.encode()
    if path.suffix.lower() == ".gz":
        content = gzip.compress(content, mtime=0)
    try:
        with tempfile.NamedTemporaryFile(
            "wb", dir=path.parent, prefix=path.name, suffix=".part", delete=False
        ) as file:
            part = Path(file.name)
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                part.chmod(0o644)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ScoringError(f"{path}: cannot be written ({error.strerror or error}).") from None
