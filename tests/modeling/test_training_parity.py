"""One training step of SeqFormer R50 against the published code, through our own structures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import load_module
from vmt.checkpoint.key_maps.released import RELEASED
from vmt.checkpoint.load import load_weights
from vmt.config.node import load_config
from vmt.data.datasets.categories import label_space
from vmt.modeling.meta_arch.build import build_model
from vmt.modeling.video_model import PIXEL_MEAN, PIXEL_STD
from vmt.structures.clip import ClipTargets

PARITY = Path(__file__).resolve().parents[3] / "shared" / "data" / "parity"
GOLDEN = PARITY / "golden_seqformer_r50_training.npz"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GOLDEN.is_file(), reason="no reference outputs beside the checkout"),
]
#: Gradients that are zero by theory: a bias under a softmax. The reference has rounding there.
ROUNDING = 1e-4


@dataclass
class Step:
    """What one forward and backward pass gave, and what it should give."""

    model: nn.Module
    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]  # by published name
    golden: dict[str, Any]


def synthetic_checkpoint(folder: Path) -> Path:
    module = load_module(PARITY / "synthetic_checkpoint.py")
    keys = json.loads((PARITY / "keys_seqformer_r50.json").read_text())
    path = folder / "seqformer_r50.pth"
    torch.save({"model": module.state_dict(keys, "dev-")}, path)
    return path


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Step:
    cfg = load_config(
        None,
        ["MODEL.LABEL_SPACE", "ytvis_2019_release", "MODEL.SEQFORMER.DROPOUT", "0.0"],
    )
    model = build_model(cfg, label_space(cfg.MODEL.LABEL_SPACE))
    load_weights(model, synthetic_checkpoint(tmp_path_factory.mktemp("weights")))
    model.train()
    arrays = np.load(GOLDEN)
    mean = torch.tensor(PIXEL_MEAN).view(3, 1, 1)
    std = torch.tensor(PIXEL_STD).view(3, 1, 1)
    batch = []
    while f"frames_{len(batch)}" in arrays:
        clip = {
            name: torch.from_numpy(arrays[f"{name}_{len(batch)}"])
            for name in ("frames", "labels", "boxes", "masks", "valid")
        }
        targets = ClipTargets(
            clip["labels"], clip["boxes"], clip["masks"].bool(), clip["valid"].bool(), "golden"
        )
        batch.append({"image": clip["frames"] * std + mean, "targets": targets})
    losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    golden = json.loads(GOLDEN.with_suffix(".json").read_text())
    return Step(model, losses, RELEASED.to_released(gradients).state, golden)


def test_every_loss_to_1e_4(step: Step) -> None:
    weights = step.golden["weights"]
    expected = {name: weights[name] * value for name, value in step.golden["losses"].items()}
    actual = {name: loss.item() for name, loss in step.losses.items()}
    assert actual == pytest.approx(expected, rel=1e-4)
    assert sum(actual.values()) == pytest.approx(step.golden["total"], rel=1e-4)


def test_every_gradient_norm_to_1e_3(step: Step) -> None:
    expected = step.golden["grad_norm"]
    actual = {name: step.gradients[name].norm().item() for name in expected}
    assert actual == pytest.approx(expected, rel=1e-3, abs=ROUNDING)


def test_gradients_reach_every_parameter_but_the_frozen_stages(step: Step) -> None:
    without = {
        name
        for name, p in step.model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    }
    assert without == set()
