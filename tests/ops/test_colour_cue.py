"""Colour models of the two sides of a contour."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vmt.ops.colour_cue import colour_cues


def disc(radius, size=96, centre=48):
    yy, xx = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (((yy - centre) ** 2 + (xx - centre) ** 2).sqrt() < radius).float()[None, None]


def test_colours_say_where_the_object_really_ends():
    truth, halo = disc(20), disc(26)
    torch.manual_seed(0)
    frames = truth * 1.0 - (1 - truth) * 0.5 + 0.2 * torch.randn(1, 3, 96, 96)
    (cue,) = colour_cues(frames, halo, (16,))[0]
    ring = (halo - truth)[0, 0] > 0
    near = (disc(32) - disc(12))[0, 0] > 0
    assert (cue[ring] < 0).float().mean() > 0.95
    assert ((cue > 0) == (truth[0, 0] > 0))[near].float().mean() > 0.95
    assert cue.abs().max() <= 1


def test_windows_are_local():
    """Left half: bright on dark; right half: dark on bright. A small window tells both."""
    bars = torch.zeros(1, 1, 64, 256)
    bars[..., 20:44, 20:108] = bars[..., 20:44, 148:236] = 1
    sign = torch.ones(256)
    sign[128:] = -1
    frames = ((2 * bars - 1) * sign).expand(1, 3, 64, 256)
    small, large = colour_cues(frames, bars, (12, 200))[0]
    band = F.max_pool2d(bars, 9, 1, 4)[0, 0] - F.max_pool2d(1 - bars, 9, 1, 4)[0, 0] > -1
    right = ((small > 0) == (bars[0, 0] > 0))[band].float().mean()
    assert right > 0.99
    assert ((large > 0) == (bars[0, 0] > 0))[band].float().mean() < right


def test_windows_without_sure_pixels_say_little_but_something_finite():
    frames = torch.randn(2, 3, 32, 32)
    for share in (torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32)):
        cues = colour_cues(frames, share, (8, 16))
        assert cues.shape == (2, 2, 32, 32)
        assert cues.isfinite().all()
    assert colour_cues(frames, share, ()).shape == (2, 0, 32, 32)
