"""What a network is to engine, inference and evaluation: they know these classes and no other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from numpy.typing import NDArray
from torch import Tensor, nn

from vmt.layers.adapter import Adapter
from vmt.layers.ms_deform_attn import MSDeformAttn
from vmt.modeling.adversarial import Adversary
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.criteria.set_criterion import mean_tracklets
from vmt.modeling.dense_part import DensePart
from vmt.modeling.frame_chunk import frame_chunk
from vmt.ops.crops import Place
from vmt.ops.frames import fold_frames, frame_chunks
from vmt.structures.clip import ClipTargets
from vmt.structures.labels import LabelSpace
from vmt.structures.predictions import ClipTracklets
from vmt.structures.roi_masks import MaskLogits, RoiMasks, dense_logits
from vmt.structures.track_window import FrameMaps, TrackWindow
from vmt.utils.cuda_graph import CudaGraphs, is_capturable
from vmt.utils.device import index_on, resolve_device, to_device
from vmt.utils.errors import ConfigError
from vmt.utils.precision import arithmetic


@dataclass(frozen=True)
class ClipBatch:
    """B training clips of T frames; the unpadded frames, since mask refiners cut objects out first.

    Args:
        clips: B tensors (T, 3, H_b, W_b), RGB in [0, 255].
        targets: B.
        coarse_masks: B tensors (G_b, T, H_b, W_b) bool, where the loader makes them.
        votes: B tensors (G_b, T, 2, H_b, W_b) uint8 of ``vmt.ops.flow_votes``, likewise.
    """

    clips: tuple[Tensor, ...]
    targets: tuple[ClipTargets, ...]
    coarse_masks: tuple[Tensor, ...] = ()
    votes: tuple[Tensor, ...] = ()

    @classmethod
    def from_inputs(cls, batched_inputs: Sequence[Mapping[str, Any]]) -> ClipBatch:
        """Join samples of the loader: ``image``, ``targets`` and perhaps ``coarse``."""
        return cls(
            tuple(clip["image"] for clip in batched_inputs),
            tuple(clip["targets"] for clip in batched_inputs),
            tuple(clip["coarse"] for clip in batched_inputs if "coarse" in clip),
            tuple(clip["votes"] for clip in batched_inputs if "votes" in clip),
        )

    def to(self, device: torch.device) -> ClipBatch:
        """The same clips on another device."""
        return ClipBatch(
            tuple(clip.to(device, non_blocking=True) for clip in self.clips),
            tuple(target.to(device, non_blocking=True) for target in self.targets),
            tuple(masks.to(device, non_blocking=True) for masks in self.coarse_masks),
            tuple(votes.to(device, non_blocking=True) for votes in self.votes),
        )

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.clips[0])


#: ImageNet's statistics of RGB in [0, 255], with which every backbone was trained.
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ModelOptions:
    """What every network is told, whatever its method.

    Args:
        label_space: what the labels mean.
        frame_chunk: frames per pass at inference; bounds memory. 0: all.
        precision: at inference, see ``vmt.utils.precision``.
        graph: replay CUDA graphs at inference, see ``VideoModel.replayed``.
    """

    label_space: LabelSpace
    frame_chunk: int = 0
    precision: str = "fp32"
    graph: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> ModelOptions:
        """Read ``MODEL`` and ``TEST``.

        Raises:
            ConfigError: CUDA graphs without a GPU.
        """
        if cfg.TEST.GRAPH and not is_capturable(device := resolve_device(cfg.MODEL.DEVICE)):
            raise ConfigError(
                f"TEST.GRAPH needs a GPU, and MODEL.DEVICE {cfg.MODEL.DEVICE} is {device} here; "
                "set it to False."
            )
        return cls(label_space, frame_chunk(cfg), cfg.TEST.PRECISION, cfg.TEST.GRAPH)


class VideoModel(nn.Module, ABC):
    """Base of everything in the registry META_ARCHITECTURES.

    In training ``forward`` takes one dict per clip, as detectron2's models do, and gives weighted
    losses; what it gives in evaluation is the business of ``predict``.

    Args:
        options: see ``ModelOptions``.

    Attributes:
        size_divisor: clips of a batch are padded to a common multiple of this, in pixels.
    """

    size_divisor = 32
    #: Why no part of it can be captured in a CUDA graph, as the end of a sentence; "": one can.
    not_captured = ""
    #: Where the backbone lies among the modules; its parameters' names start with this and a dot.
    backbone_path = "backbone"
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        self.label_space = options.label_space
        self.frame_chunk = options.frame_chunk
        self.precision = options.precision
        if options.graph and self.not_captured:
            raise ConfigError(
                f"TEST.GRAPH: {type(self).__name__} cannot be captured in a CUDA graph: "
                f"{self.not_captured}; set it to False."
            )
        self.graphs = CudaGraphs(self, "TEST.GRAPH") if options.graph else None
        for name, values in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> VideoModel:
        """Build with fresh weights on the CPU.

        Raises:
            ConfigError: an unknown name, or values that do not fit together.
        """

    def forward(
        self, batched_inputs: Sequence[Mapping[str, Any]], adversary: Adversary | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses of a batch in training, predictions per clip in evaluation."""
        if self.training:
            batch = ClipBatch.from_inputs(batched_inputs)
            self._check_labels(batch)
            return self.losses(batch.to(self.device), adversary)
        return [self.predict(clip) for clip in batched_inputs]

    def _check_labels(self, batch: ClipBatch) -> None:
        """ConfigError where the network would take objects that nobody labelled for background."""
        partial = next((target for target in batch.targets if target.unlabelled), None)
        if partial is not None and not self.learns_from_partial_labels:
            names = ", ".join(self.label_space.names[label] for label in partial.unlabelled)
            raise ConfigError(
                f"{partial.name}: not all objects of {names} are annotated, and "
                f"{type(self).__name__} would learn that the others are background; train QDTrack, "
                "or take not_exhaustive_category_ids out of the file if they are annotated."
            )

    @abstractmethod
    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what to minimise.

        Args:
            batch: on the model's device.
            adversary: gives further losses, see ``vmt.modeling.adversarial``; networks that
                ``takes_adversary`` says no of are never given one.
        """

    #: Whether ``losses`` calls an adversary.
    takes_adversary = False
    #: Whether ``losses`` honours ``ClipTargets.boxes_only`` and learns no mask there.
    learns_from_boxes = False
    #: Whether ``losses`` honours ``ClipTargets.unlabelled``: nothing there is background.
    learns_from_partial_labels = False
    #: Whether the network has classes; one without is built for any label space.
    knows_classes = True
    #: Whether ``losses`` needs ``ClipBatch.coarse_masks``.
    needs_coarse_masks = False

    def loss_count(self, batch: ClipBatch) -> float | Tensor:
        """What ``losses`` divides its sums by, so that parts of a step add up; collective."""
        return mean_tracklets(batch.targets, self.device)

    @abstractmethod
    def predict(self, clip: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of ``forward`` in evaluation to one clip."""

    def left_undone(self) -> str:
        """One sentence about what a budget left out since this was last asked, or ""."""
        return ""

    #: Why ``dense_part`` has nothing to give, as the end of a sentence.
    not_exported = "it has no dense part"

    def dense_part(self) -> DensePart:
        """What of the network can be exported (``vmt export``).

        Raises:
            ConfigError: nothing; the message says why.
        """
        raise ConfigError(f"{type(self).__name__} cannot be exported: {self.not_exported}.")

    def stages(self) -> list[nn.Module]:
        """Layers beyond the backbone that are sharded, compiled and recomputed one by one."""
        return []

    def backbone_stages(self) -> list[nn.Module]:
        """Layers of the backbone that are sharded and recomputed one by one."""
        return cast(Backbone, self.get_submodule(self.backbone_path)).stage_modules()

    def lr_groups(self) -> dict[str, str]:
        """Prefix of parameter names -> the SOLVER key that multiplies their learning rate.

        The first prefix that fits counts; parameters without one have the base rate. As published
        for Deformable DETR, sampling offsets learn slowly.
        """
        sampling = {
            f"{name}.sampling_offsets.": "SAMPLING_FACTOR"
            for name, part in self.named_modules()
            if isinstance(part, MSDeformAttn)
        }
        return {"backbone.": "BACKBONE_FACTOR", **sampling}

    def undecayed(self) -> set[str]:
        """Names of parameters without weight decay: see ``Adapter.undecayed``."""
        return {
            f"{name}.{parameter}"
            for name, part in self.named_modules()
            if isinstance(part, Adapter)
            for parameter in part.undecayed()
        }

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def replayed(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``, with ``TEST.GRAPH`` out of a CUDA graph where there is one.

        Args:
            function: of this network; what it launches follows from the shapes of its arguments.
            args: see ``CudaGraphs``.
        """
        if self.graphs is None or torch.compiler.is_compiling():
            return function(*args)
        return self.graphs(function, *args)

    def normalise(self, frames: Tensor) -> Tensor:
        """RGB in [0, 255] of any type and device -> float on the model's device."""
        frames = frames.to(self.device, non_blocking=True)
        return (frames.float() - self.pixel_mean) / self.pixel_std

    def pad(self, clips: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """B clips of one length on the right and below, to one size.

        Args:
            clips: B tensors (T, 3, H_b, W_b).

        Returns:
            (B*T, 3, H, W), and (B*T, H, W) bool, True on padding; None when nothing is padded.
        """
        height, width = (
            -(-max(int(clip.shape[axis]) for clip in clips) // self.size_divisor)
            * self.size_divisor
            for axis in (2, 3)
        )
        padded = [
            F.pad(clip, (0, width - clip.shape[3], 0, height - clip.shape[2])) for clip in clips
        ]
        frames = fold_frames(torch.stack(padded))
        if all(clip.shape[2:] == (height, width) for clip in clips):
            return frames, None
        # Not written in place: torch.export would fix the number of frames.
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        outside = [(rows >= clip.shape[2]) | (columns >= clip.shape[3]) for clip in clips]
        padding = torch.stack(outside)[:, None].expand(-1, clips[0].shape[0], -1, -1)
        return frames, to_device(fold_frames(padding), frames.device)


class ClipModel(VideoModel):
    """Finds tracklets in a whole clip: SeqFormer, VMT, MS-STS."""

    @abstractmethod
    def segment_clip(self, frames: Tensor) -> ClipTracklets:
        """Find, track and cut out the objects of a clip.

        Args:
            frames: (T, 3, H, W) RGB in [0, 255], uint8 or float, any device, any size.
        """

    def predict(self, clip: Mapping[str, Any]) -> dict[str, Any]:
        """``tracklets``: what ``segment_clip`` finds in ``image``."""
        return {"tracklets": self.segment_clip(clip["image"])}

    def reference_arrays(self, frames: Tensor) -> dict[str, Tensor]:
        """Outputs of every stage, as reference files of published code name them.

        Args:
            frames: (T, 3, H, W), normalised.

        Returns:
            By name; at least ``selected``, the (N,) ascending indices of the tracklets' queries.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reference files")


#: (Q, C) queries, features of a frame, (Q, 2) reference points or None -> (Q, h, w) logits.
MaskHead = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class FrameOutputs:
    """What a network says about one frame, before frames are associated.

    Args:
        logits: (Q, num_classes), sigmoid scores; with ``no_object`` a softmax's, one column more.
        boxes_cxcywh: (Q, 4) in [0, 1] of the frame before padding; None without boxes.
        mask_logits: (Q, h, w) at stride ``mask_stride``, padding included; or the head that cuts
            out those that are asked for; or crops, which know their places.
        embeddings: (Q, C_e), by which queries of different frames are associated.
        mask_stride: input pixels per cell.
        input_size: (H, W) of the frame that went in, in pixels.
        query: (Q, C), what the class and mask heads took; None where nothing needs it later.
        pixel: features of the frame as the network's mask head takes them, or None.
        refs: (Q, 2) as the network's mask head takes them; None for heads without.
        no_object: the last column of ``logits`` says "no object".
        upsampling: from cells to pixels of the video, see ``masks_at_video_size``.
        maps: what ``FrameModel.refiner`` reads of the frame, where there is one.
    """

    logits: Tensor
    boxes_cxcywh: Tensor | None
    mask_logits: MaskLogits | MaskHead
    embeddings: Tensor
    mask_stride: int
    input_size: tuple[int, int]
    query: Tensor | None = None
    pixel: Tensor | None = None
    refs: Tensor | None = None
    no_object: bool = False
    upsampling: str = "bilinear"
    maps: FrameMaps | None = None

    def class_probs(self) -> Tensor:
        """(Q, num_classes) in [0, 1]."""
        return class_probs(self.logits, no_object=self.no_object)

    def masks(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Mask logits of some queries, (rows, h, w); all by default. Crops are pasted."""
        return dense_logits(self.masks_to_draw(rows))

    def masks_to_draw(self, rows: Tensor | slice = slice(None)) -> MaskLogits:
        """Mask logits of some queries as they are drawn: crops stay crops."""
        masks = self.mask_logits
        place = masks if isinstance(masks, Tensor | RoiMasks) else self.query
        assert place is not None, "a mask head takes queries"
        if isinstance(rows, Tensor):
            rows = index_on(place.device, rows)
        if isinstance(masks, Tensor | RoiMasks):
            return masks[rows]
        assert self.query is not None, "a mask head takes queries"
        assert self.pixel is not None, "a mask head takes features"
        refs = None if self.refs is None else self.refs[rows]
        return masks(self.query[rows], self.pixel, refs)


def class_probs(logits: Tensor, *, no_object: bool) -> Tensor:
    """(..., num_classes) in [0, 1]: sigmoid, or softmax without the last of its columns."""
    logits = logits.float()
    return logits.softmax(-1)[..., :-1] if no_object else logits.sigmoid()


#: What lies in an inputs file of reference data, by name.
ReferenceInputs = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class ReferenceOutputs:
    """Outputs of every stage of a network, to be held against published code.

    Args:
        arrays: by the name that the reference files have. Masks are bool, not packed.
        frames: in evaluation, for tracks and results over frames, which ``tools/check_parity.py``
            adds; empty without.
        losses: in training, not weighted, by published name; scalars with their graph.
        weights: of each loss; the total that is differentiated is the sum of the products.
    """

    arrays: Mapping[str, Tensor]
    frames: Sequence[FrameOutputs] = ()
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


class TrackRefiner(nn.Module, ABC):
    """Sharpens the masks of tracks (``vmt.modeling.refiners``)."""

    @abstractmethod
    def sharpen(self, window: TrackWindow) -> tuple[Tensor, int]:
        """(N, T, h, w) mask logits, and the input pixels per cell of them."""

    @abstractmethod
    def points_left_out(self) -> str:
        """See ``VideoModel.left_undone``."""


class FrameModel(VideoModel):
    """Finds objects frame by frame; an association of ``vmt.inference`` makes tracks of them.

    Attributes:
        refiner: sharpens the masks of these tracks (``MODEL.REFINER``); None: they stay.
        keeps_maps: ``FrameOutputs.maps`` are kept for it.
    """

    #: The association that the method is published with, where ``TEST.ASSOCIATION`` is "auto".
    association = "bisoftmax"

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        self.refiner: TrackRefiner | None = None
        self.keeps_maps = False

    @torch.inference_mode()
    def sharpen(self, window: TrackWindow) -> tuple[Tensor, int]:
        """See ``TrackRefiner``; for networks that have one."""
        assert self.refiner is not None, "the caller asked for it before"
        with arithmetic(self.precision, self.device):
            return self.refiner.sharpen(window)

    def left_undone(self) -> str:
        """Points that the refiner left as they were; see ``VideoModel``."""
        return "" if self.refiner is None else self.refiner.points_left_out()

    @abstractmethod
    def segment_frames(self, frames: Tensor) -> list[FrameOutputs]:
        """What is in each frame of a clip.

        Args:
            frames: (T, 3, H, W) RGB in [0, 255], uint8 or float, any device, any size.
        """

    def in_chunks(
        self, frames: Tensor, segment: Callable[[Tensor], list[FrameOutputs]]
    ) -> list[FrameOutputs]:
        """What ``segment`` says of frames, normalised and ``frame_chunk`` at a time."""
        outputs: list[FrameOutputs] = []
        for rows in frame_chunks(len(frames), self.frame_chunk):
            with arithmetic(self.precision, self.device):
                outputs += segment(self.normalise(frames[rows]))
        return outputs

    def predict(self, clip: Mapping[str, Any]) -> dict[str, Any]:
        """``frames``: what ``segment_frames`` finds in ``image``."""
        return {"frames": self.segment_frames(clip["image"])}

    def reference_outputs(self, inputs: ReferenceInputs) -> ReferenceOutputs:
        """Outputs for ``tools/check_parity.py``; in training mode with losses.

        Args:
            inputs: arrays as they lie in the file; images are normalised already.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reference files")

    def in_precision(self, head: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A part of the network to be called behind the forward pass, in its precision."""

        @torch.inference_mode()
        def call(*args: Any) -> Tensor:
            with arithmetic(self.precision, self.device):
                return head(*args)

        return call


class RefiningModel(FrameModel):
    """A network for frames whose tracklets are refined over time before heads take them.

    It is associated by "refinevis" (RefineVIS, arXiv:2306.04774).
    """

    association = "refinevis"
    #: W, frames that a frame reads, itself included; 0: ``refine`` is never called.
    window: int

    @abstractmethod
    def refine(self, embeds: Tensor, times: Tensor, readable: Tensor, last_only: bool) -> Tensor:
        """Refine N tracklets.

        Args:
            embeds: (N, T, C) of ``FrameOutputs.query``; zero where a tracklet was missed.
            times: (T,) int64, frame index in the video.
            readable: (N, T) bool, False in places outside the video or before the tracklet began.
            last_only: only the last frame asks; the others are read.

        Returns:
            (N, T, C), or (N, 1, C) with ``last_only``.
        """

    @abstractmethod
    def class_head(self, embeds: Tensor) -> Tensor:
        """(N, C) refined embeddings -> logits as those of ``FrameOutputs``."""

    @abstractmethod
    def mask_head(self, embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        """(N, C), features of the frame and (N, 2) reference points or None -> (N, h, w) logits."""


#: A network that finds the objects of videos.
Segmenter = ClipModel | FrameModel


@dataclass(frozen=True)
class RefinedTube:
    """One tracklet of a window of frames, sharpened where it had a mask.

    Args:
        tracklet: which of those that were given.
        frames: T of the frames that were given, ascending.
        probability: (T, h, w) float in [0, 1] of rectangles, at the scale of the frames.
        looked_at: (T, h, w) bool, pixels below a root of the quadtree; others mean nothing.
        places: T, where the rectangles lie.
    """

    tracklet: int
    frames: list[int]
    probability: Tensor
    looked_at: Tensor
    places: list[Place]


class MaskRefinerModel(VideoModel):
    """Sharpens masks that are given."""

    needs_coarse_masks = True
    not_captured = "cut-outs around masks have sizes of their own"
    learns_from_partial_labels = True  # it learns of the objects that it is given
    #: Frames on each side of a frame that vote on its masks; 0: ``refine_tubes`` reads no votes.
    votes_reach = 0

    @abstractmethod
    def refine_tubes(
        self, frames: Tensor, masks: Tensor, votes: Tensor | None = None
    ) -> Iterator[RefinedTube]:
        """Sharpen the tracklets of a window.

        Args:
            frames: (T, 3, H, W) uint8 RGB, on the model's device.
            masks: (N, T, H, W) bool, best in the host's memory, where windows are laid around them.
            votes: (N, T, 2, H, W) uint8 of ``vmt.ops.flow_votes``, likewise; None: there are none.

        Yields:
            At most one result per tracklet, about the frames in which it has a pixel; none for a
            tracklet without any, or of which nothing is known.
        """

    def predict(self, clip: Mapping[str, Any]) -> dict[str, Any]:
        """``tubes``: what ``refine_tubes`` makes of ``coarse`` in ``image``."""
        return {"tubes": list(self.refine_tubes(clip["image"], clip["coarse"], clip.get("votes")))}
