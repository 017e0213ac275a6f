"""Result files against annotations, through the scoring package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cocoapi_hq
from vmt.utils.errors import scoring_errors


def score(
    truth: Path | Mapping[str, Any],
    results: Path,
    metrics: Sequence[str],
    protocol: str = "",
    class_agnostic: bool = False,
    **options: Any,
) -> tuple[dict[str, float], str]:
    """Score a result file.

    Args:
        truth: YouTube-VIS annotations, a file or its content.
        results: results.json.
        metrics: names from ``cocoapi_hq.METRICS``.
        protocol: rules; empty: by the fields of the annotations.
        class_agnostic: all categories count as one.
        **options: see ``cocoapi_hq.evaluate``.

    Returns:
        Numbers by ``metric/number``, AP as fractions, -1 where undefined; and a table as text.

    Raises:
        AnnotationError: a file breaks its format.
    """
    with scoring_errors():
        scores = cocoapi_hq.evaluate(
            str(truth) if isinstance(truth, Path) else dict(truth),
            str(results),
            metrics,
            protocol=protocol or None,
            class_agnostic=class_agnostic or None,
            **options,
        )
    flat = {
        f"{metric}/{name}": float(value)
        for metric, numbers in scores.to_dict().items()
        for name, value in numbers.items()
        if isinstance(value, int | float)
    }
    return flat, scores.table()
