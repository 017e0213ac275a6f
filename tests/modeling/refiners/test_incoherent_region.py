from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vmt.modeling.refiners.incoherent_region import RESIDUE_THRESHOLD, dilate, incoherent_region


def bilinear(image: list[list[float]], rows: int, columns: int) -> list[list[float]]:
    """Four taps per output, pixel centres at +0.5, edges repeated."""

    def taps(size: int, out: int, index: int) -> tuple[int, int, float]:
        place = max(0.0, (index + 0.5) * size / out - 0.5)
        low = min(math.floor(place), size - 1)
        return low, min(low + 1, size - 1), place - low

    result = []
    for y in range(rows):
        y0, y1, fy = taps(len(image), rows, y)
        line = []
        for x in range(columns):
            x0, x1, fx = taps(len(image[0]), columns, x)
            top = image[y0][x0] * (1 - fx) + image[y0][x1] * fx
            bottom = image[y1][x0] * (1 - fx) + image[y1][x1] * fx
            line.append(top * (1 - fy) + bottom * fy)
        result.append(line)
    return result


def slow_residue_region(mask: Tensor, stride: int) -> Tensor:
    H, W = mask.shape
    image = mask.float().tolist()
    down = bilinear(image, H // stride, W // stride)
    up = bilinear(down, H, W)
    residue = [[abs(image[y][x] - up[y][x]) for x in range(W)] for y in range(H)]
    coarse = torch.tensor(bilinear(residue, H // stride, W // stride))
    return coarse > RESIDUE_THRESHOLD


def ellipse(H: int, W: int) -> Tensor:
    """A quarter of the frame's area, half as wide again as high."""
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    b = math.sqrt(H * W / 4 / math.pi / 1.5)
    return ((x - W / 2) / (1.5 * b)) ** 2 + ((y - H / 2) / b) ** 2 <= 1


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_residue_rule_matches_loops(stride: int) -> None:
    generator = torch.Generator().manual_seed(stride)
    blobs = torch.nn.functional.avg_pool2d(torch.randn(1, 3, 36, 52, generator=generator), 5, 1)
    masks = blobs[0] > 0.1  # (3, 32, 48)
    expected = torch.stack([slow_residue_region(mask, stride) for mask in masks])
    assert torch.equal(incoherent_region(masks, stride), expected)
    assert 0 < expected.float().mean() < 1


@pytest.mark.parametrize(("stride", "cells"), [(8, 206), (4, 476), (2, 1146)])
def test_ellipse_of_a_quarter_of_the_frame(stride: int, cells: int) -> None:
    region = incoherent_region(ellipse(360, 640), stride)
    assert region.sum().item() == pytest.approx(cells, rel=0.03)


def test_every_mixed_block_is_in_the_residue_region() -> None:
    mask = ellipse(64, 96)
    mixed = incoherent_region(mask, 2, "mixed")
    assert (incoherent_region(mask, 2) | ~mixed).all()


def test_rules_on_a_box() -> None:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[9:15, 9:17] = True  # 6 rows, 8 columns, none of its sides on the grid of 2x2 blocks
    mixed = incoherent_region(mask, 2, "mixed")
    blocks = mask.reshape(16, 2, 16, 2).transpose(1, 2).reshape(16, 16, 4).sum(-1)
    assert torch.equal(mixed, (blocks > 0) & (blocks < 4))
    assert incoherent_region(mask, 2).sum() > mixed.sum()


@pytest.mark.parametrize("rule", ["residue", "mixed"])
def test_uniform_masks_and_frame_edges_are_coherent(rule) -> None:
    for size in ((12, 16), (11, 13), (1, 1)):
        for value in (True, False):
            mask = torch.full((2, 3, *size), value)
            region = incoherent_region(mask, 2, rule)
            assert region.shape == (2, 3, -(-size[0] // 2), -(-size[1] // 2))
            assert not region.any()
    assert incoherent_region(torch.zeros(0, 3, 8, 8, dtype=torch.bool), 2, rule).shape == (
        0,
        3,
        4,
        4,
    )


def test_dilation_matches_loops() -> None:
    mask = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0)) > 0.93
    expected = torch.zeros_like(mask)
    for n, y, x in mask.nonzero().tolist():
        expected[n, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = True
    assert torch.equal(dilate(mask, 2), expected)
    assert torch.equal(dilate(mask, 0), mask)


def test_wrong_stride_and_rule() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="stride 1"):
        incoherent_region(mask, 1)
    with pytest.raises(ValueError, match="stride 6"):
        incoherent_region(mask, 6, "mixed")
    with pytest.raises(ValueError, match="'xor'"):
        incoherent_region(mask, 2, "xor")  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["residue", "mixed"])
def test_the_frames_edge_is_no_contour(rule: str) -> None:
    """A full mask, of sides that no stride divides."""
    full = torch.ones(1, 1, 13, 21, dtype=torch.bool)
    for stride in (2, 4, 8):
        region = incoherent_region(full, stride, rule)
        assert region.shape[-2:] == (-(-13 // stride), -(-21 // stride))
        assert not region.any()


def test_dilation_reaches_all_eight_neighbours() -> None:
    spot = torch.zeros(1, 7, 9, dtype=torch.bool)
    spot[0, 3, 4] = True
    assert dilate(spot, 2).nonzero()[:, 1:].tolist() == [
        [y, x] for y in range(1, 6) for x in range(2, 7)
    ]
    assert torch.equal(dilate(spot, 0), spot)
