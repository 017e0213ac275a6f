"""Weights of a package in a network with more channels, and otherwise normalised frames."""

from __future__ import annotations

import pytest
import timm
import torch

from tests.layers.test_fixed_norm import drawn
from vmt.modeling.backbones.imagenet import LITE_MEAN, LITE_STD, load_in_order
from vmt.modeling.video_model import PIXEL_MEAN, PIXEL_STD
from vmt.utils.errors import CheckpointError

NAME = "tf_efficientnet_lite0"


def planes(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


@torch.no_grad()
def test_it_says_of_rgb_what_the_weights_say() -> None:
    whole = drawn(timm.create_model(NAME))
    renamed = {f"_{k}": value for k, value in enumerate(whole.state_dict().values())}
    net = timm.create_model(NAME, features_only=True, in_chans=6).eval()
    load_in_order(net, renamed, PIXEL_MEAN, PIXEL_STD)
    theirs = timm.create_model(NAME, features_only=True).eval()
    theirs.load_state_dict({name: whole.state_dict()[name] for name in theirs.state_dict()})
    pixels = 255 * torch.rand(1, 3, 64, 96)
    ours = (pixels - planes(PIXEL_MEAN)) / planes(PIXEL_STD)
    ours = torch.cat([ours, torch.randn(1, 3, 64, 96)], 1)  # whatever the new channels say
    expected = theirs((pixels - planes(LITE_MEAN)) / planes(LITE_STD))[0]
    found = net(ours)[0]
    inner = (..., slice(2, -2), slice(2, -2))  # beyond the frame stands another grey
    torch.testing.assert_close(found[inner], expected[inner], atol=1e-4, rtol=1e-4)


def test_weights_of_another_network_are_refused() -> None:
    net = timm.create_model(NAME, features_only=True, in_chans=6)
    weights = timm.create_model("resnet18d").state_dict()
    with pytest.raises(CheckpointError, match="another network"):
        load_in_order(net, weights, PIXEL_MEAN, PIXEL_STD)
    first = dict(list(timm.create_model(NAME).state_dict().items())[:20])
    with pytest.raises(CheckpointError, match="None in its place"):
        load_in_order(net, first, PIXEL_MEAN, PIXEL_STD)
