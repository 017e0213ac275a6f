"""A report to look at: one HTML file with everything inside, no scripts, no external resources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from cocoapi_hq import charts
from cocoapi_hq.attributes import AttributeScores, score_attributes
from cocoapi_hq.bootstrap import Comparison
from cocoapi_hq.charts import PALETTE, Bar, Line
from cocoapi_hq.errors import ERROR_TYPES, Detection, ErrorAnalysis, TargetTube, analyse_errors
from cocoapi_hq.filmstrip import EXTRA, MISSING, RIGHT, ImageReader, filmstrip
from cocoapi_hq.protocol import RECALL_POINTS
from cocoapi_hq.results import Results, TubeScores
from cocoapi_hq.tables import COLUMNS, FRACTIONS, format_number
from cocoapi_hq.ytvis_json import (
    Entries,
    GroundTruth,
    Source,
    annotation_id,
    open_ground_truth,
    open_list,
)

_TITLES = {
    "tube_mask": "Tube mask AP",
    "tube_boundary": "Tube boundary AP",
    "bdd_mots": "BDD100K MOTS",
    "hota": "HOTA",
    "frame_ap": "Frame mask AP",
    "tracklet_quality": "J&F and stability per tracklet",
}
_ERROR_TEXTS = {
    "duplicate": "a better-scored detection took the tube",
    "class": "right tube, wrong class",
    "temporal": "right masks, wrong linking: switches or fragments",
    "localisation": "right class, overlap too small",
    "both": "wrong class and overlap too small",
    "background": "no object there",
    "missed": "no detection points to the tube",
}
_WORST = 8
_MISTAKES = 4
_PER_VIDEO = 2
_MAX_CATEGORIES = 60

_STYLE = """
:root{--ink:#1d2430;--soft:#5b6472;--line:#e3e6eb;--card:#fff;--page:#f4f5f7;--blue:#2563a8}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.4px}
h2{font-size:20px;margin:0 0 4px;letter-spacing:-.2px}
h3{font-size:15px;margin:22px 0 8px;color:var(--soft);font-weight:600}
p{margin:0 0 12px;color:var(--soft);max-width:78ch}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:24px 28px;margin-top:20px}
.cards{display:flex;flex-wrap:wrap;gap:14px;margin-top:22px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 22px;
min-width:150px}
.card b{display:block;font-size:32px;line-height:1.15;letter-spacing:-.6px;
font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin:4px 0 18px}
th,td{padding:7px 12px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:13px}
th:first-child,td:first-child{text-align:left}
td.best{font-weight:700;color:var(--blue)}
svg{width:100%;height:auto;display:block;font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
.legend{display:flex;flex-wrap:wrap;gap:6px 20px;margin:6px 0 10px;color:var(--soft);font-size:13px}
.key{display:inline-flex;align-items:center;gap:7px}.key svg{display:inline-block}
.swatch{width:14px;height:14px;border-radius:4px;display:inline-block}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:10px 36px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:14px}
.strip{border-top:1px solid var(--line);padding:14px 0 10px}
.strip:first-of-type{border-top:0}
.strip .head{display:flex;flex-wrap:wrap;gap:4px 16px;align-items:baseline;margin-bottom:8px}
.strip .head b{font-size:15px}.strip .head span{color:var(--soft);font-size:13px}
.frames{display:grid;grid-template-columns:repeat(6,1fr);gap:6px}
figure{margin:0}figure img{width:100%;display:block;border-radius:6px;background:#eee}
figcaption{color:var(--soft);font-size:11px;text-align:center;margin-top:2px}
.tag{background:#eef2f8;color:var(--blue);border-radius:99px;padding:1px 10px;font-size:12px;
font-weight:600}
ul.notes{margin:6px 0 0;padding-left:20px;color:var(--soft)}
footer{color:var(--soft);font-size:13px;margin-top:26px}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


@dataclass(frozen=True)
class _File:
    """One result file and everything the report shows of it."""

    answer: Results
    color: str
    errors: dict[str, ErrorAnalysis]
    attributes: dict[str, list[AttributeScores]]


def build_report(
    gt: Source,
    results: Sequence[Source],
    answers: Sequence[Results],
    *,
    comparisons: Sequence[Comparison] = (),
    read_image: ImageReader | None = None,
    jobs: int = 1,
) -> str:
    """Build the page.

    Args:
        gt: the annotations that were scored against.
        results: the result files, in the order of ``answers``.
        answers: what :func:`cocoapi_hq.evaluate` gave for each.
        comparisons: bootstrap comparisons, one per metric.
        read_image: reader of the frames for filmstrips; None draws on a plain background.
        jobs: processes for the analyses.

    Returns:
        The text of an HTML file.

    Raises:
        ScoringError: a file has changed since it was scored and is broken now.
    """
    files = []
    for k, (source, answer) in enumerate(zip(results, answers, strict=True)):
        errors, attributes = {}, {}
        for metric, scores in answer.tubes.items():
            rules = scores.protocol
            errors[metric] = analyse_errors(gt, source, metric, protocol=rules, jobs=jobs)
            attributes[metric] = score_attributes(gt, source, metric, protocol=rules, jobs=jobs)
        files.append(_File(answer, PALETTE[k % len(PALETTE)], errors, attributes))
    body = [_header(gt, files), _summary(files)]
    tubes = list(answers[0].tubes)
    if tubes:
        body.append(_thresholds(files, tubes))
        if comparisons:
            body.append(_comparison(files, comparisons))
        body.append(_errors(files, tubes))
        body.append(_attributes(files, tubes))
        body.append(_precision_recall(files, tubes))
        body.append(_categories(files, tubes))
        body.append(_films(gt, results, files, tubes[-1], read_image))
    body.append(_notes(files, tubes))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Video instance segmentation: scores</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _section(title: str, text: str, *content: str) -> str:
    about = f"<p>{text}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{about}{''.join(content)}</section>"


def _name(source: Source) -> str:
    return Path(str(source)).name if isinstance(source, (str, Path)) else "ground truth"


def _header(gt: Source, files: Sequence[_File]) -> str:
    cards = []
    for file in files:
        for metric, scores in file.answer.tubes.items():
            value = format_number(metric, "AP", scores.stats["AP"])
            label = _TITLES[metric] + (f", {file.answer.name}" if len(files) > 1 else "")
            color = _series_color(files, file, metric, list(file.answer.tubes))
            cards.append(_card(value, label, color))
    facts = []
    if files[0].answer.tubes:
        scores = next(iter(files[0].answer.tubes.values()))
        tubes = int(scores.curves.positives[:, 0].sum())
        facts = [f"{len(scores.video_ids)} videos", f"{tubes} tubes", scores.protocol.about]
    names = ", ".join(f.answer.name for f in files)
    line = " · ".join([names, f"against {_name(gt)}", *facts])
    return (
        f"<h1>Video instance segmentation</h1><p>{escape(line)}</p>"
        f'<div class="cards">{"".join(cards)}</div>'
    )


def _card(value: str, label: str, color: str) -> str:
    return (
        f'<div class="card" style="border-top:4px solid {color}"><b>{escape(value)}</b>'
        f"<span>{escape(label)}</span></div>"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], best: set[tuple[int, int]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    lines = []
    for i, row in enumerate(rows):
        cells = [
            f"<td{' class=best' if (i, j) in best else ''}>{escape(cell)}</td>"
            for j, cell in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _summary(files: Sequence[_File]) -> str:
    blocks = []
    plain = [file.answer.to_dict() for file in files]
    for metric, columns in COLUMNS.items():
        numbers = [p.get(metric) for p in plain]
        present = [n for n in numbers if n is not None]
        if not present:
            continue
        keys = [
            k for k in (present[0] if metric in _TITLES else columns) if _is_number(present[0][k])
        ]
        rows, best = [], set()
        for file, own in zip(files, numbers, strict=True):
            shown = [format_number(metric, k, own.get(k)) if own else "-" for k in keys]
            rows.append([file.answer.name, *shown])
        if len(present) > 1:
            for j, key in enumerate(keys):
                best |= {(i, j + 1) for i in _winners(numbers, metric, key)}
        blocks.append(f"<h3>{escape(_TITLES[metric])}</h3>" + _table(["file", *keys], rows, best))
    return _section("Summary", "AP and AR in percent; “-” where nothing is defined.", *blocks)


_LOWER_IS_BETTER = {"FP", "FN", "IDSw", "ML", "FM", "PT"}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _winners(numbers: Sequence[dict[str, Any] | None], metric: str, key: str) -> list[int]:
    values = [None if n is None or not math.isfinite(n[key]) else float(n[key]) for n in numbers]
    lowest = -1.0 if metric in FRACTIONS else -math.inf  # undefined fractions are -1
    known = [v for v in values if v is not None and v > lowest]
    if not known or key in _LOWER_IS_BETTER:
        return []
    top = max(known)
    return [i for i, v in enumerate(values) if v == top] if min(known) < top else []


def _mean(values: Any) -> float:
    defined = values[values > -1]
    return float(defined.mean()) * 100 if defined.size else 0.0


def _thresholds(files: Sequence[_File], tubes: Sequence[str]) -> str:
    lines = []
    for file in files:
        for metric in tubes:
            scores = file.answer.tubes[metric]
            precision = scores.curves.precision[..., 0, -1]  # (Th, P, K)
            points = [
                (round(t, 2), _mean(precision[i])) for i, t in enumerate(scores.protocol.thresholds)
            ]
            label = _series_label(files, file, metric)
            lines.append(Line(label, points, _series_color(files, file, metric, tubes),
                              metric == "tube_boundary"))  # fmt: skip
    ticks = [x for x, _ in lines[0].points]
    if len(ticks) < 2:
        return ""
    chart = charts.line_chart(
        lines, title="AP against IoU threshold", x_label="IoU threshold", y_label="AP",
        x_ticks=ticks, width=960, height=340,
    )  # fmt: skip
    keys = charts.legend([(line.label, line.color, line.dashed) for line in lines])
    text = "How fast AP falls when tubes must fit more closely; a steep end means coarse contours."
    return _section("AP against IoU threshold", text, keys, chart)


def _series_label(files: Sequence[_File], file: _File, metric: str) -> str:
    return f"{file.answer.name}, {_TITLES[metric]}" if len(files) > 1 else _TITLES[metric]


def _series_color(files: Sequence[_File], file: _File, metric: str, tubes: Sequence[str]) -> str:
    return file.color if len(files) > 1 else PALETTE[list(tubes).index(metric)]


def _comparison(files: Sequence[_File], comparisons: Sequence[Comparison]) -> str:
    blocks = []
    for comparison in comparisons:
        rows = [
            (f.answer.name, 100 * i.value, 100 * i.low, 100 * i.high, f.color)
            for f, i in zip(files, comparison.intervals, strict=True)
            if i.value > -1
        ]
        if not rows:
            continue
        table = []
        for f, gap, wins in list(zip(files, comparison.differences, comparison.wins, strict=True))[
            1:
        ]:
            table.append(
                [
                    f.answer.name,
                    f"{100 * gap.value:+.1f}",
                    f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}",
                    f"{100 * wins:.0f}%",
                ]
            )
        header = [f"against {files[0].answer.name}", "difference", "95% interval", "better in"]
        blocks += [
            f"<h3>{escape(_TITLES[comparison.metric])}</h3>",
            charts.interval_chart(rows, title="AP with intervals", width=960),
            _table(header, table, set()),
        ]
    text = (
        "95% intervals from resampling videos. Differences are paired: every resample scores both "
        "files on the same videos, so a small difference can be sure where intervals overlap."
    )
    return _section("How sure is the order?", text, *blocks)


def _errors(files: Sequence[_File], tubes: Sequence[str]) -> str:
    limit = max(
        [5.0] + [100 * f.errors[m].gains[k] for f in files for m in tubes for k in ERROR_TYPES]
    )
    blocks = []
    for metric in tubes:
        rows = []
        for kind in ERROR_TYPES:
            bars = [
                Bar(
                    100 * f.errors[metric].gains[kind],
                    f"{100 * f.errors[metric].gains[kind]:+.1f}  ({f.errors[metric].counts[kind]})",
                    _series_color(files, f, metric, tubes),
                )
                for f in files
            ]
            rows.append((kind, bars))
        base = ", ".join(f"{100 * f.errors[metric].ap:.1f}" for f in files)
        title = f"{_TITLES[metric]}: AP50 is {base}"
        blocks.append(
            f"<div><h3>{escape(title)}</h3>"
            + charts.bar_chart(rows, title=f"Errors, {metric}", limit=limit, width=500)
            + "</div>"
        )
    meanings = "".join(f"<li><b>{k}</b>: {escape(v)}</li>" for k, v in _ERROR_TEXTS.items())
    text = (
        "AP50 that an oracle would win by mending one type of error alone, and how often the type "
        "occurs (in brackets). The numbers do not add up: mending one type uncovers others."
    )
    keys = _file_legend(files)
    grid = f'<div class="two">{"".join(blocks)}</div><ul class="notes">{meanings}</ul>'
    return _section("What costs AP", text, keys, grid)


def _file_legend(files: Sequence[_File]) -> str:
    if len(files) < 2:
        return ""
    return charts.legend([(f.answer.name, f.color, False) for f in files])


def _attributes(files: Sequence[_File], tubes: Sequence[str]) -> str:
    series = [(f, m) for f in files for m in tubes]
    groups = [row.group for row in files[0].attributes[tubes[0]]]
    blocks = []
    for attribute in dict.fromkeys(g.attribute for g in groups):
        rows = []
        for i, group in enumerate(groups):
            if group.attribute != attribute:
                continue
            count = files[0].attributes[tubes[0]][i].tubes
            bars = []
            for f, m in series:
                ap = f.attributes[m][i].ap
                color = _series_color(files, f, m, tubes)
                if len(files) > 1 and m == "tube_boundary":
                    color += "88"
                bars.append(
                    Bar(None, "-", color) if ap < 0 else Bar(100 * ap, f"{100 * ap:.1f}", color)
                )
            rows.append((f"{group.label} ({count})", bars))
        chart = charts.bar_chart(rows, title=attribute, limit=100, width=500)
        blocks.append(f"<div><h3>{escape(attribute)}</h3>{chart}</div>")
    keys = charts.legend(
        [
            (
                _series_label(files, f, m),
                _series_color(files, f, m, tubes)
                + ("88" if len(files) > 1 and m == "tube_boundary" else ""),
                False,
            )
            for f, m in series
        ]
    )
    text = (
        "AP of the tubes in each group, their number in brackets. Size: average area, bounds 128² "
        "and 256² pixels. Length: frames that show the object. Speed: IoU of the tube with itself "
        "one frame later, slow from 0.9, fast below 0.7. Occlusion: annotated score, else how much "
        "of the box the box of another object covers, bounds 0.05 and 0.4."
    )
    return _section("AP by kind of object", text, keys, f'<div class="two">{"".join(blocks)}</div>')


def _precision_recall(files: Sequence[_File], tubes: Sequence[str]) -> str:
    first = files[0].answer.tubes[tubes[0]]
    defined = [k for k in range(len(first.curves.categories)) if first.curves.positives[k, 0]]
    order = sorted(defined, key=lambda k: -int(first.curves.positives[k, 0]))[:_MAX_CATEGORIES]
    recall = [round(100 * r) for r in RECALL_POINTS]
    blocks, legend = [], ""
    for metric in tubes:
        cells = []
        for k in order:
            lines = _category_lines(files, metric, k, recall)
            label = first.category_label(first.curves.categories[k])
            ap = 100 * files[0].answer.tubes[metric].per_category[first.curves.categories[k]]["AP"]
            title = f"{label}  {ap:.1f}" if len(files) == 1 else label
            cells.append(
                charts.line_chart(lines, title=title, x_label="recall", y_label="precision",
                                  x_ticks=(0, 50, 100), width=200, height=150, small=True)
            )  # fmt: skip
            legend = charts.legend([(line.label, line.color, False) for line in lines])
        blocks.append(f'<h3>{escape(_TITLES[metric])}</h3><div class="grid">{"".join(cells)}</div>')
    text = "Precision over recall, classes with the most tubes first"
    text += ", at three IoU thresholds; the number is AP." if len(files) == 1 else ", at IoU 0.5."
    return _section("Precision and recall per class", text, legend, *blocks)


def _category_lines(
    files: Sequence[_File], metric: str, k: int, recall: Sequence[int]
) -> list[Line]:
    if len(files) > 1:
        picks = [(f.answer.tubes[metric], 0, f.answer.name, f.color) for f in files]
    else:
        scores = files[0].answer.tubes[metric]
        thresholds = np.array(scores.protocol.thresholds)
        wanted = dict.fromkeys(int(np.argmin(abs(thresholds - v))) for v in (0.5, 0.75, 0.9))
        picks = [(scores, t, f"IoU {thresholds[t]:.2f}", PALETTE[i]) for i, t in enumerate(wanted)]
    lines = []
    for scores, t, label, color in picks:
        precision = np.maximum(scores.curves.precision[t, :, k, 0, -1], 0)
        points = [(float(r), 100 * float(p)) for r, p in zip(recall, precision, strict=True)]
        lines.append(Line(label, _corners(points), color, marks=False))
    return lines


def _corners(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leave out points in the middle of flat stretches."""
    return [
        p
        for i, p in enumerate(points)
        if i in (0, len(points) - 1) or points[i - 1][1] != p[1] or points[i + 1][1] != p[1]
    ]


def _categories(files: Sequence[_File], tubes: Sequence[str]) -> str:
    blocks = []
    for metric in tubes:
        first = files[0].answer.tubes[metric]
        columns = ["AP", "AP50", "AP75", "AR1", "AR10"] if len(files) == 1 else ["AP"]
        columns = [c for c in columns if c in first.stats]
        header = ["class", "tubes"]
        header += columns if len(files) == 1 else [f.answer.name for f in files]
        rows = []
        for k, key in enumerate(first.curves.categories):
            shown = [
                format_number(metric, c, f.answer.tubes[metric].per_category[key][c])
                for f in files
                for c in columns
            ]
            count = int(first.curves.positives[k, 0])
            if count:
                rows.append([first.category_label(key), str(count), *shown])
        blocks.append(f"<div><h3>{escape(_TITLES[metric])}</h3>{_table(header, rows, set())}</div>")
    return _section("Every class", "", f'<div class="two">{"".join(blocks)}</div>')


# --- filmstrips -----------------------------------------------------------------------------------


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


def _films(
    gt: Source,
    results: Sequence[Source],
    files: Sequence[_File],
    metric: str,
    read_image: ImageReader | None,
) -> str:
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
        f"truth. Overlap is the {_TITLES[metric].removesuffix(' AP').lower()} score."
    )
    return _section("Filmstrips", text, f'<div class="legend">{swatches}</div>', *blocks)


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


def _notes(files: Sequence[_File], tubes: Sequence[str]) -> str:
    lines = [w for f in files for w in f.answer.warnings]
    if tubes:
        rules = files[0].answer.tubes[tubes[0]].protocol
        boundary = (
            "min(tube mask IoU, tube boundary IoU), as the released evaluator"
            if rules.boundary == "official"
            else "boundary intersections over boundary unions, Eq. 1 of arXiv:2207.14012"
        )
        low, high = rules.thresholds[0], rules.thresholds[-1]
        lines += [
            f"Protocol {rules.name}: IoU {low:.2f} to {high:.2f}, at most {rules.max_dets[-1]} "
            "detections per video and class, AP over 101 recall points.",
            f"Boundary score: {boundary}; width {100 * rules.dilation_ratio:g}% of the diagonal.",
        ]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<footer><b>Notes</b><ul class="notes">{items}</ul></footer>' if items else ""
