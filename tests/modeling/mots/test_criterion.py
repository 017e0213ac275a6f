"""Quasi-dense losses against sums over pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vmt.modeling.mots.criterion import (
    RELEASED_MARGIN,
    EmbeddingPair,
    QuasiDenseCriterion,
    auxiliary_loss,
)
from vmt.utils.errors import ConfigError


def pair(seed: int, key: list[int], reference: list[int]) -> EmbeddingPair:
    generator = torch.Generator().manual_seed(seed)
    embeddings = (
        torch.randn(len(tracks), 6, generator=generator).double() for tracks in (key, reference)
    )
    first, second = embeddings
    return EmbeddingPair(first, torch.tensor(key), second, torch.tensor(reference))


def slow_contrastive(case: EmbeddingPair) -> float:
    """log(1 + sum over positives and negatives), the mean over keys with a positive."""
    losses = []
    for v, track in zip(case.key, case.key_track.tolist(), strict=True):
        rows = list(zip(case.reference, case.reference_track.tolist(), strict=True))
        near = [k for k, other in rows if other == track]
        far = [k for k, other in rows if other != track]
        total = sum(math.exp(float(v @ n - v @ p)) for p in near for n in far)
        if near:
            losses.append(math.log(1 + total))
    return sum(losses) / max(len(losses), 1)


def slow_released(case: EmbeddingPair) -> float:
    near, far = [], []
    for v, track in zip(case.key, case.key_track.tolist(), strict=True):
        for k, other in zip(case.reference, case.reference_track.tolist(), strict=True):
            cosine = float(v @ k / v.norm() / k.norm())
            if track == other:
                near.append((min(max(cosine, 0), 1) - 1) ** 2)
            else:
                far.append(min(max(cosine - RELEASED_MARGIN, 0), 1) ** 2)
    far = sorted(far, reverse=True)[: 3 * len(near)]
    return sum(near + far) / max(len(near + far), 1)


CASES = [
    pair(0, [0, 0, 1, 2], [0, 1, 1, -1, -1, -1, 0, -1]),
    pair(1, [3, 4], [-1, 3]),  # one that the reference frame does not show
    pair(2, [5], [5, 5]),  # no negative
]


def test_losses_are_their_sums() -> None:
    criterion = QuasiDenseCriterion(0.25, 1.5, released=True)
    losses = criterion(CASES)
    contrastive = 0.25 * sum(map(slow_contrastive, CASES)) / 3
    auxiliary = 1.5 * sum(map(slow_released, CASES)) / 3
    assert float(losses["loss_track"]) == pytest.approx(contrastive, abs=1e-6)
    assert float(losses["loss_track_aux"]) == pytest.approx(auxiliary, abs=1e-6)
    assert contrastive > 0.1
    assert auxiliary > 0.1


def test_the_paper_takes_any_negatives_as_they_are() -> None:
    """Where there are fewer than three per positive, all of them count."""
    case = pair(3, [0, 1], [0, 1, -1])
    same = case.key_track[:, None] == case.reference_track[None]
    cosines = torch.nn.functional.cosine_similarity(case.key[:, None], case.reference[None], dim=2)
    expected = (cosines - same.double()).square().mean()
    loss = auxiliary_loss(case.key, case.reference, same)
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    assert float(cosines.min()) < 0  # which the released one takes for 0


def test_three_negatives_per_positive() -> None:
    """Orthogonal embeddings but one negative, which is there or not."""
    key, reference = torch.eye(8)[:1], torch.eye(8)[[1] * 9 + [0]]
    same = torch.zeros(1, 10, dtype=torch.bool)
    same[0, 0] = True
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        seen.add(round(float(auxiliary_loss(key, reference, same)), 6))
    assert seen == {0.25, 0.5}  # (1 + 0) / 4 and (1 + 1) / 4
    hard = auxiliary_loss(key, reference, same, released=True)
    assert float(hard) == pytest.approx((1 + (1 - RELEASED_MARGIN) ** 2) / 4)


@pytest.mark.parametrize("released", [False, True])
def test_nothing_in_common_costs_nothing(released: bool) -> None:
    for key, reference in (([], [-1, -1]), ([0], [1, -1]), ([], [])):
        case = pair(0, key, reference)
        first, second = (x.detach().requires_grad_() for x in (case.key, case.reference))
        case = EmbeddingPair(first, case.key_track.long(), second, case.reference_track.long())
        losses = QuasiDenseCriterion(released=released)([case])
        assert [value.item() for value in losses.values()] == [0, 0]
        sum(losses.values(), torch.zeros(())).backward()
        assert all(x.grad is not None and not x.grad.any() for x in (first, second))


def test_weights_below_zero() -> None:
    with pytest.raises(ConfigError, match=r"MODEL.MOTS.AUXILIARY_WEIGHT is -1"):
        QuasiDenseCriterion(auxiliary_weight=-1)


def test_gradients() -> None:
    case = CASES[0]

    def total(key: Tensor, reference: Tensor) -> Tensor:
        changed = EmbeddingPair(key, case.key_track, reference, case.reference_track)
        losses = QuasiDenseCriterion(released=True)([changed])
        return losses["loss_track"] + losses["loss_track_aux"]

    inputs = case.key.clone().requires_grad_(), case.reference.clone().requires_grad_()
    assert torch.autograd.gradcheck(total, inputs)
