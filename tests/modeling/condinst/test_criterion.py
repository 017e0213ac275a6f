"""Losses, against loops over objects, queries and cells."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vmt.modeling.condinst.criterion import IDOLCriterion, Predictions
from vmt.modeling.criteria.ota import SimOta
from vmt.structures.frame_targets import FrameTargets

WEIGHTS = {
    "loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_mask": 2.0, "loss_dice": 5.0,
    "loss_reid": 2.0, "loss_reid_aux": 3.0,
}  # fmt: skip
CRITERION = IDOLCriterion(WEIGHTS)
SIZE = (13, 18)  # of frames; masks have stride 4 and are padded to 4 x 6 cells


def world(layers: int = 2) -> tuple[list[Predictions], list[FrameTargets], Tensor]:
    """Two key frames of 12 queries and 3 classes, with two objects and with one; masks."""
    torch.manual_seed(0)
    outputs = [Predictions(torch.randn(2, 12, 3), torch.rand(2, 12, 4) / 2) for _ in range(layers)]
    targets = [
        FrameTargets(
            torch.randint(3, (count,)),
            torch.rand(count, 4) * 0.4 + 0.3,
            torch.rand(count, *SIZE) > 0.5,
        )
        for count in (2, 1)
    ]
    return outputs, targets, torch.randn(layers, 2, 12, 4, 6)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def focal(logit: float, truth: float) -> float:
    p = sigmoid(logit)
    p, balance = (p, 0.25) if truth else (1 - p, 0.75)
    return -balance * (1 - p) ** 2 * math.log(p)


def slow_giou(a: list[float], b: list[float]) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    width = max(min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2), 0)
    height = max(min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2), 0)
    outer = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    outer *= max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    union = aw * ah + bw * bh - width * height
    return width * height / union - (outer - union) / outer


def cells(mask: Tensor) -> list[float]:
    """Every fourth pixel from the third on; padding is background."""
    return [
        float(mask[y, x]) if y < SIZE[0] and x < SIZE[1] else 0.0
        for y in range(2, 18, 4)
        for x in range(2, 26, 4)
    ]


def slow_losses(layer: Predictions, targets: list[FrameTargets], masks: Tensor) -> dict[str, float]:
    sums = dict.fromkeys(("ce", "bbox", "giou", "mask", "dice"), 0.0)
    count = 0
    for b, target in enumerate(targets):
        match = SimOta()(layer.logits[b], layer.boxes[b], target.labels, target.boxes_cxcywh)
        object_of = dict(zip(match.query_index.tolist(), match.target_index.tolist(), strict=True))
        count += len(object_of)
        for query, logits in enumerate(layer.logits[b].tolist()):
            label = int(target.labels[object_of[query]]) if query in object_of else -1
            sums["ce"] += sum(focal(x, float(k == label)) for k, x in enumerate(logits))
        for query, index in object_of.items():
            box, truth = layer.boxes[b, query].tolist(), target.boxes_cxcywh[index].tolist()
            sums["bbox"] += sum(abs(x - y) for x, y in zip(box, truth, strict=True))
            sums["giou"] += 1 - slow_giou(box, truth)
            logits, truth = masks[b, query].flatten().tolist(), cells(target.masks[index])
            pairs = list(zip(logits, truth, strict=True))
            sums["mask"] += sum(focal(x, t) for x, t in pairs) / len(pairs)
            overlap = 2 * sum(sigmoid(x) * t for x, t in pairs) + 1
            sums["dice"] += 1 - overlap / (sum(map(sigmoid, logits)) + sum(truth) + 1)
    return {name: value / count for name, value in sums.items()}


def test_losses_of_key_frames_are_those_of_the_loops() -> None:
    layers, targets, masks = world()
    matches = [CRITERION.match(layer, targets) for layer in layers]
    losses = CRITERION.frame_losses(
        layers, matches, targets, lambda layer, frame, query: masks[layer, frame, query]
    )
    assert len(losses) == 10
    for index, suffix in enumerate(("_0", "")):
        for name, value in slow_losses(layers[index], targets, masks[index]).items():
            assert float(losses[f"loss_{name}{suffix}"]) == pytest.approx(value, rel=1e-5)


def test_a_frame_without_objects_is_background() -> None:
    layers, targets, _ = world(1)
    empty = [FrameTargets(t.labels[:0], t.boxes_cxcywh[:0], t.masks[:0], "nobody") for t in targets]
    boxes = layers[0].boxes.requires_grad_()
    layer = Predictions(layers[0].logits, boxes)
    matches = [CRITERION.match(layer, empty)]
    losses = CRITERION.frame_losses([layer], matches, empty, lambda *_: pytest.fail("no masks"))
    assert losses["loss_ce"] > 0
    assert all(float(losses[f"loss_{n}"].detach()) == 0 for n in ("bbox", "giou", "mask", "dice"))
    losses["loss_mask"].backward()
    assert boxes.grad is not None


def test_a_layer_has_the_weight_of_its_loss() -> None:
    assert CRITERION.weight("loss_mask_3") == CRITERION.weight("loss_mask") == 2
    assert CRITERION.weight("loss_reid_aux") == 3
    weighted = CRITERION.weighted({"loss_dice_0": torch.tensor(2.0)})
    assert {name: float(value) for name, value in weighted.items()} == {"loss_dice_0": 10.0}
