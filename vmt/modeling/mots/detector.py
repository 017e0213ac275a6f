"""Mask R-CNN of torchvision's parts on our backbones, with embeddings of its regions.

Letters: N frames, P regions of all of them, D detections of a frame, m cells per side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.mots.embedding import EmbeddingHead
from vmt.modeling.mots.options import DetectorOptions
from vmt.modeling.mots.partial_labels import (
    ProposalNetwork,
    region_class_loss,
    unlabelled_classes,
)
from vmt.modeling.mots.regions import RegionPooler, masks_in_regions
from vmt.modeling.video_model import FrameModel, FrameOutputs, ModelOptions
from vmt.structures.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from vmt.structures.frame_targets import FrameTargets
from vmt.structures.roi_masks import STRIDE, RoiMasks
from vmt.structures.track_window import FrameMaps
from vmt.utils.device import constant
from vmt.utils.precision import no_autocast

#: Height per width of the anchors.
ASPECTS = (0.5, 1.0, 2.0)
#: Sides in cells of what box and embedding heads, and the mask head, read of a region.
BOX_CELLS, MASK_CELLS = 7, 14
#: Logit of the classes that a detection is not of: a probability of 0.
NOT_THIS_CLASS = -1e4


@dataclass(frozen=True)
class Pyramid:
    """Features of N frames.

    Args:
        levels: name of a level -> (N, dim, h, w), fp32; finest first. Names are strides,
            but for that of the last.
        padded: (H, W) of the frames, padding included, in pixels.
        sizes: N times (H, W) before padding, in pixels.
        maps: of the backbone, by stride.
    """

    levels: dict[str, Tensor]
    padded: tuple[int, int]
    sizes: list[tuple[int, int]]
    maps: dict[int, Tensor]

    def __len__(self) -> int:
        return len(self.sizes)

    def select(self, rows: slice) -> Pyramid:
        """Some of the frames, as views."""
        return Pyramid(
            {name: level[rows] for name, level in self.levels.items()},
            self.padded,
            self.sizes[rows],
            {stride: level[rows] for stride, level in self.maps.items()},
        )

    def pool(self, pooler: RegionPooler, boxes_px: list[Tensor]) -> Tensor:
        """Features of regions, N times (P, 4) xyxy in pixels -> (R, dim, cells, cells)."""
        by_stride = {int(name): level for name, level in self.levels.items() if name.isdigit()}
        regions: Tensor = pooler(by_stride, boxes_px)
        return regions


@dataclass(frozen=True)
class Detections:
    """What the second stage finds in a frame, the surest first.

    Args:
        boxes_px: (D, 4) xyxy in pixels of the frame.
        scores: (D,) in [0, 1].
        labels: (D,) int64, from 0.
    """

    boxes_px: Tensor
    scores: Tensor
    labels: Tensor


class TwoStageDetector(FrameModel):
    """Faster R-CNN with a pyramid, a mask head and an embedding head.

    Proposals, box heads, mask head and their losses are torchvision's. Everything behind the
    pyramid is computed in fp32, whatever autocast says: boxes are moved by small numbers.

    Args:
        backbone: gives the maps of all strides of ``network``.
        network: sizes.
        options: see ``ModelOptions``.
    """

    not_captured = "proposals are filtered by non-maximum suppression, whose answer the host reads"
    not_exported = "proposals are filtered by non-maximum suppression, so that no shape is known"

    def __init__(self, backbone: Backbone, network: DetectorOptions, options: ModelOptions) -> None:
        super().__init__(options)
        self.backbone = backbone
        dim, classes = network.dim, len(options.label_space) + 1
        self.strides = network.strides
        self.neck = FeaturePyramidNetwork(
            [backbone.channels[stride] for stride in self.strides], dim, LastLevelMaxPool()
        )
        self.rpn = _proposal_network(network)
        self.roi_heads = _region_heads(network, classes)
        self.embedding = EmbeddingHead(
            dim, BOX_CELLS, network.head_convs, network.fc_dim, network.embed_dim
        )

    def stages(self) -> list[nn.Module]:
        """The heads."""
        heads = self.roi_heads
        return [self.rpn.head, heads.box_head, heads.mask_head, self.embedding]

    # --- parts ----------------------------------------------------------------------------------

    def pyramid(self, frames: Tensor, sizes: list[tuple[int, int]]) -> Pyramid:
        """Features of N frames.

        Args:
            frames: (N, 3, H, W), normalised and padded.
            sizes: N times (H, W) before padding.
        """
        maps = self.backbone(frames.contiguous(memory_format=torch.channels_last))
        levels = self.neck({str(stride): maps[stride] for stride in self.strides})
        levels = {name: level.float() for name, level in levels.items()}
        return Pyramid(levels, (int(frames.shape[-2]), int(frames.shape[-1])), sizes, maps)

    def proposals(
        self, features: Pyramid, targets: Sequence[FrameTargets] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The first stage: per frame (P, 4) boxes xyxy in pixels; losses in training."""
        frames = next(iter(features.levels.values())).new_empty(0, 3, *features.padded)
        found: tuple[list[Tensor], dict[str, Tensor]] = self.rpn(
            ImageList(frames, features.sizes), features.levels, rcnn_targets(targets, features)
        )
        return found

    def region_losses(
        self, features: Pyramid, proposals: list[Tensor], targets: Sequence[FrameTargets]
    ) -> dict[str, Tensor]:
        """Losses of the second stage and of the mask head.

        The mask head learns from the positives, but for those of frames without masks.
        """
        heads, told = self.roi_heads, rcnn_targets(targets, features)
        drawn, owner, labels, deltas = heads.select_training_samples(list(proposals), told)
        regions = features.pool(heads.box_roi_pool, drawn)
        logits, moves = heads.box_predictor(heads.box_head(regions))
        _, loss_box = fastrcnn_loss(logits, moves, labels, deltas)
        unlabelled = [
            unlabelled_classes(target, logits.shape[1], self.device).expand(len(own), -1)
            for target, own in zip(targets, labels, strict=True)
        ]
        loss_class = region_class_loss(logits, torch.cat(labels), torch.cat(unlabelled))
        positive = [
            (label > 0) & (not target.boxes_only)
            for label, target in zip(labels, targets, strict=True)
        ]
        boxes = [box[own] for box, own in zip(drawn, positive, strict=True)]
        classes = [label[own] - 1 for label, own in zip(labels, positive, strict=True)]
        masks = self.mask_logits(features.pool(heads.mask_roi_pool, boxes), classes)
        truth = [
            masks_in_regions(target.masks, index[own], box, masks.shape[-1])
            for target, index, own, box in zip(targets, owner, positive, boxes, strict=True)
        ]
        loss_mask = F.binary_cross_entropy_with_logits(
            masks, torch.cat(truth), reduction="sum"
        ) / max(masks.numel(), 1)
        return {"loss_classifier": loss_class, "loss_box_reg": loss_box, "loss_mask": loss_mask}

    def detect(self, features: Pyramid, proposals: list[Tensor]) -> list[Detections]:
        """The second stage on given proposals, N lists."""
        heads = self.roi_heads
        regions = features.pool(heads.box_roi_pool, proposals)
        found = heads.postprocess_detections(
            *heads.box_predictor(heads.box_head(regions)), proposals, features.sizes
        )
        rows = zip(*found, strict=True)
        return [Detections(boxes, scores, labels - 1) for boxes, scores, labels in rows]

    def embed(self, features: Pyramid, boxes_px: list[Tensor]) -> list[Tensor]:
        """Embeddings of regions: per frame (P, 4) xyxy in pixels -> (P, C_e)."""
        embeddings: Tensor = self.embedding(features.pool(self.roi_heads.box_roi_pool, boxes_px))
        return list(embeddings.split([len(boxes) for boxes in boxes_px]))

    def mask_logits(self, regions: Tensor, labels: list[Tensor]) -> Tensor:
        """(R, m, m) masks of (R, dim, cells, cells) regions, each of its own class."""
        heads = self.roi_heads
        logits: Tensor = heads.mask_predictor(heads.mask_head(regions))  # (R, classes + 1, m, m)
        return logits[torch.arange(len(logits), device=logits.device), torch.cat(labels) + 1]

    def queries(self, regions: Tensor) -> Tensor | None:
        """(R, C) what a refiner reads of (R, dim, cells, cells) regions; None without one."""
        return None

    # --- inference ------------------------------------------------------------------------------

    def outputs(self, frames: Tensor) -> list[FrameOutputs]:
        """What (N, 3, H, W) frames, normalised, are to an association."""
        size = int(frames.shape[-2]), int(frames.shape[-1])
        padded, _ = self.pad([frames])
        features = self.pyramid(padded, [size] * len(frames))
        with no_autocast(self.device):
            proposals, _ = self.proposals(features)
            found = self.detect(features, proposals)
            boxes, labels = [f.boxes_px for f in found], [f.labels for f in found]
            regions = features.pool(self.roi_heads.mask_roi_pool, boxes)
            masks, queries = self.mask_logits(regions, labels), self.queries(regions)
            embeddings = self.embed(features, boxes)
        maps = FrameMaps.of(padded, features.maps, features.levels["8"])
        rows = _slices([len(own) for own in boxes])
        scale = constant((size[1], size[0]) * 2, padded)
        return [
            FrameOutputs(
                logits=self._class_logits(found[n]),
                boxes_cxcywh=xyxy_to_cxcywh(boxes[n] / scale),
                mask_logits=RoiMasks(masks[rows[n]], boxes[n], size),
                embeddings=embeddings[n],
                mask_stride=STRIDE,
                input_size=size,
                query=None if queries is None else queries[rows[n]],
                maps=maps[n] if self.keeps_maps else None,
            )
            for n in range(len(frames))
        ]

    def _class_logits(self, found: Detections) -> Tensor:
        """(D, num_classes): detections are of one class each, as non-maximum suppression is."""
        shape = len(found.labels), len(self.label_space)
        logits = found.scores.new_full(shape, NOT_THIS_CLASS)
        rows = torch.arange(len(found.labels), device=logits.device)
        logits[rows, found.labels] = torch.logit(found.scores, 1e-7)
        return logits


def _slices(counts: Sequence[int]) -> list[slice]:
    """Rows of frames that lie one behind the other."""
    ends = list(accumulate(counts))
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def boxes_in_px(target: FrameTargets, padded: tuple[int, int]) -> Tensor:
    """(G, 4) xyxy in pixels of the objects of a frame that is padded to (H, W)."""
    boxes = target.boxes_cxcywh
    return cxcywh_to_xyxy(boxes * constant((padded[1], padded[0]) * 2, boxes))


def rcnn_targets(
    targets: Sequence[FrameTargets] | None, features: Pyramid
) -> list[dict[str, Any]] | None:
    """Targets as torchvision's parts read them; label 0 is the background there."""
    if targets is None:
        return None
    return [
        {
            "boxes": boxes_in_px(target, features.padded).float(),
            "labels": target.labels + 1,
            "masks": target.masks,
            "partial": bool(target.unlabelled),
        }
        for target in targets
    ]


def _proposal_network(network: DetectorOptions) -> ProposalNetwork:
    """The first stage: numbers as published for Faster R-CNN with a pyramid."""
    strides = (*network.strides, 2 * network.strides[-1])
    sizes = tuple((network.anchor_scale * stride,) for stride in strides)
    anchors = AnchorGenerator(sizes, (ASPECTS,) * len(strides))
    return ProposalNetwork(
        anchors,
        RPNHead(network.dim, len(ASPECTS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=network.rpn_samples,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2 * network.proposals, "testing": network.proposals},
        post_nms_top_n={"training": network.proposals, "testing": network.proposals},
        nms_thresh=0.7,
    )


def _region_heads(network: DetectorOptions, classes: int) -> RoIHeads:
    """The second stage; ``classes`` with the background."""
    dim = network.dim
    return RoIHeads(
        RegionPooler(BOX_CELLS),
        TwoMLPHead(dim * BOX_CELLS**2, network.fc_dim),
        FastRCNNPredictor(network.fc_dim, classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=network.box_samples,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=network.score,
        nms_thresh=network.nms_iou,
        detections_per_img=network.detections,
        mask_roi_pool=RegionPooler(MASK_CELLS),
        mask_head=MaskRCNNHeads(dim, (dim,) * network.head_convs, 1),
        mask_predictor=MaskRCNNPredictor(dim, dim, classes),
    )
