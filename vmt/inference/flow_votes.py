"""What neighbouring frames agree on: a piece that one mask alone misses, or has too much."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vmt.ops.crops import follow

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

#: Longest side of the cut-outs in which flow is computed, and of the shortest, in pixels.
CROP_SIZES = (96, 640)
#: Surroundings of an object: share of its longer side, and least number of pixels.
MARGIN, MIN_MARGIN_PX = 0.15, 24
#: Grey levels by which a neighbour may differ where flow leads; its vote falls as a Gaussian.
TOLERANCE = 25.0
#: Pixels by which flow there and back may miss where it began; the vote falls as a Gaussian, too.
RETURN_PX = 1.5
#: Side of the square over which that difference is averaged, in pixels.
PATCH_PX = 7
#: Share of the votes that overrules a mask, and how many votes there must be at least.
MAJORITY, LEAST_VOTES = 0.65, 1.0


def steady_mask(frames: Tensor, masks: Tensor, at: int) -> BoolArray:
    """The mask of one frame, overruled where the masks of its neighbours agree against it.

    Masks that were drawn or predicted frame by frame miss other pieces in every frame. Each
    neighbour is brought into place by optical flow (DIS, arXiv:1603.03590), and counts where its
    pixels fit those of the frame and flow leads back to where it began. Ours: Video Mask Transfiner
    leaves this to attention between frames (arXiv:2207.14012, section 3.1).

    Args:
        frames: (T, 3, H, W) uint8 RGB, the frame and its neighbours.
        masks: (T, H, W) bool of one object.
        at: index of the frame.

    Returns:
        (H, W). An object that is absent stays so, and neighbours without it say nothing.
    """
    own = masks[at].numpy()
    present = masks.flatten(1).any(1)
    if not present[at] or present.sum() < 2:
        return own
    chosen = present.nonzero()[:, 0]
    centre = int((chosen == at).nonzero()[0, 0])
    crop = follow(masks[chosen], MARGIN, MIN_MARGIN_PX, *CROP_SIZES)
    pictures = crop.cut(frames[chosen]).permute(0, 2, 3, 1).numpy()
    shares = crop.cut(masks[chosen][:, None])[:, 0].numpy()
    votes, count = _votes(pictures, shares, centre)
    both = torch.from_numpy(np.stack([votes, count]))[:, None].expand(-1, len(chosen), -1, -1)
    place = crop.places()[centre]
    votes, count = (
        crop.restore(values.contiguous())[centre, place.own_rows, place.own_columns].numpy()
        for values in both
    )
    steady = own.copy()
    part = steady[place.rows, place.columns]
    enough = count >= LEAST_VOTES
    part[enough & (votes > MAJORITY * count)] = True
    part[enough & (votes < (1 - MAJORITY) * count)] = False
    return steady if steady.any() else own


def _votes(pictures: FloatArray, shares: FloatArray, centre: int) -> tuple[FloatArray, FloatArray]:
    """Ask the other frames.

    Args:
        pictures: (T, h, w, 3) RGB in [0, 255].
        shares: (T, h, w) in [0, 1], of the object.
        centre: whose mask is asked about.

    Returns:
        (h, w) twice: votes for the object, and votes at all.
    """
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(p.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for p in pictures]
    h, w = grey[centre].shape
    rows, columns = np.mgrid[:h, :w].astype(np.float32)
    votes, count = np.zeros((h, w), np.float32), np.zeros((h, w), np.float32)
    for other in range(len(grey)):
        if other == centre:
            continue
        flow = flow_of.calc(grey[centre], grey[other], None)
        back = flow_of.calc(grey[other], grey[centre], None)
        there = (columns + flow[..., 0], rows + flow[..., 1])
        share = cv2.remap(shares[other], *there, cv2.INTER_LINEAR)
        picture, home = (
            cv2.remap(values, *there, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for values in (pictures[other], back)
        )
        missed = np.square(flow + home).sum(2)
        far = np.abs(picture - pictures[centre]).mean(2)
        far = cv2.blur(far, (PATCH_PX, PATCH_PX))
        weight = np.exp(-((far / TOLERANCE) ** 2) - missed / RETURN_PX**2)
        votes += weight * share
        count += weight
    return votes, count
