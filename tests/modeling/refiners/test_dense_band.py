"""The published refiner against its definition, written out slowly."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.refiners.base import RefinerInput
from vmt.modeling.refiners.dense_band import (
    DenseBand,
    band_points,
    box_masks,
    edge_band,
)
from vmt.ops import strips


def slow_band(union: Tensor) -> Tensor:
    """The released kernel: 8 in the centre, -1 around, dilation 3; non-zero counts; twice."""
    kernel = torch.full((1, 1, 3, 3), -1.0)
    kernel[0, 0, 1, 1] = 8
    x = union[:, None].float()
    for _ in range(2):
        x = F.conv2d(x, kernel, padding=3, dilation=3)
        x = ((x > 0.5) | (x <= -0.5)).float()
    return x[:, 0] > 0


@pytest.mark.parametrize("seed", range(4))
def test_edge_band_is_the_released_kernel_twice(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 5, 6, generator=generator) > 0.7
    union = coarse.repeat_interleave(7, 1).repeat_interleave(6, 2)
    assert torch.equal(edge_band(union), slow_band(union))


def test_straight_edge_gives_six_cells_on_each_side() -> None:
    union = torch.zeros(1, 40, 60, dtype=torch.bool)
    union[:, :, 30:] = True
    band = edge_band(union)[0, 20]
    assert band[24:36].all()
    assert not band[:24].any()
    assert not band[36:54].any()
    assert band[54:].all()  # the frame border counts as an edge of the object


def test_contour_between_touching_objects_is_not_in_the_band() -> None:
    left = torch.zeros(40, 80, dtype=torch.bool)
    left[12:28, 12:40] = True
    right = torch.zeros_like(left)
    right[12:28, 40:68] = True
    alone = edge_band(left[None])[0]
    together = edge_band((left | right)[None])[0]
    assert alone[20, 40]
    assert not together[20, 40]


def points_of(union: Tensor, band: Tensor, max_points: int) -> Tensor:
    return band_points(union, band, max_points, band.flatten(1).sum(1).tolist())


def test_points_keep_the_nearest_to_the_contour() -> None:
    union = torch.zeros(60, 60, dtype=torch.bool)
    union[20:40, 20:40] = True
    band = edge_band(union[None])[0]
    everything = points_of(union[None], band[None], 10_000)
    assert torch.equal(everything, band.flatten().nonzero()[:, 0])
    kept = points_of(union[None], band[None], 200)
    assert len(kept) == 200
    assert torch.equal(kept, kept.sort().values)
    edge = union & ~(-F.max_pool2d(-union[None, None].float(), 3, 1, 1))[0, 0].bool()
    ys, xs = edge.nonzero().T

    def distance(index: Tensor) -> Tensor:
        y, x = index // 60, index % 60
        return torch.maximum((y[:, None] - ys).abs(), (x[:, None] - xs).abs()).amin(1)

    dropped = everything[~torch.isin(everything, kept)]
    assert distance(kept).max() <= distance(dropped).min() + 1


def test_every_frame_has_its_own_points() -> None:
    union = torch.zeros(4, 40, 60, dtype=torch.bool)
    union[0, 10:20, 20:40] = union[1, 5:35, 10:50] = union[3, 18:21, 30:33] = True
    band = edge_band(union)
    for limit in (10_000, 700, 50):
        frames = [points_of(union[t, None], band[t, None], limit) for t in range(4)]
        expected = torch.cat([points + t * 40 * 60 for t, points in enumerate(frames)])
        assert torch.equal(points_of(union, band, limit), expected)


def test_box_masks_are_python_slices() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(200, 4, generator=generator) * torch.tensor([1.2, 1.2, 0.9, 0.9]) - 0.1
    h, w = 23, 37
    actual = box_masks(boxes, (h, w))
    for box, mask in zip(boxes, actual, strict=True):
        cx, cy, bw, bh = (box * torch.tensor([w, h, w, h])).tolist()
        cx, cy, bw, bh = (box * torch.tensor([w, h, w, h])).float().unbind()
        x1, y1 = cx - bw / 2, cy - bh / 2
        corners = [int(v) for v in (x1, y1, bw + x1, bh + y1)]
        expected = torch.zeros(h, w, dtype=torch.bool)
        expected[corners[1] : corners[3], corners[0] : corners[2]] = True
        assert torch.equal(mask, expected)


def refiner_and_input(has_stride2: bool, num: int = 3) -> tuple[DenseBand, RefinerInput]:
    torch.manual_seed(0)
    refiner = DenseBand(
        stride4_dim=24, has_stride2=has_stride2, dim=32, embed_dim=16, num_heads=2, num_layers=2,
        ffn_dim=32, frame_chunk=2,
    ).eval()  # fmt: skip
    t, h, w = 3, 50, 66
    coarse = torch.full((num, t, 7, 9), -2.0)
    coarse[:, :, 2:5, 2:6] = 2.0
    return refiner, RefinerInput(
        frames=torch.randn(t, 3, h, w),
        stride4=torch.randn(t, 24, 13, 17),
        stride2=torch.randn(t, 16, 25, 33) if has_stride2 else None,
        fused=torch.randn(t, 32, 7, 9),
        coarse_logits=coarse,
        query=torch.randn(num, 32),
        centres_px=torch.rand(num, t, 2) * 60,
        boxes_cxcywh=torch.rand(num, t, 4) * 0.5,
        frame_size=(h, w),
    )


def slow_decode(refiner: DenseBand, y: Tensor, own: Tensor, layers) -> Tensor:
    """Every instance and frame alone: all 69 channels, whole branches, then its own layers."""
    out = []
    for n, t in product(range(own.shape[0]), range(own.shape[1])):
        stacked = torch.cat([y[t], own[n, t]])[None]
        x = sum(branch(stacked) for branch in refiner.branches)[0]
        for i, (weight, bias) in enumerate(layers):
            x = torch.einsum("oi,ihw->ohw", weight[n], x) + bias[n][:, None, None]
            x = x.relu() if i < 2 else x
        out.append(x[0])
    return torch.stack(out).unflatten(0, own.shape[:2])


def test_what_instances_bring_is_in_the_order_of_the_release(monkeypatch) -> None:
    refiner, inputs = refiner_and_input(True)
    seen: list[Tensor] = []
    decode = refiner._decode
    monkeypatch.setattr(refiner, "_decode", lambda *x: (seen.append(x[1]), decode(*x))[1])
    with torch.no_grad():
        out = refiner(inputs)
    n, t, (h, w) = 1, 2, (25, 33)
    own = torch.cat(seen, 1)[n, t]
    probs = out.stage_logits.sigmoid(), inputs.coarse_logits.sigmoid()
    for channel, prob in zip(own[:2], probs, strict=True):
        assert torch.equal(channel, F.interpolate(prob[n, t][None, None], (h, w))[0, 0])
    assert torch.equal(own[2], box_masks(inputs.boxes_cxcywh[n, t, None], (h, w))[0].float())
    x, y = inputs.centres_px[n, t]
    assert torch.equal(own[3], (x - (2 * torch.arange(w) + 1)).expand(h, w))
    assert torch.equal(own[4], (y - (2 * torch.arange(h) + 1))[:, None].expand(h, w))


@torch.no_grad()
@pytest.mark.parametrize("values", [1, 5000, 10**9])
def test_strips_of_the_decoder_change_nothing(values: int, monkeypatch) -> None:
    refiner, inputs = refiner_and_input(True)
    whole = refiner(inputs).mask_logits
    monkeypatch.setattr(strips, "STRIP_VALUES", values)
    torch.testing.assert_close(refiner(inputs).mask_logits, whole, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("has_stride2", [True, False])
def test_shared_convolutions_change_nothing(has_stride2: bool, monkeypatch) -> None:
    refiner, inputs = refiner_and_input(has_stride2)
    refiner.offset_unit_px = 1.0 if has_stride2 else 16.0
    with torch.no_grad():
        fast = refiner(inputs)
        monkeypatch.setattr(refiner, "_decode", lambda *args: slow_decode(refiner, *args))
        slow = refiner(inputs)
    expected = (25, 33) if has_stride2 else (26, 34)
    assert fast.mask_logits.shape == (3, 3, *expected)
    torch.testing.assert_close(fast.mask_logits, slow.mask_logits, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(fast.stage_logits, slow.stage_logits)


def test_instances_share_tokens_but_not_masks() -> None:
    refiner, inputs = refiner_and_input(True)
    order = torch.tensor([2, 0, 1])
    permuted = RefinerInput(
        inputs.frames, inputs.stride4, inputs.stride2, inputs.fused, inputs.coarse_logits[order],
        inputs.query[order], inputs.centres_px[order], inputs.boxes_cxcywh[order],
        inputs.frame_size,
    )  # fmt: skip
    with torch.no_grad():
        a, b = refiner(inputs).mask_logits, refiner(permuted).mask_logits
    torch.testing.assert_close(a[order], b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("train_maps", [True, False])
def test_gradients_of_backbone_maps_are_a_switch(train_maps: bool) -> None:
    refiner, inputs = refiner_and_input(True)
    refiner.train_maps = train_maps
    maps = [inputs.stride4.requires_grad_(), inputs.stride2.requires_grad_()]
    refiner(inputs).mask_logits.sum().backward()
    reached = [bool(m.grad is not None and m.grad.abs().sum() > 0) for m in maps]
    assert reached == [train_maps, train_maps]


def test_no_band_no_tokens() -> None:
    """Nothing to refine (no object anywhere) must not fail."""
    refiner, inputs = refiner_and_input(True)
    with torch.no_grad():
        refiner.stage2_controller.layers[2].weight.zero_()
        refiner.stage2_controller.layers[2].bias.fill_(-5.0)
        out = refiner(inputs)
    assert torch.isfinite(out.mask_logits).all()
