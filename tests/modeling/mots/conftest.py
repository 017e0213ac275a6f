"""A small QDTrack."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.meta_arch.qdtrack import QDTrack


@pytest.fixture(scope="session")
def tiny(config_of) -> Callable[..., QDTrack]:
    """Builds one with random weights; overrides are keys and values."""

    def build(*overrides: str) -> QDTrack:
        torch.manual_seed(0)
        model = build_network(*config_of("quick/qdtrack_tiny", *overrides))
        assert isinstance(model, QDTrack)
        return model.eval()

    return build
