"""What frame models tell an association in training, against loops."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vmt.modeling.criteria.contrastive import NEGATIVES, Contrast, association_losses, first_of
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.ota import OtaMatch, SimOta
from vmt.modeling.frame_training import TrainedFrame, contrast, pairs_by_box, stand_ins
from vmt.structures.frame_targets import FrameTargets

QUERIES, CLASSES, DIM = 12, 3, 5
#: Knows where the objects are as networks with boxes do.
MODEL: Any = SimpleNamespace(reference_pairs=lambda frame: pairs_by_box(SimOta(), frame))
HEAD = nn.Identity()


def frame(slots: list[int], seed: int) -> TrainedFrame:
    """Twelve queries, whose boxes lie around those of the objects, or anywhere without any."""
    torch.manual_seed(seed)
    count = len(slots)
    boxes_gt = torch.rand(count, 4) * 0.4 + 0.3
    boxes = boxes_gt.repeat(QUERIES, 1)[:QUERIES] if count else torch.rand(QUERIES, 4)
    target = FrameTargets(
        torch.randint(CLASSES, (count,)),
        boxes_gt,
        torch.zeros(count, 4, 4, dtype=torch.bool),
        track=torch.tensor(slots, dtype=torch.int64),
        num_tracks=4,
    )
    return TrainedFrame(
        torch.randn(QUERIES, DIM),
        torch.randn(QUERIES, CLASSES),
        boxes + torch.randn(QUERIES, 4) * 0.06,
        torch.zeros(1),
        None,
        torch.randperm(QUERIES)[:count],
        torch.zeros(QUERIES, dtype=torch.bool),
        target,
    )


def slow_association(pairs: list[tuple[TrainedFrame, TrainedFrame]]) -> tuple[float, float]:
    contrasts, cosines = [], []
    for key, reference in pairs:
        positive, excluded = pairs_by_box(SimOta(), reference)
        for row, slot in enumerate(key.target.slots.tolist()):
            if slot not in reference.target.slots.tolist():
                continue
            g = reference.target.slots.tolist().index(slot)
            anchor = key.embeds[key.best[row]]
            near = [q for q in range(QUERIES) if positive[g, q]]
            far = [q for q in range(QUERIES) if not excluded[g, q]]
            dots = [float(anchor @ embedding) for embedding in reference.embeds]
            contrasts.append(
                math.log(1 + sum(math.exp(dots[n] - dots[p]) for p in near for n in far))
            )
            norms = [float(anchor.norm() * embedding.norm()) for embedding in reference.embeds]
            cosine = [dot / norm for dot, norm in zip(dots, norms, strict=True)]
            errors = [(cosine[q] - 1) ** 2 for q in near]
            errors += [cosine[q] ** 2 for q in far[: NEGATIVES * max(len(near), 1)]]
            cosines.append(sum(errors) / len(errors))
    return sum(contrasts) / len(contrasts), sum(cosines) / len(cosines)


def test_losses_of_embeddings_are_those_of_the_loops() -> None:
    """Objects of the reference frame alone are there, and no anchors; one pair shares nothing."""
    pairs = [
        (frame([0, 1], 0), frame([0, 1], 1)),
        (frame([2], 2), frame([3], 3)),
        (frame([0, 1, 3], 4), frame([1, 2, 3], 5)),
        (frame([0], 6), frame([], 7)),
    ]
    losses = association_losses(
        [contrast(MODEL, HEAD, key, reference) for key, reference in pairs], choose=first_of
    )
    both, cosine = slow_association(pairs)
    assert float(losses["loss_reid"]) == pytest.approx(both, rel=1e-5)
    assert float(losses["loss_reid_aux"]) == pytest.approx(cosine, rel=1e-5)


def test_without_anchors_there_is_nothing_to_learn() -> None:
    queries = torch.randn(QUERIES, DIM).requires_grad_()
    nobody = torch.zeros(0, QUERIES, dtype=torch.bool)
    empty = [Contrast(queries[:0], queries, nobody, nobody)]
    losses = association_losses(empty)
    assert {name: float(value.detach()) for name, value in losses.items()} == {
        "loss_reid": 0, "loss_reid_aux": 0,
    }  # fmt: skip
    torch.stack(list(losses.values())).sum().backward()
    assert queries.grad is not None
    assert set(association_losses(empty, cosine=False)) == {"loss_reid"}
    assert association_losses([]) == {}


def index(*values: int) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("match", "best"),
    [
        (Match(index(1, 4), index(2, 0)), [4, -1, 1]),
        (OtaMatch(index(1, 2, 4), index(2, 2, 0), index(4, 0, 2)), [4, -1, 2]),
    ],
)
def test_who_stands_for_an_object(match: Match | OtaMatch, best: list[int]) -> None:
    """An object without a query, of which there are too few, has none."""
    found, assigned = stand_ins(match, 6, 3)
    assert found.tolist() == best
    assert assigned.nonzero()[:, 0].tolist() == match.query_index.tolist()


def test_objects_without_a_query_are_no_anchors() -> None:
    key, reference = frame([0, 1], 0), frame([0, 1], 1)
    key.best[0] = -1
    found = contrast(MODEL, HEAD, key, reference)
    assert torch.equal(found.anchors, key.embeds[key.best[1:]])
    assert torch.equal(found.positive, MODEL.reference_pairs(reference).positive[1:])
