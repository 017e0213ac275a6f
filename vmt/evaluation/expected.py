"""Do the numbers of an evaluation meet what a config promises (TEST.EXPECTED_RESULTS)?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vmt.utils.errors import ConfigError


def unmet(expected: Sequence[Any], results: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Compare results with expectations.

    Args:
        expected: rows [data set, metric/number, value, tolerance].
        results: data set -> metric/number -> value.

    Returns:
        One sentence per row that does not hold; none when all is well.

    Raises:
        ConfigError: a row has another form.
    """
    sentences = []
    for row in expected:
        try:
            name, metric, value, tolerance = row
            low, high = float(value) - float(tolerance), float(value) + float(tolerance)
        except (TypeError, ValueError):
            raise ConfigError(
                f"TEST.EXPECTED_RESULTS: {row!r} must be [data set, metric/number, value, "
                "tolerance]."
            ) from None
        actual = results.get(name, {}).get(metric, math.nan)
        if not low <= actual <= high:
            sentences.append(
                f"{name}: {metric} is {actual:.4f}, expected {value} within {tolerance}."
            )
    return sentences
