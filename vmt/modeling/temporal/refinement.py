"""Losses of refinement: tracklets of training clips, refined, and held against their objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vmt.modeling.criteria.set_criterion import mean_count
from vmt.modeling.frame_training import RefinableFrameModel, TrainedFrame
from vmt.modeling.temporal.criterion import Tracklets, tracklet_losses
from vmt.modeling.temporal.denoising import temporal_count, temporal_denoising
from vmt.modeling.temporal.options import LearningOptions
from vmt.modeling.temporal.tar import TAR
from vmt.modeling.temporal.tracklets import gathered, tracked_queries


def refined(
    tar: TAR, embeds: Tensor, times: Tensor, begun: Tensor | None, recurrent: bool
) -> Tensor:
    """Refine the tracklets of a clip.

    Args:
        tar: the refinement.
        embeds: (N, T, C); zero where a tracklet was missed.
        times: (T,) int64.
        begun: (N, T) bool, False before a tracklet began, where it is not read; None: all began
            before the clip.
        recurrent: frame after frame, each reading the refined ones before it, as at online
            inference (Eq. 4); else the frames of each W read each other's, as offline.

    Returns:
        (N, T, C); without meaning where a tracklet had not begun.
    """
    window = tar.options.window
    if not recurrent:
        clips = zip(embeds.split(window, 1), times.split(window), strict=True)
        return torch.cat([tar(part, time) for part, time in clips], 1)
    done: list[Tensor] = []
    for t in range(embeds.shape[1]):
        first = max(0, t + 1 - window)
        sequence = torch.stack([*done[first:], embeds[:, t]], 1)
        readable = None
        if begun is not None:
            readable = begun[:, first : t + 1].clone()
            readable[:, -1] = True
        last = tar(sequence, times[first : t + 1], readable, last_only=True)
        done.append(last[:, 0])
    return torch.stack(done, 1)


def with_gaps(embeds: Tensor, share: float) -> Tensor:
    """Tracklets of which some matches are hidden, as if they had been missed.

    Detectors seldom miss what they are trained on, so that without gaps refinement seldom sees what
    it is to recover.

    Args:
        embeds: (N, T, C); zero where a tracklet was missed.
        share: of the matches behind a tracklet's first, in [0, 1).

    Returns:
        The same, zero in the gaps too.
    """
    if not share:
        return embeds
    seen = embeds.detach().ne(0).any(-1)  # (N, T)
    gap = (torch.rand(seen.shape, device=embeds.device) < share) & (seen.cumsum(1) > 1)
    return embeds.masked_fill(gap[..., None], 0)


def refinement_losses(
    model: RefinableFrameModel,
    tar: TAR,
    associated: Callable[[Tensor], Tensor],
    clips: Sequence[Sequence[TrainedFrame]],
    times: Sequence[Tensor],
    options: LearningOptions,
) -> dict[str, Tensor]:
    """Class and mask losses of refined tracklets in all frames (Eq. 5).

    Args:
        model: has seen the frames; its heads and losses hold for refined embeddings too.
        tar: the refinement.
        associated: (..., C) embeddings to those by which queries are compared.
        clips: B lists of T frames.
        times: B times (T,) int64, frame indices in the video.
        options: which tracklets, and how they are refined.

    Returns:
        "loss_ce_refine" and so on, weighted; with denoising "loss_ce_refine_dn" and so on.
    """
    groups = [_tracklets(model, associated, frames, options) for frames in clips]
    count = positive_count(groups, clips)
    sums: dict[str, Tensor] = {}
    for tracklets, frames, time in zip(groups, clips, times, strict=True):
        embeds = with_gaps(tracklets.embeds, options.gaps)
        embeds = refined(tar, embeds, time, tracklets.counts, options.recurrent)
        output = replace(tracklets, embeds=embeds)
        losses = tracklet_losses(model, output, frames, count, absent_class=options.absent_class)
        _add(sums, losses, "_refine")
    if not options.temporal_denoising or not model.denoising_kind:
        return sums
    noisy_count = temporal_count(clips)
    for frames, time in zip(clips, times, strict=True):

        def refine(embeds: Tensor, time: Tensor = time) -> Tensor:
            embeds = with_gaps(embeds, options.gaps)
            return refined(tar, embeds, time, None, options.recurrent)

        losses = temporal_denoising(
            model, frames, refine, noisy_count, absent_class=options.absent_class
        )
        _add(sums, losses, "_refine_dn")
    return sums


def _tracklets(
    model: RefinableFrameModel,
    associated: Callable[[Tensor], Tensor],
    frames: Sequence[TrainedFrame],
    options: LearningOptions,
) -> Tracklets:
    """Of matched queries and background; frame after frame none is there before its first match."""
    with torch.no_grad():
        embeddings = [associated(frame.embeds) for frame in frames]
    tracks = tracked_queries(model, frames, embeddings, options.tracklets)
    tracklets = gathered(tracks, frames)
    return replace(tracklets, counts=tracks.begun()) if options.recurrent else tracklets


def positive_count(
    groups: Sequence[Tracklets], clips: Sequence[Sequence[TrainedFrame]]
) -> float | Tensor:
    """Frames of tracklets that show the tracklet's object, averaged over processes, at least 1.

    Args:
        groups: tracklets of each clip of this process.
        clips: their frames.
    """
    count, device = 0, clips[0][0].embeds.device
    for tracklets, frames in zip(groups, clips, strict=True):
        for t, frame in enumerate(frames):
            slots = tracklets.slots
            shown = torch.isin(slots, frame.target.slots)
            if tracklets.counts is not None:
                shown &= tracklets.counts[:, t]
            count += int(shown.sum())
    return mean_count(count, device)


def _add(sums: dict[str, Tensor], losses: Mapping[str, Tensor], suffix: str) -> None:
    for name, loss in losses.items():
        key = name + suffix
        sums[key] = sums[key] + loss if key in sums else loss
