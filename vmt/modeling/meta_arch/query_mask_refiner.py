"""Sharp masks from coarse ones, with the queries that a frozen detector has for them."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.adversarial import Adversary
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.set_criterion import mean_count
from vmt.modeling.dense_part import DensePart
from vmt.modeling.mask_refiner.detector import (
    at_frame_size,
    clip_prompt,
    given_targets,
    resized,
    where_given,
)
from vmt.modeling.mask_refiner.prompt import looked_at_cells
from vmt.modeling.meta_arch.vmt import VideoMaskTransfiner
from vmt.modeling.refiners.base import (
    RefinerInput,
    RefinerOutput,
    refinement_losses,
    zero_loss,
)
from vmt.modeling.registry import META_ARCHITECTURES, register
from vmt.modeling.video_model import ClipBatch, MaskRefinerModel, RefinedTube
from vmt.ops.resize import network_size
from vmt.structures.clip import ClipTargets
from vmt.structures.labels import LabelSpace
from vmt.utils.device import constant, index_on, to_device
from vmt.utils.errors import ConfigError
from vmt.utils.precision import arithmetic


@register(META_ARCHITECTURES, "QueryMaskRefiner")
class QueryMaskRefiner(VideoMaskTransfiner, MaskRefinerModel):
    """Sharpens given masks with the queries that a detector has for them.

    The paper's annotation refinement (arXiv:2207.14012, section 3.2). The base runs on whole frames
    and stays as it is; only the refiner is trained. Each given tracklet gets the query that a
    Hungarian match of its boxes finds, the centre of its own box, and its own mask as coarse mask.

    In evaluation ``forward`` finds objects, as every Video Mask Transfiner. Weights of one fit, and
    the other way round.

    Args:
        match_classes: labels of targets are those of the base, and have a part in the match.
        min_size: short side of frames in ``refine_tubes``, in pixels.
        max_size: bound of the long side there; 0: none.
        arguments: see ``VideoMaskTransfiner``.
    """

    takes_adversary = False
    not_exported = (
        "which queries belong to the given masks is a matching that the boxes decide; export the "
        "VideoMaskTransfiner of the same weights"
    )

    def dense_part(self) -> DensePart:
        """See ``VideoModel``; raises."""
        return MaskRefinerModel.dense_part(self)

    def __init__(
        self,
        *,
        match_classes: bool = True,
        min_size: int = 360,
        max_size: int = 0,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.match_classes = match_classes
        self.min_size, self.max_size = min_size, max_size
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("refiner."))

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> QueryMaskRefiner:
        """Build from ``MODEL``; the refiner must not be ``none``."""
        if cfg.MODEL.REFINER.NAME == "none":
            raise ConfigError(
                "MODEL.REFINER.NAME is none, but MODEL.META_ARCHITECTURE QueryMaskRefiner needs a "
                "refiner: quadtree, as the paper has it."
            )
        return cls(
            # Under "any", every label is 0 and says nothing.
            match_classes=cfg.DATASETS.CLASS_MATCH != "any",
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            **cls.arguments(cfg, label_space),
        )

    def train(self, mode: bool = True) -> QueryMaskRefiner:
        """Put the refiner into training mode; the base always stays in evaluation mode."""
        super().train(mode)
        for name, part in self.named_children():
            if name != "refiner":
                part.eval()
        return self

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """Losses of the refiner for the given masks, weighted."""
        outputs: list[RefinerOutput] = []
        targets: list[ClipTargets] = []
        clips = zip(batch.clips, batch.targets, batch.coarse_masks, strict=True)
        for frames, annotated, coarse in clips:
            given = where_given(annotated, coarse)
            inputs, matched = self.given_input(frames, coarse, given)
            outputs.append(self.refiner(inputs))
            targets.append(given.select(matched))
        count = self.loss_count(batch)
        losses = refinement_losses(self.refiner_criterion, outputs, targets, count)
        # With nothing to refine the losses hang on nothing: the base has no gradients.
        zero = zero_loss(self)
        return {name: loss + zero for name, loss in losses.items()}

    def loss_count(self, batch: ClipBatch) -> float | Tensor:
        """Tracklets with a coarse pixel, as long as there are queries; see ``VideoModel``."""
        present = [int(coarse.flatten(1).any(1).sum()) for coarse in batch.coarse_masks]
        limit = len(self.decoder.query_pos)
        return mean_count(sum(min(count, limit) for count in present), self.device)

    @torch.no_grad()
    def refine_tubes(
        self, frames: Tensor, masks: Tensor, votes: Tensor | None = None
    ) -> Iterator[RefinedTube]:
        """Sharpen the tracklets of a window, which share one pass of the base.

        A tracklet for which there is no query, because there are more than queries, is left out.
        """
        present = masks.flatten(2).any(2).cpu()  # (N, T)
        tracklets = present.any(1).nonzero()[:, 0]
        if not len(tracklets):
            return
        given = to_device(masks[tracklets], self.device)
        frame_size = (int(frames.shape[-2]), int(frames.shape[-1]))
        size = network_size(*frame_size, self.min_size, self.max_size)
        with arithmetic(self.precision, self.device):
            small = resized(frames.to(self.device).float(), size)
            inputs, matched = self.given_input(small, given)
            output: RefinerOutput = self.refiner(inputs)
        cells = looked_at_cells(inputs.given[0], output)
        for row, tracklet in enumerate(tracklets[matched.cpu()].tolist()):
            indices = present[tracklet].nonzero()[:, 0].tolist()
            at = index_on(cells.device, indices)
            # One at a time: at the size of the frames, all of them are large.
            part = at_frame_size(output.mask_logits[row, at], cells[row, at], size, frame_size)
            if part is not None:
                probability, looked_at, place = part
                places = [place] * len(indices)
                yield RefinedTube(tracklet, indices, probability, looked_at, places)

    @torch.no_grad()
    def given_input(
        self, frames: Tensor, coarse: Tensor, targets: ClipTargets | None = None
    ) -> tuple[RefinerInput, Tensor]:
        """One clip as the refiner reads it.

        Args:
            frames: (T, 3, h, w) RGB in [0, 255] at the size of the network's input.
            coarse: (G, T, H, W) bool, of any size.
            targets: of the same tracklets, with masks (G, T, h, w), in training.

        Returns:
            The input, and which of the G tracklets it is about, (N,) int64 ascending: those with a
            pixel, as long as there are queries.
        """
        pixels = self.normalise(frames)
        features = self.encode_clip(pixels)
        state = self.decode(features, len(frames))[-1]
        rows = coarse.flatten(1).any(1).nonzero()[:, 0]
        given = given_targets(coarse[rows], None if targets is None else targets.labels[rows])
        labels_known = targets is not None and self.match_classes
        logits = self.class_logits(-1, state.query)[0]
        match = self._match(logits, state.boxes[0], given, labels_known)
        order = match.target_index.argsort()
        target_index, query_index = match.target_index[order], match.query_index[order]
        matched, boxes = rows[target_index], given.boxes_cxcywh[target_index]
        size = (int(frames.shape[-2]), int(frames.shape[-1]))
        queries = replace(
            state.select(0, query_index, size),
            boxes_cxcywh=boxes,
            centres_px=boxes[..., :2] * constant(size[::-1], boxes),
        )
        prompt = clip_prompt(coarse[matched], size)
        masks_gt = None if targets is None else targets.masks[matched]
        inputs = self._input(pixels, features, queries, prompt.coarse_logits, masks_gt)
        return replace(inputs, given=prompt.given, coarse_levels=prompt.coarse_levels), matched

    def _match(
        self, logits: Tensor, boxes: Tensor, given: ClipTargets, labels_known: bool
    ) -> Match:
        """The costs that train the base; without its part where labels are not known."""
        matcher = self.criterion.matcher
        if not labels_known:
            matcher = copy(matcher)
            matcher.class_cost = 0.0
        return matcher(logits, boxes, given)
