"""Tracks of a network for frames become the input of a refiner."""

from __future__ import annotations

import pytest
import torch

from vmt.modeling.refiners.base import RefinerInput, boxes_of_masks
from vmt.structures.track_window import FrameMaps, TrackWindow

FRAME = (20, 28)  # padded to 32 x 32


def window() -> TrackWindow:
    masks = torch.full((3, 4, 8, 8), -1.0)
    masks[0, 1, 2:4, 1:3] = 1.0
    masks[0, 3, 4:8, 5:8] = 1.0  # beyond the frame on both sides
    masks[1, 0, 0, 0] = 1.0
    maps = FrameMaps(torch.rand(4, 3, 32, 32), torch.rand(4, 6, 8, 8), None, torch.rand(4, 5, 4, 4))
    return TrackWindow(maps, masks, 4, torch.rand(3, 5), FRAME)


def test_boxes_follow_the_masks() -> None:
    given = window()
    boxes = boxes_of_masks(given.mask_logits > 0, 4, FRAME)
    first = [8 / 28, 12 / 20, 8 / 28, 8 / 20]
    last = [24 / 28, 18 / 20, 8 / 28, 4 / 20]
    assert boxes[0, 0].tolist() == pytest.approx(first), "the nearest frame with a mask"
    assert boxes[0, 1].tolist() == pytest.approx(first)
    assert boxes[0, 2].tolist() == pytest.approx(first), "of two, the earlier"
    assert boxes[0, 3].tolist() == pytest.approx(last)
    assert boxes[1, 3].tolist() == pytest.approx([2 / 28, 2 / 20, 4 / 28, 4 / 20])
    assert boxes[2].tolist() == [[0.5, 0.5, 1.0, 1.0]] * 4, "no mask: the whole frame"


def test_everything_arrives() -> None:
    given = window()
    truth = torch.rand(3, 4, *FRAME) > 0.5
    inputs = RefinerInput.of_tracks(given, truth)
    assert inputs.frames is given.maps.pixels
    assert inputs.stride4 is given.maps.stride4
    assert inputs.fused is given.maps.fused
    assert inputs.stride2 is None
    assert inputs.coarse_logits is given.mask_logits
    assert (inputs.coarse_stride, inputs.frame_size) == (4, FRAME)
    assert inputs.query is given.query
    assert inputs.masks_gt is truth
    assert inputs.centres_px[0, 1].tolist() == pytest.approx([8, 12]), "x, then y"


def test_maps_of_some_frames() -> None:
    maps = window().maps
    one = [maps[t] for t in range(4)]
    again = FrameMaps.stack(one)
    for name in ("pixels", "stride4", "fused"):
        assert torch.equal(getattr(again, name), getattr(maps, name))
        assert torch.equal(getattr(maps[1:3], name), getattr(maps, name)[1:3])
    assert again.stride2 is None
    fine = FrameMaps(maps.pixels, maps.stride4, torch.rand(4, 6, 16, 16), maps.fused)
    assert torch.equal(FrameMaps.stack([fine[t] for t in range(4)]).stride2, fine.stride2)
