"""Every kind of input, made by the tests themselves; every defect ends in one clear sentence."""

import contextlib
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vmt.inference.sources import FirstFrames, open_videos
from vmt.inference.video_writer import VideoWriter
from vmt.utils.errors import AnnotationError, VideoError


def moving_square(frames: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    video = []
    for t in range(frames):
        frame = np.full((*size, 3), (40, 90, 160), np.uint8)
        frame[: size[0] // 2, : (t * 3) % size[1] + 1] = (230, 120, 20)
        video.append(frame)
    return video


def write_video(path: Path, frames: int = 20, size: tuple[int, int] = (48, 64)) -> Path:
    with VideoWriter(path, 10.0, size) as writer:
        for frame in moving_square(frames, size):
            writer.write(frame)
    return path


def write_raw(path: Path, codec: str, pix_fmt: str, frames: list[np.ndarray], fmt: str) -> Path:
    """A video in any codec and pixel format, straight through PyAV."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(8))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=fmt)))
        container.mux(stream.encode(None))
    return path


def write_frames(folder: Path, frames: int = 4, size: tuple[int, int] = (12, 16)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(moving_square(frames, size)):
        Image.fromarray(frame).save(folder / f"{t:05d}.png")
    return folder


def only(spec: Path | str, images: Path | None = None) -> object:
    (opener,) = open_videos(str(spec), images)
    return opener()


# Reading ----------------------------------------------------------------------------------------


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    source = only(write_video(tmp_path / "a.mp4"))
    assert (source.name, source.fps, source.size, source.num_frames) == ("a", 10.0, (48, 64), 20)
    for _ in range(2):  # as often as wanted
        decoded = list(source)
        assert len(decoded) == 20
        error = np.abs(decoded[7].astype(int) - moving_square(20)[7]).mean()
        assert error < 8


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mov", "libx264", "yuv444p"),
        ("a.mkv", "libx264", "gray"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("deep.mkv", "ffv1", "gray16le"),
    ],
)
def test_containers_and_pixel_formats(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    frames = moving_square(6)
    source = only(write_raw(tmp_path / name, codec, pix_fmt, frames, "rgb24"))
    decoded = list(source)
    assert len(decoded) == 6
    assert decoded[0].shape == (48, 64, 3)
    grey = "gray" in pix_fmt
    expected = np.asarray(Image.fromarray(frames[3]).convert("L" if grey else "RGB"), dtype=int)
    actual = decoded[3][..., 0] if grey else decoded[3]
    assert np.abs(actual - expected).mean() < 12


def test_gif(tmp_path: Path) -> None:
    images = [Image.fromarray(frame) for frame in moving_square(5)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=100)
    source = only(tmp_path / "a.gif")
    decoded = list(source)
    assert len(decoded) == 5
    assert source.fps == pytest.approx(10.0)
    assert np.abs(decoded[2].astype(int) - moving_square(5)[2]).mean() < 3


def test_transparency_is_put_over_black(tmp_path: Path) -> None:
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[..., :3], rgba[:, 8:, 3] = 200, 255
    source = only(write_raw(tmp_path / "a.mkv", "ffv1", "bgra", [rgba] * 3, "rgba"))
    frame = next(iter(source))
    assert frame[:, :8].max() == 0
    assert frame[:, 8:].min() == 200


def test_rotation_noted_in_the_file_is_applied(tmp_path: Path) -> None:
    """The display matrix of the track header says a quarter turn clockwise."""
    path = write_video(tmp_path / "a.mp4", 3, (48, 64))
    data = bytearray(path.read_bytes())
    one = (1 << 16).to_bytes(4, "big")
    matrix = data.index(one + bytes(12) + one, data.index(b"tkhd"))
    minus = ((1 << 32) - (1 << 16)).to_bytes(4, "big")
    data[matrix : matrix + 20] = bytes(4) + one + bytes(4) + minus + bytes(4)
    path.write_bytes(data)
    source = only(path)
    assert source.size == (64, 48)
    upright = next(iter(source)).astype(int)
    assert np.abs(upright - np.rot90(moving_square(3)[0], -1)).mean() < 8


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for t in (0, 2, 10, 9):
        Image.new("RGB", (4, 3), (t, 0, 0)).save(tmp_path / f"frame_{t}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    source = only(tmp_path)
    assert [int(f[0, 0, 0]) for f in source] == [0, 2, 9, 10]
    assert (source.name, source.num_frames, source.size) == (tmp_path.name, 4, (3, 4))


def test_glob_of_frames_and_of_videos(tmp_path: Path) -> None:
    write_frames(tmp_path / "clip", 5)
    source = only(tmp_path / "clip" / "0000[1-3].png")
    assert source.num_frames == 3
    write_video(tmp_path / "a.mp4", 2)
    write_video(tmp_path / "b.mp4", 3)
    assert [o().num_frames for o in open_videos(str(tmp_path / "*.mp4"))] == [2, 3]
    with pytest.raises(VideoError, match="beside other kinds"):
        open_videos(str(tmp_path / "**" / "*.*"))


def test_a_single_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.jpg")
    assert only(tmp_path / "a.jpg").num_frames == 1


@pytest.mark.parametrize("nested", [True, False])
def test_ytvis_json(tmp_path: Path, nested: bool) -> None:
    root = tmp_path / "JPEGImages" if nested else tmp_path
    videos = []
    for k, name in enumerate(("aaa", "bbb")):
        write_frames(root / name, 3 + k)
        files = [f"{name}/{t:05d}.png" for t in range(3 + k)]
        videos.append({"id": 7 + k, "file_names": files, "width": 16, "height": 12})
    (tmp_path / "valid.json").write_text(json.dumps({"videos": videos}))
    opened = [o() for o in open_videos(str(tmp_path / "valid.json"))]
    assert [(v.name, v.video_id, v.num_frames) for v in opened] == [("aaa", 7, 3), ("bbb", 8, 4)]
    assert all(v.complete_length for v in opened)
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps({"videos": videos}))
    assert len(open_videos(str(elsewhere), root)) == 2


def test_first_frames(tmp_path: Path) -> None:
    source = FirstFrames(only(write_video(tmp_path / "a.mp4")), 6)
    assert len(list(source)) == source.num_frames == 6
    with pytest.raises(VideoError, match="at least 1"):
        FirstFrames(source, 0)


# Bad input --------------------------------------------------------------------------------------


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file or folder; check the path"):
        open_videos(str(tmp_path / "gone.mp4"))
    with pytest.raises(VideoError, match="matches no file"):
        open_videos(str(tmp_path / "*.png"))


@pytest.mark.parametrize("name", ["a.mp4", "a.png"])
def test_zero_byte_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(VideoError, match=rf"{name}: is empty \(0 bytes\)"):
        only(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.jpg"])
def test_a_file_of_noise(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(range(256)) * 20)
    with pytest.raises(VideoError, match=rf"{name}: .*(damaged|another kind)"):
        only(tmp_path / name)


def test_unknown_extension(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("text")
    with pytest.raises(VideoError, match=r"a\.docx: \.docx is not a kind of video .*\.mp4"):
        only(tmp_path / "a.docx")


def test_heic_pictures(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    for spec in (tmp_path, tmp_path / "IMG_1.HEIC"):
        with pytest.raises(VideoError, match=r"HEIC pictures? of a phone; convert .* JPEG"):
            only(spec)


def test_audio_only_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"a\.mp4: holds no video, only audio"):
        only(path)


@pytest.mark.parametrize("beyond", [0, 10])
def test_truncated_video_gives_its_frames_then_the_error(tmp_path: Path, beyond: int) -> None:
    """Cut behind 41 whole packets, and within the one behind them."""
    path = write_video(tmp_path / "a.mp4", 60, (96, 128))
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        end = packets[40].pos + packets[40].size
    path.write_bytes(path.read_bytes()[: end + beyond])
    decoded: list[np.ndarray] = []
    with pytest.raises(VideoError, match=r"a\.mp4: only \d+ of 60 frames .*cut short"):
        decoded.extend(only(path))
    assert len(decoded) == 41
    for frame, truth in zip(decoded[:38], moving_square(60, (96, 128)), strict=False):
        assert np.abs(frame.astype(int) - truth).mean() < 8


def test_a_video_whose_table_of_contents_is_cut_off(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(VideoError, match=r"a\.mp4: .*(damaged|cut short)"):
        only(path)


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40, (96, 128))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = os.urandom(400)
    path.write_bytes(data)
    frames: list[np.ndarray] = []
    with contextlib.suppress(VideoError):  # some damage decodes without a complaint
        frames.extend(only(path))
    assert all(frame.shape == (96, 128, 3) for frame in frames)


def test_folder_of_mixed_sizes(tmp_path: Path) -> None:
    write_frames(tmp_path, 3)
    Image.new("RGB", (20, 12)).save(tmp_path / "00003.png")
    frames = iter(only(tmp_path))
    assert len([next(frames) for _ in range(3)]) == 3
    with pytest.raises(VideoError, match=r"00003\.png: is 20x12 pixels, but 00000\.png is 16x12"):
        next(frames)


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="has no images"):
        only(tmp_path)


def test_a_broken_image_in_a_folder(tmp_path: Path) -> None:
    write_frames(tmp_path, 3, (60, 60))
    data = (tmp_path / "00001.png").read_bytes()
    (tmp_path / "00001.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"00001\.png: cannot be read as an image"):
        list(only(tmp_path))


def test_missing_image_of_a_ytvis_json(tmp_path: Path) -> None:
    write_frames(tmp_path / "aaa", 2)
    names = ["aaa/00000.png", "aaa/00001.png", "aaa/00002.png"]
    path = tmp_path / "v.json"
    path.write_text(json.dumps({"videos": [{"id": 3, "file_names": names}]}))
    message = (
        r"v\.json: videos\[0\] \(id=3\) lists aaa/00002\.png, but .* does not exist; .*--images"
    )
    with pytest.raises(AnnotationError, match=message):
        open_videos(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has no list 'videos'"),
        ('{"videos": [{"file_names": ["a.png"]}]}', r"videos\[0\] has no integer 'id'"),
        ('{"videos": [{"id": 1}]}', r"\(id=1\) has no list 'file_names'"),
    ],
)
def test_a_json_that_is_no_ytvis_file(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(AnnotationError, match=message):
        open_videos(str(tmp_path / "v.json"))


def test_an_absent_camera() -> None:
    (opener,) = open_videos("99")
    with pytest.raises(VideoError, match="camera 99: gives no picture"):
        opener()


def test_a_camera_gives_upright_rgb_until_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's pictures are (h, w, 3) BGR; a rate that no camera has becomes 30."""
    import cv2

    class Device:
        rate = 25.0

        def __init__(self, index: int) -> None:
            assert index == 2
            self.left = 3

        def get(self, key: int) -> float:
            assert key == cv2.CAP_PROP_FPS
            return self.rate

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.left -= 1
            picture = np.full((4, 6, 3), (10, 20, 200), np.uint8)
            return (True, picture) if self.left >= 0 else (False, None)

        def release(self) -> None:
            self.left = 0

    monkeypatch.setattr(Device, "isOpened", lambda _: True, raising=False)
    monkeypatch.setattr(cv2, "VideoCapture", Device)
    camera = only("2")
    assert (camera.name, camera.fps, camera.size) == ("camera2", 25.0, (4, 6))
    assert (camera.num_frames, camera.rereadable) == (None, False)
    frames = []
    with pytest.raises(VideoError, match="camera2: the device sends no more after 2 frames, which"):
        frames.extend(camera)
    assert len(frames) == 2  # the first told the size
    assert {tuple(frame[3, 5]) for frame in frames} == {(200, 20, 10)}
    Device.rate = 0.0
    assert only("2").fps == 30.0
