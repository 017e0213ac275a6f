"""``vmt demo`` on videos that are still happening."""

from __future__ import annotations

import csv
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.inference.broadcast import encoded, pipe, sent
from tests.inference.fake_model import BlobFrameModel, BlobRefiningModel, blob_video
from vmt.apps import segment
from vmt.cli.main import main
from vmt.inference.video_file import VideoFile

SIZE = (72, 120)
CONFIG = "configs/quick/idol_tiny.yaml"
MODELS = {"idol": BlobFrameModel, "refinevis": BlobRefiningModel}


@pytest.fixture(params=MODELS)
def blobs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    monkeypatch.setattr(segment, "load_segmenter", lambda *args: MODELS[request.param]())
    monkeypatch.chdir(repo)


def frames(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [frame.numpy() for frame in blob_video(count, size)]


def run(spec: Path | str, output: Path, *more: str) -> int:
    argv = ["demo", "--config-file", CONFIG, "--input", str(spec), "--output", str(output)]
    return main([*argv, *more, "INPUT.MIN_SIZE_TEST", "72"])


def lengths(output: Path) -> set[int]:
    """Frames of the tracks in the results."""
    return {len(e["segmentations"]) for e in json.loads((output / "results.json").read_text())}


@pytest.mark.usefixtures("blobs")
@pytest.mark.parametrize("grows", [False, True])
def test_masks_of_a_frame_are_there_before_the_next_is_sent(tmp_path: Path, grows: bool) -> None:
    """Whoever sends waits for the label map of each frame."""
    spec, out = tmp_path / "recording.y4m", tmp_path / "out"
    if grows:
        spec.touch()
    else:
        spec = pipe(tmp_path)
    late = []

    def wait(number: int) -> None:
        until = time.monotonic() + 20
        while number and not (out / f"masks/{number - 1:05d}.png").exists():
            if time.monotonic() > until:
                late.append(number)
                return
            time.sleep(0.01)

    options = ["--follow", "--patience", "2"] if grows else []
    with sent(spec, encoded(frames(10)), wait):
        assert run(spec, out, "--save-masks", *options) == 0
    assert not late
    assert lengths(out) == {10}
    assert len(list(VideoFile(out / "overlay.mp4"))) == 10


@pytest.mark.usefixtures("blobs")
def test_what_was_done_when_it_breaks_off(tmp_path: Path, capsys) -> None:
    never = threading.Event()
    stalls = (encoded(frames(8)), lambda number: number != 5 or never.wait(20))
    grown = [encoded(frames(4, size), "mpegts", "libx264") for size in (SIZE, (96, 64))]
    changes = (grown[0] + grown[1], lambda number: None)
    for name, (pieces, before), message, done in (
        ("a", stalls, "pipe: no frame came for 1 s after 5 frames, which are done", 5),
        ("b", changes, "pipe: frames change from 120x72 to 64x96 pixels after 4 frames", 4),
    ):
        (tmp_path / name).mkdir()
        spec, out = pipe(tmp_path / name), tmp_path / name / "out"
        with sent(spec, pieces, before):
            assert run(spec, out, "--patience", "1") == 2
            never.set()
        error = capsys.readouterr().err.strip().splitlines()
        assert error[-1].startswith(f"vmt demo: {message}")
        assert lengths(out) == {done}
        assert len(list(VideoFile(out / "overlay.mp4"))) == done
        with (out / "tracks.csv").open(newline="") as file:
            assert {int(row["frame"]) for row in csv.DictReader(file)} == set(range(done))


@pytest.mark.usefixtures("blobs")
def test_nothing_comes_at_all(tmp_path: Path, capsys) -> None:
    spec = pipe(tmp_path)
    with sent(spec, [b""]):
        assert run(spec, tmp_path / "out") == 2
    assert "pipe: cannot be opened as a live video" in capsys.readouterr().err
    assert run(tmp_path / "none.ts", tmp_path / "out", "--follow") == 2
    assert "none.ts: is no file that grows" in capsys.readouterr().err
    assert run(spec, tmp_path / "out", "--patience", "-1") == 2
    assert "--patience -1: give seconds" in capsys.readouterr().err


def test_offline_clips_of_a_stream(tmp_path: Path, monkeypatch, repo: Path) -> None:
    """They come out clip by clip, and the last one is shorter."""
    model = BlobRefiningModel(4, random=True)
    monkeypatch.setattr(segment, "load_segmenter", lambda *args: model)
    monkeypatch.chdir(repo)
    spec, out = pipe(tmp_path), tmp_path / "out"
    argv = ["demo", "--config-file", CONFIG, "--input", str(spec), "--output", str(out)]
    keys = ["INPUT.MIN_SIZE_TEST", "72", "TEST.REFINEVIS.MODE", "offline"]
    with torch.inference_mode(), sent(spec, encoded(frames(10))):
        assert main([*argv, *keys]) == 0
    assert model.calls == [4, 4, 2]
    assert lengths(out) == {10}
