"""The network that sharpens given masks: what holds with any weights, and that it learns."""

from __future__ import annotations

import pytest
import torch

from vmt.config.node import load_config
from vmt.modeling.mask_refiner.prompt import prompt_of
from vmt.modeling.meta_arch.build import build_model, build_network
from vmt.modeling.meta_arch.mask_refiner import PooledMaskRefiner
from vmt.structures.clip import ClipTargets
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError

CONFIG = "configs/refine/mask_refiner_frames.yaml"
THING = LabelSpace("object", ("object",), (1,))
SMALL = (
    "MODEL.BACKBONE.WIDTHS", "[16, 16, 16, 16]", "MODEL.MASK_REFINER.DIM", "16",
    "MODEL.REFINER.EMBED_DIM", "16", "MODEL.REFINER.NUM_HEADS", "2",
    "MODEL.REFINER.FFN_DIM", "32", "MODEL.MASK_REFINER.CROP_SIZES", "[64, 96]",
)  # fmt: skip


def network(*overrides: str) -> PooledMaskRefiner:
    torch.manual_seed(0)
    built = build_network(load_config(CONFIG, [*SMALL, *overrides]), THING)
    assert isinstance(built, PooledMaskRefiner)
    return built


def clip(frames: int = 3) -> dict:
    """A disc whose coarse mask is a few pixels too large."""
    yy, xx = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    far = torch.stack([((yy - 45) ** 2 + (xx - 50 - 3 * t) ** 2).sqrt() for t in range(frames)])
    masks, coarse = (far < 20)[None], (far < 25)[None]
    image = torch.where(masks[0][:, None], torch.tensor(200), torch.tensor(60))
    targets = ClipTargets(
        labels=torch.zeros(1, dtype=torch.int64),
        boxes_cxcywh=torch.full((1, frames, 4), 0.5),
        masks=masks,
        valid=torch.ones(1, frames, dtype=torch.bool),
    )
    image = image.expand(frames, 3, 96, 128).to(torch.uint8).contiguous()
    return {"image": image, "coarse": coarse, "targets": targets}


def test_only_pixels_below_roots_are_looked_at():
    net = network().eval()
    data = clip()
    tube = next(net.refine_tubes(data["image"], data["coarse"]))
    assert tube.probability.shape == tube.looked_at.shape
    for t, place in enumerate(tube.places):
        coarse = data["coarse"][0, t, place.rows, place.columns]
        seen = tube.looked_at[t, place.own_rows, place.own_columns]
        padded = torch.nn.functional.pad(coarse[None, None].float(), (1, 1, 1, 1), "replicate")
        contour = torch.nn.functional.max_pool2d(padded, 3, 1)[0, 0] != coarse
        assert seen[contour].all(), "the contour is always looked at"


def test_a_mask_speaks_at_every_level_or_at_the_coarsest():
    share = torch.zeros(1, 1, 32, 64)
    share[..., 24:] = 1
    prompt = prompt_of(share, levels=3)
    # The contour runs along cell 2 of the coarsest level; the band reaches 8 pixels beyond its
    # cells on every level.
    for cells, width, (first, last) in zip(
        prompt.given, (8, 16, 32), ((1, 3), (3, 7), (7, 15)), strict=True
    ):
        band = (torch.arange(width) >= first) & (torch.arange(width) <= last)
        assert torch.equal(cells, band.expand(1, 1, width // 2, width))
    for level, stride in zip(prompt.coarse_levels, (8, 4, 2), strict=True):
        covered = torch.nn.functional.avg_pool2d(share, stride)
        torch.testing.assert_close(level, ((2 * covered - 1) * 4).sigmoid())
    # Children of the finer bands have their parents.
    for coarse, fine in zip(prompt.given, prompt.given[1:], strict=False):
        assert not (fine & ~coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)).any()
    alone = prompt_of(share, levels=1)
    assert alone.coarse_levels == ()
    assert torch.equal(alone.given[0], prompt.given[0])
    assert len(alone.given) == 1


def test_frames_without_the_object_and_tracklets_without_masks():
    net = network().train()
    data = clip()
    data["coarse"][0, 1] = False
    data["coarse"] = torch.cat([data["coarse"], torch.zeros_like(data["coarse"])])
    twice = data["targets"]
    data["targets"] = ClipTargets(
        torch.zeros(2, dtype=torch.int64), twice.boxes_cxcywh.repeat(2, 1, 1),
        twice.masks.repeat(2, 1, 1, 1), twice.valid.repeat(2, 1),
    )  # fmt: skip
    assert net._draw(data["coarse"]) == [0]
    losses = net([data])
    assert all(loss.isfinite() for loss in losses.values())
    data["coarse"][:] = False
    (loss,) = net([data]).values()
    loss.backward()
    assert loss == 0


def test_gradients_reach_every_parameter():
    net = network().train()
    for module in net.backbone.modules():
        if "Norm" in type(module).__name__:  # timm begins residual branches with 0
            torch.nn.init.ones_(module.weight)
    torch.nn.init.ones_(net.refiner.decoder.shared[-1].weight)  # begins with 0, too
    sum(net([clip()]).values()).backward()
    without = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    # With one tracklet there is one instance to read, whose softmax is 1 whatever the scores are.
    guidance = {n for n in without if "guidance" in n or n == "refiner.encoder.own"}
    assert without == guidance, sorted(without - guidance)


@pytest.mark.slow
def test_it_learns_to_remove_a_halo():
    net = network("MODEL.REFINER.NUM_LAYERS", "1").train()
    data = clip(2)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(net([data]).values()).backward()
        optimizer.step()
    net.eval()
    tube = next(net.refine_tubes(data["image"], data["coarse"]))
    iou = []
    for t, place in enumerate(tube.places):
        inside = (t, place.own_rows, place.own_columns)
        coarse = data["coarse"][0, t].clone()
        found = torch.where(
            tube.looked_at[inside], tube.probability[inside] > 0.5,
            coarse[place.rows, place.columns],
        )  # fmt: skip
        coarse[place.rows, place.columns] = found
        truth = data["targets"].masks[0, t]
        iou.append(float((coarse & truth).sum() / (coarse | truth).sum()))
    before = data["coarse"] & data["targets"].masks
    assert before.sum() / data["coarse"].sum() < 0.7
    assert min(iou) > 0.85


def test_a_dense_loss_asks_the_coarsest_map_for_the_mask_at_stride_2():
    data = clip()
    plain, net = network("MODEL.MASK_REFINER.DENSE_WEIGHT", "0.0"), network().train()
    assert set(net.state_dict()) - set(plain.state_dict()) == {"dense.weight", "dense.bias"}
    assert "loss_mask_dense" not in plain.train()([data])
    masks, coarse = data["targets"].masks[0], data["coarse"][0]
    crop = net.cut_out(coarse)
    fused = net.refiner_input(data["image"], coarse, crop)[0].fused
    cut = crop.cut(masks[:, None])[:, 0] >= 0.5
    logits, expected = net.dense(fused), []
    for t, y, x in torch.cartesian_prod(*(torch.arange(n) for n in (3, *fused.shape[-2:]))):
        for k in range(16):  # cell k of the 4 x 4 stride-2 cells in a stride-8 cell
            top, left = 8 * y + 2 * (k // 4), 8 * x + 2 * (k % 4)
            share = cut[t, top : top + 2, left : left + 2].float().mean()
            p = logits[t, k, y, x].sigmoid()
            expected.append(-(share * p.log() + (1 - share) * (1 - p).log()))
    loss = net([data])["loss_mask_dense"]
    torch.testing.assert_close(loss, 5 * torch.stack(expected).mean())
    loss.backward()
    reached = [p for p in net.fuse.parameters() if p.grad is not None and p.grad.abs().sum()]
    assert len(reached) == len(list(net.fuse.parameters()))


def test_it_segments_no_videos():
    cfg = load_config(CONFIG, SMALL)
    with pytest.raises(ConfigError, match=r"MaskRefiner.*vmt refine"):
        build_model(cfg, THING)


def test_a_backbone_without_a_stride_2_map():
    with pytest.raises(ConfigError, match="stride 2"):
        network("MODEL.BACKBONE.NAME", "timm/convnext_atto", "MODEL.BACKBONE.WIDTHS", "[]",
                "MODEL.BACKBONE.NORM", "frozen")  # fmt: skip


def test_names_of_the_config_are_checked():
    with pytest.raises(ConfigError, match=r"MODEL\.BACKBONE\.NORM"):
        network("MODEL.BACKBONE.NORM", "batch")
    with pytest.raises(ConfigError, match="three input channels"):
        network("MODEL.BACKBONE.NAME", "resnet50")
