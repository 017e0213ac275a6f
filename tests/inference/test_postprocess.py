"""Masks at video size: the cropped computation against grid_sample and interpolate of the whole."""

from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.device_counts import DeviceCounts
from vmt.inference.association.base import FrameLogits
from vmt.inference.postprocess import masks_at_video_size, masks_of_frames
from vmt.ops import strips
from vmt.ops.resize import aligned_upsample2
from vmt.structures.masks import MaskCrop


def place(crop: MaskCrop, size: tuple[int, int]) -> Tensor:
    dense = torch.zeros(size, dtype=torch.bool)
    h, w = crop.bits.shape
    dense[crop.y : crop.y + h, crop.x : crop.x + w] = torch.from_numpy(crop.bits)
    return dense


def dense_logits(
    logits: Tensor, stride: int, input_size: tuple[int, int], size: tuple[int, int], crop: bool
) -> Tensor:
    """The same three steps over the whole frame, sampled by grid_sample in float64."""
    up = aligned_upsample2(logits.double())
    axes = []
    for cells, side, target in zip(up.shape[1:], input_size, size, strict=True):
        covered = side * 2 / stride if crop else cells
        place = (torch.arange(target, dtype=torch.float64) + 0.5) * covered / target - 0.5
        axes.append(2 * place.clamp(0, cells - 1) / max(cells - 1, 1) - 1)
    grid = torch.stack(torch.broadcast_tensors(axes[1][None, :], axes[0][:, None]), dim=-1)
    grid = grid[None].expand(len(up), -1, -1, -1)
    return F.grid_sample(up[:, None], grid, align_corners=True, padding_mode="border")[:, 0]


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_crops_equal_the_whole_frame(stride: int, crop: bool) -> None:
    generator = torch.Generator().manual_seed(stride)
    rng = np.random.default_rng(stride)
    for _ in range(60):
        inputs = (int(rng.integers(1, 60)), int(rng.integers(1, 60)))
        size = (int(rng.integers(1, 90)), int(rng.integers(1, 90)))
        cells = [-(-side // stride) for side in inputs]
        logits = torch.randn(3, *cells, generator=generator) - float(rng.integers(0, 4))
        logits[0] = -1.0
        expected = dense_logits(logits, stride, inputs, size, crop)
        crops = masks_at_video_size(logits, stride, inputs, size, crop_to_input=crop)
        actual = torch.stack([place(c, size) for c in crops])
        clear = expected.abs() > 1e-5  # beyond rounding of the two ways to interpolate
        assert torch.equal(actual[clear], expected[clear] > 0)
        assert crops[0].area == 0


def test_stretching_is_what_interpolate_does() -> None:
    logits = torch.randn(2, 23, 31, generator=torch.Generator().manual_seed(0))
    up = aligned_upsample2(logits)[None]
    expected = F.interpolate(up, size=(75, 101), mode="bilinear", align_corners=False)[0]
    crops = masks_at_video_size(logits, 4, (90, 122), (75, 101), crop_to_input=False)
    for crop, dense in zip(crops, expected, strict=True):
        clear = dense.abs() > 1e-5
        assert torch.equal(place(crop, (75, 101))[clear], (dense > 0)[clear])


def test_cropping_cuts_what_lies_beyond_the_input() -> None:
    """A 9-pixel side has 2 cells of stride 8; the object fills the second, pixels 8 and up."""
    logits = torch.full((1, 2, 2), -1.0)
    logits[:, :, 1] = 3.0
    (cut,) = masks_at_video_size(logits, 8, (9, 9), (9, 9), crop_to_input=True)
    (stretched,) = masks_at_video_size(logits, 8, (9, 9), (9, 9), crop_to_input=False)
    assert cut.box_xyxy_px()[0] > stretched.box_xyxy_px()[0]
    assert cut.box_xyxy_px()[2] == stretched.box_xyxy_px()[2] == 9


def test_no_tracklet_no_crop() -> None:
    assert masks_at_video_size(torch.zeros(0, 4, 4), 2, (8, 8), (16, 16)) == []


def test_half_precision_logits() -> None:
    logits = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    half = masks_at_video_size(logits, 2, (12, 12), (20, 20))
    full = masks_at_video_size(logits.float(), 2, (12, 12), (20, 20))
    for a, b in zip(half, full, strict=True):
        assert torch.equal(place(a, (20, 20)), place(b, (20, 20)))


@pytest.mark.parametrize("upsampling", ["aligned", "bilinear", "nearest"])
@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("room", [1, 10**9])
def test_frames_together_are_frames_one_by_one(upsampling, crop, room, monkeypatch) -> None:
    monkeypatch.setattr(strips, "STRIP_VALUES", room)
    generator = torch.Generator().manual_seed(0)
    inputs, size, stride = (45, 61), (53, 91), 8
    cells = [-(-side // stride) for side in inputs]
    logits = [torch.randn(n, *cells, generator=generator) - n for n in (2, 0, 3, 1)]
    logits[2][1] = -1.0
    frames = [
        FrameLogits(t, (), (), (), x, stride, inputs, upsampling) for t, x in enumerate(logits)
    ]
    apart, joined = (
        list(masks_of_frames(frames, size, crop_to_input=crop, together=together))
        for together in (False, True)
    )
    assert [len(crops) for crops in joined] == [2, 0, 3, 1]
    for a, b in zip(chain(*apart), chain(*joined), strict=True):
        assert (place(a, size) ^ place(b, size)).sum() <= 1  # a logit of 0, rounded
    assert joined[2][1].area == 0


def test_frames_together_wait_once() -> None:
    frames = [
        FrameLogits(t, (1, 2), (0, 0), (1.0, 1.0), torch.randn(2, 6, 8), 8, (48, 64))
        for t in range(12)
    ]
    with DeviceCounts() as counts:
        crops = list(masks_of_frames(frames, (40, 60), together=True))
    assert sum(len(c) for c in crops) == 24
    assert dict(counts.waits) == {"cpu": 1}
    assert counts.launches.total() <= 20
