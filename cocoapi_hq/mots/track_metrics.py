"""MOTS, HOTA, frame AP and tracklet quality behind one call, whatever kind of input they read."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.listing import list_files, list_folders
from cocoapi_hq.io.ytvis_json import Source, open_ground_truth
from cocoapi_hq.mots import clear_mot, frame_ap, frame_pairs, hota
from cocoapi_hq.mots.mots_config import load_config
from cocoapi_hq.mots.tube_frames import (
    categories_of,
    is_tube_list,
    read_results,
    read_truth,
    read_tube_truth,
    to_scalabel,
)
from cocoapi_hq.tubes import tracklet_quality

#: Options for results in the form of YouTube-VIS.
_TUBES = ("min_score", "mask_field", "categories")
#: Options that each metric understands.
OPTIONS: dict[str, tuple[str, ...]] = {
    "bdd_mots": ("config", "fill_missing_frames", *_TUBES),
    "hota": ("config", "fill_missing_frames", *_TUBES),
    "frame_ap": ("config", "allow_overlap", *_TUBES),
    "tracklet_quality": ("min_score", "min_tube_iou", "mask_field"),
}


def is_bitmask_folder(source: Source) -> bool:
    """True for a folder of sub-folders with PNG files."""
    if not isinstance(source, (str, PathLike)):
        return False
    path = Path(source)
    return path.is_dir() and any(list_files(sub, (".png",)) for sub in list_folders(path))


def is_tube_file(source: Source) -> bool:
    """True for annotations in the format of YouTube-VIS."""
    if isinstance(source, dict):
        return "annotations" in source and "videos" in source
    if not isinstance(source, (str, PathLike)) or not Path(source).is_file():
        return False
    try:
        open_ground_truth(source)
    except ScoringError:
        return False
    return True


def read_once(gt: Source, results: Source, options: dict[str, Any]) -> tuple[Source, Any]:
    """Ground truth and classes, for metrics that read run lengths.

    Bitmasks stay a folder where the results are one, too; else they are read here, once for all
    metrics.

    Raises:
        ScoringError: a bitmask breaks its format, or only the results are bitmasks.
    """
    config = options.get("config")
    if is_bitmask_folder(results) and not is_bitmask_folder(gt):
        raise ScoringError(
            f"{results}: bitmasks pair with bitmasks by file name, but {gt} is none; give bitmasks "
            "of the ground truth, or the results as Scalabel JSON."
        )
    if not is_bitmask_folder(gt) or is_bitmask_folder(results):
        return gt, config
    truth = read_truth(gt, config)
    frames = [frame for video in truth.videos.values() for frame in video]
    return to_scalabel(frames, truth.config, without_overlaps=False), truth.config


def evaluate_tracks(
    metric: str, gt: Source, results: Source, options: dict[str, Any]
) -> dict[str, Any]:
    """Score one of the metrics that are not tube AP.

    Args:
        metric: a key of :data:`OPTIONS`.
        gt: Scalabel JSON (file, folder, content), a bitmask folder, or, for ``hota`` and
            ``tracklet_quality``, YouTube-VIS JSON.
        results: the same kind; or, for ground truth of any kind, a YouTube-VIS result list.
        options: see :data:`OPTIONS`; those of other metrics are passed over.

    Returns:
        The numbers: MOTS and frame AP in percent, HOTA and tracklet quality as fractions.

    Raises:
        ScoringError: bad input or an unknown option.
    """
    known = {name for names in OPTIONS.values() for name in names}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ScoringError(f"no option {unknown[0]!r}; there are {', '.join(sorted(known))}.")
    own = {k: v for k, v in options.items() if k in OPTIONS[metric]}
    if metric == "tracklet_quality":
        return tracklet_quality.evaluate_tracklets(gt, results, **own).to_dict()
    if metric == "hota" and is_tube_file(gt):
        tubes = {k: v for k, v in own.items() if k in ("min_score", "mask_field")}
        return hota.evaluate_hota_tubes(gt, results, **tubes).to_dict()
    if metric == "frame_ap" and is_bitmask_folder(results):
        raise ScoringError(
            f"{results}: bitmasks have no scores, by which frame AP ranks; give the results as "
            "Scalabel JSON."
        )
    tubes = {key: own.pop(key, None) for key in _TUBES}
    if is_tube_list(results) or is_tube_file(gt):
        gt, results, own = _as_frames(metric, gt, results, own, tubes)
    if metric in ("bdd_mots", "hota") and is_bitmask_folder(gt):
        return _bitmask(metric, str(gt), str(results), own.get("config"))
    if metric == "bdd_mots":
        return clear_mot.evaluate_mots(gt, results, **own).to_dict()
    if metric == "hota":
        return hota.evaluate_hota(gt, results, **own).to_dict()
    return frame_ap.evaluate_frame_ap(gt, results, **own).to_dict()


def _as_frames(
    metric: str, gt: Source, results: Source, own: dict[str, Any], tubes: dict[str, Any]
) -> tuple[Source, Source, dict[str, Any]]:
    """Both sides, and the options, once tubes are Scalabel content."""
    if is_tube_file(gt):
        truth = read_tube_truth(gt, tubes["mask_field"] or "auto")
    else:
        truth = read_truth(gt, own.get("config"))
    known = None
    if tubes["categories"] is not None:
        known = categories_of(tubes["categories"], truth.config)
    frames = read_results(results, truth, categories=known, min_score=tubes["min_score"])
    apart = not (metric == "frame_ap" and own.get("allow_overlap"))
    found = to_scalabel(frames, truth.config, without_overlaps=apart)
    everything = [frame for video in truth.videos.values() for frame in video]
    content = to_scalabel(everything, truth.config, without_overlaps=False)
    return content, found, own | {"config": truth.config}


def _bitmask(metric: str, gt: str, results: str, config: Any) -> dict[str, Any]:
    if metric == "bdd_mots":
        return clear_mot.evaluate_mots_bitmask(gt, results, config).to_dict()
    classes = load_config(config)
    return hota.evaluate_pairs(
        frame_pairs.pair_bitmasks(gt, results, classes), classes.classes
    ).to_dict()
