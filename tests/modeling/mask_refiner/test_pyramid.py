"""The fine network beside the backbone of the mask refiner."""

from __future__ import annotations

import pytest
import torch

from vmt.config.node import load_config
from vmt.modeling.mask_refiner.pyramid import Detail, build_laterals, sum_maps
from vmt.modeling.meta_arch.build import build_network
from vmt.structures.labels import LabelSpace

WIDTHS = (16, 16, 24, 24)


def test_maps_are_added_from_coarse_to_fine() -> None:
    laterals = build_laterals({8: 2, 16: 2, 32: 2}, 2)
    for lateral in laterals.values():
        torch.nn.init.dirac_(lateral.weight)
        torch.nn.init.zeros_(lateral.bias)
    maps = {32: torch.full((1, 2, 1, 1), 100.0), 16: torch.full((1, 2, 2, 2), 10.0)}
    maps[8] = torch.arange(32.0).reshape(1, 2, 4, 4)
    assert torch.equal(sum_maps(maps, laterals), maps[8] + 110)


def test_the_backbone_has_no_say_at_first_and_one_later() -> None:
    torch.manual_seed(0)
    detail = Detail(5, WIDTHS, 8)
    read = torch.randn(2, 5, 64, 96)
    maps, both = detail(read, torch.randn(2, 8, 8, 12))
    assert {stride: tuple(x.shape[1:]) for stride, x in maps.items() if stride <= 4} == {
        2: (64, 32, 48),
        4: (16, 16, 24),
    }
    assert torch.equal(both, detail(read, torch.randn(2, 8, 8, 12))[1])
    torch.nn.init.dirac_(detail.add.weight)
    fused = torch.randn(2, 8, 8, 12)
    torch.testing.assert_close(detail(read, fused)[1], both + fused)


@pytest.mark.parametrize("widths", [[], list(WIDTHS)])
def test_fine_maps_of_the_mask_refiner_are_those_of_the_detail(widths: list[int]) -> None:
    config = load_config("refine/mask_refiner", ["MODEL.MASK_REFINER.DETAIL_WIDTHS", widths])
    network = build_network(config, LabelSpace("object", ("object",), (1,)))
    features = network.encode(torch.randn(1, 3, 64, 96), torch.rand(1, 1, 64, 96))
    assert features.stride4.shape == (1, 16 if widths else 24, 16, 24)
    assert features.stride2.shape == (1, 32, 32, 48)
    assert features.fused.shape == (1, 64, 8, 12)
    assert (network.detail is None) == (not widths)
