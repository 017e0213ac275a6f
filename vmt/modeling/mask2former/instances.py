"""Instances of a single image, as Mask2Former is published for instance segmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.video_model import FrameOutputs


@dataclass(frozen=True)
class Instances:
    """N pairs of a query and a class, by descending score.

    Args:
        scores: (N,) in [0, 1], class probability times the mean probability inside the mask.
        labels: (N,) int64.
        masks: (N, h, w) bool.
    """

    scores: Tensor
    labels: Tensor
    masks: Tensor


def image_instances(frame: FrameOutputs, size: tuple[int, int], top_k: int = 100) -> Instances:
    """The best pairs of a query and a class; a query may stand in several.

    Source: Mask2Former's code: pairs are chosen by class probability alone.

    Args:
        frame: what the network says of the image.
        size: (h, w) of the masks, in pixels.
        top_k: how many pairs at most.
    """
    probs = frame.class_probs()
    best = probs.flatten().topk(min(top_k, probs.numel()))
    query, labels = best.indices // probs.shape[1], best.indices % probs.shape[1]
    scores, masks = [], []
    used, row = query.unique(return_inverse=True)
    for mask in frame.mask_logits[used].float():
        logits = _resized(mask, frame, size)
        inside = logits > 0
        scores.append((logits.sigmoid() * inside).sum() / (inside.sum() + 1e-6))
        masks.append(inside)
    total = best.values * torch.stack(scores)[row]
    order = total.argsort(descending=True, stable=True)
    return Instances(total[order], labels[order], torch.stack(masks)[row[order]])


def _resized(mask: Tensor, frame: FrameOutputs, size: tuple[int, int]) -> Tensor:
    """(h, w) cells -> (H, W) pixels: by the stride, cut, to the size."""
    padded = [cells * frame.mask_stride for cells in mask.shape]
    whole = F.interpolate(mask[None, None], padded, mode="bilinear")
    cut = whole[..., : frame.input_size[0], : frame.input_size[1]]
    return F.interpolate(cut, size, mode="bilinear")[0, 0]
