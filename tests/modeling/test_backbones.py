"""Backbones: declared strides and channels, odd sizes, the published details."""

from __future__ import annotations

import pytest
import torch

from tests.device_counts import DeviceCounts
from vmt.modeling.backbones.resnet import ResNet
from vmt.modeling.backbones.swin import Swin, shift_mask
from vmt.modeling.backbones.timm_features import TimmFeatures
from vmt.utils.errors import ConfigError


def small_swin() -> Swin:
    torch.manual_seed(0)
    return Swin(embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window=4).eval()


@pytest.mark.parametrize(
    "build",
    [
        small_swin,
        lambda: ResNet("resnet50"),
        lambda: TimmFeatures("resnet10t"),
        lambda: TimmFeatures("convnext_atto"),
    ],
)
@pytest.mark.parametrize("size", [(64, 96), (75, 101), (33, 34)])
def test_maps_have_the_declared_channels_and_ceil_sizes(build, size) -> None:
    backbone = build().eval()
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, *size))
    assert list(maps) == list(backbone.channels)
    assert {4, 8, 16, 32} <= set(maps)
    for stride, x in maps.items():
        expected = (2, backbone.channels[stride], -(-size[0] // stride), -(-size[1] // stride))
        assert tuple(x.shape) == expected


def test_resnet_taps_the_raw_first_convolution() -> None:
    backbone = ResNet("resnet50").eval()
    frames = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = backbone(frames)
        assert torch.equal(maps[2], backbone.body.conv1(frames))
    assert (maps[2] < 0).any()  # before ReLU
    frozen = [n for n, p in backbone.named_parameters() if not p.requires_grad]
    assert sum(p.numel() for p in backbone.parameters() if not p.requires_grad) == 222_400
    assert {n.split(".")[1] for n in frozen} == {"conv1", "layer1"}
    assert not any("bn" in n for n, _ in backbone.named_parameters())  # frozen: buffers only


@pytest.mark.parametrize("build", [lambda: ResNet("resnet50"), lambda: TimmFeatures("resnet10t")])
def test_fresh_weights_have_no_dead_branches(build) -> None:
    """timm starts the last scale of a residual branch at 0; frozen, it would never learn."""
    backbone = build()
    maps = backbone(torch.randn(1, 3, 64, 64))
    sum(x.square().mean() for x in maps.values()).backward()
    dead = [n for n, p in backbone.named_parameters() if p.requires_grad and not p.grad.any()]
    assert dead == []


def naive_window_attention(block, x):
    """Pad, roll, cut windows one by one, attend with explicit softmax, undo."""
    b, h, w, c = x.shape
    win, s = block.window, block.shift
    hp, wp = -(-h // win) * win, -(-w // win) * win
    padded = x.new_zeros(b, hp, wp, c)
    padded[:, :h, :w] = x
    rolled = padded.roll((-s, -s), (1, 2))
    region = torch.zeros(hp, wp)
    for y in range(hp):
        for xx in range(wp):
            row = 0 if y < hp - win else (1 if y < hp - s else 2)
            col = 0 if xx < wp - win else (1 if xx < wp - s else 2)
            region[y, xx] = row * 3 + col
    out = torch.zeros_like(rolled)
    heads, dim = block.attn.num_heads, c // block.attn.num_heads
    table = block.attn.relative_position_bias_table
    for y in range(0, hp, win):
        for xx in range(0, wp, win):
            tokens = rolled[:, y : y + win, xx : xx + win].reshape(b, win * win, c)
            q, k, v = block.attn.qkv(tokens).chunk(3, -1)
            ids = region[y : y + win, xx : xx + win].flatten()
            for m in range(heads):
                part = slice(m * dim, (m + 1) * dim)
                logits = q[..., part] @ k[..., part].transpose(1, 2) * dim**-0.5
                for i in range(win * win):
                    for j in range(win * win):
                        dy = i // win - j // win + win - 1
                        dx = i % win - j % win + win - 1
                        logits[:, i, j] += table[dy * (2 * win - 1) + dx, m]
                        if s and ids[i] != ids[j]:
                            logits[:, i, j] -= 100
                mixed = logits.softmax(-1) @ v[..., part]
                out[:, y : y + win, xx : xx + win, part] = mixed.view(b, win, win, dim)
    flat = block.attn.proj(out)
    return flat.roll((s, s), (1, 2))[:, :h, :w]


@pytest.mark.parametrize("shifted", [0, 1])
def test_swin_attention_pads_before_it_rolls(shifted: int) -> None:
    block = small_swin().stages[1].blocks[shifted]
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(1, 5, 7, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            block._attend(x), naive_window_attention(block, x), atol=1e-5, rtol=1e-5
        )


def test_shift_mask_separates_nine_regions() -> None:
    mask = shift_mask((8, 8), 4, 2, torch.zeros(1))
    assert mask.shape == (4, 16, 16)
    assert (mask[0] == 0).all()
    assert mask[3].unique().tolist() == [-100.0, 0.0]


def test_unknown_timm_name_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="unknown to timm"):
        TimmFeatures("resnet51x")


def test_timm_network_without_pyramid_is_refused() -> None:
    with pytest.raises(ConfigError, match="strides"):
        TimmFeatures("vit_tiny_patch16_224")


def test_drop_path_grows_linearly_to_its_value() -> None:
    with torch.device("meta"):
        stages = Swin(drop_path=0.3).stages
    rates = [float(block.drop_path.drop_prob) for stage in stages for block in stage.blocks]
    assert rates == pytest.approx([0.3 * i / 23 for i in range(24)])


def test_shifted_windows_keep_their_mask() -> None:
    """Made in the first pass, in inference mode or not; the second makes none."""
    backbone, frames = small_swin(), torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        first = backbone(frames)
    with DeviceCounts() as counts:
        second = backbone(frames)
    assert counts.launches["ne"] == 0
    for stride, x in first.items():
        torch.testing.assert_close(x, second[stride])
    sum(x.sum() for x in second.values()).backward()
