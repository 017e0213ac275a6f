"""Denoising across frames: contrastive denoising queries teach association and refinement too.

Source: RefineVIS, arXiv:2306.04774, section 3.5. The queries are the frame model's, made in every
frame of a clip. Letters: D groups of S slots; slot s is tracklet s of the clip in every frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vmt.modeling.criteria.contrastive import contrastive_loss
from vmt.modeling.criteria.set_criterion import mean_count, sum_of
from vmt.modeling.frame_training import NoisyEmbeddings, RefinableFrameModel, TrainedFrame
from vmt.modeling.temporal.criterion import CHUNK, Tracklets, tracklet_losses

# --- association --------------------------------------------------------------------------------


def association_roles(key: Tensor, reference: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which queries of a reference frame are like each positive query of the key frame.

    Like a positive query of tracklet i are the positive ones of i, of every group; unlike it the
    positive and negative ones of the other tracklets. The negatives of i are neither, as they may
    still be much like it.

    Args:
        key: (S,) bool, tracklets that the key frame shows.
        reference: (S,) bool, the same of the reference frame.
        groups: D.

    Returns:
        (A,) int64 anchors, as indices of the key frame's D*2*S queries: positives of tracklets that
        both frames show; (A, D*2*S) bool, who is like them; (A, D*2*S) bool, who is unlike them.
    """
    num_slots, device = len(key), key.device
    index = torch.arange(groups * 2 * num_slots, device=device)
    slot, negative = index % num_slots, index // num_slots % 2 == 1
    anchors = index[~negative & (key & reference)[slot]]
    same = slot[anchors, None] == slot
    shown = reference[slot]
    return anchors, same & shown & ~negative, ~same & shown


def association_denoising(
    pairs: Sequence[tuple[TrainedFrame, TrainedFrame]], head: Callable[[Tensor], Tensor]
) -> Tensor:
    """Contrastive loss between denoising queries of key frames and of reference frames.

    Queries that are matched play no part. An anchor without another tracklet in its reference
    frame costs 0 and counts.

    Args:
        pairs: key frame and reference frame, of the same clip.
        head: (N, C) embeddings to those that are associated.

    Returns:
        Scalar, the mean over the anchors of all pairs.
    """
    losses, count = [], 0
    for key, reference in pairs:
        near, far = key.noisy, reference.noisy
        if near is None or far is None:
            losses.append(0.0 * (key.embeds.sum() + reference.embeds.sum()))
            continue
        anchors, like, unlike = association_roles(near.present, far.present, len(near.embeds))
        embeds = head(near.embeds.flatten(0, 2)[anchors]), head(far.embeds.flatten(0, 2))
        losses.append(len(anchors) * contrastive_loss(*embeds, like, unlike))
        count += len(anchors)
    return sum_of(losses) / max(count, 1)


# --- refinement ---------------------------------------------------------------------------------


def noisy_tracklets(frames: Sequence[TrainedFrame]) -> Tracklets:
    """Tracklets of denoising queries: of each group, slot and kind, through all frames.

    Args:
        frames: of a clip; all have denoising queries, or none has.

    Returns:
        2*D*S' tracklets, S' of the clip's tracklets being in some frame: by group the positives,
        which stand for their tracklet, then the negatives, which stand for none.
    """
    noisy = [frame.noisy for frame in frames if frame.noisy is not None]
    if not noisy:
        embeds = torch.stack([frame.embeds[:0] for frame in frames], 1)
        slots = torch.zeros(0, dtype=torch.int64, device=embeds.device)
        return Tracklets(embeds, slots, slots.bool())
    assert len(noisy) == len(frames), "denoising queries are made in every frame of a clip"
    slots = torch.stack([part.present for part in noisy]).any(0).nonzero()[:, 0]
    embeds = torch.stack([_of_slots(part, slots) for part in noisy], 3)  # (D, 2, S', T, C)
    groups = len(embeds)
    slots = torch.stack([slots, torch.full_like(slots, -1)]).flatten().repeat(groups)
    return Tracklets(embeds.flatten(0, 2), slots, torch.ones_like(slots).bool())


def _of_slots(noisy: NoisyEmbeddings, slots: Tensor) -> Tensor:
    """(D, 2, S', C), zero where the frame does not show a tracklet."""
    embeds = noisy.embeds[:, :, slots]
    return torch.where(noisy.present[slots, None], embeds, torch.zeros_like(embeds))


def temporal_count(clips: Sequence[Sequence[TrainedFrame]]) -> float | Tensor:
    """Divisor of the losses of denoising tracklets.

    Args:
        clips: frames of each clip of this process.

    Returns:
        Positive queries of tracklets in the frames that show them, averaged over processes.
    """
    shown = [
        len(frame.noisy.embeds) * len(frame.target)
        for clip in clips
        for frame in clip
        if frame.noisy is not None
    ]
    return mean_count(sum(shown), clips[0][0].embeds.device)


def temporal_denoising(
    model: RefinableFrameModel,
    frames: Sequence[TrainedFrame],
    refine: Callable[[Tensor], Tensor],
    count: float | Tensor,
    chunk: int = CHUNK,
    absent_class: bool = False,
) -> dict[str, Tensor]:
    """Losses of refined tracklets of denoising queries of a clip.

    Positive tracklets want the class and mask of their object wherever it is seen; negative ones
    background and empty masks.

    Args:
        model: whose heads and losses these are.
        frames: T, of the clip.
        refine: (N, T, C) -> the same, as it refines the tracklets of matched queries.
        count: see ``temporal_count``.
        chunk: see ``tracklet_losses``.
        absent_class: see ``tracklet_losses``.

    Returns:
        See ``tracklet_losses``.
    """
    tracklets = noisy_tracklets(frames)
    refined = replace(tracklets, embeds=refine(tracklets.embeds))
    return tracklet_losses(model, refined, frames, count, chunk, absent_class)
