"""Losses of refined masks, against loops and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.modeling.criteria import slow_criteria as slow
from vmt.config.defaults import default_config
from vmt.modeling.criteria.matcher import HungarianClipMatcher
from vmt.modeling.refiners.criterion import RefinerCriterion


def test_defaults_are_those_of_the_config() -> None:
    loss, criterion = default_config().MODEL.LOSS, RefinerCriterion()
    assert (criterion.focal_alpha, criterion.focal_gamma) == (loss.FOCAL_ALPHA, loss.FOCAL_GAMMA)
    assert list(criterion.weights.values()) == [
        loss.REFINE_MASK_WEIGHT,
        loss.REFINE_DICE_WEIGHT,
        loss.REFINE_BOUNDARY_WEIGHT,
        loss.REFINE_STAGE_WEIGHT,
    ]


def refined(num: int, T: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(8)
    shapes = ((num, T, 10, 14), (num, T, 6, 8))
    final, stage2 = (
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    )
    return final, stage2


def slow_region(masks: Tensor) -> Tensor:
    """Mixed 2x2 blocks (odd sides: last row and column again), grown by 3 pixels; H, W."""
    H, W = masks.shape
    region = torch.zeros(H + H % 2, W + W % 2, dtype=torch.bool)
    for y in range(0, H, 2):
        for x in range(0, W, 2):
            block = {
                bool(masks[min(y + dy, H - 1), min(x + dx, W - 1)])
                for dy in (0, 1)
                for dx in (0, 1)
            }
            region[y : y + 2, x : x + 2] = len(block) == 2
    grown = torch.zeros_like(region)
    for y, x in region.nonzero().tolist():
        grown[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = True
    return grown


def test_refiner_losses_match_loops() -> None:
    targets = slow.clip(G=2, size=(9, 13))
    targets.masks[0, 0] = True
    targets.masks[0, 1] = False  # two frames without any contour
    targets.masks[1] = False
    targets.masks[1, :, 2:6, 0:5] = True
    criterion = RefinerCriterion(region_rule="mixed")
    final, stage2 = refined(2)
    matcher = HungarianClipMatcher()
    logits, boxes = slow.predictions(1, 1, 3)
    match = matcher(logits[0, 0], boxes[0, 0], targets)
    losses = criterion([final], [stage2], [targets], [match], 2.0)

    wanted = targets.masks[match.target_index]
    full = torch.zeros(final.shape, dtype=torch.bool)
    full[..., :9, :13] = wanted
    half = torch.zeros(stage2.shape, dtype=torch.bool)
    half[..., :4, :6] = wanted[..., 1::2, 1::2]
    region = torch.stack([torch.stack([slow_region(m) for m in tube]) for tube in wanted])
    assert region.shape == final.shape
    assert 0 < region.float().mean() < 1
    expected = {
        "loss_mask_refine": slow.mask_focal_loss(final, full, 2.0),
        "loss_mask_dice_refine": slow.dice_loss(final, full, 2.0),
        "loss_mask_bound_refine": slow.dice_loss(final, full, 2.0, region),
        "loss_refine": slow.mask_focal_loss(stage2, half, 2.0),
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)
    total = sum(criterion.weight(name) * loss for name, loss in losses.items())
    weights = (2, 5, 5, 2)
    assert total.item() == pytest.approx(
        sum(map(math.prod, zip(weights, expected.values(), strict=True)))
    )
    total.backward()
    assert final.grad is not None
    assert stage2.grad is not None
    assert (final.grad != 0).all()
    assert (stage2.grad != 0).all()


def test_refiner_losses_of_empty_clips_are_zero_and_add_nothing() -> None:
    full, empty = slow.clip(G=2, size=(9, 13)), slow.clip(G=0, size=(9, 13))
    logits, boxes = slow.predictions(1, 1, 3)
    matches = [HungarianClipMatcher()(logits[0, 0], boxes[0, 0], t) for t in (full, empty)]
    some, none = refined(2), refined(0)
    criterion = RefinerCriterion()
    alone = criterion([some[0]], [some[1]], [full], matches[:1], 2.0)
    both = criterion([some[0], none[0]], [some[1], none[1]], [full, empty], matches, 2.0)
    for name, loss in alone.items():
        torch.testing.assert_close(both[name], loss)
    for loss in criterion([none[0]], [none[1]], [empty], matches[1:], 1.0).values():
        assert loss.item() == 0
        assert loss.requires_grad
    with pytest.raises(ValueError, match="at least one clip"):
        criterion([], [], [], [], 1.0)


@pytest.mark.parametrize("grown", [0, 1, 3])
def test_the_boundary_loss_looks_a_given_distance_around(grown: int) -> None:
    """A line along the edges of cells; the region is a column of 2 px on each side, and more.

    The residue of a line between cells of 2 px reaches the cell on either side.
    """
    criterion = RefinerCriterion(dilation_px=grown)
    masks = torch.zeros(1, 1, 8, 32, dtype=torch.bool)
    masks[..., :16] = True
    region = criterion._region(masks, torch.zeros(1, 1, 8, 32))[0, 0, 4]
    assert region.nonzero()[:, 0].tolist() == list(range(14 - grown, 18 + grown))
