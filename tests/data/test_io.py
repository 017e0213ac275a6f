from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmt.data.io import read_frame
from vmt.data.label_maps import read_labels
from vmt.utils.errors import VideoError

RAMP = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)


def test_frames_have_the_size_of_the_annotations(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_frame(tmp_path / "a.png", (6, 8)), np.stack([RAMP] * 3, axis=-1)
    )
    with pytest.raises(VideoError, match=r"a\.png: is 8x6 pixels, but the annotations .* 6x8"):
        read_frame(tmp_path / "a.png", (8, 6))


def test_a_size_that_exif_explains(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(VideoError, match=r"6x8 pixels \(turned upright by its EXIF .* for 8x6"):
        read_frame(tmp_path / "a.jpg", (6, 8))


def test_labels(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "8.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "8.png"), RAMP)
    Image.fromarray(RAMP.astype(np.uint16) * 100).save(tmp_path / "16.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "16.png"), RAMP.astype(int) * 100)
    Image.fromarray(RAMP > 20).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "1.png"), RAMP > 20)
    with pytest.raises(VideoError, match=r"none.png: no such file"):
        read_labels(tmp_path / "none.png")
