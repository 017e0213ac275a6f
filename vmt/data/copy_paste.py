"""Objects of one image pasted into another: more objects, in other places, that hide each other.

Source: Simple Copy-Paste, arXiv:2012.07177; its section 3 for what is pasted. That the pasted
objects move by a camera path of their own, so that clips have objects that move against each other
and their ground, is ours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from vmt.data.transforms import Clip, resize_clip

#: Each object of the other image is pasted with this probability, and one always.
PASTE_PROB = 0.5
#: Range of the size of the other image, relative to the largest that fits into the clip.
SCALE = (0.4, 1.25)
#: Where the other image may end beyond the clip, as a share of its own sides.
BEYOND = 0.25


def copy_paste(clip: Clip, other: Clip, rng: np.random.Generator) -> tuple[Clip, Tensor]:
    """Paste objects of another clip into a clip.

    Args:
        clip: T frames and G masks.
        other: T frames, of any size, and N masks, N >= 1.
        rng: of this sample.

    Returns:
        The clip with the masks of what was pasted behind its own, which lose what is hidden now;
        and (P,) int64, which of the N were pasted. It counts as cropped.
    """
    count = len(other.masks)
    chosen = rng.random(count) < PASTE_PROB
    chosen[rng.integers(count)] = True
    index = torch.from_numpy(chosen.nonzero()[0])
    H, W = clip.size
    h, w = other.size
    factor = min(H / h, W / w) * float(rng.uniform(*SCALE))
    size = max(1, round(h * factor)), max(1, round(w * factor))
    part = replace(other, masks=tv_tensors.Mask(other.masks[index]))
    part = resize_clip(part, size)
    top, left = (_place(outer, inner, rng) for outer, inner in zip((H, W), size, strict=True))
    pasted = torch.zeros((len(index), *clip.masks.shape[1:]), dtype=torch.bool)
    frames = torch.as_tensor(clip.frames).as_subclass(Tensor).clone()
    rows, columns = slice(max(top, 0), top + size[0]), slice(max(left, 0), left + size[1])
    window = pasted[..., rows, columns]
    inside = (
        slice(rows.start - top, rows.start - top + window.shape[-2]),
        slice(columns.start - left, columns.start - left + window.shape[-1]),
    )
    window.copy_(part.masks[(..., *inside)])
    cover = pasted.any(0)[:, None]  # (T, 1, H, W)
    pixels = torch.zeros_like(frames)
    pixels[..., rows, columns] = part.frames[(..., *inside)]
    frames = torch.where(cover, pixels, frames)
    below = clip.masks & ~cover[None, :, 0]
    masks = tv_tensors.Mask(torch.cat([below.as_subclass(Tensor), pasted]))
    return Clip(tv_tensors.Video(frames), masks, cropped=True), index


def _place(outer: int, inner: int, rng: np.random.Generator) -> int:
    """Where a part begins, in pixels; it may end beyond either side."""
    beyond = int(BEYOND * inner)
    low, high = sorted((-beyond, outer - inner + beyond))
    return int(rng.integers(low, high + 1))
