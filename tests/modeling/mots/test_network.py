"""What the network does with frames and regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.synthetic import shape_clip
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.modeling.meta_arch.qdtrack import QDTrack
from vmt.modeling.mots.detector import boxes_in_px
from vmt.modeling.mots.options import DetectorOptions
from vmt.modeling.video_model import ClipBatch
from vmt.structures.clip import ClipTargets
from vmt.structures.frame_targets import frame_targets
from vmt.structures.roi_masks import RoiMasks
from vmt.utils.errors import ConfigError

Build = Callable[..., QDTrack]
#: Random weights say nothing with confidence.
EAGER = ("MODEL.MOTS.SCORE", "0.0", "MODEL.MOTS.DETECTIONS", "5")


def frames(count: int, height: int = 70, width: int = 102) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 255, (count, 3, height, width), generator=generator).float()


def test_what_a_frame_gives(tiny: Build) -> None:
    model = tiny(*EAGER)
    first, _ = model.segment_frames(frames(2))
    assert first.logits.shape == (5, len(model.label_space))
    assert first.boxes_cxcywh is not None
    assert first.boxes_cxcywh.shape == (5, 4)
    assert first.embeddings.shape == (5, 64)
    assert isinstance(first.mask_logits, RoiMasks)
    assert first.mask_logits.logits.shape == (5, 28, 28)
    assert first.masks().shape == (5, 18, 26)
    probs = first.class_probs()
    assert ((probs > 0).sum(1) == 1).all()  # of one class each
    assert torch.equal(probs.max(1).values.argsort(descending=True), torch.arange(5))
    boxes = first.mask_logits.boxes_px
    assert (boxes >= 0).all()
    assert (boxes[:, 0::2] <= 102).all()
    assert (boxes[:, 1::2] <= 70).all()


def test_a_frame_without_detections(tiny: Build) -> None:
    model = tiny("MODEL.MOTS.SCORE", "0.9")
    (frame,) = model.segment_frames(frames(1))
    assert frame.logits.shape == (0, len(model.label_space))
    assert frame.embeddings.shape == (0, 64)
    assert len(frame.mask_logits) == 0
    video = [np.zeros((40, 60, 3), np.uint8)] * 3
    options = PredictorOptions(min_size=64)
    assert [result.tracks for result in VideoPredictor(model, options).stream(video)] == [()] * 3


def test_frames_do_not_see_each_other(tiny: Build) -> None:
    clip = frames(2)
    both = tiny(*EAGER).segment_frames(clip)
    chunked = tiny(*EAGER, "TEST.FRAME_CHUNK", "1").segment_frames(clip)
    for one, other in zip(both, chunked, strict=True):
        for name in ("logits", "boxes_cxcywh", "embeddings"):
            torch.testing.assert_close(
                getattr(one, name), getattr(other, name), atol=1e-3, rtol=1e-4
            )


def test_masks_are_of_the_class_of_their_detection(tiny: Build) -> None:
    model = tiny(*EAGER)
    predictor = model.roi_heads.mask_predictor.mask_fcn_logits
    with torch.no_grad():
        predictor.weight.zero_()
        predictor.bias.copy_(torch.arange(len(predictor.bias)))
        (frame,) = model.segment_frames(frames(1))
    assert isinstance(frame.mask_logits, RoiMasks)
    labels = frame.logits.argmax(1)
    assert torch.equal(frame.mask_logits.logits[:, 0, 0].long(), labels + 1)


def test_boxes_in_pixels_are_those_of_the_masks() -> None:
    clip = shape_clip(1, (60, 90), 1)
    (target,) = frame_targets([clip["targets"]], (64, 96))
    boxes = boxes_in_px(target, (64, 96)).round().int().tolist()
    for (x1, y1, x2, y2), mask in zip(boxes, target.masks, strict=True):
        rows, columns = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
        assert [y1, y2] == [int(rows[0]), int(rows[-1]) + 1]
        assert [x1, x2] == [int(columns[0]), int(columns[-1]) + 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dim": 48}, r"MODEL.MOTS.DIM is 48; give a multiple of 32"),
        ({"box_samples": 3}, r"MODEL.MOTS.BOX_SAMPLES is 3; give at least 4"),
        ({"score": 1.0}, r"MODEL.MOTS.SCORE is 1.0"),
        ({"anchor_scale": 0.0}, r"MODEL.MOTS.ANCHOR_SCALE is 0.0"),
        ({"detections": 0}, r"MODEL.MOTS.DETECTIONS is 0"),
    ],
)
def test_impossible_options(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DetectorOptions(**change)


# --- training -----------------------------------------------------------------------------------


def losses_of(model: QDTrack, *clips: dict[str, Any]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return model.train().losses(ClipBatch.from_inputs(clips))


def shown(clip: dict[str, Any], valid: list[list[bool]]) -> dict[str, Any]:
    """The clip with objects visible where ``valid`` (G, T) says so."""
    return {**clip, "targets": replace(clip["targets"], valid=torch.tensor(valid))}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("all_frames", ["True", "False"])
def test_every_parameter_learns(tiny: Build, count: int, all_frames: str) -> None:
    model = tiny("MODEL.MOTS.ALL_FRAMES", all_frames)
    losses = losses_of(model, shape_clip(count, (64, 96), 0), shape_clip(count, (60, 80), 1))
    assert len(losses) == 7
    assert all(torch.isfinite(value) and value > 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_clips_without_objects(tiny: Build) -> None:
    clip = shape_clip(2, (64, 96), 0)
    clip["targets"] = clip["targets"].select(torch.zeros(0, dtype=torch.int64))
    model = tiny()
    losses = losses_of(model, clip)
    zero = {name for name, value in losses.items() if not value}
    assert zero == {"loss_rpn_box_reg", "loss_box_reg", "loss_mask", "loss_track", "loss_track_aux"}
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_only_the_key_frame_teaches_the_detector(tiny: Build) -> None:
    """As published; what the reference frame shows does not count then."""
    clip = shape_clip(2, (64, 96), 0)
    key_only = shown(clip, [[True, False], [True, False]])
    for all_frames, equal in (("False", True), ("True", False)):
        model = tiny("MODEL.MOTS.ALL_FRAMES", all_frames)
        with torch.no_grad():
            whole, part = losses_of(model, clip), losses_of(model, key_only)
        assert bool(whole["loss_objectness"] == part["loss_objectness"]) == equal
        assert bool(whole["loss_mask"] == part["loss_mask"]) == equal
        assert part["loss_track"] == 0 < whole["loss_track"]


def test_tracklets_are_told_apart_not_rows(tiny: Build) -> None:
    """The reference frame shows the second object alone: it is not taken for the first one."""
    clip = shape_clip(2, (64, 96), 0)
    model = tiny()
    seen: list[Any] = []
    criterion = model.criterion
    model.criterion = lambda pairs: (seen.extend(pairs), criterion(pairs))[1]  # type: ignore
    losses_of(model, shown(clip, [[True, False], [True, True]]))
    (pair,) = seen
    assert set(pair.key_track.tolist()) == {0, 1}
    assert set(pair.reference_track.tolist()) == {-1, 1}


def test_every_later_frame_refers_to_the_first(tiny: Build) -> None:
    model = tiny()
    seen: list[Any] = []
    criterion = model.criterion
    model.criterion = lambda pairs: (seen.extend(pairs), criterion(pairs))[1]  # type: ignore
    losses_of(model, shape_clip(3, (64, 96), 0), shape_clip(3, (64, 96), 1))
    assert len(seen) == 4
    assert torch.equal(seen[0].key, seen[1].key)
    assert not torch.equal(seen[1].key[:1], seen[2].key[:1])
    assert not torch.equal(seen[0].reference[:1], seen[1].reference[:1])


def test_parts_of_a_step_count_by_their_clips(tiny: Build) -> None:
    clips = [shape_clip(2, (64, 96), seed) for seed in range(3)]
    assert tiny().loss_count(ClipBatch.from_inputs(clips)) == 3


def test_the_other_associations(tiny: Build) -> None:
    """Bi-softmax takes detections too; pairing all queries of successive frames does not."""
    video = [np.full((40, 60, 3), 40 * t, np.uint8) for t in range(3)]
    options = PredictorOptions(min_size=64, frame_association="bisoftmax")
    predictor = VideoPredictor(tiny(*EAGER), options)
    assert len(list(predictor.stream(video))) == 3
    assert len(list(VideoPredictor(tiny("MODEL.MOTS.SCORE", "0.9"), options).stream(video))) == 3
    model, counts = tiny(*EAGER), iter([3, 4])
    forward = model.segment_frames

    def fewer(frames: Tensor) -> list[Any]:
        (frame,), n = forward(frames), next(counts)
        parts = {name: getattr(frame, name)[:n] for name in ("logits", "embeddings", "mask_logits")}
        return [replace(frame, boxes_cxcywh=None, **parts)]

    model.segment_frames = fewer  # type: ignore[method-assign]
    options = PredictorOptions(min_size=64, frame_association="embedding_hungarian")
    with pytest.raises(ConfigError, match=r"there are 3 in one and 4 in the next"):
        list(VideoPredictor(model, options).stream(video))


def test_boxes_alone_teach_no_mask(tiny: Build) -> None:
    """A batch of both: what the masks of the first clip say about boxes is all that counts."""
    model = tiny("MODEL.MOTS.BOX_SAMPLES", "16").train()
    samples = [shape_clip(2, (64, 96), seed) for seed in (1, 2)]
    clips, targets = (tuple(sample[key] for sample in samples) for key in ("image", "targets"))
    filled = torch.ones_like(targets[0].masks)

    def losses(first: ClipTargets) -> dict[str, Tensor]:
        torch.manual_seed(7)
        return model.losses(ClipBatch(clips, (first, targets[1])))

    box, other = (
        losses(replace(targets[0], masks=masks, boxes_only=True))
        for masks in (targets[0].masks, filled)
    )
    assert all(torch.equal(box[name], other[name]) for name in box)
    both = losses(targets[0])
    assert not torch.equal(both["loss_mask"], box["loss_mask"])
    assert torch.equal(both["loss_box_reg"], box["loss_box_reg"])
    alone = model.losses(ClipBatch(clips[:1], (replace(targets[0], boxes_only=True),)))
    assert alone["loss_mask"] == 0
    sum(alone.values()).backward()
    mask_head = list(model.roi_heads.mask_head.parameters())
    assert all(p.grad is not None and not p.grad.any() for p in mask_head)
    assert any(p.grad.any() for p in model.roi_heads.box_head.parameters())
