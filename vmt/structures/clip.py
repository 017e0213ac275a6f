"""What is true about a clip of training frames: its tracklets, their boxes and masks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClipTargets:
    """The G annotated tracklets of a clip of T frames; G may be 0.

    Args:
        labels: (G,) int64, contiguous from 0.
        boxes_cxcywh: (G, T, 4) float in [0, 1] of the frame before padding. Where the tracklet is
            absent all four are about 1e-6, as the published training has them.
        masks: (G, T, H, W) bool at input size, before padding.
        valid: (G, T) bool, True where the tracklet is visible in the frame.
        video_id: named in messages.
        clip_id: named in messages, for instance the frame indices.
        times: T frame indices in the video; (): 0, 1, 2, ...
        boxes_only: the masks are filled boxes: they teach boxes and classes, and no mask.
        unlabelled: labels of which the frames may show objects that are no tracklets here; what
            looks like one is not known to be background.

    Raises:
        ValueError: shapes or types disagree, a label is negative, or a box is not finite.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    masks: Tensor
    valid: Tensor
    video_id: str = ""
    clip_id: str = ""
    times: tuple[int, ...] = ()
    boxes_only: bool = False
    unlabelled: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.masks.ndim != 4:
            raise ValueError(
                f"{self.name}: masks must be (G, T, H, W), not {tuple(self.masks.shape)}."
            )
        G, T = self.masks.shape[:2]
        self._expect("labels", self.labels, (G,))
        self._expect("boxes_cxcywh", self.boxes_cxcywh, (G, T, 4))
        self._expect("valid", self.valid, (G, T))
        if len(self.times) not in (0, T):
            raise ValueError(f"{self.name}: {len(self.times)} times for {T} frames.")
        for field, tensor, dtype in (
            ("labels", self.labels, torch.int64),
            ("masks", self.masks, torch.bool),
            ("valid", self.valid, torch.bool),
        ):
            if tensor.dtype != dtype:
                raise ValueError(f"{self.name}: {field} must be {dtype}, not {tensor.dtype}.")
        if not self.boxes_cxcywh.is_floating_point():
            raise ValueError(
                f"{self.name}: boxes_cxcywh must be a float type, not {self.boxes_cxcywh.dtype}."
            )
        if self.labels.device.type == "cpu":  # elsewhere a look at the values costs a wait
            self._check_values()

    def _expect(self, field: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{self.name}: {field} has shape {tuple(tensor.shape)}, but masks "
                f"{tuple(self.masks.shape)} ask for {shape}."
            )

    def _check_values(self) -> None:
        if (self.labels < 0).any():
            raise ValueError(
                f"{self.name}: labels {self.labels.tolist()} hold a negative one; labels count "
                "from 0, the label space converts category ids."
            )
        boxes = self.boxes_cxcywh
        if not torch.isfinite(boxes).all() or (boxes < 0).any() or (boxes > 1).any():
            raise ValueError(
                f"{self.name}: boxes_cxcywh must lie in [0, 1] of the frame before padding, but "
                f"range from {boxes.min().item():.4g} to {boxes.max().item():.4g}."
            )

    @property
    def name(self) -> str:
        """Video and clip, as messages call them."""
        parts = [
            f"{word} {value}"
            for word, value in (("video", self.video_id), ("clip", self.clip_id))
            if value
        ]
        return ", ".join(parts) or "clip without id"

    @property
    def num_frames(self) -> int:
        """T."""
        return int(self.masks.shape[1])

    @property
    def frame_times(self) -> Tensor:
        """(T,) int64, the frames' indices in the video."""
        times = self.times or range(self.num_frames)
        return torch.tensor(list(times), device=self.labels.device)

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) of the frames before padding, in pixels."""
        return int(self.masks.shape[2]), int(self.masks.shape[3])

    def __len__(self) -> int:
        return int(self.masks.shape[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipTargets:
        """The same targets on another device."""
        return replace(
            self,
            labels=self.labels.to(device, non_blocking=non_blocking),
            boxes_cxcywh=self.boxes_cxcywh.to(device, non_blocking=non_blocking),
            masks=self.masks.to(device, non_blocking=non_blocking),
            valid=self.valid.to(device, non_blocking=non_blocking),
        )

    def select(self, index: Tensor) -> ClipTargets:
        """The tracklets at ``index``, (N,) int64 or (G,) bool, in that order."""
        return replace(
            self,
            labels=self.labels[index],
            boxes_cxcywh=self.boxes_cxcywh[index],
            masks=self.masks[index],
            valid=self.valid[index],
        )
