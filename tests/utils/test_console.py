"""``| head``: a reader that leaves costs no traceback, no file and no exit status."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from tests.cocoapi_hq.tube_cases import annotation, rect, truth
from vmt.cli.main import main
from vmt.utils.console import exit_with

BOX = rect(10, 10, 30, 30)


@pytest.fixture(params=["line by line", "at once"])
def closed_pipe(request: pytest.FixtureRequest) -> Iterator[TextIO]:
    """A stream into a pipe that nobody reads; what is written fails at once or when flushed."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1 if request.param == "line by line" else -1) as stream:
        yield stream


def test_the_mended_file_is_there_although_nobody_reads_the_text(
    closed_pipe: TextIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "gt.json", tmp_path / "fixed.json"
    path.write_text(json.dumps(truth([annotation(1, 1, [BOX, []])], {1: 2})))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed_pipe)
        assert main(["check-annotations", str(path), "--fix", str(out)]) == 1
        assert sys.stdout is closed_pipe
    assert json.loads(out.read_text())["annotations"][0]["segmentations"] == [BOX, None]


@pytest.mark.parametrize("words", [["zoo"], ["zoo", "--json"], ["--help"], ["eval", "--help"]])
def test_lists_and_help_end_quietly(
    words: list[str], closed_pipe: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed_pipe)
        try:
            status = main(words)
        except SystemExit as leaving:  # how argparse ends --help
            status = int(leaving.code or 0)
    assert status == 0


def test_one_sentence_into_a_closed_pipe_keeps_its_status(
    closed_pipe: TextIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", closed_pipe)
        assert main(["check-annotations", str(tmp_path / "none.json")]) == 2


def test_scripts_keep_their_status(closed_pipe: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def script() -> int:
        sys.stdout.write("a line\n" * 10)
        return 3

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed_pipe)
        with pytest.raises(SystemExit) as leaving:
            exit_with(script)
    assert leaving.value.code == 3


def test_every_script_ends_that_way() -> None:
    root = Path(__file__).resolve().parents[2]
    for path in [*root.glob("tools/*.py"), *root.glob("datasets/*.py")]:
        text = path.read_text()
        if "__main__" in text and path.name != "plant_bugs.py":
            assert "exit_with(main)" in text or "vmt.cli.main import main" in text, path.name
