"""Mask logits of the network to masks at the size of the video, by the part that is not empty.

Three linear steps, all of them convex combinations of cells: one aligned x2 upsampling, the cut to
the network's input, bilinear interpolation (``align_corners=False``) to the video's size; then
logit > 0, which is sigmoid > 0.5. A pixel whose cells are all <= 0 stays outside, so only the
region around the positive cells is computed: the result is that of the whole frame, bit by bit.
The dense (N, T, H, W) tensor at full size never exists.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vmt.inference.separable import axis_matrix, resized_region
from vmt.ops.resize import aligned_upsample2
from vmt.structures.masks import MaskCrop
from vmt.structures.roi_masks import MaskLogits, RoiMasks

_EMPTY = MaskCrop(torch.zeros(0, 0, dtype=torch.bool).numpy())


def masks_at_video_size(
    logits: MaskLogits,
    mask_stride: int,
    input_size: tuple[int, int],
    video_size: tuple[int, int],
    *,
    crop_to_input: bool = True,
    upsampling: str = "aligned",
) -> list[MaskCrop]:
    """Threshold N masks of one frame at the size of the video.

    Args:
        logits: (N, h, w), any float type, any device; or crops, for which ``video_size`` alone
            counts.
        mask_stride: input pixels per cell of ``logits``.
        input_size: (H, W) of the frame that went into the network, in pixels.
        video_size: (h, w) of the result, in pixels.
        crop_to_input: True maps cells by their exact stride, so that what the ceil-sized maps
            hold beyond H x W is cut off; False stretches the whole map over the frame, as the
            released code does.
        upsampling: "aligned": the three steps above. "bilinear": as detectron2 does, bilinear by
            the stride, cut, bilinear. "nearest": as IDOL does, with nearest in the last step;
            both cut to the input in any case.

    Returns:
        N crops on the CPU, in the frame of ``video_size``.
    """
    if isinstance(logits, RoiMasks):
        return logits.drawn(video_size)
    count, h, w = logits.shape
    if not count:
        return []
    if upsampling != "aligned":
        sides = zip((h, w), input_size, video_size, strict=True)
        matrices = [axis_matrix(cells, mask_stride, *side, upsampling) for cells, *side in sides]
        return [
            _EMPTY if box is None else _crop_of(resized_region(mask, box, *matrices))
            for mask, box in zip(logits, _positive_boxes(logits), strict=True)
        ]
    spans = _Axis(h, mask_stride, input_size[0], video_size[0], crop_to_input, logits.device)
    columns = _Axis(w, mask_stride, input_size[1], video_size[1], crop_to_input, logits.device)
    return [
        _EMPTY if box is None else _upsample_region(mask, box, spans, columns)
        for mask, box in zip(logits, _positive_boxes(logits), strict=True)
    ]


def _crop_of(region: tuple[Tensor, int, int] | None) -> MaskCrop:
    return _EMPTY if region is None else MaskCrop((region[0] > 0).cpu().numpy(), *region[1:])


def _positive_boxes(logits: Tensor) -> list[tuple[int, int, int, int] | None]:
    """Per mask, rows y1:y2 and columns x1:x2 with a positive cell; one transfer for all masks."""
    positive = logits > 0
    rows, columns = positive.any(dim=2), positive.any(dim=1)
    h, w = logits.shape[1:]
    first_last = torch.stack(
        [
            rows.int().argmax(1),
            h - rows.flip(1).int().argmax(1),
            columns.int().argmax(1),
            w - columns.flip(1).int().argmax(1),
            rows.any(dim=1).long(),
        ],
        dim=1,
    ).tolist()
    return [(y1, y2, x1, x2) if any_cell else None for y1, y2, x1, x2, any_cell in first_last]


class _Axis:
    """Where the pixels of one side of the video read in the doubled mask, and with what weight.

    Args:
        cells: of the mask along this side, before the doubling.
        stride: input pixels per such cell.
        input_px: side of the network's input.
        video_px: side of the video.
        crop: as in ``masks_at_video_size``.
        device: of the weights.
    """

    def __init__(
        self,
        cells: int,
        stride: int,
        input_px: int,
        video_px: int,
        crop: bool,
        device: torch.device,
    ) -> None:
        doubled = 2 * cells
        covered = input_px * 2 / stride if crop else float(doubled)
        self.last = doubled - 1
        self.scale = covered / video_px  # doubled cells per video pixel
        place = (torch.arange(video_px, dtype=torch.float64) + 0.5) * self.scale - 0.5
        place = place.clamp(0.0, float(self.last))
        lower = place.floor()
        self._lower_host = lower.long()
        self.lower = self._lower_host.to(device)
        self.weight = (place - lower).float().to(device)

    def region(self, first: int, end: int) -> tuple[slice, slice, slice]:
        """What it takes to compute every pixel that reads a cell in ``first:end``.

        Returns:
            The cells to double, the part of the doubled cells to keep, the pixels to compute.
        """
        # Cell i reaches doubled cells 2i to 2i+2; a pixel reads the doubled cells lower, lower+1.
        low, high = 2 * first, min(2 * end, self.last)
        pixels = slice(
            int(torch.searchsorted(self._lower_host, low - 1)),
            int(torch.searchsorted(self._lower_host, high, right=True)),
        )
        low, high = max(low - 1, 0), min(high + 1, self.last)
        # Doubled cell 2i needs cells i-1 and i; what a cut edge falsifies is cut away again.
        source = slice(max((low - 1) // 2, 0), min(high // 2 + 1, (self.last + 1) // 2))
        return source, slice(low - 2 * source.start, high + 1 - 2 * source.start), pixels


def _upsample_region(
    mask: Tensor, box: tuple[int, int, int, int], rows: _Axis, columns: _Axis
) -> MaskCrop:
    source_y, keep_y, pixels_y = rows.region(box[0], box[1])
    source_x, keep_x, pixels_x = columns.region(box[2], box[3])
    cells = aligned_upsample2(mask[source_y, source_x].float())
    cells = cells[keep_y, keep_x]  # (h, w) doubled cells of the region
    first_y = 2 * source_y.start + keep_y.start
    first_x = 2 * source_x.start + keep_x.start
    cells = _lerp(cells.t(), columns, pixels_x, first_x).t().contiguous()
    cells = _lerp(cells, rows, pixels_y, first_y)
    return MaskCrop((cells > 0).cpu().numpy(), pixels_y.start, pixels_x.start)


def _lerp(cells: Tensor, axis: _Axis, pixels: slice, first: int) -> Tensor:
    """Interpolate along axis 0: (h, w) cells from ``first`` on -> (pixels, w)."""
    lower = axis.lower[pixels] - first
    upper = (lower + 1).clamp(max=cells.shape[0] - 1)
    return torch.lerp(cells[lower], cells[upper], axis.weight[pixels, None])
