"""Small networks and clips."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vmt.config.node import load_config
from vmt.data.datasets.categories import label_space
from vmt.modeling.meta_arch.build import build_model
from vmt.modeling.meta_arch.vmt import VideoMaskTransfiner


@pytest.fixture(scope="session")
def config_of(repo) -> Callable:
    def read(name: str, *overrides: str):
        cfg = load_config(repo / "configs" / f"{name}.yaml", overrides)
        return cfg, label_space(cfg.MODEL.LABEL_SPACE)

    return read


@pytest.fixture(scope="session")
def tiny(config_of) -> Callable[..., VideoMaskTransfiner]:
    """A small network whose random weights give masks with edges."""

    def build(name: str = "quick/vmt_tiny_released", *overrides: str) -> VideoMaskTransfiner:
        torch.manual_seed(0)
        return build_model(*config_of(name, *overrides)).eval()

    return build


@pytest.fixture
def clip() -> torch.Tensor:
    """(4, 3, 70, 102) uint8: a bright square that moves over noise; odd map sizes."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 120, (4, 3, 70, 102), generator=generator, dtype=torch.uint8)
    for t in range(4):
        frames[t, :, 20:50, 20 + 6 * t : 55 + 6 * t] = 220
    return frames
