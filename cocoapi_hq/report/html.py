"""A report to look at: one HTML file with everything inside, no scripts, no external resources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from cocoapi_hq.analysis.attributes import score_attributes
from cocoapi_hq.analysis.bootstrap import Comparison
from cocoapi_hq.analysis.errors import ERROR_TYPES, analyse_errors
from cocoapi_hq.io.tables import COLUMNS, FRACTIONS, format_number
from cocoapi_hq.io.ytvis_json import Source
from cocoapi_hq.report import charts
from cocoapi_hq.report.charts import PALETTE, Bar, Line
from cocoapi_hq.report.films import build_films
from cocoapi_hq.report.filmstrip import ImageReader
from cocoapi_hq.report.page import STYLE, TITLES, ReportFile, section
from cocoapi_hq.results import Results
from cocoapi_hq.tubes.protocol import RECALL_POINTS

_ERROR_TEXTS = {
    "duplicate": "a better-scored detection took the tube",
    "class": "right tube, wrong class",
    "temporal": "right masks, wrong linking: switches or fragments",
    "localisation": "right class, overlap too small",
    "both": "wrong class and overlap too small",
    "background": "no object there",
    "missed": "no detection points to the tube",
}
_MAX_CATEGORIES = 60


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
        files.append(ReportFile(answer, PALETTE[k % len(PALETTE)], errors, attributes))
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
        body.append(build_films(gt, results, files, tubes[-1], read_image))
    body.append(_notes(files, tubes))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Video instance segmentation: scores</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _name(source: Source) -> str:
    return Path(str(source)).name if isinstance(source, (str, Path)) else "ground truth"


def _header(gt: Source, files: Sequence[ReportFile]) -> str:
    cards = []
    for file in files:
        for metric, scores in file.answer.tubes.items():
            value = format_number(metric, "AP", scores.stats["AP"])
            label = TITLES[metric] + (f", {file.answer.name}" if len(files) > 1 else "")
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


def _summary(files: Sequence[ReportFile]) -> str:
    blocks = []
    plain = [file.answer.to_dict() for file in files]
    for metric, columns in COLUMNS.items():
        numbers = [p.get(metric) for p in plain]
        present = [n for n in numbers if n is not None]
        if not present:
            continue
        keys = [
            k for k in (present[0] if metric in TITLES else columns) if _is_number(present[0][k])
        ]
        rows, best = [], set()
        for file, own in zip(files, numbers, strict=True):
            shown = [format_number(metric, k, own.get(k)) if own else "-" for k in keys]
            rows.append([file.answer.name, *shown])
        if len(present) > 1:
            for j, key in enumerate(keys):
                best |= {(i, j + 1) for i in _winners(numbers, metric, key)}
        blocks.append(f"<h3>{escape(TITLES[metric])}</h3>" + _table(["file", *keys], rows, best))
    return section("Summary", "AP and AR in percent; “-” where nothing is defined.", *blocks)


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


def _thresholds(files: Sequence[ReportFile], tubes: Sequence[str]) -> str:
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
    return section("AP against IoU threshold", text, keys, chart)


def _series_label(files: Sequence[ReportFile], file: ReportFile, metric: str) -> str:
    return f"{file.answer.name}, {TITLES[metric]}" if len(files) > 1 else TITLES[metric]


def _series_color(
    files: Sequence[ReportFile], file: ReportFile, metric: str, tubes: Sequence[str]
) -> str:
    return file.color if len(files) > 1 else PALETTE[list(tubes).index(metric)]


def _comparison(files: Sequence[ReportFile], comparisons: Sequence[Comparison]) -> str:
    blocks = []
    for comparison in comparisons:
        rows = [
            (f.answer.name, 100 * i.value, 100 * i.low, 100 * i.high, f.color)
            for f, i in zip(files, comparison.intervals, strict=True)
            if i.value > -1
        ]
        if not rows:
            continue
        others = zip(files[1:], comparison.differences[1:], comparison.wins[1:], strict=True)
        table = []
        for f, gap, wins in others:
            interval = f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}"
            change = f"{100 * gap.value:+.1f}"
            table.append([f.answer.name, change, interval, f"{100 * wins:.0f}%"])
        header = [f"against {files[0].answer.name}", "difference", "95% interval", "better in"]
        blocks += [
            f"<h3>{escape(TITLES[comparison.metric])}</h3>",
            charts.interval_chart(rows, title="AP with intervals", width=960),
            _table(header, table, set()),
        ]
    text = (
        "95% intervals from resampling videos. Differences are paired: every resample scores both "
        "files on the same videos, so a small difference can be sure where intervals overlap."
    )
    return section("How sure is the order?", text, *blocks)


def _errors(files: Sequence[ReportFile], tubes: Sequence[str]) -> str:
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
        title = f"{TITLES[metric]}: AP50 is {base}"
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
    names = [(f.answer.name, f.color, False) for f in files]
    keys = charts.legend(names) if len(files) > 1 else ""
    grid = f'<div class="two">{"".join(blocks)}</div><ul class="notes">{meanings}</ul>'
    return section("What costs AP", text, keys, grid)


def _attributes(files: Sequence[ReportFile], tubes: Sequence[str]) -> str:
    series = []
    for f in files:
        for m in tubes:
            faint = "88" if len(files) > 1 and m == "tube_boundary" else ""
            series.append((f, m, _series_color(files, f, m, tubes) + faint))
    groups = [row.group for row in files[0].attributes[tubes[0]]]
    blocks = []
    for attribute in dict.fromkeys(g.attribute for g in groups):
        rows = []
        for i, group in enumerate(groups):
            if group.attribute != attribute:
                continue
            count = files[0].attributes[tubes[0]][i].tubes
            bars = []
            for f, m, color in series:
                ap = f.attributes[m][i].ap
                bars.append(
                    Bar(None, "-", color) if ap < 0 else Bar(100 * ap, f"{100 * ap:.1f}", color)
                )
            rows.append((f"{group.label} ({count})", bars))
        chart = charts.bar_chart(rows, title=attribute, limit=100, width=500)
        blocks.append(f"<div><h3>{escape(attribute)}</h3>{chart}</div>")
    keys = charts.legend([(_series_label(files, f, m), color, False) for f, m, color in series])
    text = (
        "AP of the tubes in each group, their number in brackets. Size: average area, bounds 128² "
        "and 256² pixels. Length: frames that show the object. Speed: IoU of the tube with itself "
        "one frame later, slow from 0.9, fast below 0.7. Occlusion: annotated score, else how much "
        "of the box the box of another object covers, bounds 0.05 and 0.4."
    )
    return section("AP by kind of object", text, keys, f'<div class="two">{"".join(blocks)}</div>')


def _precision_recall(files: Sequence[ReportFile], tubes: Sequence[str]) -> str:
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
        blocks.append(f'<h3>{escape(TITLES[metric])}</h3><div class="grid">{"".join(cells)}</div>')
    text = "Precision over recall, classes with the most tubes first"
    text += ", at three IoU thresholds; the number is AP." if len(files) == 1 else ", at IoU 0.5."
    return section("Precision and recall per class", text, legend, *blocks)


def _category_lines(
    files: Sequence[ReportFile], metric: str, k: int, recall: Sequence[int]
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


def _categories(files: Sequence[ReportFile], tubes: Sequence[str]) -> str:
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
        blocks.append(f"<div><h3>{escape(TITLES[metric])}</h3>{_table(header, rows, set())}</div>")
    return section("Every class", "", f'<div class="two">{"".join(blocks)}</div>')


def _notes(files: Sequence[ReportFile], tubes: Sequence[str]) -> str:
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
