"""The fields of one JSON entry, checked; what is wrong is named with place, value and fix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeGuard

import numpy as np

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.json_file import Json


def is_int(value: object) -> TypeGuard[int]:
    """True for integers that are no booleans."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def is_finite(value: object) -> bool:
    """True for numbers that are neither nan nor infinite, nor beyond a float; no booleans."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def short(value: object, limit: int = 60) -> str:
    """A value for a message, cut to ``limit`` characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer beyond the interpreter's limit of digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def need(
    entry: dict[str, Json], key: str, where: str, check: Callable[[Json], bool], want: str
) -> Json:
    """The value under ``key``; ScoringError if it is missing or ``check`` does not hold."""
    if key not in entry:
        near = f" (it has {key[:-1]!r})" if key.endswith("s") and key[:-1] in entry else ""
        raise ScoringError(f"{where} has no {key!r}{near}; give {want}.")
    value = entry[key]
    if not check(value):
        raise ScoringError(f"{where}.{key} is {short(value)}; give {want}.")
    return value


def category_of(entry: dict[str, Json], where: str) -> int:
    """``category_id`` of an annotation or result; ScoringError unless it is an integer."""
    return int(need(entry, "category_id", where, is_int, "the integer id of a category"))


def annotation_id(entry: dict[str, Json], position: int, where: str) -> int:
    """``id`` of an annotation; without one, its place in the file counted from 1."""
    if entry.get("id") is None:
        return position + 1
    return int(need(entry, "id", where, is_int, "an integer"))


def is_crowd(entry: dict[str, Json], where: str) -> bool:
    """``iscrowd`` of an annotation, False where it is absent; ScoringError unless it is 0 or 1."""
    if entry.get("iscrowd") is None:
        return False

    def is_flag(value: Json) -> bool:
        return isinstance(value, (int, np.integer)) and value in (0, 1)

    return bool(need(entry, "iscrowd", where, is_flag, "0 or 1"))
