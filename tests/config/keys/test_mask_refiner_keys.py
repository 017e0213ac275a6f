"""Keys of the network that sharpens given masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.config.keys.pairs import Pair, network, outline, shows
from vmt.structures.clip import ClipTargets

GIVEN = (
    "MODEL.META_ARCHITECTURE", "MaskRefiner", "MODEL.LABEL_SPACE", "object",
    "MODEL.REFINER.NAME", "quadtree", "MODEL.MASK_REFINER.DIM", "16",
    "MODEL.MASK_REFINER.CROP_SIZES", "[64, 256]",
)  # fmt: skip


def clip(tracklets: int = 1) -> dict[str, Any]:
    """Two frames of 96x128 with squares of 20 pixels as masks and as coarse masks."""
    masks = torch.zeros(tracklets, 2, 96, 128, dtype=torch.bool)
    for g in range(tracklets):
        masks[g, :, 40:60, 20 + 30 * g : 40 + 30 * g] = True
    targets = ClipTargets(
        torch.zeros(tracklets, dtype=torch.int64), torch.full((tracklets, 2, 4), 0.5), masks,
        torch.ones(tracklets, 2, dtype=torch.bool),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (2, 3, 96, 128), generator=generator, dtype=torch.uint8)
    return {"image": image, "coarse": masks.clone(), "targets": targets}


@torch.no_grad()
def read(cfg: Any) -> dict[str, Any]:
    """What reaches backbone and refiner for one tracklet."""
    net, seen = network(cfg).eval(), {}
    net.backbone.register_forward_pre_hook(lambda _, args: seen.update(backbone=args[0]))
    net.refiner.register_forward_pre_hook(lambda _, args: seen.update(refiner=args[0]))
    data = clip()
    next(net.refine_tubes(data["image"], data["coarse"]))
    return seen


@shows("MODEL.MASK_REFINER.DIM", 24, *GIVEN)
def test_dim(pair: Pair) -> None:
    for cfg, dim in zip(pair, (16, 24), strict=True):
        net = outline(cfg)
        assert net.laterals["8"].out_channels == dim
        assert net.query.mlp[0].in_features == 2 * dim
        assert net.refiner.reduce_s8.in_channels == dim


@shows("MODEL.MASK_REFINER.CROP_SIZES", [128, 160], *GIVEN)
def test_size_of_cut_outs(pair: Pair) -> None:
    """20 px and 24 px on each side are 68 px: three times 32; or enlarged to at least 128 px."""
    sizes = [tuple(read(cfg)["backbone"].shape[-2:]) for cfg in pair]
    assert sizes == [(96, 96), (128, 128)]


@shows("MODEL.MASK_REFINER.COLOUR_RADII_PX", [8, 16], *GIVEN)
def test_colour_cues(pair: Pair) -> None:
    plain, cues = (read(cfg)["backbone"] for cfg in pair)
    assert (plain.shape[1], cues.shape[1]) == (4, 6)
    assert float(cues[:, 4:].std()) > 0
    assert not torch.equal(cues[:, 4], cues[:, 5])


@shows("MODEL.REFINER.TRAIN_TRACKLETS", 1, *GIVEN, "MODEL.REFINER.TRAIN_TRACKLETS", 2)
def test_tracklets_in_training(pair: Pair) -> None:
    for cfg, count in [*zip(pair, (2, 1), strict=True), (pair.to(0)[1], 3)]:
        net = network(cfg).train()
        calls: list[int] = []
        net.refiner.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        net([clip(tracklets=3)])
        assert len(calls) == count


@shows("MODEL.MASK_REFINER.VOTES_REACH", 2, *GIVEN)
def test_votes(pair: Pair) -> None:
    """The network asks for votes, and backbone and refiner read two channels more."""
    plain, votes = (read(cfg) for cfg in pair)
    assert [network(cfg).votes_reach for cfg in pair] == [0, 2]
    assert (plain["backbone"].shape[1], votes["backbone"].shape[1]) == (4, 6)
    assert (plain["refiner"].frames.shape[1], votes["refiner"].frames.shape[1]) == (3, 6)


@shows("MODEL.MASK_REFINER.DETAIL_WIDTHS", [24, 24, 24, 32], *GIVEN)
def test_detail_widths(pair: Pair) -> None:
    """The refiner's map of stride 4 is as wide as the key says."""
    plain, detail = (read(cfg)["refiner"].stride4.shape[1] for cfg in pair)
    assert plain != detail == 24


@shows("MODEL.MASK_REFINER.COARSENESS_WEIGHT", 1.0, *GIVEN)
def test_coarseness(pair: Pair) -> None:
    found: list[dict[str, Tensor]] = []
    for cfg in (*pair, pair.to(3.0)[1]):
        net = network(cfg).train()
        torch.manual_seed(1)
        found.append(net([clip()]))
    assert "loss_coarseness" not in found[0]
    one, three = (float(losses["loss_coarseness"].detach()) for losses in found[1:])
    assert three == pytest.approx(3 * one, rel=1e-4)


@shows(
    "MODEL.MASK_REFINER.PRIOR", [2.0, 0.0, 0.0], *GIVEN, "MODEL.MASK_REFINER.COARSENESS_WEIGHT", 1.0
)
def test_prior(pair: Pair) -> None:
    """Odds of every pixel move by e squared towards the label that it has."""
    odds, data = [], clip()
    for cfg in pair:
        tube = next(network(cfg).eval().refine_tubes(data["image"], data["coarse"]))
        odds.append(tube.probability.logit())
    rows, columns = tube.places[0].rows, tube.places[0].columns
    given = data["coarse"][0][:, rows, columns]
    moved = (odds[1] - odds[0])[:, tube.places[0].own_rows, tube.places[0].own_columns]
    torch.testing.assert_close(moved, torch.where(given, 2.0, -2.0), atol=1e-3, rtol=0)


@shows("MODEL.MASK_REFINER.DENSE_WEIGHT", 1.0, *GIVEN)
def test_dense_weight(pair: Pair) -> None:
    found: list[dict[str, Tensor]] = []
    for cfg in (*pair, pair.to(3.0)[1]):
        net = network(cfg).train()
        torch.manual_seed(1)
        found.append(net([clip()]))
    assert "loss_mask_dense" not in found[0]
    one, three = (float(losses["loss_mask_dense"].detach()) for losses in found[1:])
    assert three == pytest.approx(3 * one, rel=1e-4)
