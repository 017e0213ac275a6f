"""Swin Transformer as the published Swin-L models run it, on timm's layers.

A file of our own because timm's network rolls a map before it pads it to whole windows; the
original pads first, so the two differ wherever a side is no multiple of the window (every frame of
360x640). timm's layers (window attention, merging, MLP) are used as they are.
"""

from __future__ import annotations

import functools

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, PatchEmbed
from timm.models.swin_transformer import (
    PatchMerging,
    WindowAttention,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn

from vmt.modeling.backbones.base import Backbone
from vmt.utils.errors import ConfigError

PATCH_SIZE = 4
#: added to the attention logit of two cells that the cyclic shift made neighbours (Swin's code)
MASKED_LOGIT = -100.0


class SwinBlock(nn.Module):
    """Windowed attention and MLP, pre-norm; every second block shifts its windows by half.

    Args:
        dim: channels.
        num_heads: attention heads.
        window: window side in cells.
        shifted: whether windows are shifted by ``window // 2``.
        drop_path: probability to skip the block's branches in training.
    """

    def __init__(
        self, dim: int, num_heads: int, window: int, shifted: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size=window)
        self.attn.fused_attn = True  # scaled_dot_product_attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        mixed: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return mixed

    def _attend(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        size = (self.window, self.window)
        # Padding comes first and takes part in the attention, unmasked: as published.
        x = F.pad(x, (0, 0, 0, -w % self.window, 0, -h % self.window))
        padded = (x.shape[1], x.shape[2])
        mask = None
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
            mask = shift_mask(padded, self.window, self.shift, x)
        windows = window_partition(x, size).flatten(1, 2)
        windows = self.attn(windows, mask=mask).unflatten(1, size)
        x = window_reverse(windows, size, *padded)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        unpadded: Tensor = x[:, :h, :w].contiguous()
        return unpadded


def shift_mask(size: tuple[int, int], window: int, shift: int, like: Tensor) -> Tensor:
    """Which cells of a shifted window came from different sides of the map.

    Args:
        size: (H, W) of the padded map.
        window: window side.
        shift: cells rolled.
        like: gives device and dtype.

    Returns:
        (windows, window^2, window^2): 0 or ``MASKED_LOGIT``; shared, not to be written to.
    """
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return _shift_mask(size, window, shift, like.dtype, like.device)
    return _kept_shift_mask(size, window, shift, like.dtype, like.device)


def _shift_mask(
    size: tuple[int, int], window: int, shift: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    region = torch.zeros(1, *size, 1, device=device)
    bands = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(bands):
        for j, cols in enumerate(bands):
            region[:, rows, cols] = 3 * i + j
    cells = window_partition(region, (window, window)).flatten(1)
    differ = cells[:, :, None] != cells[:, None, :]
    mask: Tensor = differ.to(dtype) * MASKED_LOGIT
    return mask


@functools.lru_cache(maxsize=16)
def _kept_shift_mask(
    size: tuple[int, int], window: int, shift: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The same for all blocks of a stage and all passes over frames of a size."""
    with torch.inference_mode(False):  # autograd cannot keep what was made in inference mode
        return _shift_mask(size, window, shift, dtype, device)


class SwinStage(nn.Module):
    """Blocks at one stride, then (but after the last) 2x2 merging.

    Args:
        dim: channels.
        num_heads: attention heads.
        window: window side in cells.
        drop_path: per block.
        merge: whether merging follows.
    """

    def __init__(
        self, dim: int, num_heads: int, window: int, drop_path: list[float], merge: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, window, shifted=i % 2 == 1, drop_path=p)
            for i, p in enumerate(drop_path)
        )
        self.downsample: nn.Module = PatchMerging(dim) if merge else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) -> the map at this stride, and the input of the next stage."""
        for block in self.blocks:
            x = block(x)
        return x, self.downsample(x)


class Swin(Backbone):
    """Swin with one LayerNorm on each output (``out_norm``), as in the published Swin-L models.

    Source: arXiv:2103.14030. Any input size: the frame is padded to whole patches, each map to
    whole windows, odd maps before merging.

    Args:
        embed_dim: channels of stage 0; doubles per stage.
        depths: blocks per stage.
        num_heads: heads per stage.
        window: window side.
        drop_path: stochastic depth of the last block, growing linearly from 0.
        pretrained: a timm name whose weights are loaded, or None.
    """

    def __init__(
        self,
        embed_dim: int = 192,
        depths: tuple[int, ...] = (2, 2, 18, 2),
        num_heads: tuple[int, ...] = (6, 12, 24, 48),
        window: int = 12,
        drop_path: float = 0.3,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(
            img_size=None,
            patch_size=PATCH_SIZE,
            embed_dim=embed_dim,
            norm_layer=nn.LayerNorm,
            flatten=False,
            output_fmt="NHWC",
            dynamic_img_pad=True,
        )
        rates = [drop_path * i / (sum(depths) - 1) for i in range(sum(depths))]
        dims = [embed_dim * 2**i for i in range(len(depths))]
        self.stages = nn.ModuleList()
        for i, depth in enumerate(depths):
            stage_rates, rates = rates[:depth], rates[depth:]
            merge = i < len(depths) - 1
            self.stages.append(SwinStage(dims[i], num_heads[i], window, stage_rates, merge))
        self.out_norm = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.channels = {PATCH_SIZE * 2**i: dim for i, dim in enumerate(dims)}
        if pretrained:
            self._load_timm(pretrained)

    def forward(self, frames: Tensor) -> dict[int, Tensor]:
        """(B*T, 3, H, W) -> maps of all stages by stride, normed."""
        x = self.patch_embed(frames)
        maps = {}
        for stride, stage, norm in zip(self.channels, self.stages, self.out_norm, strict=True):
            out, x = stage(x)
            maps[stride] = norm(out).permute(0, 3, 1, 2).contiguous()
        return maps

    def _load_timm(self, name: str) -> None:
        source = timm.create_model(name, pretrained=True).state_dict()
        renamed = {}
        for key, value in source.items():
            parts = key.split(".")
            if parts[0] == "layers":
                # timm merges at the start of a stage, we (as the original) at the end of the last
                merging = parts[2] == "downsample"
                parts[:2] = ["stages", str(int(parts[1]) - merging)]
            renamed[".".join(parts)] = value
        missing, _ = self.load_state_dict(renamed, strict=False)
        lost = [key for key in missing if not key.startswith("out_norm")]
        if lost:
            raise ConfigError(f"MODEL.BACKBONE.PRETRAINED: {name} lacks {lost[0]} and others.")
