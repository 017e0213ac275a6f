"""IDOL's association: by hand, against loops over its rules, and what it hands out."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor

from vmt.inference.association.bisoftmax import BisoftmaxAssociation, BisoftmaxOptions
from vmt.inference.association.tracks import TrackOptions
from vmt.modeling.tracking.memory import MemoryOptions, TrackMemory, bisoftmax
from vmt.modeling.tracking.selection import (
    SelectionOptions,
    greedy_nms,
    select_by_box,
    without_same_masks,
)
from vmt.modeling.video_model import FrameOutputs


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def frame(rows: list[tuple[float, int, list[float]]], boxes: Tensor | None = None) -> FrameOutputs:
    """(score, label of three, embedding) per query; query i has column i of the masks."""
    logits = torch.full((len(rows), 3), logit(0.01))
    masks = torch.full((len(rows), 4, 12), -4.0)
    for i, (score, label, _) in enumerate(rows):
        logits[i, label] = logit(score)
        masks[i, :, i] = 4.0
    boxes = boxes if boxes is not None else torch.rand(len(rows), 4)
    embeddings = torch.tensor([row[2] for row in rows])
    return FrameOutputs(logits, boxes, masks, embeddings, mask_stride=4, input_size=(16, 48))


def step(memory: TrackMemory, t: int, scores: list[float], embeds: list[tuple]) -> list[int | None]:
    return memory.step(t, torch.tensor(scores), torch.tensor(embeds, dtype=torch.float32))


def test_the_published_trackers_example() -> None:
    memory = TrackMemory(MemoryOptions())
    assert step(memory, 0, [0.9, 0.8, 0.15], [(3, 0), (0, 3), (-3, 0)]) == [0, 1, None]
    assert step(memory, 1, [0.9, 0.8], [(0, 2.5), (2.8, 0.3)]) == [1, 0]
    assert step(memory, 2, [0.6, 0.5, 0.3], [(2, 0.1), (-3, -1), (0.1, 2)]) == [0, 2, 1]
    vectors = torch.stack([entry.vector() for entry in memory.entries.values()])
    expected = torch.tensor([[2.5597, 0.1395], [0.0325, 2.4792], [-3.0, -1.0]])
    torch.testing.assert_close(vectors, expected, atol=1e-4, rtol=0)
    assert [entry.matches for entry in memory.entries.values()] == [3, 3, 1]
    for t in range(3, 14):
        assert step(memory, t, [0.9], [(3, 0)]) == [0]
        assert list(memory.entries) == ([0, 1, 2] if t < 12 else [0])


@pytest.mark.parametrize(("first", "ids"), [((5 / 3, 0), [0, 1]), ((-3, 0), [1, 0])])
def test_a_lone_tracklet_goes_to_the_best_detection_that_fits(first: tuple, ids: list[int]) -> None:
    memory = TrackMemory(MemoryOptions())
    step(memory, 0, [0.9], [(3, 0)])
    assert step(memory, 1, [0.9, 0.8], [first, (3, 0)]) == ids


def test_a_match_at_the_last_moment_counts() -> None:
    for gap, expected in ((10, 0), (11, 1)):
        memory = TrackMemory(MemoryOptions())
        step(memory, 0, [0.9, 0.9], [(3, 0), (0, 3)])
        for t in range(1, gap):
            step(memory, t, [0.9], [(0, 3)])
        found = step(memory, gap, [0.9, 0.9], [(0, 3), (3, 0)])
        assert found == [1, 0] if expected == 0 else found == [1, 2]


def test_scores_that_start_a_tracklet() -> None:
    options = MemoryOptions(first_score=0.2, birth_score=0.5, match_score=1.0)
    memory = TrackMemory(options)
    assert step(memory, 0, [0.3, 0.2], [(9, 0, 0), (0, 9, 0)]) == [0, None]
    assert step(memory, 1, [0.6, 0.5], [(0, 9, 0), (0, 0, 9)]) == [1, None]
    assert memory.step(2, torch.zeros(0), torch.zeros(0, 3)) == []


def test_several_acceptable_tracklets_are_weighed_by_their_matches() -> None:
    """Two detections alike: without weights the younger tracklet wins by a hair."""
    for weigh, expected in ((False, 1), (True, 0)):
        memory = TrackMemory(MemoryOptions(frame_weight=weigh, match_score=0.4))
        step(memory, 0, [0.9], [(3, 0)])
        for t in range(1, 4):
            step(memory, t, [0.9], [(3, 0)])
        memory.step(4, torch.tensor([0.9, 0.9]), torch.tensor([[3.0, 0], [3.0, 0.1]]))
        assert list(memory.entries) == [0, 1]
        assert step(memory, 5, [0.9], [(3.0, 0.2)]) == [expected]


def test_the_best_pairs_together() -> None:
    """The best detection takes a tracklet that another needs more: greedy and optimal differ."""
    embeds = [(2.0, 1.9), (2.0, 0.0)]
    found = []
    for optimal in (False, True):
        memory = TrackMemory(MemoryOptions(optimal=optimal, match_score=0.2, frame_weight=False))
        step(memory, 0, [0.9, 0.9], [(1.0, 0.0), (0.0, 0.9)])
        found.append(step(memory, 1, [0.9, 0.8], embeds))
    scores = bisoftmax(torch.tensor(embeds), torch.tensor([(1.0, 0.0), (0.0, 0.9)]))
    assert scores[0, 1] + scores[1, 0] > scores[0, 0] + scores[1, 1]
    assert found[1] == [1, 0]
    assert sorted(found[0]) == [0, 1]


def test_bisoftmax_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    e, m = (torch.randn(n, 5, generator=generator) for n in (3, 4))
    expected = torch.zeros(3, 4)
    for i in range(3):
        for j in range(4):

            def dot(a: int, b: int) -> float:
                return math.exp(float(e[a] @ m[b]))

            over_memory = dot(i, j) / sum(dot(i, k) for k in range(4))
            over_detections = dot(i, j) / sum(dot(k, j) for k in range(3))
            expected[i, j] = (over_memory + over_detections) / 2
    torch.testing.assert_close(bisoftmax(e, m), expected)


def test_selection() -> None:
    box = torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 4)
    box[3, 0] = 0.8
    rows = [(0.5, 0, [0.0]), (0.9, 0, [0.0]), (0.6, 1, [0.0]), (0.05, 0, [0.0])]
    options = SelectionOptions()
    found = frame(rows, box)
    detections = select_by_box(found.class_probs(), found.boxes_cxcywh, options)
    assert detections.query.tolist() == [1, 2], "a class apart, and without the weak one"
    torch.testing.assert_close(detections.scores, torch.tensor([0.9, 0.6]))
    faint = frame([(0.02, 0, [0.0]), (0.05, 2, [0.0])])
    (best,) = select_by_box(faint.class_probs(), None, options).query.tolist()
    assert best == 1, "where nothing passes, the best query is sent"
    masks = torch.full((4, 1, 10), -1.0)
    masks[0, :, :6] = masks[1, :, 1:6] = masks[2, :, 5:] = 1.0  # IoU 5/6, 1/10; the last is empty
    assert without_same_masks(masks, options) == [0, 2, 3]
    assert without_same_masks(masks, SelectionOptions(mask_iou=0.05)) == [0, 3]
    chain = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.6], [0.0, 0.6, 1.0]])
    assert greedy_nms(chain, 0.5) == [0, 2], "what is gone suppresses nothing"


def run(frames: list[FrameOutputs], options: BisoftmaxOptions | None = None):
    association = BisoftmaxAssociation(options)
    association.add(0, frames)
    return association.pop_frames(len(frames)), association.pop_closed(everything=True)


def test_scores_are_means_over_matched_frames() -> None:
    red, none = (0.8, 0, [9.0, 0.0]), (0.04, 2, [0.0, 0.0])
    clip = [frame([red]), frame([(0.6, 0, [9.0, 0.0])]), frame([none, none])]
    records, (track,) = run(clip)
    assert [r.track_ids for r in records] == [(1,), (1,), (1,)]  # the best query, however weak
    expected = (0.8 + 0.6 + 0.01) / 3
    assert [(c.label, round(c.score, 4)) for c in track.classes] == [(0, round(expected, 4))]
    assert [round(r.scores[0], 3) for r in records] == [0.8, 0.7, round(expected, 3)]
    _, (track,) = run(clip, BisoftmaxOptions(tracks=TrackOptions(best_score=True)))
    assert [(c.label, round(c.score, 4)) for c in track.classes] == [(0, 0.8)]


def test_every_class_above_the_threshold_is_a_result() -> None:
    outputs = frame([(0.8, 0, [9.0, 0.0])])
    outputs.logits[0, 1] = logit(0.3)
    _, (track,) = run([outputs])
    assert [c.label for c in track.classes] == [0, 1]


def two(second: bool) -> FrameOutputs:
    rows = [(0.9, 0, [9.0, 0.0])] + [(0.8, 1, [0.0, 9.0])] * second
    return frame(rows)


def test_short_tracks_are_dropped_and_start_anew() -> None:
    """Seen at 8 and 9, dropped at 11, seen again at 13 under a new id; a third match saves it."""
    seen = {8, 9, 13, 14, 15}
    records, closed = run([two(t in seen) for t in range(18)])
    assert {t: r.track_ids for t, r in enumerate(records) if len(r.track_ids) > 1} == {
        8: (1, 2), 9: (1, 2), 13: (1, 3), 14: (1, 3), 15: (1, 3),
    }  # fmt: skip
    assert {s.track_id: len(s.classes) > 0 for s in closed} == {1: True, 2: False, 3: True}


@pytest.mark.parametrize(("last", "kept"), [(6, True), (7, False)])
def test_short_tracks_of_the_beginning_wait(last: int, kept: bool) -> None:
    """Frame 9 is the first in which two missed frames count."""
    frames = [two(t == 5) for t in range(last + 2)] + [two(False)] * (last == 7)
    _, closed = run(frames)
    assert [bool(s.classes) for s in closed] == [True, kept]


def test_tracks_close_when_they_are_forgotten() -> None:
    association = BisoftmaxAssociation()
    for t in range(16):
        association.add(t, [two(t < 3)])
        closed = association.pop_closed()
        assert [s.track_id for s in closed] == ([2] if t == 12 else [])
    assert [s.track_id for s in association.pop_closed(everything=True)] == [1]


def test_the_state_survives_a_file() -> None:
    frames = [two(t in {0, 1, 2, 5, 6, 20}) for t in range(22)]
    straight, before, after = (BisoftmaxAssociation() for _ in range(3))
    straight.add(0, frames)
    before.add(0, frames[:7])
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    after.load_state(torch.load(file, weights_only=True))
    after.add(7, frames[7:])
    for one, other in zip(straight.pop_frames(22), after.pop_frames(22), strict=True):
        assert (one.track_ids, one.scores) == (other.track_ids, other.scores)
        assert torch.equal(one.logits, other.logits)
    assert straight.pop_closed(everything=True) == after.pop_closed(everything=True)
