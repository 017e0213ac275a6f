"""What a visitor brings is a whole video of moderate size, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.apps.app.conftest import FRAMES, LIMITS, SIZE, Steps, write_clip
from vmt.apps.app.actions import load_video
from vmt.apps.app.clip import Limits, open_clip
from vmt.apps.app.session import Session
from vmt.inference.video_file import VideoFile
from vmt.utils.errors import VideoError


def load(path: Path, folder: Path, limits: Limits = LIMITS, **more):
    return open_clip(path, folder, limits, Steps().job().step, **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "own"
    made.mkdir()
    return made


def test_every_frame_has_a_picture_and_the_copy_is_the_visitors(
    clip_file: Path, folder: Path
) -> None:
    clip = load(clip_file, folder)
    assert (clip.num_frames, clip.size) == (FRAMES, SIZE)
    clip_file.unlink()
    frames = list(clip.source)
    assert len(frames) == FRAMES
    for t, frame in enumerate(frames):
        seen = clip.picture(t).astype(int)
        assert np.abs(seen - frame).mean() < 4
    assert "my clip" not in str(clip.source.path)  # no name of theirs
    clip.remove()
    assert not list(folder.iterdir())


def test_an_offered_video_stays_where_it_is(clip_file: Path, folder: Path) -> None:
    clip = load(clip_file, folder, own=False)
    assert clip.source.path == clip_file
    clip.remove()
    assert clip_file.is_file()
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.mp4", b"no video at all" * 50, "^This video: cannot be opened"),
        ("a.mp4", b"", "^This video: .*empty"),
        ("a.exe", b"MZ", "no video file"),
        ("a", b"MZ", "no video file"),
        ("a.mp4", b"0" * 1_000_001, "1 MB, more than the 1"),
    ],
)
def test_what_is_no_video(
    tmp_path: Path, folder: Path, name: str, content: bytes, match: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=match):
        load(tmp_path / name, folder)
    assert not list(folder.iterdir())


def test_a_video_that_is_cut_short(clip_file: Path, folder: Path) -> None:
    clip_file.write_bytes(clip_file.read_bytes()[:-400])
    with pytest.raises(VideoError, match=r"^This video: ") as refused:
        load(clip_file, folder)
    assert str(folder) not in str(refused.value)
    assert "my clip" not in str(refused.value)
    assert not list(folder.iterdir())


def test_a_video_that_is_too_long(clip_file: Path, folder: Path) -> None:
    assert load(clip_file, folder, Limits(1, FRAMES)) is not None
    with pytest.raises(VideoError, match=f"more than the {FRAMES - 1} frames"):
        load(clip_file, folder, Limits(1, FRAMES - 1))


def test_reading_may_be_stopped(clip_file: Path, session: Session) -> None:
    before = session.video()
    steps = Steps(stop_at=2)
    assert "no video was taken" in load_video(session, clip_file, LIMITS, steps.job())
    assert steps == [(1, FRAMES, "reading the video"), (2, FRAMES, "reading the video")]
    assert session.video() is before
    assert list(session.folder.iterdir()) == [before.folder]


def test_another_video_takes_the_place_of_the_first(tmp_path: Path, session: Session) -> None:
    session.add("cup")
    other = write_clip(tmp_path / "b.mp4", 3)
    text = load_video(session, other, LIMITS, Steps().job())
    assert text == "3 frames of 80x48 pixels, 10 per second."
    assert session.tracks == {}
    assert list(session.folder.iterdir()) == [session.video().folder]
    assert isinstance(session.video().source, VideoFile)
