"""Video Mask Transfiner: SeqFormer, and a refiner on top of its masks. Wiring only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.criteria.auxiliary import Evidence, Judge
from vmt.modeling.criteria.matcher import HungarianClipMatcher
from vmt.modeling.criteria.set_criterion import CriterionResult, SetCriterion
from vmt.modeling.refiners.base import Refiner, RefinerInput, RefinerLosses, RefinerOutput
from vmt.modeling.registry import (
    BOX_MIXERS,
    ENCODER_BRANCHES,
    META_ARCHITECTURES,
    REFINERS,
    lookup,
    register,
)
from vmt.modeling.seqformer.decoder import Decoder, LayerState
from vmt.modeling.seqformer.encoder import Encoder, Levels
from vmt.modeling.seqformer.heads import BoxHeads, ClassHeads
from vmt.modeling.seqformer.mask_head import STRIDE as COARSE_STRIDE
from vmt.modeling.seqformer.mask_head import MaskHead
from vmt.modeling.seqformer.neck import Neck
from vmt.modeling.video_model import ClipBatch, ClipModel, ModelOptions
from vmt.ops.frames import frame_chunks, unfold_frames
from vmt.ops.resize import aligned_upsample2
from vmt.structures.clip import ClipTargets
from vmt.structures.decoder_outputs import DecoderOutputs
from vmt.structures.labels import LabelSpace
from vmt.structures.predictions import ClipTracklets
from vmt.utils.precision import arithmetic

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class ClipFeatures:
    """What the frames of B clips become before the decoder.

    Args:
        memory: (B*T, S, C).
        levels: layout of its tokens.
        fused: (B*T, C, h8, w8), see ``MaskHead.fuse``.
        mask_features: (B*T, mask_channels, h8, w8).
        stride4: (B*T, C4, h4, w4), kept for the refiner only.
        stride2: (B*T, C2, h2, w2), likewise, where the backbone has it.
    """

    memory: Tensor
    levels: Levels
    fused: Tensor
    mask_features: Tensor
    stride4: Tensor | None
    stride2: Tensor | None


@dataclass(frozen=True)
class ClipForward:
    """Everything that one clip went through at inference, for parity checks and pictures.

    Args:
        features: before the decoder.
        query: (Q, C) of the last layer.
        logits: (Q, num_classes).
        boxes_cxcywh: (T, Q, 4).
        selected: (N,) int64, ascending: queries among the best (query, class) pairs.
        coarse_logits: (N, T, h8, w8).
        refined: what the refiner says, or None without one.
    """

    features: ClipFeatures
    query: Tensor
    logits: Tensor
    boxes_cxcywh: Tensor
    selected: Tensor
    coarse_logits: Tensor
    refined: RefinerOutput | None


@register(META_ARCHITECTURES, "VideoMaskTransfiner")
class VideoMaskTransfiner(ClipModel):
    """SeqFormer with an optional refiner.

    Sources: SeqFormer, arXiv:2112.08275; Video Mask Transfiner, arXiv:2207.14012.

    Args:
        backbone: feature pyramid.
        neck: backbone maps to levels.
        encoder: levels to memory.
        decoder: queries to tracklets.
        class_heads: one per decoder layer.
        box_heads: one per decoder layer.
        coarse: stride-8 masks.
        refiner: sharper masks, or None.
        options: see ``ModelOptions``.
        criterion: losses of the base.
        refiner_criterion: losses of the refiner, or None without one.
        top_k: (query, class) pairs that select queries at inference.
    """

    takes_adversary = True

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        encoder: Encoder,
        decoder: Decoder,
        class_heads: ClassHeads,
        box_heads: BoxHeads,
        coarse: MaskHead,
        refiner: Refiner | None,
        options: ModelOptions,
        criterion: SetCriterion,
        refiner_criterion: RefinerLosses | None,
        top_k: int = 10,
    ) -> None:
        super().__init__(options)
        self.backbone = backbone
        self.neck = neck
        self.encoder = encoder
        self.decoder = decoder
        self.heads = nn.ModuleDict({"cls": class_heads, "box": box_heads})
        self.coarse = coarse
        self.refiner = refiner
        self.criterion = criterion
        self.refiner_criterion = refiner_criterion
        self.top_k = top_k

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> Self:
        """Build from ``MODEL`` and ``TEST``.

        Raises:
            ConfigError: an unknown backbone or refiner, or values that do not fit together.
        """
        return cls(**cls.parts(cfg, label_space))

    @staticmethod
    def parts(cfg: CfgNode, label_space: LabelSpace) -> dict[str, Any]:
        """Arguments of the constructor; see ``from_config``."""
        node = cfg.MODEL.SEQFORMER
        backbone = build_backbone(cfg)
        attention = {
            "dim": node.HIDDEN_DIM,
            "num_levels": node.NUM_LEVELS,
            "num_heads": node.NUM_HEADS,
            "num_points": node.NUM_POINTS,
            "ffn_dim": node.FFN_DIM,
            "dropout": node.DROPOUT,
        }
        refiner, refiner_criterion = None, None
        if cfg.MODEL.REFINER.NAME != "none":
            entry = lookup(REFINERS, cfg.MODEL.REFINER.NAME, "MODEL.REFINER.NAME (or none)")
            refiner = entry.from_config(cfg, backbone.channels, node.HIDDEN_DIM)
            refiner_criterion = entry.criterion(cfg)
        loss, matcher = cfg.MODEL.LOSS, cfg.MODEL.MATCHER
        focal = {"focal_alpha": loss.FOCAL_ALPHA, "focal_gamma": loss.FOCAL_GAMMA}
        return {
            "backbone": backbone,
            "neck": Neck(backbone, node.HIDDEN_DIM, node.NUM_LEVELS),
            "encoder": Encoder(
                node.ENCODER_LAYERS,
                **attention,
                branch=_addition(cfg, ENCODER_BRANCHES, "ENCODER_BRANCH"),
                frame_chunk=cfg.TEST.FRAME_CHUNK,
            ),
            "decoder": Decoder(
                node.DECODER_LAYERS,
                node.NUM_QUERIES,
                **attention,
                frame_chunk=cfg.TEST.FRAME_CHUNK,
                mixer=_addition(cfg, BOX_MIXERS, "BOX_MIXER"),
            ),
            "class_heads": ClassHeads(node.DECODER_LAYERS, node.HIDDEN_DIM, len(label_space)),
            "box_heads": BoxHeads(node.DECODER_LAYERS, node.HIDDEN_DIM),
            "coarse": MaskHead(node.HIDDEN_DIM, node.MASK_CHANNELS),
            "refiner": refiner,
            "options": ModelOptions.from_config(cfg, label_space),
            "criterion": SetCriterion(
                HungarianClipMatcher(
                    matcher.CLASS_COST,
                    matcher.BOX_COST,
                    matcher.GIOU_COST,
                    box_norm=matcher.BOX_NORM,
                    mask_absent=matcher.MASK_ABSENT,
                    **focal,
                ),
                loss.CLASS_WEIGHT,
                loss.BOX_WEIGHT,
                loss.GIOU_WEIGHT,
                loss.MASK_WEIGHT,
                loss.DICE_WEIGHT,
                deep_supervision=loss.DEEP_SUPERVISION,
                mask_absent=matcher.MASK_ABSENT,
                **focal,
            ),
            "refiner_criterion": refiner_criterion,
            "top_k": cfg.TEST.TOP_K,
        }

    def stages(self) -> list[nn.Module]:
        """Layers of encoder and decoder."""
        return [*self.encoder.layers, *self.decoder.layers]

    def lr_groups(self) -> dict[str, str]:
        """The reference points of the decoder too learn as slowly as sampling offsets."""
        return {**super().lr_groups(), "decoder.reference.": "SAMPLING_FACTOR"}

    # --- training -------------------------------------------------------------------------------

    def losses(self, batch: ClipBatch, adversary: Judge | None = None) -> dict[str, Tensor]:
        """See ``VideoModel``."""
        frames, padding = self.pad([self.normalise(clip) for clip in batch.clips])
        num_frames, targets = batch.num_frames, batch.targets
        features = self._encode(frames, padding, num_frames)
        states = self.decoder(features.memory, features.levels, num_frames, self._box_heads)
        predictions = DecoderOutputs(
            torch.stack([self._class_logits(i, s.query) for i, s in enumerate(states)]),
            torch.stack([s.boxes for s in states]),
        )
        mask_features = unfold_frames(features.mask_features, num_frames)

        def mask_head(layer: int, clip: int, query_index: Tensor) -> Tensor:
            state = states[layer]
            centres_px = self._centres_px(state, clip, query_index, targets[clip].input_size)
            masks = self.coarse(state.query[clip, query_index], centres_px, mask_features[clip])
            return aligned_upsample2(masks)

        result = self.criterion(predictions, targets, mask_head)
        losses = {k: self.criterion.weight(k) * v for k, v in result.losses.items()}
        if self.refiner_criterion is not None:
            outputs = self._refine_matches(
                unfold_frames(frames, num_frames), features, states[-1], targets, result
            )
            refined = self.refiner_criterion.measure(
                outputs, targets, result.last_matches, result.num_tracklets
            )
            losses |= {k: self.refiner_criterion.weight(k) * v for k, v in refined.items()}
        if adversary is not None:
            losses |= adversary(self._evidence(frames, features, targets, result))
        return losses

    @staticmethod
    def _evidence(
        frames: Tensor,
        features: ClipFeatures,
        targets: Sequence[ClipTargets],
        result: CriterionResult,
    ) -> Evidence:
        """What a judge is shown; frames (B*T, 3, H, W)."""
        h8, w8 = features.levels.shapes[0]
        nothing = frames.new_zeros(0, targets[0].num_frames, 2 * h8, 2 * w8)
        return Evidence(
            frames,
            features.memory,
            features.levels.shapes,
            features.levels.padding_mask,
            [masks if masks is not None else nothing for masks in result.last_masks],
            targets,
            [match.target_index for match in result.last_matches],
            result.num_tracklets,
        )

    def _refine_matches(
        self,
        frames: Tensor,
        features: ClipFeatures,
        state: LayerState,
        targets: Sequence[ClipTargets],
        result: CriterionResult,
    ) -> list[RefinerOutput]:
        """Refine the matched queries of every clip; frames (B, T, 3, H, W)."""
        num_frames = frames.shape[1]
        outputs = []
        for clip, target in enumerate(targets):
            rows = slice(clip * num_frames, (clip + 1) * num_frames)
            query_index = result.last_matches[clip].query_index
            centres_px = self._centres_px(state, clip, query_index, target.input_size)
            query = state.query[clip, query_index]
            coarse = self.coarse(query, centres_px, features.mask_features[rows])
            refined = self._refine(
                frames[clip],
                features,
                rows,
                coarse,
                query,
                centres_px,
                state.boxes[clip][:, query_index].transpose(0, 1),
                target.input_size,
                state.box_query[clip][:, query_index].transpose(0, 1),
                target.masks[result.last_matches[clip].target_index],
            )
            assert refined is not None, "there are losses of a refiner only with a refiner"
            outputs.append(refined)
        return outputs

    # --- inference ------------------------------------------------------------------------------

    def segment_clip(self, frames: Tensor) -> ClipTracklets:
        """See ``ClipModel``; at most ``top_k`` tracklets."""
        out = self.run_clip(self.normalise(frames))
        masks, stride = out.coarse_logits, COARSE_STRIDE
        if out.refined is not None:
            masks, stride = out.refined.mask_logits, out.refined.mask_stride
        return ClipTracklets(
            query_index=out.selected,
            class_probs=out.logits[out.selected].float().sigmoid(),
            embeddings=out.query[out.selected],
            boxes_cxcywh=out.boxes_cxcywh[:, out.selected].transpose(0, 1),
            mask_logits=masks,
            mask_stride=stride,
            input_size=(int(frames.shape[-2]), int(frames.shape[-1])),
        )

    @torch.inference_mode()
    def run_clip(self, frames: Tensor) -> ClipForward:
        """``segment_clip`` from normalised frames, with every stage kept.

        Args:
            frames: (T, 3, H, W), normalised.
        """
        with arithmetic(self.precision, self.device):
            return self._run_clip(frames.to(self.device))

    def reference_arrays(self, frames: Tensor) -> dict[str, Tensor]:
        """See ``ClipModel``; masks after the published upsampling by 2."""
        out = self.run_clip(frames)
        arrays = {
            "memory": out.features.memory,
            "query": out.query,
            "logits": out.logits,
            "boxes": out.boxes_cxcywh,
            "selected": out.selected,
            "masks_coarse": aligned_upsample2(out.coarse_logits),
        }
        if out.refined is not None:
            arrays["masks_stride4"] = aligned_upsample2(out.refined.stage_logits)
            arrays["masks_refined"] = aligned_upsample2(out.refined.mask_logits)
        return arrays

    def _run_clip(self, frames: Tensor) -> ClipForward:
        num_frames = len(frames)
        features = self._encode_chunked(frames)
        state = self.decoder(features.memory, features.levels, num_frames, self._box_heads)[-1]
        query = state.query[0]
        logits = self._class_logits(-1, query)
        selected = self.select(logits)
        size = (int(frames.shape[-2]), int(frames.shape[-1]))
        centres_px = self._centres_px(state, 0, selected, size)
        coarse = self.coarse(query[selected], centres_px, features.mask_features)
        boxes = state.boxes[0]
        everything = slice(0, num_frames)
        refined = self._refine(
            frames,
            features,
            everything,
            coarse,
            query[selected],
            centres_px,
            boxes[:, selected].transpose(0, 1),
            size,
            state.box_query[0][:, selected].transpose(0, 1),
        )
        return ClipForward(features, query, logits, boxes, selected, coarse, refined)

    def select(self, logits: Tensor) -> Tensor:
        """Distinct queries among the ``top_k`` best (query, class) pairs.

        Args:
            logits: (Q, num_classes).

        Returns:
            (N,) int64, ascending.
        """
        scores = logits.float().sigmoid().flatten()
        best = scores.topk(min(self.top_k, len(scores))).indices
        queries: Tensor = torch.div(best, logits.shape[1], rounding_mode="floor").unique()
        return queries

    # --- shared ---------------------------------------------------------------------------------

    def _encode(
        self, frames: Tensor, padding: Tensor | None = None, num_frames: int = 1
    ) -> ClipFeatures:
        kept, maps = self._pyramid(frames)
        memory, levels = self.encoder(maps, padding, num_frames)
        masks = self._mask_maps(memory, levels)
        return ClipFeatures(
            memory, levels, stride4=kept["stride4"], stride2=kept["stride2"], **masks
        )

    def _pyramid(self, frames: Tensor) -> tuple[dict[str, Tensor | None], list[Tensor]]:
        """Backbone maps kept for the refiner, and the levels of the encoder."""
        maps = self.backbone(frames.contiguous(memory_format=torch.channels_last))
        keep = self.refiner is not None
        kept = {"stride4": maps[4] if keep else None, "stride2": maps.get(2) if keep else None}
        return kept, self.neck(maps)

    def _mask_maps(self, memory: Tensor, levels: Levels) -> dict[str, Tensor]:
        fused = self.coarse.fuse(memory, levels.shapes)
        return {"fused": fused, "mask_features": self.coarse.mask_features(fused)}

    def _encode_chunked(self, frames: Tensor) -> ClipFeatures:
        """``_encode`` some frames at a time, each result put in place: one copy exists at most.

        An encoder that mixes frames gets all of them at once; what comes before and behind it is
        still cut.
        """
        num_frames = len(frames)
        chunks = list(frame_chunks(num_frames, self.frame_chunk))
        if len(chunks) == 1:
            return self._encode(frames, num_frames=num_frames)
        if self.encoder.mixes_frames:
            return self._encode_together(frames, chunks)
        shapes: list[tuple[tuple[int, int], ...]] = []
        ratios: list[Tensor] = []

        def encode(rows: slice) -> dict[str, Tensor | None]:
            part = self._encode(frames[rows])
            shapes.append(part.levels.shapes)
            ratios.append(part.levels.valid_ratios[:1])
            names = ("memory", "fused", "mask_features", "stride4", "stride2")
            return {name: getattr(part, name) for name in names}

        whole = _in_place(encode, chunks, num_frames)
        levels = Levels(shapes[0], ratios[0].expand(num_frames, -1, -1), None)
        return ClipFeatures(levels=levels, **whole)  # type: ignore[arg-type]

    def _encode_together(self, frames: Tensor, chunks: list[slice]) -> ClipFeatures:
        def pyramid(rows: slice) -> dict[str, Tensor | None]:
            kept, maps = self._pyramid(frames[rows])
            return kept | {f"level{i}": level for i, level in enumerate(maps)}

        whole = _in_place(pyramid, chunks, len(frames))
        maps = [whole.pop(name) for name in list(whole) if name.startswith("level")]
        memory, levels = self.encoder(maps, None, len(frames))
        del maps
        masks = _in_place(lambda rows: self._mask_maps(memory[rows], levels), chunks, len(frames))
        return ClipFeatures(memory, levels, **masks, **whole)  # type: ignore[arg-type]

    def _refine(
        self,
        frames: Tensor,
        features: ClipFeatures,
        rows: slice,
        coarse: Tensor,
        query: Tensor,
        centres_px: Tensor,
        boxes: Tensor,
        frame_size: tuple[int, int],
        box_query: Tensor,
        masks_gt: Tensor | None = None,
    ) -> RefinerOutput | None:
        """Refine one clip: frames (T, 3, H, W), whose features are ``rows`` of the batch's."""
        if self.refiner is None:
            return None
        assert features.stride4 is not None, "stride-4 maps are kept for the refiner"
        stride2 = features.stride2[rows] if features.stride2 is not None else None
        inputs = RefinerInput(
            frames,
            features.stride4[rows],
            stride2,
            features.fused[rows],
            coarse,
            query,
            centres_px,
            boxes,
            frame_size,
            box_query,
            masks_gt,
        )
        refined: RefinerOutput = self.refiner(inputs)
        return refined

    @property
    def _box_heads(self) -> BoxHeads:
        heads = self.heads["box"]
        assert isinstance(heads, BoxHeads), "built with box heads"
        return heads

    def _class_logits(self, layer: int, query: Tensor) -> Tensor:
        heads = self.heads["cls"]
        assert isinstance(heads, ClassHeads), "built with class heads"
        logits: Tensor = heads[layer](query)
        return logits

    @staticmethod
    def _centres_px(
        state: LayerState, clip: int, query_index: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """(N, T, 2) as (x, y) in pixels of the unpadded frame."""
        centres = state.centres[clip][:, query_index].transpose(0, 1)
        return centres * centres.new_tensor([size[1], size[0]])


def _addition(cfg: CfgNode, table: Registry, key: str) -> Callable[[], Any] | None:
    """What ``MODEL.SEQFORMER`` adds to every layer of encoder or decoder: its maker, or None."""
    name = cfg.MODEL.SEQFORMER[key]
    if name == "none":
        return None
    entry = lookup(table, name, f"MODEL.SEQFORMER.{key} (or none)")
    return lambda: entry.from_config(cfg)


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
