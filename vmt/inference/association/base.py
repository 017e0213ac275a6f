"""Between a network and the tracks of a video: what goes in per window, what comes out per frame.

A strategy is a file of this room; ``PredictorOptions.association`` says which one a video gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from vmt.structures.roi_masks import MaskLogits, RoiMasks

#: What a network gives for a window: ``ClipTracklets``, or a list of ``FrameOutputs``.
Output = TypeVar("Output", contravariant=True)


@dataclass(frozen=True)
class ClassScore:
    """A label of a track and its probability in [0, 1]."""

    label: int
    score: float


@dataclass(frozen=True)
class TrackSummary:
    """What is known of a track once no later frame can hold it.

    Args:
        track_id: from 1, in order of appearance.
        classes: the labels that are kept, best first; may be empty.
    """

    track_id: int
    classes: tuple[ClassScore, ...]


@dataclass(frozen=True)
class FrameLogits:
    """The tracks of one frame, before the masks are brought to the size of the video.

    Args:
        index: of the frame in the video.
        track_ids: N ids, ascending.
        labels: N best labels, so far or in this frame alone, as the strategy has it.
        scores: N probabilities of these labels, in [0, 1].
        logits: (N, h, w) mask logits, on the device of the network; or crops.
        mask_stride: input pixels per cell of ``logits``.
        input_size: (H, W) of the frame that went into the network, in pixels.
        upsampling: see ``masks_at_video_size``.
        query: (N, C), embeddings from which the masks were cut, where a network for frames gives
            them.
        rest: objects of the frame in no track, all with id 0, where they are asked for.
    """

    index: int
    track_ids: tuple[int, ...]
    labels: tuple[int, ...]
    scores: tuple[float, ...]
    logits: MaskLogits
    mask_stride: int
    input_size: tuple[int, int]
    upsampling: str = "aligned"
    query: Tensor | None = None
    rest: FrameLogits | None = None

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and containers of them; ``from_state`` reads them."""
        values = vars(self).copy()
        if isinstance(self.logits, RoiMasks):
            values["logits"] = vars(self.logits).copy()
        if self.rest is not None:
            values["rest"] = self.rest.state()
        return values

    @classmethod
    def from_state(cls, values: Mapping[str, Any]) -> FrameLogits:
        """The record of ``state``."""
        logits, rest = values["logits"], values["rest"]
        if isinstance(logits, Mapping):
            logits = RoiMasks(**logits)
        rest = None if rest is None else cls.from_state(rest)
        return cls(**{**values, "logits": logits, "rest": rest})


class Association(Protocol[Output]):
    """Makes tracks of one video out of what a network says about its windows."""

    def add(self, start: int, output: Output) -> None:
        """Take in a window.

        Args:
            start: index of its first frame; windows come in ascending order.
            output: what the network saw in it.
        """
        ...

    def pop_frames(self, until: int) -> list[FrameLogits]:
        """Hand out the frames before ``until``, which no later window covers.

        Args:
            until: index of a frame; earlier calls' frames are not handed out again.

        Returns:
            One record per frame, in order.
        """
        ...

    def pop_closed(self, *, everything: bool = False) -> list[TrackSummary]:
        """Hand out and forget the tracks that can meet no later window.

        Args:
            everything: also those that could; for the end of the video, or of the patience.

        Returns:
            Summaries by ascending id, those without a class or a pixel included.
        """
        ...


class ResumableAssociation(Association[Output], Protocol[Output]):
    """One whose state between two windows can be saved."""

    #: Frames that a window must have, the last one at most; 0: any number.
    clip: int

    def state(self) -> dict[str, Any]:
        """Everything, as tensors, numbers, strings and containers of them."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken, to the bit."""
        ...
