"""The report of a run: tracklets are measured and examples drawn, video by video."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from cocoapi_hq.io import rle
from vmt.apps.refine.compare import Difference, Pictures, example_pictures, measure
from vmt.apps.refine.frames import chosen_frames, frame_set
from vmt.apps.refine.options import RefineOptions
from vmt.apps.refine.page import build_page
from vmt.apps.refine.summary import REJECTED, Example, Summary
from vmt.apps.refine.work_folder import WorkFolder, count_text
from vmt.data.mask_files.base import Change, MaskFile, VideoMasks, list_few
from vmt.inference.sources import VideoSource

#: Masks measured, of all tracklets of the table together.
MAX_MEASURED = 1500


def make_page(
    options: RefineOptions, masks: MaskFile, bad: Sequence[str], summary: Summary, work: WorkFolder
) -> str:
    """The text of the page.

    Args:
        options: of the run.
        masks: the file.
        bad: names of the videos that were left alone.
        summary: of the finished videos.
        work: has them and their frames.
    """
    differences: dict[tuple[str, int], Difference] = {}
    pictures: dict[Example, Pictures] = {}
    limit = max(MAX_MEASURED // max(len(summary.rows), 1), 10)
    for video in masks.videos:
        tracklets = [tally.place[1] for tally in summary.rows if tally.place[0] == video.key]
        examples = [e for e in summary.examples if e.tally.place[0] == video.key]
        if tracklets or examples:
            source = work.frames[video.key]()
            loaded = video.load(frame_set(source))
            changes = work.finished(video.key) or ()
            for n, difference in _measure(changes, loaded, tracklets, limit).items():
                differences[video.key, n] = difference
            pictures.update(_draw(source, loaded, examples))
    total = summary.total
    rows = [(tally, differences.get(tally.place)) for tally in summary.rows]
    shifts = [difference.shift_px for _, difference in rows if difference is not None]
    number, _, noun = count_text(len(masks.videos) - len(bad), masks.noun).partition(" ")
    moved = [(f"{sum(shifts) / len(shifts):.1f} px", "contour moved, mean")] if shifts else []
    settings = [
        ("Masks", f"{options.masks} ({masks.form})"),
        ("Frames", str(options.images or options.video)),
        ("Output", str(options.output)),
        ("Weights", options.weights),
        ("Accepted from confidence", f"{options.accept}"),
    ]
    if bad:
        settings.append((f"{masks.noun}s left alone".capitalize(), list_few(bad)))
    return build_page(
        title=f"Refined masks: {options.masks.name}",
        totals=[
            (number, noun),
            (f"{total.masks:,}", "masks refined"),
            (f"{total.share:.1%}", "of their pixels changed"),
            *moved,
            (f"{total.confidence:.2f}", "mean confidence"),
            (f"{len(total.rejected):,}", "results rejected"),
            *[(f"{summary.propagated:,}", "masks propagated")] * options.propagate,
        ],
        rows=rows,
        hidden_rows=summary.tracklets - len(summary.rows),
        figures=[(e, pictures[e]) for e in summary.examples if e in pictures],
        settings=settings,
        advice=REJECTED if total.rejected else "",
    )


def _measure(
    changes: Iterable[Change], loaded: VideoMasks, tracklets: Sequence[int], limit: int
) -> dict[int, Difference]:
    """Old and new masks of some tracklets over the first ``limit`` frames that have them."""
    old: dict[int, list[rle.Rle | None]] = {n: [] for n in tracklets}
    new: dict[int, list[rle.Rle | None]] = {n: [] for n in tracklets}
    last = -1
    for t, group in groupby(changes, attrgetter("frame")):
        if all(len(masks) - masks.count(None) >= limit for masks in old.values()):
            break
        gap = [None] * min(t - last - 1, 1)
        last = t
        coarse = loaded.at(t)
        by_row = {change.tracklet: change for change in group}
        for n in tracklets:
            given = n in by_row and not by_row[n].propagated
            before = rle.encode(coarse[n]) if given else None
            after = by_row[n].mask or before if n in by_row else None
            old[n] += [*gap, before]
            new[n] += [*gap, after]
    return {n: measure(old[n], new[n]) for n in tracklets}


def _draw(
    source: VideoSource, loaded: VideoMasks, examples: Sequence[Example]
) -> dict[Example, Pictures]:
    """Pictures of the frames to look at; only these are read again."""
    pictures = {}
    for t, frame in chosen_frames(source, sorted({e.change.frame for e in examples})):
        for example in examples:
            new = example.change.mask
            if example.change.frame == t and new is not None:
                old = loaded.at(t)[example.change.tracklet]
                pictures[example] = example_pictures(frame, old, rle.decode(new))
    return pictures
