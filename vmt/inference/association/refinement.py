"""What the embeddings of tracklets become when they are refined over time.

Source: RefineVIS, arXiv:2306.04774, section 3.3: online a frame reads the refined past (Eq. 4),
offline the frames of a clip read one another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vmt.inference.association.tracker import Step
from vmt.modeling.video_model import FrameOutputs, RefiningModel
from vmt.utils.device import index_on, to_device
from vmt.utils.errors import CheckpointError


@dataclass(frozen=True)
class Refined:
    """The N tracklets of a frame, refined.

    Args:
        tracklets: N of the memory, ascending, matched in this frame or not.
        embeds: (N, C).
        refs: (N, 2) as ``RefiningModel.mask_head`` takes them; those of the nearest frame that was
            matched where this one was not. None for heads without.
    """

    tracklets: tuple[int, ...]
    embeds: Tensor
    refs: Tensor | None


class Refinement(ABC):
    """Refines the tracklets of a video, frames in order.

    Args:
        model: refines.
        window: W, at least 1.
    """

    #: Frames that come together; 0: any number.
    clip = 0

    def __init__(self, model: RefiningModel, window: int) -> None:
        self.model = model
        self.window = window

    @abstractmethod
    def refine(self, steps: Sequence[Step], frames: Sequence[FrameOutputs]) -> list[Refined]:
        """Refine T frames.

        Args:
            steps: which tracklets are in them.
            frames: what the network says about them.
        """

    def state(self) -> dict[str, Any]:
        """Everything that later frames need, as tensors, numbers and containers of them."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        assert not state, "what is between two clips is nothing"

    def _run(self, embeds: Tensor, first: int, readable: Tensor, last_only: bool) -> Tensor:
        """(N, T, C) embeddings of the frames from ``first`` on, refined."""
        times = torch.arange(first, first + embeds.shape[1], device=embeds.device)
        refine = self.model.in_precision(self.model.refine)
        return refine(embeds, times, to_device(readable, embeds.device), last_only).float()


class OnlineRefinement(Refinement):
    """A frame reads what the W - 1 frames before it were refined to.

    Args:
        model: see ``Refinement``.
        window: likewise.
    """

    def __init__(self, model: RefiningModel, window: int) -> None:
        super().__init__(model, window)
        self._ages: dict[int, int] = {}  # frames since each tracklet began
        self._past: Tensor | None = None  # (M, W - 1, C) refined, in the order of the ages
        self._refs: Tensor | None = None  # (M, 2) of the latest match

    def refine(self, steps: Sequence[Step], frames: Sequence[FrameOutputs]) -> list[Refined]:
        """See ``Refinement``; frames after one play no part in it."""
        return [self._frame(step, frame) for step, frame in zip(steps, frames, strict=True)]

    def _frame(self, step: Step, frame: FrameOutputs) -> Refined:
        tracklets = tuple(sorted(step.alive))
        now, refs = of_tracklets(step, frame, tracklets)
        past = self._rows(self._past, tracklets, now.new_zeros(1, self.window - 1, now.shape[1]))
        if refs is not None:
            found = [i in step.query for i in tracklets]
            matched = to_device(torch.tensor(found, dtype=torch.bool), refs.device)
            before = self._rows(self._refs, tracklets, refs.new_zeros(1, 2))
            refs = torch.where(matched[:, None], refs, before)
        ages = [self._ages.get(i, 0) for i in tracklets]
        places = torch.arange(self.window - 1, -1, -1)
        readable = places <= torch.tensor(ages, dtype=torch.int64)[:, None]  # (N, W)
        embeds = torch.cat([past, now[:, None]], 1)
        refined = now
        if tracklets:
            first = step.index - self.window + 1
            refined = self._run(embeds, first, readable, last_only=True)[:, 0]
        self._past = torch.cat([past, refined[:, None]], 1)[:, 1:]
        self._refs = refs
        self._ages = {i: age + 1 for i, age in zip(tracklets, ages, strict=True)}
        return Refined(tracklets, refined, refs)

    def _rows(self, table: Tensor | None, tracklets: Sequence[int], empty: Tensor) -> Tensor:
        """A row per tracklet of a table in the order of the ages; ``empty`` for new tracklets."""
        table = empty if table is None else torch.cat([table, empty])
        row_of = {tracklet: row for row, tracklet in enumerate(self._ages)}
        rows = [row_of.get(tracklet, len(table) - 1) for tracklet in tracklets]
        return table[index_on(table.device, rows)]

    def state(self) -> dict[str, Any]:
        """See ``Refinement``."""
        return {"ages": dict(self._ages), "past": self._past, "refs": self._refs}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``Refinement``.

        Raises:
            CheckpointError: the state has another W.
        """
        self._ages = dict(state["ages"])
        self._past, self._refs = (
            None if state[name] is None else state[name].to(self.model.device)
            for name in ("past", "refs")
        )
        if self._past is not None and self._past.shape[1] != self.window - 1:
            raise CheckpointError(
                f"the state of a video was saved with TEST.REFINEVIS.WINDOW "
                f"{self._past.shape[1] + 1}, not {self.window}; choose the same."
            )


class OfflineRefinement(Refinement):
    """The frames of a clip of W read one another; clips know nothing of each other.

    Tracklets without a match in a clip are not in it.

    Args:
        model: see ``Refinement``.
        window: likewise.
    """

    def __init__(self, model: RefiningModel, window: int) -> None:
        super().__init__(model, window)
        self.clip = window

    def refine(self, steps: Sequence[Step], frames: Sequence[FrameOutputs]) -> list[Refined]:
        """See ``Refinement``; the frames are one clip."""
        assert len(steps) <= self.window, "a clip has at most W frames"
        tracklets = tuple(sorted(set().union(*(step.query for step in steps))))
        tables = [
            of_tracklets(step, frame, tracklets) for step, frame in zip(steps, frames, strict=True)
        ]
        embeds = torch.stack([embed for embed, _ in tables], 1)  # (N, T, C)
        alive = torch.tensor([[i in step.alive for step in steps] for i in tracklets])
        if tracklets:
            embeds = self._run(embeds, steps[0].index, alive, last_only=False)
        refs = self._nearest(steps, tracklets, [ref for _, ref in tables])
        refined = []
        for t in range(len(steps)):
            rows = [row for row in range(len(tracklets)) if alive[row, t]]
            names = tuple(tracklets[row] for row in rows)
            index = index_on(embeds.device, rows)
            refined.append(
                Refined(names, embeds[index, t], None if refs is None else refs[index, t])
            )
        return refined

    @staticmethod
    def _nearest(
        steps: Sequence[Step], tracklets: Sequence[int], refs: Sequence[Tensor | None]
    ) -> Tensor | None:
        """(N, T, 2) reference points of the nearest frames with a match, the earlier of two."""
        tables = [table for table in refs if table is not None]
        if not tables or not tracklets:
            return torch.stack(tables, 1) if tables else None
        matched = torch.tensor([[i in step.query for step in steps] for i in tracklets])
        places = torch.arange(len(steps))
        distance = (places[:, None] - places).abs() + len(steps) * ~matched[:, None]  # (N, T, T)
        nearest = index_on(tables[0].device, distance.argmin(-1))
        return torch.stack(tables, 1).gather(1, nearest[..., None].expand(-1, -1, 2))


def of_tracklets(
    step: Step, frame: FrameOutputs, tracklets: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Queries and reference points of tracklets in a frame, zero where they were missed.

    Args:
        step: which query stands for which tracklet.
        frame: what the network says about the frame.
        tracklets: N of them.

    Returns:
        (N, C) float, and (N, 2), or None for heads without.
    """
    assert frame.query is not None, "queries are what is refined"
    missed = len(frame.query)
    rows = index_on(frame.query.device, [step.query.get(i, missed) for i in tracklets])

    def chosen(table: Tensor) -> Tensor:
        table = table.float()
        return torch.cat([table, table.new_zeros(1, table.shape[1])])[rows]

    return chosen(frame.query), None if frame.refs is None else chosen(frame.refs)
