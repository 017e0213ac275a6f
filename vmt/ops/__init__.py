"""Pure functions on tensors; each has a plain PyTorch form."""

from vmt.ops.deform_attn import ms_deform_attn

__all__ = ["ms_deform_attn"]
