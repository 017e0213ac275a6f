"""Live videos: each frame as soon as it is sent, and every way in which they end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.inference.broadcast import encoded, pipe, sent
from tests.inference.fake_model import blob_video
from vmt.inference.live import Camera, LiveOptions, Stream
from vmt.inference.sources import FirstFrames, VideoSource, open_videos
from vmt.inference.video_file import VideoFile
from vmt.utils.errors import ConfigError, VideoError

SIZE = (48, 64)
HASTY = LiveOptions(patience=1)
CALM = LiveOptions(patience=10)


def frames(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [frame.numpy() for frame in blob_video(count, size)]


def only(spec: Path | str, live: LiveOptions = CALM) -> VideoSource:
    (opener,) = open_videos(str(spec), live=live)
    return opener()


def taken(source: VideoSource, message: str) -> list[np.ndarray]:
    """The frames before the error."""
    got = []
    with pytest.raises(VideoError, match=message):
        got.extend(source)
    return got


@pytest.mark.parametrize("grows", [False, True])
def test_a_frame_is_there_before_the_next_is_sent(tmp_path: Path, grows: bool) -> None:
    turn = [threading.Event() for _ in range(9)]
    turn[0].set()
    spec = pipe(tmp_path)
    if grows:
        spec = tmp_path / "recording.y4m"
        spec.touch()
    with sent(spec, encoded(frames(8)), lambda number: turn[number].wait(20)):
        source = only(spec, LiveOptions(follow=True, patience=1.0) if grows else CALM)
        assert (source.fps, source.size, source.rereadable) == (10.0, SIZE, False)
        assert isinstance(source, VideoSource)
        for number, frame in enumerate(source):
            assert np.abs(frame.astype(int) - frames(8)[number]).mean() < 6
            turn[number + 1].set()
    assert number == 7


@pytest.mark.parametrize(
    ("form", "codec"), [("mpegts", "libx264"), ("matroska", "libx264"), ("flv", "libx264")]
)
def test_no_frame_is_lost(tmp_path: Path, form: str, codec: str) -> None:
    """The first ones, by which FFmpeg learns what the stream is, come out as well."""
    pieces = encoded(frames(12), form, codec)
    (tmp_path / "all.mkv").write_bytes(b"".join(pieces))
    spec = pipe(tmp_path)
    with sent(spec, pieces):
        got = list(only(spec))
    assert np.array_equal(np.stack(got), np.stack(list(VideoFile(tmp_path / "all.mkv"))))


def test_a_file_that_grows_ends_when_it_is_quiet(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "recording.ts"
    pieces = encoded(frames(12), "mpegts", "libx264")
    path.write_bytes(pieces[0])
    with sent(path, pieces[1:], lambda number: time.sleep(0.05)):
        assert len(list(only(path, LiveOptions(follow=True, patience=1.0)))) == 12
    assert caplog.text.count("has not grown for 1 s: the end") == 1
    with pytest.raises(VideoError, match=r"gone\.ts: is no file that grows; leave out --follow"):
        only(tmp_path / "gone.ts", LiveOptions(follow=True))


def test_a_stream_that_stalls(tmp_path: Path) -> None:
    spec, never = pipe(tmp_path), threading.Event()
    with sent(spec, encoded(frames(5)), lambda number: number != 3 or never.wait(20)):
        source = only(spec, HASTY)
        started = time.monotonic()
        got = taken(source, r"pipe: no frame came for 1 s after 3 frames, which are done")
        assert time.monotonic() - started < 5
        assert len(got) == 3
        never.set()


def test_frames_that_change_their_size(tmp_path: Path) -> None:
    pieces = [
        *encoded(frames(4), "mpegts", "libx264"),
        *encoded(frames(4, (64, 96)), "mpegts", "libx264"),
    ]
    spec = pipe(tmp_path)
    with sent(spec, pieces):
        got = taken(only(spec), "frames change from 64x48 to 96x64 pixels after 4 frames")
    assert len(got) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be opened as a live video"),
        (b"no video at all" * 500, "cannot be opened as a live video"),
        (encoded(frames(1))[0][:60], "not one frame came|cannot be opened"),
    ],
)
def test_what_is_no_video(tmp_path: Path, content: bytes, message: str) -> None:
    spec = pipe(tmp_path)
    with sent(spec, [content]), pytest.raises(VideoError, match=message) as caught:
        only(spec)
    assert str(spec) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_addresses_that_answer_nothing() -> None:
    for spec in ("tcp://127.0.0.1:1", "rtsp://127.0.0.1:1/live"):
        with pytest.raises(VideoError, match=r"127\.0\.0\.1:1.*: cannot be opened as a live video"):
            only(spec, HASTY)


class Served(BaseHTTPRequestHandler):
    """A video by HTTP; of ``/stalls`` three quarters, then silence."""

    pieces = encoded(frames(40), "mpegts", "libx264")
    over = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(b"".join(self.pieces))))
        self.end_headers()
        stalls = self.path == "/stalls"
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"".join(self.pieces[: 30 if stalls else None]))
            self.wfile.flush()
            if stalls:
                self.over.wait(20)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_an_address(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        source = only(f"{address}/live.ts?key=1")
        assert source.name == "live"
        assert len(list(source)) == 40
        got = taken(only(f"{address}/stalls", HASTY), "stalls: no frame came for 1 s after 2. fra")
        assert len(got) >= 25, "the last pictures are whole once the next ones begin"
        Served.over.set()
        server.shutdown()


def test_the_standard_input(tmp_path: Path) -> None:
    spec, before = pipe(tmp_path), os.dup(0)
    with sent(spec, encoded(frames(6))):
        file = os.open(spec, os.O_RDONLY)
        os.dup2(file, 0)
        try:
            assert len(list(only("-"))) == 6
        finally:
            os.dup2(before, 0)
            os.close(file)
            os.close(before)


def test_the_first_frames_of_a_stream(tmp_path: Path) -> None:
    spec = pipe(tmp_path)
    with sent(spec, encoded(frames(30, (240, 320)))):
        assert len(list(FirstFrames(only(spec), 3))) == 3


def test_times_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match=r"--patience -1: give seconds from 0 on"):
        LiveOptions(patience=-1)
    with pytest.raises(ConfigError, match="the file would never end"):
        LiveOptions(follow=True, patience=0)


# --- cameras ----------------------------------------------------------------------------------


class Device:
    """A camera of OpenCV's."""

    pictures: Callable[[int], tuple[bool, np.ndarray | None]]

    def __init__(self, index: int) -> None:
        self.count = 0

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, key: int) -> float:
        return 25.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.count += 1
        return type(self).pictures(self.count)

    def release(self) -> None:
        self.count = 0


def camera(
    monkeypatch: pytest.MonkeyPatch, pictures: Callable[[int], tuple[bool, np.ndarray | None]]
) -> Camera:
    import cv2

    kind = type("Kind", (Device,), {"pictures": staticmethod(pictures)})
    monkeypatch.setattr(cv2, "VideoCapture", kind)
    return Camera(0, HASTY)


def test_a_camera_that_stops_or_stalls_or_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = np.zeros((4, 6, 3), np.uint8), np.zeros((8, 6, 3), np.uint8)

    def stops(count: int) -> tuple[bool, np.ndarray | None]:
        return (True, small) if count < 4 else (False, None)

    def stalls(count: int) -> tuple[bool, np.ndarray | None]:
        if count == 4:
            time.sleep(3)
        return True, small

    def changes(count: int) -> tuple[bool, np.ndarray | None]:
        return True, small if count < 4 else large

    for pictures, message in (
        (stops, "camera0: the device sends no more after 2 frames"),
        (stalls, r"camera0: no frame came for 1 s after 2 frames"),
        (changes, "camera0: frames change from 6x4 to 6x8 pixels after 2 frames"),
    ):
        assert len(taken(camera(monkeypatch, pictures), message)) == 2
    with pytest.raises(VideoError, match="camera 0: gives no picture"):
        camera(monkeypatch, lambda count: (False, None))


def test_a_stream_can_be_left(tmp_path: Path) -> None:
    """Whoever stops listening does not wait for the sender."""
    spec, never = pipe(tmp_path), threading.Event()
    with sent(spec, encoded(frames(5)), lambda number: number != 3 or never.wait(20)):
        source = only(spec)
        iterator = iter(source)
        next(iterator)
        started = time.monotonic()
        iterator.close()  # type: ignore[attr-defined]
        assert time.monotonic() - started < 2
        never.set()
    assert isinstance(source, Stream)


def test_ctrl_c_does_not_wait_for_the_sender(tmp_path: Path) -> None:
    spec, never = pipe(tmp_path), threading.Event()
    # whoever runs the tests in the background ignores the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with sent(spec, encoded(frames(5)), lambda number: number != 3 or never.wait(20)):
        iterator = iter(only(spec))
        for _ in range(3):
            next(iterator)
        interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        started = time.monotonic()
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            next(iterator)
        assert time.monotonic() - started < 4
        never.set()
    signal.signal(signal.SIGINT, before)
