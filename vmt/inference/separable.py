"""From cells of a mask to pixels of a video as detectron2 and IDOL go: stride, cut, resize.

Bilinear by the mask stride to the size of the padded input, cut to the input, then bilinear or
nearest to the video. Each step is linear and separable, so their product is a matrix per axis.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


@functools.lru_cache(maxsize=16)
def axis_matrix(cells: int, stride: int, input_px: int, video_px: int, last: str) -> Tensor:
    """What each pixel takes of each cell, along one axis.

    Args:
        cells: of the mask, padding included.
        stride: input pixels per cell.
        input_px: the input before padding.
        video_px: the result.
        last: "bilinear" or "nearest".

    Returns:
        (video_px, cells) fp32.
    """
    one_hot = torch.eye(cells)[None]  # a channel per cell
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
