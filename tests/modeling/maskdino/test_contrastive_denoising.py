"""Contrastive denoising from queries to losses, against loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.synthetic import shape_clip
from vmt.modeling.criteria.point_sampling import PointSampler, at_points, reference_points
from vmt.modeling.maskdino.criterion import LOSSES, BoxPredictions, MaskDINOCriterion
from vmt.modeling.maskdino.denoising import Denoising, Noise, NoisyQueries
from vmt.modeling.meta_arch.maskdino import MaskDINO
from vmt.modeling.video_model import ClipBatch
from vmt.structures.frame_targets import FrameTargets, frame_targets

NOISE = Noise(7, 0.4, "contrastive")


def clip_frame(shown: list[int], num_tracks: int = 3) -> FrameTargets:
    """A frame that shows some tracklets of a clip; the box and class of each are its own."""
    index = torch.tensor(shown, dtype=torch.int64)
    boxes = torch.tensor([[0.2, 0.3, 0.3, 0.2], [0.5, 0.6, 0.2, 0.4], [0.9, 0.1, 0.3, 0.3]])
    masks = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    return FrameTargets(index + 1, boxes[index], masks[index], "", index, num_tracks)


def slow_queries(part: Denoising, frames: list[FrameTargets]) -> tuple[Tensor, Tensor]:
    """Contents and anchors (B, groups, 2, slots, ...), drawing the same numbers."""
    slots, classes = max(frame.num_slots for frame in frames), len(part.labels.weight)
    groups = max(1, NOISE.num_queries // slots)
    content = torch.zeros(len(frames), groups, 2, slots, part.labels.weight.shape[1])
    anchors = torch.zeros(len(frames), groups, 2, slots, 4)
    for b, frame in enumerate(frames):
        shape = (groups, 2, len(frame))
        drawn = torch.randint(classes, shape)
        redraw = torch.rand(shape)
        amount = torch.rand(*shape, 4)
        sign = torch.randint(2, (*shape, 4)) * 2 - 1
        for group in range(groups):
            for kind in range(2):
                for k, slot in enumerate(frame.slots.tolist()):
                    place = group, kind, k
                    label = drawn[place] if redraw[place] < 0.5 * 0.5 else frame.labels[k]
                    x, y, w, h = frame.boxes_cxcywh[k].tolist()
                    corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
                    for side in range(4):
                        reach = (w, h)[side % 2] / 2 * NOISE.scale
                        step = float(sign[place][side]) * (float(amount[place][side]) + kind)
                        corners[side] = min(max(corners[side] + step * reach, 0.0), 1.0)
                    left, top, right, bottom = corners
                    box = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
                    logits = [math.log(max(v, 1e-5) / max(1 - v, 1e-5)) for v in box]
                    content[b, group, kind, slot] = part.labels.weight[label].detach()
                    anchors[b, group, kind, slot] = torch.tensor(logits)
    return content, anchors


def test_queries_are_made_as_dino_makes_them() -> None:
    part, frames = Denoising(8, 5), [clip_frame([0, 2]), clip_frame([]), clip_frame([2, 1])]
    torch.manual_seed(3)
    queries = part(frames, NOISE)
    torch.manual_seed(3)
    content, anchors = slow_queries(part, frames)
    assert queries is not None
    assert (queries.groups, queries.slots) == (2, 3)
    torch.testing.assert_close(queries.content, content.flatten(1, 3))
    torch.testing.assert_close(queries.anchor_logits, anchors.flatten(1, 3), atol=1e-5, rtol=1e-5)


def test_frames_groups_and_kinds_have_noise_of_their_own() -> None:
    queries = Denoising(8, 5)([clip_frame([0, 1, 2])] * 2, NOISE)
    assert queries is not None
    boxes = queries.anchor_logits.unflatten(1, (2, 2, 3)).flatten(0, 2)  # (B*groups*2, slots, 4)
    assert len(boxes) == 8
    for first in range(8):
        for second in range(first):
            assert not torch.isclose(boxes[first], boxes[second]).all(-1).any()


def test_the_others_are_the_same_to_rounding_with_and_without(
    tiny: Callable[..., MaskDINO],
) -> None:
    model, clip = tiny("MODEL.MASKDINO.DN_KIND", "contrastive"), shape_clip(2, (64, 96), 0)
    batch = ClipBatch.from_inputs([clip])
    padded, _ = model.pad([model.normalise(batch.clips[0])])
    targets = frame_targets(batch.targets, (int(padded.shape[-2]), int(padded.shape[-1])))
    outputs = []
    for noise in (Noise(0), Noise(20, 0.4, "contrastive")):
        out = model.forward_training(padded, targets, noise, "regressed")
        outputs.append((model.predictions(out, slice(None)), out.num_noisy))
    (alone, none), (beside, count) = outputs
    assert none == 0
    assert count == 2 * 20
    assert set(alone) == {"", "_0", "_1", "_interm"}
    for name, output in alone.items():
        other = beside[name].of_queries(slice(0 if name == "_interm" else count, None))
        for field in ("logits", "boxes", "kernels"):
            torch.testing.assert_close(
                getattr(output, field), getattr(other, field), rtol=1e-5, atol=1e-5
            )


def parts(size: int = 6) -> tuple[BoxPredictions, NoisyQueries, list[FrameTargets], Tensor]:
    """Two frames, two groups of three slots, and two queries that are matched."""
    torch.manual_seed(4)
    frames = [clip_frame([0, 2]), clip_frame([1])]
    noisy = Denoising(8, 5)(frames, NOISE)
    assert noisy is not None
    count = len(noisy) + 2
    output = BoxPredictions(
        torch.randn(2, count, 5).requires_grad_(),
        torch.randn(2, count, size).requires_grad_(),
        (torch.rand(2, count, 4) * 0.5 + 0.2).requires_grad_(),
    )
    return output, noisy, frames, torch.randn(2, size, 4, 4)


def test_losses_of_denoising_queries() -> None:
    output, noisy, frames, pixel = parts()
    criterion = MaskDINOCriterion(sampler=PointSampler(24, 1.0, 1.0, reference_points))
    losses = criterion({"": output}, noisy, frames, pixel, 3.0).losses
    slow = {"loss_ce": 0.0, "loss_bbox": 0.0, "loss_mask": 0.0}
    for b, frame in enumerate(frames):
        for query in range(len(noisy)):
            slot, negative = query % 3, query // 3 % 2 == 1
            if slot not in frame.slots.tolist():
                continue
            k = frame.slots.tolist().index(slot)
            for label in range(5):
                p = float(output.logits[b, query, label].sigmoid().detach())
                if not negative and label == int(frame.labels[k]):
                    slow["loss_ce"] -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    slow["loss_ce"] -= 0.75 * p**2 * math.log(1 - p)
            if negative:
                continue
            away = (output.boxes[b, query] - frame.boxes_cxcywh[k]).abs()
            slow["loss_bbox"] += float(away.sum().detach())
            mask = torch.einsum("c,chw->hw", output.kernels[b, query], pixel[b])
            points = reference_points(1, 24, torch.device("cpu"))
            read = at_points(mask[None, None], points).sigmoid().flatten().tolist()
            truth = at_points(frame.masks[k][None, None].float(), points).flatten().tolist()
            pairs = zip(read, truth, strict=True)
            slow["loss_mask"] -= (
                sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in pairs) / 24
            )
    for name, value in slow.items():
        assert losses[f"{name}_dn"].item() == pytest.approx(value / (3.0 * 2), rel=1e-5)


def test_negatives_teach_the_class_alone_and_absent_slots_nothing() -> None:
    output, noisy, frames, pixel = parts()
    criterion = MaskDINOCriterion(sampler=PointSampler(24, draw=reference_points))
    losses = criterion({"": output}, noisy, frames, pixel, 3.0).losses
    torch.stack([losses[f"{name}_dn"] for name in LOSSES]).sum().backward()
    taught = {
        name: getattr(output, name).grad[:, : len(noisy)].abs().sum(-1).unflatten(1, (2, 2, 3)) > 0
        for name in ("logits", "boxes", "kernels")
    }
    present = noisy.present.unflatten(1, (2, 2, 3))
    assert torch.equal(taught["logits"], present)
    positive = present & torch.tensor([True, False])[:, None]
    assert torch.equal(taught["boxes"], positive)
    assert torch.equal(taught["kernels"], positive)
