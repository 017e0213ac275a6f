"""Mask2Former's decoder: each layer reads one level, inside the masks of the layer before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.position import sine_position_2d
from vmt.layers.transformer import MaskedAttention, SelfAttention
from vmt.modeling.mask2former.heads import Heads
from vmt.modeling.mask2former.options import Mask2FormerOptions

#: Levels of the encoder, in input pixels per cell, in the order of the layers that read them.
STRIDES = (32, 16, 8)


class DecoderLayer(nn.Module):
    """Masked attention to a level, self attention, feed-forward; post-norm.

    Args:
        options: see ``Mask2FormerOptions``.
    """

    def __init__(self, options: Mask2FormerOptions) -> None:
        super().__init__()
        dim = options.dim
        self.cross_attn = MaskedAttention(dim, options.num_heads, options.dropout)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attn = SelfAttention(dim, options.num_heads, options.dropout)
        self.self_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, options.decoder_ffn_dim)
        self.linear2 = nn.Linear(options.decoder_ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(options.dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, x: Tensor, position: Tensor, key: Tensor, value: Tensor, visible: Tensor
    ) -> Tensor:
        """Update the queries.

        Args:
            x: (B, Q, C).
            position: (Q, C), of the queries.
            key: (B, S, C), tokens of the level with their positions.
            value: (B, S, C), without.
            visible: see ``MaskedAttention``.

        Returns:
            (B, Q, C).
        """
        x = self.cross_norm(x + self.drop(self.cross_attn(x + position, key, value, visible)))
        x = self.self_norm(x + self.drop(self.self_attn(x, position)))
        hidden = self.drop(F.relu_(self.linear1(x)))
        out: Tensor = self.ffn_norm(x + self.drop(self.linear2(hidden)))
        return out


class Decoder(nn.Module):
    """Learned queries and the layers (Mask2Former, arXiv:2112.01527, section 3.2).

    Args:
        options: see ``Mask2FormerOptions``.
    """

    def __init__(self, options: Mask2FormerOptions) -> None:
        super().__init__()
        self.content = nn.Embedding(options.num_queries, options.dim)
        self.position = nn.Embedding(options.num_queries, options.dim)
        self.level_embed = nn.Embedding(len(STRIDES), options.dim)
        self.layers = nn.ModuleList(DecoderLayer(options) for _ in range(options.decoder_layers))

    def forward(self, levels: Sequence[Tensor], pixel: Tensor, heads: Heads) -> list[Tensor]:
        """Decode.

        Args:
            levels: a map (B, C, h_l, w_l) per stride of ``STRIDES``.
            pixel: (B, mask_dim, h, w).
            heads: give the masks that the next layer looks through, and hold the norm.

        Returns:
            Embeddings (B, Q, C): of the learned queries, then behind each layer.
        """
        values, keys = self._tokens(levels)
        with torch.no_grad():
            # resizing is linear: a mask made of the resized pixel map is the mask, resized
            sizes = [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]
            pixels = [F.interpolate(pixel, size, mode="bilinear") for size in sizes]
        x = self.content.weight.expand(pixel.shape[0], -1, -1)
        embeds = [heads.norm(x)]
        for index, layer in enumerate(self.layers):
            level = index % len(levels)
            visible = visible_tokens(heads, embeds[-1], pixels[level])
            x = layer(x, self.position.weight, keys[level], values[level], visible)
            embeds.append(heads.norm(x))
        return embeds

    def _tokens(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level (B, S, C): what is read, and the same with its place in the frame."""
        values, keys = [], []
        for level, embed in zip(levels, self.level_embed.weight, strict=True):
            value = level.flatten(2).transpose(1, 2) + embed
            cells = level.new_ones((1, *level.shape[-2:]), dtype=torch.bool)
            place = sine_position_2d(cells, value.shape[-1] // 2, 0.0).flatten(1, 2)
            values.append(value)
            keys.append(value + place.to(value.dtype))
        return values, keys


@torch.no_grad()
def visible_tokens(heads: Heads, embeds: Tensor, pixel: Tensor) -> Tensor:
    """Tokens inside the masks of queries; all of them for a query whose mask is empty.

    Args:
        heads: give the masks.
        embeds: (B, Q, C).
        pixel: (B, mask_dim, h, w), at the size of the level.

    Returns:
        (B, Q, h * w) bool.
    """
    inside = (heads.masks(embeds, pixel) >= 0).flatten(2)
    return inside | ~inside.any(-1, keepdim=True)
