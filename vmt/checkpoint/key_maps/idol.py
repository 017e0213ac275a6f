"""The table for IDOL's published files (R50, R101, Swin-L)."""

from __future__ import annotations

from vmt.checkpoint.key_maps.backbones import detectron2_resnet, swin
from vmt.checkpoint.key_maps.rows import Alias, KeyMap, Rename, Split

_DETR = "detr.detr"
_BODY = _DETR + ".backbone.0.backbone."
_ENC = _DETR + ".transformer.encoder.layers.{i}"
_DEC = _DETR + ".transformer.decoder.layers.{i}"

#: Order matters: the first row that fits decides.
IDOL = KeyMap(
    "published IDOL",
    (
        *detectron2_resnet(_BODY),
        *swin(_BODY),
        Rename(_DETR + ".input_proj.{l}.0.{p}", "neck.{l}.conv.{p}"),
        Rename(_DETR + ".input_proj.{l}.1.{p}", "neck.{l}.norm.{p}"),
        # encoder
        Rename(_DETR + ".transformer.level_embed", "encoder.level_embed"),
        Rename(_ENC + ".self_attn.{x*}", "encoder.layers.{i}.attn.{x*}"),
        Rename(_ENC + ".{x*}", "encoder.layers.{i}.{x*}"),
        # decoder; norm1 follows cross, norm2 self attention, norm3 the feed-forward part
        Alias(_DETR + ".transformer.decoder.bbox_embed.{x*}", _DETR + ".bbox_embed.{x*}"),
        Rename(_DEC + ".norm1.{p}", "decoder.layers.{i}.cross_norm.{p}"),
        Rename(_DEC + ".norm2.{p}", "decoder.layers.{i}.self_norm.{p}"),
        Rename(_DEC + ".norm3.{p}", "decoder.layers.{i}.ffn_norm.{p}"),
        Rename(_DEC + ".{x*}", "decoder.layers.{i}.{x*}"),
        Rename(_DETR + ".transformer.reference_points.{p}", "decoder.reference.{p}"),
        Split(
            _DETR + ".query_embed.weight", ("decoder.query_pos", "decoder.query_content"), axis=1
        ),
        # heads
        Rename(_DETR + ".bbox_embed.{x*}", "heads.box.{x*}"),
        Rename(_DETR + ".class_embed.{x*}", "heads.cls.{x*}"),
        Rename("detr.controller.{x*}", "masks.controller.{x*}"),
        Rename("detr.mask_head.lay3.{p}", "masks.fpn.s32.{p}"),
        Rename("detr.mask_head.lay4.{p}", "masks.fpn.s16.{p}"),
        Rename("detr.mask_head.dcn.{p}", "masks.fpn.s8.{p}"),
        Rename("detr.mask_head.lay1.{p}", "masks.reduce.0.{p}"),
        Rename("detr.mask_head.lay2.{p}", "masks.reduce.1.{p}"),
        Rename("detr.reid_embed_head.{x*}", "association_head.{x*}"),
    ),
    mark=_DETR + ".",
)
