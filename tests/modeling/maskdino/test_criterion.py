"""Costs and losses, against loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from vmt.modeling.criteria.finite import NonFiniteError
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.ota import SimOta
from vmt.modeling.criteria.point_sampling import PointSampler, at_points, reference_points
from vmt.modeling.maskdino.criterion import LOSSES, BoxPredictions, MaskDINOCriterion
from vmt.modeling.maskdino.denoising import NoisyQueries
from vmt.structures.frame_targets import FrameTargets

SAMPLER = PointSampler(24, draw=reference_points)


def world(seed: int = 0) -> tuple[BoxPredictions, list[FrameTargets], Tensor]:
    """Two frames of 6 queries and 3 classes; two objects in the first, one in the second."""
    torch.manual_seed(seed)
    logits, boxes = torch.randn(2, 6, 3), torch.rand(2, 6, 4) * 0.5 + 0.2
    output = BoxPredictions(logits, torch.randn(2, 6, 8), boxes)
    targets = []
    for count in (2, 1):
        masks = torch.rand(count, 16, 16) > 0.5
        boxes = torch.rand(count, 4) * 0.4 + 0.3
        targets.append(FrameTargets(torch.randint(3, (count,)), boxes, masks))
    return output, targets, torch.randn(2, 8, 4, 4)


def slow_giou(a: list[float], b: list[float]) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    width = max(min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2), 0)
    height = max(min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2), 0)
    outer = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    outer *= max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    union = aw * ah + bw * bh - width * height
    return width * height / (union + 1e-6) - (outer - union) / (outer + 1e-6)


def slow_masks(logits: list[float], truth: list[float]) -> tuple[float, float]:
    """Cross entropy and dice of one mask at points."""
    probs = [1 / (1 + math.exp(-x)) for x in logits]
    pairs = list(zip(probs, truth, strict=True))
    entropy = -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in pairs) / len(pairs)
    dice = 1 - (2 * sum(p * t for p, t in pairs) + 1) / (sum(probs) + sum(truth) + 1)
    return entropy, dice


def slow_focal(logit: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    if positive:
        return 0.25 * (1 - p) ** 2 * -math.log(p)
    return 0.75 * p**2 * -math.log(1 - p)


def read(output: BoxPredictions, pixel: Tensor, frame: int, query: int) -> list[float]:
    """A query's mask at the places that all pairs share."""
    mask = torch.einsum("c,chw->hw", output.kernels[frame, query], pixel[frame])
    points = reference_points(1, 24, torch.device("cpu"))
    return at_points(mask[None, None], points)[0, 0].tolist()


def test_costs() -> None:
    output, targets, pixel = world()
    criterion = MaskDINOCriterion(sampler=SAMPLER)
    points = reference_points(1, 24, torch.device("cpu"))
    for frame, target in enumerate(targets):
        truth = at_points(target.masks[None].float(), points)[0]
        places = torch.tensor([read(output, pixel, frame, q) for q in range(6)])
        cost = criterion.cost(output.logits[frame], output.boxes[frame], places, target, truth)
        for query, g in itertools.product(range(6), range(len(target))):
            logit = float(output.logits[frame, query, target.labels[g]])
            box, wanted = output.boxes[frame, query].tolist(), target.boxes_cxcywh[g].tolist()
            entropy, dice = slow_masks(places[query].tolist(), truth[g].tolist())
            slow = 4 * (slow_focal(logit, True) - slow_focal(logit, False))
            slow += 5 * sum(abs(a - b) for a, b in zip(box, wanted, strict=True))
            slow += -2 * slow_giou(box, wanted) + 5 * entropy + 5 * dice
            assert float(cost[query, g]) == pytest.approx(slow, abs=1e-5)


def test_the_match_has_the_least_cost() -> None:
    output, targets, pixel = world(1)
    criterion = MaskDINOCriterion(sampler=SAMPLER)
    [matches] = criterion.match([output], targets, pixel)
    points = reference_points(1, 24, torch.device("cpu"))
    for frame, (match, target) in enumerate(zip(matches, targets, strict=True)):
        truth = at_points(target.masks[None].float(), points)[0]
        places = torch.tensor([read(output, pixel, frame, q) for q in range(6)])
        cost = criterion.cost(output.logits[frame], output.boxes[frame], places, target, truth)
        choices = itertools.permutations(range(6), len(target))
        best = min(choices, key=lambda c: sum(float(cost[q, g]) for g, q in enumerate(c)))
        found = dict(zip(match.target_index.tolist(), match.query_index.tolist(), strict=True))
        assert [found[g] for g in range(len(target))] == list(best)


def test_losses() -> None:
    output, targets, pixel = world(2)
    # every oversampled place counts, so that a loop can do without the choice
    criterion = MaskDINOCriterion(sampler=PointSampler(24, 1.0, 1.0, reference_points))
    matches = [Match(torch.tensor([1, 4]), torch.tensor([1, 0])), Match(*torch.tensor([[3], [0]]))]
    losses = criterion.losses(output, matches, targets, pixel, 3.0)
    points = reference_points(1, 24, torch.device("cpu"))
    slow = dict.fromkeys(LOSSES, 0.0)
    for frame, (match, target) in enumerate(zip(matches, targets, strict=True)):
        pairs = dict(zip(match.query_index.tolist(), match.target_index.tolist(), strict=True))
        for query, label in itertools.product(range(6), range(3)):
            right = query in pairs and int(target.labels[pairs[query]]) == label
            slow["loss_ce"] += slow_focal(float(output.logits[frame, query, label]), right) / 3
        for query, g in pairs.items():
            box, wanted = output.boxes[frame, query].tolist(), target.boxes_cxcywh[g].tolist()
            slow["loss_bbox"] += sum(abs(a - b) for a, b in zip(box, wanted, strict=True)) / 3
            slow["loss_giou"] += (1 - slow_giou(box, wanted)) / 3
            truth = at_points(target.masks[g][None, None].float(), points)[0, 0].tolist()
            entropy, dice = slow_masks(read(output, pixel, frame, query), truth)
            slow["loss_mask"] += entropy / 3
            slow["loss_dice"] += dice / 3
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(slow, abs=1e-5)


def test_denoising_queries_stand_first_and_have_their_own_divisor() -> None:
    output, targets, pixel = world(3)
    criterion = MaskDINOCriterion(sampler=SAMPLER)
    noisy = NoisyQueries(torch.zeros(2, 4, 1), torch.zeros(2, 4, 4), 2, 2)
    result = criterion({"": output}, noisy, targets, pixel, 3.0)
    matching, denoising = output.of_queries(slice(4, None)), output.of_queries(slice(4))
    [matches] = criterion.match([matching], targets, pixel)
    for name, value in criterion.losses(matching, matches, targets, pixel, 3.0).items():
        assert float(value) == float(result.losses[name])
    pairs = [noisy.pairs(target) for target in targets]
    for name, value in criterion.losses(denoising, pairs, targets, pixel, 6.0).items():
        assert float(value) == float(result.losses[f"{name}_dn"])


def test_without_deep_supervision_the_last_layer_alone_is_trained() -> None:
    output, targets, pixel = world()
    criterion = MaskDINOCriterion(sampler=SAMPLER, deep_supervision=False)
    result = criterion({"": output, "_0": output, "_interm": output}, None, targets, pixel, 3.0)
    assert set(result.losses) == {*LOSSES, *(f"{name}_dn" for name in LOSSES)}


def test_a_loss_has_the_weight_of_its_kind() -> None:
    kinds = ("loss_ce", "loss_mask", "loss_dice", "loss_bbox", "loss_giou")
    criterion = MaskDINOCriterion(dict(zip(kinds, (1, 2, 3, 4, 5), strict=True)))
    names = ("loss_ce", "loss_mask_0", "loss_dice_dn", "loss_bbox_dn_7", "loss_giou_interm")
    assert [criterion.weight(name) for name in names] == [1, 2, 3, 4, 5]


def test_not_a_number_is_named() -> None:
    output, targets, pixel = world()
    output.boxes[1, 0] = torch.nan
    targets[1] = FrameTargets(
        targets[1].labels, targets[1].boxes_cxcywh, targets[1].masks, "clip 7"
    )
    with pytest.raises(NonFiniteError, match="clip 7: matching costs"):
        MaskDINOCriterion(sampler=SAMPLER).match([output], targets, pixel)


def test_slots_of_absent_objects_take_no_part_and_negatives_are_background() -> None:
    output, targets, pixel = world(4)
    criterion = MaskDINOCriterion(sampler=SAMPLER)
    present = torch.tensor([[True] * 4, [True, False] * 2])  # one group: two positives, negatives
    noisy = NoisyQueries(torch.zeros(2, 4, 1), torch.zeros(2, 4, 4), 1, 2, present)
    output.logits.requires_grad_()
    result = criterion({"": output}, noisy, targets, pixel, 3.0)
    slow = 0.0
    for frame, target in enumerate(targets):
        for query, label in itertools.product(range(4), range(3)):
            if present[frame, query]:
                right = query < len(target) and int(target.labels[query]) == label
                slow += slow_focal(output.logits[frame, query, label].item(), right) / 3
    assert result.losses["loss_ce_dn"].item() == pytest.approx(slow, abs=1e-5)
    result.losses["loss_ce_dn"].backward()
    assert output.logits.grad is not None
    moved = output.logits.grad.abs().sum(-1) > 0
    assert torch.equal(moved[:, :4], present)


def test_one_to_many_assigns_all_but_proposals_by_simota() -> None:
    """With IDOL's costs, each place divided by its own queries; denoising and proposals as ever."""
    output, targets, pixel = world(5)
    target = targets[0]
    output.boxes[0, 4:] = target.boxes_cxcywh[1]  # two queries on one object
    noisy = NoisyQueries(torch.zeros(2, 2, 1), torch.zeros(2, 2, 4), 1, 2)
    criterion = MaskDINOCriterion(sampler=SAMPLER, matcher="ota")
    outputs = {"": output, "_0": output, "_interm": output.of_queries(slice(2, None))}
    result = criterion(outputs, noisy, targets, pixel, 3.0)
    queries = output.of_queries(slice(2, None))
    ota = SimOta()
    matches = [
        ota(logits, boxes, t.labels, t.boxes_cxcywh)
        for logits, boxes, t in zip(queries.logits, queries.boxes, targets, strict=True)
    ]
    count = sum(len(match.query_index) for match in matches)
    assert count > sum(map(len, targets))
    for suffix in ("", "_0"):
        for found, wanted in zip(result.matches[suffix], matches, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        slow = criterion.losses(queries, matches, targets, pixel, float(count))
        assert all(torch.equal(result.losses[n + suffix], v) for n, v in slow.items())
    [one_to_one] = criterion.match([queries], targets, pixel)
    slow = criterion.losses(queries, one_to_one, targets, pixel, 3.0)
    assert all(torch.equal(result.losses[f"{n}_interm"], v) for n, v in slow.items())
    pairs = [noisy.pairs(t) for t in targets]
    slow = criterion.losses(output.of_queries(slice(2)), pairs, targets, pixel, 3.0)
    assert all(torch.equal(result.losses[f"{n}_dn"], v) for n, v in slow.items())
