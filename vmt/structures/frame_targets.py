"""What is true about single frames, for networks that look at one frame at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from vmt.structures.clip import ClipTargets


@dataclass(frozen=True)
class FrameTargets:
    """The G objects that are visible in a frame; G may be 0.

    Args:
        labels: (G,) int64.
        boxes_cxcywh: (G, 4) in [0, 1] of the padded frame.
        masks: (G, H, W) bool, padding included.
        name: for messages.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    masks: Tensor
    name: str = "frame"

    def __len__(self) -> int:
        return len(self.labels)


def frame_targets(
    targets: Sequence[ClipTargets], padded_size: tuple[int, int]
) -> list[FrameTargets]:
    """The frames of B clips, clip by clip.

    Args:
        targets: B.
        padded_size: (H, W) to which the frames are padded on the right and below, in pixels.

    Returns:
        B*T records.
    """
    frames = []
    for clip in targets:
        height, width = clip.input_size
        below, right = padded_size[0] - height, padded_size[1] - width
        share = clip.boxes_cxcywh.new_tensor([width / padded_size[1], height / padded_size[0]])
        boxes = clip.boxes_cxcywh * share.repeat(2)
        for t in range(clip.num_frames):
            seen = clip.valid[:, t]
            masks = F.pad(clip.masks[seen, t], (0, right, 0, below))
            frames.append(
                FrameTargets(clip.labels[seen], boxes[seen, t], masks, f"{clip.name}, frame {t}")
            )
    return frames
