"""Losses and costs of one or two tracklets, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vmt.modeling.criteria.losses import box_l1_loss, dice_loss, giou_loss, sigmoid_focal_loss
from vmt.modeling.criteria.matcher import HungarianClipMatcher
from vmt.modeling.criteria.set_criterion import masks_at_stride
from vmt.structures.clip import ClipTargets

INF = 60.0  # a logit whose probability is 1


def targets(valid: Tensor, labels: list[int] | None = None) -> ClipTargets:
    """Tracklets with boxes in the middle; the second one's lies to the right."""
    G, T = valid.shape
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(G, T, 4).clone()
    boxes[1:, :, 0] += 0.2
    masks = torch.zeros(G, T, 8, 8, dtype=torch.bool)
    return ClipTargets(torch.tensor(labels or [0] * G), boxes, masks, valid)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.25, 0.0), (0.75, 1.0), (0.5, 3.0)])
@pytest.mark.parametrize("logit", [0.0, 1.5])
def test_class_cost(alpha: float, gamma: float, logit: float) -> None:
    p = 1 / (1 + math.exp(-logit))
    positive = alpha * (1 - p) ** gamma * -math.log(p)
    negative = (1 - alpha) * p**gamma * -math.log(1 - p)
    matcher = HungarianClipMatcher(3.0, 0.0, 0.0, focal_alpha=alpha, focal_gamma=gamma)
    cost = matcher.cost(torch.tensor([[logit]]), torch.full((1, 1, 4), 0.5),
                        targets(torch.ones(1, 1, dtype=torch.bool)))  # fmt: skip
    assert float(cost) == pytest.approx(3 * (positive - negative), rel=1e-4)


def test_box_cost() -> None:
    """0.3 and 0.4 in the first frame, 0.1 in the second: the root of all squares."""
    clip = targets(torch.tensor([[False, True]]))
    boxes = clip.boxes_cxcywh[0][:, None].clone()
    boxes[0, 0] += torch.tensor([0.3, 0.0, 0.4, 0.0])
    boxes[1, 0, 1] -= 0.1
    found = HungarianClipMatcher(0.0, 2.0, 0.0).cost(torch.zeros(1, 1), boxes, clip)
    assert float(found) == pytest.approx(2 * math.sqrt(0.09 + 0.16 + 0.01))


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.75, 0.0)])
def test_focal(target: float, alpha: float, gamma: float) -> None:
    p = 1 / (1 + math.exp(-0.7))
    of_target = p if target else 1 - p
    weight = alpha if target else 1 - alpha
    expected = weight * (1 - of_target) ** gamma * -math.log(of_target)
    found = sigmoid_focal_loss(torch.tensor([0.7]), torch.tensor([target]), alpha, gamma)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_dice_is_smoothed_on_both_sides() -> None:
    """Of 8 cells 2 are right, 1 is too many, 3 are missed: 1 - (4 + 1) / (3 + 5 + 1)."""
    logits = torch.tensor([1.0, 1, 1, -1, -1, -1, -1, -1]).mul(INF).view(1, 1, 2, 4)
    wanted = torch.tensor([1, 1, 0, 1, 1, 1, 0, 0]).view(1, 1, 2, 4)
    assert float(dice_loss(logits, wanted, 1.0)) == pytest.approx(1 - 5 / 9)
    region = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0], dtype=torch.bool).view(1, 1, 2, 4)
    assert float(dice_loss(logits, wanted, 2.0, region)) == pytest.approx((1 - 5 / 6) / 2)
    nothing = torch.zeros(1, 1, 2, 4, dtype=torch.bool)
    assert float(dice_loss(logits, wanted, 1.0, nothing)) == pytest.approx(0)


def test_box_losses_are_means_over_frames() -> None:
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2]]])
    boxes_gt = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(1, 3, 4).clone()
    boxes_gt[0, 1] += 0.1
    assert float(box_l1_loss(boxes, boxes_gt, 1.0)) == pytest.approx((0.4 + 0.1) / 3)
    # half of the boxes overlap: 1/3, no part of the hull is empty
    found = giou_loss(boxes[:, ::2], boxes_gt[:, ::2], 1.0)
    assert float(found) == pytest.approx((1 - 1 / 3) / 2)


def test_annotations_are_read_in_the_middle_of_cells() -> None:
    masks = torch.zeros(1, 1, 8, 12, dtype=torch.bool)
    masks[..., 2, 6] = True
    found = masks_at_stride(masks, 4, torch.zeros(1, 1, 3, 4))
    assert found.nonzero()[:, 2:].tolist() == [[0, 1]]
    assert found.shape == (1, 1, 3, 4), "padded on the right and below"
    masks.zero_()
    masks[..., 4, 4] = True
    assert not masks_at_stride(masks, 4, torch.zeros(1, 1, 2, 3)).any()
