"""The feed-forward part of a post-norm transformer layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vmt.ops.linear import linear
from vmt.ops.strips import values_at_once


class FeedForward(nn.Module):
    """Base of layers that end in LN(x + W2 ReLU(W1 x)); they make the four modules themselves."""

    linear1: nn.Linear
    linear2: nn.Linear
    norm2: nn.LayerNorm
    drop: nn.Dropout

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C); without gradient as many tokens at once as caches hold."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._all_at_once(x)
        tokens = x.reshape(-1, x.shape[-1])
        step = max(values_at_once(x.device) // (2 * self.linear1.out_features), 1)
        if step >= len(tokens):
            return self._all_at_once(x)
        out = torch.cat([self._all_at_once(part) for part in tokens.split(step)])
        return out.view(x.shape)

    def _all_at_once(self, x: Tensor) -> Tensor:
        hidden = self.drop(linear(x, self.linear1.weight, self.linear1.bias, relu=True))
        out: Tensor = self.norm2(
            x + self.drop(linear(hidden, self.linear2.weight, self.linear2.bias))
        )
        return out
