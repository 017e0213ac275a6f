"""From cells of a mask to pixels of a video as detectron2 and IDOL go: stride, cut, resize.

Bilinear by the mask stride to the size of the padded input, cut to the input, then bilinear or
nearest to the video. Each step is linear and separable, so their product is a matrix per axis.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.ops.resize import double_last


@functools.lru_cache(maxsize=16)
def axis_matrix(cells: int, stride: int, input_px: int, video_px: int, last: str) -> Tensor:
    """What each pixel takes of each cell, along one axis.

    Args:
        cells: of the mask, padding included.
        stride: input pixels per cell.
        input_px: the input before padding.
        video_px: the result.
        last: "bilinear" or "nearest"; or "aligned", "stretched": the steps of
            ``vmt.inference.postprocess``, with and without the cut.

    Returns:
        (video_px, cells) fp32.
    """
    one_hot = torch.eye(cells)[None]  # a channel per cell
    if last in ("aligned", "stretched"):
        axis = DoubledAxis(cells, stride, input_px, video_px, last == "aligned")
        doubled = double_last(one_hot[0])  # (cells, 2 * cells)
        upper = (axis.lower + 1).clamp(max=axis.last)
        return torch.lerp(doubled[:, axis.lower], doubled[:, upper], axis.weight).t().contiguous()
    whole = F.interpolate(one_hot, size=cells * stride, mode="linear", align_corners=False)
    cut = whole[..., :input_px]
    if last == "nearest":
        return F.interpolate(cut, size=video_px, mode="nearest")[0].t().contiguous()
    pixels = F.interpolate(cut, size=video_px, mode="linear", align_corners=False)
    return pixels[0].t().contiguous()


def resized_region(
    logits: Tensor, box: tuple[int, int, int, int], rows: Tensor, columns: Tensor
) -> tuple[Tensor, int, int] | None:
    """The part of a resized mask that reads a cell of a box.

    Args:
        logits: (h, w).
        box: rows y1:y2 and columns x1:x2 of its cells.
        rows: ``axis_matrix`` of the height.
        columns: ``axis_matrix`` of the width.

    Returns:
        (h', w') logits, and the row and column of the video where they begin; None where no pixel
        reads the box, which lies in the padding then.
    """
    vertical, horizontal = _part(rows, box[0], box[1]), _part(columns, box[2], box[3])
    if vertical is None or horizontal is None:
        return None
    (left, top, y), (right, first_x, x) = vertical, horizontal
    part = logits[y, x].float()
    return left.to(part.device) @ part @ right.to(part.device).t(), top, first_x


def _part(matrix: Tensor, first: int, end: int) -> tuple[Tensor, int, slice] | None:
    """The pixels that read cells first:end: their matrix, the first pixel, the cells they read."""
    pixels = matrix[:, first:end].any(1).nonzero()[:, 0]
    if not len(pixels):
        return None
    begin, stop = int(pixels[0]), int(pixels[-1]) + 1
    cells = matrix[begin:stop].any(0).nonzero()[:, 0]
    read = slice(int(cells[0]), int(cells[-1]) + 1)
    return matrix[begin:stop, read], begin, read


class DoubledAxis:
    """Where the pixels of one side of the video read in the doubled mask, and with what weight.

    Args:
        cells: of the mask along this side, before the doubling.
        stride: input pixels per such cell.
        input_px: side of the network's input.
        video_px: side of the video.
        crop: as in ``masks_at_video_size``.
    """

    def __init__(self, cells: int, stride: int, input_px: int, video_px: int, crop: bool) -> None:
        doubled = 2 * cells
        covered = input_px * 2 / stride if crop else float(doubled)
        self.last = doubled - 1
        self.scale = covered / video_px  # doubled cells per video pixel
        place = (torch.arange(video_px, dtype=torch.float64) + 0.5) * self.scale - 0.5
        place = place.clamp(0.0, float(self.last))
        lower = place.floor()
        self.lower = lower.long()
        self.weight = (place - lower).float()

    def region(self, first: int, end: int) -> tuple[slice, slice, slice]:
        """What it takes to compute every pixel that reads a cell in ``first:end``.

        Returns:
            The cells to double, the part of the doubled cells to keep, the pixels to compute.
        """
        # Cell i reaches doubled cells 2i to 2i+2; a pixel reads the doubled cells lower, lower+1.
        low, high = 2 * first, min(2 * end, self.last)
        pixels = slice(
            int(torch.searchsorted(self.lower, low - 1)),
            int(torch.searchsorted(self.lower, high, right=True)),
        )
        low, high = max(low - 1, 0), min(high + 1, self.last)
        # Doubled cell 2i needs cells i-1 and i; what a cut edge falsifies is cut away again.
        source = slice(max((low - 1) // 2, 0), min(high // 2 + 1, (self.last + 1) // 2))
        return source, slice(low - 2 * source.start, high + 1 - 2 * source.start), pixels
