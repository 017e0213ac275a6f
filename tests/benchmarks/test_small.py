"""Families of the classes of clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmt.data.families import SPACE
from vmt.structures.labels import LabelSpace

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_families_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By supercategory, by name, or another thing; 0 where a network has no such family."""
    monkeypatch.syspath_prepend(str(FOLDER))
    from bench_small import families_of  # type: ignore[import-not-found]

    rows = [
        {"id": 9, "name": "bus", "supercategory": "vehicle"},
        {"id": 2, "name": "camel"},
        {"id": 5, "name": "person"},
        {"id": 7, "name": "sports ball"},
    ]
    assert families_of(rows, SPACE) == {9: 3, 2: 2, 5: 1, 7: 4}
    only_persons = LabelSpace("persons", ("person",), (8,))
    assert families_of(rows, only_persons) == {9: 0, 2: 0, 5: 8, 7: 0}
