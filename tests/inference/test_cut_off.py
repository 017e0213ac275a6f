"""Video files of all containers, whole and cut at several points.

Whole ones must pass, whatever their header leaves out; of cut ones the frames that are there come
first, then one sentence.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vmt.inference.cut_off import ends_within_frame
from vmt.inference.video_file import VideoFile, count_frames
from vmt.utils.errors import VideoError

T, H, W = 12, 48, 64
REALTIME = {"deadline": "realtime", "cpu-used": "8"}
#: Name -> container, codec, sound, options of the container, options of the codec.
KINDS: dict[str, tuple[str, str, str, dict[str, str], dict[str, str]]] = {
    "h264.mkv": ("matroska", "libx264", "aac", {}, {}),
    "vp9.webm": ("webm", "libvpx-vp9", "", {}, REALTIME),
    "hidden.webm": ("webm", "libvpx", "", {}, REALTIME | {"auto-alt-ref": "1"}),
    "live.webm": ("webm", "libvpx-vp9", "libopus", {"live": "1"}, REALTIME),
    "live.mkv": ("matroska", "libx264", "", {"live": "1"}, {}),
    "h264.ts": ("mpegts", "libx264", "aac", {}, {}),
    "mpeg2.ts": ("mpegts", "mpeg2video", "", {}, {}),
    "h264.m2ts": ("mpegts", "libx264", "", {"mpegts_m2ts_mode": "1"}, {}),
    "mpeg2.mpg": ("mpeg", "mpeg2video", "", {}, {}),
    "h264.mp4": ("mp4", "libx264", "", {"movflags": "+faststart"}, {}),
    "sound.mp4": ("mp4", "libx264", "aac", {"movflags": "+faststart"}, {}),
    "fragments.mp4": ("mp4", "libx264", "", {"movflags": "frag_keyframe+empty_moov"}, {}),
    "mpeg4.avi": ("avi", "mpeg4", "", {}, {}),
    "h264.flv": ("flv", "libx264", "", {}, {}),
    "mpeg4.wmv": ("asf", "msmpeg4v3", "", {}, {}),
    "frames.gif": ("gif", "gif", "", {}, {}),
    "raw.y4m": ("yuv4mpegpipe", "wrapped_avframe", "", {}, {}),
    "pictures.mjpeg": ("mjpeg", "mjpeg", "", {}, {}),
}
PIXELS = {"gif": "rgb8", "mjpeg": "yuvj420p"}


def write(path: Path) -> None:
    """Noise that moves, under a bar whose grey is 20 times the number of the frame."""
    container_name, codec, sound, options, codec_options = KINDS[path.name]
    noise = np.random.default_rng(0)
    ground = noise.integers(0, 255, (H, W, 3), dtype=np.uint8)
    with av.open(str(path), "w", format=container_name, options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(10), options=dict(codec_options))
        stream.height, stream.width, stream.gop_size = H, W, 4
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        audio = container.add_stream(sound, rate=48000) if sound else None
        for t in range(T):
            frame = np.roll(ground, 3 * t, axis=1)
            frame[:16] = 20 * t
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            if audio:
                tone = (0.1 * noise.standard_normal((1, 4800))).astype(np.float32)
                samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                samples.sample_rate, samples.pts = 48000, 4800 * t
                container.mux(audio.encode(samples))
        container.mux(stream.encode(None))
        if audio:
            container.mux(audio.encode(None))


Maker = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Writes a kind when it is first asked for."""
    folder = tmp_path_factory.mktemp("whole")

    def written(name: str) -> Path:
        path = folder / name
        if not path.exists():
            write(path)
        return path

    return written


def decode(path: Path) -> tuple[list[int], str]:
    """Numbers of the frames that decode, and the sentence behind them."""
    numbers = []
    try:
        for frame in VideoFile(path):
            numbers.append(round(float(frame[2:14, 4:-4].mean()) / 20))
    except VideoError as error:
        return numbers, str(error)
    return numbers, ""


def behind_header(data: bytes, end: int) -> int:
    """A place that lies in the header of a fragment is moved into the fragment."""
    start = data.rfind(b"moof", 0, end) - 4
    size = int.from_bytes(data[start : start + 4], "big")
    return max(end, start + size + 100) if start >= 0 else end


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_pass(make: Maker, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = make(name)
    assert decode(path) == (list(range(T)), "")
    assert VideoFile(path).num_frames in (None, T)
    assert count_frames(path) == T
    VideoFile(path).check_whole()
    assert not caplog.records


def test_cut_in_the_header_of_a_fragment(make: Maker, tmp_path: Path) -> None:
    """FFmpeg opens nothing then, whatever lies before."""
    data, path = make("fragments.mp4").read_bytes(), tmp_path / "fragments.mp4"
    path.write_bytes(data[: data.rindex(b"moof") + 40])
    numbers, sentence = decode(path)
    assert not numbers
    assert "fragments.mp4: cannot be opened as a video: it is cut short" in sentence


@pytest.mark.parametrize("name", [name for name in KINDS if name != "sound.mp4"])
def test_cut_files_are_said(make: Maker, name: str, tmp_path: Path) -> None:
    """At five points; the last frame may be half a one, all before it are right."""
    data = make(name).read_bytes()
    path = tmp_path / name
    for share in (0.4, 0.53, 0.71, 0.83, 0.9):
        end = int(share * len(data))
        end += 7 * (end % 188 == 0)  # between two packets of a transport stream: see below
        if name == "fragments.mp4":
            end = behind_header(data, end)
        path.write_bytes(data[:end])
        numbers, sentence = decode(path)
        assert numbers[:-1] == list(range(T))[: max(0, len(numbers) - 1)]
        assert len(numbers) < T or "only 12" in sentence
        assert f"{name}: only " in sentence
        assert ": copy or export it again" in sentence, share
        assert sentence.count("\n") == 0
        with pytest.raises(VideoError):
            count_frames(path) if VideoFile(path).num_frames is None else list(VideoFile(path))


@pytest.mark.parametrize(
    "name", ["h264.mkv", "live.webm", "h264.ts", "fragments.mp4", "mpeg4.avi", "h264.flv"]
)
def test_a_copy_that_broke_off_behind_its_allocation(
    make: Maker, name: str, tmp_path: Path
) -> None:
    """The file has its full length, and zero bytes from the middle on."""
    data = make(name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    numbers, sentence = decode(tmp_path / name)
    assert len(numbers) < T
    assert "filled with zero bytes" in sentence


@pytest.mark.parametrize("name", ["h264.mkv", "mpeg4.avi", "frames.gif", "h264.flv", "mpeg2.mpg"])
def test_what_players_show_wholly_passes(make: Maker, name: str, tmp_path: Path) -> None:
    """Without the last byte, which belongs to an index or end mark; or with bytes appended."""
    data = make(name).read_bytes()
    for content in (
        data[:-1],
        data + b"appended by somebody, and more than sixty-four bytes. " * 2,
    ):
        (tmp_path / name).write_bytes(content)
        assert decode(tmp_path / name) == (list(range(T)), "")


def test_sound_that_is_cut_off_leaves_the_frames_whole(make: Maker, tmp_path: Path) -> None:
    data = make("sound.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[:-20])
    assert decode(tmp_path / "a.mp4") == (list(range(T)), "")


def test_a_recording_of_a_browser(make: Maker, tmp_path: Path) -> None:
    """MediaRecorder: no duration, segment and clusters of unknown length."""
    data = make("live.webm").read_bytes()
    cluster, unknown = b"\x1f\x43\xb6\x75", b"\x01" + 7 * b"\xff"
    pieces = data.split(cluster)
    assert len(pieces) > 2
    for k, piece in enumerate(pieces[1:], 1):
        pieces[k] = unknown + piece[9 - piece[0].bit_length() :]
    data = cluster.join(pieces)
    (tmp_path / "a.webm").write_bytes(data)
    assert decode(tmp_path / "a.webm") == (list(range(T)), "")
    (tmp_path / "a.webm").write_bytes(data[: len(data) // 2])
    numbers, sentence = decode(tmp_path / "a.webm")
    assert 0 < len(numbers) < T
    assert "cut short" in sentence


def test_a_transport_stream_cut_between_packets(
    make: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing proves that more was there; but a frame that ends without padding is said."""
    data = make("h264.m2ts").read_bytes()
    with av.open(str(make("h264.m2ts"))) as container:
        number = container.streams.video[0].id
    heads = [int.from_bytes(data[k + 5 : k + 7], "big") for k in range(0, len(data), 192)]
    inside = [k for k, head in enumerate(heads) if head == number]  # goes on with a frame
    (tmp_path / "a.m2ts").write_bytes(data[: 192 * inside[len(inside) // 2]])
    assert ends_within_frame(tmp_path / "a.m2ts", number)
    assert not ends_within_frame(make("h264.m2ts"), number)
    numbers, sentence = decode(tmp_path / "a.m2ts")
    assert 0 < len(numbers) < T
    assert "cut short" in sentence or "ends within a frame" in caplog.text


@pytest.mark.parametrize(
    ("name", "share", "message"),
    [
        ("h264.mkv", 0.02, "cut short"),
        ("mpeg4.avi", 0.03, r"it is cut short \(its last part needs [\d,]+ bytes more than"),
    ],
)
def test_files_cut_within_their_header(
    make: Maker, tmp_path: Path, name: str, share: float, message: str
) -> None:
    data = make(name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(VideoError, match=message):
        VideoFile(tmp_path / name)


def test_an_mp4_without_its_table(make: Maker, tmp_path: Path) -> None:
    """A camera writes the table last: a broken-off recording has none."""
    data = make("h264.mp4").read_bytes()
    start = data.index(b"mdat") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    head = data[: int.from_bytes(data[:4], "big")]
    (tmp_path / "a.mp4").write_bytes(head + data[start : start + length])
    with pytest.raises(VideoError, match=r"table of contents \(moov\) is missing, .* not finished"):
        VideoFile(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_bytes(head + data[start : start + length // 2])
    with pytest.raises(VideoError, match=r"it is cut short \(its last part needs [\d,]+ bytes"):
        VideoFile(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "it is a web page, .*; download the file in"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer; .*git lfs"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "it is a PNG picture; give it as an image"),
        (bytes(range(256)) * 4, "it is of no kind of video known here, or its beginning is dam"),
    ],
)
def test_what_is_no_video(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mkv").write_bytes(content)
    with pytest.raises(VideoError, match=rf"a\.mkv: .*{message}"):
        VideoFile(tmp_path / "a.mkv")
