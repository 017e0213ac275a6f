"""Videos forwards and backwards, from whatever source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmt.inference.propagation.replay import Replay
from vmt.inference.sources import FrameList

FRAMES = [np.full((16, 24, 3), (40 * t, 200 - 30 * t, 90), np.uint8) for t in range(5)]


def frame_list(folder: Path) -> FrameList:
    paths = [folder / f"{t}.png" for t in range(len(FRAMES))]
    for path, frame in zip(paths, FRAMES, strict=True):
        Image.fromarray(frame).save(path)
    return FrameList("v", paths)


@pytest.mark.parametrize("kind", ["list", "array", "files", "generator"])
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    sources: dict[str, Iterable[np.ndarray]] = {
        "list": FRAMES,
        "array": np.stack(FRAMES),
        "files": frame_list(tmp_path),
        "generator": iter(FRAMES),
    }
    replay = Replay(sources[kind], again=3)
    there = list(replay.forwards())
    assert [t for t, _ in there] == [0, 1, 2, 3, 4]
    assert all((frame == FRAMES[t]).all() for t, frame in there)
    back = list(replay.backwards())
    assert [t for t, _ in back] == [2, 1, 0]
    for t, frame in back:
        off = np.abs(frame.astype(int) - FRAMES[t])
        assert off.max() <= (3 if kind == "generator" else 0)
    replay.close()


def test_colours_are_whole_on_disk() -> None:
    fine = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    replay = Replay(iter([fine]), again=1)
    assert len(list(replay.forwards())) == 1
    ((_, frame),) = replay.backwards()
    assert np.abs(frame.astype(int) - fine).mean() < 6  # with chroma subsampling about 40


def test_nothing_waits_on_disk_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("no file is needed")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    for frames, again in ((iter(FRAMES), 0), (FRAMES, 5)):
        replay = Replay(frames, again)
        assert len(list(replay.forwards())) == 5
        assert len(list(replay.backwards())) == again
