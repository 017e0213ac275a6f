"""The table for published files of Mask2Former and MinVIS, which have the same names."""

from __future__ import annotations

from vmt.checkpoint.key_maps.backbones import detectron2_resnet, swin
from vmt.checkpoint.key_maps.rows import KeyMap, Rename, Unused

_PIXEL = "sem_seg_head.pixel_decoder"
_ENC = _PIXEL + ".transformer.encoder.layers.{i}"
_PRED = "sem_seg_head.predictor"
_DEC = _PRED + ".transformer"

#: Order matters: the first row that fits decides.
MASK2FORMER = KeyMap(
    "Mask2Former / MinVIS",
    (
        *detectron2_resnet("backbone."),
        *swin("backbone."),
        Unused("criterion.empty_weight", "class weights of the loss, which configs say"),
        # encoder and pixel map; projection 0 belongs to stride 32
        Rename(_PIXEL + ".input_proj.{l}.0.{p}", "neck.{l}.conv.{p}"),
        Rename(_PIXEL + ".input_proj.{l}.1.{p}", "neck.{l}.norm.{p}"),
        Rename(_PIXEL + ".transformer.level_embed", "encoder.level_embed"),
        Rename(_ENC + ".self_attn.{x*}", "encoder.layers.{i}.attn.{x*}"),
        Rename(_ENC + ".{x*}", "encoder.layers.{i}.{x*}"),
        Rename(_PIXEL + ".adapter_1.norm.{p}", "pixel_map.lateral_norm.{p}"),
        Rename(_PIXEL + ".adapter_1.{p}", "pixel_map.lateral.{p}"),
        Rename(_PIXEL + ".layer_1.norm.{p}", "pixel_map.output_norm.{p}"),
        Rename(_PIXEL + ".layer_1.{p}", "pixel_map.output.{p}"),
        Rename(_PIXEL + ".mask_features.{p}", "pixel_map.features.{p}"),
        # decoder: layers of the three kinds are numbered apart
        *(
            row
            for kind, theirs, ours in (
                ("self", "self_attn", "self_attn"),
                ("cross", "multihead_attn", "cross_attn"),
            )
            for row in (
                Rename(
                    f"{_DEC}_{kind}_attention_layers.{{i}}.{theirs}.{{x*}}",
                    f"decoder.layers.{{i}}.{ours}.{{x*}}",
                ),
                Rename(
                    f"{_DEC}_{kind}_attention_layers.{{i}}.norm.{{p}}",
                    f"decoder.layers.{{i}}.{kind}_norm.{{p}}",
                ),
            )
        ),
        Rename(_DEC + "_ffn_layers.{i}.norm.{p}", "decoder.layers.{i}.ffn_norm.{p}"),
        Rename(_DEC + "_ffn_layers.{i}.{x*}", "decoder.layers.{i}.{x*}"),
        Rename(_PRED + ".query_feat.{p}", "decoder.content.{p}"),
        Rename(_PRED + ".query_embed.{p}", "decoder.position.{p}"),
        Rename(_PRED + ".level_embed.{p}", "decoder.level_embed.{p}"),
        # heads
        Rename(_PRED + ".decoder_norm.{p}", "heads.norm.{p}"),
        Rename(_PRED + ".class_embed.{p}", "heads.cls.{p}"),
        Rename(_PRED + ".mask_embed.{x*}", "heads.mask.{x*}"),
    ),
    mark=_DEC + "_cross_attention_layers.",
)
