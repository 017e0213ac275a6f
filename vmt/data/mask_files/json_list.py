"""A JSON file and where the elements of its one long list stand in it.

Rewriting such a file replaces some elements; every other byte is copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoapi_hq.io.fields import short
from cocoapi_hq.io.json_file import explain, read_bytes
from vmt.utils.errors import AnnotationError, scoring_errors

Json = Any
_SPACE = " \t\r\n"
_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class Place:
    """One element of the list.

    Args:
        begin: of its text.
        end: behind its text.
        member: id of the video or image that it belongs to, or the name of a video without id; None
            without one.
        crowd: it is a crowd region.
    """

    begin: int
    end: int
    member: Json
    crowd: bool = False


@dataclass(frozen=True)
class JsonList:
    """A file whose top is a list, or an object with a list ``annotations``.

    Args:
        path: of the file.
        text: all of it.
        name: of the list in messages: ``annotations``, or ``results`` for a bare list.
        places: of the elements.
        top: the other members of the object; empty for a bare list.
        first: the first element, which tells what the file is; None in an empty list.
    """

    path: Path
    text: str
    name: str
    places: Sequence[Place]
    top: dict[str, Json]
    first: Json

    def element(self, row: int) -> dict[str, Json]:
        """Parse one element."""
        place = self.places[row]
        element: dict[str, Json] = json.loads(self.text[place.begin : place.end])
        return element

    def where(self, row: int) -> str:
        """For messages."""
        return f"{self.path}: {self.name}[{row}]"

    def spelled(self, row: int, element: Json) -> str:
        """An element as text, in the style of the one that stands at ``row``."""
        place = self.places[row]
        old = self.text[place.begin : min(place.end, place.begin + 200)]
        tight = '":' in old and '": ' not in old
        return json.dumps(
            element,
            ensure_ascii=self.text.isascii(),
            separators=(",", ":") if tight else None,
        )


def read_json_list(path: Path) -> JsonList:
    """Scan a file.

    Raises:
        AnnotationError: unreadable, no JSON, or an element of its list is no object.
    """
    with scoring_errors():
        data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path}: byte {error.start} is not UTF-8; the file is no JSON, or of an encoding "
            "other than UTF-8 and UTF-16. Save it as UTF-8."
        ) from None
    try:
        return _scan(path, text)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}: {explain(text, error)}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{path}: JSON cannot be read ({error}).") from None


def _scan(path: Path, text: str) -> JsonList:
    start = _skip(text, 0)
    top: dict[str, Json] = {}
    places: list[Place] = []
    first: list[Json] = []

    def read_member(key: str, at: int) -> int:
        if key == "annotations" and text[at : at + 1] == "[":
            return _scan_elements(path, key, text, at, places, first)
        top[key], end = _decoder.raw_decode(text, at)
        return end

    name = "annotations"
    if text[start : start + 1] == "[":
        name = "results"
        end = _scan_elements(path, name, text, start, places, first)
    elif text[start : start + 1] == "{":
        end = _scan_members(text, start, read_member)
    else:
        _, end = _decoder.raw_decode(text, start)
    if _skip(text, end) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return JsonList(path, text, name, places, top, first[0] if first else None)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _expect(text: str, at: int, allowed: str) -> str:
    character = text[at : at + 1]
    if character not in allowed or not character:
        raise json.JSONDecodeError(f"Expecting one of {' '.join(allowed)}", text, at)
    return character


def _scan_members(text: str, start: int, read: Callable[[str, int], int]) -> int:
    """Hand key and place of each value to ``read``, which says where it ends.

    Returns:
        The place behind the object.
    """
    at = _skip(text, start + 1)
    while text[at : at + 1] != "}":
        _expect(text, at, '"')
        key, at = _decoder.raw_decode(text, at)
        at = _skip(text, at)
        _expect(text, at, ":")
        at = _skip(text, read(key, _skip(text, at + 1)))
        if _expect(text, at, ",}") == ",":
            at = _skip(text, at + 1)
    return at + 1


def _scan_elements(
    path: Path, name: str, text: str, start: int, places: list[Place], first: list[Json]
) -> int:
    """Note the elements of the list at ``start``; returns the place behind it."""
    at = _skip(text, start + 1)
    while text[at : at + 1] != "]":
        element, end = _decoder.raw_decode(text, at)
        if not isinstance(element, dict):
            raise AnnotationError(
                f"{path}: {name}[{len(places)}] is {short(element)}; give an object with masks."
            )
        if not first:
            first.append(element)
        members = (element.get(key) for key in ("video_id", "image_id", "video_name"))
        member = next((value for value in members if value is not None), None)
        places.append(Place(at, end, member, bool(element.get("iscrowd"))))
        at = _skip(text, end)
        if _expect(text, at, ",]") == ",":
            at = _skip(text, at + 1)
    return at + 1
