"""Where the encoder looks from a place of a frame: deformable attention as a picture.

The last encoder layer of SeqFormer reads points of all levels of its own frame; with MS-STS it also
reads the same place in the other frames of the clip (arXiv:2203.13253). The poster of MS-STS shows
both networks' attention side by side; so do ``heat`` and ``attention_row``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.deformable_encoder import Encoder, EncoderLayer, Levels
from vmt.modeling.msts.encoder import SplitAttention
from vmt.visualization.draw import titled

Frame = npt.NDArray[np.uint8]
#: How far the hottest place covers the frame.
OPACITY = 0.75


@dataclass(frozen=True)
class Looked:
    """What the last encoder layer reads from one place per frame.

    Args:
        heat: (T, H, W), share of the attention per pixel of the padded frame; a frame adds up to 1
            unless points lie outside it.
        frames: (T, T), how much a frame reads of each frame (rows read columns); None where
            frames do not meet.
    """

    heat: Tensor
    frames: Tensor | None


class EncoderAttention:
    """Keeps what the last encoder layer is given while a clip runs through the network.

    Use as a context manager around a call of the model.

    Args:
        encoder: the model's.
    """

    def __init__(self, encoder: Encoder) -> None:
        layer = encoder.layers[-1]
        assert isinstance(layer, EncoderLayer), "an encoder is made of its layers"
        self.layer = layer
        self._calls: list[tuple[Tensor, Tensor, Any]] = []
        self._mixed: list[tuple[Tensor, Levels]] = []

    def __enter__(self) -> EncoderAttention:
        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            query, reference, _, shapes = args[:4]
            self._calls.append((query, reference, shapes))

        def keep_mixed(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._mixed.append((args[0], args[1]))

        self._hooks = [self.layer.attn.register_forward_pre_hook(keep)]
        if self.layer.branch is not None:
            self._hooks.append(self.layer.branch.register_forward_pre_hook(keep_mixed))
        return self

    def __exit__(self, *exc: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def from_places(self, places: Sequence[tuple[float, float]]) -> Looked:
        """Look from one place of every frame: the cells of all levels that hold it.

        Args:
            places: T times (y, x) in [0, 1] of the padded frame.
        """
        query = torch.cat([call[0] for call in self._calls])
        reference = torch.cat([call[1] for call in self._calls])
        shapes = self._calls[0][2]
        rows = torch.tensor([tokens_at(shapes, place) for place in places], device=query.device)
        frames = torch.arange(len(rows), device=query.device)[:, None]
        points, weights = self.layer.attn.places(
            query[frames, rows], reference[frames, rows], shapes
        )  # (T, L queries, M, L, K, 2)
        heat = torch.stack([heat_of(p, w, shapes) for p, w in zip(points, weights, strict=True)])
        return Looked(heat, self._between_frames(rows))

    def _between_frames(self, rows: Tensor) -> Tensor | None:
        branch = self.layer.branch
        if not isinstance(branch, SplitAttention):
            return None
        x = self._mixed[0][0]  # (T, S, C)
        # A frame looks from its own place: at the tokens that lie there in all frames.
        own = x[:, rows].permute(1, 2, 0, 3)  # (T places, L, T, C)
        weights = branch.intra.weights_of(own)  # (T, L, T, T)
        reading = torch.arange(len(rows), device=rows.device)
        return weights[reading, :, reading].mean(1)


def tokens_at(shapes: Sequence[tuple[int, int]], place: tuple[float, float]) -> list[int]:
    """Per level the token whose cell holds a place (y, x) in [0, 1]."""
    tokens, start = [], 0
    for height, width in shapes:
        y, x = (
            min(int(part * size), size - 1)
            for part, size in zip(place, (height, width), strict=True)
        )
        tokens.append(start + y * width + x)
        start += height * width
    return tokens


def heat_of(points: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Attention per cell of the finest level.

    A point reads the four cells around it, as bilinear sampling does; what it reads of a coarse
    cell is spread over the area of that cell.

    Args:
        points: (Q, M, L, K, 2) as (x, y) in [0, 1].
        weights: (Q, M, L, K), which add up to 1 over L and K.
        shapes: (H_l, W_l) per level, fine to coarse.

    Returns:
        (H_0, W_0); adds up to 1 when all points lie inside.
    """
    total = weights.new_zeros(shapes[0])
    share = weights / weights.shape[0] / weights.shape[1]
    for level, (height, width) in enumerate(shapes):
        x = points[..., level, :, 0].flatten() * width - 0.5
        y = points[..., level, :, 1].flatten() * height - 0.5
        part = share[..., level, :].flatten()
        cells = weights.new_zeros(height * width)
        for dy in (0, 1):
            for dx in (0, 1):
                row, column = y.floor() + dy, x.floor() + dx
                tap = part * (1 - (y - row).abs()) * (1 - (x - column).abs())
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                index = (row * width + column).long()
                cells.index_add_(0, index[inside], tap[inside])
        total += _spread(cells.view(height, width), shapes[0])
    return total


def _spread(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Divide what each coarse cell holds among the fine cells whose centres lie in it."""
    picks = [
        ((torch.arange(fine, device=cells.device) + 0.5) * coarse / fine).long()
        for coarse, fine in zip(cells.shape, size, strict=True)
    ]
    rows, columns = (
        1 / pick.bincount(minlength=coarse).to(cells)[pick]
        for pick, coarse in zip(picks, cells.shape, strict=True)
    )
    return cells[picks[0][:, None], picks[1]] * rows[:, None] * columns


def attention_panel(
    frame: Frame, heat: npt.NDArray[np.float32], place: tuple[int, int], title: str
) -> Frame:
    """A frame under its attention, with a title.

    Args:
        frame: (H, W, 3) uint8 RGB.
        heat: (H, W); the hottest pixel is drawn as 1.
        place: (y, x) in pixels, from where the encoder looks; a cross.
        title: above it.

    Returns:
        (H + 22, W, 3) uint8.
    """
    strength = (heat / max(float(heat.max()), 1e-12)).astype(np.float32)
    colors = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    opacity = OPACITY * np.sqrt(strength)[..., None]
    panel = (frame * (1 - opacity) + colors * opacity).astype(np.uint8)
    y, x = place
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.drawMarker(panel, (x, y), color, cv2.MARKER_CROSS, 12, thickness, cv2.LINE_AA)
    return titled(panel, title)


def heat_at_size(
    heat: Tensor, padded: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """(H_0, W_0) over the padded frame -> (H, W) of the frame, smooth."""
    large = F.interpolate(heat[None, None].float(), size=padded, mode="bicubic")[0, 0]
    cut: npt.NDArray[np.float32] = large[: size[0], : size[1]].clamp(min=0).cpu().numpy()
    return cut
