"""Crops of masks against torch's grid sampling, and where they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.inference.postprocess import masks_at_video_size
from vmt.structures.roi_masks import RoiMasks, dense_logits

SIZE = (60, 90)


def crops(count: int = 6, seed: int = 0) -> RoiMasks:
    """Boxes inside the frame, across its edges, and thinner than a pixel."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([80.0, 50.0]) - 5
    sides = torch.rand(count, 2, generator=generator) * 40 + 0.3
    boxes = torch.cat([corner, corner + sides], 1)
    boxes[0] = torch.tensor([10.2, 11.7, 10.5, 40.0])
    return RoiMasks(torch.randn(count, 7, 7, generator=generator) * 3, boxes, SIZE)


def grid_sampled(masks: RoiMasks, size: tuple[int, int], stride: float) -> Tensor:
    """Published code's way: probabilities on a grid, zeros beyond."""
    y = (torch.arange(size[0]) + 0.5) * stride
    x = (torch.arange(size[1]) + 0.5) * stride
    pasted = []
    for logits, (x1, y1, x2, y2) in zip(masks.logits, masks.boxes_px.tolist(), strict=True):
        grid_y = ((y - y1) / (y2 - y1) * 2 - 1)[:, None].expand(size)
        grid_x = ((x - x1) / (x2 - x1) * 2 - 1)[None].expand(size)
        grid = torch.stack([grid_x, grid_y], -1)[None]
        pasted.append(F.grid_sample(logits.sigmoid()[None, None], grid, align_corners=False)[0, 0])
    return torch.stack(pasted)


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_pasting_is_grid_sampling(stride: int) -> None:
    masks = crops()
    size = (-(-SIZE[0] // stride), -(-SIZE[1] // stride))
    expected = grid_sampled(masks, size, stride)
    torch.testing.assert_close(masks.pasted(size, stride), expected, atol=1e-5, rtol=0)
    assert expected.flatten(1).any(1).sum() >= 5


@pytest.mark.parametrize("video", [SIZE, (120, 180), (45, 100)])
def test_drawing_is_pasting_at_the_size_of_the_video(video: tuple[int, int]) -> None:
    masks = crops(12)
    scale = torch.tensor([video[1] / SIZE[1], video[0] / SIZE[0]]).repeat(2)
    dense = grid_sampled(RoiMasks(masks.logits, masks.boxes_px * scale, video), video, 1)
    drawn = masks_at_video_size(masks, 1, SIZE, video)
    for crop, probs in zip(drawn, dense, strict=True):
        frame = np.zeros(video, bool)
        h, w = crop.bits.shape
        frame[crop.y : crop.y + h, crop.x : crop.x + w] = crop.bits
        clear = (probs - 0.5).abs().numpy() > 1e-4  # of what is nearer, rounding decides
        assert (frame == (probs >= 0.5).numpy())[clear].all()
    assert sum(crop.area for crop in drawn) > 100


def test_a_full_mask_is_its_box() -> None:
    box = torch.tensor([[10.0, 20.0, 31.0, 44.0]])
    (crop,) = RoiMasks(torch.full((1, 28, 28), 50.0), box, SIZE).drawn(SIZE)
    assert crop.box_xyxy_px() == (10, 20, 31, 44)
    assert crop.area == 21 * 24


def test_rows_can_be_chosen() -> None:
    masks = crops()
    some = masks[torch.tensor([3, 1])]
    assert len(some) == 2
    assert torch.equal(some.boxes_px, masks.boxes_px[[3, 1]])
    assert torch.equal(dense_logits(some), dense_logits(masks)[[3, 1]])
    assert dense_logits(some).shape == (2, 15, 23)
    assert len(masks[torch.zeros(6, dtype=torch.bool)].drawn(SIZE)) == 0


def test_logits_of_pasted_masks_are_finite() -> None:
    masks = RoiMasks(torch.full((1, 4, 4), 90.0), torch.tensor([[0.0, 0.0, 40.0, 40.0]]), SIZE)
    logits = masks.pasted_logits((15, 23), 4)
    assert logits.isfinite().all()
    assert logits.max() > 14
    assert logits.min() < -14
