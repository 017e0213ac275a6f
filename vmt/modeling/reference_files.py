"""Reading and naming for what reference files of several published networks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.ota import OtaMatch
from vmt.modeling.video_model import FrameModel, ReferenceInputs
from vmt.structures.boxes import xyxy_to_cxcywh
from vmt.structures.frame_targets import FrameTargets


def tensor(inputs: ReferenceInputs, name: str) -> Tensor:
    """An array of the file."""
    return torch.from_numpy(np.asarray(inputs[name]))


def training_images(
    model: FrameModel, inputs: ReferenceInputs
) -> tuple[Tensor, list[FrameTargets]]:
    """Images of a training step and their objects.

    Args:
        model: on its device.
        inputs: per image b ``image_b`` (3, h, w), normalised, ``labels_b``, ``boxes_b`` xyxy in
            pixels, ``masks_b`` bits and ``size_b``.

    Returns:
        (B, 3, H, W), padded, and B records.
    """
    count = sum(name.startswith("image_") for name in inputs)
    images = [tensor(inputs, f"image_{b}").float().to(model.device)[None] for b in range(count)]
    frames, _ = model.pad(images)
    return frames, [_target(inputs, b, frames) for b in range(count)]


def _target(inputs: ReferenceInputs, index: int, frames: Tensor) -> FrameTargets:
    """Objects of an image, padded as the frames (N, 3, H, W) are.

    As published, boxes are relative to the image before padding, unlike those that are predicted.
    """
    height, width = (int(side) for side in inputs[f"size_{index}"])
    bits = np.unpackbits(np.asarray(inputs[f"masks_{index}"], np.uint8), axis=-1, count=width)
    masks = torch.from_numpy(bits).bool()
    H, W = int(frames.shape[-2]), int(frames.shape[-1])
    masks = F.pad(masks, (0, W - masks.shape[-1], 0, H - masks.shape[-2]))
    boxes = xyxy_to_cxcywh(tensor(inputs, f"boxes_{index}").float())
    boxes = boxes / torch.tensor([width, height, width, height])
    labels = tensor(inputs, f"labels_{index}").long()
    device = frames.device
    return FrameTargets(labels.to(device), boxes.to(device), masks.to(device), f"image {index}")


def match_rows(calls: Iterable[Sequence[Match | OtaMatch]]) -> Tensor:
    """(M, 4) int32: image, call of the matcher, query, object."""
    rows = [
        (image, call, int(query), int(target))
        for call, matches in enumerate(calls)
        for image, match in enumerate(matches)
        for query, target in zip(*match[:2], strict=True)
    ]
    return torch.tensor(rows, dtype=torch.int32).view(-1, 4)
