from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.modeling.criteria import slow_criteria as slow
from vmt.config.defaults import default_config
from vmt.modeling.criteria.matcher import HungarianClipMatcher
from vmt.modeling.criteria.set_criterion import (
    CriterionResult,
    SetCriterion,
    masks_at_stride,
)
from vmt.structures.clip import ClipTargets
from vmt.structures.decoder_outputs import DecoderOutputs

PARITY = Path(__file__).resolve().parents[4] / "shared" / "data" / "parity"
STRIDE = 2
SIZE = (6, 7)  # one row and one column more than the masks need: padding of the batch


def mask_table(layers: int, B: int, Q: int, T: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(layers, B, Q, T, *SIZE, generator=generator, dtype=torch.float64)


def evaluate(
    targets: list[ClipTargets], layers: int = 3, deep_supervision: bool = True
) -> tuple[CriterionResult, DecoderOutputs, Tensor]:
    T = targets[0].num_frames
    logits, boxes = slow.predictions(layers, len(targets), T)
    table = mask_table(layers, len(targets), 6, T).requires_grad_()
    criterion = SetCriterion(
        HungarianClipMatcher(), mask_stride=STRIDE, deep_supervision=deep_supervision
    )
    outputs = DecoderOutputs(logits, boxes)
    result = criterion(outputs, targets, lambda layer, clip, query: table[layer, clip, query])
    return result, outputs, table


def slow_losses(targets: list[ClipTargets], outputs: DecoderOutputs, table: Tensor, layer: int):
    num = max(1, sum(map(len, targets)))
    sums = dict.fromkeys(("loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice"), 0.0)
    for b, target in enumerate(targets):
        logits, boxes = outputs.logits[layer, b], outputs.boxes_cxcywh[layer, b]
        pairs = slow.best_assignment(slow.matching_cost(logits, boxes, target)) if target else []
        sums["loss_ce"] += slow.class_loss(logits, pairs, target.labels, num)
        for q, g in pairs:
            l1, overlap = slow.box_losses(boxes[:, q][None], target.boxes_cxcywh[g][None], num)
            mask = table[layer, b, q][None]
            wanted = torch.zeros(mask.shape)
            for y in range(STRIDE // 2, target.masks.shape[-2], STRIDE):
                for x in range(STRIDE // 2, target.masks.shape[-1], STRIDE):
                    wanted[0, :, y // STRIDE, x // STRIDE] = target.masks[g, :, y, x]
            sums["loss_bbox"] += l1
            sums["loss_giou"] += overlap
            sums["loss_mask"] += slow.mask_focal_loss(mask, wanted, num)
            sums["loss_dice"] += slow.dice_loss(mask, wanted, num)
    return sums


@pytest.mark.parametrize("num_frames", [1, 3])
def test_every_loss_of_every_layer_matches_loops(num_frames: int) -> None:
    targets = [slow.clip(G=2, T=num_frames, seed=1), slow.clip(G=1, T=num_frames, seed=2)]
    result, outputs, table = evaluate(targets)
    assert len(result.losses) == 15
    for layer, suffix in ((0, "_0"), (1, "_1"), (2, "")):
        expected = slow_losses(targets, outputs, table, layer)
        actual = {name: result.losses[name + suffix].item() for name in expected}
        assert actual == pytest.approx(expected, rel=1e-9)


def test_order_of_tracklets_and_clips_changes_no_loss() -> None:
    first, second = slow.clip(G=3, seed=1), slow.clip(G=2, seed=2)
    reference, _, _ = evaluate([first, second])
    permuted, _, _ = evaluate([first.select(torch.tensor([2, 0, 1])), second])
    for name, loss in reference.losses.items():
        torch.testing.assert_close(permuted.losses[name], loss)
    order = torch.tensor([2, 0, 1])
    ours, theirs = reference.last_matches[0], permuted.last_matches[0]
    assert ours.query_index.tolist() == theirs.query_index.tolist()
    assert ours.target_index.tolist() == order[theirs.target_index].tolist()


def test_clip_without_tracklets_has_class_loss_only_and_every_loss_has_a_gradient() -> None:
    targets = [slow.clip(G=0)]
    result, outputs, table = evaluate(targets)
    expected = slow_losses(targets, outputs, table, 2)
    assert result.losses["loss_ce"].item() == pytest.approx(expected["loss_ce"])
    for name in ("loss_bbox", "loss_giou", "loss_mask", "loss_dice"):
        assert result.losses[name].item() == 0
        assert result.losses[name].requires_grad
    assert result.num_tracklets == 1


def test_an_empty_clip_beside_a_full_one() -> None:
    targets = [slow.clip(G=0, seed=1), slow.clip(G=2, seed=2)]
    result, outputs, table = evaluate(targets)
    expected = slow_losses(targets, outputs, table, 2)
    assert {n: result.losses[n].item() for n in expected} == pytest.approx(expected)
    assert [len(match.query_index) for match in result.last_matches] == [0, 2]


def test_without_deep_supervision_the_last_layer_stays() -> None:
    targets = [slow.clip(G=2)]
    deep, _, _ = evaluate(targets)
    shallow, _, _ = evaluate(targets, deep_supervision=False)
    assert set(shallow.losses) == {"loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice"}
    for name, loss in shallow.losses.items():
        torch.testing.assert_close(loss, deep.losses[name])
    assert torch.equal(shallow.last_matches[0].query_index, deep.last_matches[0].query_index)


def test_gradients_reach_logits_boxes_and_masks_of_matched_queries() -> None:
    result, outputs, table = evaluate([slow.clip(G=2)])
    sum(SetCriterion(HungarianClipMatcher()).weighted(result.losses).values()).backward()
    assert outputs.logits.grad is not None
    assert outputs.boxes_cxcywh.grad is not None
    assert table.grad is not None
    assert (outputs.logits.grad != 0).all()
    matched = sorted(result.last_matches[0].query_index.tolist())
    touched = outputs.boxes_cxcywh.grad[-1, 0].abs().sum((0, 2)).nonzero().flatten().tolist()
    assert touched == matched
    assert table.grad[-1, 0].abs().sum((1, 2, 3)).nonzero().flatten().tolist() == matched


def test_total_is_the_weighted_sum_and_knows_its_names() -> None:
    criterion = SetCriterion(HungarianClipMatcher(), class_weight=3.0)
    losses = {"loss_ce": torch.tensor(1.0), "loss_ce_4": torch.tensor(10.0)}
    losses["loss_dice_0"] = torch.tensor(100.0)
    assert sum(criterion.weighted(losses).values()).item() == 3 + 30 + 500
    assert criterion.weight("loss_bbox_11") == 5
    with pytest.raises(KeyError, match="loss_magic"):
        criterion.weighted({"loss_magic": torch.tensor(0.0)})


def test_defaults_are_those_of_the_config() -> None:
    loss = default_config().MODEL.LOSS
    matcher = HungarianClipMatcher()
    assert (matcher.class_cost, matcher.box_cost, matcher.giou_cost) == (
        loss.CLASS_WEIGHT,
        loss.BOX_WEIGHT,
        loss.GIOU_WEIGHT,
    )
    for part in (matcher, SetCriterion(matcher)):
        assert (part.focal_alpha, part.focal_gamma) == (loss.FOCAL_ALPHA, loss.FOCAL_GAMMA)
    criterion = SetCriterion(matcher)
    assert list(criterion.weights.values()) == [
        loss.CLASS_WEIGHT,
        loss.BOX_WEIGHT,
        loss.GIOU_WEIGHT,
        loss.MASK_WEIGHT,
        loss.DICE_WEIGHT,
    ]
    assert criterion.deep_supervision == loss.DEEP_SUPERVISION


def test_mask_targets_are_cell_centres_and_padding_is_background() -> None:
    masks = torch.rand(2, 3, 10, 13) > 0.5
    padded = torch.zeros(2, 3, 32, 32, dtype=torch.bool)
    padded[..., :10, :13] = masks
    for stride, rows in ((1, [0, 1, 2]), (2, [1, 3, 5]), (4, [2, 6, 10])):
        like = torch.zeros(2, 3, 32 // stride, 32 // stride)
        actual = masks_at_stride(masks, stride, like)
        assert torch.equal(actual, padded[..., stride // 2 :: stride, stride // 2 :: stride])
        assert torch.equal(actual[..., :3, 0], padded[..., rows, stride // 2])
    with pytest.raises(ValueError, match="cannot hold"):
        masks_at_stride(masks, 4, torch.zeros(2, 3, 1, 8))
    with pytest.raises(ValueError, match="cannot hold"):
        masks_at_stride(masks, 4, torch.zeros(1, 3, 8, 8))


def test_number_of_clips_must_agree() -> None:
    logits, boxes = slow.predictions(1, 2, 3)
    with pytest.raises(ValueError, match="2 clips were predicted, 1 targeted"):
        SetCriterion(HungarianClipMatcher())(
            DecoderOutputs(logits, boxes), [slow.clip()], lambda *_: torch.zeros(0)
        )


def _tracklets_of_rank(rank: int, port: int) -> None:
    from vmt.modeling.criteria.set_criterion import mean_tracklets

    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        number = mean_tracklets([slow.clip(G=1 + 4 * rank)], torch.device("cpu"))
        assert float(number) == 3
        assert float(mean_tracklets([slow.clip(G=rank)], torch.device("cpu"))) == 1
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_divisor_is_the_mean_over_processes() -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_tracklets_of_rank, args=(port,), nprocs=2)


@pytest.mark.skipif(not PARITY.is_dir(), reason="reference outputs are not beside the checkout")
def test_last_layer_equals_the_published_code() -> None:
    arrays = np.load(PARITY / "golden_seqformer_r50_training.npz")
    golden = json.loads((PARITY / "golden_seqformer_r50_training.json").read_text())["losses"]
    targets = ClipTargets(
        labels=torch.from_numpy(arrays["labels_0"]),
        boxes_cxcywh=torch.from_numpy(arrays["boxes_0"]),
        masks=torch.from_numpy(arrays["masks_0"]).bool(),
        valid=torch.from_numpy(arrays["valid_0"]).bool(),
    )
    outputs = DecoderOutputs(
        torch.from_numpy(arrays["logits"])[None], torch.from_numpy(arrays["boxes"])[None]
    )
    result = SetCriterion(HungarianClipMatcher())(
        outputs, [targets], lambda layer, clip, query: torch.zeros(len(query), 3, 32, 48)
    )
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        assert result.losses[name].item() == pytest.approx(golden[name], rel=1e-6)
