"""What overlapping windows say about a tracklet in one frame, and their mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmt.modeling.video_model import RefinedTube


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


def votes_of(tube: RefinedTube, length: int) -> Iterator[Vote]:
    """One vote per frame in which the tracklet has a mask.

    Args:
        tube: as the network refined it.
        length: frames of the window.
    """
    probability = tube.probability.float().cpu().numpy()
    looked_at = tube.looked_at.cpu().numpy()
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
