"""Convolutions that have the batch norm behind them built in, with statistics that stay."""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn


class FixedNormConv(nn.Module):
    """A convolution and the batch norm behind it as one convolution.

    Statistics and scale of the norm are constants, its shift is trained: batches of clips are too
    small to learn the others.

    Args:
        conv: without bias.
        norm: behind it.
    """

    scale: Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None, "it has statistics"
        assert norm.running_var is not None, "it has statistics"
        scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        self.weight = nn.Parameter(conv.weight.detach().clone())
        self.bias = nn.Parameter(norm.bias.detach() - norm.running_mean * scale)
        self.register_buffer("scale", scale)
        self.same = isinstance(conv, Conv2dSame)
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.padding = (0, 0) if self.same else conv.padding
        self.groups = conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h', w')."""
        if self.same:
            x = pad_same(x, self.kernel_size, self.stride, self.dilation)
        weight = self.weight * self.scale[:, None, None, None]
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def fold_norms(body: nn.Module) -> int:
    """Put ``FixedNormConv`` in the place of every convolution with a batch norm behind it.

    Returns:
        Batch norms that are left.
    """
    left = 0
    for module in list(body.modules()):
        conv: tuple[str, nn.Conv2d] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                if conv is None:
                    left += 1
                    continue
                setattr(module, conv[0], FixedNormConv(conv[1], child))
                setattr(module, name, getattr(child, "act", nn.Identity()))
            if not isinstance(child, nn.Identity):
                conv = (
                    (name, child) if isinstance(child, nn.Conv2d) and child.bias is None else None
                )
    return left
