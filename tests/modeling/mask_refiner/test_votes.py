"""A refiner that reads what neighbouring frames say, and estimates how coarse a mask is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.modeling.mask_refiner.test_pooled import THING, clip
from vmt.config.node import load_config
from vmt.modeling.mask_refiner.coarseness import Coarseness, displacement, odds_of_given
from vmt.modeling.mask_refiner.prompt import prompt_of
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.meta_arch.mask_refiner import PooledMaskRefiner
from vmt.utils.errors import ConfigError

CONFIG = "configs/refine/mask_refiner.yaml"
SMALL = (
    "MODEL.BACKBONE.NAME", "timm/test_efficientnet", "MODEL.MASK_REFINER.DIM", "16",
    "MODEL.REFINER.EMBED_DIM", "16", "MODEL.REFINER.NUM_HEADS", "2",
    "MODEL.REFINER.FFN_DIM", "32", "MODEL.MASK_REFINER.CROP_SIZES", "[64, 96]",
)  # fmt: skip


def network() -> PooledMaskRefiner:
    torch.manual_seed(0)
    built = build_network(load_config(CONFIG, list(SMALL)), THING)
    assert isinstance(built, PooledMaskRefiner)
    return built


def said(coarse: torch.Tensor, share: torch.Tensor, weight: int = 255) -> torch.Tensor:
    """(1, T, 2, H, W) votes: (T, H, W) bool as the share."""
    votes = torch.zeros(1, *coarse.shape[1:2], 2, *coarse.shape[-2:], dtype=torch.uint8)
    votes[0, :, 0], votes[0, :, 1] = 255 * share, weight
    return votes


def test_what_backbone_and_refiner_read() -> None:
    """RGB, mask, the leaning of votes times their weight, the weight, colour cues."""
    net, seen = network().eval(), {}
    net.backbone.register_forward_pre_hook(lambda _, args: seen.update(backbone=args[0]))
    net.refiner.register_forward_pre_hook(lambda _, args: seen.update(refiner=args[0].frames))
    data = clip(1)
    share = data["targets"].masks[0]
    with torch.no_grad():
        next(net.refine_tubes(data["image"], data["coarse"], said(data["coarse"], share, 128)))
    assert seen["backbone"].shape[1] == 9
    assert torch.equal(seen["backbone"], seen["refiner"])
    leaning, weight = seen["backbone"][0, 4:6]
    mask = seen["backbone"][0, 3]
    inside = mask > 0.99
    assert weight[inside].mean() == pytest.approx(128 / 255, abs=1e-3)
    yes, no = ((leaning[inside] * 255 / 128 - side).abs() < 0.01 for side in (1, -1))
    assert yes.float().mean() > 0.5, "the object"
    assert no.float().mean() > 0.2, "what the mask has too much"
    with torch.no_grad():
        next(net.refine_tubes(data["image"], data["coarse"]))
    assert not seen["backbone"][0, 4:6].any(), "without votes nobody leans to either side"


def test_the_window_has_room_for_what_votes_find() -> None:
    net, data = network(), clip(1)
    wider = F.max_pool2d(data["coarse"][0].float(), 41, 1, 20) > 0
    plain = net.cut_out(data["coarse"][0])
    told = net.cut_out(data["coarse"][0], said(data["coarse"], wider)[0])
    doubted = net.cut_out(data["coarse"][0], said(data["coarse"], wider, 20)[0])
    assert max(told.window) > max(plain.window)
    assert doubted.window == plain.window, "a few votes are no opinion"


def test_what_masks_and_votes_disagree_about_is_refined() -> None:
    share, second = torch.zeros(1, 1, 64, 96), torch.zeros(1, 1, 64, 96)
    share[..., 24:] = 1
    second[..., 64:] = 1
    alone, both = prompt_of(share, 3), prompt_of(share, 3, second)
    for level, stride in enumerate((8, 4, 2)):
        columns = both.given[level][0, 0].any(0).nonzero()[:, 0] * stride
        assert int(columns[0]) <= 16
        assert int(columns[-1]) >= 64
        assert bool(both.given[level][0, 0, :, 24 // stride : 64 // stride].all())
        assert bool((both.given[level] | ~alone.given[level]).all())
    same = prompt_of(share, 3, share)
    assert all(torch.equal(a, b) for a, b in zip(same.given, alone.given, strict=True))


def test_how_far_off_a_mask_is() -> None:
    """Discs 5 pixels too wide and too narrow, and one half of each, which is right on average."""
    y, x = torch.meshgrid(torch.arange(128) - 64, torch.arange(128) - 64, indexing="ij")
    far = (y**2 + x**2).sqrt()
    truth = (far < 40)[None]
    for radius, sign in ((45, 1), (35, -1)):
        off, wide = displacement((far < radius)[None, None].float(), truth).tolist()
        # areas of rings of 5 px: 42.5 and 37.5 px from the centre on average
        expected = torch.tensor(5 * (40 + sign * 2.5) / 40).log1p().item()
        assert off == pytest.approx(expected, rel=0.03)
        assert wide == pytest.approx(sign * expected, rel=0.03)
    mixed = torch.where(x < 0, far < 45, far < 35)[None, None].float()
    off, wide = displacement(mixed, truth).tolist()
    assert off == pytest.approx(torch.tensor(5.0).log1p().item(), rel=0.03)
    assert abs(wide) < 0.6
    assert displacement(truth[:, None].float(), truth).tolist() == [0, 0]


def test_a_mask_that_is_nearly_right_is_trusted() -> None:
    off = [torch.tensor([d, 0.0]).log1p() for d in (0.0, 1.0, 2.0, 9.0)]
    odds = [float(odds_of_given(e, (1.6, 1.2, -0.6))) for e in off]
    assert odds == pytest.approx([1.6, 0.4, -0.6, -0.6])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["MODEL.MASK_REFINER.PRIOR", "[1.0, 2.0]"], r"PRIOR \[1.0, 2.0\]: give three numbers"),
        (["MODEL.MASK_REFINER.COARSENESS_WEIGHT", "0.0"], "without which nothing is estimated"),
    ],
)
def test_a_prior_needs_three_numbers_and_an_estimate(words: list[str], said: str) -> None:
    prior = ["MODEL.MASK_REFINER.PRIOR", "[1.6, 1.2, -0.6]"]
    with pytest.raises(ConfigError, match=said):
        build_network(load_config(CONFIG, [*SMALL, *prior, *words]), THING)


def test_the_estimate_learns_how_far_off_masks_are_and_tells_every_cell() -> None:
    torch.manual_seed(0)
    part = Coarseness(8)
    features, inside = torch.randn(1, 8, 6, 6), torch.rand(1, 6, 6)
    unchanged, _ = part(features, inside)
    assert torch.equal(unchanged, features), "it begins with saying nothing"
    optimizer = torch.optim.AdamW(part.parameters(), 1e-2)
    for step in range(60):
        level = float(step % 3)
        told, estimate = part(features + level, inside)
        loss = F.smooth_l1_loss(estimate, torch.tensor([level, -level])) + told.mean() * 0.01
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _, estimate = part(features + 2, inside)
    assert estimate.tolist() == pytest.approx([2, -2], abs=0.5)
    assert part.tell.weight.abs().sum() > 0


def test_gradients_reach_what_is_new() -> None:
    net, data = network().train(), clip()
    data["votes"] = said(data["coarse"], data["targets"].masks[0])
    torch.nn.init.ones_(net.coarseness.tell.weight)
    torch.nn.init.dirac_(net.detail.add.weight)
    losses = net([data])
    assert losses["loss_coarseness"] > 0
    sum(losses.values()).backward()
    for part in (net.backbone, net.detail):
        stem = next(part.parameters())
        assert (stem.grad.abs().sum((0, 2, 3)) > 0).all(), "every input channel"
    assert all(p.grad.abs().sum() > 0 for p in net.coarseness.parameters())


def test_what_is_exported_takes_votes_and_says_what_the_network_says() -> None:
    net = network().eval()
    part = net.dense_part()
    assert [port.name for port in part.inputs] == ["frames", "share", "votes"]
    frames, share, votes = part.example(2, 2, (64, 96))
    with torch.no_grad():
        found = part(frames, share, votes)
        expected = net.encode(net.normalise(frames), share, votes)
        silent = part(frames, share)
    names = [port.name for port in part.outputs]
    for name, value in zip(names, found, strict=True):
        own = getattr(expected, name)
        assert torch.equal(value, own[None] if name == "coarseness" else own)
    assert not torch.equal(found[0], silent[0])
