"""Multi-scale deformable attention on NVIDIA GPUs (the kernels follow in the next commits)."""

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vmt.utils.errors import OpError

CACHE_VARIABLE = "VMT_CACHE_DIR"


def cache_dir() -> Path:
    """Return the folder of compiled kernels: VMT_CACHE_DIR, otherwise ~/.cache/vmt."""
    configured = os.environ.get(CACHE_VARIABLE, "").strip()
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "vmt"


def unavailable_reason() -> str | None:
    """Return why the kernels cannot run."""
    return "the CUDA kernels are not part of this version"


def forward(
    value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Raise ``OpError``."""
    raise OpError(f"ms_deform_attn: {unavailable_reason()}.")


def backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Raise ``OpError``."""
    raise OpError(f"ms_deform_attn: {unavailable_reason()}.")
