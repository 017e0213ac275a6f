"""MOTS, HOTA, frame AP and tracklet quality behind one call, whatever kind of input they read."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from cocoapi_hq import frame_ap, hota, mots, tracklet_quality
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.listing import list_files, list_folders
from cocoapi_hq.mots_config import load_config
from cocoapi_hq.ytvis_json import Source, open_ground_truth

#: Options that each metric understands.
OPTIONS: dict[str, tuple[str, ...]] = {
    "bdd_mots": ("config", "fill_missing_frames"),
    "hota": ("config", "fill_missing_frames", "min_score", "mask_field"),
    "frame_ap": ("config", "allow_overlap"),
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


def evaluate_tracks(
    metric: str, gt: Source, results: Source, options: dict[str, Any]
) -> dict[str, Any]:
    """Score one of the metrics that are not tube AP.

    Args:
        metric: a key of :data:`OPTIONS`.
        gt: Scalabel JSON (file, folder, content), a bitmask folder, or, for ``hota`` and
            ``tracklet_quality``, YouTube-VIS JSON.
        results: the same kind.
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
    for key in ("min_score", "mask_field"):
        own.pop(key, None)
    if metric in ("bdd_mots", "hota") and is_bitmask_folder(gt):
        return _bitmask(metric, str(gt), str(results), own.get("config"))
    if metric == "bdd_mots":
        return mots.evaluate_mots(gt, results, **own).to_dict()
    if metric == "hota":
        return hota.evaluate_hota(gt, results, **own).to_dict()
    return frame_ap.evaluate_frame_ap(gt, results, **own).to_dict()


def _bitmask(metric: str, gt: str, results: str, config: Any) -> dict[str, Any]:
    if metric == "bdd_mots":
        return mots.evaluate_mots_bitmask(gt, results, config).to_dict()
    classes = load_config(config)
    return hota.evaluate_pairs(mots.pair_bitmasks(gt, results, classes), classes.classes).to_dict()
