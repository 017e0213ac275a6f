"""Instances of a single image."""

from __future__ import annotations

import torch

from vmt.modeling.instances import image_instances
from vmt.modeling.video_model import FrameOutputs


def outputs(masks: torch.Tensor, logits: torch.Tensor) -> FrameOutputs:
    query = torch.zeros(len(masks), 4)
    return FrameOutputs(logits, None, masks, query, 4, (8, 12), no_object=True)


def test_scores_are_those_of_class_and_mask() -> None:
    masks = torch.full((2, 2, 4), -1.0)  # the last column is padding
    masks[0] = 2.0
    logits = torch.tensor([[3.0, 1.0, 0.0], [2.0, -1.0, 1.0]])
    result = image_instances(outputs(masks, logits), (8, 12), top_k=3)
    probs = logits.softmax(1)
    inside = torch.tensor(2.0).sigmoid()
    # an empty mask has no score, however sure its class is
    assert result.labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(
        result.scores, torch.stack([probs[0, 0] * inside, probs[0, 1] * inside, torch.tensor(0.0)])
    )
    assert [int(mask.sum()) for mask in result.masks] == [96, 96, 0]


def test_masks_are_cut_before_they_are_resized() -> None:
    masks = torch.full((1, 2, 4), -1.0)
    masks[0, :, 3] = 1.0  # padding alone
    result = image_instances(outputs(masks, torch.zeros(1, 2)), (4, 6))
    assert result.masks.shape == (1, 4, 6)
    assert not result.masks.any()


def test_fewer_pairs_than_asked_for() -> None:
    result = image_instances(outputs(torch.ones(1, 2, 4), torch.zeros(1, 3)), (8, 12))
    assert len(result.scores) == 2


def test_boxes_go_with_their_pairs_and_end_at_the_image() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.9, 0.25, 0.4, 0.5]])
    logits = torch.tensor([[0.0, 2.0], [3.0, -5.0]])
    masks = torch.tensor([4.0, 0.1]).view(2, 1, 1).expand(2, 2, 3)  # the surer class, a poor mask
    frame = FrameOutputs(logits, boxes, masks, torch.zeros(2, 4), 4, (8, 12))
    result = image_instances(frame, (16, 40), top_k=3)
    assert result.boxes_xyxy_px is not None
    assert result.labels.tolist() == [1, 0, 0]
    first, second = [28.0, 0.0, 40.0, 8.0], [10.0, 4.0, 30.0, 12.0]
    torch.testing.assert_close(result.boxes_xyxy_px, torch.tensor([second, first, second]))


def test_scores_without_the_quality_of_masks() -> None:
    masks = torch.full((2, 2, 3), -1.0)
    logits = torch.tensor([[1.0], [2.0]])
    frame = FrameOutputs(logits, None, masks, torch.zeros(2, 4), 4, (8, 12))
    result = image_instances(frame, (8, 12), mask_quality=False)
    torch.testing.assert_close(result.scores, logits.sigmoid().flip(0)[:, 0])
