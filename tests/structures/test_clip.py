from __future__ import annotations

from typing import Any

import pytest
import torch

from vmt.structures.clip import ClipTargets
from vmt.structures.decoder_outputs import DecoderOutputs


def fields(G: int = 2, T: int = 3) -> dict[str, Any]:
    return {
        "labels": torch.arange(G),
        "boxes_cxcywh": torch.full((G, T, 4), 0.5),
        "masks": torch.ones(G, T, 6, 8, dtype=torch.bool),
        "valid": torch.ones(G, T, dtype=torch.bool),
        "video_id": "v7",
        "clip_id": "0-2",
    }


def test_sizes_names_and_selection() -> None:
    targets = ClipTargets(**fields(G=3))
    assert (len(targets), targets.num_frames, targets.input_size) == (3, 3, (6, 8))
    assert targets.name == "video v7, clip 0-2"
    assert targets.select(torch.tensor([2, 0])).labels.tolist() == [2, 0]
    assert targets.to("cpu").name == targets.name
    assert ClipTargets(**fields() | {"video_id": "", "clip_id": ""}).name == "clip without id"


def test_frames_have_their_times() -> None:
    assert ClipTargets(**fields()).frame_times.tolist() == [0, 1, 2]
    timed = ClipTargets(**fields(), times=(7, 9, 30)).select(torch.tensor([1])).to("cpu")
    assert timed.frame_times.tolist() == [7, 9, 30]
    with pytest.raises(ValueError, match="2 times for 3 frames"):
        ClipTargets(**fields(), times=(7, 9))


def test_a_clip_may_hold_nothing() -> None:
    assert len(ClipTargets(**fields(G=0))) == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("masks", torch.ones(2, 3, 6, dtype=torch.bool), r"\(G, T, H, W\)"),
        ("masks", torch.ones(2, 3, 6, 8), "masks must be torch.bool"),
        ("labels", torch.arange(3), r"labels has shape \(3,\)"),
        ("labels", torch.tensor([0, -1]), "negative"),
        ("labels", torch.tensor([0, 1], dtype=torch.int32), "labels must be torch.int64"),
        ("boxes_cxcywh", torch.zeros(2, 4, 4), "boxes_cxcywh has shape"),
        ("boxes_cxcywh", torch.full((2, 3, 4), 20.0), "range from 20 to 20"),
        ("boxes_cxcywh", torch.full((2, 3, 4), torch.nan), "boxes_cxcywh must lie in"),
        ("boxes_cxcywh", torch.zeros(2, 3, 4, dtype=torch.int64), "float type"),
        ("valid", torch.ones(2, 3), "valid must be torch.bool"),
    ],
)
def test_errors_name_clip_field_and_value(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ClipTargets(**fields() | {field: value})
    assert str(error.value).startswith("video v7, clip 0-2: ")


def test_decoder_outputs_agree_in_layers_clips_and_queries() -> None:
    outputs = DecoderOutputs(torch.zeros(6, 2, 5, 40), torch.zeros(6, 2, 3, 5, 4))
    assert (outputs.num_layers, outputs.batch_size) == (6, 2)
    with pytest.raises(ValueError, match="equal layers, B and Q"):
        DecoderOutputs(torch.zeros(6, 2, 5, 40), torch.zeros(6, 2, 3, 4, 4))
