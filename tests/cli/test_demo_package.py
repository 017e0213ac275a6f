"""``vmt demo`` with the network of the package, tiny and random here, and the refiner on top."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cocoapi_hq.io import rle
from tests.inference.fake_model import blob_video
from tests.small_weights import ship
from vmt.cli.main import main
from vmt.inference.video_file import VideoFile
from vmt.inference.video_writer import VideoWriter

SIZE, T = (64, 96), 5


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return ship(monkeypatch, tmp_path / "small")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 10.0, SIZE) as writer:
        for frame in blob_video(T, SIZE):
            writer.write(frame.numpy())
    return path


def demo(video: Path, output: Path, *more: str | Path) -> list[dict[str, Any]]:
    """Run the command; its results."""
    words = ["demo", "--input", video, "--output", output, *more]
    assert main([str(word) for word in words]) == 0
    loaded: list[dict[str, Any]] = json.loads((output / "results.json").read_text())
    assert loaded
    return loaded


def test_the_network_of_the_package_and_the_refiner_on_top(
    weights: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = demo(video, tmp_path / "plain", "--refiner", "none")
    said = capsys.readouterr().out
    assert "network: vmt_small of the package on cpu" in said
    assert f"weights: {weights}" in said
    assert "sharpened" not in said
    sharp = demo(video, tmp_path / "sharp")
    said = capsys.readouterr().out
    assert "masks are sharpened by mask_refiner" in said
    assert "frames/s" in said
    assert "refine " in said  # its share of the time
    assert sum(1 for _ in VideoFile(tmp_path / "sharp/overlay.mp4")) == T
    assert plain != sharp
    for before, after in zip(plain, sharp, strict=True):
        assert {**before, "segmentations": []} == {**after, "segmentations": []}
    with (tmp_path / "sharp/tracks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    areas = [rle.area(m) for entry in sharp for m in entry["segmentations"] if m is not None]
    assert {int(row["area"]) for row in rows} == set(areas)
    named = ["--config-file", weights.parent / "config.yaml", "--weights", weights]
    assert demo(video, tmp_path / "named", *named) == plain
    assert demo(video, tmp_path / "both", *named, "--refiner", "mask_refiner") == sharp


def test_no_such_refiner(
    weights: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "--input", str(video), "--output", str(tmp_path / "out")]
    assert main([*words, "--refiner", str(tmp_path / "gone.safetensors")]) == 2
    assert "its config must lie beside it" in capsys.readouterr().err


STOPPABLE = """
import sys
from pathlib import Path
from vmt.cli.main import main
from vmt.inference import package_detector

package_detector.FOLDER = Path(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_done(weights: Path, tmp_path: Path, repo: Path) -> None:
    video, out = tmp_path / "long.mp4", tmp_path / "out"
    words = [sys.executable, "-c", STOPPABLE, str(weights.parent)]
    with VideoWriter(video, 10.0, SIZE) as writer:
        for frame in blob_video(400, SIZE):
            writer.write(frame.numpy())
    process = subprocess.Popen(
        [*words, "demo", "--input", str(video), "--output", str(out)],
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    so_far, deadline = out / "tracks.csv.part", time.monotonic() + 120
    while not (so_far.exists() and so_far.read_bytes().count(b"\n") > 10):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted" in error
    done = sum(1 for _ in VideoFile(out / "overlay.mp4"))
    assert 2 < done < 400
    results = json.loads((out / "results.json").read_text())
    assert {len(entry["segmentations"]) for entry in results} == {done}
    with (out / "tracks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["frame"]) for row in rows} == set(range(done))
    areas: dict[int, set[int]] = {t: set() for t in range(done)}
    for row in rows:
        areas[int(row["frame"])].add(int(row["area"]))
    for entry in results:  # the sharpened masks, in both files
        for t, mask in enumerate(entry["segmentations"]):
            assert mask is None or not rle.area(mask) or rle.area(mask) in areas[t]
