"""Tracklets of training clips: which queries of its frames are refined together, and as what.

Source: RefineVIS, arXiv:2306.04774, section 4.1, which says only that thresholds are lower than at
inference; docs/methods/refinevis.md has the rest. Letters: T frames of Q queries; N tracklets; G
objects of a frame. Nothing here has a gradient but ``gathered``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vmt.modeling.frame_training import RefinableFrameModel, TrainedFrame
from vmt.modeling.temporal.criterion import Tracklets
from vmt.modeling.temporal.options import TrackletOptions
from vmt.modeling.tracking.memory import MemoryOptions, TrackMemory, bisoftmax
from vmt.modeling.tracking.selection import (
    Detections,
    SelectionOptions,
    select_by_box,
    without_same_masks,
)

#: Bi-softmax above which a background query of another frame follows one of the first, as IDOL.
FOLLOWS = 0.5


@dataclass(frozen=True)
class TrackedQueries:
    """N tracklets of a clip.

    Args:
        query: (N, T) int64; -1 where the tracklet is missed. No row is missed throughout.
        slots: (N,) int64, the clip's tracklet that each stands for; -1: none.
    """

    query: Tensor
    slots: Tensor

    def __len__(self) -> int:
        return len(self.slots)

    def joined(self, other: TrackedQueries) -> TrackedQueries:
        """These, then the others."""
        return TrackedQueries(
            torch.cat([self.query, other.query]), torch.cat([self.slots, other.slots])
        )

    def begun(self) -> Tensor:
        """(N, T) bool, from the first match on."""
        return (self.query >= 0).cumsum(1) > 0


@torch.no_grad()
def tracked_queries(
    model: RefinableFrameModel,
    frames: Sequence[TrainedFrame],
    embeddings: Sequence[Tensor],
    options: TrackletOptions,
) -> TrackedQueries:
    """Tracklets of a clip.

    Args:
        model: has seen the frames.
        frames: T.
        embeddings: T times (Q, C'), by which queries are associated.
        options: see ``TrackletOptions``.

    Returns:
        Those that are objects, then background.
    """
    if options.kind == "tracker":
        return _tracked(model, frames, embeddings, options)
    objects = _guided(model, frames, options)
    return objects.joined(_background(model, frames, embeddings, options))


def gathered(tracks: TrackedQueries, frames: Sequence[TrainedFrame]) -> Tracklets:
    """Embeddings of the tracklets, zero where they were missed.

    A missed query has the reference point of the nearest frame with a match, the earlier of two.
    """
    embeds, seen = [], tracks.query >= 0
    for t, frame in enumerate(frames):
        chosen = frame.embeds[tracks.query[:, t].clamp(min=0)]
        embeds.append(torch.where(seen[:, t, None], chosen, torch.zeros_like(chosen)))
    refs = None
    if frames[0].refs is not None:
        nearest = _nearest(seen)  # (N, T)
        query = tracks.query.gather(1, nearest)
        points = torch.stack([frame.refs for frame in frames if frame.refs is not None])
        refs = points[nearest, query]
    return Tracklets(torch.stack(embeds, 1), tracks.slots, tracks.slots >= 0, refs)


def _nearest(seen: Tensor) -> Tensor:
    """(N, T) bool with a True in each row -> (N, T), the nearest True, the earlier of two."""
    time = torch.arange(seen.shape[1], device=seen.device)
    distance = (time[:, None] - time).abs().expand(len(seen), -1, -1)
    return distance.masked_fill(~seen[:, None], seen.shape[1]).argmin(2)


# --- by the annotation --------------------------------------------------------------------------


def _guided(
    model: RefinableFrameModel, frames: Sequence[TrainedFrame], options: TrackletOptions
) -> TrackedQueries:
    """The queries that stand for each object, where they are near enough."""
    first = frames[0].target
    query = first.labels.new_full((first.num_slots, len(frames)), -1)
    for t, frame in enumerate(frames):
        target, best = frame.target, frame.best
        near = _acceptable(model, frame, options)  # (Q, G)
        near = near.gather(0, best.clamp(min=0)[None])[0] & (best >= 0)
        query[target.slots[near], t] = best[near]
    slots = (query >= 0).any(1).nonzero()[:, 0]
    return TrackedQueries(query[slots], slots)


def _acceptable(
    model: RefinableFrameModel, frame: TrainedFrame, options: TrackletOptions
) -> Tensor:
    """(Q, G) bool: IoU and probability of the class are high enough."""
    score = model.class_probs(frame)[:, frame.target.labels]
    return (model.overlaps(frame) >= options.min_iou) & (score >= options.min_score)


def _background(
    model: RefinableFrameModel,
    frames: Sequence[TrainedFrame],
    embeddings: Sequence[Tensor],
    options: TrackletOptions,
) -> TrackedQueries:
    """The best background queries of the first frame, and what follows each in the others."""
    key = frames[0]
    query = _detections(model, key, SelectionOptions(score=0.0)).query
    chosen = query[~key.assigned[query]][: options.num_negatives]
    rows = [chosen]
    for frame, embedding in zip(frames[1:], embeddings[1:], strict=True):
        others = (~frame.assigned).nonzero()[:, 0]
        if not len(others):
            rows.append(torch.full_like(chosen, -1))
            continue
        affinity = bisoftmax(embeddings[0][chosen].float(), embedding[others].float())
        score, index = affinity.max(1)
        rows.append(torch.where(score > FOLLOWS, others[index], -1))
    return TrackedQueries(torch.stack(rows, 1), torch.full_like(chosen, -1))


# --- by the association itself ------------------------------------------------------------------


def _detections(
    model: RefinableFrameModel, frame: TrainedFrame, options: SelectionOptions
) -> Detections:
    """Objects of a frame as at inference, by descending score."""
    detections = select_by_box(model.class_probs(frame), frame.boxes, options)
    query = detections.query.to(frame.embeds.device)
    refs = None if frame.refs is None else frame.refs[query]
    masks = model.mask_head(frame.embeds[query], frame.pixel, refs)
    different = detections.at(without_same_masks(masks, options))
    return Detections(different.query.to(frame.embeds.device), different.scores)


def _tracked(
    model: RefinableFrameModel,
    frames: Sequence[TrainedFrame],
    embeddings: Sequence[Tensor],
    options: TrackletOptions,
) -> TrackedQueries:
    """Tracklets of the association with lower thresholds, and the objects that they are."""
    least = options.min_score
    memory = TrackMemory(MemoryOptions(first_score=least, birth_score=least))
    rows: dict[int, list[int]] = {}
    scores: dict[int, float] = {}
    for t, (frame, embedding) in enumerate(zip(frames, embeddings, strict=True)):
        objects = _detections(model, frame, SelectionOptions(score=least))
        ids = memory.step(t, objects.scores, embedding[objects.query].float().cpu())
        queries = objects.query.tolist(), objects.scores.tolist()
        for track, query, score in zip(ids, *queries, strict=True):
            if track is not None:
                rows.setdefault(track, [-1] * len(frames))[t] = query
                scores[track] = max(score, scores.get(track, 0.0))
    device = frames[0].embeds.device
    order = sorted(rows, key=lambda track: -scores[track])
    query = torch.tensor([rows[track] for track in order], dtype=torch.int64, device=device)
    query = query.view(-1, len(frames))  # none at all, too
    return _labelled(query, _support(model, frames, query, options), options)


def _support(
    model: RefinableFrameModel,
    frames: Sequence[TrainedFrame],
    query: Tensor,
    options: TrackletOptions,
) -> Tensor:
    """How much each tracklet is each object of the clip.

    In a frame a tracklet's query is the object that it overlaps most, if that is acceptable.

    Args:
        model: has seen the frames.
        frames: T.
        query: (N, T) int64; -1 where a tracklet is missed.
        options: thresholds.

    Returns:
        (N, slots) sums of IoUs over frames.
    """
    support = torch.zeros(len(query), frames[0].target.num_slots, device=query.device)
    for t, frame in enumerate(frames):
        target = frame.target
        if not len(target) or not len(query):
            continue
        iou = model.overlaps(frame).float() * _acceptable(model, frame, options)
        best, index = iou[query[:, t].clamp(min=0)].max(1)
        best = best * (query[:, t] >= 0)
        support.scatter_add_(1, target.slots[index][:, None], best[:, None])
    return support


def _labelled(query: Tensor, support: Tensor, options: TrackletOptions) -> TrackedQueries:
    """What tracklets stand for.

    A tracklet is of the object that supports it most. Of an object's tracklets the one with most
    support stands for it, the others are left out: too like it to be background. Tracklets of no
    object are background, the first of them.

    Args:
        query: (N, T), by descending score.
        support: (N, slots).
        options: how many are background at most.
    """
    rows = (support <= 0).all(1).nonzero()[:, 0][: options.num_negatives]
    background = TrackedQueries(query[rows], torch.full_like(rows, -1))
    if not support.numel():
        return background
    most, slot = support.max(1)
    columns = torch.arange(support.shape[1], device=slot.device)
    own = torch.where(slot[:, None] == columns, most[:, None], 0.0)
    best, chosen = own.max(0)  # per slot
    slots = (best > 0).nonzero()[:, 0]
    return TrackedQueries(query[chosen[slots]], slots).joined(background)
