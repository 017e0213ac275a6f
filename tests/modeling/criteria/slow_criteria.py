"""Losses and matching costs as loops over plain numbers, and clips to try them on."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from vmt.structures.clip import ClipTargets


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def focal(logit: float, target: float, alpha: float = 0.25, gamma: float = 2.0) -> float:
    p = sigmoid(logit)
    if target:
        return -alpha * (1 - p) ** gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(1 - p)


def class_loss(logits: Tensor, pairs: list[tuple[int, int]], labels: Tensor, num: float) -> float:
    label_of = {query: int(labels[target]) for query, target in pairs}
    total = 0.0
    for query in range(logits.shape[0]):
        for label in range(logits.shape[1]):
            wanted = float(label_of.get(query) == label)
            total += focal(logits[query, label].item(), wanted)
    return total / num


def mask_focal_loss(masks: Tensor, targets: Tensor, num: float) -> float:
    total = 0.0
    for mask, target in zip(masks, targets, strict=True):
        cells = list(zip(mask.flatten().tolist(), target.flatten().tolist(), strict=True))
        total += sum(focal(logit, wanted) for logit, wanted in cells) / len(cells)
    return total / num


def dice_loss(masks: Tensor, targets: Tensor, num: float, region: Tensor | None = None) -> float:
    total = 0.0
    for n in range(masks.shape[0]):
        both = predicted = wanted = 0.0
        for place in itertools.product(*map(range, masks.shape[1:])):
            if region is not None and not region[n][place]:
                continue
            p, m = sigmoid(masks[n][place].item()), float(targets[n][place])
            both, predicted, wanted = both + p * m, predicted + p, wanted + m
        total += 1 - (2 * both + 1) / (predicted + wanted + 1)
    return total / num


def giou(a: list[float], b: list[float]) -> float:
    """Of two cxcywh boxes."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = corners(a), corners(b)
    both = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = a[2] * a[3] + b[2] * b[3] - both
    outer = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return both / union - (outer - union) / outer


def corners(box: list[float]) -> tuple[float, float, float, float]:
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def box_losses(boxes: Tensor, targets: Tensor, num: float) -> tuple[float, float]:
    """L1 and 1 - GIoU of (N, T, 4)."""
    l1 = overlap = 0.0
    N, T = boxes.shape[:2]
    for n in range(N):
        for t in range(T):
            a, b = boxes[n, t].tolist(), targets[n, t].tolist()
            l1 += sum(abs(x - y) for x, y in zip(a, b, strict=True)) / T
            overlap += (1 - giou(a, b)) / T
    return l1 / num, overlap / num


def matching_cost(logits: Tensor, boxes: Tensor, targets: ClipTargets) -> list[list[float]]:
    """Published weights 2, 5, 2; ``boxes`` (T, Q, 4)."""
    T, Q = boxes.shape[:2]
    cost = [[0.0] * len(targets) for _ in range(Q)]
    for q in range(Q):
        for g in range(len(targets)):
            p = sigmoid(logits[q, targets.labels[g]].item())
            positive = 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8)
            negative = 0.75 * p**2 * -math.log(1 - p + 1e-8)
            differences, overlaps = [], []
            for t in range(T):
                a, b = boxes[t, q].tolist(), targets.boxes_cxcywh[g, t].tolist()
                differences += [x - y for x, y in zip(a, b, strict=True)]
                overlaps.append(giou(a, b))
            distance = math.sqrt(sum(d * d for d in differences))
            cost[q][g] = 2 * (positive - negative) + 5 * distance - 2 * sum(overlaps) / T
    return cost


def best_assignment(cost: list[list[float]]) -> list[tuple[int, int]]:
    """Every injective choice of queries is tried."""
    Q, G = len(cost), len(cost[0])
    choices = itertools.permutations(range(Q), G)
    best = min(choices, key=lambda queries: sum(cost[q][g] for g, q in enumerate(queries)))
    return sorted((q, g) for g, q in enumerate(best))


def clip(
    G: int = 2, T: int = 3, size: tuple[int, int] = (8, 12), classes: int = 4, seed: int = 0
) -> ClipTargets:
    """Random tracklets; tracklet 0 is absent in the last frame if T > 1."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(G, T, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.2
    valid = torch.ones(G, T, dtype=torch.bool)
    masks = torch.rand(G, T, *size, generator=generator) > 0.6
    if G and T > 1:
        valid[0, -1] = False
        boxes[0, -1] = 1e-6
        masks[0, -1] = False
    labels = torch.randint(classes, (G,), generator=generator)
    return ClipTargets(labels, boxes, masks, valid, video_id=f"v{seed}", clip_id="0")


def predictions(
    layers: int, B: int, T: int, Q: int = 6, classes: int = 4, seed: int = 9
) -> tuple[Tensor, Tensor]:
    """Logits (layers, B, Q, classes) and boxes (layers, B, T, Q, 4), fp64, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, B, Q, classes, generator=generator, dtype=torch.float64)
    boxes = torch.rand(layers, B, T, Q, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.2
    return logits.requires_grad_(), boxes.requires_grad_()
