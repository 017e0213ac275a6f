"""The records of scoring: one tube metric of one file, and everything that one call computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cocoapi_hq.io.tables import metric_tables
from cocoapi_hq.tubes.protocol import TubeProtocol
from cocoapi_hq.tubes.tube_ap import Cell, Curves


@dataclass
class TubeScores:
    """One tube metric of one result file.

    Attributes:
        metric: ``tube_mask`` or ``tube_boundary``.
        protocol: the rules.
        stats: AP, AP50, ... as fractions, -1 where undefined.
        per_category: category id -> the same numbers.
        per_video: video id -> the same numbers, each as if that video were the whole set.
        category_names: id -> name.
        curves: precision and recall.
        cells: matches of every video and category, for bootstrap and analysis.
        video_ids: all videos of the ground truth, ascending, those without tubes included.
    """

    metric: str
    protocol: TubeProtocol
    stats: dict[str, float]
    per_category: dict[int, dict[str, float]]
    per_video: dict[int, dict[str, float]]
    category_names: dict[int, str]
    curves: Curves
    cells: list[Cell]
    video_ids: list[int]

    def to_dict(self, per_category: bool = False, per_video: bool = False) -> dict[str, Any]:
        """Plain numbers; the optional parts are keyed by category name and by video id."""
        out: dict[str, Any] = dict(self.stats)
        if per_category:
            out["per_category"] = {
                self.category_label(key): row for key, row in self.per_category.items()
            }
        if per_video:
            out["per_video"] = {str(key): row for key, row in self.per_video.items()}
        return out

    def category_label(self, key: int) -> str:
        """Name of a category; with its id when another category has the same name."""
        name = self.category_names.get(key, "any")
        twice = list(self.category_names.values()).count(name) > 1
        return f"{name} ({key})" if twice else name


@dataclass
class Results:
    """Everything one call computed.

    Attributes:
        name: the result file.
        tubes: tube metrics by name.
        others: the metrics of :mod:`cocoapi_hq.mots.track_metrics`, plain numbers by name.
        warnings: what was dropped or read in an unusual way, one sentence each.
    """

    name: str
    tubes: dict[str, TubeScores] = field(default_factory=dict)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self, per_category: bool = False, per_video: bool = False) -> dict[str, Any]:
        """Metric -> numbers: AP and AR as fractions (-1 undefined), MOTS in percent."""
        out: dict[str, Any] = {
            name: scores.to_dict(per_category, per_video) for name, scores in self.tubes.items()
        }
        return {**out, **self.others}

    def table(self) -> str:
        """A compact table of all metrics, as text."""
        return metric_tables([(self.name, self.to_dict())])
