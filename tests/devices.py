"""Devices on which a test runs: the CPU always, a GPU with ``pytest -m cuda``."""

from __future__ import annotations

import pytest
import torch

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
#: On the CPU the comparison is one of the network with itself: what runs on GPUs alone would break.
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, NO_GPU])]


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Intersection over union of two sets of pixels, in [0, 1]; 1 for two empty ones."""
    union = (one | other).sum().item()
    return (one & other).sum().item() / union if union else 1.0
