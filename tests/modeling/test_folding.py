"""Frozen norms as a part of convolutions: same numbers, less work, and training as it was."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

import vmt
from tests.device_counts import DeviceCounts
from vmt.modeling.backbones.base import FROZEN_NORMS, Backbone
from vmt.modeling.backbones.folding import fold_frozen_norms
from vmt.modeling.backbones.resnet import ResNet
from vmt.modeling.backbones.timm_features import TimmFeatures

#: Name -> builder, frozen norms, those behind a convolution that nobody else reads.
BACKBONES: dict[str, tuple[Callable[[], Backbone], int, int]] = {
    "resnet50": (lambda: ResNet("resnet50"), 53, 52),
    "resnet18d": (lambda: TimmFeatures("resnet18d"), 22, 22),
    "efficientnet_lite0": (lambda: TimmFeatures("tf_efficientnet_lite0"), 48, 48),
    "convnext_atto": (lambda: TimmFeatures("convnext_atto"), 0, 0),
    "group norm": (lambda: TimmFeatures("resnet10t", norm="group"), 0, 0),
}


def with_statistics(backbone: Backbone) -> Backbone:
    """Norms that do something."""
    torch.manual_seed(0)
    for part in backbone.modules():
        if isinstance(part, FROZEN_NORMS):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2.0)
            part.weight.uniform_(0.3, 1.0)
            part.bias.uniform_(-0.5, 0.5)
    return backbone.eval()


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.randn(2, 3, 70, 100, generator=torch.Generator().manual_seed(1))


def maps_of(backbone: nn.Module, frames: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return list(backbone(frames).values())


@pytest.mark.parametrize("name", BACKBONES)
def test_folded_backbones_give_the_same_maps(name: str, frames) -> None:
    build, norms, foldable = BACKBONES[name]
    backbone = with_statistics(build())
    assert sum(isinstance(part, FROZEN_NORMS) for part in backbone.modules()) == norms
    before = maps_of(backbone, frames)
    names = list(backbone.state_dict())
    with DeviceCounts() as counts:
        maps_of(backbone, frames)
    assert fold_frozen_norms(backbone) == foldable
    maps_of(backbone, frames)
    with DeviceCounts() as folded:
        after = maps_of(backbone, frames)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5 * float(a.abs().max()))
    # seven operators of each norm go; the one of a norm that stands alone stays
    saved = counts.launches.total() - folded.launches.total()
    assert saved == 7 * foldable + 6 * (norms - foldable)
    assert list(backbone.state_dict()) == names


def test_training_is_as_it_was(frames) -> None:
    plain = with_statistics(TimmFeatures("resnet18d"))
    folded = deepcopy(plain)
    fold_frozen_norms(folded)
    maps_of(folded, frames)
    for backbone in (plain, folded):
        sum(x.square().mean() for x in backbone(frames).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), folded.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize("way", ["step", "load", "norm", "move"])
def test_changed_weights_are_folded_anew(way: str, frames) -> None:
    plain = with_statistics(TimmFeatures("resnet18d"))
    folded = deepcopy(plain)
    fold_frozen_norms(folded)
    maps_of(folded, frames)
    other = with_statistics(TimmFeatures("resnet18d")).state_dict()
    for backbone in (plain, folded):
        if way == "step":
            with torch.no_grad():
                torch._foreach_mul_(list(backbone.parameters()), 1.1)
        elif way == "load":
            backbone.load_state_dict(other)
        elif way == "norm":
            backbone.get_submodule("body.bn1").running_mean.add_(1.0)
        else:
            backbone.double()
    x = frames.double() if way == "move" else frames
    for a, b in zip(maps_of(plain, x), maps_of(folded, x), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5 * float(a.abs().max()))


def test_weights_made_in_inference_mode_are_folded_every_time(frames) -> None:
    with torch.inference_mode():
        plain = with_statistics(TimmFeatures("resnet10t"))
        folded = deepcopy(plain)
        fold_frozen_norms(folded)
        maps_of(folded, frames)
        for backbone in (plain, folded):
            backbone.get_submodule("body.conv1.0").weight.mul_(1.5)
    for a, b in zip(maps_of(plain, frames), maps_of(folded, frames), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5 * float(a.abs().max()))


def test_copies_fold_their_own_weights(frames) -> None:
    first = with_statistics(TimmFeatures("resnet18d"))
    fold_frozen_norms(first)
    expected = maps_of(first, frames)
    copy = deepcopy(first)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    changed = maps_of(copy, frames)
    for a, b, c in zip(expected, maps_of(first, frames), changed, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_networks_that_are_loaded_are_folded(repo) -> None:
    model = vmt.load_model(repo / "configs/quick/seqformer_tiny.yaml")
    norms = [part for part in model.modules() if isinstance(part, FROZEN_NORMS)]
    assert len(norms) == 14
    norms[0].running_mean.fill_(3.0)
    x = torch.randn(1, norms[0].weight.shape[0], 4, 4)
    with torch.inference_mode():
        assert torch.equal(norms[0](x), x)  # the convolution has done it
    assert not torch.equal(norms[0](x), x)
