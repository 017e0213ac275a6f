"""What the parts of the network hand to each other, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.config.keys.pairs import Pair, network
from tests.synthetic import shape_clip
from vmt.layers.deformable_encoder import Levels
from vmt.modeling.adversarial import AdversaryInput
from vmt.modeling.backbones.swin import SwinBlock, shift_mask
from vmt.modeling.backbones.timm_features import TimmFeatures
from vmt.modeling.msts.attention import preset
from vmt.modeling.msts.encoder import SplitAttention
from vmt.modeling.msts.separability import cell_weights, predicted_union, true_union
from vmt.modeling.refiners.dense_band import band_points, box_masks, edge_band
from vmt.modeling.video_model import ClipBatch


def watched(*overrides: Any) -> tuple[Any, list[Any], list[Tensor]]:
    """A network, the states of its decoder, and the centres that its mask head is given."""
    base, _ = Pair("OUTPUT_DIR", "x").configs(*overrides)
    net = network(base)
    states: list[Any] = []
    centres: list[Tensor] = []
    net.decoder.register_forward_hook(lambda *a: states.append(a[2]))
    net.coarse.register_forward_pre_hook(lambda _, a: centres.append(a[1]))
    return net, states, centres


@torch.no_grad()
def test_centres_are_pixels_of_the_frame() -> None:
    """x by the width, y by the height; in evaluation without padding."""
    net, states, centres = watched()
    net.eval()
    selected = net.segment_clip(torch.rand(2, 3, 72, 104) * 255).query_index
    expected = states[0][-1].centres[0][:, selected].transpose(0, 1) * torch.tensor([104.0, 72.0])
    torch.testing.assert_close(centres[0], expected)


@pytest.mark.parametrize("refiner", ["none", "dense_band"])
def test_centres_in_training_are_pixels_of_each_clip(refiner: str) -> None:
    """Two clips of different sizes; the smaller one is padded."""
    net, states, centres = watched("MODEL.REFINER.NAME", refiner)
    clips = [shape_clip(2, size, seed=3) for size in ((64, 96), (96, 64))]
    net.train().losses(ClipBatch.from_inputs(clips))
    # two layers of each clip; then, of a refiner, the last layer of each
    assert len(centres) == 4 + 2 * (refiner != "none")
    order = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 1), (1, 1)]
    for (clip, layer), found in zip(order, centres, strict=False):
        height, width = clips[clip]["targets"].input_size
        all_of = states[0][layer].centres[clip].transpose(0, 1)  # (Q, T, 2)
        scaled = all_of * torch.tensor([float(width), float(height)])
        near = (scaled[None] - found[:, None]).abs().amax((2, 3)).amin(1)
        assert near.max() < 1e-3, "each is that of a query, in pixels of its own clip"


def test_padding_of_a_batch() -> None:
    net, *_ = watched()
    frames, padding = net.pad([torch.ones(2, 3, 40, 70), torch.ones(2, 3, 64, 33)])
    assert frames.shape == (4, 3, 64, 96)
    assert padding.shape == (4, 64, 96)
    for rows, (height, width) in ((slice(0, 2), (40, 70)), (slice(2, 4), (64, 33))):
        assert not padding[rows, :height, :width].any()
        assert padding[rows].sum() == 2 * (64 * 96 - height * width)
        assert torch.equal(frames[rows, 0] == 0, padding[rows])
    frames, padding = net.pad([torch.ones(1, 3, 64, 32), torch.ones(1, 3, 64, 32)])
    assert padding is None
    assert frames.shape == (2, 3, 64, 32)


# --- backbones ----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (33, 65), (50, 70)])
def test_maps_cover_frames_of_any_size(size: tuple[int, int]) -> None:
    backbone = TimmFeatures("resnet10t", widths=[8, 8, 8, 8]).eval()
    maps = backbone(torch.zeros(1, 3, *size))
    assert {s: tuple(m.shape[-2:]) for s, m in maps.items()} == {
        s: (-(-size[0] // s), -(-size[1] // s)) for s in (2, 4, 8, 16, 32)
    }


@torch.no_grad()
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (4, 9)])
def test_windows_come_back_where_they_were(shifted: bool, size: tuple[int, int]) -> None:
    """An attention that changes nothing leaves every cell in its place."""
    block = SwinBlock(4, 2, 4, shifted, 0.0)
    block.attn.forward = lambda windows, mask=None: windows
    x = torch.randn(2, *size, 4)
    assert torch.equal(block._attend(x), x)


def test_cells_from_different_sides_do_not_attend() -> None:
    """A map of one window: shifted by two, its halves are strangers to each other."""
    mask = shift_mask((4, 4), 4, 2, torch.zeros(1)).view(4, 4, 4, 4)
    for y in range(4):
        for x in range(4):
            same = [[(a < 2) == (y < 2) and (b < 2) == (x < 2) for b in range(4)] for a in range(4)]
            assert (mask[y, x] == 0).tolist() == same


# --- the band -----------------------------------------------------------------------------------


def test_points_nearest_to_a_contour_are_kept() -> None:
    union = torch.zeros(24, 48, dtype=torch.bool)
    union[:, 16:32] = True
    band = edge_band(union[None])[0]
    inner = band.clone()
    inner[:8], inner[16:] = False, False  # away from the frame's edge
    points = band_points(union[None], inner[None], 32, [int(inner.sum())])
    assert sorted((points % 48).tolist()) == [15] * 8 + [16] * 8 + [31] * 8 + [32] * 8
    assert torch.equal(points, points.sort().values)
    assert len(band_points(union[None], inner[None], 10**6, [int(inner.sum())])) == inner.sum()


def test_boxes_fill_the_cells_up_to_the_edge() -> None:
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.75, 0.5, 0.5, 0.5]])
    full, right = box_masks(boxes, (4, 8))
    assert full.all()
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[1:3, 4:8] = True
    assert torch.equal(right, expected)


# --- MS-STS -------------------------------------------------------------------------------------


@torch.no_grad()
def test_levels_attend_to_the_next_coarser_one() -> None:
    """... as it was attended over time; the coarsest one to its own input."""
    torch.manual_seed(0)
    branch = SplitAttention(16, preset("lean"), 2, 0.0)
    shapes = ((4, 4), (2, 2), (1, 1))
    levels = Levels(shapes, torch.ones(2, 3, 2), None)
    attended: list[Tensor] = []
    partners: list[Tensor] = []
    branch.intra.register_forward_hook(lambda *a: attended.append(a[2]))
    assert branch.inter is not None
    project = branch.inter.project
    branch.inter.project = lambda p, *rest: (partners.append(p), project(p, *rest))[1]
    x = torch.randn(2, 21, 16)
    branch(x, levels, 2)
    of_time = attended[0].split([16, 4, 1], 2)
    assert torch.equal(partners[0], of_time[1])
    assert torch.equal(partners[1], of_time[2])
    assert torch.equal(partners[2], x[None].split([16, 4, 1], 2)[2])


def test_what_the_discriminator_is_shown() -> None:
    """Two clips, one of them padded on the right; their tracklets are 1 and 3 of 8."""
    clips = [shape_clip(1, (64, 64), 3, 1), shape_clip(1, (64, 32), 4, 3)]
    shapes = ((8, 8), (4, 4), (2, 2), (1, 1))
    padding = torch.zeros(2, 85, dtype=torch.bool)
    start = 0
    for h, w in shapes:
        cells = padding[1, start : start + h * w].view(h, w)
        cells[:, w // 2 :] = w > 1
        start += h * w
    inputs = AdversaryInput(
        torch.zeros(2, 3, 64, 64), torch.zeros(2, 85, 4), shapes, padding,
        [torch.zeros(1, 1, 16, 16), torch.zeros(2, 1, 16, 16)],
        [clip["targets"] for clip in clips], [torch.tensor([0]), torch.tensor([2, 0])], 8.0,
    )  # fmt: skip
    weights = cell_weights(inputs)
    assert weights.shape == (2, 1, 2, 2)
    assert weights[0].flatten().tolist() == pytest.approx([1 / 8 / 4] * 4)
    assert weights[1].flatten().tolist() == pytest.approx([3 / 8 / 2, 0] * 2)
    # 1 - 0.5 of one query, 1 - 0.25 of two; nothing on padding
    union = predicted_union(inputs)
    assert union[0].flatten().tolist() == pytest.approx([0.5] * 64)
    assert union[1, 0, :, :4].flatten().tolist() == pytest.approx([0.75] * 32)
    assert not union[1, 0, :, 4:].any()
    truth = true_union(inputs)
    masks = clips[1]["targets"].masks.any(0)[0].float()
    assert float(truth[1, 0, 2, 1]) == pytest.approx(float(masks[16:24, 8:16].mean()))
    assert not truth[1, 0, :, 4:].any()
