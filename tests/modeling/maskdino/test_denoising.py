"""Denoising queries, against loops."""

from __future__ import annotations

import pytest
import torch

from vmt.modeling.maskdino.denoising import Denoising, Noise, noisy_boxes, noisy_labels
from vmt.structures.boxes import inverse_sigmoid
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
    pairs = queries.pairs(2)
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
