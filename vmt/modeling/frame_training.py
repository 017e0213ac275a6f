"""What a network for frames tells a method that learns from its tracklets, in training.

RefineVIS (arXiv:2306.04774) trains association and temporal refinement through any frame model that
is a ``RefinableFrameModel``. Letters: B clips of T frames; Q queries, C channels, G objects of a
frame; D groups of denoising queries with S slots, one per tracklet of the clip.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vmt.modeling.adversarial import Adversary
from vmt.modeling.criteria.contrastive import Contrast
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.ota import OtaMatch, ReferencePairs, SimOta
from vmt.modeling.criteria.set_criterion import mean_tracklets
from vmt.modeling.video_model import ClipBatch, FrameModel, FrameOutputs, class_probs
from vmt.structures.boxes import cxcywh_to_xyxy, pairwise_iou
from vmt.structures.clip import ClipTargets
from vmt.structures.frame_targets import FrameTargets
from vmt.structures.track_window import FrameMaps


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
        best: (G,) int64, the one query that stands for each object of ``target``; -1: none, which
            happens where there are more objects than queries.
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
        losses: weighted, as the frame model has them by itself.
        frames: B lists of T.
        maps: what a refiner of masks reads of the B*T frames; None without.
        targets: B, whose tracklets the frames' slots number.
    """

    losses: dict[str, Tensor]
    frames: list[list[TrainedFrame]]
    maps: FrameMaps | None
    targets: Sequence[ClipTargets]


@dataclass(frozen=True)
class ObjectEmbeddings:
    """N annotated tracklets of a training clip of T frames, as a network sees them.

    Args:
        slots: (N,) int64, rows of the clip's targets.
        embeds: (N, T, C), what the mask head takes; of no meaning where the object is not present.
        present: (N, T) bool, frames in which the network has the object; in one at least.
        refs: (N, T, 2) as ``RefinableFrameModel.mask_head`` takes them; None for heads without.
    """

    slots: Tensor
    embeds: Tensor
    present: Tensor
    refs: Tensor | None


def objects_of(frames: Sequence[TrainedFrame]) -> ObjectEmbeddings:
    """The objects of T frames by the queries that stand for them."""
    first = frames[0]
    slots = torch.arange(first.target.num_slots, device=first.embeds.device)
    query = torch.full((len(slots), len(frames)), -1, device=slots.device)
    for t, frame in enumerate(frames):
        query[frame.target.slots, t] = frame.best
    slots = slots[(query >= 0).any(1)]
    query = query[slots]
    chosen = [frame.embeds[query[:, t].clamp(min=0)] for t, frame in enumerate(frames)]
    refs = [
        frame.refs[query[:, t].clamp(min=0)]
        for t, frame in enumerate(frames)
        if frame.refs is not None
    ]
    places = torch.stack(refs, 1) if refs else None
    return ObjectEmbeddings(slots, torch.stack(chosen, 1), query >= 0, places)


#: (network, what a batch went through) -> weighted losses of the network's refiner
Sharpening = Callable[["SharpenableModel", TrainedClips], dict[str, Tensor]]


class SharpenableModel(FrameModel):
    """A network for frames whose tracks a refiner may sharpen (``MODEL.REFINER``).

    Attributes:
        embed_dim: C of the embeddings.
        sharpening: losses of ``refiner``; None without.
        base_learns: whether all else learns beside the refiner.
    """

    embed_dim: int
    sharpening: Sharpening | None = None
    base_learns = True

    @abstractmethod
    def training_step(self, batch: ClipBatch) -> TrainedClips:
        """Forward pass and losses of a batch, as without a refiner."""

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

    def objects_in(self, frames: Sequence[TrainedFrame], times: Tensor) -> ObjectEmbeddings:
        """The objects of T frames of a training clip, at (T,) times of its video."""
        return objects_of(frames)

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """See ``VideoModel``; those of the refiner come to them, or stand alone.

        The refiner's are divided by their own number of tracklets, so that with
        ``SOLVER.ACCUMULATE`` the parts of a step add up nearly, not exactly.
        """
        if self.sharpening is None:
            return self.training_step(batch).losses
        with torch.set_grad_enabled(self.base_learns and torch.is_grad_enabled()):
            step = self.training_step(batch)
        sharpened = self.sharpening(self, step)
        if not self.base_learns:
            return sharpened
        assert not step.losses.keys() & sharpened.keys(), "names of losses are their own"
        return step.losses | sharpened

    def freeze_base(self) -> None:
        """From now on only the refiner learns; all else stays in evaluation mode."""
        self.base_learns = False
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("refiner."))
        self.train(self.training)

    def train(self, mode: bool = True) -> SharpenableModel:
        """See ``torch.nn.Module``."""
        super().train(mode)
        if not self.base_learns:
            for name, part in self.named_children():
                if name != "refiner":
                    part.eval()
        return self


@dataclass(frozen=True)
class FrameQueries:
    """All queries of N frames behind the last decoder layer.

    Args:
        embeds: (N, Q, C), what class and mask head take.
        pixel: (N, C_m, h, w), features as ``SharpenableModel.mask_head`` takes them.
        boxes: (N, Q, 4) cxcywh in [0, 1] of the frames before padding; None without boxes.
        refs: (N, Q, 2) as ``SharpenableModel.mask_head`` takes them; None for heads without.
        maps: what a refiner of masks reads of the frames, where there is one.
    """

    embeds: Tensor
    pixel: Tensor
    boxes: Tensor | None
    refs: Tensor | None
    maps: FrameMaps | None


class RefinableFrameModel(SharpenableModel):
    """A frame model whose embeddings can be associated and refined while it is trained."""

    #: Whether ``FrameQueries`` have boxes, and reference points.
    has_boxes, has_refs = True, False
    #: Whether the last column of ``class_head`` says "no object".
    no_object = False

    # --- inference ------------------------------------------------------------------------------

    @torch.inference_mode()
    def segment_frames(self, frames: Tensor) -> list[FrameOutputs]:
        """See ``FrameModel``."""
        return self.in_chunks(frames, self.segment_normalised)

    @abstractmethod
    def find_queries(self, frames: Tensor) -> FrameQueries:
        """Queries of (N, 3, H, W) frames, normalised, not padded."""

    @abstractmethod
    def segment_normalised(self, frames: Tensor) -> list[FrameOutputs]:
        """What is in each of (N, 3, H, W) frames, normalised, not padded."""

    def all_masks(self, queries: FrameQueries) -> Tensor:
        """Mask logits (N, Q, h, w) of all queries."""
        return self.mask_head(queries.embeds, queries.pixel, queries.refs)

    @abstractmethod
    def class_head(self, embeds: Tensor) -> Tensor:
        """(..., C) query embeddings -> (..., num_classes) logits."""

    def own_association_head(self) -> nn.Module | None:
        """(..., C) to what is associated, of a method that has a head for it."""
        return None

    # --- training -------------------------------------------------------------------------------

    @property
    def denoising_kind(self) -> str:
        """Of its denoising queries: those of "contrastive" come in ``TrainedFrame``; "": none."""
        return ""

    def loss_count(self, batch: ClipBatch) -> float | Tensor:
        """Objects of all frames; see ``VideoModel``."""
        return mean_tracklets([clip.valid.nonzero() for clip in batch.targets], self.device)

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

    @abstractmethod
    def reference_pairs(self, frame: TrainedFrame) -> ReferencePairs:
        """Which queries of a reference frame are its objects, and which are too close to them."""

    @torch.no_grad()
    def overlaps(self, frame: TrainedFrame) -> Tensor:
        """(Q, G) IoU of queries and objects: of boxes; of masks in a network without boxes."""
        assert frame.boxes is not None, "a network without boxes compares masks"
        boxes = cxcywh_to_xyxy(frame.boxes)
        return pairwise_iou(boxes, cxcywh_to_xyxy(frame.target.boxes_cxcywh))

    @torch.no_grad()
    def class_probs(self, frame: TrainedFrame) -> Tensor:
        """(Q, num_classes) in [0, 1]."""
        return class_probs(frame.logits, no_object=self.no_object)


def in_clips(frames: Sequence[TrainedFrame], num_frames: int) -> list[list[TrainedFrame]]:
    """B*T frames, clip by clip, as B lists of T."""
    return [list(frames[n : n + num_frames]) for n in range(0, len(frames), num_frames)]


def first_frame_count(batch: ClipBatch, device: torch.device) -> float | Tensor:
    """Objects of the first frames, for methods that learn the objects of these alone."""
    return mean_tracklets([clip.valid[:, 0].nonzero() for clip in batch.targets], device)


def pairs_by_box(ota: SimOta, frame: TrainedFrame) -> ReferencePairs:
    """``reference_pairs`` of a network with boxes, by IDOL's rules."""
    assert frame.boxes is not None, "a network without boxes compares masks"
    target = frame.target
    return ota.reference_pairs(frame.logits, frame.boxes, target.labels, target.boxes_cxcywh)


def stand_ins(match: Match | OtaMatch, num_queries: int, num_objects: int) -> tuple[Tensor, Tensor]:
    """``best`` and ``assigned`` of a ``TrainedFrame``.

    Args:
        match: queries and objects of the frame.
        num_queries: Q.
        num_objects: G.
    """
    query, index = match.query_index, match.target_index
    best = query.new_full((num_objects,), -1)
    best[index] = match.best[index] if isinstance(match, OtaMatch) else query
    assigned = torch.zeros(num_queries, dtype=torch.bool, device=query.device)
    assigned[query] = True
    return best, assigned


def contrast(
    model: RefinableFrameModel,
    head: Callable[[Tensor], Tensor],
    key: TrainedFrame,
    reference: TrainedFrame,
) -> Contrast:
    """What the objects that two frames of a clip show teach an association.

    Anchors are the queries that stand for these objects in the key frame; see
    ``RefinableFrameModel.reference_pairs`` for the reference frame.

    Args:
        model: has seen both frames.
        head: (..., C) to what is associated.
        key: the first frame.
        reference: another one.
    """
    same = key.target.slots[:, None] == reference.target.slots
    same &= (key.best >= 0)[:, None]
    rows, columns = same.nonzero(as_tuple=True)
    positive, exclusion = model.reference_pairs(reference)
    return Contrast(
        head(key.embeds[key.best[rows]]),
        head(reference.embeds),
        positive[columns],
        ~exclusion[columns],
    )
