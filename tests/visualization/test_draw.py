"""What an overlay must show, and what it must leave alone."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest

from cocoapi_hq.io import rle
from cocoapi_hq.io.rle import Rle
from vmt.visualization import draw
from vmt.visualization.colors import track_color
from vmt.visualization.draw import OverlayStyle, draw_tracks

NAMES = ["dog", "parachute"]
PLAIN = OverlayStyle(labels=False)


@dataclass(frozen=True)
class Track:
    track_id: int
    label: int
    score: float
    rle: Rle


def disc(size: tuple[int, int], y: int, x: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def track(mask: np.ndarray, track_id: int = 1, score: float = 0.9) -> Track:
    return Track(track_id, track_id % 2, score, rle.encode(mask))


def photo(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_no_track_no_change() -> None:
    frame = photo((40, 60))
    result = draw_tracks(frame, [], NAMES)
    np.testing.assert_array_equal(result, frame)
    assert result is not frame


def test_mask_contour_and_outside() -> None:
    frame = np.full((120, 160, 3), 128, np.uint8)
    mask = disc((120, 160), 60, 80, 30)
    result = draw_tracks(frame, [track(mask)], NAMES, PLAIN).astype(float)
    assert (frame == 128).all()  # the caller's frame is left alone
    color = np.array(track_color(1), dtype=float)
    inside = 128 + 0.38 * (color - 128)
    np.testing.assert_allclose(result[60, 80], inside, atol=2)
    assert np.abs(result[60, 50] - color).max() < 40  # on the edge
    far = ~disc((120, 160), 60, 80, 36)
    assert (result[far] == 128).all()


def test_masks_over_each_other_do_not_bury_the_frame() -> None:
    frame = np.full((60, 60, 3), 128, np.uint8)
    whole = np.ones((60, 60), dtype=np.bool_)
    many = [track(whole, k) for k in range(1, 9)]
    result = draw_tracks(frame, many, NAMES, PLAIN).astype(float)
    color = np.array(track_color(8), dtype=float)
    np.testing.assert_allclose(result[30, 30], 128 + 0.38 * (color - 128), atol=3)


def test_small_masks_lie_on_top() -> None:
    frame = np.full((100, 100, 3), 128, np.uint8)
    small, large = disc((100, 100), 50, 50, 10), disc((100, 100), 50, 50, 40)
    for order in ([(small, 1), (large, 2)], [(large, 2), (small, 1)]):
        result = draw_tracks(frame, [track(m, k) for m, k in order], NAMES, PLAIN)
        expected = 128 + 0.38 * (np.array(track_color(1), dtype=float) - 128)
        np.testing.assert_allclose(result[50, 50], expected, atol=3)


def test_tags_stay_inside_and_apart() -> None:
    frame = np.zeros((240, 320, 3), np.uint8)
    corner = disc((240, 320), 0, 319, 30)
    tracks = [track(corner, k) for k in (1, 2, 3)]
    with_tags = draw_tracks(frame, tracks, NAMES)
    without = draw_tracks(frame, tracks, NAMES, PLAIN)
    changed = (with_tags != without).any(axis=2)
    assert changed.any()
    badges = [(with_tags == track_color(k)).all(axis=2) & changed for k in (1, 2, 3)]
    assert all(badge.sum() > 30 for badge in badges)


@pytest.mark.parametrize("matplotlib", [True, False])
def test_text_is_readable_on_any_background(
    matplotlib: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """White on black, wherever the tag lies, in matplotlib's font or in Pillow's."""
    if not matplotlib:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("_font", "_tag"):  # not those of earlier tests
        monkeypatch.setattr(draw, name, getattr(draw, name).__wrapped__)
    assert draw._font(15).getname()[0] == ("DejaVu Sans" if matplotlib else "Aileron")
    for value in (0, 128, 255):
        frame = np.full((240, 320, 3), value, np.uint8)
        tracks = [track(disc((240, 320), 120, 160, 40))]
        drawn = draw_tracks(frame, tracks, NAMES).astype(int)
        plain = draw_tracks(frame, tracks, NAMES, PLAIN).astype(int)
        tag = (drawn != plain).any(axis=2)
        rows, columns = np.nonzero(tag)
        area = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        text = area[:, area.shape[1] // 2 :].mean(axis=2)
        assert text.min() < 60
        assert text.max() > 220


@pytest.mark.parametrize("size", [(1, 1), (2, 90), (7, 5), (33, 47)])
def test_any_size(size: tuple[int, int]) -> None:
    mask = np.ones(size, dtype=np.bool_)
    result = draw_tracks(photo(size), [track(mask)], NAMES)
    assert result.shape == (*size, 3)
    assert result.dtype == np.uint8


def test_the_same_track_looks_the_same_again() -> None:
    frame, mask = photo((90, 120)), disc((90, 120), 40, 60, 20)
    first = draw_tracks(frame, [track(mask)], NAMES)
    np.testing.assert_array_equal(first, draw_tracks(frame, [track(mask)], NAMES))
