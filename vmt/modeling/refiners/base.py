"""What every refiner takes and gives: coarse masks and features of one clip, sharper masks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from vmt.modeling.criteria.matcher import Match
from vmt.modeling.video_model import TrackRefiner
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.structures.track_window import TrackWindow
from vmt.utils.device import constant


@dataclass(frozen=True)
class RefinerInput:
    """One clip: T frames, N tracklets.

    Args:
        frames: (T, 3, H, W), normalised as the backbone saw them; more channels where the refiner
            was built for them.
        stride4: (T, C4, h4, w4) backbone map.
        stride2: (T, C2, h2, w2) backbone map, or None when the backbone has none.
        fused: (T, C, h8, w8), what the mask head's mask features are made from.
        coarse_logits: (N, T, h, w), of stride 8 or 4.
        query: (N, C) instance queries of the last decoder layer.
        centres_px: (N, T, 2) as (x, y), where the mask head placed the instances.
        boxes_cxcywh: (N, T, 4) in [0, 1] of the unpadded frame.
        frame_size: (H, W) of the unpadded frames, in pixels.
        box_query: (N, T, C) box queries of the last decoder layer, where the caller has them.
        masks_gt: (N, T, H, W) bool, the annotation of each tracklet; in training only, for
            refiners that choose by it what to refine.
        given: per level, coarse to fine, as far as there are any: (N, T, h, w) bool, cells that
            ``quadtree`` refines whatever its detector says, if it refines the cell above them.
        coarse_levels: per level (N, T, h, w), coarse probabilities where they are known better than
            ``coarse_logits`` says; none: those of all levels come from there. Of both, rows and
            columns beyond the level's map are not read.
        coarse_stride: input pixels per cell of ``coarse_logits``.
    """

    frames: Tensor
    stride4: Tensor
    stride2: Tensor | None
    fused: Tensor
    coarse_logits: Tensor
    query: Tensor
    centres_px: Tensor
    boxes_cxcywh: Tensor
    frame_size: tuple[int, int]
    box_query: Tensor | None = None
    masks_gt: Tensor | None = None
    given: tuple[Tensor, ...] = ()
    coarse_levels: tuple[Tensor, ...] = ()
    coarse_stride: int = 8

    @classmethod
    def of_tracks(cls, window: TrackWindow, masks_gt: Tensor | None = None) -> RefinerInput:
        """Tracks of a network for frames; their places are the boxes around their masks."""
        maps, size = window.maps, window.frame_size
        boxes = boxes_of_masks(window.mask_logits > 0, window.mask_stride, size)
        return cls(
            frames=maps.pixels,
            stride4=maps.stride4,
            stride2=maps.stride2,
            fused=maps.fused,
            coarse_logits=window.mask_logits,
            query=window.query,
            centres_px=boxes[..., :2] * constant(size[::-1], boxes),
            boxes_cxcywh=boxes,
            frame_size=size,
            masks_gt=masks_gt,
            coarse_stride=window.mask_stride,
        )


def boxes_of_masks(masks: Tensor, stride: int, frame_size: tuple[int, int]) -> Tensor:
    """Boxes around the masks of tracklets in frames.

    Args:
        masks: (N, T, h, w) bool, padding included.
        stride: input pixels per cell.
        frame_size: (H, W) of the frames before padding, in pixels.

    Returns:
        (N, T, 4) cxcywh in [0, 1] of the unpadded frame. A frame without a mask has the box of the
        nearest one with a mask, of two the earlier; a tracklet without any has the whole frame.
    """
    h, w = frame_size
    boxes_px = masks_to_boxes(masks) * stride
    present = boxes_px[..., 2] > 0
    times = torch.arange(masks.shape[1], device=masks.device)
    distance = (times[:, None] - times).abs() + len(times) * ~present[:, None]  # (N, T, T)
    nearest = distance.argmin(-1)
    boxes_px = boxes_px.gather(1, nearest[..., None].expand(-1, -1, 4))
    whole = constant((0, 0, w, h), boxes_px)
    boxes_px = torch.where(present.any(1)[:, None, None], boxes_px, whole)
    sides = whole[[2, 3, 2, 3]]
    return xyxy_to_cxcywh(torch.minimum(boxes_px, sides) / sides)


@dataclass(frozen=True)
class RefinerOutput:
    """Sharper masks.

    Args:
        mask_logits: (N, T, h, w) at stride ``mask_stride``.
        mask_stride: input pixels per cell.
        stage_logits: (N, T, h4, w4) of the stage in between, for losses and for people to look at.
    """

    mask_logits: Tensor
    mask_stride: int
    stage_logits: Tensor


class RefinerLosses(Protocol):
    """What a refiner is trained with."""

    def measure(
        self,
        outputs: Sequence[RefinerOutput],
        targets: Sequence[ClipTargets],
        matches: Sequence[Match],
        num_tracklets: float | Tensor,
    ) -> dict[str, Tensor]:
        """Unweighted losses by name.

        Args:
            outputs: what the refiner gave, per clip, for the matched queries in their order.
            targets: one per clip.
            matches: ``CriterionResult.last_matches``.
            num_tracklets: ``CriterionResult.num_tracklets``.
        """
        ...

    def weight(self, name: str) -> float:
        """Weight of a loss."""
        ...


def refinement_losses(
    criterion: RefinerLosses,
    outputs: Sequence[RefinerOutput],
    targets: Sequence[ClipTargets],
    num_tracklets: float | Tensor,
) -> dict[str, Tensor]:
    """Weighted losses by name, where the n-th refined tracklet of a clip has the n-th target.

    Args:
        criterion: of the refiner.
        outputs: one per clip.
        targets: one per clip.
        num_tracklets: what sums are divided by.
    """
    rows = [torch.arange(len(target), device=target.labels.device) for target in targets]
    matches = [Match(index, index) for index in rows]
    losses = criterion.measure(outputs, targets, matches, num_tracklets)
    return {name: criterion.weight(name) * loss for name, loss in losses.items()}


def zero_loss(model: nn.Module) -> Tensor:
    """0, on which every trained parameter hangs: for clips in which there is nothing to refine."""
    return torch.stack([p.sum() for p in model.parameters() if p.requires_grad]).sum() * 0.0


class Refiner(TrackRefiner):
    """Base of everything in the registry REFINERS.

    Attributes:
        counted: points that could have been refined, and those of them that ``max_points`` left as
            the coarse mask has them, per call since ``points_left_out`` was last asked, in
            evaluation; threads may add to it.
        max_points: ``MODEL.REFINER.MAX_POINTS``.
        points_are_per: what that many points are for, in words.
    """

    max_points: int
    points_are_per: str

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[tuple[int, int]] = []

    def count_points(self, count: int, refined: int) -> None:
        """Note how many points there were, and how many the budget let through."""
        if not self.training:
            self.counted.append((count, count - refined))

    def points_left_out(self) -> str:
        """One sentence with the points left out since this was last asked, and the key; or ""."""
        count, left = (sum(numbers) for numbers in zip((0, 0), *self.counted, strict=True))
        self.counted = []
        if not left:
            return ""
        return (
            f"{left} of {count} points to refine keep the coarse mask: there were more than "
            f"MODEL.REFINER.MAX_POINTS {self.max_points} for {self.points_are_per}; raise it to "
            "refine all, at more time and memory."
        )

    @abstractmethod
    def forward(self, inputs: RefinerInput) -> RefinerOutput:
        """Refine the masks of one clip."""

    def sharpen(self, window: TrackWindow) -> tuple[Tensor, int]:
        """See ``TrackRefiner``."""
        output: RefinerOutput = self(RefinerInput.of_tracks(window))
        return output.mask_logits, output.mask_stride

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, channels: Mapping[int, int], dim: int) -> Refiner:
        """Build from ``MODEL.REFINER``.

        Args:
            cfg: with every key.
            channels: stride of a backbone map -> its channels; a stride-2 map is read when it has
                ``EMBED_DIM`` of them. Of stride 1 are the frames themselves; 3 if nothing is said.
            dim: channels of the queries and of the fused map.

        Raises:
            ConfigError: a value that its key does not allow.
        """

    @classmethod
    @abstractmethod
    def criterion(cls, cfg: CfgNode) -> RefinerLosses:
        """The losses that train it, from ``MODEL.LOSS``."""
