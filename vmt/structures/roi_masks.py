"""Masks as small crops, each stretched over the box of its object, until they are drawn.

A mask of 28 x 28 cells takes 3 KiB, whatever the frame; at stride 4 of 720 x 1280 it takes 225.
Letters: D masks of m x m cells. A cell's centre is at +0.5; between centres a mask is interpolated
bilinearly as a probability, and beyond the outermost cells it falls to 0 within half a cell, as
where published code draws them (PCAN, arXiv:2106.11958).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vmt.structures.masks import MaskCrop

#: Logits of pasted masks lie within +-15.
EPSILON = 3e-7
#: Pixels per cell where a map is needed: masks are compared with each other, or refined.
STRIDE = 4


@dataclass(frozen=True)
class RoiMasks:
    """Masks of D objects of one frame.

    Args:
        logits: (D, m, m).
        boxes_px: (D, 4) xyxy in pixels of the frame that went into the network, fp32.
        frame_size: (H, W) of that frame, in pixels.
    """

    logits: Tensor
    boxes_px: Tensor
    frame_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: Tensor | list[int] | slice) -> RoiMasks:
        """Those at ``index``, (N,) int64 or (D,) bool, in that order."""
        return RoiMasks(self.logits[index], self.boxes_px[index], self.frame_size)

    @property
    def device(self) -> torch.device:
        """Of the tensors."""
        return self.logits.device

    def pasted(self, size: tuple[int, int], stride: float) -> Tensor:
        """The masks at the centres of the cells of a map.

        Args:
            size: (h, w) of the map in cells.
            stride: pixels per cell.

        Returns:
            (D, h, w) probabilities in [0, 1]; 0 beyond the boxes.
        """
        x1, y1, x2, y2 = self.boxes_px.float().unbind(1)
        rows = hat_weights(y1, y2, self.cells, size[0], stride)
        columns = hat_weights(x1, x2, self.cells, size[1], stride)
        return rows @ self.logits.float().sigmoid() @ columns.transpose(1, 2)

    def pasted_logits(self, size: tuple[int, int], stride: float) -> Tensor:
        """``pasted`` as (D, h, w) logits."""
        return torch.logit(self.pasted(size, stride), EPSILON)

    def drawn(self, video_size: tuple[int, int]) -> list[MaskCrop]:
        """The masks at the size of the video, thresholded at 0.5; no dense frame exists.

        Args:
            video_size: (h, w) of the result, in pixels.

        Returns:
            D crops on the CPU.
        """
        scale = [video / net for video, net in zip(video_size, self.frame_size, strict=True)]
        boxes = self.boxes_px.float().cpu() * torch.tensor([scale[1], scale[0]]).repeat(2)
        probs = self.logits.float().sigmoid().cpu()
        return [
            _drawn(prob, box, video_size) for prob, box in zip(probs, boxes.tolist(), strict=True)
        ]

    @property
    def cells(self) -> int:
        """M."""
        return int(self.logits.shape[-1])


torch.serialization.add_safe_globals([RoiMasks])  # states of live videos hold them

#: Masks of D objects of a frame: (D, h, w) logits, or crops.
MaskLogits = Tensor | RoiMasks


def dense_logits(masks: MaskLogits, size: tuple[int, int] | None = None) -> Tensor:
    """Masks as a map.

    Args:
        masks: D; crops are pasted at ``STRIDE``.
        size: (h, w) of the map onto which crops are pasted; None: what covers the frame.

    Returns:
        (D, h, w) logits.
    """
    if not isinstance(masks, RoiMasks):
        return masks
    height, width = masks.frame_size
    return masks.pasted_logits(size or (-(-height // STRIDE), -(-width // STRIDE)), STRIDE)


def hat_weights(
    low: Tensor, high: Tensor, cells: int, count: int, stride: float = 1.0, first: int = 0
) -> Tensor:
    """What places along an axis read of the cells of masks, bilinearly.

    Args:
        low: (D,) where the boxes begin, in pixels.
        high: (D,) where they end.
        cells: m, of each mask.
        count: P places, ``stride`` pixels apart, the first one ``(first + 0.5) * stride``.
        stride: see ``count``.
        first: see ``count``.

    Returns:
        (D, P, m), each row a convex combination, or less near the ends of the box.
    """
    places = (torch.arange(first, first + count, device=low.device) + 0.5) * stride
    extent = (high - low).clamp(min=1e-3)
    cell = (places - low[:, None]) / extent[:, None] * cells - 0.5  # (D, P)
    index = torch.arange(cells, device=low.device)
    return (1 - (cell[..., None] - index).abs()).clamp(min=0)


def _drawn(prob: Tensor, box: list[float], size: tuple[int, int]) -> MaskCrop:
    """One mask: (m, m) probabilities in a box xyxy, in pixels of the video."""
    rows, top = _axis(box[1], box[3], len(prob), size[0])
    columns, left = _axis(box[0], box[2], len(prob), size[1])
    bits = rows @ prob @ columns.t() >= 0.5
    return MaskCrop(bits.numpy(), top, left)


def _axis(low: float, high: float, cells: int, size: int) -> tuple[Tensor, int]:
    """Weights (P, m) of the pixels that can read a cell, and the first of them."""
    reach = 0.5 * (high - low) / cells
    first = min(max(int(low - reach), 0), size)
    end = min(max(int(high + reach) + 1, first), size)
    ends = torch.tensor([[low], [high]])
    return hat_weights(ends[0], ends[1], cells, end - first, first=first)[0], first
