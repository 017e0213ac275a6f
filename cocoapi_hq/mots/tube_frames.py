"""YouTube-VIS results and annotations as frames of MOTS, so that MOTS can score them.

``--eval-only`` writes one list of tubes for every data set. BDD100K MOTS knows videos and classes
by name, and masks frame by frame without overlap: this pairs names, gives every tube a track id,
and lets the better-scored mask have a contested pixel.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import category_of, is_finite, is_int, need, short
from cocoapi_hq.io.json_file import read_json
from cocoapi_hq.io.ytvis_json import Source, open_ground_truth, open_list, unknown_categories
from cocoapi_hq.mots.bitmask_png import bitmasks_to_frames
from cocoapi_hq.mots.frame_masks import FrameMasks, group_by_video, resolve_overlaps
from cocoapi_hq.mots.mots_config import MotsConfig, config_inside, load_config
from cocoapi_hq.mots.scalabel_io import frames_to_scalabel, load_frames
from cocoapi_hq.tubes.arrays import PLAIN
from cocoapi_hq.tubes.mask_lists import check_masks, load_tubes

logger = logging.getLogger(__name__)

#: Entries that tell what a list is.
_ASKED = 20


def is_tube_list(source: Source) -> bool:
    """True for results in the form of YouTube-VIS: a list of entries with ``segmentations``."""
    if isinstance(source, (str, PathLike)) and not Path(source).is_file():
        return False
    if isinstance(source, dict):
        return False
    try:
        entries = open_list(source, "results")
    except ScoringError:
        return False
    some = entries.subset(range(min(len(entries), _ASKED))).load()
    return any(isinstance(entry, dict) and PLAIN in entry for entry in some)


@dataclass(frozen=True)
class TruthFrames:
    """Ground truth as frames of MOTS.

    Attributes:
        config: its classes.
        videos: name -> frames in order.
        names: video id -> name; ids count from 1 by ascending name, unless the file has ids.
        categories: category id -> class position; ids count from 1, unless the file has ids.
    """

    config: MotsConfig
    videos: Mapping[str, Sequence[FrameMasks]]
    names: Mapping[int, str]
    categories: Mapping[int, int]


def read_truth(gt: Source, config: Any = None) -> TruthFrames:
    """Ground truth in any of its forms.

    Args:
        gt: Scalabel JSON (file, folder of files, content), a folder of bitmask PNG, or YouTube-VIS
            JSON.
        config: classes, see ``mots_config.load_config``; None: those inside the file.

    Raises:
        ScoringError: it breaks its format.
    """
    is_path = isinstance(gt, (str, PathLike))
    if is_path and Path(str(gt)).is_dir() and not any(Path(str(gt)).glob("*.json")):
        classes = load_config(config)
        frames = bitmasks_to_frames(str(gt), classes, is_gt=True)
    else:
        classes = load_config(config if config is not None else config_inside(gt))
        frames = load_frames(gt, classes, is_gt=True)
    videos = group_by_video(frames)
    names = dict(enumerate(videos, start=1))
    return TruthFrames(classes, videos, names, {k + 1: k for k in range(len(classes.classes))})


def read_tube_truth(gt: Source, mask_field: str = "auto") -> TruthFrames:
    """YouTube-VIS annotations as frames of MOTS; the classes are those of the file.

    Args:
        gt: annotation file, or its content.
        mask_field: masks that are read, see ``names.MASK_FIELDS``.

    Raises:
        ScoringError: it breaks its format.
    """
    truth = open_ground_truth(gt)
    names, tubes = load_tubes(gt, [], mask_field=mask_field)
    videos: dict[str, list[FrameMasks]] = {}
    for video in tubes:
        known = truth.videos[video.video_id]
        length = max(video.num_frames, known.length or 0)
        key = str(video.video_id)
        frames = [FrameMasks(key, f"{key}/{t:05d}", t) for t in range(length)]
        for row, tube in enumerate(video.gt_tubes):
            for frame, mask in zip(frames, tube, strict=False):
                if mask is not None:
                    crowd = video.gt_crowd[row]
                    label = video.gt_labels[row]
                    frame.append(mask, label, track_id=video.gt_ids[row], ignored=crowd)
        videos[key] = frames
    ids = {key: str(key) for key in truth.videos}
    places = {key: label for label, key in enumerate(truth.categories)}
    return TruthFrames(MotsConfig(classes=names), videos, ids, places)


def categories_of(path: str | PathLike[str], config: MotsConfig) -> dict[int, int]:
    """Category id -> class position, by the names in a file.

    Args:
        path: JSON with ``categories``, whose names that are no class are left out; or a map of
            category ids to names of classes, ``{"26": "pedestrian", "5": "car"}``.
        config: the classes.

    Raises:
        ScoringError: no such list or map, or no name of it is a class.
    """
    content = read_json(Path(path))
    rows = content.get("categories") if isinstance(content, dict) else None
    if rows is None and isinstance(content, dict) and content:
        return _mapped(content, f"{path}", config)
    if not isinstance(rows, list) or not all(
        isinstance(r, dict) and is_int(r.get("id")) for r in rows
    ):
        raise ScoringError(
            f"{path}: has no list 'categories' of objects with id and name, and is no map of "
            'category ids to classes like {"26": "pedestrian"}.'
        )
    found = {int(row["id"]): config.resolve(str(row.get("name"))) for row in rows}
    known = {key: place[0] for key, place in found.items() if place is not None}
    if not known:
        raise ScoringError(
            f"{path}: none of its categories is one of the classes {', '.join(config.classes)}."
        )
    return known


def _mapped(content: Mapping[str, Any], where: str, config: MotsConfig) -> dict[int, int]:
    known = {}
    for key, name in content.items():
        place = config.resolve(name) if isinstance(name, str) else None
        if not key.isdecimal() or place is None:
            raise ScoringError(
                f"{where}: {key!r} is {short(name)}; map category ids to classes, which are "
                f"{', '.join(config.classes)}."
            )
        known[int(key)] = place[0]
    return known


def read_results(
    results: Source,
    truth: TruthFrames,
    *,
    categories: Mapping[int, int] | None = None,
    min_score: float | None = None,
) -> list[FrameMasks]:
    """A result list of tubes as frames of MOTS, one for every frame of the ground truth.

    Args:
        results: result file in the form of YouTube-VIS, or its content.
        truth: gives the videos, their frames and the classes.
        categories: category id -> class position; None: as the ground truth counts them.
        min_score: weaker results are left out; MOTS has no ranking.

    Returns:
        Frames in the order of the ground truth; masks may overlap, see ``resolve_overlaps``.

    Raises:
        ScoringError: an entry breaks its format, or belongs to no video of the ground truth.
    """
    entries = open_list(results, "results")
    places = truth.categories if categories is None else categories
    frames = {
        name: [FrameMasks(f.video, f.name, f.index, where=entries.name) for f in known]
        for name, known in truth.videos.items()
    }
    unknown: Counter[int] = Counter()
    scores: set[float] = set()
    for position, entry in enumerate(entries.load()):
        where = f"{entries.name}: results[{position}]"
        if not isinstance(entry, dict):
            raise ScoringError(f"{where} is {short(entry)}; give an object.")
        score = need(entry, "score", where, is_finite, "a finite number")
        if min_score is not None and score < min_score:
            continue
        category = category_of(entry, where)
        if category not in places:
            unknown[category] += 1
            continue
        scores.add(score)
        video = frames[_video_of(entry, where, truth)]
        for frame, mask in zip(video, _masks(entry, where, video), strict=True):
            if mask is not None:
                label = places[category]
                frame.append(mask, label, track_id=position + 1, score=float(score))
    if unknown:
        logger.warning("%s", unknown_categories(entries.name, unknown, places))
    if min_score is None and len(scores) > 1:
        logger.warning(
            "%s: every result counts as a track, down to score %.3f; --min-score leaves out weak "
            "ones.",
            entries.name,
            min(scores),
        )
    return [frame for known in frames.values() for frame in known]


def _masks(entry: dict[str, Any], where: str, video: Sequence[FrameMasks]) -> list[rle.Rle | None]:
    """Checked masks of a result, None where there is no pixel."""
    masks = need(entry, PLAIN, where, lambda v: isinstance(v, list), "one entry per frame")
    if len(masks) != len(video):
        raise ScoringError(
            f"{where}.{PLAIN} has {len(masks)} entries, but video {video[0].video!r} has "
            f"{len(video)} frames in the ground truth; give one mask or null per frame."
        )
    return check_masks(masks, f"{where}.{PLAIN}")


def to_scalabel(
    frames: Sequence[FrameMasks], config: MotsConfig, *, without_overlaps: bool
) -> list[dict[str, Any]]:
    """Frames as Scalabel content; see ``frame_masks.resolve_overlaps`` for overlaps."""
    ready = [resolve_overlaps(frame) if without_overlaps else frame for frame in frames]
    return frames_to_scalabel(ready, config)


def _video_of(entry: Mapping[str, Any], where: str, truth: TruthFrames) -> str:
    """Name of the video of a result: its ``video_name``, else by its ``video_id``."""
    name = entry.get("video_name")
    if isinstance(name, str) and name in truth.videos:
        return name
    key = entry.get("video_id")
    if is_int(key) and key in truth.names and (name is None or truth.names[key].isdecimal()):
        return truth.names[key]
    what = f"video_name {short(name)}" if name is not None else f"video_id {short(key)}"
    raise ScoringError(
        f"{where}: {what} is not among the {len(truth.videos)} videos of the ground truth, such as "
        f"{short(list(truth.videos)[:3])}."
    )
