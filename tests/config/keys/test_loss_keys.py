"""Keys of losses and matching, against values computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.config.keys.pairs import SHOWN, Pair, network, shows, shows_each
from tests.synthetic import shape_clip
from vmt.modeling.video_model import ClipBatch
from vmt.structures.clip import ClipTargets
from vmt.structures.decoder_outputs import DecoderOutputs

#: Loss by key, and a factor for it that no other key has.
WEIGHTS = {
    "MODEL.LOSS.CLASS_WEIGHT": ("loss_ce", 2.0, 2.0),
    "MODEL.LOSS.BOX_WEIGHT": ("loss_bbox", 5.0, 3.0),
    "MODEL.LOSS.GIOU_WEIGHT": ("loss_giou", 2.0, 4.0),
    "MODEL.LOSS.MASK_WEIGHT": ("loss_mask", 2.0, 5.0),
    "MODEL.LOSS.DICE_WEIGHT": ("loss_dice", 5.0, 6.0),
    "MODEL.LOSS.REFINE_MASK_WEIGHT": ("loss_mask_refine", 2.0, 7.0),
    "MODEL.LOSS.REFINE_DICE_WEIGHT": ("loss_mask_dice_refine", 5.0, 8.0),
    "MODEL.LOSS.REFINE_BOUNDARY_WEIGHT": ("loss_mask_bound_refine", 5.0, 9.0),
    "MODEL.LOSS.REFINE_STAGE_WEIGHT": ("loss_refine", 2.0, 10.0),
    "MODEL.LOSS.INC_WEIGHT": ("loss_inc", 1.0, 11.0),
}
SHOWN.update(WEIGHTS)
QUADTREE = ("MODEL.REFINER.NAME", "quadtree")


def losses(cfg: Any) -> dict[str, float]:
    net = network(cfg).train()
    clip = shape_clip(2, (64, 64), 0)
    torch.manual_seed(1)
    found = net.losses(ClipBatch.from_inputs([clip]))
    return {name: float(loss.detach()) for name, loss in found.items()}


def test_every_weight_multiplies_its_own_loss() -> None:
    (first, (_, weight, factor)), *rest = WEIGHTS.items()
    others = [word for key, (_, w, f) in rest for word in (key, w * f)]
    before = losses(Pair(first, weight * factor, QUADTREE).configs()[0])
    after = losses(Pair(first, weight * factor, QUADTREE).configs(*others)[1])
    assert set(before) == set(after)
    factors = {name: factor for name, _, factor in WEIGHTS.values()}
    factors["loss_inc_dice"] = factors["loss_inc"]
    assert set(before) == {*factors, *(f"{n}_0" for n in list(factors)[:5])}
    for name, loss in before.items():
        assert after[name] == pytest.approx(factors[name.removesuffix("_0")] * loss, rel=1e-4)


@shows("MODEL.LOSS.REFINE_STAGE_WEIGHT", 6.0, "MODEL.REFINER.NAME", "dense_band")
def test_weight_of_the_second_stage(pair: Pair) -> None:
    before, after = (losses(cfg) for cfg in pair)
    changed = {n: after[n] / before[n] for n in before if abs(after[n] / before[n] - 1) > 1e-3}
    assert changed == {"loss_refine": pytest.approx(3.0, rel=1e-4)}


# --- one query and one tracklet of one class, two frames -----------------------------------------

ONE = ("MODEL.LABEL_SPACE", "object")


def target(shift: float = 0.0, first_frame: bool = True) -> ClipTargets:
    """A box of 0.2 in the middle, moved to the right in the first frame."""
    boxes = torch.tensor([[[0.5 + shift, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]]])
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[:, :, :4] = True
    valid = torch.tensor([[first_frame, True]])
    return ClipTargets(torch.tensor([0]), boxes, masks, valid)


def measured(cfg: Any, targets: ClipTargets) -> dict[str, float]:
    """Losses of a query with logit 0, a box in the middle and mask logits 0; unweighted."""
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(2, 1, 2, 1, 4)
    outputs = DecoderOutputs(torch.zeros(2, 1, 1, 1), boxes)
    result = network(cfg).criterion(outputs, [targets], lambda *_: torch.zeros(1, 2, 2, 2))
    return {name: float(loss) for name, loss in result.losses.items()}


@shows_each(
    {
        # alpha 0.5^gamma ln 2, of the class; of masks that are half full, 0.5 0.5^gamma ln 2
        "MODEL.LOSS.FOCAL_ALPHA": (0.75, 0.75 / 4, 0.5 / 4),
        "MODEL.LOSS.FOCAL_GAMMA": (0.0, 0.25, 0.5),
    },
    "of_class,of_mask",
    *ONE,
)
def test_focal(pair: Pair, of_class: float, of_mask: float) -> None:
    for cfg, share, mask in zip(pair, (0.25 / 4, of_class), (0.5 / 4, of_mask), strict=True):
        found = measured(cfg, target())
        assert found["loss_ce"] == pytest.approx(share * math.log(2), rel=1e-4)
        assert found["loss_mask"] == pytest.approx(mask * math.log(2), rel=1e-4)


@shows_each(
    {"MODEL.LOSS.FOCAL_ALPHA": (0.75, 0.75, 2.0), "MODEL.LOSS.FOCAL_GAMMA": (0.0, 0.25, 0.0)},
    "alpha,gamma",
    *ONE, *QUADTREE,
)  # fmt: skip
def test_focal_reaches_matcher_and_refiner(pair: Pair, alpha: float, gamma: float) -> None:
    base, changed = (network(cfg) for cfg in pair)
    for net, expected in ((base, (0.25, 2.0)), (changed, (alpha, gamma))):
        for part in (net.criterion.matcher, net.refiner_criterion):
            assert (part.focal_alpha, part.focal_gamma) == expected


@shows("MODEL.LOSS.DEEP_SUPERVISION", False, *ONE)
def test_deep_supervision(pair: Pair) -> None:
    names = {"loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice"}
    found = [set(measured(cfg, target())) for cfg in pair]
    assert found == [names | {f"{name}_0" for name in names}, names]


def cost(cfg: Any, targets: ClipTargets) -> float:
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(2, 1, 4)
    found = network(cfg).criterion.matcher.cost(torch.zeros(1, 1), boxes, targets)
    return float(found)


def only(name: str) -> tuple[str, ...]:
    """One of the three costs."""
    rest = {"CLASS", "BOX", "GIOU"} - {name}
    return (*ONE, *(word for n in sorted(rest) for word in (f"MODEL.LOSS.{n}_WEIGHT", "0.0")))


@shows("MODEL.LOSS.CLASS_WEIGHT", 7.0, *only("CLASS"))
def test_class_cost(pair: Pair) -> None:
    """As a positive minus as a negative: (0.25 - 0.75) 0.5^2 ln 2."""
    assert [cost(cfg, target()) for cfg in pair] == pytest.approx(
        [-2 * 0.125 * math.log(2), -7 * 0.125 * math.log(2)], rel=1e-4
    )


@shows("MODEL.LOSS.BOX_WEIGHT", 3.0, *only("BOX"))
def test_box_cost(pair: Pair) -> None:
    """0.1 in one of eight numbers."""
    assert [cost(cfg, target(shift=0.1)) for cfg in pair] == pytest.approx([0.5, 0.3], rel=1e-4)


@shows("MODEL.LOSS.GIOU_WEIGHT", 4.0, *only("GIOU"))
def test_giou_cost(pair: Pair) -> None:
    assert [cost(cfg, target()) for cfg in pair] == pytest.approx([-2.0, -4.0], rel=1e-4)
