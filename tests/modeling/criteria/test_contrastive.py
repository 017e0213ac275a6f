"""The contrastive losses against sums over pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vmt.modeling.criteria.contrastive import any_of, contrastive_loss, cosine_loss, first_of


def slow_contrastive(v: Tensor, k: Tensor, positive: Tensor, negative: Tensor) -> float:
    total = 0.0
    for a in range(len(v)):
        inner = 0.0
        for p in range(len(k)):
            for n in range(len(k)):
                if positive[a, p] and negative[a, n]:
                    inner += math.exp(float(v[a] @ k[n] - v[a] @ k[p]))
        total += math.log(1 + inner)
    return total / max(len(v), 1)


def slow_cosine(v: Tensor, k: Tensor, positive: Tensor, negative: Tensor) -> float:
    total = 0.0
    for a in range(len(v)):
        near = [p for p in range(len(k)) if positive[a, p]]
        far = [n for n in range(len(k)) if negative[a, n]][: 10 * max(len(near), 1)]
        errors = [
            (float(v[a] @ k[q] / v[a].norm() / k[q].norm()) - wanted) ** 2
            for rows, wanted in ((near, 1), (far, 0))
            for q in rows
        ]
        total += sum(errors) / max(len(errors), 1)
    return total / max(len(v), 1)


@pytest.fixture
def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Five anchors; the fourth has no positive, the last no negative."""
    generator = torch.Generator().manual_seed(0)
    anchors, queries = (torch.randn(n, 8, generator=generator).double() for n in (5, 60))
    positive = torch.rand(5, 60, generator=generator) < 0.05
    positive[3] = False
    negative = ~positive & (torch.rand(5, 60, generator=generator) < 0.9)
    negative[4] = False
    return anchors, queries, positive, negative


def test_the_closed_form_is_the_double_sum(case) -> None:
    assert float(contrastive_loss(*case)) == pytest.approx(slow_contrastive(*case), rel=1e-6)


def test_the_cosine_loss_is_its_sum(case) -> None:
    loss = cosine_loss(*case, choose=first_of)
    assert float(loss) == pytest.approx(slow_cosine(*case), rel=1e-6)


def test_the_value_of_the_published_code() -> None:
    queries = torch.tensor([[2.0], [1.0], [0.5], [-0.5], [0.0]])
    positive = torch.tensor([[True, True, False, False, False]])
    loss = contrastive_loss(torch.ones(1, 1), queries, positive, ~positive)
    assert float(loss) == pytest.approx(0.970055, abs=1e-6)


@pytest.mark.parametrize("loss", [contrastive_loss, cosine_loss])
def test_gradients(case, loss) -> None:
    anchors, queries, positive, negative = case
    arguments = anchors.requires_grad_(), queries.requires_grad_()
    extra = (first_of,) if loss is cosine_loss else ()
    assert torch.autograd.gradcheck(lambda v, k: loss(v, k, positive, negative, *extra), arguments)
    value = loss(torch.zeros(2, 8, requires_grad=True), queries.float(), positive[:2], negative[:2])
    value.backward()
    assert math.isfinite(value.item())


@pytest.mark.parametrize("loss", [contrastive_loss, cosine_loss])
def test_nothing_to_contrast_costs_nothing_and_keeps_the_graph(loss) -> None:
    queries = torch.randn(4, 3, requires_grad=True)
    for count in (0, 2):
        anchors = torch.randn(count, 3, requires_grad=True)
        pairs = torch.zeros(count, 4, dtype=torch.bool)
        value = loss(anchors, queries, pairs, pairs)
        value.backward()
        assert value.item() == 0
        assert not queries.grad.any()


def test_large_products_do_not_overflow() -> None:
    anchors, queries = torch.full((1, 4), 100.0), torch.tensor([[100.0] * 4, [-100.0] * 4])
    positive = torch.tensor([[False, True]])
    assert float(contrastive_loss(anchors, queries, positive, ~positive)) == pytest.approx(80000)
    assert float(contrastive_loss(anchors, queries, ~positive, positive)) == pytest.approx(0)


def test_the_choice_of_negatives() -> None:
    negatives = torch.arange(30) * 2
    chosen = any_of(negatives, 7)
    assert len(set(chosen.tolist())) == 7
    assert set(chosen.tolist()) <= set(negatives.tolist())
    assert first_of(negatives, 3).tolist() == [0, 2, 4]
    assert any_of(negatives, 99).sort().values.tolist() == negatives.tolist()
