"""What a tracklet looked like: cells of some frames, and which of them were the object's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Frames that are remembered beside the given ones: the last, and earlier ones ``SPACING`` apart.
RECENT, SPACING = 3, 4
#: Given masks that are remembered: the first and the last ones.
GIVEN = 3
#: Most similar cells that decide about a cell, and how fast their say falls with similarity.
NEAREST, TEMPERATURE = 8, 0.05
#: What a distance of the object's own size costs in similarity, squared.
AWAY = 0.02


@dataclass(frozen=True, eq=False)
class Shot:
    """Cells of a frame in and around the object.

    Args:
        features: (C, n), each of length 1.
        share: (n,) in [0, 1], of the object.
        place: (n, 2), from the object's centre, in units of its size.
        frame: how many frames the memory had seen.
        given: of a given mask.
    """

    features: Tensor
    share: Tensor
    place: Tensor
    frame: int
    given: bool


class Memory:
    """Frames of one tracklet; their number does not grow with the video."""

    def __init__(self) -> None:
        self.shots: list[Shot] = []
        self._seen = 0

    def write(self, features: Tensor, share: Tensor, place: Tensor, *, given: bool) -> None:
        """Remember a frame; arguments as of ``Shot``."""
        self.shots.append(Shot(features, share, place, self._seen, given))
        self._seen += 1
        fixed = [shot for shot in self.shots if shot.given]
        if len(fixed) > GIVEN:
            self.shots.remove(fixed[1])
        recent = [shot for shot in self.shots if not shot.given]
        if len(recent) > RECENT:
            # The newest of the earlier ones goes unless its turn has come; else the oldest.
            odd = [shot for shot in recent[:-1] if shot.frame % SPACING]
            self.shots.remove(odd[-1] if odd else recent[0])

    def read(self, features: Tensor, place: Tensor | None) -> Tensor:
        """How much cells look like the object rather than like what was around it.

        The mean of the most similar remembered cells, as the read-out of STM (arXiv:1904.00607)
        and STCN (arXiv:2106.05210), with features that were never trained for it.

        Args:
            features: (C, m).
            place: (m, 2), as in ``Shot``; None: places do not count.

        Returns:
            (m,) in [0, 1].
        """
        asked = features if place is None else torch.cat([features, _near(place, given=False)])
        values, shares = [], []
        for shot in self.shots:
            known = shot.features
            if place is not None:
                known = torch.cat([known, _near(shot.place, given=True)])
            similar = asked.T @ known  # (m, n)
            best, cells = similar.topk(min(NEAREST, similar.shape[1]), 1)
            values.append(best)
            shares.append(shot.share[cells])
        value, share = torch.cat(values, 1), torch.cat(shares, 1)
        best, chosen = value.topk(min(NEAREST, value.shape[1]), 1)
        weight = (best / TEMPERATURE).softmax(1)
        return (weight * share.gather(1, chosen)).sum(1)


def _near(place: Tensor, *, given: bool) -> Tensor:
    """(n, 2) -> (3, n), whose product with that of other places falls with their distance.

    It is ``AWAY`` times minus the squared distance, and a number of the asked place, which changes
    nothing: asked places are compared with many given ones, not with one another.
    """
    across = (2 * AWAY) ** 0.5 * place
    last = -AWAY * place.square().sum(1, keepdim=True)
    return torch.cat([across, last if given else torch.ones_like(last)], 1).T
