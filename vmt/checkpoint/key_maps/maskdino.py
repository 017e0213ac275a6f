"""The table for MaskDINO's published files of instance segmentation (R50, Swin-L; either order)."""

from __future__ import annotations

from vmt.checkpoint.key_maps.backbones import detectron2_resnet, swin
from vmt.checkpoint.key_maps.rows import Alias, KeyMap, Rename, Unused

_PIXEL = "sem_seg_head.pixel_decoder"
_ENC = _PIXEL + ".transformer.encoder.layers.{i}"
_PRED = "sem_seg_head.predictor"
_DEC = _PRED + ".decoder.layers.{i}"

#: Order matters: the first row that fits decides.
MASKDINO = KeyMap(
    "MaskDINO",
    (
        *detectron2_resnet("backbone."),
        *swin("backbone."),
        Unused("criterion.empty_weight", "class weights of a loss that focal loss replaces"),
        # encoder and pixel map; projections and levels are numbered alike, whatever the order
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
        # query selection and denoising
        Rename(_PRED + ".enc_output.{p}", "selection.linear.{p}"),
        Rename(_PRED + ".enc_output_norm.{p}", "selection.norm.{p}"),
        Rename(_PRED + ".label_enc.{p}", "denoising.labels.{p}"),
        # heads; every decoder layer names them again
        Alias(_PRED + ".decoder.norm.{p}", _PRED + ".decoder_norm.{p}"),
        *(
            Alias(
                f"{_PRED}.{part}bbox_embed.{{i}}.{{x*}}",
                _PRED + "._bbox_embed.{x*}",
                each=_DEC + ".norm1.weight",
            )
            for part in ("decoder.", "")
        ),
        Rename(_PRED + ".decoder_norm.{p}", "heads.norm.{p}"),
        Rename(_PRED + ".class_embed.{p}", "heads.cls.{p}"),
        Rename(_PRED + ".mask_embed.{x*}", "heads.mask.{x*}"),
        Rename(_PRED + "._bbox_embed.{x*}", "heads.box.{x*}"),
        # decoder; norm1 follows cross, norm2 self attention, norm3 the feed-forward part
        Rename(_PRED + ".decoder.ref_point_head.{x*}", "decoder.position.{x*}"),
        Rename(_DEC + ".norm1.{p}", "decoder.layers.{i}.cross_norm.{p}"),
        Rename(_DEC + ".norm2.{p}", "decoder.layers.{i}.self_norm.{p}"),
        Rename(_DEC + ".norm3.{p}", "decoder.layers.{i}.ffn_norm.{p}"),
        Rename(_DEC + ".{x*}", "decoder.layers.{i}.{x*}"),
    ),
    mark=_PRED + ".enc_output.",
)
