"""Attention over the frames of a clip, at every position alone; widths of the presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.ops.frames import frame_chunks
from vmt.utils.errors import ConfigError

#: Most sequences of one fused attention: on GPUs they are a dimension of the grid, which CUDA
#: bounds, and kernels beyond fail or read nonsense.
MAX_SEQUENCES = 65535
#: Most tokens that go through a block at once where no gradient is asked for; bounds memory.
MAX_TOKENS = 65535


@dataclass(frozen=True)
class Widths:
    """Sizes of the added parts; the authors' are not known (docs/methods/msts.md).

    Args:
        dim: width inside attention.
        ffn_dim: width of the feed-forward parts.
        mixer_bias: whether the decoder's queries, keys and values have a bias.
    """

    dim: int
    ffn_dim: int
    mixer_bias: bool


PRESETS = {"lean": Widths(64, 64, mixer_bias=False), "full": Widths(256, 1024, mixer_bias=True)}


def preset(name: str) -> Widths:
    """The sizes of ``MODEL.MSTS.PRESET``.

    Raises:
        ConfigError: no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"MODEL.MSTS.PRESET {name!r} must be one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def attend_frames(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """softmax(q k' / sqrt(d)) v over the tokens that share a position.

    Args:
        query: (B, T, P, C).
        key: (B, K, P, C); K tokens are at every position.
        value: (B, K, P, C).
        num_heads: divides C.

    Returns:
        (B, T, P, C).
    """
    batch, _, positions, _ = query.shape
    heads = [
        x.transpose(1, 2).flatten(0, 1).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        for x in (query, key, value)
    ]  # (B*P, M, T or K, C/M)
    parts = [
        F.scaled_dot_product_attention(*parts)
        for parts in zip(*(x.split(MAX_SEQUENCES) for x in heads), strict=True)
    ]
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    tokens: Tensor = out.transpose(1, 2).flatten(2).unflatten(0, (batch, positions))
    return tokens.transpose(1, 2)


def by_positions(block: Callable[..., Tensor], *tokens: Tensor) -> Tensor:
    """Call a block that treats every position alone, some positions at a time.

    Args:
        block: tensors (B, T, P, ...) -> (B, T, P, C).
        tokens: its arguments.

    Returns:
        (B, T, P, C); with gradient the block runs once, over all positions.
    """
    batch, frames, positions = tokens[0].shape[:3]
    chunk = max(MAX_TOKENS // (batch * frames), 1)
    if torch.is_grad_enabled() or positions <= chunk:
        return block(*tokens)
    parts = [block(*(x[:, :, rows] for x in tokens)) for rows in frame_chunks(positions, chunk)]
    return torch.cat(parts, dim=2)
