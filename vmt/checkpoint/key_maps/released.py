"""The table for the files that SeqFormer's and VMT's authors published (R50, R101, Swin-L).

It covers files of MS-STS VIS's public repository too: they are SeqFormer's, with entries that
nothing there reads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vmt.checkpoint.key_maps.backbones import swin
from vmt.checkpoint.key_maps.rows import Alias, KeyMap, Rename, Split, Unused

_BODY = "detr.backbone.0.body"
_ENC = "detr.transformer.encoder.layers.{i}"
_DEC = "detr.transformer.decoder.layers.{i}"

#: Order matters: the first row that fits decides.
RELEASED = KeyMap(
    "published SeqFormer / VMT",
    (
        # backbone
        *swin(_BODY + "."),
        Rename(_BODY + ".{x*}", "backbone.body.{x*}"),
        Rename("detr.input_proj.{l}.0.{p}", "neck.{l}.conv.{p}"),
        Rename("detr.input_proj.{l}.1.{p}", "neck.{l}.norm.{p}"),
        # encoder
        Rename("detr.transformer.level_embed", "encoder.level_embed"),
        Unused(_ENC + ".self_attn.output_proj_box.{p}", "only the decoder has box queries"),
        Rename(_ENC + ".self_attn.{x*}", "encoder.layers.{i}.attn.{x*}"),
        Rename(_ENC + ".{x*}", "encoder.layers.{i}.{x*}"),
        # decoder; norm1 follows cross, norm2 self attention, norm3 the feed-forward part
        Alias("detr.transformer.decoder.bbox_embed.{x*}", "detr.bbox_embed.{x*}"),
        Rename(_DEC + ".cross_attn.{x*}", "decoder.layers.{i}.cross_attn.{x*}"),
        Rename(_DEC + ".self_attn_box.{x*}", "decoder.layers.{i}.box_attn.{x*}"),
        Rename(_DEC + ".self_attn.{x*}", "decoder.layers.{i}.instance_attn.{x*}"),
        Rename(_DEC + ".time_attention_weights.{p}", "decoder.layers.{i}.frame_score.{p}"),
        Unused(_DEC + ".temp_attn_box.{x*}", "declared in MS-STS VIS's repository, never called"),
        Rename(_DEC + ".mixer.{x*}", "decoder.layers.{i}.mixer.{x*}"),
        Rename(_DEC + ".{m}_box.{p}", "decoder.layers.{i}.box_{m}.{p}"),
        Rename(_DEC + ".{m}.{p}", "decoder.layers.{i}.instance_{m}.{p}"),
        Rename("detr.transformer.reference_points.{p}", "decoder.reference.{p}"),
        Split("detr.query_embed.weight", ("decoder.query_pos", "decoder.query_content"), axis=1),
        # heads
        Rename("detr.bbox_embed.{x*}", "heads.box.{x*}"),
        Rename("detr.class_embed.{x*}", "heads.cls.{x*}"),
        Rename("controller.{x*}", "coarse.controller.{x*}"),
        Rename("mask_head.lay3.{p}", "coarse.fpn.s32.{p}"),
        Rename("mask_head.lay4.{p}", "coarse.fpn.s16.{p}"),
        Rename("mask_head.dcn.{p}", "coarse.fpn.s8.{p}"),
        Rename("mask_head.lay1.{p}", "coarse.reduce.0.{p}"),
        Rename("mask_head.lay2.{p}", "coarse.reduce.1.{p}"),
        # refiner; its transformer is called "encoder" at top level
        Rename("controller_inc.{x*}", "refiner.stage2_controller.{x*}"),
        Rename("controller_refine.{x*}", "refiner.controller.{x*}"),
        Rename("lay_hr1.{p}", "refiner.fuse_s4.{p}"),
        Rename("lay1_h.{p}", "refiner.reduce_s4.{p}"),
        Rename("lay2_h.{p}", "refiner.stage2_reduce.{p}"),
        Rename("lay_hr1_c.{p}", "refiner.lift_s2.{p}"),
        Rename("lay_compress.{p}", "refiner.compress.{p}"),
        Rename("conv_norm_relus_fuse_img.{x*}", "refiner.rgb.{x*}"),
        *(
            Rename(f"conv_norm_relus_fuse_all_{k + 1}.{{x*}}", f"refiner.branches.{k}.{{x*}}")
            for k in range(4)
        ),
        Rename("encoder.{x*}", "refiner.encoder.{x*}"),
    ),
    mark="detr.",
)


def complete_released(state: dict[str, Tensor]) -> None:
    """Add the entries that the published code asks for but never needs, where they are absent.

    A network that we trained has neither the encoder's second output layer (zeros do: nothing
    reads it) nor Swin's table of relative positions (it follows from the window size).

    Args:
        state: published names; changed in place.
    """
    for name, value in list(state.items()):
        if name.startswith("detr.transformer.encoder.") and ".self_attn.output_proj." in name:
            state.setdefault(
                name.replace("output_proj", "output_proj_box"), torch.zeros_like(value)
            )
        elif name.endswith(".relative_position_bias_table"):
            window = (math.isqrt(len(value)) + 1) // 2
            index = name.replace("relative_position_bias_table", "relative_position_index")
            state.setdefault(index, relative_position_index(window))


def relative_position_index(window: int) -> Tensor:
    """Row of Swin's bias table for every pair of cells of a window.

    Returns:
        (window^2, window^2) int64: (dy + window - 1) * (2 window - 1) + dx + window - 1.
    """
    cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offset = cells[:, None] - cells[None, :] + window - 1
    index: Tensor = offset[..., 0] * (2 * window - 1) + offset[..., 1]
    return index
