"""A small IDOL."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.meta_arch.idol import IDOL

MOVED = ("heads.cls", "heads.box", "masks.controller")


@pytest.fixture(scope="session")
def tiny(config_of) -> Callable[..., IDOL]:
    """Builds one whose queries differ from each other; overrides are keys and values."""

    def build(*overrides: str) -> IDOL:
        torch.manual_seed(0)
        fixed = ("MODEL.CONDINST.DROPOUT", "0.0", *overrides)
        model = build_network(*config_of("quick/idol_tiny", *fixed))
        assert isinstance(model, IDOL)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():  # zeros at the start hide what moves boxes and steers attention
            for name, value in model.named_parameters():
                if name.startswith(MOVED) or "attention_weights" in name:
                    value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
        return model.eval()

    return build
