"""Whole networks on a GPU against the CPU, without TF32; waits for the device."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.devices import DEVICES, overlap
from vmt.modeling.video_model import ClipModel, FrameModel
from vmt.structures.roi_masks import RoiMasks

NETWORKS = [
    "quick/vmt_tiny_released",
    "quick/vmt_tiny",
    "quick/seqformer_tiny",
    "quick/msts_tiny",
    "quick/idol_tiny",
    "quick/minvis_tiny",
    "quick/maskdino_tiny",
    "quick/refinevis_tiny",
]


def numbers(model: ClipModel | FrameModel, clip: Tensor) -> dict[str, Tensor]:
    """What a network says of a clip, on the CPU."""
    found: dict[str, Any] = {}
    if isinstance(model, ClipModel):
        tracklets = model.segment_clip(clip)
        found = {"query": tracklets.query_index, "masks": tracklets.mask_logits}
    else:
        for t, frame in enumerate(model.segment_frames(clip)):
            found |= {f"logits{t}": frame.logits, f"embeddings{t}": frame.embeddings}
            if isinstance(frame.mask_logits, Tensor):
                found[f"masks{t}"] = frame.mask_logits
            elif isinstance(frame.mask_logits, RoiMasks):
                found[f"boxes{t}"] = frame.mask_logits.boxes_px
    return {name: x.detach().float().cpu() for name, x in found.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_says_the_same_everywhere(name: str, device: str, tiny, clip) -> None:
    model = tiny(name, "TEST.PRECISION", "fp32")
    expected = numbers(model, clip)
    actual = numbers(model.to(device), clip)
    assert expected.keys() == actual.keys()
    assert sum(x.numel() for x in expected.values()) > 100
    for key, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(actual[key], value, atol=2e-3 * scale, rtol=0, msg=key)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_a_network_in_other_precisions(precision: str, device: str, tiny, clip) -> None:
    expected = tiny("quick/seqformer_tiny").segment_clip(clip)
    model = tiny("quick/seqformer_tiny", "TEST.PRECISION", precision).to(device)
    actual = model.segment_clip(clip)
    assert model.pixel_mean.device.type == device
    # the same queries, not in one order: scores of random weights lie close together
    both = [q for q in expected.query_index.tolist() if q in actual.query_index.tolist()]
    assert len(both) >= len(expected) // 2
    rows = [[x.query_index.tolist().index(q) for q in both] for x in (expected, actual)]
    masks = [
        x.mask_logits[r].float().cpu() > 0 for x, r in zip((expected, actual), rows, strict=True)
    ]
    assert overlap(*masks) > 0.9


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["quick/seqformer_tiny", "quick/vmt_tiny_released"])
def test_a_copy_does_not_share_the_device(name: str, device: str, tiny, clip) -> None:
    here = tiny(name)
    there = deepcopy(here).to(device)
    there.segment_clip(clip)
    here.segment_clip(clip)  # constants of the one are none of the other


@pytest.mark.parametrize("device", DEVICES)
def test_the_encoder_never_waits_for_the_device(device: str, tiny, clip) -> None:
    model = tiny("quick/seqformer_tiny").to(device)
    frames = model.normalise(clip)

    def encode() -> None:
        with torch.inference_mode():
            model.encode_clip(frames)

    encode()
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        encode()
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
