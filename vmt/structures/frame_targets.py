"""What is true about single frames, for networks that look at one frame at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.structures.clip import ClipTargets
from vmt.utils.device import constant


@dataclass(frozen=True)
class FrameTargets:
    """The G objects that are visible in a frame; G may be 0.

    Args:
        labels: (G,) int64.
        boxes_cxcywh: (G, 4) in [0, 1] of the padded frame.
        masks: (G, H, W) bool, padding included.
        name: for messages.
        track: (G,) int64, which of the clip's tracklets each is; None: the i-th is i.
        num_tracks: of the clip; 0: as many as objects.
        boxes_only: see ``ClipTargets``.
        unlabelled: likewise.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    masks: Tensor
    name: str = "frame"
    track: Tensor | None = None
    num_tracks: int = 0
    boxes_only: bool = False
    unlabelled: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def slots(self) -> Tensor:
        """(G,) int64: the same place in every frame of a clip."""
        if self.track is not None:
            return self.track
        return torch.arange(len(self), device=self.labels.device)

    @property
    def num_slots(self) -> int:
        """Places of the clip."""
        return max(self.num_tracks, len(self))


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
        share = constant((width / padded_size[1], height / padded_size[0]), clip.boxes_cxcywh)
        boxes = clip.boxes_cxcywh * share.repeat(2)
        for t in range(clip.num_frames):
            seen = clip.valid[:, t]
            masks = F.pad(clip.masks[seen, t], (0, right, 0, below))
            frames.append(
                FrameTargets(
                    clip.labels[seen],
                    boxes[seen, t],
                    masks,
                    f"{clip.name}, frame {t}",
                    seen.nonzero()[:, 0],
                    len(clip),
                    clip.boxes_only,
                    clip.unlabelled,
                )
            )
    return frames
