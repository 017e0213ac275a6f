"""Sharp masks from coarse ones, with a query that is pooled under the mask. Wiring only."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from vmt.modeling.adversarial import Adversary
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.mask_refiner.coarseness import displacement, odds_of_given
from vmt.modeling.mask_refiner.pooled import CutOutModel, CutOuts, cut_targets
from vmt.modeling.mask_refiner.prompt import STRIDES, by_pixel, looked_at_cells
from vmt.modeling.refiners.base import (
    Refiner,
    RefinerLosses,
    RefinerOutput,
    refinement_losses,
    zero_loss,
)
from vmt.modeling.registry import META_ARCHITECTURES, REFINERS, lookup, register
from vmt.modeling.video_model import ClipBatch, ModelOptions, RefinedTube
from vmt.ops.resize import aligned_upsample2
from vmt.structures.labels import LabelSpace
from vmt.utils.device import index_on
from vmt.utils.errors import ConfigError
from vmt.utils.precision import arithmetic, autocast
from vmt.utils.threads import map_on_cores

#: Stride-2 cells along a side of a stride-8 cell.
FINE = STRIDES[0] // STRIDES[-1]


@register(META_ARCHITECTURES, "MaskRefiner")
class PooledMaskRefiner(CutOutModel):
    """Sharpens given masks, of any class and from any source, tracklet by tracklet.

    The paper's annotation refinement (arXiv:2207.14012, section 3.2) takes its instance queries
    from a detector (``QueryMaskRefiner``). Here the query is pooled under the mask, so that none is
    needed (ours).

    Args:
        options: see ``ModelOptions``; the network knows no classes.
        backbone: see ``CutOutModel``.
        refiner: with ``has_stride2``, from the registry.
        criterion: its losses.
        dim: see ``CutOutModel``.
        embed_dim: see ``CutOutModel``.
        cut_outs: see ``CutOuts``.
        train_tracklets: most tracklets per clip in training, at random; 0: all.
        dense_weight: of ``loss_mask_dense``, cross entropy of the mask at stride 2 as a linear
            layer reads it off the stride-8 map, in training; it tells every cell what nodes alone
            hardly can. 0: without.
        coarseness_weight: of ``loss_coarseness``, how far off the estimate of ``Coarseness`` is.
        prior: of ``odds_of_given``, which are added to what the refiner says, not in training;
            none: nothing is added.
    """

    knows_classes = False

    def __init__(
        self,
        options: ModelOptions,
        backbone: Backbone,
        refiner: Refiner,
        criterion: RefinerLosses,
        dim: int,
        embed_dim: int,
        cut_outs: CutOuts,
        train_tracklets: int,
        dense_weight: float,
        coarseness_weight: float,
        prior: tuple[float, ...] = (),
    ) -> None:
        super().__init__(options, backbone, dim, embed_dim, cut_outs)
        self.dense = nn.Conv2d(dim, FINE**2, 1) if dense_weight else None
        self.dense_weight = dense_weight
        self.coarseness_weight = coarseness_weight
        self.prior = prior
        self.refiner = refiner
        self.criterion = criterion
        self.train_tracklets = train_tracklets

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> PooledMaskRefiner:
        """Build from ``MODEL``.

        Raises:
            ConfigError: an unknown backbone or refiner, or values that do not fit together.
        """
        node = cfg.MODEL.MASK_REFINER
        cut_outs = CutOuts(
            (node.CROP_SIZES[0], node.CROP_SIZES[1]),
            tuple(node.COLOUR_RADII_PX),
            node.VOTES_REACH,
            node.COARSENESS_WEIGHT > 0,
            tuple(node.DETAIL_WIDTHS),
        )
        backbone = build_backbone(cfg, in_channels=cut_outs.channels)
        if 2 not in backbone.channels:
            raise ConfigError(
                f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} has no map of stride 2."
            )
        if node.PRIOR and (len(node.PRIOR) != 3 or not cut_outs.estimates_coarseness):
            raise ConfigError(
                f"MODEL.MASK_REFINER.PRIOR {list(node.PRIOR)}: give three numbers, and "
                "MODEL.MASK_REFINER.COARSENESS_WEIGHT above 0, without which nothing is estimated."
            )
        width = cfg.MODEL.REFINER.EMBED_DIM
        # Its stride-2 map is projected to the refiner's width on the way.
        channels = {**backbone.channels, 2: width}
        if node.DETAIL_WIDTHS:
            channels[4] = node.DETAIL_WIDTHS[0]
        if node.VOTES_REACH:
            channels[1] = cut_outs.channels
        entry = lookup(REFINERS, cfg.MODEL.REFINER.NAME, "MODEL.REFINER.NAME")
        return cls(
            ModelOptions.from_config(cfg, label_space),
            backbone,
            entry.from_config(cfg, channels, node.DIM),
            entry.criterion(cfg),
            dim=node.DIM,
            embed_dim=width,
            cut_outs=cut_outs,
            train_tracklets=cfg.MODEL.REFINER.TRAIN_TRACKLETS,
            dense_weight=node.DENSE_WEIGHT,
            coarseness_weight=node.COARSENESS_WEIGHT,
            prior=tuple(node.PRIOR),
        )

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """Means over the tracklets that were drawn; see ``VideoModel``."""
        drawn = [self._draw(coarse) for coarse in batch.coarse_masks]
        count = self.loss_count(batch)
        losses: dict[str, Tensor] = {}
        votes = batch.votes or (None,) * len(drawn)
        clips = zip(batch.clips, batch.targets, batch.coarse_masks, votes, drawn, strict=True)
        for frames, targets, coarse, said, tracklets in clips:
            for g in tracklets:
                present = coarse[g].flatten(1).any(1)
                own = self._tracklet_losses(
                    frames[present],
                    coarse[g, present],
                    targets.masks[g, present],
                    None if said is None else said[g, present],
                )
                for name, loss in own.items():
                    part = loss / count
                    losses[name] = losses[name] + part if name in losses else part
        return losses or {"loss_mask_refine": zero_loss(self)}

    def loss_count(self, batch: ClipBatch) -> float:
        """Tracklets that this process draws; see ``VideoModel``."""
        present = [int(coarse.flatten(1).any(1).sum()) for coarse in batch.coarse_masks]
        limit = self.train_tracklets or max(present, default=0)
        return max(float(sum(min(count, limit) for count in present)), 1.0)

    def left_undone(self) -> str:
        """Points that the refiner left as they were; see ``VideoModel``."""
        return self.refiner.points_left_out()

    def _draw(self, coarse: Tensor) -> list[int]:
        """Which tracklets of (G, T, H, W) to learn from: none without a coarse pixel."""
        present = coarse.flatten(1).any(1).nonzero()[:, 0]
        order = torch.randperm(len(present))
        if self.train_tracklets:
            order = order[: self.train_tracklets]
        return [int(g) for g in present[order]]

    def _tracklet_losses(
        self, frames: Tensor, coarse: Tensor, masks_gt: Tensor, votes: Tensor | None
    ) -> dict[str, Tensor]:
        """Weighted, of one tracklet, (T, 3, H, W), (T, H, W), (T, H, W) and (T, 2, H, W)."""
        crop = self.cut_out(coarse, votes)
        targets = cut_targets(masks_gt, crop)
        inputs, coarseness = self.refiner_input(frames, coarse, crop, targets.masks, votes)
        losses = refinement_losses(self.criterion, [self.refiner(inputs)], [targets], 1)
        if self.dense is not None:
            logits = F.pixel_shuffle(self.dense(inputs.fused), FINE)
            shares = F.avg_pool2d(targets.masks[0][:, None].float(), STRIDES[-1])
            dense = F.binary_cross_entropy_with_logits(logits, shares)
            losses["loss_mask_dense"] = self.dense_weight * dense
        if coarseness is not None:
            truth = displacement(crop.cut(coarse[:, None]), targets.masks[0])
            off = F.smooth_l1_loss(coarseness.float(), truth)
            losses["loss_coarseness"] = self.coarseness_weight * off
        return losses

    def refine_tubes(
        self, frames: Tensor, masks: Tensor, votes: Tensor | None = None
    ) -> Iterator[RefinedTube]:
        """Sharpen tracklet by tracklet, each cut out of its frames; on a CPU, one per core."""
        shown = masks.flatten(2).any(2).tolist()
        frames_of = {
            tracklet: [t for t, some in enumerate(row) if some]
            for tracklet, row in enumerate(shown)
            if any(row)
        }

        several = self.device.type == "cpu" and len(frames_of) > 1
        # Threads leave alone what they share; it is for GPUs.
        context = autocast if several else arithmetic

        def refine(tracklet: int) -> RefinedTube:
            said = None if votes is None else votes[tracklet]
            with torch.no_grad(), context(self.precision, self.device):
                return self._refine_tube(
                    frames, masks[tracklet], said, tracklet, frames_of[tracklet]
                )

        return (map_on_cores if several else map)(refine, frames_of)

    def _refine_tube(
        self,
        frames: Tensor,
        coarse: Tensor,
        votes: Tensor | None,
        tracklet: int,
        present: list[int],
    ) -> RefinedTube:
        """One of ``refine_tubes``, with a mask: (T, 3, H, W), (T, H, W) and (T, 2, H, W)."""
        own = frames if len(present) == len(frames) else frames[index_on(frames.device, present)]
        coarse, said = coarse[present], None if votes is None else votes[present]
        crop = self.cut_out(coarse, said)
        inputs, coarseness = self.refiner_input(own, coarse, crop, votes=said)
        output: RefinerOutput = self.refiner(inputs)
        logits = aligned_upsample2(output.mask_logits.float())[0]  # (T, h, w)
        if coarseness is not None and self.prior:
            odds = odds_of_given(coarseness, self.prior)
            inside = crop.cut(coarse[:, None], device=logits.device)[:, 0] > 0.5
            logits = logits + torch.where(inside, odds, -odds)
        looked_at = by_pixel(looked_at_cells(inputs.given[0], output)[0])
        return RefinedTube(
            tracklet,
            present,
            crop.restore(logits.sigmoid()),
            crop.restore(looked_at.float()) > 0.5,
            crop.places(),
        )
