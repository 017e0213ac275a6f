"""Mask logits of the network to masks at the size of the video, by the part that is not empty.

Three linear steps, all of them convex combinations of cells: one aligned x2 upsampling, the cut to
the network's input, bilinear interpolation (``align_corners=False``) to the video's size; then
logit > 0, which is sigmoid > 0.5. A pixel whose cells are all <= 0 stays outside, so only the
region around the positive cells is computed: the result is that of the whole frame, bit by bit.
The dense (N, T, H, W) tensor at full size never exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import cast, overload

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.inference.association.base import FrameLogits
from vmt.inference.separable import DoubledAxis, axis_matrix, resized_region
from vmt.ops.resize import aligned_upsample2
from vmt.ops.strips import values_at_once
from vmt.structures.masks import MaskCrop
from vmt.structures.roi_masks import MaskLogits, RoiMasks
from vmt.utils.device import from_device
from vmt.utils.precision import fp32_products

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
    spans = DoubledAxis(h, mask_stride, input_size[0], video_size[0], crop_to_input)
    columns = DoubledAxis(w, mask_stride, input_size[1], video_size[1], crop_to_input)
    return [
        _EMPTY if box is None else _upsample_region(mask, box, spans, columns)
        for mask, box in zip(logits, _positive_boxes(logits), strict=True)
    ]


def masks_of_frames(
    frames: Sequence[FrameLogits],
    video_size: tuple[int, int],
    *,
    crop_to_input: bool = True,
    together: bool | None = None,
) -> Iterator[Sequence[MaskCrop]]:
    """``masks_at_video_size`` of one frame after another.

    Args:
        frames: of one video.
        video_size: (h, w) of the results, in pixels.
        crop_to_input: see ``masks_at_video_size``.
        together: many frames at once, whole and packed, so that a GPU is waited for once; pixels
            whose logit is 0 up to rounding may fall to the other side. None: where there is one.

    Yields:
        The crops of each frame, on the CPU; those that were packed are unpacked as they are read.
    """
    if together is None:
        together = bool(frames) and frames[0].logits.device.type != "cpu"
    at_once = []
    for frame in frames:
        if together and isinstance(frame.logits, Tensor):
            at_once.append(frame)
            room = values_at_once(frame.logits.device) // (4 * video_size[0] * video_size[1])
            if sum(len(x.logits) for x in at_once) < room and frame is not frames[-1]:
                continue
            yield from _packed_crops(at_once, video_size, crop_to_input)
            at_once = []
            continue
        yield masks_at_video_size(
            frame.logits,
            frame.mask_stride,
            frame.input_size,
            video_size,
            crop_to_input=crop_to_input,
            upsampling=frame.upsampling,
        )


class _Packed(Sequence[MaskCrop]):
    """Masks that are unpacked when they are read, by whoever reads them.

    Args:
        bits: (N, H, ceil(W / 8)), eight pixels to the byte.
        width: W.
    """

    def __init__(self, bits: npt.NDArray[np.uint8], width: int) -> None:
        self._bits, self._width = bits, width

    def __len__(self) -> int:
        return len(self._bits)

    @overload
    def __getitem__(self, index: int) -> MaskCrop: ...
    @overload
    def __getitem__(self, index: slice) -> _Packed: ...
    def __getitem__(self, index: int | slice) -> MaskCrop | _Packed:
        if isinstance(index, slice):
            return _Packed(self._bits[index], self._width)
        return _unpacked(self._bits[index], self._width)


def _packed_crops(
    frames: Sequence[FrameLogits], video_size: tuple[int, int], crop_to_input: bool
) -> list[Sequence[MaskCrop]]:
    """Masks of frames at the size of the video, eight pixels to the byte, in one copy."""
    counts, one = [len(frame.logits) for frame in frames], frames[0]
    if not sum(counts):
        return [[] for _ in counts]
    logits = torch.cat([cast(Tensor, frame.logits) for frame in frames if len(frame.logits)])
    last = one.upsampling
    if last == "aligned" and not crop_to_input:
        last = "stretched"
    sides = zip(logits.shape[1:], one.input_size, video_size, strict=True)
    rows, columns = (
        axis_matrix(int(cells), one.mask_stride, *side, last).to(logits.device, non_blocking=True)
        for cells, *side in sides
    )
    with fp32_products("fp32"):
        pixels = rows @ logits.float() @ columns.t() > 0  # (K, H, W)
    bits = F.pad(pixels, (0, -video_size[1] % 8)).unflatten(-1, (-1, 8))
    packed = (bits << torch.arange(8, device=bits.device)).sum(-1, dtype=torch.uint8)
    masks = _Packed(from_device(packed).numpy(), video_size[1])
    ends = list(accumulate(counts))
    return [masks[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _unpacked(packed: npt.NDArray[np.uint8], width: int) -> MaskCrop:
    """(H, ceil(W / 8)) bytes -> the part of the mask whose bytes are not all 0."""
    rows = np.flatnonzero(packed.any(axis=1))
    if not rows.size:
        return _EMPTY
    columns = np.flatnonzero(packed.any(axis=0))
    y, x = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    bits = np.unpackbits(packed[y, x], axis=1, bitorder="little")
    return MaskCrop(bits[:, : width - 8 * x.start].astype(np.bool_), y.start, 8 * x.start)


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


def _upsample_region(
    mask: Tensor, box: tuple[int, int, int, int], rows: DoubledAxis, columns: DoubledAxis
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


def _lerp(cells: Tensor, axis: DoubledAxis, pixels: slice, first: int) -> Tensor:
    """Interpolate along axis 0: (h, w) cells from ``first`` on -> (pixels, w)."""
    lower = (axis.lower[pixels] - first).to(cells.device)
    upper = (lower + 1).clamp(max=cells.shape[0] - 1)
    return torch.lerp(cells[lower], cells[upper], axis.weight[pixels, None].to(cells.device))
