"""Refine the masks of one video; what became of them goes to its work file frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import tee
from typing import Any

import numpy as np
from tqdm import tqdm

from cocoapi_hq.io import rle
from vmt.apps.refine.frames import frame_set
from vmt.apps.refine.options import RefineOptions
from vmt.apps.refine.work_folder import WorkFolder, spell
from vmt.data.images import Frame
from vmt.data.mask_files.base import BoolArray, FrameSet, MaskVideo, VideoMasks, size_text
from vmt.inference.mask_refiner import ByteArray, FrameRefiner, RefinedFrame
from vmt.inference.sources import FrameList, VideoSource
from vmt.inference.threads import map_behind
from vmt.inference.video_file import VideoFile
from vmt.utils.errors import AnnotationError, VideoError, VmtError


def refine_video(
    video: MaskVideo,
    refiner: FrameRefiner,
    work: WorkFolder,
    options: RefineOptions,
    bar: tqdm[Any],
) -> tuple[int, str]:
    """Refine the masks of one video and put what became of them into the work folder.

    Args:
        video: of a mask file.
        refiner: sharpens them.
        work: opens its frames and gets the changes.
        options: how.
        bar: counts finished frames.

    Returns:
        Number of masks, and what a person should know, which may be empty.

    Raises:
        AnnotationError: masks and frames do not belong together.
        VideoError: a frame cannot be read.
        OutputError: the disk is full.
    """
    source = work.frames[video.key]()
    frames, masks = load_masks(video, source)
    if not masks.names:
        work.begin(video, masks, frames).commit()
        return 0, f"{masks.note} There is no mask to refine.".strip()
    start, last, count = 0, masks.frames[-1], 0
    if isinstance(source, FrameList):
        start = masks.frames[0]
        source = FrameList(source.name, source.paths[start : last + 1])
    bar.total = source.num_frames
    for_frames, for_masks, for_areas = tee(_pairs(video, source, masks, frames, start), 3)
    stream = refiner.stream(
        (frame for frame, _ in for_frames),
        (coarse for _, coarse in for_masks),
        accept=options.accept,
        window=options.window,
    )
    with work.begin(video, masks, frames) as file:
        try:
            t = start - 1
            done = zip(stream, (coarse for _, coarse in for_areas), strict=False)
            # masks are coded while the next frame is refined
            for t, (rows, confidence) in enumerate(map_behind(_coded, done, depth=1), start):
                if rows:
                    file.write(spell([t, masks.names[t], rows]))
                    work.write_confidence(video, frames, t, confidence)
                count += len(rows)
                bar.update()
        except VmtError:
            raise
        except ValueError as error:
            raise AnnotationError(f"{video.label}: {error}") from None
        if t < last:
            raise AnnotationError(
                f"{video.label}: has masks up to frame {last}, but {frames.where} has "
                f"only {t + 1} frames; give the video that the masks belong to."
            )
    return count, masks.note


def load_masks(video: MaskVideo, source: VideoSource) -> tuple[FrameSet, VideoMasks]:
    """What masks must know of the frames of a video, and the masks; both are of one length."""
    if isinstance(source, VideoFile):
        source.check_whole()
    frames = frame_set(source)
    masks = video.load(frames)
    if None not in (masks.length, frames.count) and masks.length != frames.count:
        raise AnnotationError(
            f"{video.label}: has masks for {masks.length} frames, but {frames.where} has "
            f"{frames.count}; give the frames that the masks were drawn on."
        )
    return frames, masks


def _pairs(
    video: MaskVideo, source: VideoSource, masks: VideoMasks, info: FrameSet, start: int
) -> Iterator[tuple[Frame, BoolArray]]:
    """Frames from ``start`` on, and their masks (N, H, W)."""
    for t, frame in enumerate(source, start):
        if frame.shape[:2] != info.size:
            raise VideoError(
                f"{info.where}: frame {t} is {size_text(frame.shape)} pixels, but the first is "
                f"{size_text(info.size)}; the frames of one video must have one size."
            )
        if masks.length is not None and t >= masks.length:
            raise AnnotationError(
                f"{video.label}: has masks for {masks.length} frames, but {info.where} has more; "
                "give the frames that the masks were drawn on."
            )
        yield frame, masks.at(t)


def change_rows(refined: RefinedFrame, coarse: BoolArray) -> list[list[Any]]:
    """Tracklet and other fields of ``Change`` of each mask that the frame has.

    Args:
        refined: what became of the N tracklets.
        coarse: (N, H, W) bool, as they were.

    Returns:
        [tracklet, area, changed_px, confidence, rejected, counts] each; counts are None where no
        pixel changed.
    """
    rows = []
    for n in np.flatnonzero(coarse.any((1, 2))).tolist():
        changed = int(refined.changed_px[n])
        counts = rle.encode(refined.masks[n])["counts"] if changed else None
        confidence = round(float(refined.confidence[n]), 4)
        area = int(np.count_nonzero(coarse[n]))
        rows.append([n, area, changed, confidence, int(refined.rejected[n]), counts])
    return rows


def _coded(frame: tuple[RefinedFrame, BoolArray]) -> tuple[list[list[Any]], ByteArray]:
    """``change_rows`` and the confidences of a frame."""
    refined, coarse = frame
    return change_rows(refined, coarse), refined.confidence_map
