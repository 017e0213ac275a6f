"""Windows around objects and colour cues against values by hand and slow loops."""

from __future__ import annotations

import math

import pytest
import torch

from vmt.ops.colour_cue import MIN_VARIANCE, UNIT, colour_cues
from vmt.ops.crops import follow


def box_masks(
    *boxes: tuple[int, int, int, int], size: tuple[int, int] = (100, 140)
) -> torch.Tensor:
    """One frame per (top, bottom, left, right)."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (top, bottom, left, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


@pytest.mark.parametrize(
    ("margin", "least", "sizes", "window", "size"),
    [
        # 20x30 px and 10 on each side: 40x50, two cells of 32 each
        (0.0, 10, (32, 256), (64, 64), (64, 64)),
        # half of the longer side is 15 on each side: 50x60
        (0.5, 10, (32, 256), (64, 64), (64, 64)),
        (1.0, 10, (32, 256), (96, 96), (96, 96)),
        # 40x50 made 100 px long: twice; 80x100 are 3 and 4 cells, seen on 48x64
        (0.0, 10, (100, 256), (48, 64), (96, 128)),
        # ... but never more than twice
        (0.0, 10, (200, 256), (48, 64), (96, 128)),
        # 64 px for 120: 80 x 120 * 64 / 120 are 2 cells each
        (0.0, 45, (32, 64), (120, 120), (64, 64)),
    ],
)
def test_size_of_a_window(margin, least, sizes, window, size):
    crop = follow(box_masks((40, 60, 50, 80)), margin, least, *sizes)
    assert (crop.window, crop.size) == (window, size)


def test_windows_are_centred_beyond_the_frame_too():
    """A window of 64 px: rows from 50 - 32; an odd rest goes above and to the left."""
    crop = follow(box_masks((40, 60, 50, 80), (0, 3, 0, 4), (96, 100, 137, 140)), 0.0, 10, 32, 256)
    assert crop.window == (64, 64)
    assert crop.top.tolist() == [18, math.floor((3 - 64) / 2), 98 - 32]
    assert crop.left.tolist() == [33, -30, math.floor((277 - 64) / 2)]
    place = crop.places()[1]
    assert (place.rows, place.own_rows) == (slice(0, 33), slice(31, 64))
    assert (place.columns, place.own_columns) == (slice(0, 34), slice(30, 64))


def test_what_stands_beyond_the_frame():
    crop = follow(box_masks((0, 3, 0, 4)), 0.0, 10, 16, 256)
    frame = torch.full((1, 3, 100, 140), 9, dtype=torch.uint8)
    beyond = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    cut = crop.cut(frame, beyond)
    assert cut[0, :, 30, 40].tolist() == [1, 2, 3]
    assert cut[0, :, 31, 40].tolist() == [9, 9, 9]
    assert cut[0, :, 40, 29].tolist() == [1, 2, 3]
    assert crop.cut(frame)[0, :, 0, 0].tolist() == [0, 0, 0]


def test_restored_values_have_the_scale_of_the_frame():
    crop = follow(box_masks((40, 60, 50, 80)), 0.0, 10, 100, 256)
    ramp = torch.arange(128.0).expand(1, 96, 128)
    back = crop.restore(ramp)
    assert tuple(back.shape[-2:]) == (48, 64)
    # pixel k lies between 2 k and 2 k + 1
    assert back[0, 20, 10:13].tolist() == pytest.approx([20.5, 22.5, 24.5], abs=1e-3)


# --- colours --------------------------------------------------------------------------------------


def test_cues_are_log_likelihood_ratios():
    """A window over the whole frame: red inside, blue outside, each with the least variance.

    Per channel -2 log likelihood is (c - mean)^2 / variance + log variance; the logs cancel.
    """
    frames = torch.zeros(1, 3, 32, 32)
    share = torch.zeros(1, 1, 32, 32)
    frames[:, 0, :, :16], frames[:, 2, :, 16:] = 0.1, 0.1
    share[..., :16] = 1
    cue = colour_cues(frames, share, [200])[0, 0]
    # sure pixels alone, up to the doubtful two percent of the wrong side, which are none here
    misfit = 2 * 0.1**2 / MIN_VARIANCE
    expected = math.tanh(misfit / (2 * UNIT))
    assert cue[16, 2] == pytest.approx(expected, rel=2e-2)
    assert cue[16, 30] == pytest.approx(-expected, rel=2e-2)


def test_each_radius_has_windows_of_its_own():
    """Far from the mask, small windows know no inside: their cue is that of the whole frame."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 3, 64, 64, generator=generator)
    share = torch.zeros(1, 1, 64, 64)
    share[..., 24:40, 24:40] = 1
    both = colour_cues(frames, share, [8, 40])
    for k, radius in enumerate((8, 40)):
        torch.testing.assert_close(both[:, k : k + 1], colour_cues(frames, share, [radius]))
    assert (both[:, 0] - both[:, 1]).abs().max() > 0.05
    assert colour_cues(frames, share, []).shape == (1, 0, 64, 64)
