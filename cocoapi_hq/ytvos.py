"""The classes of the YouTube-VIS tools over this package, so that old scripts run as they are.

Change one import:

    from cocoapi_hq.ytvos import YTVOS, YTVOSeval

    gt = YTVOS("val.json")
    dt = gt.loadRes("results.json")
    evaluator = YTVOSeval(gt, dt, "segm")  # or "boundary"
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    print(evaluator.stats)

Methods and parameters keep the names of the originals (table ``_ORIGINAL_NAMES`` below); the
numbers are those of :func:`cocoapi_hq.evaluate`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.json_file import Json, read_json
from cocoapi_hq.io.ytvis_json import (
    GroundTruth,
    MemoryEntries,
    Source,
    open_ground_truth,
    open_list,
)
from cocoapi_hq.report.text import coco_lines
from cocoapi_hq.results import TubeScores
from cocoapi_hq.scoring import collect
from cocoapi_hq.tubes import tube_ap
from cocoapi_hq.tubes.protocol import (
    IOU_THRESHOLDS,
    RECALL_POINTS,
    TubeProtocol,
    TubeRange,
    get_protocol,
)
from cocoapi_hq.tubes.shards import Job, map_videos, tasks_of

_METRIC_OF = {"segm": "tube_mask", "boundary": "tube_boundary"}
_RANGE_LABELS = {"all": "", "small": "s", "medium": "m", "large": "l"}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, set, np.ndarray)) else [value]


def _bind(names: tuple[str, ...], given: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
    """Arguments under the names of the originals, by place or by name; missing ones are ()."""
    unknown = sorted(set(named) - set(names))
    if unknown or len(given) > len(names):
        raise TypeError(f"unexpected argument {unknown or given!r}; there are {', '.join(names)}")
    bound = dict(zip(names, given, strict=False))
    return [named.get(name, bound.get(name, ())) for name in names]


def _load(source: Source) -> Json:
    if isinstance(source, (dict, list, tuple)):
        return source
    return read_json(Path(str(source)), Path(str(source)).name)


class YTVOS:
    """An annotation or result file with the look-ups of the YouTube-VIS tools.

    Attributes:
        dataset: the parsed file; of results, the ground truth's videos and categories with the
            entries numbered from 1.
        anns: annotation id -> annotation.
        cats: category id -> category.
        vids: video id -> video.
        results: the entries of a result file, None for ground truth.
    """

    def __init__(self, annotation_file: Source | None = None, **ignored: Any) -> None:
        """Read a file.

        Args:
            annotation_file: path or parsed object; None makes an empty set.
            **ignored: options of the HQ-YTVIS version (``get_boundary``, ``dilation_ratio``);
                boundaries need no preparation here.
        """
        empty: Json = {"videos": [], "categories": [], "annotations": []}
        self.dataset: Json = empty if annotation_file is None else _load(annotation_file)
        self.results: list[Json] | None = None
        self._index()

    def _index(self) -> None:
        open_ground_truth(self.dataset)  # refuses broken lists
        rows = [a for a in self.dataset["annotations"] if isinstance(a, dict) and "id" in a]
        self.anns: dict[int, Json] = {a["id"]: a for a in rows}
        self.cats: dict[int, Json] = {c["id"]: c for c in self.dataset["categories"]}
        self.vids: dict[int, Json] = {v["id"]: v for v in self.dataset["videos"]}

    def annotation_ids(self, *given: Any, **named: Any) -> list[int]:
        """Ids of annotations; arguments ``vidIds``, ``catIds``, ``areaRng``, ``iscrowd``.

        ``areaRng`` is (low, high) in pixels on the average area, exclusive as in the originals;
        an empty argument means all.
        """
        vids, cats, area, crowd = _bind(("vidIds", "catIds", "areaRng", "iscrowd"), given, named)
        videos, categories, bounds = _as_list(vids), _as_list(cats), _as_list(area)
        return [
            key
            for key, a in self.anns.items()
            if (not videos or a["video_id"] in videos)
            and (not categories or a["category_id"] in categories)
            and (not bounds or bounds[0] < _average(a.get("areas")) < bounds[1])
            and (crowd in ((), None) or a.get("iscrowd") == crowd)
        ]

    def category_ids(self, *given: Any, **named: Any) -> list[int]:
        """Ids of categories; arguments ``catNms``, ``supNms``, ``catIds``, empty means all."""
        names, parents, ids = map(_as_list, _bind(("catNms", "supNms", "catIds"), given, named))
        return [
            key
            for key, c in self.cats.items()
            if (not names or c.get("name") in names)
            and (not parents or c.get("supercategory") in parents)
            and (not ids or key in ids)
        ]

    def video_ids(self, *given: Any, **named: Any) -> list[int]:
        """Ids of videos; arguments ``vidIds``, ``catIds`` (videos that show all of them)."""
        ids, categories = map(_as_list, _bind(("vidIds", "catIds"), given, named))
        chosen = set(ids or self.vids)
        for category in categories:
            chosen &= {a["video_id"] for a in self.anns.values() if a["category_id"] == category}
        return [key for key in self.vids if key in chosen]

    def load_annotations(self, ids: Any = ()) -> list[Json]:
        """The annotations of some ids."""
        return [self.anns[i] for i in _as_list(ids)]

    def load_categories(self, ids: Any = ()) -> list[Json]:
        """The categories of some ids."""
        return [self.cats[i] for i in _as_list(ids)]

    def load_videos(self, ids: Any = ()) -> list[Json]:
        """The videos of some ids."""
        return [self.vids[i] for i in _as_list(ids)]

    def load_results(self, results: Source) -> YTVOS:
        """Read a result file for the videos and categories of this file.

        Args:
            results: path or parsed list.

        Returns:
            The results, entries numbered from 1.

        Raises:
            ScoringError: the top of the file is no list.
        """
        entries = open_list(_load(results), "results").load()
        out = YTVOS()
        out.results = entries
        out.dataset = {
            "videos": self.dataset["videos"],
            "categories": self.dataset["categories"],
            "annotations": [
                {**e, "id": i + 1, "iscrowd": 0}
                for i, e in enumerate(entries)
                if isinstance(e, dict)
            ],
        }
        out._index()
        return out

    def frame_rle(self, annotation: Json, frame: int) -> rle.Rle | None:
        """The mask of one frame as compressed run lengths; None where there is none."""
        mask = annotation["segmentations"][frame]
        video = self.vids[annotation["video_id"]]
        where = f"segmentations[{frame}]"
        if rle.is_absent(mask):
            return None
        return rle.validate(mask, where, (video["height"], video["width"]))

    def frame_mask(self, annotation: Json, frame: int) -> npt.NDArray[np.bool_] | None:
        """The mask of one frame as (H, W) bool; None where there is none."""
        mask = self.frame_rle(annotation, frame)
        return None if mask is None else rle.decode(mask)


def _average(areas: list[float | None] | None) -> float:
    shown = [a for a in areas or () if a]
    return sum(shown) / len(shown) if shown else 0.0


class Params:
    """Parameters under the names of the originals; plain attributes, free to be changed.

    ``vidIds``, ``catIds``: what is scored. ``iouThrs``: (Th,) thresholds. ``recThrs``: the 101
    recall points (fixed). ``maxDets``: detections per video and class. ``areaRng``,
    ``areaRngLbl``: ranges of the average area in pixels and their names. ``useCats``: 0 scores all
    categories as one. ``iouType``: ``segm`` or ``boundary``.
    """

    def __init__(self, iou_type: str = "segm") -> None:
        if iou_type not in _METRIC_OF:
            raise ScoringError(f"iouType is {iou_type!r}; choose one of {', '.join(_METRIC_OF)}.")
        self.vidIds: list[int] = []
        self.catIds: list[int] = []
        self.iouThrs: Any = np.array(IOU_THRESHOLDS)
        self.recThrs: Any = RECALL_POINTS.copy()
        self.maxDets: list[int] = [1, 10, 100]
        self.areaRng: list[list[float]] = [
            [0, 1e10], [0, 128**2], [128**2, 256**2], [256**2, 1e10]
        ]  # fmt: skip
        self.areaRngLbl: list[str] = list(_RANGE_LABELS)
        self.useCats: int = 1
        self.iouType: str = iou_type

    def to_protocol(self) -> TubeProtocol:
        """The rules these parameters ask for; ScoringError if they cannot be followed."""
        if not np.array_equal(self.recThrs, RECALL_POINTS):
            raise ScoringError("recThrs must be linspace(0, 1, 101); no other grid is supported.")
        if len(self.areaRng) != len(self.areaRngLbl):
            raise ScoringError("areaRng and areaRngLbl must have the same length.")
        ranges = tuple(
            TubeRange(_RANGE_LABELS.get(label, label), area=(float(low), float(high)))
            for (low, high), label in zip(self.areaRng, self.areaRngLbl, strict=True)
        )
        return replace(
            get_protocol("hq_ytvis"),
            thresholds=tuple(float(t) for t in self.iouThrs),
            ranges=ranges,
            max_dets=tuple(sorted(self.maxDets)),
            class_agnostic=not self.useCats,
        )


class YTVOSeval:
    """``evaluate()``, ``accumulate()``, ``summarize()`` over this package.

    Attributes:
        params: see :class:`Params`; change them before ``evaluate()``.
        eval: after ``accumulate()``: ``precision`` (Th, 101, K, A, M), ``recall`` (Th, K, A, M),
            ``counts`` their sizes; -1 where there is no ground truth.
        stats: after ``summarize()``: (12,) fractions in the order of the originals.
        ious: after ``evaluate()``: (video id, category id) -> (D, G) scores, detections by score.
        scores: after ``accumulate()``: the same as ``cocoapi_hq.evaluate`` gives.
    """

    def __init__(
        self,
        ground_truth: YTVOS,
        results: YTVOS | Source,
        iou_type: str = "segm",
        jobs: int = 1,
        **original: Any,
    ) -> None:
        """Take both sides.

        Args:
            ground_truth: annotations.
            results: results, or what ``loadRes`` reads.
            iou_type: ``segm`` or ``boundary``.
            jobs: processes.
            **original: ``iouType`` as in the originals.
        """
        kind = original.pop("iouType", iou_type)
        if original:
            raise TypeError(f"unexpected argument {sorted(original)[0]!r}")
        self.ground_truth = ground_truth
        self.results = results if isinstance(results, YTVOS) else ground_truth.load_results(results)
        self.jobs = jobs
        self.params = Params(kind)
        self.params.vidIds = sorted(ground_truth.vids)
        self.params.catIds = sorted(ground_truth.cats)
        self.eval: dict[str, Any] = {}
        self.stats: Any = []
        self.ious: dict[tuple[int, int], Any] = {}
        self.scores: TubeScores | None = None
        self._cells: list[tube_ap.Cell] | None = None

    def _truth(self) -> tuple[GroundTruth, MemoryEntries]:
        """Both sides cut to the videos and categories that the parameters name."""
        videos, categories = set(self.params.vidIds), set(self.params.catIds)
        truth = open_ground_truth(self.ground_truth.dataset)
        truth.videos = {k: v for k, v in truth.videos.items() if k in videos}
        truth.categories = {k: v for k, v in truth.categories.items() if k in categories}
        known = set(self.ground_truth.vids)
        truth.annotations = _only(truth.annotations.load(), videos, known, "ground truth")
        return truth, _only(self.results.results or [], videos, known, "results")

    def evaluate(self) -> None:
        """Match every video."""
        metric = _METRIC_OF[self.params.iouType]
        truth, entries = self._truth()
        job = Job(
            tube_ap.score_video,
            truth.categories,
            self.params.to_protocol(),
            {"metrics": (metric,)},
        )
        self._cells = [
            cell
            for video in map_videos(job, tasks_of(truth, entries), self.jobs)
            for cell in video.cells[metric]
        ]
        self.ious = {(cell.video_id, cell.category): cell.iou for cell in self._cells}

    def accumulate(self, params: Params | None = None) -> None:
        """Turn matches into precision and recall.

        Args:
            params: must be None or the parameters ``evaluate()`` ran with.

        Raises:
            ScoringError: ``evaluate()`` has not run, or other parameters are given.
        """
        if self._cells is None:
            raise ScoringError("run evaluate() before accumulate().")
        if params is not None and params is not self.params:
            raise ScoringError("accumulate() uses the parameters of evaluate(); change those.")
        truth, _ = self._truth()
        metric = _METRIC_OF[self.params.iouType]
        self.scores = collect(metric, self._cells, truth, self.params.to_protocol(), False)
        curves = self.scores.curves
        self.eval = {
            "params": self.params,
            "counts": list(curves.precision.shape),
            "precision": curves.precision,
            "recall": curves.recall,
        }

    def summarize(self) -> None:
        """Write the familiar lines to standard output and fill ``stats``."""
        if self.scores is None:
            raise ScoringError("run accumulate() before summarize().")
        sys.stdout.write("\n".join(coco_lines(self.scores)) + "\n")
        self.stats = np.array(list(self.scores.stats.values()))


def _only(items: list[Json], videos: set[int], known: set[int], name: str) -> MemoryEntries:
    """Entries of the wanted videos; those of videos nobody knows stay, to be refused."""
    entries = MemoryEntries(name, items)
    rows = [
        i
        for i, key in enumerate(entries.video_ids())
        if not isinstance(key, int) or key in videos or key not in known
    ]
    return entries.subset(rows)


#: What scripts written for the originals call -> what does it here.
_ORIGINAL_NAMES = {
    "getAnnIds": "annotation_ids",
    "getCatIds": "category_ids",
    "getVidIds": "video_ids",
    "loadAnns": "load_annotations",
    "loadCats": "load_categories",
    "loadVids": "load_videos",
    "loadRes": "load_results",
    "annToRLE": "frame_rle",
    "annToMask": "frame_mask",
}
for _old, _new in _ORIGINAL_NAMES.items():
    setattr(YTVOS, _old, getattr(YTVOS, _new))
