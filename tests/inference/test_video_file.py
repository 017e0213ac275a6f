"""Video files as players show them: display matrices and edit lists."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vmt.inference.video_file import VideoFile, count_frames
from vmt.inference.video_writer import VideoWriter
from vmt.utils.errors import VideoError

#: A coded picture of 2 x 2 fields and what players show of it, by the display matrix
#: (a, b, c, d): the stored point (x, y) is shown at (a x + c y, b x + d y).
SHOWN = {
    (1, 0, 0, 1): [[0, 1], [2, 3]],
    (-1, 0, 0, 1): [[1, 0], [3, 2]],
    (-1, 0, 0, -1): [[3, 2], [1, 0]],
    (1, 0, 0, -1): [[2, 3], [0, 1]],
    (0, 1, 1, 0): [[0, 2], [1, 3]],
    (0, 1, -1, 0): [[2, 0], [3, 1]],
    (0, -1, -1, 0): [[3, 1], [2, 0]],
    (0, -1, 1, 0): [[1, 3], [0, 2]],
}
TICKS = 1024  # of the track's clock per frame at 10 frames a second


def grey_levels(frames: list[np.ndarray]) -> list[int]:
    """Numbers of frames whose grey is 20 times their number."""
    return [round(float(frame.mean()) / 20) for frame in frames]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames, number t of grey 20 t, one key frame, B-frames."""
    path = tmp_path_factory.mktemp("video") / "numbered.mp4"
    with VideoWriter(path, 10.0, (32, 48), quality=5) as writer:
        for t in range(12):
            writer.write(np.full((32, 48, 3), 20 * t, np.uint8))
    return path


@pytest.mark.parametrize("matrix", SHOWN)
def test_display_matrix(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    """All turns and mirrorings that a phone notes, written into the track header by hand."""
    coded = np.kron(np.array([[0, 1], [2, 3]], np.uint8) * 80, np.ones((32, 48), np.uint8))
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 10.0, coded.shape, quality=5) as writer:
        writer.write(np.repeat(coded[..., None], 3, axis=2))
    data = bytearray(path.read_bytes())
    one = 1 << 16
    plain = struct.pack(">5i", one, 0, 0, 0, one)
    place = data.index(plain, data.index(b"tkhd"))
    a, b, c, d = (one * value for value in matrix)
    data[place : place + 20] = struct.pack(">5i", a, b, 0, c, d)
    path.write_bytes(data)
    source = VideoFile(path)
    (frame,) = source
    assert frame.shape == (*source.size, 3)
    assert source.size == ((64, 96) if matrix[0] else (96, 64))
    step = (source.size[0] // 2, source.size[1] // 2)
    fields = frame[step[0] // 2 :: step[0], step[1] // 2 :: step[1], 0]
    assert np.rint(fields / 80).astype(int).tolist() == SHOWN[matrix]


@pytest.mark.parametrize(
    ("first", "count"), [(0, 12), (5, 7), (0, 7), (3, 4), (11, 1)], ids=lambda value: str(value)
)
def test_edit_list(tmp_path: Path, numbered: Path, first: int, count: int) -> None:
    """A trim without re-encoding leaves the coded frames and notes which of them are shown."""
    data = bytearray(numbered.read_bytes())
    place = data.index(b"elst") + 12
    duration, start = struct.unpack_from(">ii", data, place)
    assert duration == 1200
    struct.pack_into(">ii", data, place, 100 * count, start + first * TICKS)
    (tmp_path / "trimmed.mp4").write_bytes(data)
    source = VideoFile(tmp_path / "trimmed.mp4")
    assert grey_levels(list(source)) == list(range(first, first + count))
    assert source.num_frames == count
    assert count_frames(tmp_path / "trimmed.mp4") == count


def test_frames_without_their_key_frame_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that a careless tool split: some frames refer to one that is in the other half."""
    rules = "keyint=6:min-keyint=6:scenecut=0:bframes=3:b-adapt=0:open-gop=1:log-level=none"
    with av.open(str(tmp_path / "whole.mp4"), "w") as container:
        options = {"x265-params": rules}
        stream = container.add_stream("libx265", rate=Fraction(10), options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for t in range(12):
            grey = np.full((64, 96, 3), 20 * t, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    assert len(list(VideoFile(tmp_path / "whole.mp4"))) == 12
    with (
        av.open(str(tmp_path / "whole.mp4")) as source,
        av.open(str(tmp_path / "a.mp4"), "w") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        second = [k for k, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[second:]:
            packet.stream = stream
            target.mux(packet)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data.replace(b"edts", b"free"))  # it hides such frames
    frames = list(VideoFile(tmp_path / "a.mp4"))
    listed = len(packets) - second
    assert len(frames) < listed
    assert f"lists {listed} frames, of which {len(frames)} can be decoded" in caplog.text


def plain(
    codec: str, pix_fmt: str, levels: Sequence[int], size: tuple[int, int] = (32, 48)
) -> list:
    """Codec, pixel format, frames of one grey level each."""
    return [codec, pix_fmt, [np.full((*size, 3), level, np.uint8) for level in levels]]


def write_streams(path: Path, *streams: list, **options: object) -> Path:
    with av.open(str(path), "w") as container:
        opened = []
        for codec, pix_fmt, frames in streams:
            stream = container.add_stream(codec, rate=Fraction(10))
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pix_fmt
            for name, value in options.items():
                setattr(stream.codec_context, name, value)
            opened.append((stream, frames))
        for stream, frames in opened:
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                for name, value in options.items():
                    setattr(picture, name, value)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    return path


def test_of_two_streams_the_one_that_players_show(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small, large = plain("mpeg4", "yuv420p", [0] * 4, (16, 32)), plain("ffv1", "yuv444p", [200] * 4)
    for order in ((small, large), (large, small)):
        path = write_streams(tmp_path / "a.mkv", *order)
        with av.open(str(path)) as container:
            best = container.streams.best("video").index
        caplog.clear()
        (first, *_) = VideoFile(path)
        assert first.shape == order[best][2][0].shape
        assert f"holds 2 video streams; number {best} is read" in caplog.text


def test_a_codec_without_decoder(tmp_path: Path, numbered: Path) -> None:
    data = numbered.read_bytes()
    (tmp_path / "a.mp4").write_bytes(data.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(VideoError, match="coded in a way that this FFmpeg cannot decode; convert"):
        VideoFile(tmp_path / "a.mp4")


def test_ten_bits(tmp_path: Path) -> None:
    """Levels 0 to 1020 of 1023 are those of 8 bits."""
    path = write_streams(tmp_path / "a.mkv", plain("ffv1", "gbrp10le", [0, 100, 255]))
    assert [int(frame[5, 5, 0]) for frame in VideoFile(path)] == pytest.approx([0, 100, 255], abs=1)


@pytest.mark.parametrize(("transfer", "warned"), [(16, True), (18, True), (1, False)])
def test_hdr_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, transfer: int, warned: bool
) -> None:
    streams = plain("libx264", "yuv420p", [100] * 2)
    path = write_streams(tmp_path / "a.mp4", streams, color_trc=transfer)
    source = VideoFile(path)
    assert len(list(source)) == 2
    assert ("is HDR" in caplog.text) == warned


def test_frames_of_uneven_duration_are_each_shown_once(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(10))
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv444p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate((0, 40, 500, 510, 2000)):
            grey = np.full((32, 48, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert grey_levels(list(VideoFile(path))) == [0, 1, 2, 3, 4]
    assert count_frames(path) == 5


def test_a_size_that_changes_on_the_way(tmp_path: Path) -> None:
    """As recorders of a window write it: two runs of frames of two sizes, one after the other."""
    parts = [
        write_streams(tmp_path / f"{k}.ts", plain("mpeg2video", "yuv420p", [90] * 5, size))
        for k, size in enumerate(((32, 48), (64, 96)))
    ]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = []
    with pytest.raises(VideoError, match=r"changes its size from 48x32 to 96x64 pixels on the way"):
        frames.extend(VideoFile(tmp_path / "a.ts"))
    assert {frame.shape for frame in frames} <= {(32, 48, 3)}


def test_damage_that_the_decoder_conceals_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 96, 3), dtype=np.uint8)
    path = write_streams(tmp_path / "a.mkv", ["mpeg2video", "yuv420p", list(noise)])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(255 - value for value in data[middle : middle + 60])
    path.write_bytes(data)
    frames: list[np.ndarray] = []
    try:
        frames.extend(VideoFile(path))
    except VideoError as error:
        assert "damaged" in str(error)  # noqa: PT017 (either is right)
    else:
        assert len(frames) == 8
        assert "frames are damaged (first: number" in caplog.text
