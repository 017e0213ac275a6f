"""Files of a video: frames are drawn while those before are encoded."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vmt.apps import pipeline
from vmt.apps.pipeline import OutputFiles, VideoFiles
from vmt.inference.predictor import FrameResult
from vmt.structures.labels import LabelSpace
from vmt.utils.atomic import DiskReserve
from vmt.utils.errors import OutputError

SIZE = (6, 8)


class Writer:
    """Stands in for the encoder; waits until it may go on."""

    def __init__(self, *_: object, **__: object) -> None:
        self.go_on = threading.Event()
        self.written: list[int] = []
        self.thread: int | None = None
        self.closed_after = -1

    def write(self, picture: np.ndarray) -> None:
        assert self.go_on.wait(20)
        self.thread = threading.get_ident()
        if picture[0, 0, 0] == 3:
            raise OutputError("the disk is full")
        self.written.append(int(picture[0, 0, 0]))

    def close(self) -> None:
        self.closed_after = len(self.written)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VideoFiles:
    monkeypatch.setattr(pipeline, "VideoWriter", Writer)
    labels = LabelSpace("test", names=("thing",), category_ids=(1,))
    predictor = SimpleNamespace(model=SimpleNamespace(label_space=labels))
    source = SimpleNamespace(fps=5.0, size=SIZE)
    asked = OutputFiles(table=False)
    return VideoFiles(source, tmp_path, asked, predictor, DiskReserve(tmp_path))


def frame(value: int) -> FrameResult:
    return FrameResult(value, (), frame=np.full((*SIZE, 3), value, np.uint8))


def test_frames_are_drawn_while_others_wait_for_the_encoder(files: VideoFiles) -> None:
    for value in (0, 1, 2):
        files.add(frame(value))  # none waits
    assert files._video.written == []
    files._video.go_on.set()
    files.close()
    assert files._video.written == [0, 1, 2]
    assert files._video.closed_after == 3  # the file is finished behind its last frame
    assert files._video.thread != threading.get_ident()


def test_few_frames_wait(files: VideoFiles) -> None:
    added: list[int] = []

    def add() -> None:
        for value in (0, 1, 2, 4, 5, 6, 7, 8, 9):
            files.add(frame(value))
            added.append(value)

    thread = threading.Thread(target=add)
    thread.start()
    thread.join(0.5)
    assert len(added) == 5  # one in work, four that wait
    files._video.go_on.set()
    thread.join(20)
    files.close()
    assert files._video.written == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_what_the_encoder_fails_with_is_heard_and_the_file_is_finished(files: VideoFiles) -> None:
    files._video.go_on.set()
    files.add(frame(0))
    files.add(frame(3))
    with pytest.raises(OutputError, match="full"):
        files.close()
    assert files._video.closed_after == 1
