"""Colours are fixed, far apart, and their text can be read."""

import itertools

import numpy as np

from vmt.visualization.colors import (
    NUM_COLORS,
    label_map_palette,
    oklab,
    text_color,
    track_color,
)


def test_colours_are_fixed() -> None:
    assert track_color(1) == (64, 156, 255)
    assert track_color(1 + NUM_COLORS) == track_color(1)
    assert [track_color(k) for k in range(1, 60)] == [track_color(k) for k in range(1, 60)]


def test_tracks_of_a_video_are_told_apart() -> None:
    """0.02 is about a just noticeable difference in OKLab."""
    colors = [np.array(track_color(k)) for k in range(1, NUM_COLORS + 1)]

    def nearest(count: int) -> float:
        pairs = itertools.combinations(colors[:count], 2)
        return min(float(np.linalg.norm(oklab(a) - oklab(b))) for a, b in pairs)

    assert nearest(10) > 0.08
    assert nearest(NUM_COLORS) > 0.04


def test_oklab_of_known_colours() -> None:
    np.testing.assert_allclose(oklab(np.array([255, 255, 255])), [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(oklab(np.array([255, 0, 0])), [0.628, 0.225, 0.126], atol=1e-3)


def test_text_has_contrast_on_every_colour() -> None:
    def luminance(rgb: tuple[int, int, int]) -> float:
        value = np.array(rgb) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for k in range(1, NUM_COLORS + 1):
        light, dark = sorted((luminance(track_color(k)), luminance(text_color(track_color(k)))))
        assert (dark + 0.05) / (light + 0.05) > 4.5 - 1e-9  # WCAG AA


def test_palette_of_label_maps() -> None:
    palette = label_map_palette()
    assert len(palette) == 768
    assert palette[:6] == [0, 0, 0, *track_color(1)]
