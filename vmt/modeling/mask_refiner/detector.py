"""Given masks for a detector that sees whole frames: what it matches, reads, and gives back."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.mask_refiner.prompt import (
    STRIDE,
    MaskPrompt,
    by_pixel,
    join_tracklets,
    prompt_of,
)
from vmt.ops.crops import Place
from vmt.ops.resize import aligned_upsample2
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.utils.device import constant

#: Least value of a box coordinate, and all four of an absent tracklet's, as in training targets.
LEAST = 1e-6
#: Levels of the quadtree that know the mask, see ``prompt_of``: the coarsest, as published.
PROMPT_LEVELS = 1


def given_targets(coarse: Tensor, labels: Tensor | None) -> ClipTargets:
    """Given masks (G, T, H, W) bool as what queries are matched with; labels (G,) if known."""
    height, width = coarse.shape[-2:]
    boxes_px = masks_to_boxes(coarse)
    boxes = xyxy_to_cxcywh(boxes_px / constant((width, height, width, height), boxes_px))
    if labels is None:
        labels = torch.zeros(len(coarse), dtype=torch.int64, device=coarse.device)
    return ClipTargets(labels, boxes.clamp(min=LEAST), coarse, coarse.flatten(2).any(2))


def where_given(targets: ClipTargets, coarse: Tensor) -> ClipTargets:
    """Targets that are empty in frames without a coarse mask, (G, T, H, W): null stays null."""
    present = coarse.flatten(2).any(2)
    return replace(
        targets, masks=targets.masks & present[..., None, None], valid=targets.valid & present
    )


def clip_prompt(coarse: Tensor, size: tuple[int, int]) -> MaskPrompt:
    """(N, T, H, W) bool as a refiner reads them, for frames of ``size``."""
    h8, w8 = (-(-side // STRIDE) for side in size)
    beyond = (0, w8 * STRIDE - size[1], 0, h8 * STRIDE - size[0])
    prompts = []
    for masks in coarse:  # at full size, one tracklet at a time
        share = F.pad(resized(masks.float(), size)[:, None], beyond, mode="replicate")
        prompts.append(prompt_of(share, PROMPT_LEVELS))
    if prompts:
        return join_tracklets(prompts)
    empty = torch.zeros(0, coarse.shape[1], h8, w8, device=coarse.device)
    return MaskPrompt(empty, (), (empty > 0,))


def at_frame_size(
    mask_logits: Tensor, cells: Tensor, size: tuple[int, int], frame_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Place] | None:
    """A refined tracklet, brought from the size of the network's input to that of the frames.

    Args:
        mask_logits: (T, h2, w2), at stride 2.
        cells: (T, h8, w8) bool, stride-8 cells that the refiner worked on.
        size: (h, w) of the network's input.
        frame_size: (H, W).

    Returns:
        Probabilities and pixels that were looked at, (T, h, w) in the rectangle around the latter,
        and where it lies; None without such pixels.
    """
    logits = aligned_upsample2(mask_logits.float())
    probability = resized(logits[..., : size[0], : size[1]].sigmoid(), frame_size)
    looked_at = by_pixel(cells)[..., : size[0], : size[1]]
    looked_at = F.interpolate(looked_at[None].float(), frame_size, mode="nearest-exact")[0] > 0
    rows, columns = (looked_at.any(0).any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    if not rows:
        return None
    y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    place = Place(y, x, slice(0, y.stop - y.start), slice(0, x.stop - x.start))
    return probability[:, y, x].clone(), looked_at[:, y, x].clone(), place


def resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(T, H, W) or (T, C, H, W) float to (..., *size), antialiased."""
    if tuple(values.shape[-2:]) == size:
        return values
    planes = values if values.ndim == 4 else values[:, None]
    planes = F.interpolate(planes, size, mode="bilinear", antialias=True)
    return planes if values.ndim == 4 else planes[:, 0]
