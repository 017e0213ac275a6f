"""Multi-scale deformable attention, two functions (``op.py``, ``fused.py``), three back ends."""

from vmt.ops.deform_attn.backends import BackendReport, BackendStatus, describe_backend
from vmt.ops.deform_attn.cuda import warm_up
from vmt.ops.deform_attn.fused import fused_ms_deform_attn
from vmt.ops.deform_attn.op import ms_deform_attn
from vmt.ops.deform_attn.places import sampling_places
from vmt.ops.deform_attn.reference import ms_deform_attn_reference

__all__ = [
    "BackendReport",
    "BackendStatus",
    "describe_backend",
    "fused_ms_deform_attn",
    "ms_deform_attn",
    "ms_deform_attn_reference",
    "sampling_places",
    "warm_up",
]
