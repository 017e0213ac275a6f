"""Keys of the network that is trained beside the model."""

from __future__ import annotations

import pytest
import torch

from tests.config.keys.pairs import Pair, shows
from tests.synthetic import shape_clip
from vmt.engine.adversarial import AdversaryTrainer, build_adversary
from vmt.modeling.adversarial import AdversaryInput
from vmt.modeling.msts.separability import Separability

BESIDE = ("MODEL.ADVERSARY", "foreground_background", "MODEL.MSTS.ADV_RAMP_STEPS", "100")
CPU = torch.device("cpu")


def built(pair: Pair) -> list[AdversaryTrainer]:
    torch.manual_seed(0)
    adversaries = [build_adversary(cfg, CPU) for cfg in pair]
    assert all(adversaries)
    return [a for a in adversaries if a is not None]


def judged(adversary: AdversaryTrainer) -> Separability:
    assert isinstance(adversary.objective, Separability)
    return adversary.objective


def inputs_of() -> AdversaryInput:
    """One clip of two frames of 32x32 with one tracklet; memory and masks ask for gradients."""
    generator = torch.Generator().manual_seed(0)
    clip = shape_clip(2, (32, 32), 3, num_shapes=1)
    shapes = ((4, 4), (2, 2), (1, 1), (1, 1))
    memory = torch.randn(2, 22, 32, generator=generator).requires_grad_()
    masks = torch.randn(1, 2, 8, 8, generator=generator).requires_grad_()
    return AdversaryInput(
        torch.randn(2, 3, 32, 32, generator=generator), memory, shapes, None,
        [masks], [clip["targets"]], [torch.tensor([0])], 1.0,
    )  # fmt: skip


@shows("MODEL.ADVERSARY", "foreground_background")
def test_adversary(pair: Pair) -> None:
    assert [build_adversary(cfg, CPU) is None for cfg in pair] == [True, False]


@shows("MODEL.MSTS.ADV_WEIGHT", 0.25, *BESIDE)
def test_weight_behind_the_ramp(pair: Pair) -> None:
    weights = []
    for adversary in map(judged, built(pair)):
        adversary.begin_step(100)
        weights.append(adversary.current_weight)
    assert weights == pytest.approx([0.1, 0.25])


@shows("MODEL.MSTS.ADV_RAMP_STEPS", 10, *BESIDE)
def test_ramp(pair: Pair) -> None:
    weights = []
    for adversary in map(judged, built(pair)):
        adversary.begin_step(5)
        weights.append(adversary.current_weight)
    assert weights == pytest.approx([0.1 * 5 / 100, 0.1 * 5 / 10])
