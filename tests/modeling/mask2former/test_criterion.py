"""Costs and losses, against loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from vmt.modeling.criteria.finite import NonFiniteError
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.point_criterion import Predictions
from vmt.modeling.criteria.point_sampling import PointSampler, at_points, reference_points
from vmt.modeling.mask2former.criterion import Mask2FormerCriterion
from vmt.structures.frame_targets import FrameTargets

SAMPLER = PointSampler(24, draw=reference_points)
CPU = torch.device("cpu")


def world(seed: int = 0) -> tuple[Predictions, list[FrameTargets], Tensor]:
    """Two frames of 6 queries, 3 classes and no object; two objects, then one."""
    torch.manual_seed(seed)
    output = Predictions(torch.randn(2, 6, 4), torch.randn(2, 6, 8))
    targets = []
    for count in (2, 1):
        masks = torch.rand(count, 16, 16) > 0.5
        targets.append(FrameTargets(torch.randint(3, (count,)), torch.rand(count, 4), masks))
    return output, targets, torch.randn(2, 8, 4, 4)


def slow_masks(logits: list[float], truth: list[float]) -> tuple[float, float]:
    """Cross entropy and dice of one mask at points."""
    probs = [1 / (1 + math.exp(-x)) for x in logits]
    pairs = list(zip(probs, truth, strict=True))
    entropy = -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in pairs) / len(pairs)
    dice = 1 - (2 * sum(p * t for p, t in pairs) + 1) / (sum(probs) + sum(truth) + 1)
    return entropy, dice


def slow_probs(logits: Tensor) -> list[float]:
    powers = [math.exp(float(x)) for x in logits]
    return [power / sum(powers) for power in powers]


def read(output: Predictions, pixel: Tensor, frame: int, query: int) -> list[float]:
    """A query's mask at the places that all pairs share."""
    mask = torch.einsum("c,chw->hw", output.kernels[frame, query], pixel[frame])
    return at_points(mask[None, None], reference_points(1, 24, CPU))[0, 0].tolist()


def slow_cost(
    output: Predictions, pixel: Tensor, target: FrameTargets, frame: int, query: int, g: int
) -> float:
    points = reference_points(1, 24, CPU)
    truth = at_points(target.masks[g][None, None].float(), points)[0, 0].tolist()
    entropy, dice = slow_masks(read(output, pixel, frame, query), truth)
    prob = slow_probs(output.logits[frame, query])[int(target.labels[g])]
    return -2 * prob + 5 * entropy + 5 * dice


@pytest.mark.parametrize("seed", range(4))
def test_the_match_has_the_least_cost(seed: int) -> None:
    output, targets, pixel = world(seed)
    [matches] = Mask2FormerCriterion(sampler=SAMPLER).match([output], targets, pixel)
    for frame, (match, target) in enumerate(zip(matches, targets, strict=True)):

        def cost(
            choice: tuple[int, ...], frame: int = frame, target: FrameTargets = target
        ) -> float:
            return sum(slow_cost(output, pixel, target, frame, q, g) for g, q in enumerate(choice))

        best = min(itertools.permutations(range(6), len(target)), key=cost)
        chosen = dict(zip(match.target_index.tolist(), match.query_index.tolist(), strict=True))
        assert [chosen[g] for g in range(len(target))] == list(best)


def test_costs() -> None:
    output, targets, pixel = world(7)
    points = reference_points(1, 24, CPU)
    for frame, target in enumerate(targets):
        truth = at_points(target.masks[None].float(), points)[0]
        places = torch.tensor([read(output, pixel, frame, q) for q in range(6)])
        criterion = Mask2FormerCriterion()
        cost = criterion.cost(output.logits[frame], places, target.labels, truth)
        for query, g in itertools.product(range(6), range(len(target))):
            slow = slow_cost(output, pixel, target, frame, query, g)
            assert float(cost[query, g]) == pytest.approx(slow, abs=1e-5)


def test_losses() -> None:
    output, targets, pixel = world(2)
    # every oversampled place counts, so that a loop can do without the choice
    criterion = Mask2FormerCriterion(sampler=PointSampler(24, 1.0, 1.0, reference_points))
    matches = [Match(torch.tensor([1, 4]), torch.tensor([1, 0])), Match(*torch.tensor([[3], [0]]))]
    losses = criterion.losses(output, matches, targets, pixel, 3.0)
    points = reference_points(1, 24, CPU)
    slow = dict.fromkeys(("loss_ce", "loss_mask", "loss_dice"), 0.0)
    total = 0.0
    for frame, (match, target) in enumerate(zip(matches, targets, strict=True)):
        pairs = dict(zip(match.query_index.tolist(), match.target_index.tolist(), strict=True))
        for query in range(6):
            label = int(target.labels[pairs[query]]) if query in pairs else 3
            weight = 0.1 if label == 3 else 1.0
            slow["loss_ce"] -= weight * math.log(slow_probs(output.logits[frame, query])[label])
            total += weight
        for query, g in pairs.items():
            truth = at_points(target.masks[g][None, None].float(), points)[0, 0].tolist()
            entropy, dice = slow_masks(read(output, pixel, frame, query), truth)
            slow["loss_mask"] += entropy / 3
            slow["loss_dice"] += dice / 3
    slow["loss_ce"] /= total
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(slow, abs=1e-5)


def test_names_and_weights_of_outputs() -> None:
    output, targets, pixel = world()
    criterion = Mask2FormerCriterion(
        {"loss_ce": 1, "loss_mask": 2, "loss_dice": 3}, sampler=SAMPLER
    )
    outputs = {"": output, "_0": output}
    result = criterion(outputs, targets, pixel, 3.0)
    assert list(result.matches) == ["", "_0"]
    assert criterion.weighted(result.losses) == {
        name: {"ce": 1, "mask": 2, "dice": 3}[name.split("_")[1]] * value
        for name, value in result.losses.items()
    }
    last = Mask2FormerCriterion(sampler=SAMPLER, deep_supervision=False)
    assert set(last(outputs, targets, pixel, 3.0).losses) == {"loss_ce", "loss_mask", "loss_dice"}


def test_not_a_number_is_named() -> None:
    output, targets, pixel = world()
    output.kernels[1, 0] = torch.nan
    targets[1] = FrameTargets(
        targets[1].labels, targets[1].boxes_cxcywh, targets[1].masks, "clip 7"
    )
    with pytest.raises(NonFiniteError, match="clip 7: matching costs of decoder layer 0 hold NaN"):
        Mask2FormerCriterion(sampler=SAMPLER).match([output], targets, pixel)


def test_known_classes_cost_as_much_as_matched_ones_but_for_the_divisor() -> None:
    output, _, _ = world(3)
    labels = torch.tensor([2, -1, 0, -1, -1, 1])
    loss = Mask2FormerCriterion(sampler=SAMPLER).embedding_class_loss(output.logits[0], labels, 4.0)
    slow = 0.0
    for logits, label in zip(output.logits[0], labels.tolist(), strict=True):
        probability = slow_probs(logits)[label if label >= 0 else 3]
        slow -= (1.0 if label >= 0 else 0.1) * math.log(probability)
    assert float(loss) == pytest.approx(slow / 4, abs=1e-5)
