"""What refiners read of given masks, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.config.keys.pairs import Pair, network
from tests.config.keys.test_mask_refiner_keys import GIVEN, clip


def refiner_input(masks: torch.Tensor | None = None, *overrides: str) -> Any:
    """For masks in two frames of 96x128, if not those of ``clip``."""
    base, _ = Pair("OUTPUT_DIR", "x", GIVEN).configs(*overrides)
    net, seen = network(base).eval(), []
    net.refiner.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    data = clip()
    with torch.no_grad():
        next(net.refine_tubes(data["image"], data["coarse"] if masks is None else masks))
    return seen[0]


def test_centres_lie_in_the_middle_of_the_mask() -> None:
    """A cut-out of 96x128 pixels around a mask that is wider than high."""
    masks = torch.zeros(1, 2, 96, 128, dtype=torch.bool)
    masks[..., 40:60, 20:90] = True
    inputs = refiner_input(masks)
    assert inputs.frame_size == (96, 128)
    # the window begins at row 50 - 48 = 2 and column 55 - 64 = -9
    assert inputs.centres_px[0, 0].tolist() == pytest.approx([55 + 9, 50 - 2])
    expected = [64 / 128, 48 / 96, 70 / 128, 20 / 96]
    assert inputs.boxes_cxcywh[0, 0].tolist() == pytest.approx(expected)


def test_coarse_masks_stand_for_logits() -> None:
    """4 where a cell lies inside, -4 outside, linear in between."""
    inputs = refiner_input()
    logits = inputs.coarse_logits[0, 0]
    assert logits.shape == (12, 12)
    # rows 40 to 60, columns 20 to 40; 96 px around (50, 30) begin at 2 and -18: 38 to 58 of either
    assert logits[5, 5] == 4
    assert logits[0, 0] == -4
    assert logits[4, 5] == pytest.approx(4 * (2 * 2 / 8 - 1))


@pytest.mark.parametrize(("name", "levels"), [("MaskRefiner", 3), ("QueryMaskRefiner", 1)])
def test_levels_that_know_the_mask(name: str, levels: int) -> None:
    inputs = refiner_input(None, "MODEL.META_ARCHITECTURE", name)
    assert (len(inputs.given), len(inputs.coarse_levels)) == (levels, levels if levels > 1 else 0)


@pytest.mark.parametrize(("match", "cost"), [("name", 2.0), ("any", 0.0)])
def test_labels_take_part_in_the_match_where_they_are_classes(match: str, cost: float) -> None:
    base, _ = Pair("OUTPUT_DIR", "x", (
        *GIVEN, "MODEL.META_ARCHITECTURE", "QueryMaskRefiner", "DATASETS.CLASS_MATCH", match,
    )).configs()  # fmt: skip
    net = network(base).train()
    costs: list[float] = []

    class Watched(type(net.criterion.matcher)):  # type: ignore[misc]
        def cost(self, *args: Any) -> Any:
            costs.append(self.class_cost)
            return super().cost(*args)

    net.criterion.matcher.__class__ = Watched
    net([clip()])
    assert costs == [cost]
    assert net.criterion.matcher.class_cost == 2.0, "the base's own matcher stays"
