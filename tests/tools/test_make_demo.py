"""``make demo``: what a newcomer sees, with a shorter clip."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tests.conftest import load_tool
from tests.inference.fake_model import blob_video
from tests.small_weights import ship
from vmt.inference import package_detector
from vmt.inference.video_file import VideoFile
from vmt.inference.video_writer import VideoWriter


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Without weights in the package, and with a shorter clip of the cup."""
    pytest.importorskip("skimage")
    monkeypatch.setattr(package_detector, "FOLDER", tmp_path / "nothing")
    module = load_tool("make_demo")
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


def test_masks_belong_to_a_video(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--output", str(tmp_path), "--masks", "x"]) == 2
    assert "--masks need --video" in capsys.readouterr().err


def test_without_the_weights_of_the_package_no_objects_are_found(
    tool: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tool.main(["--output", str(tmp_path / "cup")]) == 0
    said = capsys.readouterr().out
    assert "two_cars.mp4: no objects are looked for: the weights of vmt_small are not" in said
    assert (tmp_path / "cup/picture.png").exists()
    assert not (tmp_path / "cup/found").exists()
    assert tool.main(["--output", str(tmp_path / "own"), "--video", "x.mp4"]) == 2
    assert "the weights of vmt_small are not in this package" in capsys.readouterr().err


def test_objects_are_found_with_the_weights_of_the_package(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(monkeypatch, tmp_path / "small")
    assert sum(1 for _ in VideoFile(tool.CARS)) == 52
    video = tmp_path / "blobs.mp4"
    with VideoWriter(video, 12.0, (64, 96)) as writer:
        for frame in blob_video(4, (64, 96)):
            writer.write(frame.numpy())
    assert tool.main(["--output", str(tmp_path / "own"), "--video", str(video)]) == 0
    assert not (tmp_path / "own/refined").exists()
    monkeypatch.setattr(tool, "CARS", video)
    assert tool.main(["--output", str(tmp_path / "both")]) == 0
    assert (tmp_path / "both/refined").is_dir()
    for folder in ("own", "both"):
        found = tmp_path / folder / "found"
        assert np.asarray(Image.open(found / "picture.png")).shape == (64, 96, 3)
        assert len(list((found / "masks").iterdir())) == 4
        assert sum(1 for _ in VideoFile(found / "overlay.mp4")) == 4


def test_the_picture_shows_a_frame_that_has_a_mask(tool: ModuleType, tmp_path: Path) -> None:
    """Polygons on one frame of your own video: that frame is pictured, not the middle one."""
    frame = np.full((64, 96, 3), 90, np.uint8)
    frame[20:44, 30:60] = (200, 40, 40)
    with VideoWriter(tmp_path / "my.mp4", 12.0, (64, 96)) as writer:
        for _ in range(6):
            writer.write(frame)
    polygons = tmp_path / "my_polygons"
    polygons.mkdir()
    corners = [[28, 18], [62, 18], [62, 46], [28, 46]]
    shapes = [{"label": "block", "points": corners, "shape_type": "polygon"}]
    (polygons / "00005.json").write_text(json.dumps({"shapes": shapes}))
    masks = ["--masks", str(polygons), "--output", str(tmp_path / "out")]
    masks += ["--first-number", "0"]
    assert tool.main(["--video", str(tmp_path / "my.mp4"), *masks]) == 0
    picture = np.asarray(Image.open(tmp_path / "out/picture.png").convert("RGB")).astype(int)
    outside, inside = picture[5, 5], picture[32, 45]
    assert abs(outside - 90).max() < 12
    assert abs(inside - (200, 40, 40)).max() > 20, "painted over"
