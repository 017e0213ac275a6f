"""Networks for frames keep what a refiner reads of a frame, if they are told to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

NETWORKS = ["quick/idol_tiny", "quick/minvis_tiny", "quick/maskdino_tiny"]


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_frames(name: str, tiny: Callable, clip: torch.Tensor) -> None:
    model = tiny(name)
    plain = model.segment_frames(clip)
    assert all(frame.maps is None for frame in plain)
    model.keeps_maps = True
    kept = model.segment_frames(clip)
    for t, (frame, before) in enumerate(zip(kept, plain, strict=True)):
        assert torch.equal(frame.logits, before.logits)
        maps = frame.maps
        assert maps.pixels.shape == (3, 96, 128)
        torch.testing.assert_close(maps.pixels[:, :70, :102], model.normalise(clip[t]))
        assert not maps.pixels[:, 70:].any()
        assert maps.stride4.shape == (model.backbone.channels[4], 24, 32)
        assert maps.fused.shape == (frame.query.shape[1], 12, 16)
        shown = model.backbone(maps.pixels[None])[4][0]
        torch.testing.assert_close(maps.stride4, shown, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("order", ["low2high", "high2low"])
def test_the_stride8_level_in_any_order(order: str, tiny: Callable, clip: torch.Tensor) -> None:
    model = tiny("quick/maskdino_tiny", "MODEL.MASKDINO.LEVEL_ORDER", order)
    features = model.encode(model.pad([model.normalise(clip)])[0])
    level = model.neck.level_of(features.levels, 8)
    assert level.shape[-2:] == (12, 16)
