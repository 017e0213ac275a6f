"""Refine a whole mask file: videos one by one, each on disk as soon as it is done."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from vmt.apps.refine.frames import VideoFrames, find_frames
from vmt.apps.refine.options import RefineOptions
from vmt.apps.refine.page import build_page
from vmt.apps.refine.report import collect
from vmt.apps.refine.summary import Summary, count_text
from vmt.apps.refine.videos import refine_video
from vmt.apps.refine.work_folder import WorkFolder, check_output
from vmt.data.mask_files.base import MaskFile, MaskVideo, list_few
from vmt.data.mask_files.entries import EntryOptions
from vmt.data.mask_files.open import MaskOptions, has_frames, open_mask_file
from vmt.data.void import read_void
from vmt.inference.mask_refiner import FrameRefiner, MaskRefiner
from vmt.utils.atomic import AtomicFile, make_folder
from vmt.utils.errors import AnnotationError, OutputError, VideoError, VmtError
from vmt.utils.threads import take_free_cores


def refine_masks(options: RefineOptions, say: Callable[[str], object]) -> str:
    """Do what ``vmt refine`` does.

    Args:
        options: of the call.
        say: hears what a person should know before the end.

    Returns:
        What became of the masks, for a person.

    Raises:
        VmtError: the masks, their frames or the network cannot be used, or the files not written.
    """
    void, guess = read_void(options.void)
    entries = EntryOptions(options.mask_key, options.min_score, options.annotations)
    one_video = options.video is not None or has_frames(options.images)
    masks = open_mask_file(
        options.masks, MaskOptions(entries, void, guess, one_video, options.first_number)
    )
    check_output(masks, options.output)
    _check_beside(masks, options)
    run = _Run(masks, options, say)
    about = [masks.form, count_text(len(masks.videos), masks.noun), masks.note]
    say(f"{masks.path}: {', '.join(text for text in about if text)}")
    run.refine()
    run.check_bad()
    summary = run.summary()
    text = summary.text(run.fresh, run.seconds)
    run.work.write_output(masks)
    try:
        log = run.log(summary)
        _write(options.log_path, json.dumps(log, indent=1) + "\n")
        if options.report is not None:
            page = collect(options, masks, run.bad, summary, run.work, run.frames)
            _write(options.report, build_page(page))
    except VmtError as error:
        say(f"{text}\nwritten: {options.output}")
        away = f"move {options.output} away, " if masks.path.is_dir() else ""
        raise OutputError(
            f"{error} The masks are complete, in {options.output}; for what is missing, {away}name "
            "another place and run again: nothing is refined twice."
        ) from None
    run.work.remove()
    files = [options.output, options.log_path, options.report]
    return f"{text}\nwritten: {', '.join(str(path) for path in files if path is not None)}"


def load_refiner(options: RefineOptions) -> FrameRefiner:
    """The network."""
    take_free_cores()
    return MaskRefiner.from_pretrained(
        options.weights, device=options.device, steady=options.steady
    )


def _check_beside(masks: MaskFile, options: RefineOptions) -> None:
    """Refuse a report or log that cannot be written, before any work is done."""
    taken = {"--masks": masks.path.resolve(), "--output": options.output.resolve()}
    for option, path in (("--log", options.log_path), ("--report", options.report)):
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


def _write(path: Path, text: str) -> None:
    with AtomicFile(path) as file:
        file.write(text.encode())


class _Run:
    """The videos of a mask file; all frames are looked for before the first is read.

    Args:
        masks: the file.
        options: how they are refined.
        say: hears notes.

    Attributes:
        work: has what is done.
        frames: of the videos that have them, by key.
        bad: names of the videos that could not be refined.
        fresh: masks refined by this run, in ``seconds``.

    Raises:
        VideoError: there are no frames for any video.
    """

    def __init__(
        self, masks: MaskFile, options: RefineOptions, say: Callable[[str], object]
    ) -> None:
        self.work = WorkFolder(options.output, options.stamp())
        self.frames: dict[str, VideoFrames] = {}
        self.bad: list[str] = []
        self.fresh = 0
        self.seconds = 0.0
        self._masks = masks
        self._options = options
        self._say = say
        problems: list[tuple[MaskVideo, VideoError]] = []
        for video in masks.videos:
            try:
                frames = find_frames(masks, video, options.images, options.video)
            except VideoError as error:
                problems.append((video, error))
                continue
            self.frames[video.key] = frames
            self.work.expect(video, frames)
        if not self.frames:
            raise problems[0][1]
        for video, problem in problems:
            self._leave(video, problem)

    def refine(self) -> None:
        """Refine what is not done yet.

        Raises:
            VmtError: of the only video; OutputError and what the network raises.
        """
        noun, count = self._masks.noun, len(self._masks.videos)
        todo = [
            video
            for video in self._masks.videos
            if video.key in self.frames and self.work.finished(video.key) is None
        ]
        if len(todo) < len(self.frames):
            self._say(f"{count_text(len(self.frames) - len(todo), noun)} of an earlier run kept")
        if not todo:
            return
        refiner = load_refiner(self._options)
        start = time.perf_counter()
        with tqdm(total=len(todo), unit=f" {noun}s", disable=len(todo) == 1) as bar:
            for video in todo:
                try:
                    self._refine_one(video, refiner, alone=len(todo) == 1)
                except (VideoError, AnnotationError) as error:
                    if count == 1:
                        raise
                    self._leave(video, error)
                bar.update()
        self.seconds = time.perf_counter() - start

    def _refine_one(self, video: MaskVideo, refiner: FrameRefiner, *, alone: bool) -> None:
        source = self.frames[video.key].open()
        with tqdm(unit=" frames", disable=not alone) as bar:

            def progress(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            masks, note = refine_video(video, source, refiner, self.work, self._options, progress)
        self.fresh += masks
        if note:
            tqdm.write(f"{video.label}: {note}")

    def _leave(self, video: MaskVideo, error: VmtError) -> None:
        self.bad.append(video.label)
        tqdm.write(f"vmt refine: {error}", file=sys.stderr)

    def check_bad(self) -> None:
        """VideoError when the output shall not be written."""
        bad, total = len(self.bad), len(self._masks.videos)
        if not bad or (self._options.skip_bad and bad < total):
            return
        which = f"{count_text(bad, self._masks.noun)} of {total} could not be refined (see above)"
        if bad == total:
            raise VideoError(f"{which}; there is nothing to write.")
        raise VideoError(
            f"{which}: {list_few(self.bad)}. The others are kept in {self.work.path}: mend these "
            "and run again, or add --skip-bad to leave their masks as they are."
        )

    def summary(self) -> Summary:
        """What became of the masks, in the order of the file."""
        summary = Summary()
        for video in self._masks.videos:
            finished = self.work.finished(video.key)
            if finished is not None:
                summary.add(video, finished)
        return summary

    def log(self, summary: Summary) -> dict[str, object]:
        """The change log."""
        names = ("weights", "accept", "window", "steady")
        return {
            "masks": str(self._masks.path),
            "settings": {name: getattr(self._options, name) for name in names},
            "left_alone": self.bad,
            "videos": summary.videos,
        }
