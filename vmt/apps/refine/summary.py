"""What became of all masks: totals, change log, the most changed tracklets and frames.

Built in one pass over the finished videos, in memory that does not grow with their frames.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

from vmt.apps.refine.work_folder import FinishedVideo, count_text
from vmt.data.mask_files.base import Change, MaskVideo, list_few
from vmt.inference.refine_defaults import MIN_IOU

#: The report stays small: frames to look at, of one tracklet, and tracklets listed.
MAX_EXAMPLES, MAX_PER_TRACKLET, MAX_ROWS = 12, 2, 60
#: Objects smaller than this are no examples; nor are frames so close to another.
MIN_EXAMPLE_PX, MIN_STEP = 200, 5
#: What to do about rejected results.
REJECTED = (
    f"A result that is empty, or shares too little with the given mask (IoU below {MIN_IOU}), "
    "is thrown away and that mask stays as it was: look whether it belongs to this frame and "
    "object; one that is far too wide or narrow must be drawn closer to the object first."
)


@dataclass(eq=False)
class Tally:
    """What became of the masks of one tracklet, or of all.

    Args:
        video: its name.
        tracklet: its name.
        place: key of the video, and place of the tracklet in it.
        masks: frames in which it has one.
        area: of the old masks, in pixels.
        changed_px: pixels that differ.
        confidences: sum over the masks.
        rejected: names of the frames whose new mask was thrown away.
        propagated: names of the frames whose mask was propagated -> its confidence.
        lost: names of the frames in which the object was not found.
    """

    video: str = ""
    tracklet: str = ""
    place: tuple[str, int] = ("", 0)
    masks: int = 0
    area: int = 0
    changed_px: int = 0
    confidences: float = 0.0
    rejected: list[str] = field(default_factory=list)
    propagated: dict[str, float] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Pixels changed over pixels of the old masks."""
        return self.changed_px / max(self.area, 1)

    @property
    def confidence(self) -> float:
        """Mean over the masks, in [0.5, 1]; 0 without one."""
        return self.confidences / max(self.masks, 1)

    def add(self, change: Change) -> None:
        """Count one more mask."""
        if change.propagated:
            where = self.lost if change.rejected else self.propagated
            where[change.name] = change.confidence
            return
        self.masks += 1
        self.area += change.area
        self.changed_px += change.changed_px
        self.confidences += change.confidence
        self.rejected += [change.name] if change.rejected else []

    def join(self, other: Tally) -> None:
        """Count the masks of a tracklet, too."""
        self.masks += other.masks
        self.area += other.area
        self.changed_px += other.changed_px
        self.confidences += other.confidences
        self.rejected += [f"{other.video} {frame}" for frame in other.rejected]

    def log_row(self) -> dict[str, Any]:
        """Of the change log."""
        more = {"propagated": self.propagated, "lost_frames": self.lost}
        return {
            "tracklet": self.tracklet,
            "masks": self.masks,
            "changed_px": self.changed_px,
            "changed_share": round(self.share, 6),
            "mean_confidence": round(self.confidence, 4),
            "rejected_frames": self.rejected,
        } | {key: frames for key, frames in more.items() if self.propagated or self.lost}


@dataclass(frozen=True, eq=False)
class Example:
    """A frame to look at: the new mask of a tracklet."""

    tally: Tally
    change: Change

    @property
    def score(self) -> tuple[float, int]:
        """Pixels changed per length of contour, up to the object's shape; then the frame."""
        return self.change.changed_px / self.change.area**0.5, self.change.frame


class Summary:
    """Sums over the videos that were added.

    Attributes:
        total: of all masks.
        videos: of the change log.
        tracklets: how many have masks.
        propagated: masks that were made in frames that had none.
        lost: frames in which a propagated tracklet was not found.
        rows: the most changed of them, at most ``MAX_ROWS``.
        examples: the most changed frames, at most ``MAX_EXAMPLES``.
    """

    def __init__(self) -> None:
        self.total = Tally()
        self.videos: list[dict[str, Any]] = []
        self.tracklets = self.propagated = self.lost = 0
        self.rows: list[Tally] = []
        self.examples: list[Example] = []

    def add(self, video: MaskVideo, finished: FinishedVideo) -> None:
        """Read what became of one more video."""
        name, total = video.label, self.total
        tallies = [Tally(name, label, (video.key, n)) for n, label in enumerate(finished.labels)]
        best: dict[int, list[Example]] = {}
        for change in finished:
            tally = tallies[change.tracklet]
            tally.add(change)
            if change.mask is not None and change.area >= MIN_EXAMPLE_PX:
                _offer(best.setdefault(change.tracklet, []), Example(tally, change))
        for tally in tallies:
            total.join(tally)
            self.propagated += len(tally.propagated)
            self.lost += len(tally.lost)
        log_rows = [tally.log_row() for tally in tallies]
        self.videos.append({"video": name, "note": finished.note, "tracklets": log_rows})
        present = [tally for tally in tallies if tally.masks]
        self.tracklets += len(present)
        self.rows = heapq.nlargest(MAX_ROWS, [*self.rows, *present], key=lambda tally: tally.share)
        examples = [*self.examples, *(example for some in best.values() for example in some)]
        self.examples = heapq.nlargest(MAX_EXAMPLES, examples, key=lambda some: some.score[0])

    def text(self, masks_now: int, seconds: float) -> str:
        """For people.

        Args:
            masks_now: refined or propagated by this run.
            seconds: that it took.
        """
        total, speed = self.total, ""
        made = total.masks + self.propagated
        if masks_now:
            some = f", {masks_now:,} of them now," if masks_now < made else ""
            speed = f"{some} in {seconds:.1f} s ({seconds / masks_now:.2f} s per mask)"
        elif made:
            speed = " in an earlier run"
        more = ""
        if self.propagated or self.lost:
            more = f" and {self.propagated:,} propagated"
        text = (
            f"{count_text(total.masks, 'mask')} refined{more}{speed}: "
            f"{count_text(total.changed_px, 'pixel')} changed ({total.share:.1%} of the masks), "
            f"{count_text(len(total.rejected), 'result')} rejected"
        )
        if self.lost:
            text += f", {count_text(self.lost, 'mask')} not found"
        if total.rejected:
            text += f"\nrejected: {list_few(total.rejected, 3)}. {REJECTED}"
        return text


def _offer(best: list[Example], example: Example) -> None:
    """Put an example among the best of its tracklet, which do not follow one another."""
    frame = example.change.frame
    near = next((other for other in best if abs(other.change.frame - frame) < MIN_STEP), None)
    if near is None:
        best.append(example)
    elif example.score > near.score:
        best[best.index(near)] = example
    best.sort(key=lambda some: some.score, reverse=True)
    del best[MAX_PER_TRACKLET:]
