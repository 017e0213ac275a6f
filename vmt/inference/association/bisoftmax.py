"""Tracks of frames that are associated one by one, as IDOL is published.

Source: IDOL, arXiv:2207.10661, section 3.3, and its code for the rules of the output. RefineVIS
(arXiv:2306.04774) associates in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fvcore.common.config import CfgNode

from vmt.inference.association.base import FrameLogits, TrackSummary
from vmt.inference.association.on_host import on_host
from vmt.inference.association.registry import ASSOCIATIONS
from vmt.inference.association.tracker import Tracker
from vmt.inference.association.tracks import TrackOptions, Tracks
from vmt.modeling.registry import register
from vmt.modeling.tracking.memory import MemoryOptions
from vmt.modeling.tracking.selection import SelectionOptions
from vmt.modeling.video_model import FrameModel, FrameOutputs
from vmt.utils.device import index_on
from vmt.utils.errors import ConfigError

if TYPE_CHECKING:
    from vmt.inference.predictor import PredictorOptions


@dataclass(frozen=True)
class BisoftmaxOptions:
    """How detections of frames become tracks.

    Args:
        selection: which queries are detections.
        memory: which detections belong together.
        tracks: how tracks are scored and when they are dropped.
    """

    selection: SelectionOptions = field(default_factory=SelectionOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    tracks: TrackOptions = field(default_factory=TrackOptions)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BisoftmaxOptions:
        """Read ``TEST.BISOFTMAX``.

        Raises:
            ConfigError: a word that is none of its values.
        """
        node = cfg.TEST.BISOFTMAX
        for key, values in (("MATCHING", ("greedy", "hungarian")), ("SCORE", ("mean", "max"))):
            if node[key] not in values:
                raise ConfigError(
                    f"TEST.BISOFTMAX.{key} is {node[key]!r}; choose {' or '.join(values)}."
                )
        return cls(
            SelectionOptions(score=node.SELECT_SCORE, mask_iou=node.MASK_IOU),
            MemoryOptions(birth_score=node.BIRTH_SCORE, optimal=node.MATCHING == "hungarian"),
            TrackOptions(best_score=node.SCORE == "max"),
        )


@register(ASSOCIATIONS, "bisoftmax")
class BisoftmaxAssociation:
    """Joins the detections of each frame to the tracklets in a memory of embeddings.

    Every track's ids, scores and masks are fixed when its frame goes in, so frames come out in the
    same way whatever the windows.

    Args:
        options: see ``BisoftmaxOptions``.
    """

    clip = 0

    def __init__(self, options: BisoftmaxOptions | None = None) -> None:
        options = options if options is not None else BisoftmaxOptions()
        self._tracker = Tracker(options.selection, options.memory)
        self._tracks = Tracks(options.tracks)
        self._pending: list[FrameLogits] = []

    @classmethod
    def from_options(cls, options: PredictorOptions, model: FrameModel) -> BisoftmaxAssociation:
        """See ``registry``."""
        return cls(options.bisoftmax)

    def add(self, start: int, output: Sequence[FrameOutputs]) -> None:
        """See ``Association``; windows share no frame."""
        assert start == self._tracker.next_frame, "frames come one after the other"
        self._pending += self._associate(on_host(output))

    def pop_frames(self, until: int) -> list[FrameLogits]:
        """See ``Association``."""
        frames = [frame for frame in self._pending if frame.index < until]
        self._pending = self._pending[len(frames) :]
        return frames

    def pop_closed(self, *, everything: bool = False) -> list[TrackSummary]:
        """See ``Association``; dropped tracks come without a class."""
        return self._tracks.pop_closed(everything=everything)

    def _associate(self, frames: Sequence[FrameOutputs]) -> list[FrameLogits]:
        """The tracks of each frame, ``on_host``."""
        records = []
        for step, frame in zip(self._tracker.steps(frames), frames, strict=True):
            rows = list(step.query.values())
            probs = frame.class_probs()[rows]
            query = None if frame.query is None else frame.query[index_on(frame.query.device, rows)]
            self._tracks.update(step, dict(zip(step.query, probs, strict=True)))
            tracklets = list(step.query)
            records.append(self._tracks.record(step.index, tracklets, step.masks, query, frame))
        return records

    def state(self) -> dict[str, Any]:
        """See ``ResumableAssociation``."""
        return {
            "kind": type(self).__name__,
            "tracker": self._tracker.state(),
            "tracks": self._tracks.state(),
            "pending": [vars(frame).copy() for frame in self._pending],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``ResumableAssociation``."""
        if state["kind"] != type(self).__name__:
            raise KeyError(f"of a {state['kind']}")
        self._tracker.load_state(state["tracker"])
        self._tracks.load_state(state["tracks"])
        self._pending = [FrameLogits(**values) for values in state["pending"]]
