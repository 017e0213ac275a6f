"""Query selection, against loops."""

from __future__ import annotations

import pytest
import torch

from vmt.modeling.maskdino.heads import Heads
from vmt.modeling.maskdino.proposals import QuerySelection, first_anchors, prior_boxes
from vmt.structures.boxes import inverse_sigmoid

CPU = torch.device("cpu")
SHAPES = ((2, 3), (1, 2))


def test_prior_boxes_grow_with_the_level() -> None:
    slow = [
        [(x + 0.5) / w, (y + 0.5) / h, 0.05 * 2**level, 0.05 * 2**level]
        for level, (h, w) in enumerate(SHAPES)
        for y in range(h)
        for x in range(w)
    ]
    torch.testing.assert_close(prior_boxes(SHAPES, CPU), torch.tensor(slow))


def test_the_best_tokens_become_queries() -> None:
    torch.manual_seed(0)
    selection, heads = QuerySelection(32, 3), Heads(32, 4, 8)
    torch.nn.init.normal_(heads.box.layers[2].weight)
    memory = torch.randn(2, 8, 32)
    out = selection(memory, SHAPES, heads)
    prior = prior_boxes(SHAPES, CPU)
    for frame in range(2):
        features = [selection.norm(selection.linear(token)) for token in memory[frame]]
        best = [heads.cls(feature).max().item() for feature in features]
        chosen = sorted(range(8), key=lambda token: -best[token])[:3]
        assert out.token[frame].tolist() == chosen
        for rank, token in enumerate(chosen):
            torch.testing.assert_close(out.content[frame, rank], features[token])
            box = (heads.box(features[token]) + torch.logit(prior[token])).sigmoid()
            torch.testing.assert_close(out.boxes[frame, rank], box)
            logits = heads.cls(heads.norm(features[token]))
            torch.testing.assert_close(out.logits[frame, rank], logits)


def test_tokens_with_boxes_near_the_border_of_the_numbers_are_blank() -> None:
    """On level 5 the prior side is 1.6, beyond 0.99."""
    torch.manual_seed(0)
    selection, heads = QuerySelection(32, 6), Heads(32, 4, 8)
    memory = torch.randn(1, 6, 32)
    out = selection(memory, ((1, 1),) * 6, heads)
    place = out.token[0].tolist().index(5)
    torch.testing.assert_close(
        out.content[0, place], selection.norm(selection.linear(torch.zeros(32)))
    )
    assert out.boxes[0, place].tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("box_init", "of_mask", "of_nothing"),
    [
        ("regressed", [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]),
        # columns 2 to 4 of 8, rows 1 to 2 of 4
        ("mask", [3.5 / 8, 2 / 4, 3 / 8, 2 / 4], [0.5, 0.5, 0.5, 0.5]),
        ("bitmask", [3.5 / 8, 2 / 4, 3 / 8, 2 / 4], [0, 0, 0, 0]),
        ("mask2box", [3 / 8, 1.5 / 4, 2 / 8, 1 / 4], [1, 1, 0, 0]),
    ],
)
def test_first_anchors(box_init: str, of_mask: list[float], of_nothing: list[float]) -> None:
    masks = torch.full((1, 2, 4, 8), -1.0)
    masks[0, 0, 1:3, 2:5] = 1.0
    anchors = first_anchors(torch.zeros(1, 2, 4), masks, box_init)
    expected = torch.tensor([of_mask, of_nothing], dtype=torch.float32)
    torch.testing.assert_close(anchors[0], inverse_sigmoid(expected), atol=1e-5, rtol=1e-5)
    assert not anchors.requires_grad
