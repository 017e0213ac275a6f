"""Class and mask losses of refined tracklets, whose objects are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vmt.modeling.frame_training import RefinableFrameModel, TrainedFrame
from vmt.ops.frames import frame_chunks
from vmt.structures.frame_targets import FrameTargets

#: Tracklets whose masks of one frame are in memory at a time.
CHUNK = 64
LOSSES = ("loss_ce", "loss_mask", "loss_dice")


@dataclass(frozen=True)
class Tracklets:
    """N tracklets of a training clip of T frames, before or behind refinement.

    Args:
        embeds: (N, T, C); before refinement zero where a tracklet was missed.
        slots: (N,) int64, the clip's tracklet that each stands for; -1: none, background.
        with_mask: (N,) bool, whose masks count; the truth is empty where there is no object.
        refs: (N, T, 2) as ``RefinableFrameModel.mask_head`` takes them; None for heads without.
        counts: (N, T) bool, frames in which a tracklet is there and learns; None: in all.
    """

    embeds: Tensor
    slots: Tensor
    with_mask: Tensor
    refs: Tensor | None = None
    counts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.slots)


def tracklet_losses(
    model: RefinableFrameModel,
    tracklets: Tracklets,
    frames: Sequence[TrainedFrame],
    count: float | Tensor,
    chunk: int = CHUNK,
    absent_class: bool = False,
) -> dict[str, Tensor]:
    """Losses of refined tracklets in every frame of their clip.

    An object's class and mask are wanted where the frame shows it, else background and an empty
    mask. With more tracklets than ``chunk`` their masks are computed again for the gradient.

    Args:
        model: whose heads and losses these are.
        tracklets: refined.
        frames: T.
        count: divisor of the sums.
        chunk: tracklets per frame at a time; 0: all.
        absent_class: an object's class is wanted too where a frame does not show it.

    Returns:
        ``LOSSES``, weighted, summed over frames.
    """
    absent = torch.full_like(tracklets.slots, -1)
    if absent_class:
        absent = labels_of(frames, tracklets.slots)
    parts = list(frame_chunks(len(tracklets), chunk)) or [slice(0, 0)]
    sums: dict[str, Tensor] = {}
    for t, frame in enumerate(frames):
        for rows in parts:
            args = model, tracklets, t, rows, frame, absent, count
            if len(parts) > 1 and torch.is_grad_enabled():
                losses = checkpoint(_losses, *args, use_reentrant=False)
            else:
                losses = _losses(*args)
            sums = {name: sums.get(name, 0) + loss for name, loss in losses.items()}
    return sums


def _losses(
    model: RefinableFrameModel,
    tracklets: Tracklets,
    t: int,
    rows: slice,
    frame: TrainedFrame,
    absent: Tensor,
    count: float | Tensor,
) -> dict[str, Tensor]:
    chosen = torch.arange(len(tracklets), device=tracklets.slots.device)[rows]
    if tracklets.counts is not None:
        chosen = chosen[tracklets.counts[chosen, t]]
    labels, masks = truth_of(frame.target, tracklets.slots[chosen])
    labels = labels.where(labels >= 0, absent[chosen])
    losses = model.embedding_losses(
        tracklets.embeds[chosen, t],
        None if tracklets.refs is None else tracklets.refs[chosen, t],
        frame,
        labels,
        masks,
        tracklets.with_mask[chosen],
        count,
    )
    return {name: losses[name] for name in LOSSES}


def truth_of(target: FrameTargets, slots: Tensor) -> tuple[Tensor, Tensor]:
    """What a frame shows of tracklets.

    Args:
        target: of the frame.
        slots: (N,) int64, tracklets of the clip; -1: none.

    Returns:
        (N,) int64 labels, -1 where the frame shows no such object, and (N, H, W) bool masks, empty
        there.
    """
    objects = slots.new_full((target.num_slots + 1,), -1)
    objects[target.slots] = torch.arange(len(target), device=slots.device)
    chosen = objects[slots]  # -1, the last of each, is none
    labels = F.pad(target.labels, (0, 1), value=-1)
    masks = F.pad(target.masks, (0, 0, 0, 0, 0, 1))
    return labels[chosen], masks[chosen]


def labels_of(frames: Sequence[TrainedFrame], slots: Tensor) -> Tensor:
    """Classes of tracklets of a clip, wherever it shows them.

    Args:
        frames: of the clip.
        slots: (N,) int64, tracklets; -1: none.

    Returns:
        (N,) int64; -1 for none.
    """
    known = slots.new_full((frames[0].target.num_slots + 1,), -1)
    for frame in frames:
        known[frame.target.slots] = frame.target.labels
    return known[slots]
