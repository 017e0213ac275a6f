"""Propagate the masks of one video to all its frames; the result goes to its work file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from cocoapi_hq.io import rle
from vmt.apps.refine.videos import load_masks
from vmt.apps.refine.work_folder import WorkFolder, spell
from vmt.data.mask_files.base import BoolArray, MaskFile, MaskVideo, VideoMasks
from vmt.data.mask_files.folders import FolderFile
from vmt.inference.propagation.propagator import MaskPropagator, PropagatedFrame
from vmt.utils.errors import AnnotationError, VmtError


class GivenMasks(Mapping[int, BoolArray]):
    """Frame -> (N, H, W), read when asked for."""

    def __init__(self, masks: VideoMasks) -> None:
        self._masks = masks

    def __getitem__(self, t: int) -> BoolArray:
        if t not in self._masks.names:
            raise KeyError(t)
        return self._masks.at(t)

    def __iter__(self) -> Iterator[int]:
        return iter(self._masks.names)

    def __len__(self) -> int:
        return len(self._masks.names)


def whole_videos(masks: MaskFile) -> MaskFile:
    """The file as one that takes masks of all frames of its videos.

    Raises:
        AnnotationError: it has single images.
    """
    if masks.noun == "image":
        raise AnnotationError(
            f"{masks.path}: has masks of single images, which --propagate cannot follow; give "
            "masks of a video."
        )
    return masks.as_folder() if isinstance(masks, FolderFile) else masks


def propagate_video(
    video: MaskVideo, propagator: MaskPropagator, work: WorkFolder, bar: tqdm[Any]
) -> tuple[int, str]:
    """Refine the masks of one video and make those of its other frames.

    Args:
        video: of a mask file.
        propagator: makes them.
        work: opens its frames and gets the changes.
        bar: counts finished frames, twice where tracklets meet from both sides.

    Returns:
        Number of masks, and what a person should know, which may be empty.

    Raises:
        AnnotationError: masks and frames do not belong together.
        VideoError: a frame cannot be read.
        OutputError: the disk is full.
    """
    source = work.frames[video.key]()
    frames, masks = load_masks(video, source)
    lines: dict[int, list[list[Any]]] = {}
    bar.total = frames.count
    if masks.names:
        given = GivenMasks(masks)
        try:
            for part in propagator.stream(source, given):
                before = given[part.frame] if part.given.any() else None
                lines.setdefault(part.frame, []).extend(propagation_rows(part, before))
                bar.update()
        except VmtError:
            raise
        except ValueError as error:
            raise AnnotationError(f"{video.label}: {error}") from None
    with work.begin(video, masks, frames) as file:
        for t, rows in sorted(lines.items()):
            file.write(spell([t, masks.name_of(t), sorted(rows)]))
    note = masks.note if masks.names else f"{masks.note} There is no mask to propagate.".strip()
    return sum(row[5] is not None or row[1] > 0 for rows in lines.values() for row in rows), note


def propagation_rows(part: PropagatedFrame, before: BoolArray | None) -> list[list[Any]]:
    """Tracklet and other fields of ``Change`` of each tracklet of the frame, see ``change_rows``.

    Args:
        part: what became of some tracklets.
        before: (N, H, W) bool, the given masks of the frame; None where none of ``part`` is given.
    """
    rows = []
    for k, n in enumerate(part.tracklets.tolist()):
        mask = part.masks[k]
        old = before[n] if before is not None and part.given[k] else np.zeros_like(mask)
        changed = int(np.count_nonzero(mask != old))
        counts = rle.encode(mask)["counts"] if changed else None
        confidence = round(float(part.confidence[k]), 4)
        area = int(np.count_nonzero(old))
        rows.append([n, area, changed, confidence, int(part.rejected[k]), counts])
    return rows
