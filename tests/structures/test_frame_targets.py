"""Targets of frames."""

from __future__ import annotations

import torch

from vmt.structures.clip import ClipTargets
from vmt.structures.frame_targets import frame_targets


def test_a_frame_holds_what_is_visible_in_it() -> None:
    masks = torch.zeros(2, 2, 4, 6, dtype=torch.bool)
    masks[0, :, 1:3, 2:4] = True
    masks[1, 1, 0, 0] = True
    boxes = torch.full((2, 2, 4), 1e-6)
    boxes[0] = torch.tensor([0.5, 0.5, 1 / 3, 0.5])
    boxes[1, 1] = torch.tensor([1 / 12, 1 / 8, 1 / 6, 1 / 4])
    valid = torch.tensor([[True, True], [False, True]])
    clip = ClipTargets(torch.tensor([3, 7]), boxes, masks, valid, "v")
    first, second = frame_targets([clip], (8, 12))
    assert first.labels.tolist() == [3]
    assert second.labels.tolist() == [3, 7]
    assert len(second) == 2
    assert "video v" in second.name
    assert "frame 1" in second.name
    torch.testing.assert_close(
        second.boxes_cxcywh,
        torch.tensor([[0.25, 0.25, 1 / 6, 0.25], [1 / 24, 1 / 16, 1 / 12, 1 / 8]]),
    )
    assert first.masks.shape == (1, 8, 12)
    assert int(first.masks.sum()) == 4
    assert first.masks[0, 1:3, 2:4].all()
