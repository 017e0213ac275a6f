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
    f"A result that is empty, or shares less than half with the given mask (IoU below {MIN_IOU}), "
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
    """

    video: str = ""
    tracklet: str = ""
    place: tuple[str, int] = ("", 0)
    masks: int = 0
    area: int = 0
    changed_px: int = 0
    confidences: float = 0.0
    rejected: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Pixels changed over pixels of the old masks."""
        return self.changed_px / max(self.area, 1)

    @property
    def confidence(self) -> float:
        """Mean over the masks, in [0.5, 1]; 0 without one."""
        return self.confidences / max(self.masks, 1)

    def add(self, masks: int, area: int, changed_px: int, confidences: float) -> None:
        """Count more masks."""
        self.masks += masks
        self.area += area
        self.changed_px += changed_px
        self.confidences += confidences

    def log_row(self) -> dict[str, Any]:
        """Of the change log."""
        return {
            "tracklet": self.tracklet,
            "masks": self.masks,
            "changed_px": self.changed_px,
            "changed_share": round(self.share, 6),
            "mean_confidence": round(self.confidence, 4),
            "rejected_frames": self.rejected,
        }


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
        rows: the most changed of them, at most ``MAX_ROWS``.
        examples: the most changed frames, at most ``MAX_EXAMPLES``.
    """

    def __init__(self) -> None:
        self.total = Tally()
        self.videos: list[dict[str, Any]] = []
        self.tracklets = 0
        self.rows: list[Tally] = []
        self.examples: list[Example] = []

    def add(self, video: MaskVideo, finished: FinishedVideo) -> None:
        """Read what became of one more video."""
        name, total = video.label, self.total
        tallies = [Tally(name, label, (video.key, n)) for n, label in enumerate(finished.labels)]
        best: dict[int, list[Example]] = {}
        for change in finished:
            tally = tallies[change.tracklet]
            tally.add(1, change.area, change.changed_px, change.confidence)
            tally.rejected += [change.name] if change.rejected else []
            if change.mask is not None and change.area >= MIN_EXAMPLE_PX:
                _offer(best.setdefault(change.tracklet, []), Example(tally, change))
        for tally in tallies:
            total.add(tally.masks, tally.area, tally.changed_px, tally.confidences)
            total.rejected += [f"{name} {frame}" for frame in tally.rejected]
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
            masks_now: refined by this run; frames without a mask cost next to nothing.
            seconds: that it took.
        """
        total, speed = self.total, ""
        if masks_now:
            some = f", {masks_now:,} of them now," if masks_now < total.masks else ""
            speed = f"{some} in {seconds:.1f} s ({seconds / masks_now:.2f} s per mask)"
        elif total.masks:
            speed = " in an earlier run"
        text = (
            f"{count_text(total.masks, 'mask')} refined{speed}: "
            f"{count_text(total.changed_px, 'pixel')} changed ({total.share:.1%} of the masks), "
            f"{count_text(len(total.rejected), 'result')} rejected"
        )
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
