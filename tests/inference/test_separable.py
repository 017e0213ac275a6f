"""Masks by stride, cut and resize against the same steps over the whole frame."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vmt.inference.postprocess import masks_at_video_size


def slow(logits: torch.Tensor, stride: int, size, video, last: str) -> torch.Tensor:
    whole = F.interpolate(logits[:, None], scale_factor=stride, mode="bilinear")
    cut = whole[..., : size[0], : size[1]]
    align = {"align_corners": False} if last == "bilinear" else {}
    return F.interpolate(cut, size=video, mode=last, **align)[:, 0] > 0


@pytest.mark.parametrize("last", ["bilinear", "nearest"])
@pytest.mark.parametrize("video", [(120, 200), (45, 75), (90, 150), (33, 300)])
@pytest.mark.parametrize("stride", [4, 8])
def test_region_by_region_is_the_whole_frame(last: str, video, stride: int) -> None:
    generator = torch.Generator().manual_seed(stride)
    cells = 96 // stride, 160 // stride
    logits = torch.randn(6, 1, 6, 10, generator=generator)
    logits = F.interpolate(logits[:, 0][:, None], size=cells, mode="bicubic")[:, 0] - 0.8
    logits[0] = -1.0
    logits[1] = -1.0
    logits[1, -1, -1] = 5.0  # in the padding alone
    crops = masks_at_video_size(logits, stride, (90, 150), video, upsampling=last)
    masks = torch.zeros(6, *video, dtype=torch.bool)
    for mask, crop in zip(masks, crops, strict=True):
        h, w = crop.bits.shape
        mask[crop.y : crop.y + h, crop.x : crop.x + w] = torch.from_numpy(crop.bits)
    expected = slow(logits, stride, (90, 150), video, last)
    assert (masks ^ expected).float().mean() < 1e-5
    assert crops[0].area == 0
    assert expected[2:].flatten(1).any(1).all()
