"""Scores as text: the familiar COCO-style lines and a compact table for several result files."""

from __future__ import annotations

from collections.abc import Sequence

from cocoapi_hq.analysis.bootstrap import Comparison
from cocoapi_hq.analysis.errors import ErrorAnalysis
from cocoapi_hq.io.tables import COLUMNS, format_number, text_table
from cocoapi_hq.results import TubeScores
from cocoapi_hq.tubes.protocol import TubeProtocol

_AREA_NAMES = {"s": "small", "m": "medium", "l": "large"}


def coco_lines(scores: TubeScores) -> list[str]:
    """One line per number, as ``summarize()`` of COCO's tools prints them.

    Args:
        scores: one metric of one result file.

    Returns:
        Lines such as `` Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] =
        0.266``.
    """
    return [_coco_line(key, value, scores.protocol) for key, value in scores.stats.items()]


def _coco_line(key: str, value: float, protocol: TubeProtocol) -> str:
    recall = key.startswith("AR")
    low, high = protocol.thresholds[0], protocol.thresholds[-1]
    iou, part, dets = f"{low:.2f}:{high:.2f}", "area=   all", protocol.max_dets[-1]
    rest = key[2:]
    if recall and rest.isdigit():
        dets = int(rest)
    elif rest in ("50", "75"):
        iou = f"0.{rest}"
    elif rest:
        row = next(r for r in protocol.ranges if r.label == rest)
        kind = "area" if row.occlusion is None else "occlusion"
        part = f"{kind}={_AREA_NAMES.get(rest, rest):>6s}"
    title, short = ("Average Recall", "AR") if recall else ("Average Precision", "AP")
    return f" {title:<18} ({short}) @[ IoU={iou:<9} | {part} | maxDets={dets:>3d} ] = {value:0.3f}"


def category_table(scores: TubeScores) -> str:
    """One row per category, the same columns as the compact table."""
    columns = [c for c in COLUMNS[scores.metric] if c in scores.stats]
    rows = [
        [
            scores.category_label(key),
            *[format_number(scores.metric, c, numbers[c]) for c in columns],
        ]
        for key, numbers in scores.per_category.items()
    ]
    return text_table([f"{scores.metric} by category", *columns], rows)


def comparison_table(comparison: Comparison, names: Sequence[str]) -> str:
    """Bootstrap intervals of several files, times 100.

    Args:
        comparison: answer of :func:`cocoapi_hq.analysis.bootstrap.compare`.
        names: one per file.
    """
    rows = []
    for i, name in enumerate(names):
        value, gap = comparison.intervals[i], comparison.differences[i]
        if value.value <= -1:
            rows.append([name, "-", "-", "-", "-"])
            continue
        interval = f"[{100 * value.low:.1f}, {100 * value.high:.1f}]"
        change = f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
        wins = f"{100 * comparison.wins[i]:.0f}%"
        rows.append(
            [name, f"{100 * value.value:.1f}", interval, *(([change, wins]) if i else "--")]
        )
    header = [
        f"{comparison.metric} {comparison.key}",
        "value",
        "95% interval",
        "against the first",
        "better in",
    ]
    return text_table(header, rows)


def error_table(analyses: Sequence[ErrorAnalysis], names: Sequence[str]) -> str:
    """What each type of error costs, AP at the foreground bar times 100, counts in brackets.

    Args:
        analyses: one per file, of one metric.
        names: one per file.
    """
    first = analyses[0]
    rows = [
        [kind, *[f"{100 * a.gains[kind]:+.1f} ({a.counts[kind]})" for a in analyses]]
        for kind in first.counts
    ]
    base = [f"AP{100 * first.foreground:.0f}", *[f"{100 * a.ap:.1f}" for a in analyses]]
    return text_table([f"{first.metric} errors", *names], [base, *rows])
