"""``make demo``: what a newcomer sees, with a shorter clip."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools/make_demo.py"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("skimage")
    spec = importlib.util.spec_from_file_location("make_demo", TOOL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_demo", module)
    spec.loader.exec_module(module)
    module.FRAMES = 3
    return module


def test_everything_is_written(tool: ModuleType, tmp_path: Path, capsys: object) -> None:
    assert tool.main(["--output", str(tmp_path)]) == 0
    for name in ("clip.mp4", "overlay.mp4", "picture.png", "report.html"):
        assert (tmp_path / name).stat().st_size > 1000
    for t in range(3):
        before, after = (
            json.loads((tmp_path / folder / f"{t:05d}.json").read_text())["shapes"]
            for folder in ("coarse", "refined")
        )
        assert before[0]["label"] == after[0]["label"] == "cup"
        assert len(after[0]["points"]) > len(before[0]["points"]) == 17


def test_video_and_masks_go_together(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--output", str(tmp_path), "--video", "x.mp4"]) == 2
    assert "--video and --masks go together" in capsys.readouterr().err
