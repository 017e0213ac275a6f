"""Rooms of the tree and their tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import LONGEST, REPO

TESTS = REPO / "tests"
ROOMS = sorted(
    path.relative_to(REPO)
    for package in ("vmt", "cocoapi_hq")
    for path in (REPO / package).iterdir()
    if any(path.glob("*.py"))
)


def fast_tests(path: Path) -> list[str]:
    """Names of the tests of a file that ``make test-fast`` runs."""
    content = ast.parse(path.read_text(encoding="utf-8"))
    marks = [n for n in content.body if "pytestmark" in ast.unparse(n).split(" = ")[0]]
    if path.relative_to(TESTS).as_posix() in LONGEST or any(
        "mark.slow" in ast.unparse(n) for n in marks
    ):
        return []
    return [
        node.name
        for node in content.body
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not any("mark.slow" in ast.unparse(mark) for mark in node.decorator_list)
    ]


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_a_room_has_fast_tests(room: Path) -> None:
    folder = TESTS / (room.relative_to("vmt") if room.parts[0] == "vmt" else room)
    assert any(fast_tests(path) for path in folder.rglob("test_*.py")), folder


def test_long_files_are_there() -> None:
    assert all((TESTS / name).is_file() for name in LONGEST)
