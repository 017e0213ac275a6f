"""Tracks of a network for frames, as a refiner reads them: maps of frames, masks, queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Logit of the cells of a frame that does not show a track.
ABSENT = -10.0


@dataclass(frozen=True)
class FrameMaps:
    """What a refiner of masks reads of a frame; of T frames with one axis more in front.

    Args:
        pixels: (3, H, W), normalised and padded, as the backbone saw the frame.
        stride4: (C4, h4, w4) of the backbone.
        stride2: (C2, h2, w2) of the backbone, or None where it has none.
        fused: (C, h8, w8) behind the encoder, with as many channels as the queries.
    """

    pixels: Tensor
    stride4: Tensor
    stride2: Tensor | None
    fused: Tensor

    def __getitem__(self, rows: int | slice) -> FrameMaps:
        """One of T frames, or some of them."""
        stride2 = None if self.stride2 is None else self.stride2[rows]
        return FrameMaps(self.pixels[rows], self.stride4[rows], stride2, self.fused[rows])

    @classmethod
    def of(cls, pixels: Tensor, maps: Mapping[int, Tensor], fused: Tensor) -> FrameMaps:
        """N frames, with the backbone's maps by stride."""
        return cls(pixels, maps[4], maps.get(2), fused)

    @classmethod
    def stack(cls, frames: Sequence[FrameMaps]) -> FrameMaps:
        """T frames of one size, at least one -> all of them."""
        stride2 = [frame.stride2 for frame in frames if frame.stride2 is not None]
        return cls(
            torch.stack([frame.pixels for frame in frames]),
            torch.stack([frame.stride4 for frame in frames]),
            torch.stack(stride2) if stride2 else None,
            torch.stack([frame.fused for frame in frames]),
        )


@dataclass(frozen=True)
class TrackWindow:
    """N tracks in T successive frames.

    Args:
        maps: of the T frames.
        mask_logits: (N, T, h, w); all negative where a track is not in a frame.
        mask_stride: input pixels per cell of the masks, 8 or 4.
        query: (N, C), embeddings of the tracks.
        frame_size: (H, W) of the frames before padding, in pixels.
    """

    maps: FrameMaps
    mask_logits: Tensor
    mask_stride: int
    query: Tensor
    frame_size: tuple[int, int]
