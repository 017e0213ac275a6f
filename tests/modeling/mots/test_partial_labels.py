"""Images in which not every object is labelled teach nothing about the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.synthetic import shape_clip
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.meta_arch.qdtrack import QDTrack
from vmt.modeling.mots.partial_labels import region_class_loss
from vmt.modeling.video_model import ClipBatch
from vmt.utils.errors import ConfigError

Build = Callable[..., QDTrack]


def clip_of(unlabelled: tuple[int, ...], *, objects: bool = True) -> dict[str, Any]:
    clip = shape_clip(2, (64, 96), 0)
    targets = clip["targets"]
    if not objects:
        targets = targets.select(torch.zeros(0, dtype=torch.int64))
    return {**clip, "targets": replace(targets, unlabelled=unlabelled)}


def losses_of(model: QDTrack, clip: dict[str, Any]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return model.train().losses(ClipBatch.from_inputs([clip]))


def test_the_loss_is_the_cross_entropy_where_all_is_labelled() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    loss = region_class_loss(logits, labels, torch.zeros(6, 4, dtype=torch.bool))
    torch.testing.assert_close(loss.double(), F.cross_entropy(logits, labels), atol=1e-6, rtol=0)
    assert region_class_loss(logits[:0], labels[:0], torch.zeros(0, 4, dtype=torch.bool)) == 0


def test_a_background_region_may_be_of_a_class_without_labels() -> None:
    """By hand: probabilities 0.1, 0.2, 0.3, 0.4, and class 2 is not labelled in full."""
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2, dtype=torch.float64)
    unlabelled = torch.tensor([[False, False, True, False]] * 2)
    for label, known in ((0, 0.1 + 0.3), (1, 0.2), (2, 0.3)):
        labels = torch.tensor([label, label])
        loss = region_class_loss(probs.log(), labels, unlabelled)
        torch.testing.assert_close(
            loss.double(), -torch.tensor(known).log().double(), atol=1e-6, rtol=0
        )


def test_what_is_not_labelled_is_not_background(tiny: Build) -> None:
    """A frame without a label says something only where all of a class is labelled."""
    model = tiny()
    every = tuple(range(len(model.label_space)))
    with torch.no_grad():
        whole = losses_of(model, clip_of((), objects=False))
        some = losses_of(model, clip_of(every[:-1], objects=False))
        nothing = losses_of(model, clip_of(every, objects=False))
    assert whole["loss_objectness"] > 0 == some["loss_objectness"] == nothing["loss_objectness"]
    assert whole["loss_classifier"] > some["loss_classifier"] > 0
    torch.testing.assert_close(nothing["loss_classifier"], torch.tensor(0.0), atol=1e-5, rtol=0)


def test_a_blank_frame_leaves_no_gradient_that_is_no_number(tiny: Build) -> None:
    model = tiny()
    losses = losses_of(model, clip_of((0,), objects=False))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_labelled_objects_teach_as_ever(tiny: Build) -> None:
    """Anchors on objects stay what they were; none is background."""
    model = tiny()
    seen: list[list[Tensor]] = []
    assign = model.rpn.assign_targets_to_anchors

    def recording(*asked: Any) -> Any:
        labels, boxes = assign(*asked)
        seen.append(labels)
        return labels, boxes

    model.rpn.assign_targets_to_anchors = recording
    for unlabelled in ((), (3,)):
        losses = losses_of(model, clip_of(unlabelled))
        assert losses["loss_mask"] > 0 < losses["loss_box_reg"]
    for whole, partial in zip(*seen, strict=True):
        assert torch.equal(whole == 1, partial == 1)
        assert (whole == 1).any()
        assert (whole == 0).any()
        assert not (partial == 0).any()


@pytest.mark.parametrize("name", ["idol_tiny", "seqformer_tiny"])
def test_other_networks_refuse(config_of: Any, name: str) -> None:
    model = build_network(*config_of(f"quick/{name}")).train()
    with pytest.raises(ConfigError, match=r"not all objects of person, .* are annotated"):
        model([clip_of((0, 3))])
