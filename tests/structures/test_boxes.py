from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vmt.structures.boxes import (
    cxcywh_to_xyxy,
    giou,
    masks_to_boxes,
    pairwise_giou,
    xyxy_to_cxcywh,
)


def random_boxes(*shape: int, seed: int = 0) -> Tensor:
    """xyxy with sides of at least 0.05."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    side = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) + 0.05
    return torch.cat([low, low + side], -1)


def slow_giou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    union = area_a + area_b - width * height
    outer = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / union - (outer - union) / outer


def test_formats_by_hand_and_back() -> None:
    assert cxcywh_to_xyxy(torch.tensor([5.0, 6.0, 2.0, 4.0])).tolist() == [4, 4, 6, 8]
    assert xyxy_to_cxcywh(torch.tensor([4.0, 4.0, 6.0, 8.0])).tolist() == [5, 6, 2, 4]
    boxes = random_boxes(3, 2)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def test_pairwise_giou_matches_loops() -> None:
    boxes, others = random_boxes(2, 5, seed=1), random_boxes(2, 4, seed=2)
    actual = pairwise_giou(boxes, others)
    assert actual.shape == (2, 5, 4)
    for b in range(2):
        for i in range(5):
            for j in range(4):
                expected = slow_giou(boxes[b, i].tolist(), others[b, j].tolist())
                assert actual[b, i, j].item() == pytest.approx(expected, abs=1e-12)


def test_giou_is_the_diagonal_of_the_pairs() -> None:
    boxes, others = random_boxes(6, seed=3), random_boxes(6, seed=4)
    torch.testing.assert_close(giou(boxes, others), pairwise_giou(boxes, others).diagonal())


def test_giou_by_hand() -> None:
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert giou(unit, unit).item() == 1
    assert giou(unit, torch.tensor([2.0, 0.0, 3.0, 1.0])).item() == pytest.approx(-1 / 3)
    point = torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert giou(point, point).item() == 0  # no area on either side, no NaN


def test_giou_gradient() -> None:
    boxes, others = random_boxes(4, seed=5).requires_grad_(), random_boxes(4, seed=6)
    assert torch.autograd.gradcheck(giou, (boxes, others))


def test_giou_of_half_precision_boxes_is_computed_in_fp32() -> None:
    tiny = torch.tensor([1e-6, 1e-6, 2e-6, 2e-6])
    box = torch.tensor([0.25, 0.25, 0.5, 0.5], dtype=torch.bfloat16)
    assert giou(box, tiny).dtype == torch.float32
    torch.testing.assert_close(giou(box, tiny), giou(box.float(), tiny))


def test_boxes_of_masks() -> None:
    masks = torch.zeros(2, 2, 5, 7, dtype=torch.bool)
    masks[0, 0, 1:4, 2:6] = True
    masks[0, 1, 4, 6] = True
    masks[1, 0, 0, 0] = masks[1, 0, 3, 5] = True
    expected = [[[2, 1, 6, 4], [6, 4, 7, 5]], [[0, 0, 6, 4], [0, 0, 0, 0]]]
    assert masks_to_boxes(masks).tolist() == expected


def test_boxes_of_no_masks_and_of_floats() -> None:
    assert masks_to_boxes(torch.zeros(0, 3, 5, 7, dtype=torch.bool)).shape == (0, 3, 4)
    with pytest.raises(ValueError, match="threshold"):
        masks_to_boxes(torch.zeros(5, 7))
