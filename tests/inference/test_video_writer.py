"""Videos and pictures that are written, read back."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.inference.test_sources import moving_square, only, write_video
from vmt.inference.video_file import VideoFile
from vmt.inference.video_writer import VideoWriter, write_png
from vmt.utils.errors import OutputError


def test_write_png_kinds(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_png(tmp_path / "p.png", ids, [c for k in range(256) for c in (k, 0, 255 - k)])
    with Image.open(tmp_path / "p.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), ids)
    write_png(tmp_path / "i.png", ids.astype(np.uint16) * 300)
    with Image.open(tmp_path / "i.png") as image:
        np.testing.assert_array_equal(np.asarray(image), ids.astype(int) * 300)
    with pytest.raises(OutputError, match=r"nowhere.*cannot be written"):
        write_png(tmp_path / "nowhere" / "a.png", ids)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (37, 64), (48, 63)])
def test_odd_sizes_are_padded_to_even(tmp_path: Path, size: tuple[int, int]) -> None:
    decoded = list(only(write_video(tmp_path / "a.mp4", 4, size)))
    assert [f.shape for f in decoded] == [(size[0] + size[0] % 2, size[1] + size[1] % 2, 3)] * 4


def test_the_file_suits_browsers(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10


def test_the_final_name_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"an earlier run")
    writer = VideoWriter(path, 10.0, (48, 64))
    for frame in moving_square(5):
        writer.write(frame)
    assert path.read_bytes() == b"an earlier run"
    writer.close()
    writer.close()
    assert len(list(VideoFile(path))) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_without_frames_there_is_no_file(tmp_path: Path) -> None:
    VideoWriter(tmp_path / "a.mp4", 10.0, (48, 64)).close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.mp4: cannot be written \(No such file"):
        VideoWriter(tmp_path / "nowhere" / "a.mp4", 10.0, (48, 64))


def test_frames_must_have_the_size_of_the_video(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10.0, (48, 64)) as writer:
        writer.write(moving_square(1)[0])
        with pytest.raises(ValueError, match="in a video of"):
            writer.write(np.zeros((48, 66, 3), np.uint8))


@pytest.mark.parametrize("fps", [6.0, 12.5, 30000 / 1001])
def test_written_videos_have_the_rate_that_was_given(tmp_path: Path, fps: float) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps, (16, 24)) as writer:
        for frame in moving_square(9, (16, 24)):
            writer.write(frame)
    assert VideoFile(tmp_path / "a.mp4").fps == pytest.approx(fps, rel=1e-4)
