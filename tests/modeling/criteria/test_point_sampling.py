"""Masks at points, against loops."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vmt.modeling.criteria.point_sampling import (
    PointSampler,
    at_points,
    random_points,
    reference_points,
)

CPU = torch.device("cpu")


def slow_read(plane: Tensor, x: float, y: float) -> float:
    """Bilinear reading with 0 outside; cell (i, j) has its centre at ((j + 0.5)/w, (i + 0.5)/h)."""
    h, w = plane.shape
    column, row = x * w - 0.5, y * h - 0.5
    left, top = math.floor(column), math.floor(row)
    total = 0.0
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < h and 0 <= j < w:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * float(plane[i, j])
    return total


def test_points_are_read_bilinearly() -> None:
    torch.manual_seed(0)
    maps, points = torch.randn(2, 3, 4, 5), torch.rand(2, 7, 2)
    points[0, 0] = torch.tensor([0.0, 1.0])  # a corner: a quarter of its cell
    slow = [
        [[slow_read(plane, *point.tolist()) for point in places] for plane in planes]
        for planes, places in zip(maps, points, strict=True)
    ]
    torch.testing.assert_close(at_points(maps, points), torch.tensor(slow), atol=1e-6, rtol=0)


def test_most_points_of_a_loss_are_the_uncertain_ones() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 6, 6) * 4
    drawn: list[Tensor] = []

    def draw(num_masks: int, num_points: int, device: torch.device) -> Tensor:
        drawn.append(random_points(num_masks, num_points, device))
        return drawn[-1]

    points = PointSampler(20, 3.0, 0.75, draw).uncertain(logits)
    assert [len(places[0]) for places in drawn] == [60, 5]
    assert torch.equal(points[:, 15:], drawn[1])
    for mask, places, candidates in zip(logits, points, drawn[0], strict=True):
        near = sorted(candidates.tolist(), key=lambda point: abs(slow_read(mask, *point)))[:15]
        assert sorted(places[:15].tolist()) == sorted(near)


def test_all_points_can_be_uncertain_ones() -> None:
    assert PointSampler(8, 2.0, 1.0).uncertain(torch.randn(1, 3, 3)).shape == (1, 8, 2)


def test_places_of_reference_files_are_the_same_for_all_masks() -> None:
    points = reference_points(3, 50, CPU)
    assert points.shape == (3, 50, 2)
    assert torch.equal(points[0], points[2])
    assert torch.equal(points, reference_points(3, 50, CPU))
    assert ((points >= 0) & (points <= 1)).all()
