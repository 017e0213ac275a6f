"""What the network does with frames, levels and queries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from tests.synthetic import shape_clip
from vmt.layers.deformable_encoder import Levels, split_levels
from vmt.modeling.maskdino.decoder import box_features
from vmt.modeling.maskdino.levels import reverse_levels
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.meta_arch.maskdino import MaskDINO
from vmt.modeling.video_model import ClipBatch
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError

Build = Callable[..., MaskDINO]


def frames(count: int, height: int = 70, width: int = 102) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 255, (count, 3, height, width), generator=generator).float()


def test_what_a_frame_gives(tiny: Build) -> None:
    model = tiny()
    outputs = model.segment_frames(frames(2))
    assert len(outputs) == 2
    first = outputs[0]
    classes = len(model.label_space)
    assert first.logits.shape == (20, classes)
    assert first.boxes_cxcywh.shape == (20, 4)
    assert first.masks().shape == (20, 24, 32)  # 96 x 128, padded
    assert first.embeddings.shape == (20, 64)
    assert (first.mask_stride, first.input_size) == (4, (70, 102))
    assert (first.logits.std(0) > 0).all()  # queries differ
    # heads of the contract give the same again
    assert first.query is not None
    assert first.pixel is not None
    with torch.inference_mode():
        logits = model.class_head(first.query)
        masks = model.mask_head(first.query, first.pixel, None)
    torch.testing.assert_close(logits, first.logits, atol=1e-5, rtol=1e-5)
    some = torch.tensor([7, 3])
    torch.testing.assert_close(first.masks(some), masks[some], atol=1e-4, rtol=1e-4)


def test_frames_do_not_see_each_other(tiny: Build) -> None:
    both, clip = tiny(), frames(2)
    chunked = tiny("TEST.FRAME_CHUNK", "1")
    for one, other in zip(both.segment_frames(clip), chunked.segment_frames(clip), strict=True):
        torch.testing.assert_close(one.logits, other.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.boxes_cxcywh, other.boxes_cxcywh, atol=1e-4, rtol=1e-4)


def test_boxes_are_those_of_the_frame_before_padding(tiny: Build) -> None:
    model, clip = tiny(), frames(1)
    padded, _ = model.pad([model.normalise(clip)])
    inside = model.forward_frames(padded, model.box_init).states[-1].boxes[0]
    scale = torch.tensor([128 / 102, 96 / 70, 128 / 102, 96 / 70])
    [output] = model.segment_frames(clip)
    torch.testing.assert_close(output.boxes_cxcywh, inside * scale)


def test_a_small_frame_has_fewer_queries(tiny: Build) -> None:
    [output] = tiny().segment_frames(frames(1, 20, 20))
    tokens = 4 * 4 + 2 * 2 + 1 + 1
    assert len(output.logits) == min(20, tokens) == 20
    [output] = tiny("MODEL.MASKDINO.NUM_QUERIES", "30").segment_frames(frames(1, 20, 20))
    assert len(output.logits) == tokens


@pytest.mark.parametrize("order", ["low2high", "high2low"])
def test_levels_come_in_both_orders(tiny: Build, order: str) -> None:
    model = tiny("MODEL.MASKDINO.LEVEL_ORDER", order)
    features = model.encode(torch.randn(1, 3, 96, 128))
    sizes = [tuple(level.shape[-2:]) for level in features.levels]
    fine_first = [(12, 16), (6, 8), (3, 4), (2, 2)]
    assert sizes == (fine_first if order == "low2high" else fine_first[::-1])
    assert features.shapes == tuple(sizes[::-1])
    tokens = [level.flatten(2).transpose(1, 2) for level in features.levels[::-1]]
    assert torch.equal(torch.cat(tokens, 1), features.memory)


def test_reversing_and_splitting_levels_undo_concatenation() -> None:
    levels = Levels(((2, 3), (1, 2)), torch.ones(1, 2, 2), None)
    memory = torch.arange(8.0)[None, :, None]
    reversed_memory, shapes = reverse_levels(memory, levels)
    assert shapes == ((1, 2), (2, 3))
    assert reversed_memory.flatten().tolist() == [6, 7, 0, 1, 2, 3, 4, 5]
    assert [m.flatten().tolist() for m in split_levels(memory, levels)] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7],
    ]


def test_the_decoder_does_not_care_about_the_order_of_queries(tiny: Build) -> None:
    model = tiny()
    features = model.encode(torch.randn(1, 3, 64, 96))
    content, anchors = torch.randn(1, 5, 64), torch.randn(1, 5, 4)
    order = torch.tensor([3, 1, 4, 0, 2])
    rest = (features.memory, features.shapes, model.heads)
    straight = model.decoder(content, anchors, *rest)
    permuted = model.decoder(content[:, order], anchors[:, order], *rest)
    for a, b in zip(straight, permuted, strict=True):
        torch.testing.assert_close(a.embeds[:, order], b.embeds, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a.boxes[:, order], b.boxes, atol=1e-5, rtol=1e-4)


def test_a_box_looks_at_the_layer_before_and_no_further(tiny: Build) -> None:
    """Look forward twice: the anchor of layer l - 1 has gradient in the box of layer l alone."""
    model = tiny()
    features = model.encode(torch.randn(1, 3, 64, 96))
    anchors = torch.randn(1, 5, 4, requires_grad=True)
    content = torch.randn(1, 5, 64)
    states = model.decoder(content, anchors, features.memory, features.shapes, model.heads)
    first, second = (
        torch.autograd.grad(states[i].boxes.sum(), anchors, retain_graph=True, allow_unused=True)[0]
        for i in (1, 2)
    )
    boxes = states[1].boxes
    torch.testing.assert_close(first, boxes * (1 - boxes), atol=1e-4, rtol=1e-3)
    assert second is None


def test_features_of_a_box_are_ordered_y_x_w_h() -> None:
    box = torch.tensor([0.1, 0.2, 0.3, 0.4])
    features = box_features(box, 4).view(4, 4)
    for row, value in zip(features, (0.2, 0.1, 0.3, 0.4), strict=True):
        angle = torch.tensor(2 * torch.pi * value)
        slow = [angle.sin(), angle.cos(), (angle / 100).sin(), (angle / 100).cos()]
        torch.testing.assert_close(row, torch.stack(slow))


def losses_of(model: MaskDINO, *clips: dict) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return model.train().losses(ClipBatch.from_inputs(clips))


def test_every_parameter_learns(tiny: Build) -> None:
    model = tiny()
    losses = losses_of(model, shape_clip(2, (64, 96), 0))
    assert len(losses) == 5 * (3 + 3 + 1)  # outputs, their denoising queries, proposals
    assert all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_a_clip_without_objects_gives_the_same_losses(tiny: Build) -> None:
    model, clip = tiny(), shape_clip(2, (64, 96), 0)
    full = losses_of(model, clip)
    empty = dict(clip, targets=clip["targets"].select(torch.zeros(0, dtype=torch.int64)))
    losses = losses_of(model, empty)
    assert set(losses) == set(full)
    assert losses["loss_ce"] > 0
    assert all(float(losses[f"loss_{n}"].detach()) == 0 for n in ("bbox", "giou", "mask", "dice"))
    torch.stack(list(losses.values())).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_denoising_queries_change_nothing_for_the_others(tiny: Build) -> None:
    clip = shape_clip(1, (64, 96), 0)
    both = [losses_of(tiny("MODEL.MASKDINO.DN_QUERIES", count), clip) for count in ("0", "20")]
    contrastive = ("MODEL.MASKDINO.DN_KIND", "contrastive")
    torch.testing.assert_close(
        losses_of(tiny(*contrastive), clip)["loss_bbox"], both[0]["loss_bbox"], atol=1e-4, rtol=1e-4
    )
    for name in ("loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "loss_ce_interm"):
        torch.testing.assert_close(both[0][name], both[1][name], atol=1e-4, rtol=1e-4)
    assert float(both[0]["loss_ce_dn"]) == 0
    assert float(both[1]["loss_ce_dn"].detach()) > 0


@pytest.mark.parametrize("kind", ["positive", "contrastive"])
def test_both_kinds_of_denoising_train(tiny: Build, kind: str) -> None:
    model = tiny("MODEL.MASKDINO.DN_KIND", kind)
    losses = losses_of(model, shape_clip(2, (64, 96), 0), shape_clip(2, (64, 96), 1, 1))
    assert all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert model.denoising.labels.weight.grad is not None
    assert model.denoising.labels.weight.grad.any()


def test_it_counts_objects_of_frames(tiny: Build) -> None:
    clip = shape_clip(3, (64, 96), 0)
    batch = ClipBatch.from_inputs([clip, clip])
    assert tiny().loss_count(batch) == 2 * int(clip["targets"].valid.sum())


def test_norms_and_embeddings_keep_their_size(tiny: Build) -> None:
    model = tiny()
    undecayed = model.undecayed()
    assert "denoising.labels.weight" in undecayed
    assert "heads.norm.bias" in undecayed
    assert "neck.0.norm.weight" in undecayed
    assert "encoder.level_embed" not in undecayed
    assert "heads.cls.weight" not in undecayed
    assert model.lr_groups() == {"backbone.": "BACKBONE_FACTOR"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DIM", "48", "a multiple of 32"),
        ("STRIDES", "[8, 32]", "some of 4, 8, 16, 32"),
        ("LEVEL_ORDER", "up", "low2high, high2low"),
        ("BOX_INIT", "none", "regressed, mask, bitmask, mask2box"),
        ("NUM_QUERIES", "0", "at least 1"),
        ("EXTRA_LEVELS", "-1", "0 or more"),
        ("DROPOUT", "1.0", r"\[0, 1\)"),
        ("DN_QUERIES", "-1", "0 for none"),
        ("DN_NOISE", "3.0", r"\[0, 2\]"),
        ("DN_KIND", "negative", "positive, contrastive"),
    ],
)
def test_impossible_values_are_named(tiny: Build, key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"MODEL.MASKDINO.{key} is .*{message}"):
        tiny(f"MODEL.MASKDINO.{key}", value)


@pytest.mark.slow
def test_it_learns_a_clip(config_of: Callable[..., tuple[CfgNode, LabelSpace]]) -> None:
    torch.manual_seed(0)
    model = build_network(*config_of("quick/maskdino_tiny")).train()
    assert isinstance(model, MaskDINO)
    clip = shape_clip(2, (96, 128), 0)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4)
    for _ in range(45):
        loss = torch.stack(list(model.losses(ClipBatch.from_inputs([clip])).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    targets = clip["targets"]
    for t, output in enumerate(model.eval().segment_frames(clip["image"])):
        masks = F.interpolate(output.masks()[None], scale_factor=4.0, mode="bilinear")[0] > 0
        for label, truth in zip(targets.labels, targets.masks[:, t], strict=True):
            best = masks[output.logits[:, label].argmax()]
            assert float((best & truth).sum() / (best | truth).sum()) > 0.8
