"""Numbers as aligned text: which columns a metric shows, how a number looks, how a table is set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_TUBE_COLUMNS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APlight", "APmedium", "APheavy"),
    *("AR1", "AR10", "AR100"),
)
#: Columns of the compact table per metric; the rest is in the JSON output.
COLUMNS: dict[str, tuple[str, ...]] = {
    "tube_mask": _TUBE_COLUMNS,
    "tube_boundary": _TUBE_COLUMNS,
    "bdd_mots": ("mMOTSA", "mMOTSP", "mIDF1", "IDSw", "FP", "FN", "MT", "PT", "ML"),
    "hota": ("HOTA", "DetA", "AssA", "LocA"),
    "tracklet_quality": ("J", "F", "JF", "boundary_iou", "stability"),
    "frame_ap": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"),
}
#: Metrics whose numbers are fractions; tables show them times 100.
FRACTIONS = ("tube_mask", "tube_boundary", "hota", "tracklet_quality")


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


def metric_tables(files: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """One block per metric, one row per result file.

    Args:
        files: name of a result file and its numbers, metric -> key -> value, as
            ``Results.to_dict`` gives them.

    Returns:
        Text; AP and AR times 100, ``-`` where undefined.
    """
    metrics = [m for m in COLUMNS if any(m in numbers for _, numbers in files)]
    blocks = []
    for metric in metrics:
        present = [(name, numbers[metric]) for name, numbers in files if metric in numbers]
        columns = [c for c in COLUMNS[metric] if any(c in numbers for _, numbers in present)]
        rows = [
            [name, *[format_number(metric, c, numbers.get(c)) for c in columns]]
            for name, numbers in present
        ]
        blocks.append(text_table([metric, *columns], rows))
    return "\n\n".join(blocks)
