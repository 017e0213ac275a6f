"""The filmstrips of a report: the worst tracklets of a file and its most confident mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from cocoapi_hq.analysis.errors import Detection, ErrorAnalysis, TargetTube
from cocoapi_hq.io.fields import annotation_id
from cocoapi_hq.io.ytvis_json import Entries, GroundTruth, Source, open_ground_truth, open_list
from cocoapi_hq.report.filmstrip import EXTRA, MISSING, RIGHT, ImageReader, filmstrip
from cocoapi_hq.report.page import TITLES, ReportFile, section
from cocoapi_hq.results import TubeScores

_WORST = 8
_MISTAKES = 4
_PER_VIDEO = 2


class _Finder:
    """Masks of single tubes, read when they are drawn."""

    def __init__(self, truth: GroundTruth, results: Entries, mask_field: str) -> None:
        self.truth = truth
        self.results = results
        self.mask_field = mask_field
        self._rows: dict[int, list[int]] = {}
        for row, key in enumerate(truth.annotations.video_ids()):
            self._rows.setdefault(key, []).append(row)

    def target(self, video_id: int, annotation: int) -> list[Any] | None:
        """Masks of an annotation."""
        rows = self.truth.annotations.subset(self._rows.get(video_id, ()))
        for position, entry in zip(rows.positions.tolist(), rows.load(), strict=True):
            if annotation_id(entry, position, "annotation") == annotation:
                refined = entry.get("segmentations_refined")
                coarse = entry.get("segmentations")
                use_refined = refined is not None and self.mask_field != "segmentations"
                masks = refined if use_refined else coarse
                return list(masks) if masks is not None else None
        return None

    def result(self, position: int) -> list[Any] | None:
        """Masks of a result; None for position -1."""
        if position < 0:
            return None
        return list(self.results.subset([position]).load()[0]["segmentations"])


def _few_per_video(rows: Sequence[Any], limit: int) -> list[Any]:
    """The first rows, but not many of one video."""
    used: dict[int, int] = {}
    out = []
    for row in rows:
        used[row.video_id] = used.get(row.video_id, 0) + 1
        if used[row.video_id] <= _PER_VIDEO:
            out.append(row)
    return out[:limit]


def build_films(
    gt: Source,
    results: Sequence[Source],
    files: Sequence[ReportFile],
    metric: str,
    read_image: ImageReader | None,
) -> str:
    """The section of filmstrips; ``metric`` says by which scores tracklets are ranked."""
    truth = open_ground_truth(gt)
    blocks = []
    for source, file in zip(results, files, strict=True):
        scores = file.answer.tubes[metric]
        finder = _Finder(truth, open_list(source, "results"), scores.protocol.mask_field)
        analysis = file.errors[metric]
        worst = sorted(analysis.targets, key=lambda t: (t.best_score, t.video_id, t.annotation))
        shown = _few_per_video(worst, _WORST if len(files) == 1 else _MISTAKES)
        strips = [_target_strip(finder, analysis, scores, t, read_image) for t in shown]
        title = f"Worst tracklets of {file.answer.name}"
        blocks += [f"<h3>{escape(title)}</h3>", *strips]
        drawn = {t.best_result for t in shown}
        wrong = [d for d in analysis.detections if d.error and d.position not in drawn]
        wrong.sort(key=lambda d: (-d.score, d.video_id, d.position))
        strips = [
            _mistake_strip(finder, scores, d, read_image) for d in _few_per_video(wrong, _MISTAKES)
        ]
        if strips:
            title = f"Most confident mistakes of {file.answer.name}"
            blocks += [f"<h3>{escape(title)}</h3>", *strips]
    swatches = "".join(
        f'<span class="key"><span class="swatch" style="background:rgb{color}"></span>'
        f"{label}</span>"
        for color, label in ((RIGHT, "right"), (MISSING, "missing"), (EXTRA, "extra"))
    )
    text = (
        "Up to six frames of each tracklet, one crop for all of them; the white line is the ground "
        f"truth. Overlap is the {TITLES[metric].removesuffix(' AP').lower()} score."
    )
    return section("Filmstrips", text, f'<div class="legend">{swatches}</div>', *blocks)


def _target_strip(
    finder: _Finder,
    analysis: ErrorAnalysis,
    scores: TubeScores,
    tube: TargetTube,
    read_image: ImageReader | None,
) -> str:
    found = next((d for d in analysis.detections if d.position == tube.best_result), None)
    if tube.best_score <= 0:  # of its class there is nothing; perhaps something points to it
        own = [d for d in analysis.detections if d.target == tube.annotation and d.error]
        found = max(own, key=lambda d: d.overlap, default=None)
    facts = []
    if found is None:
        facts.append("no detection of its class")
    else:
        overlap = max(tube.best_score, found.overlap if tube.best_score <= 0 else 0.0)
        facts += [f"overlap {100 * overlap:.1f}%", f"score {found.score:.3f}"]
        if found.category != tube.category:
            facts.append(f"detected as {scores.category_label(found.category)}")
    tag = "missed" if tube.missed else ("" if found is None or not found.error else found.error)
    return _strip(
        finder,
        tube.video_id,
        scores.category_label(tube.category),
        tag,
        facts,
        finder.target(tube.video_id, tube.annotation),
        finder.result(-1 if found is None else found.position),
        read_image,
    )


def _mistake_strip(
    finder: _Finder, scores: TubeScores, detection: Detection, read_image: ImageReader | None
) -> str:
    target = None
    if detection.target is not None:
        target = finder.target(detection.video_id, detection.target)
    facts = [f"score {detection.score:.3f}", f"overlap {100 * detection.overlap:.1f}%"]
    if detection.target_category not in (None, detection.category):
        facts.append(f"truly {scores.category_label(detection.target_category or 0)}")
    if detection.switches:
        facts.append(f"{detection.switches} identity switches")
    return _strip(
        finder,
        detection.video_id,
        scores.category_label(detection.category),
        detection.error or "",
        facts,
        target,
        finder.result(detection.position),
        read_image,
    )


def _strip(
    finder: _Finder,
    video_id: int,
    label: str,
    tag: str,
    facts: Sequence[str],
    target: list[Any] | None,
    result: list[Any] | None,
    read_image: ImageReader | None,
) -> str:
    video = finder.truth.videos[video_id]
    folder = Path(video.file_names[0]).parent.as_posix() if video.file_names else ""
    place = f"video {video_id}" + (f" ({folder})" if folder not in ("", ".") else "")
    shown = "".join(f"<span>{escape(f)}</span>" for f in [place, *facts] if f)
    chip = f'<span class="tag">{escape(tag)}</span>' if tag else ""
    frames = "".join(
        f'<figure><img src="{data}" alt="frame {t}"><figcaption>frame {t}</figcaption></figure>'
        for t, data in filmstrip(video, target, result, read_image)
    )
    return (
        f'<div class="strip"><div class="head"><b>{escape(label)}</b>{chip}{shown}</div>'
        f'<div class="frames">{frames}</div></div>'
    )
