"""Features and masks below regions of frames, by the centres of cells.

torchvision's ``MultiScaleRoIAlign`` takes a cell's corner for its centre, which shifts regions by
up to 16 pixels against the features, and infers strides from the sizes of the first frames.
Letters: N frames, P regions of a frame, R of all frames, G objects, m cells per side of a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

#: A region with sides of so many pixels is read at stride ``_STRIDE``; twice the sides, twice the
#: stride (Feature Pyramid Networks, arXiv:1612.03144, Eq. 1).
_SIDE, _STRIDE = 224.0, 16


class RegionPooler(nn.Module):
    """Reads each region at the level that fits its size; takes the place of torchvision's.

    Args:
        cells: sides of what is read, in cells.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, levels: dict[int, Tensor], boxes_px: list[Tensor]) -> Tensor:
        """Pool regions.

        Args:
            levels: stride -> (N, C, h, w).
            boxes_px: N times (P, 4) xyxy in pixels.

        Returns:
            (R, C, cells, cells), frame by frame.
        """
        rois, strides = with_frame(boxes_px), sorted(levels)
        own = level_of(rois[:, 1:], strides)
        first = levels[strides[0]]
        out = first.new_zeros(len(rois), first.shape[1], self.cells, self.cells)
        for index, stride in enumerate(strides):
            rows = (own == index).nonzero()[:, 0]
            read = roi_align(levels[stride], rois[rows], self.cells, 1 / stride, 0, aligned=True)
            out = out.index_copy(0, rows, read.to(out.dtype))
        return out


def level_of(boxes_px: Tensor, strides: list[int]) -> Tensor:
    """(R,) int64, which of the strides, ascending, each of the (R, 4) boxes is read at."""
    sides = (boxes_px[:, 2:] - boxes_px[:, :2]).clamp(min=0).prod(1).sqrt()
    steps = torch.log2(sides / _SIDE + 1e-6).floor() + strides.index(_STRIDE)
    return steps.clamp(0, len(strides) - 1).long()


def with_frame(boxes_px: list[Tensor]) -> Tensor:
    """N times (P, 4) -> (R, 5), the number of the frame before each box."""
    numbered = [
        torch.cat([boxes.new_full((len(boxes), 1), n), boxes], 1)
        for n, boxes in enumerate(boxes_px)
    ]
    return torch.cat(numbered)


def masks_in_regions(masks: Tensor, owner: Tensor, boxes_px: Tensor, cells: int) -> Tensor:
    """Masks of objects as a mask head should predict them.

    Args:
        masks: (G, H, W) bool.
        owner: (P,) int64, the object of each region.
        boxes_px: (P, 4) xyxy in pixels.
        cells: m.

    Returns:
        (P, m, m) in {0, 1}, fp32: whether half of the cell or more is covered.
    """
    rois = torch.cat([owner[:, None].to(boxes_px), boxes_px], 1)
    share: Tensor = roi_align(masks[:, None].to(boxes_px), rois, cells, 1.0, 0, aligned=True)
    return (share[:, 0] >= 0.5).float()
