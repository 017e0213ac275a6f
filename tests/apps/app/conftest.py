"""A visitor with a video, and networks that need no training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.inference.fake_model import BlobModel, blob_video
from vmt.apps.app import networks as networks_module
from vmt.apps.app.actions import load_video
from vmt.apps.app.clip import Limits
from vmt.apps.app.networks import Networks
from vmt.apps.app.options import AppOptions
from vmt.apps.app.session import Job, Session
from vmt.inference.mask_refiner import RefinedFrame
from vmt.inference.video_writer import VideoWriter

SIZE, FRAMES = (48, 80), 6
#: Options of its window and sizes are used; the network is a toy.
CONFIG = "quick/vmt_tiny_released"
LIMITS = Limits(megabytes=1, frames=20)


class Grow:
    """A refiner that adds a pixel on every side."""

    def __init__(self) -> None:
        self.frames = 0
        self.wait = threading.Event()
        self.wait.set()

    def stream(self, frames, masks, **_) -> Iterator[RefinedFrame]:
        """A frame at a time, each when it may go on."""
        for _frame, coarse in zip(frames, masks, strict=True):
            assert self.wait.wait(20)
            self.frames += 1
            padded = np.pad(coarse, ((0, 0), (1, 1), (1, 1)))
            grown = coarse.copy()
            for y, x in ((0, 1), (2, 1), (1, 0), (1, 2)):
                grown |= padded[:, y : y + coarse.shape[1], x : x + coarse.shape[2]]
            changed = (grown != coarse).sum((1, 2))
            none = np.zeros(len(coarse), bool)
            sure = np.full(coarse.shape[1:], 255, np.uint8)
            yield RefinedFrame(grown, np.full(len(coarse), 0.9), changed, none, sure)


class Steps(list):
    """What a job reported; asks it to stop after some frames."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.event = threading.Event()
        self.stop_at = stop_at

    def __call__(self, done: int, total: int, what: str) -> None:
        self.append((done, total, what))
        if done == self.stop_at:
            self.event.set()

    def job(self) -> Job:
        return Job(self, self.event)


def write_clip(path: Path, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> Path:
    """Coloured blobs that ``BlobModel`` finds."""
    with VideoWriter(path, 10.0, size) as writer:
        for frame in blob_video(frames, size):
            writer.write(frame.numpy())
    return path


@pytest.fixture
def clip_file(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "my clip.mp4")


@pytest.fixture
def session(tmp_path: Path, clip_file: Path) -> Session:
    folder = tmp_path / "session"
    folder.mkdir()
    session = Session(folder)
    load_video(session, clip_file, LIMITS, Steps().job())
    return session


@pytest.fixture
def grow(monkeypatch: pytest.MonkeyPatch) -> Grow:
    """In place of the mask refiner."""
    made = Grow()
    monkeypatch.setattr(
        networks_module.MaskRefiner, "from_pretrained", lambda weights, device: made
    )
    return made


@pytest.fixture
def networks(grow: Grow, monkeypatch: pytest.MonkeyPatch) -> Networks:
    monkeypatch.setattr(networks_module, "load_segmenter", lambda *_: BlobModel())
    return Networks(AppOptions(CONFIG, "toy.pth", overrides=("INPUT.MIN_SIZE_TEST", "48")))
