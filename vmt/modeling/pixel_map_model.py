"""Frame models whose masks are dot products of queries with a map of stride 4."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.ota import OtaMatch
from vmt.modeling.criteria.point_criterion import PointCriterion
from vmt.modeling.criteria.point_masks import mask_losses
from vmt.modeling.frame_part import FramePart
from vmt.modeling.frame_training import RefinableFrameModel, TrainedFrame
from vmt.modeling.video_model import FrameOutputs
from vmt.structures.frame_targets import FrameTargets

#: Input pixels per cell of the map, and so of the masks.
STRIDE = 4


class KernelHeads(nn.Module):
    """Class and mask heads; all layers of a decoder share them."""

    @abstractmethod
    def classes(self, embeds: Tensor) -> Tensor:
        """(..., C) -> (..., num_classes) logits, or one column more, "no object"."""

    @abstractmethod
    def kernels(self, embeds: Tensor) -> Tensor:
        """(..., C) -> (..., mask_dim): what the map is multiplied with."""

    def masks(self, embeds: Tensor, pixel: Tensor) -> Tensor:
        """Masks of one batch.

        Args:
            embeds: (..., Q, C).
            pixel: (..., mask_dim, h, w).

        Returns:
            (..., Q, h, w) logits.
        """
        return torch.einsum("...qc,...chw->...qhw", self.kernels(embeds), pixel)


class PixelMapModel(RefinableFrameModel):
    """Mask2Former, MaskDINO; as published they ignore padding.

    Attributes:
        heads: of all queries.
        criterion: matching and losses.
    """

    heads: KernelHeads
    criterion: PointCriterion[Any]
    encoder: Any
    decoder: Any

    def stages(self) -> list[nn.Module]:
        """Layers of encoder and decoder."""
        return [*self.encoder.layers, *self.decoder.layers]

    def lr_groups(self) -> dict[str, str]:
        """The backbone alone learns more slowly, as published."""
        return {"backbone.": "BACKBONE_FACTOR"}

    def undecayed(self) -> set[str]:
        """Norms and embeddings have no weight decay, as published."""
        return super().undecayed() | {
            f"{name}.{parameter}"
            for name, part in self.named_modules()
            if isinstance(part, (nn.LayerNorm, nn.GroupNorm, nn.Embedding))
            for parameter, _ in part.named_parameters(recurse=False)
        }

    def class_head(self, embeds: Tensor) -> Tensor:
        """See ``RefinableFrameModel``."""
        return self.heads.classes(embeds)

    def mask_head(self, embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        """See ``RefinableFrameModel``; ``refs`` play no part."""
        return self.heads.masks(embeds, pixel)

    def segment_normalised(self, frames: Tensor) -> list[FrameOutputs]:
        """See ``RefinableFrameModel``."""
        queries = self.find_queries(frames)
        embeds, boxes, maps = queries.embeds, queries.boxes, queries.maps
        size = int(frames.shape[-2]), int(frames.shape[-1])
        logits, masks = self.class_head(embeds), self.in_precision(self.mask_head)
        return [
            FrameOutputs(
                logits[i],
                None if boxes is None else boxes[i],
                masks,
                embeds[i],
                STRIDE,
                size,
                query=embeds[i],
                pixel=queries.pixel[i],
                no_object=self.no_object,
                maps=None if maps is None else maps[i],
            )
            for i in range(len(embeds))
        ]

    def dense_part(self) -> FramePart:
        """See ``VideoModel``."""
        return FramePart(self, None)

    def assignments(
        self,
        output: Any,
        keys: Sequence[Match | OtaMatch],
        targets: Sequence[FrameTargets],
        pixel: Tensor,
    ) -> list[Match | OtaMatch]:
        """Queries of the last layer and their objects, in all frames of B clips.

        Args:
            output: what the criterion's ``assign`` takes, of B*T frames.
            keys: B, of the first frames.
            targets: B*T.
            pixel: (B*T, mask_dim, h, w).
        """
        num_frames = len(targets) // len(keys)
        others = [n for n in range(len(targets)) if n % num_frames]
        assigned = self.criterion.assign(
            output.of_frames(others), [targets[n] for n in others], pixel[others]
        )
        matches = dict(zip(others, assigned, strict=True))
        matches |= {num_frames * b: match for b, match in enumerate(keys)}
        return [matches[n] for n in range(len(targets))]

    def embedding_losses(
        self,
        embeds: Tensor,
        refs: Tensor | None,
        frame: TrainedFrame,
        labels: Tensor,
        masks: Tensor,
        with_mask: Tensor,
        count: float | Tensor,
    ) -> dict[str, Tensor]:
        """See ``RefinableFrameModel``."""
        classes = self.criterion.embedding_class_loss(self.class_head(embeds), labels, count)
        kernels = self.heads.kernels(embeds[with_mask])
        losses = mask_losses(self.criterion.sampler, kernels, frame.pixel, masks[with_mask], count)
        return self.criterion.weighted({"loss_ce": classes, **losses})
