"""The 3D incoherence detector: which cells of H/8, H/4 and H/2 lose detail of a tracklet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.utils.precision import no_autocast

#: Channels that a tracklet brings: dx, dy, coarse probability.
OWN_CHANNELS = 3
#: Width of the map that all tracklets share, and of the layers.
WIDTH = 8
#: 3x3 layers 11-8-8-8 and a 1x1 classifier: widths, and sizes of the kernels.
WIDTHS = (OWN_CHANNELS + WIDTH, WIDTH, WIDTH, WIDTH, 1)
KERNELS = (3, 3, 3, 1)
#: (out, in, k, k) of each layer.
SHAPES = [(b, a, k, k) for (a, b), k in zip(pairwise(WIDTHS), KERNELS, strict=True)]
#: Numbers that a query must provide: 1,977.
NUM_PARAMETERS = sum(b * a * k * k + b for b, a, k, _ in SHAPES)
#: Cells on each side of a cell that its score depends on.
HALO = sum(kernel // 2 for kernel in KERNELS)
DETECTORS = ("video_query", "frame_query", "fcn")

#: Weight (N, out, in, k, k) and bias (N, out) of one layer.
Layer = tuple[Tensor, Tensor]


class IncoherenceDetector(nn.Module):
    """Convolutions with ReLU whose weights a query makes, the same at all levels and frames.

    Source: Video Mask Transfiner, arXiv:2207.14012, section 3.1: three 3x3 layers and a binary
    classifier. Their width and the classifier's 1x1 kernel are our choice.

    Args:
        dim: channels of the level features.
        levels: names of the levels, coarse to fine; each has its own reduction to 8 channels.
        static: weights that are learned, not made from queries ("fcn").
    """

    def __init__(self, dim: int, levels: Sequence[str], static: bool = False) -> None:
        super().__init__()
        self.reduce = nn.ModuleDict({name: nn.Conv2d(dim, WIDTH, 1) for name in levels})
        self.static: nn.ModuleList | None = None
        if static:
            self.static = nn.ModuleList(nn.Conv2d(a, b, k, padding=k // 2) for b, a, k, _ in SHAPES)

    @staticmethod
    def layers(parameters: Tensor) -> list[Layer]:
        """Cut parameter vectors into layers: all weights first, (out, in, k, k); then all biases.

        Args:
            parameters: (N, NUM_PARAMETERS).
        """
        weights = [b * a * k * k for b, a, k, _ in SHAPES]
        pieces = parameters.split([*weights, *(shape[0] for shape in SHAPES)], dim=1)
        return [
            (pieces[i].unflatten(1, shape), pieces[len(SHAPES) + i])
            for i, shape in enumerate(SHAPES)
        ]

    def forward(
        self, level: str, features: Tensor, own: Tensor, parameters: Tensor | None
    ) -> Tensor:
        """Scores of the cells of one level.

        Args:
            level: its name.
            features: (T, dim, h, w), shared by the tracklets.
            own: (N, T, 3, h, w): dx and dy in pixels, coarse probability.
            parameters: (N, NUM_PARAMETERS) of video-level queries, or (N, T, NUM_PARAMETERS) of
                one query per frame; None for static weights.

        Returns:
            (N, T, h, w) logits.
        """
        shared = F.relu(self.reduce[level](features))  # (T, 8, h, w)
        if len(own) == 0:
            return own[:, :, 0]
        if self.static is not None:
            return self._static(self.static, shared, own)
        assert parameters is not None, "dynamic layers need parameters"
        if parameters.ndim == 2:
            return self._dynamic(self.layers(parameters), shared, own)
        frames = [
            self._dynamic(self.layers(parameters[:, t]), shared[t, None], own[:, t, None])
            for t in range(len(shared))
        ]
        return torch.cat(frames, dim=1)

    @staticmethod
    def _dynamic(layers: Sequence[Layer], shared: Tensor, own: Tensor) -> Tensor:
        """Every tracklet its own weights: one grouped convolution per layer.

        The first layer reads 8 channels that all tracklets share; as convolutions are linear, that
        part is one plain convolution to N * 8 channels.
        """
        N = len(own)
        weight, bias = layers[0]
        pad = weight.shape[-1] // 2
        x = F.conv2d(shared, weight[:, :, OWN_CHANNELS:].flatten(0, 1), bias.flatten(), padding=pad)
        mine = own.transpose(0, 1).flatten(1, 2)  # (T, N*3, h, w)
        weight_own = weight[:, :, :OWN_CHANNELS].flatten(0, 1)
        with no_autocast(mine.device):
            x = x + F.conv2d(mine, weight_own.to(mine.dtype), None, padding=pad, groups=N)
        for weight, bias in layers[1:]:
            pad = weight.shape[-1] // 2
            x = F.conv2d(
                F.relu_(x), weight.flatten(0, 1), bias.flatten(), padding=pad, groups=N
            )  # (T, N*8, h, w), at last (T, N, h, w)
        return x.transpose(0, 1)

    @staticmethod
    def _static(layers: nn.ModuleList, shared: Tensor, own: Tensor) -> Tensor:
        N = len(own)
        stacked = torch.cat([own, shared.expand(N, -1, -1, -1, -1)], dim=2)
        x = stacked.flatten(0, 1)  # (N*T, 11, h, w)
        with no_autocast(x.device):
            for index, layer in enumerate(layers):
                x = layer(F.relu(x) if index else x)
        maps: Tensor = x[:, 0].unflatten(0, (N, -1))
        return maps
