"""Refine a whole mask file: videos one by one, each on disk as soon as it is done."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from vmt.apps.refine.options import RefineOptions
from vmt.apps.refine.propagate import propagate_video, whole_videos
from vmt.apps.refine.summary import Summary
from vmt.apps.refine.videos import refine_video
from vmt.apps.refine.work_folder import WorkFolder, check_places, count_text
from vmt.data.mask_files.base import MaskFile, MaskVideo, list_few
from vmt.data.mask_files.entries import EntryOptions
from vmt.data.mask_files.open import MaskOptions, has_frames, open_mask_file
from vmt.data.names import read_void
from vmt.inference.mask_refiner import FrameRefiner, MaskRefiner
from vmt.inference.propagation.finder import NetworkFinder
from vmt.inference.propagation.propagator import MaskPropagator
from vmt.inference.propagation.view import ViewMaker
from vmt.utils.atomic import write_text
from vmt.utils.errors import AnnotationError, OutputError, VideoError, VmtError
from vmt.utils.threads import take_free_cores

Say = Callable[[str], object]


def refine_masks(options: RefineOptions, say: Say) -> str:
    """Do what ``vmt refine`` does.

    Args:
        options: of the call.
        say: hears what a person should know before the end.

    Returns:
        What became of the masks, for a person.

    Raises:
        VmtError: the masks, their frames or the network cannot be used, or the files not written.
    """
    entries = EntryOptions(options.mask_key, options.min_score, options.annotations)
    one_video = options.video is not None or has_frames(options.images)
    masks = open_mask_file(
        options.masks,
        MaskOptions(entries, *read_void(options.void), one_video, options.first_number),
    )
    if options.propagate:
        masks = whole_videos(masks)
    check_places(masks, options)
    work = WorkFolder(masks, options)
    about = [masks.form, count_text(len(masks.videos), masks.noun), masks.note]
    say(f"{masks.path}: {', '.join(text for text in about if text)}")
    bad = [_leave(*problem) for problem in work.problems]
    count, seconds = _refine(masks, work, options, bad, say)
    _check_bad(bad, masks, work, skip=options.skip_bad)
    summary = Summary()
    for video in masks.videos:
        if (finished := work.finished(video.key)) is not None:
            summary.add(video, finished)
    text = summary.text(count, seconds)
    work.write_output()
    keys = ["weights", "accept", "window", *["propagate"] * options.propagate]
    settings = {key: getattr(options, key) for key in keys}
    log = {"masks": str(masks.path), "settings": settings, "left_alone": bad}
    files = [options.output, options.log_path]
    try:
        write_text(options.log_path, json.dumps(log | {"videos": summary.videos}, indent=1) + "\n")
        if options.report is not None:
            from vmt.apps.refine.report import make_page  # needs scipy; refinement does not

            write_text(options.report, make_page(options, masks, bad, summary, work))
            files.append(options.report)
    except VmtError as error:
        say(f"{text}\nwritten: {options.output}")
        away = f"move {options.output} away, " if masks.path.is_dir() else ""
        raise OutputError(
            f"{error} The masks are complete, in {options.output}; for what is missing, {away}name "
            "another place and run again: nothing is refined twice."
        ) from None
    work.remove()
    return f"{text}\nwritten: {', '.join(map(str, files))}"


def load_refiner(options: RefineOptions) -> FrameRefiner:
    """The network."""
    take_free_cores()
    return MaskRefiner.from_pretrained(options.weights, device=options.device)


def load_propagator(refiner: FrameRefiner, options: RefineOptions) -> MaskPropagator:
    """The same network, for ``--propagate``."""
    views = ViewMaker.from_pretrained(options.device)
    finder = NetworkFinder.from_package(options.device)
    return MaskPropagator(refiner, views, options.accept, finder)


def _refine(
    masks: MaskFile, work: WorkFolder, options: RefineOptions, bad: list[str], say: Say
) -> tuple[int, float]:
    """Refine what is not done yet; number of masks and seconds. ``bad`` gets what fails."""
    todo = [v for v in masks.videos if v.key in work.frames and work.finished(v.key) is None]
    if len(todo) < len(work.frames):
        say(f"{count_text(len(work.frames) - len(todo), masks.noun)} of an earlier run kept")
    if not todo:
        return 0, 0.0
    refiner = load_refiner(options)
    propagator = load_propagator(refiner, options) if options.propagate else None
    start = time.perf_counter()
    alone, count = len(todo) == 1, 0
    with tqdm(total=len(todo), unit=f" {masks.noun}s", disable=alone) as bar:
        for video in todo:
            try:
                with tqdm(unit=" frames", disable=not alone) as frames:
                    if propagator is not None:
                        done, note = propagate_video(video, propagator, work, frames)
                    else:
                        done, note = refine_video(video, refiner, work, options, frames)
            except (VideoError, AnnotationError) as error:
                if len(masks.videos) == 1:
                    raise
                bad.append(_leave(video, error))
            else:
                count += done
                if note:
                    tqdm.write(f"{video.label}: {note}")
            bar.update()
    return count, time.perf_counter() - start


def _leave(video: MaskVideo, error: VmtError) -> str:
    """Say why a video stays as it is; its name."""
    tqdm.write(f"vmt refine: {error}", file=sys.stderr)
    return video.label


def _check_bad(bad: list[str], masks: MaskFile, work: WorkFolder, *, skip: bool) -> None:
    """VideoError when the output shall not be written."""
    total = len(masks.videos)
    if not bad or (skip and len(bad) < total):
        return
    which = f"{count_text(len(bad), masks.noun)} of {total} could not be refined (see above)"
    if len(bad) == total:
        raise VideoError(f"{which}; there is nothing to write.")
    raise VideoError(
        f"{which}: {list_few(bad)}. The others are kept in {work.path}: mend these and run again, "
        "or add --skip-bad to leave their masks as they are."
    )
