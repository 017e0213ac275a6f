"""Regions per level and the detector with dynamic kernels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cocoapi_hq.io import rle
from vmt.modeling.refiners.incoherent_region import incoherent_region
from vmt.modeling.refiners.quadtree.detector import NUM_PARAMETERS, IncoherenceDetector
from vmt.modeling.refiners.quadtree.grow import build_quadtree
from vmt.modeling.refiners.quadtree.regions import boundary_region, region_levels

STRIDES = (8, 4, 2)


def test_levels_are_padded_and_follow_the_rule() -> None:
    masks = torch.zeros(2, 1, 37, 50, dtype=torch.bool)
    masks[0, :, 9:30, 11:33] = True
    sizes = [(8, 8), (16, 16), (32, 32)]
    for kind, rule in (("incoherent", "residue"), ("mixed", "mixed")):
        levels = region_levels(masks, STRIDES, sizes, kind)
        above = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
        for stride, size, level in [*zip(STRIDES, sizes, levels, strict=True)][::-1]:
            assert level.shape == (2, 1, *size)
            inner = incoherent_region(masks, stride, rule)
            above = above.unflatten(-1, (-1, 2)).any(-1).unflatten(-2, (-1, 2)).any(-2)
            above[..., : inner.shape[-2], : inner.shape[-1]] |= inner
            assert torch.equal(level, above)
            assert not level[1].any()
    with pytest.raises(ValueError, match="need 5 x 7 cells at stride 8, not 4 x 7"):
        region_levels(masks, STRIDES, [(4, 7), (10, 13), (19, 25)])


def test_boundary_is_where_neighbours_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 2, 22, 31, generator=generator) > 0.8
    region = boundary_region(masks, 4)
    cells = masks[..., 2::4, 2::4]
    cells = F.pad(cells, (0, 0, 0, 6 - cells.shape[-2]))
    cells[..., 5, :] = masks[..., 21, 2::4]  # the last row again, for the part outside the frame
    for index in np.ndindex(3, 2, 6, 8):
        n, t, y, x = index
        around = cells[n, t, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        assert region[index] == (around.any() and not around.all())


def test_thin_parts_need_closed_levels() -> None:
    masks = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    masks[..., 20:44, 33:35] = True  # no cell of stride 8 samples these columns
    sizes = [(8, 8), (16, 16), (32, 32)]
    for kind, alone in (("incoherent", incoherent_region), ("boundary", boundary_region)):
        assert not alone(masks, 8).any()
        closed = region_levels(masks, STRIDES, sizes, kind)
        for level, fine, stride in zip(closed, closed[1:], STRIDES, strict=False):
            above = fine.unflatten(-1, (-1, 2)).any(-1).unflatten(-2, (-1, 2)).any(-2)
            assert torch.equal(level, above | alone(masks, stride))
            assert level.any()


def detector_case(num: int = 3) -> tuple[IncoherenceDetector, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    detector = IncoherenceDetector(16, ["s8", "s4"]).double()
    features = torch.randn(2, 16, 5, 7).double()
    own = torch.randn(num, 2, 3, 5, 7).double()
    return detector, features, own, torch.randn(num, NUM_PARAMETERS).double()


def slow_detector(detector, level: str, features: Tensor, own: Tensor, vector: Tensor) -> Tensor:
    """One tracklet, one frame after the other; weights cut by hand in the order of the layout."""
    widths, kernels = (11, 8, 8, 8, 1), (3, 3, 3, 1)
    weights, at = [], 0
    for a, b, k in zip(widths, widths[1:], kernels, strict=False):
        weights.append(vector[at : at + a * b * k * k].view(b, a, k, k))
        at += a * b * k * k
    biases = []
    for b in widths[1:]:
        biases.append(vector[at : at + b])
        at += b
    assert at == len(vector)
    out = []
    for t in range(len(features)):
        shared = detector.reduce[level](features[t]).relu()
        x = torch.cat([own[t], shared])
        for i, (weight, bias, k) in enumerate(zip(weights, biases, kernels, strict=True)):
            x = F.conv2d(x[None], weight, bias, padding=k // 2)[0]
            x = x.relu() if i < len(weights) - 1 else x
        out.append(x[0])
    return torch.stack(out)


@pytest.mark.parametrize("level", ["s8", "s4"])
def test_dynamic_layers_are_the_slow_ones(level: str) -> None:
    detector, features, own, parameters = detector_case()
    assert NUM_PARAMETERS == 1977
    actual = detector(level, features, own, parameters)
    for n in range(3):
        expected = slow_detector(detector, level, features, own[n], parameters[n])
        torch.testing.assert_close(actual[n], expected)


def test_one_query_per_frame() -> None:
    detector, features, own, parameters = detector_case()
    other = torch.randn_like(parameters)
    actual = detector("s8", features, own, torch.stack([parameters, other], 1))
    first = detector("s8", features[:1], own[:, :1], parameters)
    second = detector("s8", features[1:], own[:, 1:], other)
    torch.testing.assert_close(actual, torch.cat([first, second], 1))


def test_static_weights_need_no_query_and_no_tracklet_is_fine() -> None:
    _, features, own, _ = detector_case()
    detector = IncoherenceDetector(16, ["s8"], static=True).double()
    out = detector("s8", features, own, None)
    assert out.shape == (3, 2, 5, 7)
    torch.testing.assert_close(out[1:2], detector("s8", features, own[1:2], None))
    assert detector("s8", features, own[:0], None).shape == (0, 2, 5, 7)


def test_gradients_reach_query_and_reduction() -> None:
    detector, features, own, parameters = detector_case()
    parameters.requires_grad_()
    detector("s4", features, own, parameters).square().sum().backward()
    assert (parameters.grad != 0).float().mean() > 0.5
    assert detector.reduce["s4"].weight.grad.any()


def test_share_of_points_on_real_clips(shared_data, record_property) -> None:
    """Below 10% of the points are processed (arXiv:2207.14012, section 3.1), per tracklet."""
    annotations = json.loads((shared_data / "clips" / "annotations.json").read_text())
    counts, cells, marked = np.zeros(3), np.zeros(3), 0
    for annotation in annotations["annotations"]:
        frames = [s for s in annotation["segmentations"] if s is not None][:5]
        masks = np.stack([rle.decode(rle.validate(s)) for s in frames]).astype(bool)
        tube = torch.from_numpy(masks)[None]
        sizes = [(-(-tube.shape[-2] // s), -(-tube.shape[-1] // s)) for s in STRIDES]
        regions = region_levels(tube, STRIDES, sizes)
        tree = build_quadtree([r.float() for r in regions], (0.5, 0.5, 0.5))
        for level, region in enumerate(regions):
            counts[level] += (tree.level == level).sum().item()
            cells[level] += region.numel()
            marked += region.sum().item()
    shares = [*(counts / cells), counts.sum() / cells.sum()]
    for name, share in zip(("H/8", "H/4", "H/2", "all levels"), shares, strict=True):
        record_property(f"share of {name}", round(float(share), 4))
    assert max(shares) < 0.10
    assert all(share > 0 for share in shares)
    assert counts.sum() == marked, "every marked cell is below a marked one"
