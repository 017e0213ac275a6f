"""Pure functions on tensors; each has a plain PyTorch form."""

from vmt.ops.deform_attn import fused_ms_deform_attn, ms_deform_attn, sampling_places

__all__ = ["fused_ms_deform_attn", "ms_deform_attn", "sampling_places"]
