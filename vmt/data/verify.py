"""What is missing or wrong about a data set on disk, before a training run finds out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vmt.data.catalog import locate_split
from vmt.data.datasets.categories import label_space
from vmt.data.datasets.splits import VideoSplit
from vmt.data.images import read_frame
from vmt.data.labels import label_table
from vmt.data.mapper import decode_masks
from vmt.data.records import VideoDataset, VideoRecord
from vmt.utils.errors import VmtError


@dataclass
class Verification:
    """What was found about one split.

    Args:
        name: of the split.
        found: lines about what is there.
        notes: one sentence each: what differs from the published data, but can be used.
        problems: one sentence each: what is wrong and what to do.
    """

    name: str
    found: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def verify_split(split: VideoSplit, root: str = "", *, decode: int = 1) -> Verification:
    """Look at every file of a split, and into some.

    Args:
        split: its row.
        root: folder of the data sets; empty: ``$DETECTRON2_DATASETS`` or ./datasets.
        decode: read every this many-th video's frames and masks; 0: none.

    Returns:
        Findings; no exception leaves here for what a person can mend.
    """
    result = Verification(split.name)
    try:
        place = locate_split(split, root)
        data = place.load()
    except VmtError as error:
        result.problems.append(str(error))
        return result
    result.found += [f"annotations {place.annotations}", f"images      {place.images}"]
    frames = sum(data.num_frames())
    result.found.append(f"{len(data)} videos, {frames} frames, {len(data.categories)} classes")
    if split.num_videos and len(data) != split.num_videos:
        result.notes.append(
            f"{split.name}: has {len(data)} videos, the published split {split.num_videos}: not "
            "the published size; it trains, but its numbers compare with no published ones."
        )
    try:
        label_table(data.categories, label_space(split.categories), source=split.name)
    except VmtError as error:
        result.problems.append(str(error))
    if split.annotated and data[0].annotations is None:
        result.problems.append(f"{split.name}: the file has no annotations.")
    result.problems += missing_frames(data)
    if decode:
        result.problems += _damaged(data, decode)
    opened = len(range(0, len(data), decode)) if decode else 0
    result.found.append(f"frames and masks decoded of {opened} of {len(data)} videos (--decode)")
    return result


def missing_frames(data: VideoDataset) -> list[str]:
    """One sentence per video that lacks frames."""
    listed: dict[Path, set[str]] = {}
    problems = []
    for record in (data[k] for k in range(len(data))):
        lost = [path for path in record.frame_paths if not _exists(path, listed)]
        if lost:
            problems.append(
                f"{data.name}: video {record.name} lacks {len(lost)} of {len(record)} frames "
                f"(first: {lost[0]})."
            )
    return problems


def _exists(path: Path, listed: dict[Path, set[str]]) -> bool:
    """Looks a file up in its folder's list, which is read once."""
    folder = path.parent
    if folder not in listed:
        listed[folder] = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    return path.name in listed[folder]


def _damaged(data: VideoDataset, every: int) -> list[str]:
    problems: dict[str, None] = {}  # in order, each once
    for record in (data[k] for k in range(0, len(data), every)):
        there = [path for path in record.frame_paths if path.is_file()]  # others are named already
        looks: list[Callable[[], object]] = [partial(read_frame, p, record.size) for p in there]
        looks.append(partial(_decode_masks, record))
        for look in looks:
            try:
                look()
            except VmtError as error:
                problems[str(error)] = None
    return list(problems)


def _decode_masks(record: VideoRecord) -> None:
    for tracklet in record.tracklets():
        decode_masks([tracklet], len(tracklet.masks), record.size)
