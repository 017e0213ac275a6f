"""Video files as players show them: display matrices and edit lists."""

import struct
from pathlib import Path

import numpy as np
import pytest

from vmt.inference.video_file import VideoFile, count_frames
from vmt.inference.video_io import VideoWriter

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
