"""SimOTA against loops over its rules, and the published code's example."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vmt.modeling.criteria.finite import NonFiniteError
from vmt.modeling.criteria.ota import SimOta, assigned
from vmt.structures.boxes import cxcywh_to_xyxy, giou


def slow_costs(logits: Tensor, boxes: Tensor, labels: Tensor, gt: Tensor) -> tuple[list, list]:
    """Pair by pair, in double precision."""
    cost = [[0.0] * len(gt) for _ in boxes]
    iou = [[0.0] * len(gt) for _ in boxes]
    for q, box in enumerate(boxes.double()):
        anywhere = False
        for g, target in enumerate(gt.double()):
            p = 1 / (1 + math.exp(-float(logits[q, labels[g]])))
            focal = -0.25 * (1 - p) ** 2 * math.log(p + 1e-8)
            focal += 0.75 * p**2 * math.log(1 - p + 1e-8)
            both = [cxcywh_to_xyxy(x) for x in (box, target)]
            low, high = torch.maximum(*both)[:2], torch.minimum(*both)[2:]
            inter = float((high - low).clamp(min=0).prod())
            iou[q][g] = inter / float(box[2] * box[3] + target[2] * target[3] - inter)
            x, y = box[:2].tolist()
            x1, y1, x2, y2 = both[1].tolist()
            in_box = x1 < x < x2 and y1 < y < y2
            near = max(abs(x - float(target[0])), abs(y - float(target[1]))) < 2.5 / 32
            anywhere = anywhere or in_box or near
            cost[q][g] = focal - 3 * float(giou(*both)) + 100 * (not (in_box and near))
        if not anywhere:
            cost[q] = [value + 10000 for value in cost[q]]
    return cost, iou


def slow_assignment(cost: list, iou: list, candidates: int) -> set[tuple[int, int]]:
    """(query, object) pairs; changes the costs as the published code does."""
    queries, objects = range(len(cost)), range(len(cost[0]))
    pairs = set()
    for g in objects:
        overlaps = sorted((iou[q][g] for q in queries), reverse=True)[:candidates]
        k = max(1, int(sum(overlaps)))
        pairs |= {(q, g) for q in sorted(queries, key=lambda q: cost[q][g])[:k]}
    while True:
        for q in queries:
            if sum(pair[0] == q for pair in pairs) > 1:
                pairs = {pair for pair in pairs if pair[0] != q}
                pairs.add((q, min(objects, key=lambda g: cost[q][g])))
        empty = [g for g in objects if all(pair[1] != g for pair in pairs)]
        if not empty:
            return pairs
        for q in {pair[0] for pair in pairs}:
            cost[q] = [value + 1e5 for value in cost[q]]
        pairs |= {(min(queries, key=lambda q: cost[q][g]), g) for g in empty}


def problem(seed: int, queries: int = 40, objects: int = 5, spread: float = 0.05):
    """Queries around objects; the last lies on the first, which every query likes better."""
    generator = torch.Generator().manual_seed(seed)
    gt = 0.2 + 0.5 * torch.rand(objects, 4, generator=generator)
    gt[-1] = gt[0] + 0.001
    near = gt[torch.randint(objects, (queries,), generator=generator)]
    boxes = (near + spread * torch.randn(queries, 4, generator=generator)).clamp(0.02, 0.98)
    labels = torch.randint(3, (objects,), generator=generator)
    labels[0], labels[-1] = 0, 1
    logits = torch.randn(queries, 3, generator=generator)
    logits[:, 0], logits[:, 1] = 2, -2
    return logits, boxes, labels, gt


@pytest.mark.parametrize("seed", range(12))
def test_against_loops(seed: int) -> None:
    case = problem(seed, spread=0.02 + 0.02 * (seed % 4))
    ota = SimOta(candidates=6, exclusion_candidates=25)
    cost, iou = slow_costs(*case)
    ours = ota.costs(*case)
    for value, expected in zip(ours, (cost, iou), strict=True):
        truth = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(value.double(), truth, atol=5e-5, rtol=2e-7)  # fp32 near p = 1
    pairs = slow_assignment(cost, iou, 6)
    match = ota(*case)
    assert set(zip(*[x.tolist() for x in match[:2]], strict=True)) == pairs
    for g, best in enumerate(match.best.tolist()):
        least = min(cost[q][g] for q, h in pairs if h == g)
        assert cost[best][g] == pytest.approx(least, abs=0.02), "fp32 of costs about 1e5"
    reference = ota.reference_pairs(*case)
    excluded = slow_assignment(cost, iou, 25)
    for mask, expected in ((reference.positive, pairs), (reference.exclusion, excluded)):
        assert {(q, g) for g, q in mask.nonzero().tolist()} == expected


def test_the_published_example() -> None:
    """Two objects; queries slide off the first in x and off the second in y."""
    gt = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.4]])
    k = torch.arange(10.0)[:, None]
    boxes = torch.cat(
        [gt[0] + k * torch.tensor([0.01, 0, 0, 0]), gt[1] + k * torch.tensor([0, 0.02, 0, 0])]
    )
    logits = torch.full((20, 2), -2.0)
    logits[:10, 0] = logits[10:, 1] = torch.linspace(2, -1, 10)
    match = SimOta()(logits, boxes, torch.tensor([0, 1]), gt)
    assert match.query_index.tolist() == [*range(6), *range(10, 16)]
    assert match.target_index.tolist() == [0] * 6 + [1] * 6
    assert match.best.tolist() == [0, 10]


def test_permuting_queries_permutes_the_match() -> None:
    logits, boxes, labels, gt = problem(3)
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))
    match = SimOta()(logits, boxes, labels, gt)
    moved = SimOta()(logits[order], boxes[order], labels, gt)
    assert torch.equal(order[moved.best], match.best)
    pairs = {(int(order[q]), int(g)) for q, g in zip(*moved[:2], strict=True)}
    assert pairs == {(int(q), int(g)) for q, g in zip(*match[:2], strict=True)}


@pytest.mark.parametrize(("queries", "objects"), [(1, 1), (3, 3), (2, 5), (40, 12)])
def test_few_queries_and_many_objects(queries: int, objects: int) -> None:
    match = SimOta()(*problem(1, queries, objects))
    assert len(set(match.query_index.tolist())) == len(match.query_index) <= queries
    assert len(match.best) == objects
    if queries >= objects:
        assert set(match.target_index.tolist()) == set(range(objects))


def test_no_objects() -> None:
    logits, boxes, labels, gt = problem(0)
    match = SimOta()(logits, boxes, labels[:0], gt[:0])
    assert [len(x) for x in match] == [0, 0, 0]
    pairs = SimOta().reference_pairs(logits, boxes, labels[:0], gt[:0])
    assert pairs.positive.shape == pairs.exclusion.shape == (0, len(boxes))


@pytest.mark.parametrize("part", [0, 1])
def test_numbers_that_are_none(part: int) -> None:
    case = list(problem(0))
    case[part][2] = float("nan")
    with pytest.raises(NonFiniteError, match="diverged"):
        SimOta()(*case)


def test_objects_share_queries_that_all_prefer_one_of_them() -> None:
    cost = torch.tensor([[0.1, 9.0, 9.5], [0.2, 8.0, 9.6], [0.3, 8.5, 7.0], [0.4, 9.9, 7.5]])
    iou = torch.tensor([[1.0, 0.1, 0.1]]).expand(4, -1)
    _, taken = assigned(cost, iou, 10)  # the first object wants all four
    assert taken.nonzero().tolist() == [[0, 0], [1, 1], [2, 2], [3, 0]]
    _, alone = assigned(cost[:3], iou[:3], 10)
    assert alone.nonzero().tolist() == [[0, 0], [1, 1], [2, 2]]
