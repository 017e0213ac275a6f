"""Attention within sequences that lie one after another: one launch on a GPU.

PyTorch has such kernels, but no public function that reaches all of them: ``varlen_attn`` takes
half types alone, and nested tensors cost the host milliseconds a call. So what
``scaled_dot_product_attention`` calls itself is called here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from vmt.utils.device import to_device

#: Widths of heads that the kernels take are multiples of this, and no wider than that.
WIDTH_STEP, WIDEST = 8, 256
#: Compute capability from which there is FlashAttention, for half types.
FLASH_CAPABILITY = (8, 0)
HALF_TYPES = (torch.float16, torch.bfloat16)


def has_varlen_attention(device: torch.device, width: int) -> bool:
    """Whether ``varlen_attention`` runs.

    Args:
        device: only NVIDIA GPUs have the kernels.
        width: of a head, in channels.
    """
    on_gpu = device.type == "cuda" and torch.version.hip is None
    return on_gpu and width % WIDTH_STEP == 0 and width <= WIDEST


def has_flash(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether FlashAttention takes these numbers there; the other kernel takes all."""
    if dtype not in HALF_TYPES or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(q k' scale) v among the tokens of each sequence.

    Args:
        query: (1, M, P, D), of one type with the others.
        key: (1, M, P, D).
        value: (1, M, P, D).
        lengths: of the sequences along P, none 0; they add up to P.
        scale: of the scores.
        dropout: on the weights.

    Returns:
        (1, M, P, D).
    """
    longest = max(lengths)
    # ends of sequences; the host does not wait for the copy
    ends = to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), query.device)
    tokens = [x.transpose(1, 2) for x in (query, key, value)]  # (1, P, M, D)
    if has_flash(query.dtype, query.device):
        out = torch.ops.aten._flash_attention_forward(
            *(x[0] for x in tokens), ends, ends, longest, longest, dropout, False, False,
            scale=scale,
        )[0][None]  # fmt: skip
    else:
        with_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in tokens)
        out = torch.ops.aten._efficient_attention_forward(
            *tokens, None, ends, ends, longest, longest, dropout, 0, with_gradient, scale=scale
        )[0]
    read: Tensor = out.transpose(1, 2)
    return read
