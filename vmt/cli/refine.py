r"""Sharpen masks: coarse ones of any source in, the same file with sharp ones out.

--masks is one of
  YouTube-VIS annotations (JSON)     frames: --images is the folder that its file_names start from
  COCO annotations (JSON)            each image is a video of one frame; polygons become run lengths
  results (JSON list of entries)     frames: --annotations lists them, or --images has a folder per
                                     video (named by video_name or video_id), or there is one video
  folder of label maps               PNG, BMP, TIFF, NPY or NPZ; pixel value or colour = object; or
                                     one such folder per video, as in DAVIS. 255 is void and stays,
                                     unless it is the only value; 16-bit values from 1000 on are
                                     class * 1000 + instance, as in KITTI MOTS. Where objects
                                     overlap, the one with the higher confidence is on top
  folder of masks per object         VIDEO/OBJECT/00000.png; every pixel but 0 is the object's
  folder of polygon files            JSON per frame, as labelme writes it: {"shapes": [{"label":
                                     "dog", "points": [[x, y], ...]}]}; a few frames are enough, the
                                     others are left alone. Also one single file
Files pair with frames of the same name, or with the same number in it. With --video, one file per
frame goes in order; a few go by number, counted from 0, or from 1 where nothing else fits; where
both would, --first-number says which.

--output gets the same form; what is not refined stays as it is: null frames, crowd regions, empty
masks, other fields. A tracklet's changes are listed in a log beside it.

Videos that are done stay in OUTPUT.part until all are; a run that broke off goes on there.

Example:
  vmt refine --masks train.json --images JPEGImages --output sharp.json --report report.html
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cocoapi_hq.io import rle
from vmt.apps.refine.page import (
    Difference,
    RefineReport,
    ReportExample,
    ReportRow,
    build_page,
    example_pictures,
    measure,
)
from vmt.apps.refine.videos import (
    FinishedVideo,
    RefineOptions,
    WorkFolder,
    check_output,
    find_frames,
    frame_set,
    refine_video,
)
from vmt.data.mask_files.base import MaskFile, MaskVideo, list_few
from vmt.data.mask_files.entries import VIDEO_KEY, EntryOptions
from vmt.data.mask_files.open import MaskOptions, has_frames, open_mask_file, read_void
from vmt.inference.mask_refiner import FrameRefiner, MaskRefiner
from vmt.inference.refine_defaults import ACCEPT, ANY, LOW_RES, MIN_IOU, WINDOW, weights_path
from vmt.inference.sources import FrameList, VideoSource
from vmt.utils.atomic import AtomicFile, make_folder
from vmt.utils.errors import AnnotationError, ConfigError, OutputError, VideoError, VmtError
from vmt.utils.threads import take_free_cores

#: The report stays small: frames shown, of one tracklet, tracklets listed, masks measured.
MAX_EXAMPLES, MAX_PER_TRACKLET, MAX_ROWS, MAX_MEASURED = 12, 2, 60, 1500
#: Objects smaller than this are not shown.
MIN_SHOWN_PX = 200

#: What to do about rejected results.
REJECTED = (
    f"A result that is empty, or shares less than half with the given mask (IoU below {MIN_IOU}), "
    "is thrown away and that mask stays as it was: look whether it belongs to this frame and "
    "object; one that is far too wide or narrow must be drawn closer to the object first."
)

OpenFrames = Callable[[], VideoSource]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--masks", type=Path, required=True, help="file or folder of masks")
    frames = parser.add_mutually_exclusive_group(required=True)
    frames.add_argument("--images", type=Path, help="folder of frames, see above")
    frames.add_argument("--video", type=Path, help="video file, for masks of one video")
    parser.add_argument("--output", type=Path, required=True, help="file or folder to write")
    parser.add_argument(
        "--accept",
        type=float,
        default=ACCEPT,
        help=f"confidence from which a pixel takes its new label, [0.5, 1) (default {ACCEPT})",
    )
    parser.add_argument(
        "--window", type=int, default=WINDOW, help=f"frames refined together (default {WINDOW})"
    )
    parser.add_argument(
        "--steady",
        type=int,
        default=0,
        metavar="N",
        help="overrule each refined mask where those of N frames on each side agree against it, "
        "and refine it again; for masks made frame by frame, 3 is good (default 0: never)",
    )
    parser.add_argument("--report", type=Path, help="HTML page with before and after")
    parser.add_argument("--log", type=Path, help="change log; default: OUTPUT.changes.json")
    parser.add_argument(
        "--weights",
        default=ANY,
        metavar="NAME|FILE",
        help=f"of the package: {ANY} (default), or {LOW_RES} for masks that were made at about 1/8 "
        "of the resolution, as networks do; or a file of vmt train",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default auto)")
    parser.add_argument(
        "--annotations", type=Path, help="JSON that lists the videos or images of a result file"
    )
    parser.add_argument(
        "--mask-key", default=VIDEO_KEY, help=f"list of masks to refine (default {VIDEO_KEY})"
    )
    parser.add_argument(
        "--min-score", type=float, default=0.0, help="leave results below it alone (default 0)"
    )
    parser.add_argument(
        "--void",
        help="value of label maps that is never touched, or none (default: 255, see above)",
    )
    parser.add_argument(
        "--first-number",
        type=int,
        metavar="N",
        help="number that the first frame of --video has in the names of the mask files; asked for "
        "where it may be 0 or 1",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="write the output even if videos could not be refined; their masks stay as they are",
    )


def run(args: argparse.Namespace) -> int:
    """Refine the file; returns the exit status."""
    options = _options(args)
    masks = open_mask_file(args.masks, _mask_options(args))
    check_output(masks, args.output)
    log = args.log or args.output.with_name(f"{args.output.name}.changes.json")
    _check_beside(masks, args, log)
    job = _Job(masks, WorkFolder(args.output, options), options)
    job.plan(args.images, args.video)
    about = [masks.form, _count(len(masks.videos), masks.noun), masks.note]
    print(f"{masks.path}: {', '.join(text for text in about if text)}")
    job.refine(lambda: _load_refiner(args))
    _check_bad(job, skip=args.skip_bad)
    summary = job.summary()
    job.work.write_output(masks)
    written = [args.output, log] + ([args.report] if args.report is not None else [])
    try:
        _write_text(log, json.dumps(job.log(args.weights), indent=1) + "\n")
        if args.report is not None:
            _write_text(args.report, build_page(_Report(job, args).page()))
    except VmtError as error:
        print(f"{summary}\nwritten: {args.output}")
        away = f"move {args.output} away, " if masks.path.is_dir() else ""
        raise OutputError(
            f"{error} The masks are complete, in {args.output}; for what is missing, {away}name "
            "another place and run again: nothing is refined twice."
        ) from None
    job.work.remove()
    print(f"{summary}\nwritten: {', '.join(map(str, written))}")
    return 0


def _check_beside(masks: MaskFile, args: argparse.Namespace, log: Path) -> None:
    """Refuse a report or log that cannot be written, before any work is done."""
    taken = {"--masks": masks.path.resolve(), "--output": args.output.resolve()}
    for option, path in (("--log", log), ("--report", args.report)):
        if path is None:
            continue
        for other, place in taken.items():
            if path.resolve() == place:
                raise OutputError(f"{option} {path}: is the file of {other}; give another name.")
        if path.is_dir():
            raise OutputError(f"{option} {path}: is a folder; name a file.")
        make_folder(path.parent)
        AtomicFile(path).discard()
        taken[option] = path.resolve()


def _check_bad(job: _Job, *, skip: bool) -> None:
    """VideoError when the output shall not be written."""
    count, total = len(job.bad), len(job.masks.videos)
    if not count or (skip and count < total):
        return
    which = f"{_count(count, job.masks.noun)} of {total} could not be refined (see above)"
    if count == total:
        raise VideoError(f"{which}; there is nothing to write.")
    raise VideoError(
        f"{which}: {list_few(job.bad)}. The others are kept in {job.work.path}: mend these and "
        "run again, or add --skip-bad to leave their masks as they are."
    )


def _load_refiner(args: argparse.Namespace) -> FrameRefiner:
    take_free_cores()
    return MaskRefiner.from_pretrained(args.weights, device=args.device, steady=args.steady)


def _options(args: argparse.Namespace) -> RefineOptions:
    if not 0.5 <= args.accept < 1:
        raise ConfigError(f"--accept {args.accept}: give a confidence from 0.5 to below 1.")
    if args.window < 1:
        raise ConfigError(f"--window {args.window}: give a number of frames from 1 on.")
    if args.steady < 0:
        raise ConfigError(f"--steady {args.steady}: give a number of frames from 0 on.")
    weights = weights_path(args.weights)
    status = weights.stat() if weights.is_file() else None
    made = f"{status.st_size} {status.st_mtime_ns}" if status is not None else ""
    return RefineOptions(args.accept, args.window, args.steady, f"{weights.name} {made}")


def _mask_options(args: argparse.Namespace) -> MaskOptions:
    entries = EntryOptions(args.mask_key, args.min_score, args.annotations)
    void, guess = read_void(args.void)
    first = args.first_number
    if first is not None and (args.video is None or first < 0):
        raise ConfigError(
            f"--first-number {first}: give a number from 0 on, for masks of a --video file."
        )
    one_video = args.video is not None or has_frames(args.images)
    return MaskOptions(entries, void, guess, one_video, first)


def _write_text(path: Path, text: str) -> None:
    with AtomicFile(path) as file:
        file.write(text.encode())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass
class _Tally:
    """What the masks of one tracklet became."""

    masks: int = 0
    area: int = 0
    changed_px: int = 0
    confidence: float = 0.0
    rejected: list[str] = field(default_factory=list)

    def share(self) -> float:
        return self.changed_px / max(self.area, 1)


class _Job:
    """All videos of a mask file.

    Args:
        masks: the file.
        work: keeps finished videos.
        options: how they are refined.
    """

    def __init__(self, masks: MaskFile, work: WorkFolder, options: RefineOptions) -> None:
        self.masks = masks
        self.work = work
        self.options = options
        self.bad: list[str] = []
        self.seconds = 0.0
        self.fresh = 0
        self._open: dict[str, OpenFrames] = {}

    def plan(self, images: Path | None, clip: Path | None) -> None:
        """Find all frames before the first is read.

        Raises:
            VideoError: there are none for any video.
        """
        problems: list[tuple[MaskVideo, VideoError]] = []
        for video in self.masks.videos:
            try:
                found = find_frames(self.masks, video, images, clip)
            except VideoError as error:
                problems.append((video, error))
                continue
            self._open[video.key] = found.open
            self.work.expect(video, found)
        if not self._open:
            raise problems[0][1]
        for video, problem in problems:
            self._report(video, problem)

    def refine(self, load: Callable[[], FrameRefiner]) -> None:
        """Refine what is not done yet; ``bad`` lists the videos that could not be.

        Raises:
            VmtError: of the only video; OutputError and what ``load`` raises.
        """
        todo = [
            video
            for video in self.masks.videos
            if video.key in self._open and self.work.finished(video) is None
        ]
        done = len(self._open) - len(todo)
        if done:
            print(f"{_count(done, self.masks.noun)} of an earlier run kept")
        if not todo:
            return
        refiner = load()
        start = time.perf_counter()
        with tqdm(total=len(todo), unit=f" {self.masks.noun}s", disable=len(todo) == 1) as bar:
            for video in todo:
                try:
                    self._refine_one(video, refiner, alone=len(todo) == 1)
                except (VideoError, AnnotationError) as error:
                    if len(self.masks.videos) == 1:
                        raise
                    self._report(video, error)
                bar.update()
        self.seconds = time.perf_counter() - start

    def _refine_one(self, video: MaskVideo, refiner: FrameRefiner, *, alone: bool) -> None:
        source = self._open[video.key]()
        with tqdm(unit=" frames", disable=not alone) as bar:

            def progress(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            note = refine_video(video, source, refiner, self.work, self.options, progress)
        found = self.work.finished(video)
        assert found is not None, "it was refined"
        self.fresh += sum(len(frame.changes) for frame in found)
        if note:
            tqdm.write(f"{video.label}: {note}")

    def _report(self, video: MaskVideo, error: VmtError) -> None:
        self.bad.append(video.label)
        tqdm.write(f"vmt refine: {error}", file=sys.stderr)

    def finished(self) -> Iterator[tuple[MaskVideo, FinishedVideo]]:
        """Videos that were refined, in the order of the file."""
        for video in self.masks.videos:
            found = self.work.finished(video)
            if found is not None:
                yield video, found

    def open_frames(self, video: MaskVideo) -> VideoSource:
        """The frames of a video."""
        return self._open[video.key]()

    def log(self, weights: str) -> dict[str, Any]:
        """The change log."""
        videos = []
        for _, found in self.finished():
            rows = [
                {
                    "tracklet": name.label,
                    "masks": tally.masks,
                    "changed_px": tally.changed_px,
                    "changed_share": round(tally.share(), 6),
                    "mean_confidence": round(tally.confidence / max(tally.masks, 1), 4),
                    "rejected_frames": tally.rejected,
                }
                for name, tally in zip(found.tracklets, tallies(found), strict=True)
            ]
            videos.append({"video": found.label, "note": found.note, "tracklets": rows})
        settings = {
            "weights": weights,
            "accept": self.options.accept,
            "window": self.options.window,
            "steady": self.options.steady,
        }
        source = str(self.masks.path)
        return {"masks": source, "settings": settings, "left_alone": self.bad, "videos": videos}

    def totals(self) -> _Tally:
        """Of all tracklets."""
        total = _Tally()
        for video, found in self.finished():
            for tally in tallies(found):
                total.masks += tally.masks
                total.area += tally.area
                total.changed_px += tally.changed_px
                total.confidence += tally.confidence
                total.rejected += [f"{video.label} {name}" for name in tally.rejected]
        return total

    def summary(self) -> str:
        """For the console."""
        total = self.totals()
        lines = [
            f"{_count(total.masks, 'mask')} refined{self._speed(total.masks)}: "
            f"{_count(total.changed_px, 'pixel')} changed ({total.share():.1%} of the masks), "
            f"{_count(len(total.rejected), 'result')} rejected"
        ]
        if total.rejected:
            lines.append(f"rejected: {list_few(total.rejected, 3)}. {REJECTED}")
        return "\n".join(lines)

    def _speed(self, masks: int) -> str:
        """Of what this run did; frames without a mask cost next to nothing."""
        if not self.fresh:
            return " in an earlier run" if masks else ""
        now = f", {self.fresh:,} of them now," if self.fresh < masks else ""
        return f"{now} in {self.seconds:.1f} s ({self.seconds / self.fresh:.2f} s per mask)"


def tallies(found: FinishedVideo) -> list[_Tally]:
    """What became of each tracklet of a video."""
    sums = [_Tally() for _ in found.tracklets]
    for frame in found:
        for change in frame.changes:
            tally = sums[change.tracklet]
            tally.masks += 1
            tally.area += change.area
            tally.changed_px += change.changed_px
            tally.confidence += change.confidence
            if change.rejected:
                tally.rejected.append(frame.name)
    return sums


# --- report --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
    """A frame of the report."""

    video: str
    tracklet: int
    frame: int


class _Report:
    """Collects the page from the work folder; frames are read again, for the examples only."""

    def __init__(self, job: _Job, args: argparse.Namespace) -> None:
        self._job = job
        self._args = args

    def page(self) -> RefineReport:
        """Everything on the page."""
        job, args = self._job, self._args
        total = job.totals()
        rows, hidden = self._rows()
        moved = [row.difference.shift_px for row in rows if row.difference is not None]
        done, _, noun = _count(len(job.masks.videos) - len(job.bad), job.masks.noun).partition(" ")
        cards = [
            (done, noun),
            (f"{total.masks:,}", "masks refined"),
            (f"{total.share():.1%}", "of their pixels changed"),
            (f"{total.confidence / max(total.masks, 1):.2f}", "mean confidence"),
            (f"{len(total.rejected):,}", "results rejected"),
        ]
        if moved:
            cards.insert(3, (f"{sum(moved) / len(moved):.1f} px", "contour moved, mean"))
        settings = [
            ("Masks", f"{args.masks} ({job.masks.form})"),
            ("Frames", str(args.images or args.video)),
            ("Output", str(args.output)),
            ("Weights", args.weights),
            ("Accepted from confidence", f"{args.accept}"),
            ("Frames refined together", f"{args.window}"),
            ("Neighbours that overrule a mask", f"{args.steady}"),
        ]
        if job.bad:
            settings.append((f"{job.masks.noun}s left alone".capitalize(), list_few(job.bad)))
        title = f"Refined masks: {args.masks.name}"
        advice = REJECTED if total.rejected else ""
        return RefineReport(title, cards, rows, hidden, self._examples(), settings, advice)

    def _rows(self) -> tuple[list[ReportRow], int]:
        """The most changed tracklets, and how many others there are."""
        ranked: list[tuple[float, int, MaskVideo, int, _Tally]] = []
        count = 0
        for video, found in self._job.finished():
            for n, tally in enumerate(tallies(found)):
                if tally.masks:
                    count += 1
                    heapq.heappush(ranked, (tally.share(), -count, video, n, tally))
                    if len(ranked) > MAX_ROWS:
                        heapq.heappop(ranked)
        chosen = sorted(ranked, reverse=True)
        limit = max(MAX_MEASURED // max(len(chosen), 1), 10)
        measured: dict[tuple[str, int], Difference] = {}
        for video in {video.key: video for _, _, video, _, _ in chosen}.values():
            wanted = [n for _, _, other, n, _ in chosen if other.key == video.key]
            for n, difference in self._measure(video, wanted, limit).items():
                measured[video.key, n] = difference
        rows = []
        for _, _, video, n, tally in chosen:
            found_video = self._job.work.finished(video)
            assert found_video is not None, "it was counted"
            rows.append(
                ReportRow(
                    video.label,
                    found_video.tracklets[n].label,
                    tally.masks,
                    tally.share(),
                    tally.confidence / max(tally.masks, 1),
                    tally.rejected,
                    measured.get((video.key, n)),
                )
            )
        return rows, count - len(rows)

    def _measure(
        self, video: MaskVideo, wanted: Sequence[int], limit: int
    ) -> dict[int, Difference]:
        """Old and new masks of some tracklets over the first ``limit`` frames of the video."""
        found = self._job.work.finished(video)
        assert found is not None, "it was counted"
        loaded = video.load(frame_set(self._job.open_frames(video)))
        old: dict[int, list[rle.Rle | None]] = {n: [] for n in wanted}
        new: dict[int, list[rle.Rle | None]] = {n: [] for n in wanted}
        last = -1
        for frame in found:
            if all(len(masks) - masks.count(None) >= limit for masks in old.values()):
                break
            gap = [None] * min(frame.frame - last - 1, 1)
            last = frame.frame
            coarse = loaded.at(frame.frame)
            by_row = {change.tracklet: change for change in frame.changes}
            for n in wanted:
                change = by_row.get(n)
                before = None if change is None else rle.encode(coarse[n])
                sharp = None if change is None else frame.mask(change)
                old[n] += [*gap, before]
                new[n] += [*gap, before if sharp is None else rle.encode(sharp)]
        return {n: measure(old[n], new[n]) for n in wanted}

    def _examples(self) -> list[ReportExample]:
        """The frames in which contours moved most."""
        best: list[tuple[float, int, _Shown]] = []
        count = 0
        for video, found in self._job.finished():
            for n, moved in _most_changed(found).items():
                for score, frame in moved:
                    count += 1
                    heapq.heappush(best, (score, -count, _Shown(video.key, n, frame)))
                    if len(best) > MAX_EXAMPLES:
                        heapq.heappop(best)
        order = [shown for _, _, shown in sorted(best, key=lambda item: -item[0])]
        pictures: dict[_Shown, ReportExample] = {}
        for video in self._job.masks.videos:
            wanted = [shown for shown in order if shown.video == video.key]
            if wanted:
                pictures.update(self._draw(video, wanted))
        return [pictures[shown] for shown in order if shown in pictures]

    def _draw(self, video: MaskVideo, wanted: Sequence[_Shown]) -> dict[_Shown, ReportExample]:
        found = self._job.work.finished(video)
        assert found is not None, "it was counted"
        source = self._job.open_frames(video)
        loaded = video.load(frame_set(source))
        numbers = {shown.frame for shown in wanted}
        changes = {frame.frame: frame for frame in found if frame.frame in numbers}
        drawn = {}
        for t, picture in _chosen_frames(source, sorted(numbers)):
            for shown in (s for s in wanted if s.frame == t):
                change = next(c for c in changes[t].changes if c.tracklet == shown.tracklet)
                sharp = changes[t].mask(change)
                if sharp is None:
                    continue
                drawn[shown] = ReportExample(
                    video.label,
                    found.tracklets[shown.tracklet].label,
                    changes[t].name,
                    example_pictures(picture, loaded.at(t)[shown.tracklet], sharp),
                    change.changed_px / change.area,
                    change.confidence,
                )
        return drawn


def _most_changed(found: FinishedVideo) -> dict[int, list[tuple[float, int]]]:
    """Tracklet -> (score, frame) of its most changed frames, which do not follow one another."""
    best: dict[int, list[tuple[float, int]]] = {}
    for frame in found:
        for change in frame.changes:
            if change.counts is None or change.area < MIN_SHOWN_PX:
                continue
            # Pixels changed per length of contour, up to the object's shape.
            item = (change.changed_px / change.area**0.5, frame.frame)
            kept = best.setdefault(change.tracklet, [])
            near = next((other for other in kept if abs(other[1] - frame.frame) < 5), None)
            if near is None:
                kept.append(item)
            elif item > near:
                kept[kept.index(near)] = item
            kept.sort(reverse=True)
            del kept[MAX_PER_TRACKLET:]
    return best


def _chosen_frames(source: VideoSource, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Some frames of a video, in order."""
    if isinstance(source, FrameList):
        paths = [source.paths[t] for t in numbers]
        yield from zip(numbers, FrameList(source.name, paths), strict=True)
        return
    wanted = set(numbers)
    for t, frame in enumerate(source):
        if t in wanted:
            yield t, frame
        if t >= numbers[-1]:
            return
