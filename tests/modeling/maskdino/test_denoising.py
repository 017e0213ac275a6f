"""Denoising queries, against loops."""

from __future__ import annotations

import pytest
import torch

from vmt.modeling.maskdino.denoising import (
    Denoising,
    Noise,
    contrastive_boxes,
    noisy_boxes,
    noisy_labels,
)
from vmt.structures.boxes import cxcywh_to_xyxy, inverse_sigmoid
from vmt.structures.frame_targets import FrameTargets


def target(*labels: int) -> FrameTargets:
    count = len(labels)
    boxes = torch.linspace(0.2, 0.6, max(4 * count, 1))[: 4 * count].view(count, 4)
    return FrameTargets(
        torch.tensor(labels, dtype=torch.int64), boxes, torch.zeros(count, 4, 4) > 0
    )


def test_without_noise_the_queries_are_the_objects() -> None:
    part = Denoising(8, 5)
    targets = [target(3, 1), target(), target(4)]
    queries = part(targets, Noise(7, 0.0))
    assert queries is not None
    assert (queries.groups, queries.slots, len(queries)) == (3, 2, 6)
    for group in range(3):
        for frame, objects in enumerate(targets):
            for slot in range(2):
                place = group * 2 + slot
                content = torch.zeros(8)
                anchor = torch.zeros(4)
                if slot < len(objects):
                    content = part.labels.weight[objects.labels[slot]]
                    anchor = inverse_sigmoid(objects.boxes_cxcywh[slot])
                assert torch.equal(queries.content[frame, place], content)
                assert torch.equal(queries.anchor_logits[frame, place], anchor)


def test_who_reads_whom() -> None:
    queries = Denoising(8, 5)([target(0, 1, 2)], Noise(6, 0.0))
    assert queries is not None
    visible = queries.visible(4)
    for row in range(10):
        for column in range(10):
            sees = column >= 6 or (row < 6 and row // 3 == column // 3)
            assert bool(visible[row, column]) == sees


def test_pairs_of_a_frame_with_fewer_objects() -> None:
    queries = Denoising(8, 5)([target(0, 1, 2), target(4, 4)], Noise(6, 0.0))
    assert queries is not None
    pairs = queries.pairs(target(4, 4))
    assert pairs.query_index.tolist() == [0, 1, 3, 4]
    assert pairs.target_index.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_queries_for_a_group(count: int) -> None:
    assert Denoising(8, 5)([target(0, 1, 2)], Noise(count, 0.4)) is None


def test_no_objects() -> None:
    assert Denoising(8, 5)([target(), target()], Noise(10, 0.4)) is None


def test_noise_of_boxes_has_bounds() -> None:
    torch.manual_seed(0)
    box = torch.tensor([0.5, 0.4, 0.2, 0.3])
    noisy = noisy_boxes(box.expand(5000, 4), 0.4)
    reach = torch.tensor([0.04, 0.06, 0.08, 0.12])
    away = (noisy - box).abs()
    assert (away <= reach + 1e-6).all()
    assert (away.amax(0) > 0.95 * reach).all()
    corner = noisy_boxes(torch.tensor([0.01, 0.99, 0.9, 1.0]).expand(500, 4), 1.0)
    assert ((corner >= 0) & (corner <= 1)).all()


def test_share_of_new_labels() -> None:
    torch.manual_seed(0)
    labels = torch.full((20000,), 3)
    changed = (noisy_labels(labels, 0.2, 10) != 3).float().mean()
    assert abs(float(changed) - 0.2 * 0.9) < 0.01
    assert torch.equal(noisy_labels(labels, 0.0, 10), labels)


# --- contrastive --------------------------------------------------------------------------------


def clip_frame(tracks: list[int], num_tracks: int) -> FrameTargets:
    """A frame that shows some tracklets of a clip."""
    objects = target(*tracks)
    return FrameTargets(
        objects.labels, objects.boxes_cxcywh, objects.masks, "", torch.tensor(tracks), num_tracks
    )


def test_contrastive_queries_keep_the_slot_of_a_tracklet() -> None:
    part = Denoising(8, 5)
    frames = [clip_frame([0, 1, 2], 3), clip_frame([2], 3)]
    queries = part(frames, Noise(7, 0.4, "contrastive"))
    assert queries is not None
    assert (queries.groups, queries.slots, len(queries)) == (2, 3, 12)
    assert queries.present is not None
    # per group: positives of slots 0 to 2, then their negatives
    assert queries.present.tolist() == [[True] * 12, [False, False, True] * 4]
    assert not queries.content[1][~queries.present[1]].any()
    pairs = queries.pairs(frames[1])
    table = {tuple(row) for row in part.labels.weight.tolist()}
    assert all(tuple(row) in table for row in queries.content[1, pairs.query_index].tolist())
    assert pairs.query_index.tolist() == [2, 8]
    assert pairs.target_index.tolist() == [0, 0]


def test_who_reads_whom_in_contrastive_groups() -> None:
    frames = [clip_frame([0, 1], 2), clip_frame([1], 2)]
    queries = Denoising(8, 5)(frames, Noise(4, 0.4, "contrastive"))
    assert queries is not None
    visible = queries.visible(3)
    assert visible.shape == (2, 1, 11, 11)
    for frame, absent in ((0, []), (1, [0, 2, 4, 6])):
        for row in range(11):
            for column in range(11):
                sees = column >= 8 or (row < 8 and row // 4 == column // 4)
                assert bool(visible[frame, 0, row, column]) == (sees and column not in absent)


def test_there_is_a_contrastive_group_however_many_objects() -> None:
    queries = Denoising(8, 5)([target(0, 1, 2)], Noise(2, 0.4, "contrastive"))
    assert queries is not None
    assert (queries.groups, len(queries)) == (1, 6)
    assert Denoising(8, 5)([target(0)], Noise(0, 0.4, "contrastive")) is None


def test_negatives_move_further_than_positives() -> None:
    torch.manual_seed(0)
    box = torch.tensor([0.5, 0.4, 0.2, 0.3])
    noisy = cxcywh_to_xyxy(contrastive_boxes(box.expand(3000, 2, 1, 4), 0.4))
    half = torch.tensor([0.1, 0.15, 0.1, 0.15])
    steps = (noisy - cxcywh_to_xyxy(box)) / half / 0.4
    positive, negative = steps[:, 0].abs(), steps[:, 1].abs()
    assert positive.max() <= 1 + 1e-4
    assert negative.min() >= 1 - 1e-4
    assert negative.max() <= 2 + 1e-4
    assert (positive.amax((0, 1)) > 0.95).all()
    assert (negative.amax((0, 1)) > 1.95).all()
    for sign in (steps > 0).float().mean((0, 2)).flatten():
        assert abs(float(sign) - 0.5) < 0.05  # either way, each coordinate by itself
