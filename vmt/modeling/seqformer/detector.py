"""The parts of SeqFormer, and the steps from the frames of a clip to queries with boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn

from vmt.layers.deformable_encoder import Encoder, Levels
from vmt.layers.mask_head import MaskHead
from vmt.layers.query_heads import BoxHeads, ClassHeads
from vmt.modeling.adversarial import AdversaryInput
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.neck import Neck
from vmt.modeling.criteria.set_criterion import CriterionResult
from vmt.modeling.frame_chunk import frame_chunk
from vmt.modeling.registry import DECODER_ADAPTERS, ENCODER_ADAPTERS, lookup
from vmt.modeling.seqformer.decoder import Decoder, LayerState
from vmt.modeling.video_model import ClipBatch, ClipModel, ModelOptions
from vmt.ops.frames import frame_chunks


@dataclass(frozen=True)
class ClipFeatures:
    """What the frames of B clips become before the decoder.

    Args:
        memory: (B*T, S, C).
        levels: layout of its tokens.
        fused: (B*T, C, h8, w8), see ``MaskHead.fuse``.
        mask_features: (B*T, mask_channels, h8, w8).
        stride4: (B*T, C4, h4, w4) of the backbone, where a model keeps it.
        stride2: (B*T, C2, h2, w2) likewise, where the backbone has it.
    """

    memory: Tensor
    levels: Levels
    fused: Tensor
    mask_features: Tensor
    stride4: Tensor | None
    stride2: Tensor | None

    def select(self, rows: slice) -> ClipFeatures:
        """The same for some of the B*T frames."""
        stride4, stride2 = (
            None if fine is None else fine[rows] for fine in (self.stride4, self.stride2)
        )
        return ClipFeatures(
            self.memory[rows],
            self.levels.select(rows),
            self.fused[rows],
            self.mask_features[rows],
            stride4,
            stride2,
        )


#: Levels of the encoder, and channels that the dynamic mask head reads.
NUM_LEVELS, MASK_CHANNELS = 4, 8


@dataclass(frozen=True)
class TrainingStep:
    """What a batch of B clips of T frames went through in training.

    Args:
        frames: (B*T, 3, H, W), normalised and padded.
        features: before the decoder.
        state: of the last decoder layer.
        result: of the criterion.
    """

    frames: Tensor
    features: ClipFeatures
    state: LayerState
    result: CriterionResult

    def adversary_input(self, batch: ClipBatch) -> AdversaryInput:
        """What an adversary sees of the step; ``batch`` is what was detected."""
        levels, result = self.features.levels, self.result
        h8, w8 = levels.shapes[0]
        empty = self.frames.new_zeros(0, batch.num_frames, 2 * h8, 2 * w8)
        return AdversaryInput(
            self.frames,
            self.features.memory,
            levels.shapes,
            levels.padding_mask,
            [masks if masks is not None else empty for masks in result.last_masks],
            batch.targets,
            [match.target_index for match in result.last_matches],
            result.num_tracklets,
        )


@dataclass(frozen=True)
class DetectorParts:
    """Networks of a detector, with fresh weights.

    Args:
        backbone: feature pyramid.
        neck: backbone maps to levels.
        encoder: levels to memory.
        decoder: queries to tracklets.
        class_heads: one per decoder layer.
        box_heads: one per decoder layer.
        mask_head: stride-8 masks.
    """

    backbone: Backbone
    neck: Neck
    encoder: Encoder
    decoder: Decoder
    class_heads: ClassHeads
    box_heads: BoxHeads
    mask_head: MaskHead

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: Backbone, num_classes: int) -> DetectorParts:
        """Build from ``MODEL.SEQFORMER``.

        Raises:
            ConfigError: an unknown addition, or values that do not fit together.
        """
        node = cfg.MODEL.SEQFORMER
        attention = {
            "dim": node.HIDDEN_DIM,
            "num_levels": NUM_LEVELS,
            "num_heads": node.NUM_HEADS,
            "num_points": node.NUM_POINTS,
            "ffn_dim": node.FFN_DIM,
            "dropout": node.DROPOUT,
            "frame_chunk": frame_chunk(cfg),
        }
        return cls(
            backbone,
            Neck(backbone, node.HIDDEN_DIM, NUM_LEVELS),
            Encoder(
                node.ENCODER_LAYERS,
                **attention,
                branch=_addition(cfg, ENCODER_ADAPTERS, "ENCODER_ADAPTER"),
            ),
            Decoder(
                node.DECODER_LAYERS,
                node.NUM_QUERIES,
                **attention,
                mixer=_addition(cfg, DECODER_ADAPTERS, "DECODER_ADAPTER"),
            ),
            ClassHeads(node.DECODER_LAYERS, node.HIDDEN_DIM, num_classes),
            BoxHeads(node.DECODER_LAYERS, node.HIDDEN_DIM),
            MaskHead(node.HIDDEN_DIM, MASK_CHANNELS),
        )


def _addition(cfg: CfgNode, table: Registry, key: str) -> Callable[[], Any] | None:
    """What ``MODEL.SEQFORMER`` adds to every layer of encoder or decoder: its maker, or None."""
    name = cfg.MODEL.SEQFORMER[key]
    if name == "none":
        return None
    entry = lookup(table, name, f"MODEL.SEQFORMER.{key} (or none)")
    return lambda: entry.from_config(cfg)


class Detector(ClipModel):
    """SeqFormer's parts and steps (arXiv:2112.08275); a method of ``meta_arch`` puts them in order.

    Args:
        parts: see ``DetectorParts``.
        options: see ``ModelOptions``.

    Attributes:
        keeps_fine_maps: whether ``ClipFeatures`` hold the backbone's maps of strides 4 and 2.
    """

    keeps_fine_maps = False

    def __init__(self, parts: DetectorParts, options: ModelOptions) -> None:
        super().__init__(options)
        self.backbone = parts.backbone
        self.neck = parts.neck
        self.encoder = parts.encoder
        self.decoder = parts.decoder
        self.heads = nn.ModuleDict({"cls": parts.class_heads, "box": parts.box_heads})
        self.coarse = parts.mask_head

    def stages(self) -> list[nn.Module]:
        """Layers of encoder and decoder."""
        return [*self.encoder.layers, *self.decoder.layers]

    def lr_groups(self) -> dict[str, str]:
        """The reference points of the decoder too learn as slowly as sampling offsets."""
        return {**super().lr_groups(), "decoder.reference.": "SAMPLING_FACTOR"}

    def encode(
        self, frames: Tensor, padding: Tensor | None = None, num_frames: int = 1
    ) -> ClipFeatures:
        """All frames at once.

        Args:
            frames: (B*T, 3, H, W), normalised and padded.
            padding: (B*T, H, W) bool, True on padding; None when nothing is padded.
            num_frames: T; matters to encoders that mix frames.
        """
        fine, maps = self._pyramid(frames)
        memory, levels = self.encoder(maps, padding, num_frames)
        return ClipFeatures(memory, levels=levels, **self._mask_maps(memory, levels), **fine)  # type: ignore[arg-type]

    def encode_clip(self, frames: Tensor) -> ClipFeatures:
        """``encode`` for (T, 3, H, W), ``frame_chunk`` frames at a time: one copy exists at most.

        An encoder that mixes frames gets all of them at once; what comes before and behind it is
        still cut.
        """
        num_frames = len(frames)
        chunks = list(frame_chunks(num_frames, self.frame_chunk))
        if len(chunks) == 1:
            return self.encode(frames, num_frames=num_frames)
        if self.encoder.mixes_frames:
            return self._encode_together(frames, chunks)
        levels: list[Levels] = []

        def encode(rows: slice) -> dict[str, Tensor | None]:
            part = self.encode(frames[rows])
            levels.append(part.levels)
            return {name: value for name, value in vars(part).items() if name != "levels"}

        whole = _in_place(encode, chunks, num_frames)
        ratios = levels[0].valid_ratios[:1].expand(num_frames, -1, -1)
        return ClipFeatures(levels=Levels(levels[0].shapes, ratios, None), **whole)  # type: ignore[arg-type]

    def _encode_together(self, frames: Tensor, chunks: list[slice]) -> ClipFeatures:
        def pyramid(rows: slice) -> dict[str, Tensor | None]:
            fine, maps = self._pyramid(frames[rows])
            return fine | {f"level{i}": level for i, level in enumerate(maps)}

        whole = _in_place(pyramid, chunks, len(frames))
        maps = [whole.pop(name) for name in list(whole) if name.startswith("level")]
        memory, levels = self.encoder(maps, None, len(frames))
        del maps
        masks = _in_place(lambda rows: self._mask_maps(memory[rows], levels), chunks, len(frames))
        return ClipFeatures(memory, levels, **masks, **whole)  # type: ignore[arg-type]

    def _pyramid(self, frames: Tensor) -> tuple[dict[str, Tensor | None], list[Tensor]]:
        """The backbone's fine maps, where they are kept, and the levels of the encoder."""
        maps = self.backbone(frames.contiguous(memory_format=torch.channels_last))
        keep = self.keeps_fine_maps
        fine = {"stride4": maps[4] if keep else None, "stride2": maps.get(2) if keep else None}
        return fine, self.neck(maps)

    def _mask_maps(self, memory: Tensor, levels: Levels) -> dict[str, Tensor | None]:
        fused = self.coarse.fuse(memory, levels.shapes)
        return {"fused": fused, "mask_features": self.coarse.mask_features(fused)}

    def decode(self, features: ClipFeatures, num_frames: int) -> list[LayerState]:
        """Queries of B clips of ``num_frames`` frames behind every layer of the decoder."""
        heads = cast(BoxHeads, self.heads["box"])
        states: list[LayerState] = self.decoder(features.memory, features.levels, num_frames, heads)
        return states

    def class_logits(self, layer: int, query: Tensor) -> Tensor:
        """(..., C) instance queries of a decoder layer -> (..., num_classes)."""
        logits: Tensor = cast(ClassHeads, self.heads["cls"])[layer](query)
        return logits


def _in_place(
    make: Callable[[slice], Mapping[str, Tensor | None]], chunks: Iterable[slice], num_frames: int
) -> dict[str, Tensor | None]:
    """Call ``make`` for every chunk of frames and put what it gives side by side, by name."""
    whole: dict[str, Tensor | None] = {}
    for rows in chunks:
        for name, value in make(rows).items():
            if value is None:
                whole[name] = None
                continue
            if rows.start == 0:
                whole[name] = value.new_empty((num_frames, *value.shape[1:]))
            target = whole[name]
            assert target is not None, "made with the first chunk"
            target[rows] = value
    return whole
