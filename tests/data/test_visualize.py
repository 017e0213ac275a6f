from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import cv2
import pytest


@pytest.fixture
def draw(repo: Path) -> Any:
    return runpy.run_path(str(repo / "tools/visualize_data.py"))["main"]


def test_pictures_of_batches(draw: Any, shapes: Path, tmp_path: Path) -> None:
    words = ["--data", f"{shapes}@{shapes.parent / 'JPEGImages'}", "--output", str(tmp_path)]
    words += ["--batches", "2", "--clips", "3", "INPUT.MIN_SIZE_TRAIN", "[48]"]
    words += ["INPUT.CROP_PROB", "0.0", "INPUT.CLIP_FRAMES", "4", "DATALOADER.NUM_WORKERS", "0"]
    assert draw(words) == 0
    pictures = sorted(tmp_path.glob("*.png"))
    assert [path.name for path in pictures] == ["step_000000.png", "step_000001.png"]
    assert cv2.imread(str(pictures[0])).shape == (3 * (48 + 22), 4 * 64 + 3 * 4, 3)


def test_messages(draw: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw(["--data", "hq_ytvis_tran", "--output", str(tmp_path)]) == 2
    assert "did you mean hq_ytvis_train?" in capsys.readouterr().err
