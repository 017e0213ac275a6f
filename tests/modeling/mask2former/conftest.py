"""A small MinVIS."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.meta_arch.minvis import MinVIS


@pytest.fixture(scope="session")
def tiny(config_of) -> Callable[..., MinVIS]:
    """Builds one; overrides are keys and values."""

    def build(*overrides: str) -> MinVIS:
        torch.manual_seed(0)
        model = build_network(*config_of("quick/minvis_tiny", *overrides))
        assert isinstance(model, MinVIS)
        with torch.no_grad():  # zeros at the start hide what steers the encoder's attention
            for name, value in model.named_parameters():
                if "attention_weights" in name:
                    value.normal_(std=0.2)
        return model.eval()

    return build
