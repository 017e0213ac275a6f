from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmt.data.io import read_frame, read_labels
from vmt.utils.errors import VideoError

RAMP = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)


def test_grey_palette_and_alpha_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_frame(tmp_path / "grey.png"), np.stack([RAMP] * 3, -1))
    rgba = np.stack([RAMP, RAMP + 1, RAMP + 2, np.full_like(RAMP, 255)], -1)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_frame(tmp_path / "rgba.png"), rgba[..., :3])


def test_frames_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    rgb = np.zeros((6, 8, 3), dtype=np.uint8)
    rgb[:, :4] = 200
    Image.fromarray(rgb).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    frame = read_frame(tmp_path / "turned.jpg", (8, 6))
    assert frame.shape == (8, 6, 3)
    assert frame[:3].min() > 150
    assert frame[-3:].max() < 50


def test_as_at_inference(tmp_path: Path, shapes: Path) -> None:
    """The decoder of training is that of inference: a network sees the same pixels in both."""
    from vmt.inference.video_io import read_image

    for path in sorted((shapes.parent / "JPEGImages").rglob("*.jpg"))[:3]:
        np.testing.assert_array_equal(read_frame(path), read_image(path))


def test_labels(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "8.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "8.png"), RAMP)
    Image.fromarray(RAMP.astype(np.uint16) * 100).save(tmp_path / "16.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "16.png"), RAMP.astype(int) * 100)
    Image.fromarray(RAMP > 20).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "1.png"), RAMP > 20)
    with pytest.raises(VideoError, match=r"none.png: no such label map"):
        read_labels(tmp_path / "none.png")
