"""Objects of images against COCO annotations, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cocoapi_hq.io.tables import text_table
from vmt.data.datasets.coco import UNLABELLED_KEY, read_coco
from vmt.utils.errors import AnnotationError, ConfigError

#: Metric -> what pycocotools calls it, and the key of a result that it reads.
IMAGE_METRICS: Final = {"image_mask": ("segm", "segmentation"), "image_box": ("bbox", "bbox")}
#: In the order of pycocotools.
_NUMBERS: Final = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
#: Category of pycocotools where all count as one.
_ANY = -1
#: Numbers that the table shows.
_COLUMNS: Final = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


def check_metrics(metrics: Sequence[str], *, images: bool) -> None:
    """Do the metrics fit a set of images, or one of videos?

    Args:
        metrics: ``TEST.METRICS``.
        images: whether the set is one of images.

    Raises:
        ConfigError: one of the other kind is among them.
    """
    known = " and ".join(IMAGE_METRICS)
    for metric in metrics:
        if images and metric not in IMAGE_METRICS:
            raise ConfigError(
                f"TEST.METRICS has {metric!r}, a metric of videos; images are scored by {known}."
            )
        if not images and metric in IMAGE_METRICS:
            raise ConfigError(
                f"TEST.METRICS has {metric!r}, a metric of images; videos are scored by tube_mask "
                "and others, which vmt eval --help lists."
            )


def score_images(
    truth: Path, results: Path, metrics: Sequence[str], *, class_agnostic: bool = False
) -> tuple[dict[str, float], str]:
    """Score a result file of images.

    Args:
        truth: COCO instance annotations.
        results: a list of image_id, category_id, score, segmentation and perhaps bbox.
        metrics: of ``IMAGE_METRICS``; one whose key the results lack is left out.
        class_agnostic: all categories count as one.

    Returns:
        Numbers by ``metric/number``, fractions, -1 where undefined; and a table as text.

    Raises:
        AnnotationError: the annotations break their format.
        ConfigError: a metric that is none of images.
    """
    check_metrics(metrics, images=True)
    found = json.loads(results.read_text(encoding="utf-8"))
    silent = contextlib.redirect_stdout(io.StringIO())
    numbers: dict[str, float] = {}
    rows = []
    with silent:
        coco = _open(truth)
        for metric in metrics:
            kind, key = IMAGE_METRICS[metric]
            if found and key not in found[0]:
                continue
            values = _evaluate(coco, found, kind, key, class_agnostic)
            numbers |= {f"{metric}/{name}": value for name, value in values.items()}
            shown = ["-" if values[c] < 0 else f"{100 * values[c]:.1f}" for c in _COLUMNS]
            rows.append([metric, *shown])
    return numbers, text_table(["", *_COLUMNS], rows)


def _evaluate(
    coco: Any, found: Sequence[Mapping[str, Any]], kind: str, key: str, class_agnostic: bool
) -> dict[str, float]:
    if not found:
        return dict.fromkeys(_NUMBERS, 0.0)
    keys = ("image_id", "category_id", "score", key)  # areas are those of what is scored
    answers = coco.loadRes([{name: row[name] for name in keys} for row in found])
    scoring = COCOeval(coco, answers, kind)
    scoring.params.useCats = 0 if class_agnostic else 1
    scoring.evaluate()
    _forgive(scoring)
    scoring.accumulate()
    scoring.summarize()
    return dict(zip(_NUMBERS, map(float, scoring.stats), strict=True))


def _forgive(scoring: COCOeval) -> None:
    """No result is an error where its category is not labelled in full, as LVIS scores.

    Source: arXiv:1908.03195: what matches an object there counts, the rest is ignored.
    """
    for image in scoring.evalImgs:
        if image is None:
            continue
        unlabelled = scoring.cocoGt.imgs[image["image_id"]].get(UNLABELLED_KEY, [])
        if unlabelled and image["category_id"] in (_ANY, *unlabelled):
            image["dtIgnore"] = image["dtIgnore"] | (image["dtMatches"] == 0)


def _open(path: Path) -> Any:
    """Annotations with the fields that pycocotools needs and files may lack."""
    content = read_coco(path)
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    for place, row in enumerate(content["annotations"]):
        row.setdefault("iscrowd", 0)
        if "area" in row and "bbox" in row and "segmentation" in row:
            continue
        try:
            mask = coco.annToMask(row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise AnnotationError(
                f"{path}: annotations[{place}] cannot be scored: {type(error).__name__} {error}; "
                "give it a segmentation, an area and a bbox."
            ) from None
        row.setdefault("area", int(mask.sum()))
        row.setdefault("bbox", _box(mask))
    return coco


def _box(mask: Any) -> list[int]:
    """A mask as xywh; zeros without a pixel."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    if not len(rows):
        return [0, 0, 0, 0]
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
