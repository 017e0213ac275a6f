"""Properties of the whole network that need no reference."""

from __future__ import annotations

import pytest
import torch

from vmt.structures.clip import ClipTargets


def targets_for(num_frames: int, height: int, width: int, num: int = 2) -> ClipTargets:
    masks = torch.zeros(num, num_frames, height, width, dtype=torch.bool)
    boxes = torch.zeros(num, num_frames, 4)
    for g in range(num):
        y, x = 8 + 10 * g, 12 + 20 * g
        masks[g, :, y : y + 24, x : x + 30] = True
        boxes[g] = torch.tensor([(x + 15) / width, (y + 12) / height, 30 / width, 24 / height])
    return ClipTargets(
        torch.arange(num), boxes, masks, torch.ones(num, num_frames, dtype=torch.bool)
    )


def test_contract_in_evaluation(tiny, clip) -> None:
    model = tiny()
    predictions = model([{"image": clip}, {"image": clip[:1]}])
    assert len(predictions) == 2
    for prediction, frames in zip(predictions, (4, 1), strict=True):
        tracklets = prediction["tracklets"]
        n = len(tracklets)
        assert 1 <= n <= 10
        assert tracklets.mask_logits.shape == (n, frames, 35, 51)
        assert tracklets.mask_stride == 2
        assert tracklets.class_probs.shape == (n, 40)
        assert tracklets.boxes_cxcywh.shape == (n, frames, 4)
        assert tracklets.embeddings.shape == (n, 64)
        assert tracklets.input_size == (70, 102)
        assert tracklets.query_index.tolist() == sorted(set(tracklets.query_index.tolist()))


@pytest.mark.parametrize("name", ["quick/seqformer_tiny", "quick/vmt_tiny_released"])
def test_frame_chunks_change_nothing(tiny, clip, name: str) -> None:
    whole = tiny(name, "TEST.FRAME_CHUNK", "0").segment_clip(clip)
    for chunk in ("1", "3"):
        chunked = tiny(name, "TEST.FRAME_CHUNK", chunk).segment_clip(clip)
        assert torch.equal(whole.query_index, chunked.query_index)
        torch.testing.assert_close(whole.mask_logits, chunked.mask_logits, atol=1e-4, rtol=1e-4)


def test_frames_meet_only_in_the_decoder(tiny, clip) -> None:
    """Reversing time reverses the result: nothing in the network knows the order of frames."""
    model = tiny()
    forward = model.segment_clip(clip)
    backward = model.segment_clip(clip.flip(0))
    assert torch.equal(forward.query_index, backward.query_index)
    torch.testing.assert_close(
        forward.mask_logits, backward.mask_logits.flip(1), atol=1e-3, rtol=1e-3
    )


def test_permuting_queries_permutes_predictions(tiny, clip) -> None:
    model = tiny("quick/seqformer_tiny")
    before = model.run_clip(model.normalise(clip))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in (model.decoder.query_pos, model.decoder.query_content):
            parameter.copy_(parameter[order].clone())
    after = model.run_clip(model.normalise(clip))
    torch.testing.assert_close(after.logits, before.logits[order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        after.boxes_cxcywh, before.boxes_cxcywh[:, order], atol=1e-4, rtol=1e-4
    )


def test_padding_is_masked(tiny, clip) -> None:
    """Beside a larger clip, a padded one keeps its queries, and its padding reads as zero."""
    model = tiny("quick/seqformer_tiny")
    small = model.normalise(clip[:, :, :64, :96])

    def queries(frames: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            features = model.encode(frames, padding)
            states = model.decoder(features.memory, features.levels, 4, model.heads["box"])
        return states[-1].query[0]

    alone = queries(small, None)
    frames, padding = model.pad([small, torch.zeros(4, 3, 128, 160)])
    # Convolutions see what lies beyond the border, so the queries are close, not equal; without
    # the mask they are far off.
    masked = (queries(frames, padding) - alone).abs().mean()
    unmasked = (queries(frames, None) - alone).abs().mean()
    assert masked < 0.6 * unmasked
    # What stands in the padding must not matter at all behind the backbone and neck.
    with torch.no_grad():
        levels = model.neck(model.backbone(frames))
        before, layout = model.encoder(levels, padding)
        for level in levels:
            h, w = level.shape[-2:]
            level[:4, :, h // 2 + 1 :] = 77.0
            level[:4, :, :, int(w * 0.6) + 1 :] = 77.0
        after, _ = model.encoder(levels, padding)
    valid = ~layout.padding_mask[0]
    torch.testing.assert_close(before[0, valid], after[0, valid])


def test_training_gives_finite_losses_and_gradients_everywhere(tiny, clip) -> None:
    model = tiny().train()
    other = clip[:, :, :50, :80]
    losses = model(
        [
            {"image": clip, "targets": targets_for(4, 70, 102)},
            {"image": other, "targets": targets_for(4, 50, 80, num=1)},
        ]
    )
    assert {"loss_ce", "loss_mask", "loss_dice", "loss_refine", "loss_mask_bound_refine"} <= set(
        losses
    )
    assert {"loss_ce_0", "loss_dice_0"} <= set(losses)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    lacking = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not torch.isfinite(p.grad).all())
    ]
    assert lacking == []
    unmoved = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    # the deepest level's sampling and dead ReLU paths may give zeros, whole families may not
    for family in (
        "backbone",
        "encoder",
        "decoder",
        "coarse",
        "refiner.rgb",
        "refiner.encoder",
        "refiner.branches",
        "refiner.controller",
        "refiner.stage2_controller",
    ):
        members = [n for n, _ in model.named_parameters() if n.startswith(family)]
        assert any(n not in unmoved for n in members), family


def test_clip_without_objects_trains(tiny, clip) -> None:
    model = tiny().train()
    losses = model([{"image": clip, "targets": targets_for(4, 70, 102, num=0)}])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert losses["loss_dice"].item() == 0


def test_inference_is_deterministic(tiny, clip) -> None:
    model = tiny("quick/vmt_tiny_released", "MODEL.REFINER.MAX_POINTS", "200")
    torch.manual_seed(1)
    first = model.segment_clip(clip)
    torch.manual_seed(2)
    second = model.segment_clip(clip)
    assert torch.equal(first.mask_logits, second.mask_logits)


def test_bf16_stays_close(tiny, clip) -> None:
    exact = tiny("quick/seqformer_tiny").run_clip(tiny("quick/seqformer_tiny").normalise(clip))
    model = tiny("quick/seqformer_tiny", "TEST.PRECISION", "bf16")
    rough = model.run_clip(model.normalise(clip))
    assert (rough.logits.float() - exact.logits).abs().max() < 0.1
    assert (rough.boxes_cxcywh.float() - exact.boxes_cxcywh).abs().max() < 0.02
