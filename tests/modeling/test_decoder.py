"""The decoder alone: what padding beside a clip must not change."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.deformable_encoder import Levels
from vmt.layers.query_heads import BoxHeads
from vmt.modeling.seqformer.decoder import Decoder

DIM, FRAMES = 16, 2
#: (h, w) of two levels without padding, and of the padded maps that hold them.
SHAPES, PADDED = ((8, 12), (4, 6)), ((16, 16), (8, 8))


def memory_of(maps: list[Tensor]) -> Tensor:
    """(T, C, h, w) per level -> (T, S, C)."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


def test_a_padded_clip_is_sampled_where_it_is_without_padding() -> None:
    """Centres and sizes of references both shrink: three layers, large boxes, all outputs equal."""
    torch.manual_seed(0)
    decoder = Decoder(3, 5, DIM, 2, 2, 2, 32, 0.0, 0).eval()
    heads = BoxHeads(3, DIM)
    for name, parameter in [*decoder.named_parameters(), *heads.named_parameters()]:
        if "sampling_offsets" in name or "layers.2" in name:
            nn.init.normal_(parameter, std=0.5)  # offsets and boxes that differ
    maps = [torch.randn(FRAMES, DIM, *shape) for shape in SHAPES]
    padded, masks = [], []
    for level, (h, w), (H, W) in zip(maps, SHAPES, PADDED, strict=True):
        wide = F.pad(level, (0, W - w, 0, H - h), value=9.0)  # whatever stands there
        mask = torch.ones(FRAMES, H, W, dtype=torch.bool)
        mask[:, :h, :w] = False
        padded.append(wide)
        masks.append(mask.flatten(1))
    plain = Levels(SHAPES, torch.ones(FRAMES, 2, 2), None)
    ratios = torch.tensor([12 / 16, 8 / 16]).expand(FRAMES, 2, 2)
    beside = Levels(PADDED, ratios, torch.cat(masks, dim=1))
    with torch.no_grad():
        alone = decoder(memory_of(maps), plain, FRAMES, heads)
        together = decoder(memory_of(padded), beside, FRAMES, heads)
    assert alone[-1].boxes[..., 2:].max() > 0.5
    for one, other in zip(alone, together, strict=True):
        for name in ("query", "boxes", "centres", "box_query"):
            torch.testing.assert_close(
                getattr(other, name), getattr(one, name), rtol=1e-4, atol=1e-5
            )
