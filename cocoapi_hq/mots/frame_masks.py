"""The masks of one frame of MOTS as parallel lists, by video, and without overlaps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]


@dataclass
class FrameMasks:
    """The masks of one frame that take part in scoring, as parallel lists of length N.

    Attributes:
        video: name of the video; "" where the file has none.
        name: name of the frame.
        index: place in the video; the position in the file where the file has none.
        rles: N compressed run-length masks.
        labels: N class positions.
        track_ids: N ids, unique per video and object; -1 where ids are not read.
        ignored: N flags, True for crowd, ignored and distractor labels.
        scores: N scores, nan where the label has none.
        where: file and JSON path of the frame, for messages.
    """

    video: str
    name: str
    index: int
    rles: list[rle.Rle] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    track_ids: list[int] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    where: str = ""

    def append(
        self,
        mask: rle.Rle,
        label: int,
        *,
        track_id: int = -1,
        ignored: bool = False,
        score: float = math.nan,
    ) -> None:
        """Add one mask."""
        self.rles.append(mask)
        self.labels.append(label)
        self.track_ids.append(track_id)
        self.ignored.append(ignored)
        self.scores.append(score)

    def select(self, keep: Iterable[int]) -> FrameMasks:
        """The same frame with the masks at the given positions only."""
        chosen = FrameMasks(self.video, self.name, self.index, where=self.where)
        for i in keep:
            chosen.append(
                self.rles[i],
                self.labels[i],
                track_id=self.track_ids[i],
                ignored=self.ignored[i],
                score=self.scores[i],
            )
        return chosen


def group_by_video(frames: Sequence[FrameMasks]) -> dict[str, list[FrameMasks]]:
    """Videos sorted by name, each with its frames in the order of their index.

    Raises:
        ScoringError: two frames of a video share an index.
    """
    videos: dict[str, list[FrameMasks]] = {}
    for frame in frames:
        videos.setdefault(frame.video, []).append(frame)
    for name, members in videos.items():
        members.sort(key=lambda frame: frame.index)
        for before, after in itertools.pairwise(members):
            if before.index == after.index:
                raise ScoringError(
                    f"{after.where}: frameIndex {after.index} appears twice in video {name!r} "
                    f"(frames {before.name!r} and {after.name!r}); give every frame one entry."
                )
    return dict(sorted(videos.items()))


def resolve_overlaps(frame: FrameMasks) -> FrameMasks:
    """Give every contested pixel to the mask with the highest score; empty masks are dropped.

    The usual way to make predictions valid for BDD100K: paint by ascending score (equal scores:
    the later label ends up on top). A mask without a score is painted first.

    Raises:
        ScoringError: the masks of the frame differ in size.
    """
    sizes = {tuple(mask["size"]) for mask in frame.rles}
    if len(sizes) > 1:
        raise ScoringError(
            f"{frame.where}: masks of the sizes {sorted(sizes)} in one frame (video "
            f"{frame.video!r}, frame {frame.name!r}); overlaps need one size per frame."
        )
    order = sorted(
        range(len(frame.rles)),
        key=lambda i: -math.inf if math.isnan(frame.scores[i]) else frame.scores[i],
    )
    visible: dict[int, rle.Rle] = {}
    covered: BoolArray | None = None
    for i in reversed(order):
        mask = rle.decode(frame.rles[i])
        if covered is None:
            covered = np.zeros_like(mask)
        x, y, w, h = rle.to_box(frame.rles[i])
        own, seen = mask[y : y + h, x : x + w], covered[y : y + h, x : x + w]
        hidden = bool((own & seen).any())
        own &= ~seen
        seen |= own
        if own.any():
            visible[i] = rle.encode(mask) if hidden else frame.rles[i]
    kept = frame.select(sorted(visible))
    kept.rles = [visible[i] for i in sorted(visible)]
    return kept
