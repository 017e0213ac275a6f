"""Frames aligned query by query, as MinVIS is published: every query is a track.

Source: MinVIS, arXiv:2208.02245, section 3.3, and its code for the rules of the output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vmt.inference.association.base import ClassScore, FrameLogits, TrackSummary
from vmt.inference.association.on_host import on_host
from vmt.inference.association.registry import ASSOCIATIONS
from vmt.modeling.registry import register
from vmt.modeling.video_model import FrameModel, FrameOutputs, class_probs
from vmt.utils.device import index_on
from vmt.utils.errors import ConfigError

if TYPE_CHECKING:
    from vmt.inference.predictor import PredictorOptions


@register(ASSOCIATIONS, "embedding_hungarian")
class EmbeddingHungarianAssociation:
    """Pairs the queries of successive frames by the cosine of their embeddings, all of them.

    Slot i holds query i of the first frame and what follows it; a track's logits are the mean over
    all frames. The best (slot, class) pairs of the video are its tracks.

    Args:
        top_k: how many pairs.
    """

    clip = 0

    def __init__(self, top_k: int = 10) -> None:
        self._top_k = top_k
        self._next_frame = 0
        self._embeddings: Tensor | None = None  # (Q, C) of the latest frame, by slot
        self._logits: Tensor | None = None  # (Q, num_classes), summed over the frames, by slot
        self._no_object = False
        self._pending: list[FrameLogits] = []

    @classmethod
    def from_options(
        cls, options: PredictorOptions, model: FrameModel
    ) -> EmbeddingHungarianAssociation:
        """See ``registry``."""
        return cls(options.top_k)

    def add(self, start: int, output: Sequence[FrameOutputs]) -> None:
        """See ``Association``; windows share no frame."""
        assert start == self._next_frame, "frames come one after the other"
        for frame in on_host(output):
            self._pending.append(self._associate(frame))

    def pop_frames(self, until: int) -> list[FrameLogits]:
        """See ``Association``."""
        frames = [frame for frame in self._pending if frame.index < until]
        self._pending = self._pending[len(frames) :]
        return frames

    def pop_closed(self, *, everything: bool = False) -> list[TrackSummary]:
        """See ``Association``; all of them at the end, since every query is in every frame."""
        if not everything or self._logits is None:
            return []
        probs = class_probs(self.mean_logits(), no_object=self._no_object)
        self._logits = self._embeddings = None
        best = probs.flatten().argsort(descending=True, stable=True)[: self._top_k].tolist()
        classes: dict[int, list[ClassScore]] = {slot: [] for slot in range(len(probs))}
        for place in best:
            slot, label = divmod(place, probs.shape[1])
            classes[slot].append(ClassScore(label, float(probs[slot, label])))
        return [TrackSummary(slot + 1, tuple(pairs)) for slot, pairs in classes.items()]

    def mean_logits(self) -> Tensor:
        """(Q, num_classes) of each slot over the frames so far."""
        assert self._logits is not None, "a frame was added"
        return self._logits / self._next_frame

    def _associate(self, frame: FrameOutputs) -> FrameLogits:
        order = self.align(frame.embeddings)
        logits = frame.logits[order]
        self._logits = logits if self._logits is None else self._logits + logits
        self._no_object = frame.no_object
        self._next_frame += 1
        best = class_probs(self.mean_logits(), no_object=self._no_object).max(1)
        return FrameLogits(
            self._next_frame - 1,
            tuple(range(1, len(order) + 1)),
            tuple(best.indices.tolist()),
            tuple(best.values.tolist()),
            frame.masks_to_draw(order),
            frame.mask_stride,
            frame.input_size,
            frame.upsampling,
            None if frame.query is None else frame.query[index_on(frame.query.device, order)],
        )

    def align(self, embeddings: Tensor) -> Tensor:
        """Query of the new frame in each slot.

        Args:
            embeddings: (Q, C) of the frame, on the CPU.

        Returns:
            (Q,) int64.
        """
        order = torch.arange(len(embeddings))
        if self._embeddings is not None:
            self._check_number(len(embeddings), len(self._embeddings))
            now, before = F.normalize(embeddings, dim=1), F.normalize(self._embeddings, dim=1)
            cost = 1 - now @ before.t()  # (queries, slots)
            order = torch.from_numpy(linear_sum_assignment(cost.t().numpy())[1])
        self._embeddings = embeddings[order]
        return order

    @staticmethod
    def _check_number(now: int, before: int) -> None:
        if now != before:
            raise ConfigError(
                f"TEST.ASSOCIATION embedding_hungarian pairs all queries of successive frames, but "
                f"there are {before} in one and {now} in the next: this network gives detections; "
                "choose auto, quasi_dense or bisoftmax."
            )

    def state(self) -> dict[str, Any]:
        """See ``ResumableAssociation``."""
        return {
            "next_frame": self._next_frame,
            "embeddings": self._embeddings,
            "logits": self._logits,
            "no_object": self._no_object,
            "pending": [vars(frame).copy() for frame in self._pending],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``ResumableAssociation``."""
        self._next_frame = state["next_frame"]
        self._embeddings, self._logits = state["embeddings"], state["logits"]
        self._no_object = state["no_object"]
        self._pending = [FrameLogits(**values) for values in state["pending"]]
