"""What overlapping windows say about a tracklet in one frame, and their mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vmt.modeling.video_model import RefinedTube
from vmt.utils.device import to_host

#: Stands for a probability where there is none.
NOT_LOOKED_AT = -1.0


@dataclass(frozen=True)
class Vote:
    """Probabilities of one tracklet in a rectangle of a frame.

    Args:
        rows: of the frame, h of them.
        columns: of the frame, w of them.
        probability: (h, w) in [0, 1], of the object.
        looked_at: (h, w) bool; other pixels have no say.
        weight: the higher, the nearer the frame is to the middle of the window.
    """

    rows: slice
    columns: slice
    probability: npt.NDArray[np.float32]
    looked_at: npt.NDArray[np.bool_]
    weight: float = 1.0


def tubes_on_host(tubes: Iterable[RefinedTube], at_once: int) -> Iterator[RefinedTube]:
    """The same in the host's memory, in common copies.

    Args:
        tubes: pixels that were not looked at lose their probability.
        at_once: a copy is made as soon as so many pixels wait for it.
    """
    waiting: list[tuple[RefinedTube, Tensor]] = []
    for tube in tubes:
        said = torch.where(tube.looked_at, tube.probability, NOT_LOOKED_AT)
        waiting.append((tube, said))
        if sum(values.numel() for _, values in waiting) >= at_once:
            yield from _copied(waiting)
            waiting = []
    yield from _copied(waiting)


def _copied(waiting: Sequence[tuple[RefinedTube, Tensor]]) -> Iterator[RefinedTube]:
    copies = to_host([values for _, values in waiting])
    for (tube, _), copy in zip(waiting, copies, strict=True):
        yield replace(tube, probability=copy, looked_at=copy != NOT_LOOKED_AT)


def votes_of(tube: RefinedTube, length: int) -> Iterator[Vote]:
    """One vote per frame in which the tracklet has a mask.

    Args:
        tube: as the network refined it, in the host's memory.
        length: frames of the window.
    """
    probability, looked_at = tube.probability.numpy(), tube.looked_at.numpy()
    for k, (t, place) in enumerate(zip(tube.frames, tube.places, strict=True)):
        inside = (k, place.own_rows, place.own_columns)
        weight = min(t + 1, length - t)
        yield Vote(place.rows, place.columns, probability[inside], looked_at[inside], weight)


def mean_vote(votes: Sequence[Vote]) -> Vote:
    """The weighted mean, in the rectangle around all; at least one vote is needed.

    Windows of one frame differ little, so that this rectangle is hardly larger than theirs.
    """
    rows = slice(min(v.rows.start for v in votes), max(v.rows.stop for v in votes))
    columns = slice(min(v.columns.start for v in votes), max(v.columns.stop for v in votes))
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for vote in votes:
        place = (
            slice(vote.rows.start - rows.start, vote.rows.stop - rows.start),
            slice(vote.columns.start - columns.start, vote.columns.stop - columns.start),
        )
        own = vote.weight * vote.looked_at
        total[place] += own * vote.probability
        weight[place] += own
    total /= np.maximum(weight, 1e-6)
    return Vote(rows, columns, total, weight > 0)
