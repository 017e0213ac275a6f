"""Networks that sharpen given masks, and the one that needs no detector. Wiring only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from vmt.modeling.adversarial import Adversary
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.mask_refiner.prompt import (
    STRIDE,
    STRIDES,
    by_pixel,
    looked_at_cells,
    prompt_levels,
    prompt_of,
)
from vmt.modeling.meta_arch.query_refiner import QueryRefiner
from vmt.modeling.refiners.base import Refiner, RefinerInput, RefinerLosses, RefinerOutput
from vmt.modeling.registry import META_ARCHITECTURES, REFINERS, lookup, register
from vmt.modeling.video_model import ClipBatch, MaskRefinerModel, ModelOptions, RefinedTube
from vmt.ops.colour_cue import colour_cues
from vmt.ops.crops import TubeCrop, follow
from vmt.ops.resize import aligned_upsample2
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError
from vmt.utils.precision import arithmetic

#: Stride-2 cells along a side of a stride-8 cell.
FINE = STRIDES[0] // STRIDES[-1]
#: Groups of every group norm outside the backbone.
GROUPS = 8


class MaskPoolQuery(nn.Module):
    """The query of a tracklet from its mask: what is inside, and what surrounds it.

    Args:
        dim: channels of the features and of the query.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.LayerNorm(dim)
        )

    def forward(self, features: Tensor, inside: Tensor) -> Tensor:
        """Pool over space and time.

        Args:
            features: (T, C, h, w).
            inside: (T, h, w) in [0, 1], share of each cell that the mask covers.

        Returns:
            (1, C).
        """
        pooled = []
        for weight in (inside, 1 - inside):
            total = torch.einsum("tchw,thw->c", features, weight)
            pooled.append(total / weight.sum().clamp(min=1e-3))
        query: Tensor = self.mlp(torch.cat(pooled)[None])
        return query


class MaskRefinerNetwork(MaskRefinerModel):
    """Sharpens given masks, of any class and from any source, tracklet by tracklet.

    The paper's annotation refinement (arXiv:2207.14012, section 3.2) takes its instance queries
    from a detector (``QueryRefiner``). Here the query is pooled under the mask, so that none is
    needed (``MODEL.MASK_REFINER.QUERY_SOURCE: mask_pool``, ours). The object is cut out in every
    frame; the backbone reads RGB, the coarse mask, and colour cues.

    Args:
        backbone: with four input channels and a stride-2 map.
        refiner: with ``has_stride2``, from the registry.
        criterion: its losses.
        dim: channels of the fused map and of the query.
        embed_dim: channels of the refiner's maps.
        crop_sizes: shortest and longest side of cut-outs, see ``follow``.
        margin: see ``follow``.
        min_margin_px: see ``follow``; must be wider than any error of the coarse mask.
        band_cells: stride-8 cells around the coarse contour that are looked at in any case.
        prompt_levels: see ``prompt_of``.
        train_tracklets: most tracklets per clip in training, at random; 0: all.
        colour_radii_px: of ``colour_cues``, a channel for the backbone each; none: no cues.
        dense_weight: of ``loss_mask_dense``, cross entropy of the mask at stride 2 as a linear
            layer reads it off the fused map, in training; it tells every cell what nodes alone
            hardly can. 0: without.
        options: see ``ModelOptions``; the network knows no classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        refiner: Refiner,
        criterion: RefinerLosses,
        dim: int,
        embed_dim: int,
        crop_sizes: tuple[int, int],
        margin: float,
        min_margin_px: int,
        band_cells: int,
        prompt_levels: int,
        train_tracklets: int,
        colour_radii_px: Sequence[int],
        dense_weight: float,
        options: ModelOptions,
    ) -> None:
        super().__init__(options)
        self.backbone = backbone
        self.laterals = nn.ModuleDict(
            {str(s): nn.Conv2d(backbone.channels[s], dim, 1) for s in (8, 16, 32)}
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(GROUPS, dim), nn.ReLU()
        )
        self.stride2 = nn.Conv2d(backbone.channels[2], embed_dim, 1)
        self.query = MaskPoolQuery(dim)
        self.dense = nn.Conv2d(dim, FINE**2, 1) if dense_weight else None
        self.dense_weight = dense_weight
        self.refiner = refiner
        self.criterion = criterion
        self.crop_sizes = crop_sizes
        self.margin = margin
        self.min_margin_px = min_margin_px
        self.band_cells = band_cells
        self.prompt_levels = prompt_levels
        self.train_tracklets = train_tracklets
        self.colour_radii_px = tuple(colour_radii_px)

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> MaskRefinerNetwork:
        """Build from ``MODEL``.

        Raises:
            ConfigError: an unknown backbone or refiner, or values that do not fit together.
        """
        node = cfg.MODEL.MASK_REFINER
        backbone = build_backbone(cfg, in_channels=4 + len(node.COLOUR_RADII_PX))
        if 2 not in backbone.channels:
            raise ConfigError(
                f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} has no map of stride 2."
            )
        width = cfg.MODEL.REFINER.EMBED_DIM
        entry = lookup(REFINERS, cfg.MODEL.REFINER.NAME, "MODEL.REFINER.NAME")
        return cls(
            backbone=backbone,
            # Its stride-2 map is projected to the refiner's width on the way.
            refiner=entry.from_config(cfg, {**backbone.channels, 2: width}, node.DIM),
            criterion=entry.criterion(cfg),
            dim=node.DIM,
            embed_dim=width,
            crop_sizes=(node.CROP_SIZES[0], node.CROP_SIZES[1]),
            margin=node.MARGIN,
            min_margin_px=node.MIN_MARGIN_PX,
            band_cells=node.BAND_CELLS,
            prompt_levels=prompt_levels(cfg),
            train_tracklets=node.TRAIN_TRACKLETS,
            colour_radii_px=node.COLOUR_RADII_PX,
            dense_weight=node.DENSE_WEIGHT,
            options=ModelOptions.from_config(cfg, label_space),
        )

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """See ``VideoModel``."""
        chosen = [self._draw(coarse) for coarse in batch.coarse_masks]
        count = sum(map(len, chosen))
        losses: dict[str, Tensor] = {}
        clips = zip(batch.clips, batch.targets, batch.coarse_masks, chosen, strict=True)
        for frames, targets, coarse, tracklets in clips:
            for g in tracklets:
                shown = coarse[g].flatten(1).any(1)
                found = self._losses(frames[shown], coarse[g, shown], targets.masks[g, shown])
                for name, loss in found.items():
                    part = loss / max(count, 1)
                    losses[name] = losses[name] + part if name in losses else part
        if not losses:
            zero = torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0
            return {"loss_mask_refine": zero}
        return losses

    def _draw(self, coarse: Tensor) -> list[int]:
        """Which tracklets of (G, T, H, W) to learn from: none without a coarse pixel."""
        shown = coarse.flatten(1).any(1).nonzero()[:, 0]
        order = torch.randperm(len(shown))
        if self.train_tracklets:
            order = order[: self.train_tracklets]
        return [int(g) for g in shown[order]]

    def _losses(self, frames: Tensor, coarse: Tensor, masks_gt: Tensor) -> dict[str, Tensor]:
        """Weighted, of one tracklet, (T, 3, H, W), (T, H, W) and (T, H, W)."""
        crop = self._follow(coarse)
        wanted = crop.cut(masks_gt[:, None])[:, 0] >= 0.5
        inputs = self._inputs(frames, coarse, crop, wanted[None])
        output = self.refiner(inputs)
        one = torch.zeros(1, dtype=torch.int64, device=frames.device)
        scale = masks_to_boxes(wanted[None]).new_tensor(crop.size[::-1] * 2)
        targets = ClipTargets(
            labels=one,
            boxes_cxcywh=xyxy_to_cxcywh(masks_to_boxes(wanted[None]) / scale).clamp(min=1e-6),
            masks=wanted[None],
            valid=wanted[None].flatten(2).any(2),
        )
        found = self.criterion.measure([output], [targets], [Match(one, one)], 1)
        losses = {name: self.criterion.weight(name) * loss for name, loss in found.items()}
        if self.dense is not None:
            told = F.pixel_shuffle(self.dense(inputs.fused), FINE)
            masks = F.avg_pool2d(wanted[:, None].float(), STRIDES[-1])
            dense = F.binary_cross_entropy_with_logits(told, masks)
            losses["loss_mask_dense"] = self.dense_weight * dense
        return losses

    def _follow(self, coarse: Tensor) -> TubeCrop:
        return follow(coarse, self.margin, self.min_margin_px, *self.crop_sizes)

    def _inputs(
        self, frames: Tensor, coarse: Tensor, crop: TubeCrop, masks_gt: Tensor | None
    ) -> RefinerInput:
        """What the refiner is told of one tracklet; frames (T, 3, H, W) in [0, 255]."""
        pixels = crop.cut(frames, self.pixel_mean)  # (T, 3, h, w)
        pixels = (pixels - self.pixel_mean) / self.pixel_std
        share = crop.cut(coarse[:, None])  # (T, 1, h, w)
        prompt = prompt_of(share, self.band_cells, self.prompt_levels)
        cues = colour_cues(pixels, share, self.colour_radii_px)
        maps = self.backbone(torch.cat([pixels, 2 * share - 1, cues], dim=1))
        top = self.laterals["32"](maps[32])
        for stride in (16, 8):
            side = self.laterals[str(stride)](maps[stride])
            top = side + F.interpolate(top, side.shape[-2:], mode="nearest")
        fused = self.fuse(top)
        inside = F.avg_pool2d(share, STRIDE)[:, 0]  # (T, h8, w8)
        boxes_px = masks_to_boxes(share[None, :, 0] > 0.5)  # (1, T, 4) xyxy
        boxes = xyxy_to_cxcywh(boxes_px / boxes_px.new_tensor(crop.size[::-1] * 2))
        centres_px = boxes[..., :2] * boxes.new_tensor(crop.size[::-1])
        return RefinerInput(
            frames=pixels,
            stride4=maps[4],
            stride2=self.stride2(maps[2]),
            fused=fused,
            coarse_logits=prompt.coarse_logits,
            query=self.query(fused, inside),
            centres_px=centres_px,
            boxes_cxcywh=boxes,
            frame_size=crop.size,
            masks_gt=masks_gt,
            given=prompt.given,
            coarse_levels=prompt.coarse_levels,
        )

    @torch.no_grad()
    def refine_tubes(self, frames: Tensor, masks: Tensor) -> Iterator[RefinedTube]:
        """See ``MaskRefinerModel``."""
        for tracklet, coarse in enumerate(masks):
            shown = coarse.flatten(1).any(1)
            if shown.any():
                yield self._refine_tube(tracklet, shown, frames[shown], coarse[shown])

    def _refine_tube(
        self, tracklet: int, shown: Tensor, frames: Tensor, coarse: Tensor
    ) -> RefinedTube:
        """Of (T, 3, H, W) uint8 and (T, H, W) bool with a pixel in every frame."""
        crop = self._follow(coarse)
        with arithmetic(self.precision, self.device):
            inputs = self._inputs(frames, coarse, crop, None)
            output: RefinerOutput = self.refiner(inputs)
        logits = aligned_upsample2(output.mask_logits.float())[0]  # (T, h, w)
        inside = by_pixel(looked_at_cells(inputs.given[0], output)[0])
        return RefinedTube(
            tracklet,
            shown.nonzero()[:, 0].tolist(),
            crop.restore(logits.sigmoid()),
            crop.restore(inside.float()) > 0.5,
            crop.places(),
        )


#: ``MODEL.MASK_REFINER.QUERY_SOURCE`` -> what builds the network.
QUERY_SOURCES: dict[str, Callable[[CfgNode, LabelSpace], MaskRefinerModel]] = {
    "mask_pool": MaskRefinerNetwork.from_config,
    "detector": QueryRefiner.from_config,
}


@register(META_ARCHITECTURES, "MaskRefiner")
class ByQuerySource:
    """The entry of the registry: builds the network that ``QUERY_SOURCE`` names."""

    @staticmethod
    def from_config(cfg: CfgNode, label_space: LabelSpace) -> MaskRefinerModel:
        """Build from ``MODEL``.

        Raises:
            ConfigError: an unknown source, or see the networks.
        """
        source = cfg.MODEL.MASK_REFINER.QUERY_SOURCE
        if source not in QUERY_SOURCES:
            raise ConfigError(
                f"MODEL.MASK_REFINER.QUERY_SOURCE must be one of {', '.join(QUERY_SOURCES)}, "
                f"not {source!r}."
            )
        return QUERY_SOURCES[source](cfg, label_space)
