"""Tracklets of training clips, against loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modeling.temporal.worlds import DIM, LABELS, QUERIES, Heads, frame_of, with_refs
from vmt.modeling.frame_training import TrainedFrame
from vmt.modeling.temporal.options import TrackletOptions
from vmt.modeling.temporal.tracklets import TrackedQueries, gathered, tracked_queries
from vmt.modeling.tracking.memory import bisoftmax
from vmt.structures.boxes import cxcywh_to_xyxy, pairwise_iou

MODEL: Any = Heads()
GT, TRACKER = TrackletOptions("gt"), TrackletOptions("tracker")


def tracks_of(
    frames: list[TrainedFrame], options: TrackletOptions, embeddings: list[Tensor] | None = None
) -> TrackedQueries:
    if embeddings is None:
        embeddings = [frame.embeds.detach() for frame in frames]
    return tracked_queries(MODEL, frames, embeddings, options)


def near(frame: TrainedFrame, query: int, g: int, options: TrackletOptions) -> float:
    """IoU of a query with an object, or 0 where that is not acceptable."""
    boxes = cxcywh_to_xyxy(frame.boxes[query][None])
    iou = pairwise_iou(boxes, cxcywh_to_xyxy(frame.target.boxes_cxcywh[g][None])).item()
    score = frame.logits[query, frame.target.labels[g]].sigmoid().item()
    return iou if iou >= options.min_iou and score >= options.min_score else 0.0


# --- by the annotation --------------------------------------------------------------------------


def slow_guided(frames: list[TrainedFrame], options: TrackletOptions) -> list[tuple[int, list]]:
    found = []
    for slot in range(len(LABELS)):
        row = []
        for frame in frames:
            slots = frame.target.slots.tolist()
            query = -1
            if slot in slots and frame.best[slots.index(slot)] >= 0:
                best = int(frame.best[slots.index(slot)])
                if near(frame, best, slots.index(slot), options) > 0:
                    query = best
            row.append(query)
        if any(query >= 0 for query in row):
            found.append((slot, row))
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.02, 0.08])
def test_queries_that_stand_for_an_object_are_its_tracklet(seed: int, spread: float) -> None:
    frames = [
        frame_of([0, 1, 2], seed, spread),
        frame_of([2, 0], seed + 50, spread),
        frame_of([1], seed + 90, spread),
    ]
    frames[1].best[0] = -1  # more objects than queries
    tracks = tracks_of(frames, replace(GT, num_negatives=0))
    found = list(zip(tracks.slots.tolist(), tracks.query.tolist(), strict=True))
    assert found == slow_guided(frames, GT)


def test_far_and_doubtful_queries_are_missed() -> None:
    frames = [frame_of([0, 1], 0), frame_of([0, 1], 1)]
    frames[0].boxes[frames[0].best[0]] = torch.tensor([0.9, 0.9, 0.1, 0.1]).double()
    frames[1].logits[frames[1].best[1]] = -9.0
    tracks = tracks_of(frames, replace(GT, num_negatives=0))
    assert tracks.query.tolist() == [[-1, 1], [4, -1]]
    assert tracks.begun().tolist() == [[False, True], [True, True]]


def test_background_follows_its_bisoftmax() -> None:
    """The best background queries of the first frame, without those that repeat a better one."""
    frames = [frame_of([0], 3), frame_of([0], 4), frame_of([0, 1, 2], 5)]
    frames[0].boxes[5] = frames[0].boxes[4]  # a box twice, of one class
    frames[0].logits[4:6] = torch.tensor([[-3.0, 2, -3], [-3, 1.5, -3]])
    embeddings = [frame.embeds.detach().float() for frame in frames]
    tracks = tracks_of(frames, replace(GT, num_negatives=3), embeddings)
    background = tracks.query[tracks.slots < 0]
    scores = frames[0].logits.max(1).values
    # masks of random embeddings may repeat one another too
    assert background[0, 0] == 4
    assert set(background[:, 0].tolist()) <= {q for q in range(3, QUERIES) if q != 5}
    assert scores[background[:, 0]].tolist() == sorted(
        scores[background[:, 0]].tolist(), reverse=True
    )
    assert 3 >= len(background) > 0
    for row in background.tolist():
        for t in (1, 2):
            free = [q for q in range(QUERIES) if not frames[t].assigned[q]]
            affinity = bisoftmax(embeddings[0][background[:, 0]], embeddings[t][free])
            best = affinity[background[:, 0].tolist().index(row[0])]
            wanted = free[int(best.argmax())] if best.max() > 0.5 else -1
            assert row[t] == wanted


def test_a_clip_without_objects_has_background_alone() -> None:
    frames = [frame_of([], 1), frame_of([], 2)]
    for options in (GT, replace(TRACKER, min_score=0.0)):
        tracks = tracks_of(frames, options)
        assert len(tracks) > 0
        assert (tracks.slots == -1).all()
    assert len(tracks_of(frames, replace(GT, num_negatives=0))) == 0


# --- by the association -------------------------------------------------------------------------


def labelled(rows: list[list[int]], frames: list[TrainedFrame], options: TrackletOptions) -> Any:
    """Slow: (slot, row) of objects, then rows of background, of tracker's rows best first."""
    support = []
    for row in rows:
        sums = dict.fromkeys(range(len(LABELS)), 0.0)
        for frame, query in zip(frames, row, strict=True):
            ious = [near(frame, query, g, options) for g in range(len(frame.target))]
            if query >= 0 and ious and max(ious) > 0:
                g = ious.index(max(ious))
                sums[int(frame.target.slots[g])] += ious[g]
        support.append(sums)
    objects = []
    for slot in range(len(LABELS)):
        own = [
            (sums[slot], -place)
            for place, sums in enumerate(support)
            if sums[slot] > 0 and sums[slot] == max(sums.values())
        ]
        if own:
            objects.append((slot, rows[-max(own)[1]]))
    nothing = [row for row, sums in zip(rows, support, strict=True) if not any(sums.values())]
    return objects, nothing[: options.num_negatives]


class Fixed:
    """Tracks that are what a test says."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows, self.frame = rows, -1

    def __call__(self, options: Any) -> Fixed:
        self.options = options
        return self

    def step(self, frame: int, scores: Tensor, embeddings: Tensor) -> list[int | None]:
        self.frame = frame
        column = [row[frame] for row in self.rows]
        return [column.index(q) if q in column else None for q in range(len(scores))]


@pytest.mark.parametrize("seed", range(6))
def test_tracks_are_the_objects_that_they_overlap(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracks that change objects, that share one, that are none, and that are missed."""
    from vmt.modeling.temporal import tracklets
    from vmt.modeling.tracking.selection import Detections

    frames = [frame_of([0, 1, 2], seed, 0.04), frame_of([0, 2], seed + 50, 0.04)]
    rows = [[0, 1], [1, 2], [3, 4], [6, -1], [9, 9], [-1, 8], [4, 3], [7, 7], [2, -1]]
    memory = Fixed(rows)
    monkeypatch.setattr(tracklets, "TrackMemory", memory)
    everything = Detections(torch.arange(QUERIES), torch.linspace(0.9, 0.1, QUERIES))
    monkeypatch.setattr(tracklets, "_detections", lambda *_: everything)
    options = replace(TRACKER, num_negatives=1)
    tracks = tracks_of(frames, options)
    assert memory.options.birth_score == memory.options.first_score == 0.05
    best = [max(0.9 - 0.8 * q / 9 for q in row if q >= 0) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -best[i])
    objects, background = labelled([rows[i] for i in order], frames, options)
    found = list(zip(tracks.slots.tolist(), tracks.query.tolist(), strict=True))
    assert found == [*objects, *((-1, row) for row in background)]


def test_the_tracker_finds_the_objects_again() -> None:
    """Queries of an object are alike in all frames, and a miss is a miss."""
    frames = [frame_of([0, 1, 2], 1), frame_of([1, 2], 2), frame_of([2, 0], 3)]
    looks = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0)))[0]
    embeddings = []
    for frame in frames:
        embedding = torch.zeros(QUERIES, DIM)
        for row, slot in enumerate(frame.target.slots.tolist()):
            embedding[3 * row : 3 * row + 3] = 6 * looks[slot]
        embeddings.append(embedding)
        frame.logits[3 * len(frame.target) :] = -9.0
        # masks of one object repeat each other, those of different objects do not
        masks = torch.eye(DIM)[frame.target.slots].repeat_interleave(3, 0).double()
        frame.embeds.data[: len(masks)] = masks * 2 - 0.5
        frame.pixel.zero_()
        frame.pixel.view(DIM, -1)[:, :DIM] = torch.eye(DIM)
    tracks = tracks_of(frames, TRACKER, embeddings)
    assert tracks.slots.tolist() == [0, 1, 2]
    rows = [[None if q < 0 else q // 3 for q in row] for row in tracks.query.tolist()]
    assert rows == [[0, None, 1], [1, 0, None], [2, 1, 0]]


# --- embeddings ---------------------------------------------------------------------------------


def test_missed_places_are_zero_and_keep_the_graph() -> None:
    frames = [with_refs(frame_of([0, 1], t)) for t in range(4)]
    query = torch.tensor([[3, -1, -1, 5], [-1, 2, 2, -1], [-1, -1, 0, -1]])
    tracklets = gathered(TrackedQueries(query, torch.tensor([0, 1, -1])), frames)
    assert tracklets.with_mask.tolist() == [True, True, False]
    nearest = [[0, 0, 3, 3], [1, 1, 2, 2], [2, 2, 2, 2]]
    for row in range(3):
        for t, frame in enumerate(frames):
            q = int(query[row, t])
            wanted = frame.embeds[q] if q >= 0 else torch.zeros(DIM).double()
            assert torch.equal(tracklets.embeds[row, t], wanted)
            source = nearest[row][t]
            assert tracklets.refs is not None
            point = frames[source].refs[query[row, source]]
            assert torch.equal(tracklets.refs[row, t], point)
    tracklets.embeds.sum().backward()
    assert frames[0].embeds.grad is not None
    assert frames[0].embeds.grad.sum(1).nonzero()[:, 0].tolist() == [3]


def test_no_tracklets_keep_the_graph() -> None:
    frames = [frame_of([], t) for t in range(2)]
    nobody = torch.zeros(0, dtype=torch.int64)
    tracklets = gathered(TrackedQueries(nobody.view(0, 2), nobody), frames)
    assert tracklets.embeds.shape == (0, 2, DIM)
    tracklets.embeds.sum().backward()
    assert frames[1].embeds.grad is not None
