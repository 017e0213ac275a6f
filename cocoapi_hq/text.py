"""Scores as text: the familiar COCO-style lines and a compact table for several result files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cocoapi_hq.protocol import TubeProtocol

if TYPE_CHECKING:
    from cocoapi_hq.bootstrap import Comparison
    from cocoapi_hq.errors import ErrorAnalysis
    from cocoapi_hq.evaluate import Results, TubeScores

#: Columns of the compact table per metric; the rest is in the JSON output.
COLUMNS: dict[str, tuple[str, ...]] = {
    "tube_mask": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10"),
    "tube_boundary": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10"),
    "bdd_mots": ("mMOTSA", "mMOTSP", "mIDF1", "IDSw", "FP", "FN", "MT", "PT", "ML"),
    "hota": ("HOTA", "DetA", "AssA", "LocA"),
    "tracklet_quality": ("J", "F", "JF", "boundary_iou", "stability"),
    "frame_ap": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"),
}
#: Metrics whose numbers are fractions; tables show them times 100.
FRACTIONS = ("tube_mask", "tube_boundary", "hota", "tracklet_quality")
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


def format_number(metric: str, key: str, value: object) -> str:
    """A number for a table: percent with one decimal, counts as they are, ``-`` if undefined."""
    if not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    if isinstance(value, int) and metric not in FRACTIONS:
        return str(value)
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if metric in FRACTIONS:
        return "-" if value < 0 else f"{100 * value:.1f}"
    return f"{value:.1f}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *[line(row) for row in rows]])


def results_table(results: Sequence[Results]) -> str:
    """One block per metric, one row per result file.

    Args:
        results: answers of :func:`cocoapi_hq.evaluate.evaluate`.

    Returns:
        Text; AP and AR times 100, ``-`` where undefined.
    """
    plain = [(r.name, r.to_dict()) for r in results]
    metrics = [m for m in COLUMNS if any(m in numbers for _, numbers in plain)]
    blocks = []
    for metric in metrics:
        present = [(name, numbers[metric]) for name, numbers in plain if metric in numbers]
        columns = [c for c in COLUMNS[metric] if any(c in numbers for _, numbers in present)]
        rows = [
            [name, *[format_number(metric, c, numbers.get(c)) for c in columns]]
            for name, numbers in present
        ]
        blocks.append(text_table([metric, *columns], rows))
    return "\n\n".join(blocks)


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
        comparison: answer of :func:`cocoapi_hq.bootstrap.compare`.
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
