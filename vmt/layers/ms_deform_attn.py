"""Multi-scale deformable attention as a module; the operator itself is ``vmt.ops``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vmt.ops import fused_ms_deform_attn, sampling_places
from vmt.ops.linear import linear
from vmt.utils.precision import no_autocast


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention: a query reads M*L*K points instead of all S tokens.

    Source: Deformable DETR, arXiv:2010.04159, Eq. 3.
    Letters: B batch, Q queries, S = sum of H_l * W_l, L levels, M heads, K points, C channels.

    Args:
        dim: C.
        num_levels: L.
        num_heads: M, divides C.
        num_points: K per head and level.
    """

    def __init__(self, dim: int, num_levels: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}.")
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2.0 * math.pi / self.num_heads)
        compass = torch.stack([angle.cos(), angle.sin()], -1)
        compass = compass / compass.abs().amax(-1, keepdim=True)  # (M, 2)
        steps = torch.arange(1, self.num_points + 1)
        offsets = compass[:, None, None, :] * steps[None, None, :, None]
        offsets = offsets.expand(-1, self.num_levels, -1, -1)  # (M, L, K, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _asked(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (B, Q, M, L, K, 2), not rounded under autocast, and logits (B, Q, M, L, K)."""
        shape = (self.num_heads, self.num_levels, self.num_points)
        with no_autocast(query.device):
            layer = self.sampling_offsets
            offsets = linear(query.to(layer.weight.dtype), layer.weight, layer.bias)
        layer = self.attention_weights
        logits = linear(query, layer.weight, layer.bias)
        return offsets.unflatten(-1, (*shape, 2)), logits.unflatten(-1, shape)

    def places(
        self,
        query: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, Tensor]:
        """Where every query reads, and how much of its attention each place gets.

        Args:
            query: (B, Q, C).
            reference_points: see ``sample``.
            spatial_shapes: (H_l, W_l) per level.

        Returns:
            Locations (B, Q, M, L, K, 2) as (x, y) in [0, 1] of the padded frame, and weights
            (B, Q, M, L, K), which add up to 1 over L and K.
        """
        flat = [side for shape in spatial_shapes for side in shape]
        return sampling_places(*self._asked(query), reference_points, flat)

    def sample(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Gather ``value`` around the reference point of every query, before the output layer.

        Args:
            query: (B, Q, C).
            reference_points: (B, Q, L, 2) as (x, y) in [0, 1] of the padded frame; offsets are
                then in cells of level l. Or (B, Q, L, 4) as cxcywh: offsets in box side / (2 K).
            value: (B, S, C), levels one after another, each row-major.
            spatial_shapes: (H_l, W_l) per level.
            padding_mask: (B, S) bool, True on padding, which reads as zero.

        Returns:
            (B, Q, C).
        """
        value = linear(value, self.value_proj.weight, self.value_proj.bias)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        value = value.unflatten(-1, (self.num_heads, -1))  # (B, S, M, D)
        offsets, logits = self._asked(query)
        return fused_ms_deform_attn(value, spatial_shapes, offsets, logits, reference_points)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """``sample``, then the output layer: (B, Q, C)."""
        sampled = self.sample(query, reference_points, value, spatial_shapes, padding_mask)
        return linear(sampled, self.output_proj.weight, self.output_proj.bias)
