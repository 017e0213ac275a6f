"""Where regions are read: by the centres of cells, at every level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vmt.modeling.mots.regions import RegionPooler, level_of, masks_in_regions
from vmt.structures.roi_masks import RoiMasks

STRIDES = [4, 8, 16, 32]
SIZE = (256, 320)


def places() -> dict[int, Tensor]:
    """Maps whose cells say where their centre is: (2 frames, x and y, h, w)."""
    levels = {}
    for stride in STRIDES:
        y, x = ((torch.arange(side // stride) + 0.5) * stride for side in SIZE)
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))])
        levels[stride] = torch.stack([grid, grid + 1000])
    return levels


@pytest.mark.parametrize("side", [30, 90, 130, 200])
def test_a_region_reads_what_lies_below_it(side: int) -> None:
    box = torch.tensor([[41.0, 37.0, 41.0 + side, 37.0 + side]])
    read = RegionPooler(5)(places(), [box, box + 7])
    steps = side * (torch.arange(5) + 0.5) / 5
    for n, shift in enumerate((0, 1007)):
        torch.testing.assert_close(read[n, 0, 2], 41 + shift + steps, atol=1e-3, rtol=0)
        torch.testing.assert_close(read[n, 1, :, 2], 37 + shift + steps, atol=1e-3, rtol=0)


def test_twice_the_side_is_the_next_level() -> None:
    sides = torch.tensor([10.0, 56, 111, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack([torch.zeros(9), torch.zeros(9), sides, sides], 1)
    assert level_of(boxes, STRIDES).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_no_regions_are_part_of_the_graph() -> None:
    levels = {stride: level.clone().requires_grad_() for stride, level in places().items()}
    none = torch.zeros(0, 4)
    read = RegionPooler(7)(levels, [none, none])
    assert read.shape == (0, 2, 7, 7)
    read.sum().backward()
    assert all(level.grad is not None and not level.grad.any() for level in levels.values())


def test_masks_in_regions() -> None:
    """A region twice as large as its object: the object fills the middle."""
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[1, 16:32, 24:40] = True
    boxes = torch.tensor([[16.0, 8.0, 48.0, 40.0], [24.0, 16.0, 40.0, 32.0]])
    got = masks_in_regions(masks, torch.tensor([1, 1]), boxes, 8)
    expected = torch.zeros(8, 8)
    expected[2:6, 2:6] = 1
    assert torch.equal(got[0], expected)
    assert got[1].all()
    assert not masks_in_regions(masks, torch.tensor([0]), boxes[:1], 8).any()


def test_masks_are_drawn_where_they_were_read() -> None:
    """From pixels to a crop and back: nothing is shifted."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(80), indexing="ij")
    disc = ((y - 31.3) ** 2 + (x - 40.8) ** 2 < 18**2)[None]
    box = torch.tensor([[20.3, 11.1, 61.7, 52.2]])
    crop = masks_in_regions(disc, torch.tensor([0]), box, 56)
    pasted = RoiMasks((crop - 0.5) * 20, box, (64, 80)).pasted((64, 80), 1)[0]
    centre = [(pasted * axis).sum() / pasted.sum() for axis in (y, x)]
    torch.testing.assert_close(torch.stack(centre), torch.tensor([31.3, 40.8]), atol=0.1, rtol=0)
