"""What associations read comes to the host once per window."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.device_counts import DeviceCounts
from vmt.inference.association.bisoftmax import BisoftmaxAssociation
from vmt.inference.association.embedding_hungarian import EmbeddingHungarianAssociation
from vmt.inference.association.on_host import on_host
from vmt.inference.association.quasi_dense import QuasiDenseAssociation
from vmt.modeling.video_model import FrameOutputs

DEVICE = torch.device("cpu")


def video(count: int, *, boxes: bool = True, dtype: torch.dtype = torch.float32) -> list:
    """Three objects apart from each other, on the device."""

    def made(values: Tensor) -> Tensor:
        return values.to(dtype).to(DEVICE, non_blocking=True)

    masks = torch.full((3, 6, 8), -4.0)
    for i in range(3):
        masks[i, 2 * i : 2 * i + 2] = 4.0
    corners = torch.tensor([[0.5, i / 3 + 1 / 6, 1.0, 1 / 3] for i in range(3)])
    return [
        FrameOutputs(
            made(4 * torch.eye(3) - 2 + t / 64),
            made(corners) if boxes else None,
            made(masks),
            made(4 * torch.eye(3, 5) + t),
            mask_stride=4,
            input_size=(24, 32),
            query=made(torch.eye(3, 4)),
        )
        for t in range(count)
    ]


@pytest.mark.parametrize("boxes", [True, False])
def test_the_same_values_arrive(boxes: bool) -> None:
    frames = video(3, boxes=boxes, dtype=torch.bfloat16)
    for there, here in zip(frames, on_host(frames), strict=True):
        for name in ("logits", "embeddings", *(["boxes_cxcywh"] if boxes else [])):
            copy = getattr(here, name)
            assert copy.dtype == torch.float32
            assert torch.equal(copy, getattr(there, name).float())
        assert here.mask_logits is there.mask_logits
        assert here.query is there.query
        assert (here.boxes_cxcywh is None) == (not boxes)
    assert on_host([]) == []


@pytest.mark.parametrize(
    ("association", "waits"),
    [
        (BisoftmaxAssociation, 2),  # the masks' overlap depends on what was read
        (EmbeddingHungarianAssociation, 1),
        (QuasiDenseAssociation, 1),
    ],
)
def test_a_window_waits_for_the_device_once(association: type, waits: int) -> None:
    tracks = association()
    with torch.inference_mode(), DeviceCounts() as counts:
        tracks.add(0, video(5))
    assert counts.waits.total() == waits, counts.waits
    records = tracks.pop_frames(5)
    assert [record.track_ids for record in records] == [(1, 2, 3)] * 5
    for record in records:
        assert torch.equal(record.logits, video(1)[0].mask_logits)
