"""Convolutions with a norm built in say what the two said apart."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from vmt.layers.fixed_norm import FixedNormConv, fold_norms


def drawn(net: nn.Module) -> nn.Module:
    """Statistics and affine values that matter."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -1, 1), (module.running_var, 0.5, 2),
                (module.weight.data, 0.5, 1.5), (module.bias.data, -1, 1),
            ):  # fmt: skip
                values.uniform_(low, high)
    return net.eval()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "tf_mobilenetv3_small_100"])
def test_a_network_says_what_it_said(name: str) -> None:
    net = drawn(timm.create_model(name, features_only=True))
    x = torch.randn(2, 3, 65, 96)
    with torch.no_grad():
        before = net(x)
        assert fold_norms(net) == 0
        after = net.train()(x)  # in training, too: statistics stay
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4 * float(a.abs().max()), rtol=1e-3)


def test_norms_that_stand_alone_are_counted() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert fold_norms(net) == 2, "the convolution has a bias of its own"
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.BatchNorm2d(4))
    assert fold_norms(net) == 1
    deep_stem = timm.create_model("resnet18d", features_only=True)
    assert fold_norms(deep_stem) == 1, "its first norm stands behind a sequence"


def test_weight_and_shift_are_trained_and_the_scale_is_not() -> None:
    net = drawn(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    fold_norms(net)
    assert isinstance(net[0], FixedNormConv)
    assert {name for name, _ in net.named_parameters()} == {"0.weight", "0.bias"}
    net(torch.randn(1, 3, 8, 8)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
