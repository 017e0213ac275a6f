"""Temporal attention refinement: one layer of attention among the embeddings of a tracklet.

Source: RefineVIS, arXiv:2306.04774, section 3.3 and Eq. 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


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
    """

    dim: int = 256
    num_heads: int = 8
    ffn_dim: int = 2048
    window: int = 10
    norm: str = "pre"
    position: str = "input"


class TAR(nn.Module):
    """Attention and feed-forward part, once, inside each tracklet.

    Args:
        options: see ``TAROptions``.
    """

    def __init__(self, options: TAROptions) -> None:
        super().__init__()
        self.options = options

    def forward(
        self, embeds: Tensor, times: Tensor, readable: Tensor | None = None, last_only: bool = False
    ) -> Tensor:
        """Refine N tracklets.

        Args:
            embeds: (N, T, C); zero where a tracklet was missed.
            times: (N, T) or (T,) int64, frame index in the video.
            readable: (N, T) bool, False in places outside the video or before the tracklet began;
                None: all are.
            last_only: only the last frame asks; the others are read.

        Returns:
            (N, T, C), or (N, 1, C) with ``last_only``.
        """
        raise NotImplementedError
