"""Keys of the network that is trained beside the model."""

from __future__ import annotations

import math

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


@shows("MODEL.MSTS.ADV_THROUGH_FEATURES", False, *BESIDE)
def test_gradient_through_features(pair: Pair) -> None:
    reached = []
    for adversary in map(judged, built(pair)):
        adversary.begin_step(100)
        seen = inputs_of()
        adversary.losses(seen)["loss_adversarial"].backward()
        reached.append([t.grad is not None for t in (seen.memory, seen.mask_logits[0])])
    assert reached == [[True, True], [False, True]]


@shows("MODEL.MSTS.ADV_REAL_LABEL", 0.7, *BESIDE)
def test_real_label(pair: Pair) -> None:
    """A discriminator that always says 2: half of softplus(2) - 2 label, and of softplus(2)."""
    found = []
    for adversary in map(judged, built(pair)):
        adversary.network.forward = lambda image, *_: torch.full((len(image), 1, 1, 1), 2.0)
        found.append(float(adversary.own_loss(inputs_of())))
    softplus = math.log(1 + math.exp(2))
    assert found == pytest.approx([softplus - 0.9, softplus - 0.7], rel=1e-5)


@shows("MODEL.MSTS.ADV_LR", 3e-3, *BESIDE)
def test_learning_rate(pair: Pair) -> None:
    assert [a.optimizer.param_groups[0]["lr"] for a in built(pair)] == [1e-4, 3e-3]


@shows("MODEL.MSTS.ADV_BETAS", [0.1, 0.2], *BESIDE)
def test_betas(pair: Pair) -> None:
    assert [a.optimizer.param_groups[0]["betas"] for a in built(pair)] == [(0.5, 0.999), (0.1, 0.2)]


@shows("MODEL.MSTS.ADV_CLIP", 1e-3, *BESIDE)
def test_gradient_limit(pair: Pair) -> None:
    for adversary, limit in zip(built(pair), (1.0, 1e-3), strict=True):
        adversary.begin_step(0, 1.0)
        adversary.begin_part(1.0, last=True)
        adversary(inputs_of())
        gradients = [p.grad for p in adversary.objective.parameters() if p.grad is not None]
        norm = float(torch.cat([g.flatten() for g in gradients]).norm())
        before = adversary.numbers()["adversary/gradient_norm"]
        assert before > 1e-2, "the limit of one case, not of the other"
        assert norm == pytest.approx(min(before, limit), rel=1e-3)
