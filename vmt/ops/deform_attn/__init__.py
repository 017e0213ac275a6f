"""Multi-scale deformable attention: one function, three back ends (see ``op.py``)."""

from vmt.ops.deform_attn.cuda import warm_up
from vmt.ops.deform_attn.op import (
    BackendReport,
    BackendStatus,
    describe_backend,
    ms_deform_attn,
)
from vmt.ops.deform_attn.reference import ms_deform_attn_reference

__all__ = [
    "BackendReport",
    "BackendStatus",
    "describe_backend",
    "ms_deform_attn",
    "ms_deform_attn_reference",
    "warm_up",
]
