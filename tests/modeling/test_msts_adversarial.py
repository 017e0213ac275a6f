"""The discriminator and its step: who learns from what, unions of masks, ramp, toy problem."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.engine.clips import make_trainer, quick_config
from vmt.engine.adversarial import AdversaryTrainer
from vmt.modeling.adversarial import AdversaryInput
from vmt.modeling.msts import separability
from vmt.modeling.msts.discriminator import Discriminator
from vmt.modeling.msts.separability import (
    EASY_STEPS,
    Separability,
    cell_weights,
    encoder_maps,
    images,
    predicted_union,
    true_union,
)
from vmt.structures.clip import ClipTargets

SMALL = ("MODEL.SEQFORMER.HIDDEN_DIM", "32", "MODEL.SEQFORMER.NUM_QUERIES", "6")
SIZE = (72, 104)  # of the frames before padding to 96 x 128
SHAPES = ((12, 16), (6, 8), (3, 4), (2, 2))
DIM = 8


def square(top: int, side: int) -> Tensor:
    mask = torch.zeros(1, 2, *SIZE, dtype=torch.bool)
    mask[:, :, top : top + side, 10 : 10 + side] = True
    return mask


def targets(*masks: Tensor) -> ClipTargets:
    together = torch.cat(masks) if masks else torch.zeros(0, 2, *SIZE, dtype=torch.bool)
    number = len(together)
    return ClipTargets(
        torch.zeros(number, dtype=torch.int64),
        torch.full((number, 2, 4), 0.5),
        together,
        together.flatten(2).any(-1),
    )


def inputs_of(*clips: ClipTargets, requires_grad: bool = False) -> AdversaryInput:
    """Two frames per clip, padded on the right and below; predictions at random."""
    generator = torch.Generator().manual_seed(0)
    n = 2 * len(clips)
    padding = []
    for (h, w), stride in zip(SHAPES, (8, 16, 32, 64), strict=True):
        level = torch.zeros(n, h, w, dtype=torch.bool)
        level[:, -(-SIZE[0] // stride) :] = True
        level[:, :, -(-SIZE[1] // stride) :] = True
        padding.append(level.flatten(1))
    memory = torch.randn(n, sum(h * w for h, w in SHAPES), DIM, generator=generator)
    masks = [torch.randn(len(c), 2, 24, 32, generator=generator) for c in clips]
    for tensor in (memory, *masks):
        tensor.requires_grad_(requires_grad)
    return AdversaryInput(
        torch.randn(n, 3, 96, 128, generator=generator),
        memory,
        SHAPES,
        torch.cat(padding, dim=1),
        masks,
        list(clips),
        [torch.arange(len(c)) for c in clips],
        max(sum(map(len, clips)), 1.0),
    )


def objective(**options) -> Separability:
    torch.manual_seed(0)
    made = Separability(DIM, **options)
    made.begin_step(10**6)
    return made


TWO = (targets(square(5, 30), square(20, 40)), targets(square(0, 20)))


# --- what the discriminator sees ---------------------------------------------------------------


def test_unions_equal_loops_over_cells() -> None:
    shown = inputs_of(*TWO)
    truth, predicted = true_union(shown), predicted_union(shown)
    assert truth.shape == predicted.shape == (4, 1, 12, 16)
    for frame in range(2):
        for row, column in ((0, 1), (1, 2), (5, 3), (7, 6), (11, 15)):
            rows, columns = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
            covered = sum(
                bool(TWO[0].masks[:, frame, y, x].any())
                for y in range(*rows.indices(SIZE[0]))
                for x in range(*columns.indices(SIZE[1]))
            )
            assert truth[frame, 0, row, column].item() == pytest.approx(covered / 64)
            background = 1 - shown.mask_logits[0][:, frame].sigmoid()
            cells = 1 - background.prod(0)[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected = cells.mean().item() if row < 9 and column < 13 else 0.0
            assert predicted[frame, 0, row, column].item() == pytest.approx(expected, abs=1e-5)


def test_padding_is_zero_and_does_not_count() -> None:
    shown = inputs_of(*TWO)
    valid = torch.zeros(12, 16)
    valid[:9, :13] = 1
    for maps in (images(shown), encoder_maps(shown)[0], predicted_union(shown)):
        assert (maps * (1 - valid) == 0).all()
    weights = cell_weights(shown)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights[:, :, 3:] == 0).all()
    # two of three tracklets are in the first clip
    assert weights[:2].sum() == pytest.approx(2 / 3)


def test_a_mask_certain_of_itself_has_a_finite_gradient() -> None:
    shown = inputs_of(*TWO)
    logits = [torch.full_like(m, 90.0).requires_grad_() for m in shown.mask_logits]
    union = predicted_union(dataclasses.replace(shown, mask_logits=logits))
    union.sum().backward()
    assert all(torch.isfinite(m.grad).all() for m in logits)


@pytest.mark.parametrize(("size", "expected"), [((45, 80), (12, 20)), ((36, 64), (9, 16))])
def test_sizes_of_the_score_map(size: tuple[int, int], expected: tuple[int, int]) -> None:
    h, w = size
    maps = [torch.randn(1, 8, -(-h // d), -(-w // d)) for d in (1, 2, 4)]
    network = Discriminator(8)
    scores = network(torch.randn(1, 3, h, w), maps, torch.rand(1, 1, h, w))
    assert scores.shape == (1, 1, *expected)
    scores.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


# --- who learns from what ----------------------------------------------------------------------


def test_the_discriminators_loss_reaches_the_discriminator_alone() -> None:
    shown, adversary = inputs_of(*TWO, requires_grad=True), objective()
    adversary.own_loss(shown).backward()
    assert all(p.grad.abs().sum() > 0 for p in adversary.parameters())
    assert shown.memory.grad is None
    assert all(m.grad is None for m in shown.mask_logits)


def test_the_models_loss_reaches_the_model_alone() -> None:
    shown = inputs_of(*TWO, requires_grad=True)
    adversary = objective()
    adversary.losses(shown)["loss_adversarial"].backward()
    assert all(p.grad is None for p in adversary.parameters())
    assert all(m.grad.abs().sum() > 0 for m in shown.mask_logits)
    numbers = adversary.numbers()
    assert numbers["gradient_features"] > 0
    assert numbers["gradient_masks"] > 0
    cells = sum(h * w for h, w in SHAPES[:3])
    assert (shown.memory.grad[:, cells:] == 0).all(), "the coarsest level is not shown"
    assert (shown.memory.grad[shown.padding_mask] == 0).all()


def test_own_step_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is judged by the discriminator as its step of this iteration left it."""
    shown = inputs_of(*TWO)
    monkeypatch.setattr(separability, "LR", 0.01)
    trainer = AdversaryTrainer(objective())
    before = trainer.objective.losses(shown)["loss_adversarial"]
    trainer.begin_step(10**6, 1.0)
    trainer.begin_part(1.0, last=True)
    said = trainer(shown)["loss_adversarial"]
    assert said != before
    assert said == trainer.objective.losses(shown)["loss_adversarial"]
    assert said > before, "it has learnt what a prediction is"


def test_a_training_step_moves_both_and_mixes_nothing() -> None:
    """With its weight at zero the model's step is that without a discriminator, to the bit."""
    ends = []
    for options in (("MODEL.MSTS.ADV_WEIGHT", "0.0"), ("MODEL.ADVERSARY", "none")):
        trainer = make_trainer(quick_config("msts_tiny", *SMALL, *options), 1)
        adversary = trainer.adversary
        start = None if adversary is None else adversary.state()["objective"]
        trainer.train()
        ends.append(trainer.model.state_dict())
        if adversary is not None:
            end = adversary.state()["objective"]
            assert all(not torch.equal(start[k], v) for k, v in end.items())
            assert trainer.last.adversary["adversary/loss"] > 0
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


# --- ramp, labels, safety ----------------------------------------------------------------------


def test_the_weight_ramps_up_from_zero() -> None:
    adversary = objective(weight=0.2, ramp_steps=100)
    found = []
    for step in (0, 25, 100, 5000):
        adversary.begin_step(step)
        found.append(adversary.current_weight)
    assert found == pytest.approx([0.0, 0.05, 0.2, 0.2])
    assert objective(weight=0.2, ramp_steps=0).current_weight == 0.2


def test_own_loss_is_half_of_both_cross_entropies() -> None:
    shown, adversary = inputs_of(*TWO), objective()
    maps, weights = encoder_maps(shown), cell_weights(shown)
    real = adversary.network(images(shown), maps, true_union(shown)).sigmoid()
    fake = adversary.network(images(shown), maps, predicted_union(shown)).sigmoid()
    expected = -(0.9 * real.log() + 0.1 * (1 - real).log() + (1 - fake).log()) / 2
    torch.testing.assert_close(adversary.own_loss(shown), (weights * expected).sum())
    adversary.weight, adversary.ramp_steps = 0.1, 0
    said = adversary.losses(shown)["loss_adversarial"]
    torch.testing.assert_close(said, -0.1 * (weights * fake.log()).sum())


def test_without_a_tracklet_nothing_moves() -> None:
    trainer = AdversaryTrainer(objective())
    start = trainer.state()["objective"]
    trainer.begin_step(10**6, 1.0)
    trainer.begin_part(1.0, last=True)
    said = trainer(inputs_of(targets(), targets()))
    assert said["loss_adversarial"] == 0
    end = trainer.state()["objective"]
    assert all(torch.equal(start[name], value) for name, value in end.items())


def test_a_discriminator_that_never_errs_is_silent_until_it_does(caplog) -> None:
    adversary = objective()
    least = F.binary_cross_entropy(torch.tensor(0.9), torch.tensor(0.9)).item() / 2
    for _ in range(EASY_STEPS - 1):
        assert adversary.end_step(least + 0.01)
    assert adversary.current_weight > 0
    assert not adversary.end_step(least + 0.01)
    assert adversary.current_weight == 0
    assert "without effort for 200 steps" in caplog.text
    resumed = objective()
    resumed.load_extra(adversary.extra())
    assert resumed.current_weight == 0
    assert adversary.end_step(least + 0.06)
    assert adversary.current_weight > 0


# --- it learns ---------------------------------------------------------------------------------


def test_toy_problem() -> None:
    """It learns to tell noise from squares; masks that learn to fool it come to look like them."""
    torch.manual_seed(0)
    shown = inputs_of(*TWO)
    trainer = AdversaryTrainer(objective(lr=1e-3, weight=1.0, ramp_steps=0))
    own, fooled = [], []
    masks = [nn.Parameter(m.clone()) for m in shown.mask_logits]
    shown = dataclasses.replace(shown, mask_logits=masks)
    for step in range(110):
        trainer.begin_step(step, 1.0)
        trainer.begin_part(1.0, last=True)
        trainer(shown)
        own.append(trainer.numbers()["adversary/loss"])
    assert own[-1] < 0.5 * own[0]
    optimizer = torch.optim.Adam(masks, lr=0.1)
    for _ in range(80):  # the discriminator rests
        loss = trainer.objective.losses(shown)["loss_adversarial"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        fooled.append(loss.item())
    assert fooled[-1] < 0.7 * fooled[0]
