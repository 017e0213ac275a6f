from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.modeling.criteria import slow_criteria as slow
from vmt.modeling.criteria.finite import NonFiniteError
from vmt.modeling.criteria.matcher import HungarianClipMatcher, Match


def pairs(match: Match) -> list[tuple[int, int]]:
    return list(zip(match.query_index.tolist(), match.target_index.tolist(), strict=True))


@pytest.mark.parametrize("num_frames", [1, 3])
def test_costs_match_loops(num_frames: int) -> None:
    targets = slow.clip(G=3, T=num_frames)
    logits, boxes = slow.predictions(2, 1, num_frames)
    cost = HungarianClipMatcher().cost(logits[:, 0], boxes[:, 0], targets)
    for layer in range(2):
        expected = slow.matching_cost(logits[layer, 0], boxes[layer, 0], targets)
        torch.testing.assert_close(cost[layer], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(5))
def test_match_is_the_cheapest_of_all(seed: int) -> None:
    targets = slow.clip(G=3, seed=seed)
    logits, boxes = slow.predictions(1, 1, 3, Q=5, seed=seed + 50)
    match = HungarianClipMatcher()(logits[0, 0], boxes[0, 0], targets)
    expected = slow.best_assignment(slow.matching_cost(logits[0, 0], boxes[0, 0], targets))
    assert pairs(match) == expected


def test_layers_are_matched_each_on_its_own() -> None:
    targets = slow.clip(G=3)
    logits, boxes = slow.predictions(4, 1, 3)
    matcher = HungarianClipMatcher()
    together = matcher.match_layers(logits[:, 0], boxes[:, 0], targets)
    alone = [matcher(logits[i, 0], boxes[i, 0], targets) for i in range(4)]
    assert [pairs(m) for m in together] == [pairs(m) for m in alone]
    assert len({tuple(pairs(m)) for m in together}) > 1


def test_order_of_targets_and_queries_changes_nothing() -> None:
    targets = slow.clip(G=3)
    logits, boxes = slow.predictions(1, 1, 3)
    matcher = HungarianClipMatcher()
    expected = set(pairs(matcher(logits[0, 0], boxes[0, 0], targets)))
    order, shuffle = torch.tensor([2, 0, 1]), torch.tensor([4, 1, 5, 0, 3, 2])
    match = matcher(logits[0, 0, shuffle], boxes[0, 0][:, shuffle], targets.select(order))
    assert {(int(shuffle[q]), int(order[g])) for q, g in pairs(match)} == expected


def test_empty_clip_and_more_targets_than_queries() -> None:
    logits, boxes = slow.predictions(1, 1, 3, Q=2)
    matcher = HungarianClipMatcher()
    assert pairs(matcher(logits[0, 0], boxes[0, 0], slow.clip(G=0))) == []
    assert len(pairs(matcher(logits[0, 0], boxes[0, 0], slow.clip(G=4)))) == 2


def test_half_precision_predictions_are_matched_in_fp32() -> None:
    targets = slow.clip(G=2)
    logits, boxes = slow.predictions(1, 1, 3)
    half = logits[0, 0].bfloat16(), boxes[0, 0].bfloat16()
    matcher = HungarianClipMatcher()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = matcher.cost(*half, targets)
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost, matcher.cost(half[0].float(), half[1].float(), targets))


@pytest.mark.parametrize("where", ["logits", "boxes"])
def test_a_number_that_is_none_names_layer_and_clip(where: str) -> None:
    logits, boxes = (x.detach() for x in slow.predictions(3, 1, 3))
    {"logits": logits, "boxes": boxes}[where][1] = torch.nan
    with pytest.raises(NonFiniteError, match=r"video v0, clip 0: .* layer 1"):
        HungarianClipMatcher().match_layers(logits[:, 0], boxes[:, 0], slow.clip())


def test_wrong_frames_labels_and_settings() -> None:
    logits, boxes = slow.predictions(1, 1, 2)
    with pytest.raises(ValueError, match="predictions have 2 frames, targets 3"):
        HungarianClipMatcher()(logits[0, 0], boxes[0, 0], slow.clip(T=3))
    targets = replace(slow.clip(T=2), labels=torch.tensor([0, 40]))
    with pytest.raises(ValueError, match=r"labels \[0, 40\] exceed a head of 4 classes"):
        HungarianClipMatcher()(logits[0, 0], boxes[0, 0], targets)
    with pytest.raises(ValueError, match="all zero"):
        HungarianClipMatcher(0, 0, 0)
