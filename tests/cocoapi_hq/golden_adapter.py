"""Our evaluators behind the one function that the golden data's ``check.py`` calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cocoapi_hq
from cocoapi_hq.mots import clear_mot, frame_ap
from cocoapi_hq.tubes import boundary

ROOT = Path(__file__).resolve().parents[2]
PROTOCOLS = {"ytvis": "ytvis_2019", "hq": "hq_ytvis", "ovis": "ovis"}


def tube_ap(gt: str, results: str, metric: str, protocol: str) -> dict[str, Any]:
    name = f"tube_{metric}"
    answer = cocoapi_hq.evaluate(gt, results, [name], protocol=PROTOCOLS[protocol])
    scores = answer.tubes[name]
    rows = [
        {
            "video_id": cell.video_id,
            "category_id": cell.category,
            "results": cell.results.tolist(),
            "annotations": cell.annotations.tolist(),
            "iou": cell.iou.tolist(),
        }
        for cell in scores.cells
    ]
    return {
        "stats": ordered_stats(scores.stats, protocol == "ovis"),
        "per_category": {str(key): row for key, row in scores.per_category.items()},
        "tube_iou": rows,
    }


def ordered_stats(stats: dict[str, float], ovis: bool) -> list[float]:
    """The numbers in the order of the original evaluators."""
    occlusions = ["light", "medium", "heavy"] if ovis else []
    keys = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    keys += ["AP" + o for o in occlusions] + ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    return [stats[k] for k in keys + ["AR" + o for o in occlusions]]


def boundary_unit(mask: dict[str, Any], dilation_ratio: float) -> dict[str, Any]:
    region = boundary.boundary_region(mask, dilation_ratio)
    return {"area": boundary.boundary_area(mask, dilation_ratio), "rle": region}


def mots_row(result: clear_mot.MotsResult) -> dict[str, Any]:
    rows = result.rows()
    names = {"MOTSA": "MOTA", "MOTSP": "MOTP", "IDF1": "IDF1"}
    out: dict[str, Any] = {}
    for key in next(iter(rows.values())):
        out[names.get(key, key)] = {row: numbers[key] for row, numbers in rows.items()}
    for key in names.values():
        out["m" + key] = out[key]["AVERAGE"]
    return out


def adapter(task: str, **inputs: Any) -> dict[str, Any]:
    if task == "tube_ap":
        return tube_ap(**inputs)
    if task == "boundary":
        return boundary_unit(**inputs)
    if task == "mots":
        return mots_row(clear_mot.evaluate_mots(**inputs))
    if task == "mots_bitmask":
        paths = inputs["gt_png"], inputs["results_png"]
        return mots_row(clear_mot.evaluate_mots_bitmask(*paths, inputs["config"]))
    if task == "frame_ap":
        return frame_ap.evaluate_frame_ap(**inputs).rows()
    raise NotImplementedError(task)
