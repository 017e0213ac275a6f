"""Multi-scale spatio-temporal split attention: over time inside a level, then between levels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from vmt.layers.deformable_encoder import EncoderAdapter, Levels
from vmt.modeling.msts.attention import Widths, attend_frames, by_positions, preset
from vmt.ops.frames import fold_frames, unfold_frames


def linear(in_dim: int, out_dim: int, bias: bool = True) -> nn.Linear:
    """Xavier-uniform weights, bias 0."""
    layer = nn.Linear(in_dim, out_dim, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class FeedForward(nn.Sequential):
    """dim -> ffn_dim -> dim with a ReLU."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__(linear(dim, ffn_dim), nn.ReLU(inplace=True), linear(ffn_dim, dim))


class IntraScale(nn.Module):
    """Frames of one position of one level attend to each other; weights shared by all levels.

    x = LN(x + W_o attention(x)); x = x + FFN(x).

    Args:
        dim: channels.
        widths: of attention and feed-forward part.
        num_heads: of the attention.
        dropout: in training.
    """

    def __init__(self, dim: int, widths: Widths, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = linear(dim, 3 * widths.dim, bias=False)
        self.out = linear(widths.dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, widths.ffn_dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, P, C) -> (B, T, P, C)."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        mixed = self.out(attend_frames(query, key, value, self.num_heads))
        x = self.norm(x + self.drop(mixed))
        attended: Tensor = x + self.ffn(x)
        return attended

    def weights_of(self, x: Tensor) -> Tensor:
        """How much each frame reads of each frame, mean over heads.

        Args:
            x: (..., T, C), the tokens of one position.

        Returns:
            (..., T, T); rows read columns and add up to 1.
        """
        query, key, _ = self.qkv(x).chunk(3, dim=-1)
        query, key = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3) for part in (query, key)
        )  # (..., M, T, C/M)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        weights: Tensor = scores.softmax(-1).mean(-3)
        return weights


class InterScale(nn.Module):
    """Tokens of a level attend to themselves and to the next coarser level at their place.

    f = W_t target, g = W_p partner; o = f + attention(LN f over LN [f, g]); o = o + FFN(LN o);
    W_out o.

    Args:
        dim: channels.
        widths: of attention and feed-forward part.
        num_heads: of the attention.
        dropout: in training.
    """

    def __init__(self, dim: int, widths: Widths, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        width = widths.dim
        self.target = linear(dim, width)
        self.partner = linear(dim, width)
        self.norm1 = nn.LayerNorm(width)
        self.qkv = linear(width, 3 * width, bias=False)
        self.attn_out = linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = FeedForward(width, widths.ffn_dim)
        self.out = linear(width, dim)
        self.drop = nn.Dropout(dropout)

    def project(
        self, partner: Tensor, shape: tuple[int, int], target_shape: tuple[int, int]
    ) -> Tensor:
        """The partner's tokens at the target's resolution.

        A bilinear resize is a mean, so projecting before it, on the smaller map and to the smaller
        width, is the same as projecting after it.

        Args:
            partner: (B, T, P', C).
            shape: (H, W) of the partner, H * W = P'.
            target_shape: (H, W) of the target.

        Returns:
            (B, T, P, width).
        """
        tokens: Tensor = self.partner(partner)
        if shape == target_shape:
            return tokens
        maps = tokens.flatten(0, 1).transpose(1, 2).unflatten(2, shape)
        maps = F.interpolate(maps, size=target_shape, mode="bilinear", align_corners=False)
        resized: Tensor = maps.flatten(2).transpose(1, 2).unflatten(0, tokens.shape[:2])
        return resized

    def forward(self, target: Tensor, partner: Tensor) -> Tensor:
        """(B, T, P, C) and what ``project`` gave -> (B, T, P, C)."""
        tokens = self.target(target)
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        width = query.shape[-1]
        both = F.linear(self.norm1(partner), self.qkv.weight[width:])
        key = torch.cat([key, both[..., :width]], dim=1)
        value = torch.cat([value, both[..., width:]], dim=1)
        mixed = self.attn_out(attend_frames(query, key, value, self.num_heads))
        tokens = tokens + self.drop(mixed)
        tokens = tokens + self.ffn(self.norm2(tokens))
        out: Tensor = self.out(tokens)
        return out


class SplitAttention(EncoderAdapter):
    """The MS-STS attention module of an encoder layer, behind a gate of zeros.

    Source: arXiv:2203.13253, official architecture figure; sizes and gate are ours
    (docs/methods/msts.md).

    Args:
        dim: channels.
        widths: see ``PRESETS``.
        num_heads: of both attentions.
        dropout: in training.
    """

    def __init__(
        self,
        dim: int,
        widths: Widths,
        num_heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.intra = IntraScale(dim, widths, num_heads, dropout)
        self.inter = InterScale(dim, widths, num_heads, dropout)
        self.gate = nn.Parameter(torch.zeros(dim))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SplitAttention:
        """Build from ``MODEL.MSTS`` and ``MODEL.SEQFORMER``.

        Raises:
            ConfigError: an unknown preset.
        """
        node = cfg.MODEL.SEQFORMER
        return cls(node.HIDDEN_DIM, preset(cfg.MODEL.MSTS.PRESET), dropout=node.DROPOUT)

    def forward(self, x: Tensor, levels: Levels, num_frames: int) -> Tensor:
        """(B*T, S, C); zero on padding, and no valid token depends on what padding held."""
        x = unfold_frames(_without_padding(x, levels), num_frames)  # (B, T, S, C)
        out = by_positions(self.intra, x)
        out = self._between_levels(x, out, levels)
        out = _without_padding(fold_frames(out), levels)
        gated: Tensor = self.gate.to(out.dtype) * out
        return gated

    def _between_levels(self, x: Tensor, attended: Tensor, levels: Levels) -> Tensor:
        """Each level with the next coarser one; the coarsest with its own input."""
        clean = unfold_frames(_without_padding(fold_frames(attended), levels), x.shape[1])
        targets = clean.split(levels.sizes, dim=2)
        partners = [*targets[1:], x.split(levels.sizes, dim=2)[-1]]
        shapes = [*levels.shapes[1:], levels.shapes[-1]]
        out = []
        for level, (target, partner) in enumerate(zip(targets, partners, strict=True)):
            projected = self.inter.project(partner, shapes[level], levels.shapes[level])
            out.append(by_positions(self.inter, target, projected))
        return torch.cat(out, dim=2)


def _without_padding(x: Tensor, levels: Levels) -> Tensor:
    """(B*T, S, C) with zeros on padding."""
    if levels.padding_mask is None:
        return x
    return x.masked_fill(levels.padding_mask[..., None], 0.0)
