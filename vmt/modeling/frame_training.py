"""What a network for frames tells a method that learns from its tracklets, in training.

RefineVIS (arXiv:2306.04774) trains association and temporal refinement through any frame model that
is a ``RefinableFrameModel``. Letters: B clips of T frames; Q queries, C channels, G objects of a
frame; D groups of denoising queries with S slots, one per tracklet of the clip.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from vmt.modeling.video_model import FrameModel
from vmt.structures.clip import ClipTargets
from vmt.structures.frame_targets import FrameTargets


@dataclass(frozen=True)
class NoisyEmbeddings:
    """Contrastive denoising queries of a frame behind the last decoder layer.

    Args:
        embeds: (D, 2, S, C): positives, then negatives; slot s is tracklet s of the clip.
        present: (S,) bool, False in the slots of tracklets that the frame does not show.
    """

    embeds: Tensor
    present: Tensor


@dataclass(frozen=True)
class TrainedFrame:
    """A frame of a training clip behind the last decoder layer, with gradients.

    Args:
        embeds: (Q, C), what class and mask head take.
        logits: (Q, num_classes), or one column more where the last says "no object".
        boxes: (Q, 4) cxcywh in [0, 1], of the same frame of reference as the target's; None
            without boxes.
        pixel: features of the frame as ``RefinableFrameModel.mask_head`` takes them.
        refs: (Q, 2) as ``RefinableFrameModel.mask_head`` takes them; None for heads without.
        best: (G,) int64, the one query that stands for each object of ``target``.
        assigned: (Q,) bool, queries that have an object.
        target: the G objects that the frame shows; its ``slots`` are rows of the clip's targets.
        noisy: denoising queries; None without.
    """

    embeds: Tensor
    logits: Tensor
    boxes: Tensor | None
    pixel: Tensor
    refs: Tensor | None
    best: Tensor
    assigned: Tensor
    target: FrameTargets
    noisy: NoisyEmbeddings | None = None


@dataclass(frozen=True)
class TrainedClips:
    """What a batch of clips went through.

    Args:
        losses: of the first frames alone, weighted, as the frame model has them by itself.
        frames: B lists of T.
    """

    losses: dict[str, Tensor]
    frames: list[list[TrainedFrame]]


class RefinableFrameModel(FrameModel):
    """A frame model whose embeddings can be associated and refined while it is trained."""

    #: C of ``TrainedFrame.embeds``.
    embed_dim: int

    @abstractmethod
    def class_head(self, embeds: Tensor) -> Tensor:
        """(..., C) query embeddings -> (..., num_classes) logits."""

    @abstractmethod
    def mask_head(self, embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        """Masks of queries.

        Args:
            embeds: (Q, C) query embeddings.
            pixel: (C_m, h, w), features of the frame.
            refs: (Q, 2) as (x, y) in pixels of the input; None for heads without.

        Returns:
            (Q, h, w) logits.
        """

    @abstractmethod
    def train_frames(
        self, clips: Sequence[Tensor], targets: Sequence[ClipTargets], count: float | Tensor
    ) -> TrainedClips:
        """Forward pass of all frames, and the losses of each clip's first one.

        Tracklets that the first frame does not show stay in the targets of the others.

        Args:
            clips: B tensors (T, 3, H_b, W_b), normalised.
            targets: B.
            count: divisor of the losses' sums, where the method does not count for itself.
        """

    @abstractmethod
    def embedding_losses(
        self,
        embeds: Tensor,
        refs: Tensor | None,
        frame: TrainedFrame,
        labels: Tensor,
        masks: Tensor,
        with_mask: Tensor,
        count: float | Tensor,
    ) -> Mapping[str, Tensor]:
        """The frame model's class and mask losses of embeddings whose objects are known.

        Args:
            embeds: (N, C) of one frame.
            refs: (N, 2) as ``mask_head`` takes them; None for heads without.
            frame: whose ``pixel`` the masks are cut from.
            labels: (N,) int64; -1 for none: background.
            masks: (N, H, W) bool at the size of ``frame.target.masks``; empty masks may be wanted.
            with_mask: (N,) bool, which masks count at all.
            count: divisor of the sums.

        Returns:
            "loss_ce", "loss_mask" and "loss_dice", weighted; part of the graph for N = 0 too.
        """
