"""Which regions are drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vmt.modeling.mots.sampling import RegionOptions, balanced, draw_regions
from vmt.structures.boxes import pairwise_iou
from vmt.utils.errors import ConfigError

OBJECTS = torch.tensor([[10.0, 10.0, 50.0, 50.0], [60.0, 20.0, 90.0, 80.0]])
TRACKS = torch.tensor([7, 4])
OPTIONS = RegionOptions()


def proposals(count: int = 3000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    near = OBJECTS.repeat(count // 6, 1) + torch.randn(count // 3, 4, generator=generator) * 6
    corner = torch.rand(count * 2 // 3, 2, generator=generator) * 60
    far = torch.cat([corner, corner + 10 + torch.rand(len(corner), 2, generator=generator) * 30], 1)
    return torch.cat([near, far])


def test_positives_and_negatives_are_told_by_their_overlap() -> None:
    regions = draw_regions(proposals(), OBJECTS, TRACKS, 256, OPTIONS)
    overlap, owner = pairwise_iou(regions.boxes_px, OBJECTS).max(1)
    positive = regions.track >= 0
    assert (overlap[positive] >= 0.7).all()
    assert (overlap[~positive] < 0.3).all()
    assert torch.equal(regions.track[positive], TRACKS[owner[positive]])
    assert (int(positive.sum()), len(positive)) == (128, 256)
    assert torch.equal(regions.positives().track, regions.track[positive])
    assert torch.equal(regions.positives().boxes_px, regions.boxes_px[positive])


def test_objects_have_equally_many_regions() -> None:
    """Though one has 300 proposals and the other few."""
    many = OBJECTS[:1].repeat(300, 1) + 0.5 * torch.randn(300, 4)
    few = OBJECTS[1:].repeat(20, 1)
    regions = draw_regions(torch.cat([many, few]), OBJECTS, TRACKS, 128, OPTIONS)
    counts = [(regions.track == t).sum().item() for t in TRACKS]
    assert counts == [43, 21]  # the object's own box is one more


def test_the_own_box_is_always_there() -> None:
    regions = draw_regions(torch.zeros(0, 4), OBJECTS, TRACKS, 256, OPTIONS)
    assert torch.equal(regions.boxes_px, OBJECTS)
    assert torch.equal(regions.track, TRACKS)


def test_negatives_are_at_most_three_per_positive() -> None:
    far = torch.tensor([[0.0, 90.0, 5.0, 95.0]]).repeat(500, 1)
    regions = draw_regions(far, OBJECTS, TRACKS, 256, OPTIONS)
    assert (regions.track >= 0).sum() == 2
    assert (regions.track == -1).sum() == 6


def test_a_frame_without_objects_has_negatives() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    regions = draw_regions(proposals(), torch.zeros(0, 4), none, 256, OPTIONS)
    assert (regions.track == -1).all()
    assert len(regions.track) == 3


def test_negatives_are_balanced_over_their_overlap() -> None:
    """1,000 that touch nothing, and 40 that overlap by about 0.22."""
    apart = torch.tensor([[0.0, 90.0, 5.0, 95.0]]).repeat(1000, 1)
    beside = torch.tensor([[10.0, 36.0, 50.0, 76.0]]).repeat(40, 1)
    assert 0.2 < float(pairwise_iou(beside[:1], OBJECTS[:1])) < 0.3
    many = torch.cat([OBJECTS.repeat(100, 1), apart, beside])
    regions = draw_regions(many, OBJECTS, TRACKS, 256, OPTIONS)
    negative = regions.boxes_px[regions.track < 0]
    assert len(negative) == 128
    assert (negative[:, 1] == 36).sum() == 40


def test_balance_is_random_within_a_group() -> None:
    index, group = torch.arange(100), torch.zeros(100, dtype=torch.int64)
    first, second = balanced(index, group, 1, 50), balanced(index, group, 1, 50)
    assert len(first.unique()) == len(first) == 50
    assert not torch.equal(first.sort().values, second.sort().values)
    assert torch.equal(balanced(index, group, 1, 100), index)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": 0}, "KEY_REGIONS is 0"),
        ({"reference": 1}, "REFERENCE_REGIONS 1"),
        ({"negative_iou": 0.8}, "NEGATIVE_IOU is 0.8 and POSITIVE_IOU 0.7"),
        ({"negative_iou": 0.0}, "NEGATIVE_IOU is 0.0"),
        ({"positive_iou": 1.1}, "POSITIVE_IOU 1.1"),
    ],
)
def test_impossible_options(change: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RegionOptions(**change)
