"""Video Mask Transfiner for masks that are given: a frozen detector tells what each one is."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.adversarial import Adversary
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.set_criterion import mean_tracklets
from vmt.modeling.mask_refiner.prompt import (
    STRIDE,
    STRIDES,
    MaskPrompt,
    by_pixel,
    join_tracklets,
    looked_at_cells,
    prompt_levels,
    prompt_of,
)
from vmt.modeling.meta_arch.vmt import VideoMaskTransfiner
from vmt.modeling.refiners.base import RefinerInput, RefinerOutput
from vmt.modeling.video_model import ClipBatch, MaskRefinerModel, RefinedTube
from vmt.ops.crops import Place
from vmt.ops.resize import aligned_upsample2, network_size
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError
from vmt.utils.precision import arithmetic

#: Least value of a box coordinate, and all four of an absent tracklet's, as in training targets.
LEAST = 1e-6


class QueryRefiner(VideoMaskTransfiner, MaskRefinerModel):
    """Sharpens given masks with the queries that a detector has for them.

    The paper's annotation refinement (arXiv:2207.14012, section 3.2;
    ``MODEL.MASK_REFINER.QUERY_SOURCE: detector``). The base runs on whole frames and stays as it
    is; only the refiner is trained. Each given tracklet gets the query that a Hungarian match of
    its boxes finds, the centre of its own box, and its own mask as coarse mask.

    In evaluation ``forward`` finds objects, as every Video Mask Transfiner. Weights of one fit, and
    the other way round.

    Args:
        band_cells: stride-8 cells around the coarse contour that are looked at in any case.
        prompt_levels: see ``prompt_of``.
        match_classes: labels of targets are those of the base, and have a part in the match.
        min_size: short side of frames in ``refine_tubes``, in pixels.
        max_size: bound of the long side there; 0: none.
        arguments: see ``VideoMaskTransfiner``.
    """

    takes_adversary = False

    def __init__(
        self,
        *,
        band_cells: int = 1,
        prompt_levels: int = len(STRIDES),
        match_classes: bool = True,
        min_size: int = 360,
        max_size: int = 0,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.band_cells = band_cells
        self.prompt_levels = prompt_levels
        self.match_classes = match_classes
        self.min_size, self.max_size = min_size, max_size
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("refiner."))

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> QueryRefiner:
        """See ``VideoModel``."""
        if cfg.MODEL.REFINER.NAME == "none":
            raise ConfigError(
                "MODEL.REFINER.NAME is none, but MODEL.META_ARCHITECTURE MaskRefiner with "
                "QUERY_SOURCE detector needs a refiner: quadtree, as the paper has it."
            )
        return cls(
            band_cells=cfg.MODEL.MASK_REFINER.BAND_CELLS,
            prompt_levels=prompt_levels(cfg),
            # Under "any", every label is 0 and says nothing.
            match_classes=cfg.DATASETS.CLASS_MATCH != "any",
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            **cls.arguments(cfg, label_space),
        )

    def train(self, mode: bool = True) -> QueryRefiner:
        """Put the refiner into training mode; the base always stays in evaluation mode."""
        super().train(mode)
        for name, part in self.named_children():
            if name != "refiner":
                part.eval()
        return self

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """See ``VideoModel``."""
        outputs: list[RefinerOutput] = []
        wanted = []
        clips = zip(batch.clips, batch.targets, batch.coarse_masks, strict=True)
        for frames, annotated, coarse in clips:
            targets = _where_shown(annotated, coarse)
            inputs, kept = self._inputs(frames, coarse, targets)
            outputs.append(self._refined(inputs))
            wanted.append(targets.select(kept))
        all_of = [torch.arange(len(targets), device=self.device) for targets in wanted]
        losses = self.refiner_criterion.measure(
            outputs, wanted, [Match(index, index) for index in all_of],
            mean_tracklets(wanted, self.device),
        )  # fmt: skip
        # With nothing to refine the losses hang on nothing: the base has no gradients.
        nothing = torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0
        weight = self.refiner_criterion.weight
        return {name: weight(name) * loss + nothing for name, loss in losses.items()}

    @torch.no_grad()
    def refine_tubes(self, frames: Tensor, masks: Tensor) -> Iterator[RefinedTube]:
        """See ``MaskRefinerModel``; all tracklets share one pass of the base.

        A tracklet for which there is no query, because there are more than queries, is left out.
        """
        shown = masks.flatten(2).any(2)  # (N, T)
        present = shown.any(1).nonzero()[:, 0]
        if not len(present):
            return
        height, width = int(frames.shape[-2]), int(frames.shape[-1])
        size = network_size(height, width, self.min_size, self.max_size)
        with arithmetic(self.precision, self.device):
            small = _resized(frames.to(self.device).float(), size)
            inputs, kept = self._inputs(small, masks[present])
            output = self._refined(inputs)
        cells = looked_at_cells(inputs.given[0], output)
        for row, tracklet in enumerate(present[kept].tolist()):
            at = shown[tracklet]
            # One at a time: at the size of the frames, all of them are large.
            logits = aligned_upsample2(output.mask_logits[row, at].float())
            found = _resized(logits[..., : size[0], : size[1]].sigmoid(), (height, width))
            seen = by_pixel(cells[row, at])[..., : size[0], : size[1]]
            seen = F.interpolate(seen[None].float(), (height, width), mode="nearest-exact")[0] > 0
            place = _around(seen)
            if place is None:
                continue
            part = (..., place.rows, place.columns)
            frames_of = at.nonzero()[:, 0].tolist()
            yield RefinedTube(
                tracklet,
                frames_of,
                found[part].clone(),
                seen[part].clone(),
                [place] * len(frames_of),
            )

    def _refined(self, inputs: RefinerInput) -> RefinerOutput:
        output: RefinerOutput = self.refiner(inputs)
        return output

    @torch.no_grad()
    def _inputs(
        self, frames: Tensor, coarse: Tensor, targets: ClipTargets | None = None
    ) -> tuple[RefinerInput, Tensor]:
        """What the refiner is told of one clip.

        Args:
            frames: (T, 3, h, w) RGB in [0, 255] at the size of the network's input.
            coarse: (G, T, H, W) bool, of any size.
            targets: of the same tracklets, with masks (G, T, h, w), in training.

        Returns:
            The input, and which of the G tracklets it is about, (N,) int64 ascending: those with a
            pixel, as long as there are queries.
        """
        size = (int(frames.shape[-2]), int(frames.shape[-1]))
        pixels = self.normalise(frames)
        features = self.encode_clip(pixels)
        state = self.decode(features, len(frames))[-1]
        given = coarse.flatten(1).any(1).nonzero()[:, 0]
        asked = _as_targets(coarse[given], None if targets is None else targets.labels[given])
        labels_known = targets is not None and self.match_classes
        match = self._match(
            self.class_logits(-1, state.query)[0], state.boxes[0], asked, labels_known
        )
        order = match.target_index.argsort()
        kept, query_index = match.target_index[order], match.query_index[order]
        boxes = asked.boxes_cxcywh[kept]
        kept = given[kept]
        prompt = self._prompt(coarse[kept], size)
        assert features.stride4 is not None, "stride-4 maps are kept for the refiner"
        inputs = RefinerInput(
            frames=pixels,
            stride4=features.stride4,
            stride2=features.stride2,
            fused=features.fused,
            coarse_logits=prompt.coarse_logits,
            query=state.query[0, query_index],
            centres_px=boxes[..., :2] * boxes.new_tensor(size[::-1]),
            boxes_cxcywh=boxes,
            frame_size=size,
            box_query=state.box_query[0][:, query_index].transpose(0, 1),
            masks_gt=None if targets is None else targets.masks[kept],
            given=prompt.given,
            coarse_levels=prompt.coarse_levels,
        )
        return inputs, kept

    def _match(
        self, logits: Tensor, boxes: Tensor, asked: ClipTargets, labels_known: bool
    ) -> Match:
        """The costs that train the base; without its part where labels are not known."""
        matcher = self.criterion.matcher
        if not labels_known:
            matcher = copy(matcher)
            matcher.class_cost = 0.0
        return matcher(logits, boxes, asked)

    def _prompt(self, coarse: Tensor, size: tuple[int, int]) -> MaskPrompt:
        """(N, T, H, W) bool -> what is told of them, for frames of ``size``."""
        h8, w8 = (-(-side // STRIDE) for side in size)
        beyond = (0, w8 * STRIDE - size[1], 0, h8 * STRIDE - size[0])
        prompts = []
        for masks in coarse:  # at full size, one tracklet at a time
            share = F.pad(_resized(masks.float(), size)[:, None], beyond, mode="replicate")
            prompts.append(prompt_of(share, self.band_cells, self.prompt_levels))
        if prompts:
            return join_tracklets(prompts)
        nothing = torch.zeros(0, coarse.shape[1], h8, w8, device=coarse.device)
        return MaskPrompt(nothing, (), (nothing > 0,))


def _as_targets(coarse: Tensor, labels: Tensor | None) -> ClipTargets:
    """Given masks (G, T, H, W) as what queries are matched with."""
    height, width = coarse.shape[-2:]
    boxes_px = masks_to_boxes(coarse)
    boxes = xyxy_to_cxcywh(boxes_px / boxes_px.new_tensor([width, height, width, height]))
    if labels is None:
        labels = torch.zeros(len(coarse), dtype=torch.int64, device=coarse.device)
    return ClipTargets(labels, boxes.clamp(min=LEAST), coarse, coarse.flatten(2).any(2))


def _where_shown(targets: ClipTargets, coarse: Tensor) -> ClipTargets:
    """Nothing is wanted of a tracklet in a frame without a coarse mask: null stays null."""
    shown = coarse.flatten(2).any(2)
    return replace(
        targets, masks=targets.masks & shown[..., None, None], valid=targets.valid & shown
    )


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(T, H, W) or (T, C, H, W) float to (..., *size), antialiased."""
    if tuple(values.shape[-2:]) == size:
        return values
    planes = values if values.ndim == 4 else values[:, None]
    planes = F.interpolate(planes, size, mode="bilinear", antialias=True)
    return planes if values.ndim == 4 else planes[:, 0]


def _around(seen: Tensor) -> Place | None:
    """The rectangle that holds what is True in (T, H, W) in any frame."""
    rows, columns = (seen.any(0).any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    if not rows:
        return None
    y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return Place(y, x, slice(0, y.stop - y.start), slice(0, x.stop - x.start))
