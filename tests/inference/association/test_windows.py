"""Linking of windows against loops over the definition, and by hand on small cases."""

import numpy as np
import torch
from torch import Tensor

from vmt.inference.association.windows import WindowAssociation, soft_iou
from vmt.structures.predictions import ClipTracklets


def clip(
    logits: Tensor, probs: list[list[float]], embeddings: Tensor | None = None
) -> ClipTracklets:
    """Tracklets with mask logits (N, T, h, w)."""
    count, frames, h, w = logits.shape
    return ClipTracklets(
        query_index=torch.arange(count),
        class_probs=torch.tensor(probs).reshape(count, len(probs[0]) if probs else 2),
        embeddings=torch.eye(count, 4) if embeddings is None else embeddings,
        boxes_cxcywh=torch.zeros(count, frames, 4),
        mask_logits=logits,
        mask_stride=2,
        input_size=(2 * h, 2 * w),
    )


def stripes(columns: list[int], frames: int, width: int = 6) -> Tensor:
    """One tube per column: +8 in that column, -8 elsewhere."""
    logits = torch.full((len(columns), frames, 2, width), -8.0)
    for n, column in enumerate(columns):
        logits[n, :, :, column] = 8.0
    return logits


def test_soft_iou_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 2, 3, 4, generator=generator) for n in (3, 2))
    expected = np.zeros((3, 2))
    for i in range(3):
        for j in range(2):
            p, q = a[i].sigmoid(), b[j].sigmoid()
            expected[i, j] = (p * q).sum() / (p + q - p * q).sum()
    np.testing.assert_allclose(soft_iou(a, b), expected, atol=1e-6)


def test_identities_follow_the_masks_not_the_order() -> None:
    tracks = WindowAssociation()
    tracks.add(0, clip(stripes([0, 3], 3), [[0.9, 0.1], [0.2, 0.8]]))
    assert [f.track_ids for f in tracks.pop_frames(2)] == [(1, 2), (1, 2)]
    tracks.add(2, clip(stripes([3, 5, 0], 3), [[0.2, 0.6], [0.5, 0.5], [0.7, 0.1]]))
    frames = tracks.pop_frames(5)
    assert [f.track_ids for f in frames] == [(1, 2, 3)] * 3
    assert [int(mask[0].argmax()) for mask in frames[1].logits] == [0, 3, 5]
    closed = tracks.pop_closed(everything=True)
    assert [s.track_id for s in closed] == [1, 2, 3]
    assert [(c.label, round(c.score, 3)) for c in closed[0].classes] == [(0, 0.8), (1, 0.1)]
    assert [(c.label, round(c.score, 3)) for c in closed[1].classes] == [(1, 0.7), (0, 0.2)]


def test_logits_are_averaged_over_the_windows_that_saw_the_track() -> None:
    tracks = WindowAssociation()
    tracks.add(0, clip(stripes([1], 3), [[0.9]]))
    tracks.add(1, clip(stripes([1], 3) * 0.5, [[0.5]]))
    tracks.add(2, clip(stripes([4], 3), [[0.5]]))  # another object: not averaged in
    frames = tracks.pop_frames(5)
    column = [float(f.logits[0, 0, 1]) for f in frames[:4]]
    assert column == [8.0, 6.0, 6.0, 4.0]
    assert frames[2].track_ids == (1, 2)
    assert frames[4].track_ids == (2,)


def test_affinity_is_averaged_over_earlier_windows() -> None:
    """Two earlier windows disagree on the track; the mean decides against the threshold."""
    first, second = stripes([0], 3), stripes([0], 3)
    second[:] = stripes([5], 3)
    for threshold, joined in ((0.3, True), (0.7, False)):
        tracks = WindowAssociation(threshold=0.0)
        tracks.add(0, clip(first, [[0.9]]))
        tracks._threshold = -1.0  # force the second window onto the first track
        tracks.add(1, clip(second, [[0.9]]))
        tracks._threshold = threshold
        tracks.add(2, clip(stripes([0], 3), [[0.9]]))
        # Shares frame 2 with the first window (IoU 1) and frames 2, 3 with the second (IoU 0).
        ids = {i for f in tracks.pop_frames(5) for i in f.track_ids}
        assert ids == ({1} if joined else {1, 2})


def test_below_the_threshold_a_track_starts() -> None:
    tracks = WindowAssociation()
    tracks.add(0, clip(stripes([0], 3), [[0.9]]))
    tracks.add(2, clip(stripes([4], 3), [[0.9]]))
    assert [f.track_ids for f in tracks.pop_frames(5)] == [(1,), (1,), (1, 2), (2,), (2,)]


def test_similarity_links_windows_without_shared_frames() -> None:
    queries = torch.eye(2, 4)
    tracks = WindowAssociation(similarity_weight=1.0)
    for start, order in ((0, [0, 1]), (2, [1, 0]), (4, [0, 1])):
        tubes = stripes([start % 5, start % 3 + 1], 2)
        tracks.add(start, clip(tubes, [[0.9], [0.9]], queries[order]))
        tracks.pop_frames(start + 2)
        assert tracks.pop_closed() == []
    assert [s.track_id for s in tracks.pop_closed(everything=True)] == [1, 2]


def test_state_does_not_grow() -> None:
    """Objects that come and go: what is held after 400 windows is what is held after 4."""
    tracks = WindowAssociation()
    held = []
    closed = []
    for k in range(400):
        tracks.add(4 * k, clip(stripes([k % 6], 5), [[0.9, 0.3]]))
        tracks.pop_frames(4 * k + 4)
        closed += tracks.pop_closed()
        masks = sum(seen.logits.untyped_storage().nbytes() for seen in tracks._seen)
        held.append((len(tracks._tracks), masks))
    assert set(held[4:]) == {held[3]}
    assert held[3] == (1, 1 * 1 * 2 * 6 * 4)  # one frame of one track
    assert [s.track_id for s in closed] == list(range(1, 400))


def test_classes_at_or_below_the_limit_are_left_out() -> None:
    tracks = WindowAssociation()
    tracks.add(0, clip(stripes([0, 3], 2), [[0.6, 0.04, 0.06], [0.01, 0.02, 0.03]]))
    tracks.pop_frames(2)
    first, second = tracks.pop_closed(everything=True)
    assert [c.label for c in first.classes] == [0, 2]
    assert second.classes == ()


def test_an_empty_window_is_no_trouble() -> None:
    tracks = WindowAssociation()
    tracks.add(0, clip(torch.zeros(0, 3, 2, 6), []))
    tracks.add(2, clip(stripes([1], 3), [[0.9]]))
    tracks.add(4, clip(torch.zeros(0, 3, 2, 6), []))
    assert [f.track_ids for f in tracks.pop_frames(7)] == [(), (), (1,), (1,), (1,), (), ()]
