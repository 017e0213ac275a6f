"""Temporal attention refinement: one layer of attention among the embeddings of a tracklet.

Source: RefineVIS, arXiv:2306.04774, section 3.3 and Eq. 4. The paper gives neither the place of
the norms nor the kind of the time encoding nor the widths; docs/methods/refinevis.md has ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.position import sine_features
from vmt.layers.transformer import MaskedAttention
from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class TAROptions:
    """Sizes and readings of the paper.

    Args:
        dim: C.
        num_heads: of the attention.
        ffn_dim: width of the feed-forward part.
        window: W, frames that a frame attends to, itself included; 0: no refinement.
        norm: "pre" or "post"; "pre" starts as the identity, its last matrices being zero.
        position: "input": time is added to the embeddings that attention takes, as in the paper;
            "query_key": to its queries and keys alone.

    Raises:
        ConfigError: an unknown word, a negative window, or heads that do not divide the channels.
    """

    dim: int = 256
    num_heads: int = 8
    ffn_dim: int = 2048
    window: int = 10
    norm: str = "pre"
    position: str = "input"

    def __post_init__(self) -> None:
        for name, values in (("norm", ("pre", "post")), ("position", ("input", "query_key"))):
            if (value := getattr(self, name)) not in values:
                raise ConfigError(
                    f"MODEL.REFINEVIS: TAR's {name} is {value!r}; choose {' or '.join(values)}."
                )
        if self.window < 0:
            raise ConfigError(f"MODEL.REFINEVIS.WINDOW is {self.window}; it must not be negative.")
        if self.dim % self.num_heads or self.dim % 2:
            raise ConfigError(
                f"MODEL.REFINEVIS: {self.num_heads} heads of TAR do not divide its {self.dim} "
                "channels, or these are odd; choose a divisor."
            )


class TAR(nn.Module):
    """Attention and feed-forward part, once, inside each tracklet.

    The residual path never carries the encoding of time, so an embedding that was refined is one
    that can be read, and encoded, again.

    Args:
        options: see ``TAROptions``.
    """

    def __init__(self, options: TAROptions) -> None:
        super().__init__()
        self.options = options
        dim = options.dim
        self.self_attn = MaskedAttention(dim, options.num_heads)
        self.linear1 = nn.Linear(dim, options.ffn_dim)
        self.linear2 = nn.Linear(options.ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        if options.norm == "pre":
            for last in (self.self_attn.out_proj, self.linear2):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def forward(
        self, embeds: Tensor, times: Tensor, readable: Tensor | None = None, last_only: bool = False
    ) -> Tensor:
        """Refine N tracklets.

        Args:
            embeds: (N, T, C); zero where a tracklet was missed.
            times: (N, T) or (T,) int64, frame index in the video.
            readable: (N, T) bool, False in places outside the video or before the tracklet began,
                True somewhere in each row; None: all are.
            last_only: only the last frame asks; the others are read.

        Returns:
            (N, T, C), or (N, 1, C) with ``last_only``.
        """
        query, key, value = self._tokens(embeds, times)
        if last_only:
            embeds, query = embeds[:, -1:], query[:, -1:]
        visible = None if readable is None else readable[:, None]  # (N, 1, T)
        x: Tensor = embeds + self.self_attn(query, key, value, visible)
        if self.options.norm == "post":
            x = self.norm1(x)
            refined: Tensor = self.norm2(x + self._feed_forward(x))
            return refined
        return x + self._feed_forward(self.norm2(x))

    def attention_weights(
        self, embeds: Tensor, times: Tensor, readable: Tensor | None = None
    ) -> Tensor:
        """How much each frame reads of each other, for people to look at.

        Args:
            embeds: as ``forward`` takes them.
            times: likewise.
            readable: likewise.

        Returns:
            (N, M, T, T), M heads; rows read columns and add up to 1.
        """
        query, key, _ = self._tokens(embeds, times)
        visible = None if readable is None else readable[:, None]
        return self.self_attn.weights_of(query, key, visible)

    def _tokens(self, embeds: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What attention takes as queries, keys and values: (N, T, C) each."""
        value = self.norm1(embeds) if self.options.norm == "pre" else embeds
        # In double: the angle of frame 100,000 would be off by a hundredth in single precision.
        time = sine_features(times.double(), self.options.dim).to(value.dtype)
        timed = value + time
        return timed, timed, timed if self.options.position == "input" else value

    def _feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(F.relu(self.linear1(x)))
        return out
